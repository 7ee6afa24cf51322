"""Rebuilds the read model beside the one in use, without downtime.

The command makes the tables of a new generation; the workers, which own the shards, notice it and project the journal into it from
the beginning, while they go on feeding the old one.  When every shard has caught up, one row makes the new generation the live one,
and the old tables go.  A command that was ended is simply made again: it goes on with the generation that is not live yet.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import asyncpg

from shard_worker.database.roles import grant_worker_role
from shard_worker.readmodel.projection import VERSION

_LOOK_EVERY_S: Final = 0.5
_SAY_EVERY_S: Final = 2.0
_LEVEL_EVENTS: Final = 2_000
"""So few events behind the live generation a new one takes its place: less than a second of a busy cluster."""
_STILL_S: Final = 60.0
"""After how long without any progress the command gives up: no worker of this release feeds the new tables."""

_GENERATIONS: Final = "SELECT generation, version, live FROM readmodel_generation ORDER BY generation"
_MAKE: Final = """
WITH made AS (
    INSERT INTO readmodel_generation (generation, version)
    SELECT max(generation) + 1, $1 FROM readmodel_generation RETURNING generation
)
SELECT generation, make_readmodel_v1(generation) FROM made
"""
_OFFSETS: Final = "INSERT INTO projection_offset (generation, shard_id) SELECT $1, id FROM shard ON CONFLICT DO NOTHING"
_POSITIONS: Final = "SELECT shard_id, seq FROM projection_offset WHERE generation = $1"
_LOCK_OFFSETS: Final = """
SELECT FROM projection_offset WHERE generation = $1 ORDER BY shard_id FOR UPDATE
"""


class RebuildFailed(Exception):
    """The rebuild cannot go on; what was done stays, and another run goes on with it."""


async def rebuild(connection: asyncpg.Connection, *, keep_old: bool, say: Callable[[str], None]) -> int:
    """Fill a new generation and make it the live one; its number.

    ``connection`` is the login that migrates.  Raises `RebuildFailed`, and asyncpg's errors.
    """
    rows = await connection.fetch(_GENERATIONS)
    live = next(row["generation"] for row in rows if row["live"])
    for row in rows:
        if row["generation"] < live or (row["version"] != VERSION and not row["live"]):
            await drop(connection, row["generation"])
            say(f"dropped generation {row['generation']}, which an earlier run left")
    unfinished = [row["generation"] for row in rows if row["generation"] > live and row["version"] == VERSION]
    if unfinished:
        generation = int(unfinished[-1])
        say(f"going on with generation {generation}")
    else:
        async with connection.transaction():
            generation = await connection.fetchval(_MAKE, VERSION)
            await connection.execute(_OFFSETS, generation)
            await grant_worker_role(connection, say)  # before a worker can see the generation
        say(f"made the tables of generation {generation}; the workers fill them")
    await _filled(connection, generation, live, say)
    # The old one first: the unique index allows one live generation.
    async with connection.transaction():
        await connection.execute("UPDATE readmodel_generation SET live = false WHERE live")
        await connection.execute("UPDATE readmodel_generation SET live = true WHERE generation = $1", generation)
    say(f"queries are answered from generation {generation}")
    if not keep_old:
        # Workers remember the live generation for a second.
        await asyncio.sleep(2 * _SAY_EVERY_S)
        await drop(connection, live)
        say(f"dropped generation {live}")
    return generation


async def drop(connection: asyncpg.Connection, generation: int) -> None:
    """Remove a generation that is not live."""
    async with connection.transaction():
        # The offsets first, as a batch does: it also locks the generation's row when it records a thread that has stopped.
        await connection.execute(_LOCK_OFFSETS, generation)
        gone = await connection.fetchval(
            "DELETE FROM readmodel_generation WHERE generation = $1 AND NOT live RETURNING generation", generation
        )
        if gone is not None:
            await connection.execute(f"DROP SCHEMA readmodel_{generation:d} CASCADE")


async def _filled(connection: asyncpg.Connection, generation: int, live: int, say: Callable[[str], None]) -> None:
    """Return when every shard of a generation has reached the point at which the live one was a moment ago.

    Under load no moment need come at which all shards are level: the workers feed the live generation first.
    """
    began = moved_at = reported_at = time.monotonic()
    before = -1
    wanted = await _positions(connection, live)
    while True:
        reached = await _positions(connection, generation)
        if all(reached.get(shard_id, 0) >= seq for shard_id, seq in wanted.items()):
            newest = await _positions(connection, live)
            if sum(newest.values()) - sum(reached.values()) <= _LEVEL_EVENTS:
                return
            wanted = newest
        now, projected = time.monotonic(), sum(reached.values())
        if projected > before:
            before, moved_at = projected, now
        elif now - moved_at > _STILL_S:
            raise RebuildFailed(
                f"no event was projected for {_STILL_S:.0f} s: no worker of this release feeds generation {generation}"
            )
        if now - reported_at >= _SAY_EVERY_S:
            reported_at = now
            say(f"{projected} of {sum(wanted.values())} events, {projected / (now - began):.0f} a second")
        await asyncio.sleep(_LOOK_EVERY_S)


async def _positions(connection: asyncpg.Connection, generation: int) -> dict[int, int]:
    return {row["shard_id"]: row["seq"] for row in await connection.fetch(_POSITIONS, generation)}
