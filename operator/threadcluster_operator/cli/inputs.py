"""The texts that a command is given: in files, or by standard input as ``-``."""

import sys
from pathlib import Path

import click

from threadcluster_operator.cli.groups import os_sentence


def name_of(path: Path) -> str:
    """The name of an input, for messages."""
    return "standard input" if str(path) == "-" else str(path)


def read_input(path: Path) -> str:
    """The text of an input.  Raises `click.ClickException` for one that cannot be read, or is no text; shows none of it."""
    try:
        raw = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:  # a failure to read, unlike one to open, does not know the name
        raise click.ClickException(f"{name_of(path)}: {error.strerror or os_sentence(error)}") from error
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{name_of(path)}: not UTF-8 text, from byte {error.start} on") from None
