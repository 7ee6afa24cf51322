"""Rebuilding a million events: how fast it is, alone and under load, and what it costs the commands of that time."""

import asyncio
import time
from pathlib import Path
from statistics import median

import asyncpg
import pytest

from shard_worker.readmodel.rebuild import rebuild
from shard_worker.readmodel.verify import verify
from tests.benchmarks.generator import Measured
from tests.benchmarks.measure import Pins, generate, write_requests
from tests.benchmarks.postgres import seasoned_postgres
from tests.benchmarks.read_side import caught_up
from tests.benchmarks.run import fresh_database
from tests.benchmarks.threads import make_threads
from tests.support.journal_writer import SHARDS, fill
from tests.support.programs import Program, worker_alone

_THREADS, _EVENTS_EACH = 10_000, 100
_CONNECTIONS = 64
_POSTED_TO = 2_000
"""Threads that the commands go round."""
_LEAST_PER_S = 30_000.0
_MOST_S = 90.0
_P99_BAR = 1.3
_PIECE_S = 5.0
"""Of the commands whose p99 is taken.  The medians of the pieces are compared: once or twice in a quarter of a minute the log's flush
waits 100 ms for the kernel, which writes back other files, and then every command does.
"""
_ALONE = 6
"""Pieces before the rebuild."""


async def _p99s_ms(program: Program, requests: Path, rate: float, rebuilding: "asyncio.Future[int]") -> list[float]:
    """Of the pieces that begin and end within the rebuild."""
    found: list[float] = []
    while not rebuilding.done():
        p99_ms = (await _commands(program, requests, _PIECE_S, rate)).latency_ms["p99"]
        if not rebuilding.done():
            found.append(p99_ms)
    return found


async def _commands(program: Program, requests: Path, seconds: float, rate: float | None = None) -> Measured:
    measured = await generate(program, requests, _CONNECTIONS, seconds, "own", Pins(), rate=rate)
    assert not measured.failures
    return measured


@pytest.mark.soak
@pytest.mark.timeout(1_200)
async def test_a_million_events_are_rebuilt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At 30,000 a second while nothing else happens, and within 90 s beside half of the commands that the worker can take at most,
    whose p99 rises by at most 0.3.
    """
    async with seasoned_postgres(tmp_path) as base:
        dsn = await fresh_database(base, "rebuild", cluster="test", shards=SHARDS)
        connection = await asyncpg.connect(dsn)
        events = await fill(connection, threads=_THREADS, events=_EVENTS_EACH)
        async with worker_alone(dsn, tmp_path, shards=SHARDS) as program:
            await caught_up(connection)
            began = time.monotonic()
            await rebuild(connection, keep_old=False, say=lambda _: None)
            idle_s = time.monotonic() - began
            requests = write_requests(tmp_path, await make_threads(program.url, _POSTED_TO))
            half = (await _commands(program, requests, 10.0)).per_second / 2
            await caught_up(connection)
            for statement in (
                "VACUUM ANALYZE",
                "CHECKPOINT",
            ):  # which the server would make sometime after a million new rows
                await connection.execute(statement, timeout=120)
            alone = [(await _commands(program, requests, _PIECE_S, half)).latency_ms["p99"] for _ in range(_ALONE)]
            began = time.monotonic()
            rebuilding = asyncio.ensure_future(rebuild(connection, keep_old=False, say=lambda _: None))
            beside = await _p99s_ms(program, requests, half, rebuilding)
            await rebuilding
            loaded_s = time.monotonic() - began
            await caught_up(connection)
            generation = await connection.fetchval("SELECT generation FROM readmodel_generation WHERE live")
            differences = [str(each) async for each in verify(connection, generation, say=lambda _: None)]
        await connection.close()
    with capsys.disabled():
        print(
            f"\n{events:,} events: {idle_s:.1f} s idle ({events / idle_s:,.0f} a second), {loaded_s:.1f} s beside {half:,.0f}"
            f" commands a second; their p99 {_listed(alone)} ms without and {_listed(beside)} ms beside a rebuild"
        )
    assert differences == []
    assert events / idle_s >= _LEAST_PER_S
    assert loaded_s <= _MOST_S
    assert median(beside) <= median(alone) * _P99_BAR


def _listed(each_ms: list[float]) -> str:
    return " ".join(f"{ms:.1f}" for ms in each_ms)
