"""Figures 1 and 2: shards handed over under load, one by one and in groups, and what the first commands then cost.

A pause is seen from both sides: the giver's own measure (`shard_epoch.pause_ms`), and a probe's, which writes to the
shard as fast as it is answered: the gap between two of its answers that contains the instant of the transfer, less the
probe's median latency; and the longest wait of any command that was on its way then.
"""

import asyncio
import random
import time
from statistics import median
from typing import Final

import asyncpg
from msgspec import Struct

from tests.benchmarks.moves.figures import Bar, Figure, distribution
from tests.benchmarks.moves.harness import NAMES, Harness, Load, unaccounted
from tests.benchmarks.moves.recording import ACCEPTED, Tape, first_commands_ms, longest_wait_ms, pause_ms

_PROBE_AHEAD_S: Final = 0.15


class Handoffs(Struct, frozen=True):
    """Measured pauses, in milliseconds."""

    gaps_ms: list[float]
    waits_ms: list[float]
    recorded_ms: list[float]
    first_ms: list[float]
    steady_ms: list[float]
    singles_ms: list[float]
    errors: int
    notes: list[str]
    broken: list[str]


async def hand_over(harness: Harness, rounds: int, think_s: float) -> Handoffs:
    """Run the load, whose lanes think for ``think_s``, and move shards to and fro."""
    settings, chance = harness.settings, random.Random(harness.settings.seed)
    await harness.spread()
    events = await harness.events()
    steady: list[tuple[float, float]] = []
    singles: set[tuple[int, int]] = set()
    async with harness.database() as connection:
        began_at = await connection.fetchval("SELECT clock_timestamp()")
        async with harness.load(harness.workers.urls, think_s=think_s) as load:
            meter = harness.meter()
            for _ in range(rounds):
                load.probe(chance.sample(range(settings.shards), settings.together))
                await asyncio.sleep(_PROBE_AHEAD_S)
                began = time.monotonic()
                await asyncio.sleep(settings.steady_s)
                steady.append((began, time.monotonic()))
                sizes = [1] * settings.singles + [settings.together] * settings.groups
                chance.shuffle(sizes)
                for size in sizes:
                    moved = await _move(harness, load, connection, chance, size)
                    if size == 1:
                        singles |= set(moved.items())
            tape: Tape = await load.stop()
            cpu = meter.read(tape.account.core_share)
        await _pauses_recorded(connection, began_at)
        moves = await connection.fetch(
            "SELECT shard_id, epoch, pause_ms, extract(epoch FROM claimed_at)::float8 AS at FROM shard_epoch"
            " WHERE kind = 'handoff' AND claimed_at > $1 ORDER BY claimed_at",
            began_at,
        )
        others = await connection.fetchval(
            "SELECT count(*) FROM shard_epoch WHERE kind <> 'handoff' AND claimed_at > $1", began_at
        )
    gaps, waits, first, alone = [], [], [], []
    to_monotonic = time.monotonic() - time.time()
    probed = _probe_latency_ms(tape)
    for move in moves:
        at, rows = move["at"] + to_monotonic, tape.by_shard[move["shard_id"]]
        probe = [row for row in rows if row.probe and row.outcome == ACCEPTED]
        gap = pause_ms(probe, at)
        if gap is None:
            continue
        gaps.append(max(0.0, gap - probed))
        if (move["shard_id"], move["epoch"]) in singles:
            alone.append(gaps[-1])
        waits.append(longest_wait_ms(rows, at) or 0.0)
        served_at = next(row.answered for row in rows if row.outcome == ACCEPTED and row.answered > at + 0.001)
        first += first_commands_ms(rows, served_at, served_at + settings.watch_s)
    expected = rounds * (settings.singles + settings.groups * settings.together)
    broken = await unaccounted(harness, tape, events)
    if tape.errors:
        broken.append(f"{tape.errors} attempts failed: {tape.account.codes}")
    if len(moves) != expected:
        broken.append(f"{expected} handoffs were ordered; there were {len(moves)}, and {others} other changes of owner")
    share = tape.per_second / harness.saturated_per_s
    return Handoffs(
        gaps,
        waits,
        [move["pause_ms"] for move in moves],
        first,
        [value for began, ended in steady for value in tape.latencies_ms(began, ended)],
        alone,
        tape.errors,
        [
            f"{len(moves)} handoffs, {len(tape.rows):,} attempts, {tape.errors} errors",
            f"{tape.per_second:,.0f} commands/s, {share:.0%} of the {harness.saturated_per_s:,.0f}/s that saturate; {cpu}",
        ],
        broken,
    )


