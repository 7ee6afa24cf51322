"""`threadcluster local …`: a cluster on this machine, in one command.

A module that one command alone needs is imported by that command: `status` is run often, and takes half the time.
"""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from threadcluster_operator.cli.table import table
from threadcluster_operator.local.control_client import ControlClient
from threadcluster_operator.local.data_dir import DataDir, resolve_data_dir
from threadcluster_operator.local.errors import NotRunning

_data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the cluster keeps everything [default: ./.threadcluster/<name>].",
)


@click.group()
def local() -> None:
    """Run a cluster on this machine: worker processes instead of pods, and a Postgres of its own.

    \b
    threadcluster local up                    run the demo cluster in the foreground
    threadcluster local up -f my.yaml         run another one, or hand a running one its new resource
    threadcluster local status                what runs, and who owns what
    threadcluster local down                  stop it; the data stays
    """  # noqa: D301 - click takes \b for a block to leave as it is


@local.command()
@click.option("-f", "--file", type=click.Path(path_type=Path), help="A ThreadCluster, and the Secrets it refers to.")
@_data_dir_option
@click.option("--port", type=click.IntRange(0, 65535), help="The public port [default: the resource's, else 8080].")
@click.option(
    "--database-url-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with the DSN of a Postgres to use instead of an embedded one; THREADCLUSTER_DATABASE_URL may have it too.",
)
@click.option(
    "--database-url",
    envvar="THREADCLUSTER_DATABASE_URL",
    help="The DSN itself. Other users of this machine see arguments, so one with a password is refused here.",
)
@click.option(
    "--take-over",
    metavar="UID",
    default="",
    help="Displace the cluster with this uid, which holds the database: its workers serve no more.",
)
@click.option("--detach", is_flag=True, help="Return when the cluster serves, and leave it running.")
def up(
    file: Path | None,
    data_dir: Path | None,
    port: int | None,
    database_url: str | None,
    database_url_file: Path | None,
    take_over: str,
    detach: bool,
) -> None:
    """Run a cluster, or hand a running one its new resource and wait until that holds.

    In the foreground Ctrl-C stops everything in order; a second one does not wait.  The data stays, and the next `up` on
    the same directory goes on with it: without -f as the cluster last was; with -f the file
    replaces that resource.  Pins made by `threadcluster pin` are kept in the database; a pin in the file wins.

    With fewer replicas the surplus workers are drained first, and each is stopped when it owns nothing.
    """
    from threadcluster_operator.cli.local_up import bring_up
    from threadcluster_operator.local.database_choice import DatabaseChoice

    given = click.get_current_context().get_parameter_source("database_url")
    if database_url_file is not None:
        database_url = database_url_file.read_text(encoding="utf-8", errors="replace").strip()
    elif given is ParameterSource.COMMANDLINE and database_url is not None and _has_password(database_url):
        raise click.UsageError(
            "--database-url: its password is visible to every user of this machine; write the DSN to a file and give"
            " --database-url-file"
        )
    bring_up(file, data_dir, port, DatabaseChoice(database_url, take_over), detach=detach)


def _has_password(dsn: str) -> bool:
    login, at, _ = dsn.partition("://")[2].rpartition("@")
    return (bool(at) and ":" in login) or "password=" in dsn


@local.command()
@_data_dir_option
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def status(data_dir: Path | None, output: str) -> None:
    """Show the processes, and the owner of each shard.  Exit code 3 when no supervisor lives on the data directory.

    A worker is ready, cordoned (it gets no more shards), draining (it keeps none), recovering (it does not serve all its
    shards yet), starting, silent (it does not answer), displaced (its database belongs to another cluster now), dead (it is
    restarted) or stopping.
    """
    place = DataDir(resolve_data_dir(data_dir, None))
    try:
        found = asyncio.run(ControlClient(place).status())
    except NotRunning as error:
        if output == "json":
            click.echo(json.dumps(_not_running(place), indent=2))
        click.echo(str(error), err=True)
        sys.exit(3)
    click.echo(json.dumps(found, indent=2) if output == "json" else _table(found))


@local.command()
@_data_dir_option
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come.")
@click.argument("process", required=False)
def logs(data_dir: Path | None, follow: bool, process: str | None) -> None:
    """Show the logs of PROCESS (a worker, `supervisor`, `postgres`), or of all workers."""
    place = DataDir(resolve_data_dir(data_dir, None))
    paths = {path.stem: path for path in sorted(place.logs.glob("*.log"))} if place.logs.is_dir() else {}
    paths["postgres"] = place.postgres / "server.log"
    if process is not None and process not in paths:
        raise click.ClickException(f"no log of {process!r}; there are {', '.join(paths) or 'none'}")
    wanted = [paths[process]] if process is not None else [path for name, path in paths.items() if name != "postgres"]
    present = [str(path) for path in wanted if path.exists()]
    if present:
        sys.exit(subprocess.run(["tail", "-n", "200", *(["-F"] if follow else []), *present], check=False).returncode)


@local.command()
@_data_dir_option
def down(data_dir: Path | None) -> None:
    """Stop the cluster in order and wait until it is down; the data stays."""
    place = DataDir(resolve_data_dir(data_dir, None))
    try:
        asyncio.run(ControlClient(place).down())
    except NotRunning as error:
        click.echo(str(error))
        return
    deadline = time.monotonic() + 60
    while place.is_locked():
        if time.monotonic() > deadline:
            raise click.ClickException(
                "the supervisor has not ended within 60 s; see `threadcluster local logs supervisor`"
            )
        time.sleep(0.1)
    click.echo(f"down; the data stays in {place.path}")


def _not_running(place: DataDir) -> dict[str, Any]:  # JSON
    from threadcluster_operator.api import InvalidResource, read_resources

    try:
        resources = read_resources(place.cluster_yaml)
    except InvalidResource:  # there is none, or it is damaged: `up` says so
        resources = None
    return {
        "name": resources.cluster.name if resources is not None else None,
        "ready": False,
        "url": None,
        "replicas": resources.cluster.spec.replicas if resources is not None else 0,
        "claimedByOther": None,
        "dataDir": str(place.path),
        "supervisor": {"pid": None},
        "postgres": {"pid": None, "dsn": None, "dataDir": str(place.postgres)},
        "workers": [],
    }


def _table(found: dict[str, Any]) -> str:  # JSON
    rows: list[tuple[object, ...]] = [("WORKER", "STATE", "PID", "SHARDS", "ADDRESS", "MANAGEMENT")]
    rows += [
        (
            worker["name"],
            worker["state"],
            worker["pid"],
            len(worker["shards"]),
            worker["address"],
            worker["managementAddress"],
        )
        for worker in found["workers"]
    ]
    state = "ready" if found["ready"] else "not ready"
    head = f"{found['name']}: {state}, {found['url']}, Postgres {found['postgres']['pid'] or 'elsewhere'}"
    claimed = found.get("claimedByOther")  # a supervisor of an earlier release does not say
    why = f"\nDatabaseClaimedByOther: {claimed}" if claimed else ""
    return f"{head}{why}\n\n{table(rows)}"
