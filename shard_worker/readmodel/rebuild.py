"""Rebuilds the read model beside the one in use, without downtime.

The command makes the tables of a new generation; the workers, which own the shards, notice it and project the journal into it from
the beginning, while they go on feeding the old one.  When every shard has caught up, one row makes the new generation the live one,
and the old tables go.  A command that was ended is simply made again: it goes on with the generation that is not live yet.

A new version of the read model goes the same way.  Its old tables stay, and are fed, so that `switch` can go back to them.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import asyncpg

from shard_worker.database.roles import grant_roles
from shard_worker.ownership.store import LOCK_READ_MODEL_SQL
from shard_worker.readmodel.rules import RULES, newest_version

_LOOK_EVERY_S: Final = 0.5
_SAY_EVERY_S: Final = 2.0
_LEVEL_EVENTS: Final = 2_000
"""So few events behind the live generation a new one takes its place: less than a second of a busy cluster."""
WAIT_S: Final = 60.0
"""After how long without any progress the command gives up: workers do not feed the new tables."""

_GENERATIONS: Final = "SELECT generation, version, live, was_live FROM readmodel_generation ORDER BY generation"
_MAKE: Final = """
INSERT INTO readmodel_generation (generation, version)
VALUES (nextval('readmodel_generation_number'), $1) RETURNING generation
"""
_SET_RATE: Final = "UPDATE readmodel_generation SET rate = $2 WHERE generation = $1"
_OFFSETS: Final = "INSERT INTO projection_offset (generation, shard_id) SELECT $1, id FROM shard ON CONFLICT DO NOTHING"
_POSITIONS: Final = "SELECT shard_id, seq FROM projection_offset WHERE generation = $1"
_LOCK_OFFSETS: Final = """
SELECT FROM projection_offset WHERE generation = $1 ORDER BY shard_id FOR UPDATE
"""
_OTHERS: Final = """
SELECT id FROM worker WHERE NOT fenced AND NOT coalesce(capabilities -> 'readmodel', '[1]') @> to_jsonb($1::int) ORDER BY id
"""
"""The workers that do not feed a version; one that does not say feeds the first."""
_LEVEL_WITHIN_S: Final = 1.0
"""How long the live generation may be held still until the other has its events."""


class RebuildFailed(Exception):
    """The rebuild cannot go on; what was done stays, and another run goes on with it."""


async def rebuild(
    connection: asyncpg.Connection,
    *,
    keep_old: bool,
    say: Callable[[str], None],
    wait_s: float = WAIT_S,
    rate: int | None = None,
) -> int:
    """Fill a new generation of the newest version and make it the live one; its number.

    ``rate`` is how many events a second all workers together take from the journal for it at most.

    The old one is dropped, unless ``keep_old`` says otherwise or it has another version.  ``connection`` is the login that migrates.
    Raises `RebuildFailed`, and asyncpg's errors.
    """
    rows = await connection.fetch(_GENERATIONS)
    live = next(row for row in rows if row["live"])
    version = newest_version()
    unfinished: list[int] = []
    for row in rows:
        if row["live"]:
            continue
        # Tables that were in use before, of the same version, are what a rebuild is to replace.
        if row["version"] not in RULES or (row["version"] == live["version"] and row["was_live"]):
            await _drop_within(connection, row["generation"], wait_s)
            say(f"dropped generation {row['generation']}, which an earlier run left")
        elif row["version"] == version:
            unfinished.append(row["generation"])
    if unfinished:
        generation = unfinished[-1]
        say(f"going on with generation {generation}")
    else:
        async with connection.transaction():
            generation = await connection.fetchval(_MAKE, version)
            await connection.execute(f"SELECT {RULES[version].make}($1)", generation)
            await connection.execute(_OFFSETS, generation)
            await grant_roles(connection, say)  # before a worker can see the generation
        say(f"made the tables of generation {generation}, version {version}; the workers fill them")
    await connection.execute(_SET_RATE, generation, rate)  # also of one that an earlier run began
    await switch(connection, generation, say, wait_s)
    if live["version"] != version:
        say(
            f"generation {live['generation']}, version {live['version']}, stays and is fed, for a roll-back:"
            f" `shard-worker readmodel drop {live['generation']}` when none is wanted any more"
        )
    elif not keep_old:
        # Workers remember the live generation for a second.
        await asyncio.sleep(2 * _SAY_EVERY_S)
        try:
            await _drop_within(connection, live["generation"], wait_s)
        except asyncpg.LockNotAvailableError:
            say(f"generation {live['generation']} is held: `shard-worker readmodel drop {live['generation']}` later")
        else:
            say(f"dropped generation {live['generation']}")
    return generation


async def switch(
    connection: asyncpg.Connection, generation: int, say: Callable[[str], None], wait_s: float = WAIT_S
) -> None:
    """Make another generation the live one, as soon as it has the events of the live one and every worker feeds it.

    Raises `RebuildFailed` when no event comes, or a worker does not feed it, for ``wait_s``.
    """
    rows = {row["generation"]: row for row in await connection.fetch(_GENERATIONS)}
    if generation not in rows:
        raise RebuildFailed(f"there is no generation {generation}: `shard-worker readmodel status` lists them")
    if rows[generation]["live"]:
        raise RebuildFailed(f"generation {generation} is in use already")
    live = next(number for number, row in rows.items() if row["live"])
    await _filled(connection, generation, live, say, wait_s)
    began, reported = time.monotonic(), ""
    while (reason := await _try_switch(connection, generation, rows[generation]["version"], live)) is not None:
        if time.monotonic() - began > wait_s:
            raise RebuildFailed(reason)
        if reason != reported:
            say(f"waiting: {reason}")
            reported = reason
        await asyncio.sleep(_LOOK_EVERY_S)
    say(f"queries are answered from generation {generation}")


async def _try_switch(connection: asyncpg.Connection, generation: int, version: int, live: int) -> str | None:
    """Switch, or say why it cannot be done now.

    The live generation's offsets are held meanwhile, so that it goes no further: no query sees an older state after the switch.
    """
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(LOCK_READ_MODEL_SQL)
        others = [row["id"] for row in await connection.fetch(_OTHERS, version)]
        reason = f"these workers do not feed version {version}: {', '.join(others)}" if others else None
        if reason is None:
            await connection.execute(_LOCK_OFFSETS, live)
            if await _is_level(connection, generation, live):
                # The old one first: the unique index allows one live generation.
                await connection.execute("UPDATE readmodel_generation SET live = false WHERE generation = $1", live)
                await connection.execute(
                    "UPDATE readmodel_generation SET live = true, was_live = true, rate = NULL WHERE generation = $1",
                    generation,
                )
            else:
                reason = f"generation {generation} lacks events that generation {live} has"
    except asyncpg.LockNotAvailableError:
        await transaction.rollback()
        return f"a registration, or a batch of generation {live}, is under way"
    except BaseException:
        await transaction.rollback()
        raise
    await (transaction.rollback() if reason is not None else transaction.commit())
    return reason


async def _is_level(connection: asyncpg.Connection, generation: int, live: int) -> bool:
    """Wait, for a moment, until a generation has every event of the live one, whose offsets the caller holds."""
    until = time.monotonic() + _LEVEL_WITHIN_S
    wanted = await _positions(connection, live)
    while True:
        reached = await _positions(connection, generation)
        if all(reached.get(shard_id, 0) >= seq for shard_id, seq in wanted.items()):
            return True
        if time.monotonic() > until:
            return False
        await asyncio.sleep(_LOOK_EVERY_S / 20)


async def _drop_within(connection: asyncpg.Connection, generation: int, wait_s: float) -> None:
    """`drop`, tried again while batches hold the generation's offsets.  Raises `asyncpg.LockNotAvailableError` in the end."""
    began = time.monotonic()
    while True:
        try:
            return await drop(connection, generation)
        except asyncpg.LockNotAvailableError:
            if time.monotonic() - began > wait_s:
                raise