async def _move(
    harness: Harness, load: Load, connection: asyncpg.Connection, chance: random.Random, size: int
) -> dict[int, int]:
    """Hand ``size`` shards over, and watch them; the epoch each has then."""
    shards = chance.sample(range(harness.settings.shards), size)
    load.probe(shards)
    rows = await connection.fetch("SELECT id, owner FROM shard WHERE id = ANY($1::int[])", shards)
    targets = {row["id"]: chance.choice([name for name in NAMES if name != row["owner"]]) for row in rows}
    await asyncio.sleep(_PROBE_AHEAD_S)
    await harness.workers.plan(targets)
    await harness.owned_by(connection, targets)
    await asyncio.sleep(harness.settings.watch_s)
    rows = await connection.fetch("SELECT id, epoch FROM shard WHERE id = ANY($1::int[])", shards)
    return {row["id"]: row["epoch"] for row in rows}


async def _pauses_recorded(connection: asyncpg.Connection, since: object) -> None:
    """Wait until the givers have recorded their pauses; a transfer without an acknowledgement has none."""
    for _ in range(30):
        missing = await connection.fetchval(
            "SELECT count(*) FROM shard_epoch WHERE kind = 'handoff' AND pause_ms IS NULL AND claimed_at > $1", since
        )
        if not missing:
            return
        await asyncio.sleep(0.1)


def _probe_latency_ms(tape: Tape) -> float:
    return median([row.latency_s * 1000 for row in tape.rows if row.probe and row.outcome == ACCEPTED] or [0.0])


def figures(found: Handoffs, full: Handoffs, cold_ms: list[float]) -> list[Figure]:
    """Figures 1 and 2; ``full`` is found while nothing is to spare, ``cold_ms`` are first commands after a takeover."""
    seen = distribution("pause, as a probe saw it", "ms", found.gaps_ms)
    recorded = distribution("pause, as the giver measured it", "ms", found.recorded_ms)
    first = distribution("first command after a handoff", "ms", found.first_ms)
    steady = distribution("steady", "ms", found.steady_ms)
    return [
        Figure(
            1,
            "Pause of a shard that is handed over under load",
            (
                seen,
                distribution("  of single shards", "ms", found.singles_ms),
                recorded,
                distribution("longest wait of a command", "ms", found.waits_ms),
                distribution("pause, as a probe saw it, nothing to spare", "ms", full.gaps_ms),
            ),
            (
                Bar("handoff_pause_p50", "pause, as a probe saw it, p50", "ms", seen.at("p50"), 20.0),
                Bar("handoff_pause_p99", "pause, as a probe saw it, p99", "ms", seen.at("p99"), 100.0),
                Bar(
                    "handoff_pause_of_giver_p50", "pause, as the giver measured it, p50", "ms", recorded.at("p50"), 20.0
                ),
                Bar(
                    "handoff_pause_of_giver_p99",
                    "pause, as the giver measured it, p99",
                    "ms",
                    recorded.at("p99"),
                    100.0,
                ),
                Bar("handoff_failures", "attempts that failed", "", float(found.errors + full.errors), 0.0),
            ),
            (*found.notes, *(f"nothing to spare: {note}" for note in full.notes)),
            (*found.broken, *full.broken),
        ),
        Figure(
            2,
            "First command to a thread after its shard has moved",
            (first, steady, distribution("first command after a takeover, cold", "ms", cold_ms)),
            (
                Bar(
                    "first_command_ratio",
                    "p99 after a handoff, in steady p99s",
                    "×",
                    first.at("p99") / steady.at("p99"),
                    2.0,
                ),
            ),
        ),
    ]
