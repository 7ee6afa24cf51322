"""A session that another task terminates, as all are when a fail-over is noticed, in whatever turn of the loop."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from shard_worker.database.connection import CONNECTION_ERRORS
from shard_worker.database.session import _ends_with_session, open_connection

_TURNS = 60
"""More than a statement takes: in the last ones it has ended before the session does."""
_SQL = "SELECT count(*) FROM generate_series(1, $1::int)"

Statement = Callable[[asyncpg.Connection], Awaitable[object]]


async def _in_transaction(connection: asyncpg.Connection) -> None:
    async with connection.transaction():
        await connection.execute("SELECT 1")
        await connection.fetchval(_SQL, 3)


async def _prepared(connection: asyncpg.Connection) -> None:
    statement = await connection.prepare(_SQL)
    await statement.fetch(3)


_STATEMENTS: dict[str, Statement] = {
    "execute": lambda connection: connection.execute("SELECT 1"),
    "execute with arguments": lambda connection: connection.execute(_SQL, 3),
    "executemany": lambda connection: connection.executemany(_SQL, [(1,), (2,)]),
    "fetch": lambda connection: connection.fetch(_SQL, 3),
    "fetch a composite": lambda connection: connection.fetch("SELECT p FROM pg_language p LIMIT $1", 1),
    "fetchrow": lambda connection: connection.fetchrow(_SQL, 3),
    "fetchval": lambda connection: connection.fetchval(_SQL, 3),
    "prepare": _prepared,
    "a transaction": _in_transaction,
}


@pytest.mark.parametrize("name", _STATEMENTS)
async def test_a_statement_fails_as_by_its_link_in_whatever_turn_the_session_is_terminated(dsn: str, name: str) -> None:
    """Never by an error that its caller takes for a fault of this program."""
    ended = 0
    for turns in range(_TURNS):
        connection = await open_connection(dsn, "test")
        statement = asyncio.ensure_future(_STATEMENTS[name](connection))
        for _ in range(turns):
            await asyncio.sleep(0)
        connection.terminate()
        try:
            await asyncio.wait_for(statement, 5.0)
        except CONNECTION_ERRORS:
            ended += 1
    assert ended > 0


class _Open:
    def is_closed(self) -> bool:
        return False


async def test_a_fault_of_this_program_stays_one() -> None:
    """On a session that is open."""

    async def faulty(_: object) -> None:
        raise AttributeError("no such name")

    with pytest.raises(AttributeError, match="no such name"):
        await _ends_with_session(faulty)(_Open())
