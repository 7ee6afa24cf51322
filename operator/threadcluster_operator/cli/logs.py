"""`threadcluster logs`: the logs of a cluster's processes, here or on Kubernetes."""

import subprocess
import sys

import click

from threadcluster_operator.cli.completion import workers_here
from threadcluster_operator.cli.hints import did_you_mean
from threadcluster_operator.cli.target import LocalTarget
from threadcluster_operator.cli.target_options import Target, where, with_target
from threadcluster_operator.local.data_dir import DataDir

_LINES = "200"


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come.")
@click.argument("process", required=False, shell_complete=workers_here)
@with_target
def logs(target: Target, follow: bool, process: str | None) -> None:
    """Show the last lines of PROCESS (a worker; locally also `supervisor` or `postgres`), or of all workers.

    On Kubernetes kubectl shows them, with the context and namespace of this command.
    """
    if isinstance(target, LocalTarget):
        click.echo(where(target.place), err=True)
        command, environment = _tail(target.place, process, follow=follow), None
    else:
        from threadcluster_operator.cli.kubernetes.kubectl import logs_of

        command, environment = logs_of(target.options, process, _LINES, follow=follow)
    try:
        ended = subprocess.run(command, check=False, env=environment).returncode
    except KeyboardInterrupt:
        ended = 0  # the end of --follow
    sys.exit(ended if ended >= 0 else 128 - ended)


def _tail(place: DataDir, process: str | None, *, follow: bool) -> list[str]:
    paths = {path.stem: path for path in sorted(place.logs.glob("*.log"))} if place.logs.is_dir() else {}
    paths["postgres"] = place.postgres / "server.log"
    present = {name: path for name, path in paths.items() if path.exists()}
    if process is not None and process not in present:
        there = ", ".join(present) or "none"
        raise click.ClickException(f"no log of {process!r}; there are {there}{did_you_mean(process, present)}")
    wanted = (
        [present[process]] if process is not None else [path for name, path in present.items() if name != "postgres"]
    )
    if not wanted:
        raise click.ClickException(f"no log is in {place.logs}; `threadcluster local up` starts a cluster")
    return ["tail", "-n", _LINES, *(["-F"] if follow else []), *map(str, wanted)]
