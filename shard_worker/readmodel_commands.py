"""`shard-worker readmodel`: the read model's state, a rebuild beside the one in use, and its comparison with the journal.

A command imports what it runs when it runs, as in `shard_worker.main`.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from shard_worker.database.session import CONNECTION_ERRORS, DatabaseError
from shard_worker.database.tls import Tls, TlsMode
from shard_worker.database_options import database_options, one_dsn
from shard_worker.domain.ids import canonical, ulid_uuid

if TYPE_CHECKING:
    import asyncpg

_FOUND: Final = 1
_NOT_DONE: Final = 3
_REPAIR_S: Final = 30.0
"""How long a repair waits for the offset of the thread's shard, and may take: a batch holds it for milliseconds."""


_WAIT: Final = click.option(
    "--wait",
    "wait_s",
    metavar="SECONDS",
    type=click.FloatRange(0, 86_400),
    default=60.0,
    show_default=True,
    help="Give up when workers do not feed the tables for this long.",
)


@click.group()
def readmodel() -> None:
    """The read model: the tables from which lists over threads are answered."""


def _run(
    work: "Callable[[asyncpg.Connection], Coroutine[Any, Any, int]]",  # Any: a coroutine neither yields nor takes values
    dsn: str,
    tls: Tls,
) -> None:
    """Run ``work`` on a session of its own, and end with its exit code."""
    from shard_worker.database.session import open_connection
    from shard_worker.readmodel.tables import UnknownVersionError

    async def on_a_session() -> int:
        connection = await open_connection(dsn, "threadcluster-readmodel", statement_s=None, tls=tls)
        try:
            return await work(connection)
        finally:
            connection.terminate()

    try:
        code = asyncio.run(on_a_session())
    except (DatabaseError, UnknownVersionError, *CONNECTION_ERRORS) as error:
        click.echo(f"Error: {str(error) or repr(error)}", err=True)
        sys.exit(_NOT_DONE)
    sys.exit(code)


@readmodel.command()
@database_options("read, nothing more")
def status(dsn: str | None, dsn_file: Path | None, tls: TlsMode | None, ca_file: Path | None) -> None:
    """Show each generation: how far it is behind the journal, and the threads that have stopped in it."""
    from shard_worker.readmodel.status import read_status

    async def show(connection: "asyncpg.Connection") -> int:
        for line in await read_status(connection):
            click.echo(line)
        return 0

    _run(show, one_dsn(dsn, dsn_file), Tls(tls, ca_file))


def _change(
    work: "Callable[[asyncpg.Connection, Callable[[str], None]], Coroutine[Any, Any, object]]", dsn: str, tls: Tls
) -> None:  # Any: a coroutine neither yields nor takes values
    """Run ``work``, which changes the generations, and end with its exit code."""
    from shard_worker.readmodel.rebuild import RebuildFailed

    async def run(connection: "asyncpg.Connection") -> int:
        try:
            await work(connection, lambda sentence: click.echo(sentence, err=True))
        except RebuildFailed as error:
            click.echo(f"Error: {error}", err=True)
            return _NOT_DONE
        return 0

    _run(run, dsn, tls)


@readmodel.command()
@database_options("make tables")
@click.option("--keep-old", is_flag=True, help="Keep the tables in use until now, for a comparison by hand.")
@click.option(
    "--rate",
    metavar="EVENTS",
    type=click.IntRange(100, 10_000_000),
    help="Read at most this many events a second, all workers together. Without it, as many as they can beside their commands.",
)
@_WAIT
def rebuild(
    dsn: str | None,
    dsn_file: Path | None,
    tls: TlsMode | None,
    ca_file: Path | None,
    keep_old: bool,
    rate: int | None,
    wait_s: float,
) -> None:
    """Fill new tables from the journal while the old ones answer, then answer from the new ones.

    The workers project; this command makes the tables, shows the progress, and switches.  Ended at any moment, it goes on
    when it is run again.  When this release brings a new version of the read model, the old tables stay and are fed: a
    roll-back needs them (`switch`).  Exit codes: 0 switched, 3 not done.
    """
    from shard_worker.readmodel.rebuild import rebuild as run_rebuild

    _change(
        lambda connection, say: run_rebuild(connection, keep_old=keep_old, say=say, wait_s=wait_s, rate=rate),
        one_dsn(dsn, dsn_file),
        Tls(tls, ca_file),
    )


