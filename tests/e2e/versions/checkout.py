"""``python -m tests.e2e.versions.checkout [COMMIT]``: another commit of the project, in a folder with a ``.venv`` of its own.

Prints the folder, which `make versions` gives to `tests.e2e.versions.test_previous_commit` as ``PREVIOUS``.  The folder is
a git worktree under ``build/previous`` and is kept: a second call for the same commit finds it made.
"""

import subprocess
import sys
from pathlib import Path

import click

from tests.support.paths import ROOT

_FOLDER = ROOT / "build" / "previous"


def make_checkout(commit: str) -> Path:
    """The folder of a commit, made where it is not there yet."""
    named = _run(["git", "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"], ROOT)
    if named is None:
        raise click.ClickException(f"{commit}: no such commit in this repository")
    folder = _FOLDER / named[:12]
    if not folder.exists():
        _run(["git", "worktree", "prune"], ROOT)
        if _run(["git", "worktree", "add", "--quiet", "--detach", str(folder), named], ROOT) is None:
            raise click.ClickException(f"{commit}: git cannot check it out to {folder} (see above)")
    click.echo(f"{commit} is {named[:12]}", err=True)
    if _run([sys.executable, "tools/setup.py"], folder) is None:
        raise click.ClickException(f"{commit}: its environment cannot be made (see above)")
    return folder


def _run(command: list[str], folder: Path) -> str | None:
    """The output of a command; None when it fails, after its output was shown."""
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        click.echo(done.stdout, err=True, nl=False)
        return None
    return done.stdout.strip()


@click.command()
@click.argument("commit", default="HEAD~1")
def main(commit: str) -> None:
    """Make a checkout of COMMIT with its environment, and print its folder."""
    click.echo(make_checkout(commit))


if __name__ == "__main__":
    main(prog_name="python -m tests.e2e.versions.checkout")
