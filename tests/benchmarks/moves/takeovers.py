"""Figures 3, 4 and 7: workers killed and frozen under load, until the last of their shards is served again.

The load goes to the survivors alone, one lane a shard, so a lane of a dead worker's shard is a probe: it asks until it
is answered.  The other lanes show what the survivors' own shards feel of it.
"""

import asyncio
import random
import signal
import time
from typing import Final

import asyncpg
import click
from msgspec import Struct

from tests.benchmarks.moves.figures import Bar, Figure, distribution
from tests.benchmarks.moves.harness import NAMES, Harness, unaccounted
from tests.benchmarks.moves.recording import Row, Tape, first_commands_ms, served_again_at

_DEAF_S: Final = 0.2
"""Time after a fault in which an answer may be of before it; no peer may take over within 0.7 s."""


class Takeover(Struct, frozen=True):
    """One round.  Times in seconds from the fault; latencies in milliseconds."""

    last_s: float
    shards_s: list[float]
    steady_ms: list[float]
    survivors_ms: list[float]
    cold_ms: list[float]
    unknown: int
    attempts: int
    broken: list[str]


async def kills(harness: Harness) -> list[Takeover]:
    """SIGKILL to one worker after another."""
    return [
        await _round(harness, number, victim, signal.SIGKILL)
        for number, victim in enumerate(_victims(harness, harness.settings.kill_rounds))
    ]


async def freezes(harness: Harness) -> list[Takeover]:
    """SIGSTOP to one worker after another; each goes on afterwards."""
    return [
        await _round(harness, 1_000 + number, victim, signal.SIGSTOP)
        for number, victim in enumerate(_victims(harness, harness.settings.freeze_rounds))
    ]


def _victims(harness: Harness, rounds: int) -> list[str]:
    chance = random.Random(harness.settings.seed)
    return [chance.choice(NAMES) for _ in range(rounds)]


async def _round(harness: Harness, number: int, victim: str, fault: signal.Signals) -> Takeover:
    settings, workers = harness.settings, harness.workers
    await harness.spread()
    survivors = [name for name in NAMES if name != victim]
    before = await harness.events()
    async with harness.database() as connection:
        incarnation = await connection.fetchval("SELECT incarnation FROM worker WHERE id = $1", victim)
        rows = await connection.fetch("SELECT id FROM shard WHERE owner = $1", victim)
        orphans = {int(row["id"]) for row in rows}
        urls = [workers.by_name[name].url for name in survivors]
        async with harness.load(urls, seed=number) as load:
            began = time.monotonic() + min(0.5, settings.steady_s / 2)
            await asyncio.sleep(settings.steady_s)
            struck = time.monotonic()
            workers.by_name[victim].signal(fault)
            await _taken_over(connection, incarnation)
            await asyncio.sleep(settings.after_s)
            tape = await load.stop()
        if fault == signal.SIGSTOP:
            workers.by_name[victim].signal(signal.SIGCONT)
            await _back(connection, victim, incarnation)
        else:
            await workers.by_name[victim].ended()
    found = _read(tape, orphans, began, struck, settings.after_s)
    broken = await unaccounted(harness, tape, before)
    if len(found.shards_s) != len(orphans):
        broken.append(f"only {len(found.shards_s)} of {len(orphans)} shards of {victim} were seen served again")
    if tape.outcomes["refused"]:
        broken.append(f"refused for good: {tape.account.codes}")
    click.echo(f"{fault.name} {victim}: {len(orphans)} shards again after {found.last_s:.2f} s", err=True)
    return Takeover(
        found.last_s,
        found.shards_s,
        found.steady_ms,
        found.survivors_ms,
        found.cold_ms,
        found.unknown,
        found.attempts,
        broken,
    )


def _read(tape: Tape, orphans: set[int], began: float, struck: float, after_s: float) -> Takeover:
    """Read one round off the tape: pure."""

    def survives(row: Row) -> bool:
        return row.shard not in orphans

    again = {shard: served_again_at(tape.by_shard[shard], struck, _DEAF_S) for shard in orphans}
    served = {shard: at for shard, at in again.items() if at is not None}
    last = max(served.values(), default=float("inf"))
    return Takeover(
        last - struck,
        [at - struck for at in served.values()],
        tape.latencies_ms(began, struck, survives),
        tape.latencies_ms(struck, last, survives),
        [
            latency
            for shard, at in served.items()
            for latency in first_commands_ms(tape.by_shard[shard], at, last + after_s)
        ],
        tape.errors,
        len(tape.rows),
        [],
    )


async def _taken_over(connection: asyncpg.Connection, incarnation: str) -> None:
    """Return once every shard has an owner, and none is that incarnation's."""
    async with asyncio.timeout(30):
        while await connection.fetchval(
            "SELECT count(*) FROM shard WHERE incarnation IS NULL OR incarnation = $1", incarnation
        ):
            await asyncio.sleep(0.02)


async def _back(connection: asyncpg.Connection, worker: str, before: str) -> None:
    """Return once a worker is there again under another incarnation."""
    async with asyncio.timeout(30):
        while not await connection.fetchval(
            "SELECT incarnation <> $2 AND NOT fenced FROM worker WHERE id = $1", worker, before
        ):
            await asyncio.sleep(0.02)


def figures(killed: list[Takeover], frozen: list[Takeover]) -> list[Figure]:
    """Figures 3, 4 and 7."""
    kill_s = distribution("kill -9 to the last of its shards", "s", [each.last_s for each in killed])
    stop_s = distribution("SIGSTOP to the last of its shards", "s", [each.last_s for each in frozen])
    steady = distribution("steady, survivors' shards", "ms", [v for each in killed for v in each.steady_ms])
    during = distribution("until the last is served", "ms", [v for each in killed for v in each.survivors_ms])
    return [
        Figure(
            3,
            "A worker is killed",
            (kill_s, distribution("kill -9 to each of its shards", "s", [v for each in killed for v in each.shards_s])),
            (Bar("kill_p99", "the last of its shards is served, p99", "s", kill_s.at("p99"), 1.5),),
            (_note(killed),),
            tuple(what for each in killed for what in each.broken),
        ),
        Figure(
            4,
            "A worker is frozen",
            (stop_s, distribution("SIGSTOP to each of its shards", "s", [v for each in frozen for v in each.shards_s])),
            (Bar("freeze_max", "the last of its shards is served, max", "s", stop_s.at("max"), 5.0),),
            (f"{_note(frozen)}; a command that lay at the frozen worker is waited for until its answer comes",),
            tuple(what for each in frozen for what in each.broken),
        ),
        Figure(
            7,
            "Surviving shards during a takeover",
            (steady, during),
            (
                Bar(
                    "survivors_ratio",
                    "p99 during a takeover, in steady p99s",
                    "×",
                    during.at("p99") / steady.at("p99"),
                    2.0,
                ),
            ),
        ),
    ]


def _note(rounds: list[Takeover]) -> str:
    attempts, unknown = sum(each.attempts for each in rounds), sum(each.unknown for each in rounds)
    return (
        f"{len(rounds)} rounds; of {attempts:,} attempts {unknown:,} were not answered by a success"
        " and were sent again with their keys"
    )
