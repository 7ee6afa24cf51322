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
_PROGRESS: Final = """
SELECT coalesce(sum(least(mine.seq, live.seq)), 0)::bigint AS projected, coalesce(sum(live.seq), 0)::bigint AS wanted,
       bool_and(mine.seq >= live.seq) AS level
  FROM projection_offset mine JOIN projection_offset live USING (shard_id)
 WHERE mine.generation = $1 AND live.generation = $2
"""


class RebuildFailed(Exception):
    """The rebuild cannot go on; what was done stays, and another run goes on with it."""


async def rebuild(connection: asyncpg.Connection, *, keep_old: bool, say: Callable[[str], None]) -> int:
    """Fill a new generation and make it the live one; its number.

    ``connection`` is the login that migrates.  Raises `RebuildFailed`, and asyncpg's errors.
    """
    rows = await connection.fetch(_GENERATIONS)
    live = next(row["generation"] for row in rows if row["live"])
    unfinished = [row["generation"] for row in rows if not row["live"] and row["generation"] > live]
    if unfinished:
        generation = int(unfinished[-1])
        say(f"going on with generation {generation}")
    else:
        async with connection.transaction():
            generation = await connection.fetchval(_MAKE, VERSION)
            await connection.execute(_OFFSETS, generation)
        say(f"made the tables of generation {generation}; the workers fill them")
    await grant_worker_role(connection, say)
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
        gone = await connection.fetchval(
            "DELETE FROM readmodel_generation WHERE generation = $1 AND NOT live RETURNING generation", generation
        )
        if gone is not None:
            await connection.execute(f"DROP SCHEMA readmodel_{generation:d} CASCADE")


async def _filled(connection: asyncpg.Connection, generation: int, live: int, say: Callable[[str], None]) -> None:
    """Return when every shard of a generation is as far as the live one."""
    began = moved_at = said_at = time.monotonic()
    before = -1
    while True:
        row = await connection.fetchrow(_PROGRESS, generation, live)
        assert row is not None  # an aggregate gives one row
        if row["level"]:
            return
        now = time.monotonic()
        if row["projected"] > before:
            before, moved_at = row["projected"], now
        elif now - moved_at > _STILL_S:
            raise RebuildFailed(
                f"no event was projected for {_STILL_S:.0f} s: no worker of this release feeds generation {generation}"
            )
        if now - said_at >= _SAY_EVERY_S:
            said_at = now
            rate = row["projected"] / (now - began)
            say(f"{row['projected']} of {row['wanted']} events, {rate:.0f} a second")
        await asyncio.sleep(_LOOK_EVERY_S)
