"""The statements of the queries as they are sent, and their plans."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import msgspec

from shard_worker.database.connection import ReadPool

T = TypeVar("T")


class Recording:
    """A session that keeps the statements that it was asked."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self.asked: list[tuple[str, tuple[object, ...]]] = []

    async def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        """Rows."""
        self.asked.append((sql, arguments))
        return await self._connection.fetch(sql, *arguments)

    def __getattr__(self, name: str) -> Any:  # of the session
        return getattr(self._connection, name)


class RecordingPool(ReadPool):
    """A pool of one session whose statements are kept."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.session = Recording(connection)

    async def run(self, work: Callable[[Any], Awaitable[T]], *, within_s: float = 30.0) -> T:
        """The result of the work."""
        del within_s
        return await work(self.session)


def _literal(value: object) -> str:
    if value is None:
        return "NULL"
    return f"'{value}'" if isinstance(value, UUID) else str(value)


def nodes_of(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of a plan."""
    return [plan, *(node for child in plan.get("Plans", ()) for node in nodes_of(child))]


async def plan_of(connection: asyncpg.Connection, sql: str, arguments: tuple[object, ...]) -> dict[str, Any]:
    """The plan of a statement, which is the same for all parameters."""
    await connection.execute(f"PREPARE asked AS {sql}")
    call = f"asked({', '.join(map(_literal, arguments))})" if arguments else "asked"
    found = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE {call}")
    await connection.execute("DEALLOCATE asked")
    plan: dict[str, Any] = msgspec.json.decode(found)[0]["Plan"]
    return plan
