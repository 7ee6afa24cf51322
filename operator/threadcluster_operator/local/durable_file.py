"""Small files that survive a power loss whole, and are not believed blindly when they are read.

A write goes to a file beside, is flushed to the disk, and replaces the file in one step, which is flushed as well: after a
power loss the file has the text of before or the new one, never a part of it.  File systems that were not asked to flush
leave a file of the right name and no content; so every reader says what its text must look like, and treats anything else
as a file that is missing.
"""

import contextlib
import os
import re
from pathlib import Path
from typing import Final

_READ_MOST_BYTES: Final = 1 << 20
"""Bound of what is read of a small file; the greatest, a resource with its Secrets, may have as much in Kubernetes."""


def write_durably(path: Path, text: str) -> None:
    """Write a file that only this user may read.  Raises `OSError`."""
    fresh = path.with_name(path.name + ".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Flush the names in a folder, where the file system lets that be asked."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(fd)
    finally:
        os.close(fd)


def read_text(path: Path) -> str | None:
    """The text of a small file; None when the file is missing, unreadable, too long or not UTF-8."""
    try:
        with path.open("rb") as file:
            raw = file.read(_READ_MOST_BYTES + 1)
        return raw.decode() if len(raw) <= _READ_MOST_BYTES else None
    except (OSError, UnicodeDecodeError):
        return None


def read_matching(path: Path, pattern: re.Pattern[str]) -> str | None:
    """The text of a small file without white space around it; None when it is not what ``pattern`` matches as a whole."""
    text = read_text(path)
    return None if text is None or pattern.fullmatch(text.strip()) is None else text.strip()
