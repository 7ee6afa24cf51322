"""The statements that queries of the read model ask, and the nodes of their plans."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

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


def nodes_of(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of a plan."""
    return [plan, *(node for child in plan.get("Plans", ()) for node in nodes_of(child))]
