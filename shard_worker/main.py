"""The `shard-worker` program: its command line.

A command imports what it runs when it runs: the whole worker takes a second to import, which only `run` needs.
"""

import asyncio
import contextlib
import gc
import logging
import resource
import sys
from pathlib import Path
from typing import Final

import click
import msgspec

from shard_worker.contract_internal import DEFAULT_DRAIN_S, ENVIRONMENT_PREFIX, MigrationFailure
from shard_worker.database.claim import Claims
from shard_worker.database.session import DatabaseError
from shard_worker.database.tls import Tls, TlsMode
from shard_worker.database_options import claim_options, database_options, one_dsn
from shard_worker.export_command import export
from shard_worker.readmodel_commands import readmodel

log = logging.getLogger("shard_worker")

_YOUNG_OBJECTS: Final = 20_000
_MESSAGE_MOST: Final = 2_000
"""Characters of a termination message; a container's may have 4,096 bytes, and JSON escapes some."""


def _event_loop() -> asyncio.AbstractEventLoop:
    """Uvloop where it is to be had; the standard loop elsewhere."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _calm_collector() -> None:
    """Spare the garbage collector what never becomes garbage: the program itself, and requests under way.

    Everything that a request makes is freed by its reference count, so a young collection finds nothing, as often as
    it runs (`run` makes them rare); what was imported is taken out of the full ones.
    """
    gc.collect()
    gc.freeze()


def _open_more_files() -> None:
    """Raise the soft limit of open files to the hard one: the soft one is for programs that call ``select``."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a limit without an end cannot be taken everywhere
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="threadcluster")
def main() -> None:
    """One worker of a ThreadCluster: it owns shards of chat threads and serves them over HTTP.

    A worker takes all its settings from the environment; docs/configuration.md lists them.
    """


main.add_command(readmodel)
main.add_command(export)


@main.command()
def run() -> None:
    """Serve until SIGTERM, then give the shards up in order and end.

    Least environment: SHARD_WORKER_NAME, SHARD_WORKER_CLUSTER, SHARD_WORKER_DSN (or _DSN_FILE), SHARD_WORKER_SECRET (or
    _SECRET_FILE).  Exit codes: 0 left in order, 1 a fault, 2 settings refused.
    """
    gc.set_threshold(_YOUNG_OBJECTS, 20, 20)  # before the imports: they make much, and no garbage
    from shard_worker.logs import configure_logging
    from shard_worker.settings import InvalidSettings, load_settings
    from shard_worker.worker import WorkerFailed, run_worker

    try:
        settings = load_settings()
    except InvalidSettings as error:
        raise click.UsageError(str(error)) from error
    configure_logging(settings.log_level, settings.log_format)
    _calm_collector()
    _open_more_files()
    try:
        with asyncio.Runner(loop_factory=_event_loop) as runner:
            runner.run(run_worker(settings))
    except (WorkerFailed, DatabaseError, InvalidSettings, OSError) as error:
        log.critical("the worker cannot go on", extra={"cause": str(error)})
        sys.exit(1)


