"""``python -m tests.benchmarks.read_side``: what the read model costs the command path, and how soon it shows a command.

Two workers, one with and one without a projection, have their turns in each round, at 64 connections and as fast as they answer.
A worker's account goes on until its read model has caught up, so that work which a full load put off is counted.  Then half of the
highest rate is kept up, and an observer posts beside it: from the answer to a command to the moment at which another connection
reads its message from the tables.
"""

import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Final

import asyncpg
import click
import msgspec
import uvloop
from msgspec import Struct

from shard_worker.domain.ids import ulid_uuid
from tests.benchmarks.cpu import process_cpu_s, tree_cpu_s
from tests.benchmarks.generator import Measured
from tests.benchmarks.measure import Settings, generate, write_requests
from tests.benchmarks.postgres import seasoned_postgres
from tests.benchmarks.run import fresh_database, postmaster_pid
from tests.benchmarks.threads import Requests, make_threads
from tests.support.load.chat import drive
from tests.support.load.target import parse_target
from tests.support.load.wire import Connection, request_bytes
from tests.support.programs import Program, worker_alone

_SHARDS: Final = 144
_CLUSTER: Final = "bench"
_CONNECTIONS: Final = 64
_THREADS: Final = 2_000
_LOOK_EVERY_S: Final = 0.001
_CPU_BAR, _RATE_BAR, _P99_BAR = 0.25, 0.8, 1.3
_VISIBLE_BARS_MS: Final = (20.0, 100.0)


class Side(Struct):
    """One worker with its own database."""

    name: str
    program: Program
    dsn: str
    requests: Requests
    projects: bool


class Round(Struct, frozen=True):
    """One worker's turn: requests a second, their p99 in milliseconds, CPU in microseconds a command."""

    rate: float
    p99_ms: float
    worker_us: float
    postgres_us: float

    @property
    def cpu_us(self) -> float:
        """Of both."""
        return self.worker_us + self.postgres_us


async def caught_up(connection: asyncpg.Connection) -> None:
    """Return once every event is projected into the live generation."""
    behind = (
        "SELECT EXISTS (SELECT FROM projection_offset o JOIN readmodel_generation g USING (generation) WHERE g.live AND o.seq < (SELECT coalesce(max(j.shard_seq), 0)"
        " FROM journal j WHERE j.shard_id = o.shard_id))"
    )
    async with asyncio.timeout(300):
        while await connection.fetchval(behind):
            await asyncio.sleep(0.05)


async def _turn(side: Side, folder: Path, seconds: float, postgres_pid: int) -> Round:
    settings = Settings(seconds=seconds)
    connection = await asyncpg.connect(side.dsn)
    try:
        file = write_requests(folder, side.requests)
        worker_s, postgres_s = process_cpu_s(side.program.pid), tree_cpu_s(postgres_pid)
        measured: Measured = await generate(side.program, file, _CONNECTIONS, seconds, settings.tool, settings.pins)
        if side.projects:
            await caught_up(connection)
        worker_s = process_cpu_s(side.program.pid) - worker_s
        postgres_s = tree_cpu_s(postgres_pid) - postgres_s
    finally:
        await connection.close()
    each = 1e6 / measured.served
    return Round(measured.per_second, measured.latency_ms["p99"], worker_s * each, postgres_s * each)


