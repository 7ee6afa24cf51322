"""Figure 5: a third worker for a cluster of two, through the local platform as a user runs it, under load."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import click
from msgspec import Struct

from tests.benchmarks.moves.figures import Bar, Figure, distribution
from tests.benchmarks.moves.harness import lanes, threads_of
from tests.benchmarks.moves.load_process import Orders
from tests.benchmarks.moves.recording import Tape
from tests.benchmarks.moves.settings import Settings
from tests.benchmarks.threads import make_threads
from tests.support.local_cluster import LocalCluster

_THREADS = 600
_LANES_THINK_S = 0.5
_YAML = """
apiVersion: threadcluster.io/v1alpha1
kind: ThreadCluster
metadata: {{name: bench}}
spec: {{shards: {shards}, replicas: {replicas}, rebalance: {{maxConcurrentMoves: {moves}}}}}
"""


class Joined(Struct, frozen=True):
    """One round: when each worker owned how much, and how long it took; seconds from the order."""

    balanced_s: float
    reported_s: float
    owned: list[tuple[float, dict[str, int]]]
    pauses_ms: list[float]
    steady_ms: list[float]
    moving_ms: list[float]
    attempts: int
    failed: int
    per_second: float
    broken: list[str]


async def join(out: Path, settings: Settings) -> list[Joined]:
    """Bring a cluster of two up, and make it three, again and again."""
    return [await _round(out / f"local-{number}", settings, number) for number in range(settings.join_rounds)]


async def _round(folder: Path, settings: Settings, number: int) -> Joined:
    async with _two_workers(folder, settings) as (cluster, url):
        requests = await make_threads(url, min(_THREADS, 4 * settings.join_shards))
        orders = Orders(
            urls=[url],
            threads=threads_of(requests, settings.join_shards),
            per_shard=1,
            think_s=_LANES_THINK_S,
            probe_think_s=settings.probe_think_s,
            timeout_s=10.0,
            seed=settings.seed + 3_000 + number,
        )
        connection = await asyncpg.connect((cluster.data_dir / "dsn").read_text().strip())
        try:
            before = await connection.fetchval("SELECT count(*) FROM journal")
            since = await connection.fetchval("SELECT clock_timestamp()")
            async with lanes(folder, orders) as load:
                began = time.monotonic() + 0.5 * settings.steady_s
                await asyncio.sleep(2 * settings.steady_s)
                ordered = time.monotonic()
                watching = asyncio.create_task(_watch(connection, settings.join_shards), name="watch")
                await _order(cluster, settings, 3)
                reported = time.monotonic()
                owned = await watching
                tape = await load.stop()
            pauses = await connection.fetch(
                "SELECT pause_ms FROM shard_epoch WHERE kind = 'handoff' AND claimed_at > $1 AND pause_ms IS NOT NULL",
                since,
            )
            stored = await connection.fetchval("SELECT count(*) FROM journal") - before
        finally:
            await connection.close()
    balanced = owned[-1][0]
    broken = [] if stored == tape.account.kept else [f"{tape.account.kept} were accepted and {stored} are stored"]
    if tape.errors or tape.account.given_up:
        broken.append(f"{tape.errors} requests failed: {tape.account.codes}")
    click.echo(f"2 → 3 workers: {settings.join_shards} shards balanced after {balanced - ordered:.2f} s", err=True)
    return _joined(tape, began, ordered, reported, owned, [row["pause_ms"] for row in pauses], broken)


def _joined(
    tape: Tape,
    began: float,
    ordered: float,
    reported: float,
    owned: list[tuple[float, dict[str, int]]],
    pauses_ms: list[float],
    broken: list[str],
) -> Joined:
    balanced = owned[-1][0]
    return Joined(
        balanced - ordered,
        reported - ordered,
        [(at - ordered, counts) for at, counts in owned],
        pauses_ms,
        tape.latencies_ms(began, ordered),
        tape.latencies_ms(ordered, balanced),
        len(tape.rows),
        tape.errors,
        tape.per_second,
        broken,
    )


async def _watch(connection: asyncpg.Connection, shards: int) -> list[tuple[float, dict[str, int]]]:
    """Shards by owner, from now until three workers own the same number, give or take one; the last entry is that
    moment.
    """
    owned = []
    async with asyncio.timeout(180):
        while True:
            rows = await connection.fetch("SELECT owner, count(*) AS n FROM shard GROUP BY 1")
            counts = {row["owner"] or "unowned": row["n"] for row in rows}
            owned.append((time.monotonic(), counts))
            if len(counts) == 3 and "unowned" not in counts and max(counts.values()) - min(counts.values()) <= 1:
                return owned
            await asyncio.sleep(0.05)


async def _order(cluster: LocalCluster, settings: Settings, replicas: int) -> None:
    cluster.file.write_text(_YAML.format(shards=settings.join_shards, replicas=replicas, moves=settings.join_moves))
    code, output = await cluster.command("up", "-f", str(cluster.file), "--port", "0", "--detach")
    assert code == 0, output


@asynccontextmanager
async def _two_workers(folder: Path, settings: Settings) -> AsyncIterator[tuple[LocalCluster, str]]:
    folder.mkdir(parents=True, exist_ok=True)
    cluster = LocalCluster(folder / "data", shards=settings.join_shards)
    try:
        await _order(cluster, settings, 2)
        yield cluster, (await cluster.status())["url"]
    finally:
        await cluster.command("down")


def figure(rounds: list[Joined], settings: Settings) -> Figure:
    """Figure 5."""
    balanced = distribution("order to balance", "s", [each.balanced_s for each in rounds])
    attempts, failed = sum(each.attempts for each in rounds), sum(each.failed for each in rounds)
    return Figure(
        5,
        f"Two workers become three, {settings.join_shards:,} shards",
        (
            balanced,
            distribution("order until `up` says so", "s", [each.reported_s for each in rounds]),
            distribution("pause, as the giver measured it", "ms", [v for each in rounds for v in each.pauses_ms]),
            distribution("commands meanwhile", "ms", [v for each in rounds for v in each.moving_ms]),
            distribution("steady, before", "ms", [v for each in rounds for v in each.steady_ms]),
        ),
        (
            Bar("join_max", "order to balance, max", "s", balanced.at("max"), 20.0),
            Bar("join_failures", "requests that failed", "", float(failed), 0.0),
        ),
        (
            f"spec.rebalance.maxConcurrentMoves: {settings.join_moves}; {len(rounds)} rounds;"
            f" {rounds[0].per_second:,.0f} commands/s, {attempts:,} requests, {failed} failed",
        ),
        tuple(what for each in rounds for what in each.broken),
    )