@main.command()
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="The worker's management port"
    f" [default: {ENVIRONMENT_PREFIX}MANAGEMENT_PORT, else 8081, at {ENVIRONMENT_PREFIX}BIND, else 127.0.0.1].",
)
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    envvar=f"{ENVIRONMENT_PREFIX}DRAIN_SECONDS",
    type=click.FloatRange(0, 3600),
    default=DEFAULT_DRAIN_S,
    show_default=True,
    help=f"How long to wait until it owns nothing; {ENVIRONMENT_PREFIX}DRAIN_SECONDS is taken where it is set.",
)
@click.option(
    "--at-least",
    "at_least_s",
    metavar="SECONDS",
    type=click.FloatRange(0, 3600),
    default=0.0,
    help="How long to wait at least, while the worker still answers: load balancers take a while to send nothing more.",
)
@click.option("--bind", envvar=f"{ENVIRONMENT_PREFIX}BIND", hidden=True, default="127.0.0.1")
@click.option(
    "--port", envvar=f"{ENVIRONMENT_PREFIX}MANAGEMENT_PORT", hidden=True, type=click.IntRange(0, 65535), default=8081
)
@click.option("--secret", envvar=f"{ENVIRONMENT_PREFIX}SECRET", hidden=True)
@click.option(
    "--secret-file",
    envvar=f"{ENVIRONMENT_PREFIX}SECRET_FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"A file with the cluster's secret [default: {ENVIRONMENT_PREFIX}SECRET_FILE, or {ENVIRONMENT_PREFIX}SECRET itself].",
)
def leave(
    address: str | None,
    timeout_s: float,
    at_least_s: float,
    bind: str,
    port: int,
    secret: str | None,
    secret_file: Path | None,
) -> None:
    """Have the worker of this pod hand its shards over, and wait until it owns nothing.

    This is what a preStop hook calls: run in the worker's own environment it needs no options.  The worker goes on
    forwarding requests until it is sent SIGTERM, which is what follows the hook.  It does not change its mind; asking
    twice does no harm.

    \b
    lifecycle:
      preStop:
        exec: {command: [shard-worker, leave]}

    Exit codes: 0 it owns nothing, 1 it still owns shards when the time is over, or no worker answers, 2 wrong options.
    """  # noqa: D301 - click takes \b for a block to leave as it is
    from shard_worker.contract_tls import parse_secrets
    from shard_worker.leave_client import LeaveFailed
    from shard_worker.leave_client import leave as ask_to_leave

    host, port = (bind, port) if address is None else _host_and_port(address)
    if port == 0:
        raise click.UsageError(
            f"give --address: {ENVIRONMENT_PREFIX}MANAGEMENT_PORT is 0, so the worker chose a port by itself"
        )
    if (secret is None) == (secret_file is None):
        raise click.UsageError(
            f"set exactly one of {ENVIRONMENT_PREFIX}SECRET and {ENVIRONMENT_PREFIX}SECRET_FILE (or --secret-file)"
        )
    try:
        known = parse_secrets(secret.encode() if secret is not None else Path(str(secret_file)).read_bytes())
    except (OSError, ValueError) as error:
        raise click.UsageError(f"the secret {error}" if secret_file is None else f"{secret_file}: {error}") from error
    host = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host  # noqa: S104 - it is replaced, not bound
    try:
        ask_to_leave(host, port, known, timeout_s=timeout_s, at_least_s=at_least_s, say=click.echo)
    except LeaveFailed as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.option(
    "--secret-file",
    envvar=f"{ENVIRONMENT_PREFIX}SECRET_FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help=f"A file with the cluster's secret [default: {ENVIRONMENT_PREFIX}SECRET_FILE].",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The folder to write ca.pem and client.pem to; it is made if it is not there.",
)
def certificate(secret_file: Path, output: Path) -> None:
    """Make a client certificate for /internal/v1, for curl and its like; and show the secrets' fingerprints.

    client.pem holds a private key: its holder may do all that the internal API does until the secret is rotated.
    """
    from shard_worker.contract_tls import fingerprint, internal_client_leaf, parse_secrets

    try:
        secrets = parse_secrets(secret_file.read_bytes())
        authorities, leaf = internal_client_leaf(secrets)
        output.mkdir(parents=True, exist_ok=True, mode=0o700)
        (output / "ca.pem").write_text(authorities)
        client = output / "client.pem"
        client.unlink(missing_ok=True)
        client.touch(mode=0o600, exist_ok=False)
        client.write_bytes(leaf.certificate + leaf.key)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{secret_file}: {error}") from error
    click.echo("\n".join(fingerprint(secret) for secret in secrets))


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise click.UsageError(f"--address: {address!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


@main.command()
@database_options("make tables")
@claim_options
@click.option(
    "--shards",
    envvar=f"{ENVIRONMENT_PREFIX}SHARDS",
    type=click.IntRange(1, 4096),
    default=144,
    show_default=True,
    help="How many shards a new database gets; never changes afterwards.",
)
@click.option(
    "--termination-file",
    envvar=f"{ENVIRONMENT_PREFIX}TERMINATION_FILE",
    type=click.Path(path_type=Path),
    help="Where to write, as JSON, why it failed: a container's termination message.",
)
def migrate(
    dsn: str | None,
    dsn_file: Path | None,
    tls: TlsMode | None,
    ca_file: Path | None,
    claims: Claims,
    shards: int,
    termination_file: Path | None,
) -> None:
    """Bring the database's schema to this release; safe to run twice, and twice at once.

    A database that does not answer fails the command within seconds; the caller tries again.
    """
    from shard_worker.database.migration import migrate as run_migrations

    where, reached = one_dsn(dsn, dsn_file), Tls(tls, ca_file)
    migrating = run_migrations(
        where,
        cluster_id=claims.claimant.cluster_id,
        shards=shards,
        say=click.echo,
        tls=reached,
        claimant=claims.claimant,
        take_over=claims.take_over,
    )
    try:
        ran = asyncio.run(migrating)
    except DatabaseError as error:
        if termination_file is not None:
            termination_file.write_text(_termination_message(error))
        raise click.ClickException(str(error)) from error
    click.echo(f"schema is current ({len(ran)} steps run)")


def _termination_message(error: DatabaseError) -> str:
    return msgspec.json.encode(MigrationFailure(error.fault, str(error)[:_MESSAGE_MOST])).decode()


@main.command()
@database_options("read, nothing more")
@click.option(
    "--since",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Go on from what earlier checks proved, as recorded in FILE, and record there what this run proves.",
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def fsck(
    dsn: str | None,
    dsn_file: Path | None,
    tls: TlsMode | None,
    ca_file: Path | None,
    since: Path | None,
    output: str,
) -> None:
    """Prove the journal from itself, also while workers write to it; changes nothing.

    Reads shard by shard in transactions of less than a second, so that it holds up neither vacuum nor a migration.
    Names each finding on a line.  Exit codes: 0 clean, 1 something was found, 3 it could not be checked.

    \b
    Every night all that is new, and from time to time everything:
      shard-worker fsck --since /var/lib/fsck.json
      shard-worker fsck

    With --since a shard that was proved is read from there on, and a thread that has later events is read whole.  A
    thread without later events is not read again: damage that was done to it since is found by a check of everything.
    A shard in which something is found stays where it was, and is found again.  FILE need not be there yet, and is
    written after each shard, so a check that was ended goes on with the next one.
    """  # noqa: D301 - click takes \b for a block to leave as it is
    from shard_worker.journal.fsck.run import fsck as check_journal

    where, reached = one_dsn(dsn, dsn_file), Tls(tls, ca_file)
    try:
        report = asyncio.run(
            check_journal(where, tls=reached, progress=lambda sentence: click.echo(sentence, err=True), since=since)
        )
    except DatabaseError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(3)
    click.echo(report.to_json() if output == "json" else "\n".join(report.lines()))
    sys.exit(0 if report.clean else 1)


if __name__ == "__main__":
    main()