async def _visible(side: Side, rate: float, samples: int) -> list[float]:
    """Milliseconds from a command's answer to its message in the tables, while others post ``rate`` a second."""
    stop = asyncio.Event()
    driving = asyncio.create_task(
        drive(side.program.url, clients=_CONNECTIONS, until=stop, seed=1, pause_s=_CONNECTIONS / rate)
    )
    target = parse_target(side.program.url)
    path, body = side.requests[0]
    thread = ulid_uuid(path.split("/")[3])
    link, database = await Connection.open(target, 10.0), await asyncpg.connect(side.dsn)
    found: list[float] = []
    try:
        await asyncio.sleep(1.0)
        for _ in range(samples):
            reply = await link.ask(request_bytes("POST", path, target.authority, body.encode()), 10.0)
            answered = time.monotonic()
            wanted = msgspec.json.decode(reply.body)["sequenceNr"]
            while (
                await database.fetchval("SELECT sequence_nr FROM readmodel_1.thread WHERE thread_id = $1", thread)
                < wanted
            ):
                await asyncio.sleep(_LOOK_EVERY_S)
            found.append((time.monotonic() - answered) * 1000.0)
            await asyncio.sleep(0.01)
    finally:
        stop.set()
        await driving
        link.close()
        await database.close()
    return found


async def _run(rounds: int, seconds: float, samples: int) -> bool:
    with tempfile.TemporaryDirectory(prefix="read-side-") as name:
        folder = Path(name)
        async with seasoned_postgres(folder) as base:
            return await _measured(base, folder, rounds, seconds, samples)


async def _measured(base: str, folder: Path, rounds: int, seconds: float, samples: int) -> bool:
    pid = await postmaster_pid(base)
    async with AsyncExitStack() as stack:
        sides: list[Side] = []
        for name, projects in (("with", True), ("without", False)):
            dsn = await fresh_database(base, f"read_side_{name}")
            settings = {"SHARD_WORKER_PROJECTION_ENABLED": str(projects).lower()}
            program = await stack.enter_async_context(
                worker_alone(dsn, folder, cluster=_CLUSTER, shards=_SHARDS, name=name, settings=settings)
            )
            sides.append(Side(name, program, dsn, await make_threads(program.url, _THREADS), projects))
        found: dict[bool, list[Round]] = {True: [], False: []}
        for number in range(rounds):
            for side in sides if number % 2 else sides[::-1]:
                done = await _turn(side, folder, seconds, pid)
                found[side.projects].append(done)
                click.echo(
                    f"round {number + 1}/{rounds}  {side.name:8} a projection  {done.rate:8.0f}/s  p99 {done.p99_ms:6.1f} ms"
                    f"  worker {done.worker_us:6.1f} µs a command  Postgres {done.postgres_us:6.1f} µs"
                )
        pairs = list(zip(found[True], found[False], strict=True))
        half = median(each.rate for each in found[True]) / 2
        visible = sorted(await _visible(sides[0], half, samples))
    figures = (
        (
            "CPU of worker and Postgres, more than without",
            median(a.cpu_us / b.cpu_us for a, b in pairs) - 1,
            _CPU_BAR,
            True,
        ),
        ("throughput ÷ without", median(a.rate / b.rate for a, b in pairs), _RATE_BAR, False),
        ("p99 ÷ without", median(a.p99_ms / b.p99_ms for a, b in pairs), _P99_BAR, True),
        (f"commit → visible p50 at {half:.0f}/s, ms", visible[len(visible) // 2], _VISIBLE_BARS_MS[0], True),
        (f"commit → visible p99 at {half:.0f}/s, ms", visible[len(visible) * 99 // 100], _VISIBLE_BARS_MS[1], True),
    )
    held = True
    for what, value, bar, at_most in figures:
        good = value <= bar if at_most else value >= bar
        held = held and good
        click.echo(f"{what:60} {value:8.2f}  {'≤' if at_most else '≥'} {bar:g}  {'holds' if good else 'FAILS'}")
    return held


@click.command()
@click.option("--rounds", type=click.IntRange(1, 50), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.5, 60), default=4.0, show_default=True, help="Of each turn.")
@click.option("--samples", type=click.IntRange(10, 10_000), default=500, show_default=True, help="Commands observed.")
def main(rounds: int, seconds: float, samples: int) -> None:
    """Print what the projection costs and how soon it shows a command; exit 1 when a bar is missed."""
    if not uvloop.run(_run(rounds, seconds, samples)):
        sys.exit(1)


if __name__ == "__main__":
    main()