async def drop(connection: asyncpg.Connection, generation: int) -> None:
    """Remove a generation that is not live.  Raises `RebuildFailed` for one that is."""
    async with connection.transaction():
        # The offsets first, as a batch does: it also locks the generation's row when it records a thread that has stopped.
        await connection.execute(_LOCK_OFFSETS, generation)
        gone = await connection.fetchval(
            "DELETE FROM readmodel_generation WHERE generation = $1 AND NOT live RETURNING generation", generation
        )
        if gone is None:
            raise RebuildFailed(f"generation {generation} is in use, or is not there")
        await connection.execute(f"DROP SCHEMA readmodel_{generation:d} CASCADE")


async def _filled(
    connection: asyncpg.Connection, generation: int, live: int, say: Callable[[str], None], wait_s: float
) -> None:
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
        elif now - moved_at > wait_s:
            raise RebuildFailed(
                f"no event was projected for {wait_s:.0f} s: no worker of this release feeds generation {generation}"
            )
        if now - reported_at >= _SAY_EVERY_S:
            reported_at = now
            say(f"{projected} of {sum(wanted.values())} events, {projected / (now - began):.0f} a second")
        await asyncio.sleep(_LOOK_EVERY_S)


async def _positions(connection: asyncpg.Connection, generation: int) -> dict[int, int]:
    return {row["shard_id"]: row["seq"] for row in await connection.fetch(_POSITIONS, generation)}
