"""The options by which a command line names a database; every command that opens one has the same."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, get_args

import click

from shard_worker.contract_internal import ENVIRONMENT_PREFIX, TAKE_OVER_VARIABLE, Variable
from shard_worker.database.claim import Claimant, Claims
from shard_worker.database.tls import TlsMode

Command = TypeVar("Command", bound=Callable[..., object])


def database_options(needs: str) -> Callable[[Command], Command]:
    """The options that say which database, and how it is reached; ``needs`` says what the login must be allowed."""
    options = (
        click.option(
            "--dsn", envvar=f"{ENVIRONMENT_PREFIX}DSN", help=f"Where Postgres is; the login needs to {needs}."
        ),
        click.option(
            "--dsn-file",
            envvar=f"{ENVIRONMENT_PREFIX}DSN_FILE",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="A file with the DSN.",
        ),
        click.option(
            "--tls",
            envvar=f"{ENVIRONMENT_PREFIX}DATABASE_TLS",
            type=click.Choice(get_args(TlsMode)),
            help="Whether TLS must be used, and how the server is verified [default: as the DSN says].",
        ),
        click.option(
            "--ca-file",
            envvar=f"{ENVIRONMENT_PREFIX}DATABASE_CA_FILE",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="The authorities whose certificate the server must show.",
        ),
    )

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def claim_options(command: Callable[..., object]) -> Callable[..., object]:
    """The options that say which cluster claims the database; the command gets them as ``claims``."""

    @functools.wraps(command)
    def run(
        cluster: str, cluster_uid: str, cluster_name: str, cluster_site: str, take_over: str, **others: object
    ) -> object:
        claims = Claims(Claimant(cluster, cluster_uid, cluster_name, cluster_site), take_over)
        return command(claims=claims, **others)

    options = (
        click.option("--cluster", envvar=Variable.CLUSTER, required=True, help="The cluster that claims the database."),
        click.option(
            "--cluster-uid",
            envvar=Variable.CLUSTER_UID,
            default="",
            help="The uid of the ThreadCluster, for the claim [default: the cluster's id alone claims].",
        ),
        click.option(
            "--cluster-name", envvar=Variable.CLUSTER_NAME, default="", help="Its namespace and name, for the claim."
        ),
        click.option(
            "--cluster-site",
            envvar=Variable.CLUSTER_SITE,
            default="",
            help="The uid of its Kubernetes cluster, for the claim.",
        ),
        click.option(
            "--take-over",
            envvar=TAKE_OVER_VARIABLE,
            default="",
            metavar="UID",
            help="Displace the cluster with this uid, which holds the database: its workers serve no more.",
        ),
    )
    wrapped: Callable[..., object] = run
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


def one_dsn(dsn: str | None, dsn_file: Path | None) -> str:
    """The DSN that was given, in one of the two ways."""
    if (dsn is None) == (dsn_file is None):
        raise click.UsageError("give exactly one of --dsn and --dsn-file")
    return dsn if dsn is not None else Path(str(dsn_file)).read_text().strip()
