"""Completion of the shell: `threadcluster completion SHELL`, the names it knows, and what kubectl asks of its plugin."""

import os
from collections.abc import Sequence

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from threadcluster_operator.cli.target import ClusterOptions, LocalTarget, NoTarget, Platform, resolve_target
from threadcluster_operator.local.data_dir import DataDir

_NO_FILES = ":4"
"""The last line of an answer to kubectl: it adds no names of files."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes commands, options and names of workers in SHELL.

    \b
    bash    source <(threadcluster completion bash)
    zsh     source <(threadcluster completion zsh)
    fish    threadcluster completion fish | source
    """  # noqa: D301 - click takes \b for a block to leave as it is
    root = click.get_current_context().find_root()
    made = get_completion_class(shell)
    assert made is not None  # one of the choices
    click.echo(made(root.command, {}, "threadcluster", "_THREADCLUSTER_COMPLETE").source())


def workers_here(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The workers of the local cluster that is meant; none on Kubernetes, which would be asked at each key."""
    place = _place(ctx)
    return [name for name in place.worker_ports() if name.startswith(incomplete)] if place is not None else []


def _place(ctx: click.Context) -> DataDir | None:
    given = {name: ctx.params.get(name) for name in ClusterOptions._fields}
    try:
        target = resolve_target(ClusterOptions(**given), ctx.find_object(Platform), os.environ)
    except (NoTarget, click.UsageError, OSError):
        return None  # a completion has no place for a sentence
    return target.place if isinstance(target, LocalTarget) else None


def answer_to_kubectl(program: click.Command, words: Sequence[str]) -> str:
    """The completions of a line of words, as `kubectl_complete-…` prints them."""
    *before, incomplete = words or [""]
    found = ShellComplete(program, {}, "kubectl threadcluster", "").get_completions(list(before), incomplete)
    return "\n".join([*map(_line, found), _NO_FILES])


def _line(item: CompletionItem) -> str:
    return f"{item.value}\t{item.help}" if item.help else str(item.value)
