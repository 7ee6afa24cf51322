"""`threadcluster local …`: a cluster on this machine, in one command.

A module that one command alone needs is imported by that command: `status` is run often, and takes half the time.
"""

import asyncio
import shutil
import time
from pathlib import Path

import click
from click.core import ParameterSource

from threadcluster_operator.cli.groups import Group
from threadcluster_operator.cli.inputs import read_input
from threadcluster_operator.cli.logs import logs
from threadcluster_operator.cli.status import status
from threadcluster_operator.cli.target import LocalTarget, Platform
from threadcluster_operator.cli.target_options import Target, where, with_target
from threadcluster_operator.local.control_client import ControlClient
from threadcluster_operator.local.data_dir import DataDir
from threadcluster_operator.local.errors import NotRunning

_DOWN_S = 60.0


@click.group(cls=Group)
@click.pass_context
def local(ctx: click.Context) -> None:
    """Run a cluster on this machine: worker processes instead of pods, and a Postgres of its own.

    \b
    threadcluster local up                    run the demo cluster in the foreground
    threadcluster local up -f my.yaml         run another one, or hand a running one its new resource
    threadcluster local down                  stop it; the data stays
    threadcluster status                      what runs, and who owns what
    """  # noqa: D301 - click takes \b for a block to leave as it is
    ctx.obj = Platform.LOCAL


local.add_command(status)
local.add_command(logs)


@local.command()
@click.option(
    "-f",
    "--file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="A ThreadCluster, and the Secrets it refers to; - is standard input.",
)
@click.option("--name", metavar="NAME", help="The cluster to go on with, instead of one from a file.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the cluster keeps everything [default: ./.threadcluster/<name>].",
)
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
    name: str | None,
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

    A running cluster keeps its port and its database: another one is refused, and `threadcluster local down` comes first.
    """
    from threadcluster_operator.cli.local_up import bring_up
    from threadcluster_operator.local.database_choice import DatabaseChoice

    given = click.get_current_context().get_parameter_source("database_url")
    source = "--database-url" if given is ParameterSource.COMMANDLINE else "THREADCLUSTER_DATABASE_URL"
    if database_url_file is not None:
        database_url, source = read_input(database_url_file).strip(), str(database_url_file)
    elif given is ParameterSource.COMMANDLINE and database_url is not None and _has_password(database_url):
        raise click.UsageError(
            "--database-url: its password is visible to every user of this machine; write the DSN to a file and give"
            " --database-url-file"
        )
    choice = DatabaseChoice(database_url, take_over, source)
    bring_up(file, (data_dir, name), port, choice, detach=detach)


def _has_password(dsn: str) -> bool:
    login, at, _ = dsn.partition("://")[2].rpartition("@")
    return (bool(at) and ":" in login) or "password=" in dsn


@local.command()
@click.option("--delete", is_flag=True, help="Delete the data directory too, with every thread in it; asks first.")
@click.option("--yes", is_flag=True, help="With --delete: do not ask.")
@with_target
def down(target: Target, delete: bool, yes: bool) -> None:
    """Stop the cluster in order and wait until it is down; the data stays, unless --delete is given."""
    assert isinstance(target, LocalTarget)  # the group is for local clusters alone
    place = target.place
    if yes and not delete:
        raise click.UsageError("--yes answers what --delete asks; give both")
    click.echo(where(place), err=True)
    if delete:
        _agree(place, yes=yes)
    _stop(place)
    if delete:
        shutil.rmtree(place.path)
        click.echo(f"deleted {place.path}")


def _agree(place: DataDir, *, yes: bool) -> None:
    """Refuse what is no data directory; ask before one is deleted."""
    if not place.is_data_dir():
        raise click.ClickException(f"{place.path} is no data directory of a cluster, and is not deleted")
    question = f"Delete {place.path}, with every thread of cluster {place.cluster_name() or place.path.name}?"
    if not place.postgres.is_dir():
        question = f"Delete {place.path}? The cluster's database is elsewhere, and stays."
    if not yes and not click.confirm(question):
        raise click.ClickException("nothing was deleted, and the cluster goes on as it was")


def _stop(place: DataDir) -> None:
    try:
        asyncio.run(ControlClient(place).down())
    except NotRunning as error:
        if place.is_locked():
            raise click.ClickException(str(error)) from error
        click.echo(str(error))
        return
    deadline = time.monotonic() + _DOWN_S
    while place.is_locked():
        if time.monotonic() > deadline:
            raise click.ClickException(
                f"the supervisor has not ended within {_DOWN_S:.0f} s; see `threadcluster logs supervisor`"
            )
        time.sleep(0.1)
    click.echo(f"down; the data stays in {place.path}")