@readmodel.command()
@database_options("make tables")
@click.argument("generation", type=click.IntRange(1))
@_WAIT
def switch(
    dsn: str | None, dsn_file: Path | None, tls: TlsMode | None, ca_file: Path | None, generation: int, wait_s: float
) -> None:
    """Answer from another GENERATION that the workers feed: back to the old version, before an image is rolled back.

    Waits until it has every event of the one in use, and until every live worker feeds its version.  Exit codes: 0
    switched, 3 not done.
    """
    from shard_worker.readmodel.rebuild import switch as run_switch

    _change(
        lambda connection, say: run_switch(connection, generation, say, wait_s),
        one_dsn(dsn, dsn_file),
        Tls(tls, ca_file),
    )


@readmodel.command()
@database_options("remove tables")
@click.argument("generation", type=click.IntRange(1))
def drop(dsn: str | None, dsn_file: Path | None, tls: TlsMode | None, ca_file: Path | None, generation: int) -> None:
    """Remove the tables of a GENERATION that is not in use: after it no roll-back to its version is possible.

    Exit codes: 0 removed, 3 it is in use, or not there.
    """
    from shard_worker.readmodel.rebuild import drop as run_drop

    _change(lambda connection, _: run_drop(connection, generation), one_dsn(dsn, dsn_file), Tls(tls, ca_file))


@readmodel.command()
@database_options("read; with --repair, to write the read model")
@click.option("--repair", metavar="THREAD", help="Project this thread afresh, instead of comparing all.")
def verify(
    dsn: str | None, dsn_file: Path | None, tls: TlsMode | None, ca_file: Path | None, repair: str | None
) -> None:
    """Compare the tables in use with a fresh fold of the journal, also while workers write to both.

    Names each thread that differs on a line.  Exit codes: 0 all alike, 1 something differs, 3 it could not be compared.
    """
    from shard_worker.readmodel.verify import verify as compare

    thread_id = None if repair is None else canonical(repair)
    if repair is not None and thread_id is None:
        raise click.UsageError(f"--repair: {repair!r} is no thread id: 26 Crockford characters, the first at most 7")

    async def run(connection: "asyncpg.Connection") -> int:
        generation = await connection.fetchval("SELECT generation FROM readmodel_generation WHERE live")
        if thread_id is not None:
            return await _repair(connection, generation, thread_id)
        differing = 0
        async for difference in compare(connection, generation, say=lambda sentence: click.echo(sentence, err=True)):
            click.echo(str(difference))
            differing += 1
        return _FOUND if differing else 0

    _run(run, one_dsn(dsn, dsn_file), Tls(tls, ca_file))


async def _repair(connection: "asyncpg.Connection", generation: int, thread_id: str) -> int:
    """Project one thread afresh, once its shard's offset is free; the exit code."""
    from shard_worker.readmodel.verify import is_stored, repair

    thread = ulid_uuid(thread_id)
    if not await is_stored(connection, thread):
        click.echo(f"Error: the journal has no thread {thread_id}", err=True)
        return _NOT_DONE
    try:
        async with asyncio.timeout(_REPAIR_S):
            while not await repair(connection, generation, thread):
                await asyncio.sleep(0.05)
    except TimeoutError:
        click.echo(f"Error: a worker held the offset of the thread's shard for {_REPAIR_S:.0f} s; try again", err=True)
        return _NOT_DONE
    click.echo(f"thread {thread_id} was projected afresh")
    return 0
