"""The log of ownership in the database: every change of owner since a mark, and the writers of each epoch."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import NamedTuple

import asyncpg

from shard_worker.ownership.store import read_view
from shard_worker.ownership.view import EMPTY

_BEATS_UNDER_WAY = 1000
"""More than a session sends while it is being cut: a number above it is of a later session, whose numbers begin higher."""
_SINCE_SQL = """
SELECT e.shard_id, e.epoch, e.kind, e.source, e.worker, e.incarnation
  FROM shard_epoch e JOIN unnest($1::int[], $2::bigint[]) AS mark (id, epoch) ON mark.id = e.shard_id
 WHERE e.epoch > mark.epoch ORDER BY e.shard_id, e.epoch
"""
_WRITTEN_SQL = """
SELECT count(*) FROM journal j JOIN shard_epoch e ON e.shard_id = j.shard_id AND e.epoch = j.epoch
 WHERE e.incarnation = $1
"""


class Change(NamedTuple):
    """One row of ``shard_epoch``."""

    shard: int
    epoch: int
    kind: str
    source: str | None
    worker: str | None
    incarnation: str | None


class Mark(NamedTuple):
    """The ownership at a moment."""

    epochs: dict[int, int]
    owners: dict[int, str | None]
    incarnations: dict[str, str]
    """By worker."""

    def owned_by(self, *workers: str) -> set[int]:
        """The shards of these workers."""
        return {shard for shard, owner in self.owners.items() if owner in workers}


class OwnershipLog:
    """Reads the ownership tables, on a connection of its own each time: servers and links fail in these tests."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection past every proxy."""
        connection = await asyncpg.connect(self._dsn)
        try:
            yield connection
        finally:
            connection.terminate()

    async def mark(self) -> Mark:
        """The present ownership."""
        async with self.connected() as connection:
            shards = await connection.fetch("SELECT id, epoch, owner FROM shard")
            workers = await connection.fetch("SELECT id, incarnation FROM worker")
        return Mark(
            {row["id"]: row["epoch"] for row in shards},
            {row["id"]: row["owner"] for row in shards},
            {row["id"]: row["incarnation"] for row in workers},
        )

    async def since(self, mark: Mark) -> list[Change]:
        """Every change since the mark, in the order of each shard's epochs."""
        async with self.connected() as connection:
            rows = await connection.fetch(_SINCE_SQL, list(mark.epochs), list(mark.epochs.values()))
        return [Change(*row) for row in rows]

    async def silence_after(self, worker: str, blow: Callable[[], None]) -> float:
        """Strike; how long it took, in seconds, until a later session of the worker beat."""
        async with self.connected() as connection, asyncio.timeout(20):
            before = (await read_view(connection, EMPTY)).workers[worker]
            began = time.monotonic()
            blow()
            while True:
                now = (await read_view(connection, EMPTY)).workers[worker]
                later = now.incarnation != before.incarnation or now.beat > before.beat + _BEATS_UNDER_WAY
                if now.locked and later:
                    return time.monotonic() - began
                await asyncio.sleep(0.01)

    async def written_by(self, incarnation: str) -> int:
        """How many events the journal has of an incarnation."""
        async with self.connected() as connection:
            return int(await connection.fetchval(_WRITTEN_SQL, incarnation))


def of_kind(changes: Collection[Change], *kinds: str) -> list[Change]:
    """The changes of some kinds."""
    return [change for change in changes if change.kind in kinds]


def expect_takeovers(changes: Collection[Change], shards: Collection[int], *victims: str) -> None:
    """Fail unless each of these shards was taken from the victims just once, and no other shard from any worker."""
    taken = of_kind(changes, "takeover")
    assert sorted(change.shard for change in taken) == sorted(shards), f"taken over: {taken}"
    assert {change.source for change in taken} <= set(victims), f"taken over: {taken}"


def expect_no_takeover(changes: Collection[Change]) -> None:
    """Fail if any shard was taken over."""
    assert of_kind(changes, "takeover", "restart") == []
