"""Rebuilding a million events: how fast it is, alone and under load, and what it costs the commands of that time."""

import asyncio
import time
from pathlib import Path

import asyncpg
import pytest

from shard_worker.readmodel.rebuild import rebuild
from shard_worker.readmodel.verify import verify
from tests.readmodel.sessions import caught_up
from tests.support.journal_writer import fill
from tests.support.load.chat import drive
from tests.support.load.figures import Figures, percentile
from tests.support.polling import eventually
from tests.support.worker_processes import Workers, workers_on

_THREADS, _EVENTS_EACH = 10_000, 100
_CLIENTS = 16
_PAUSE_S = 0.08
"""Between two commands of a client: about 200 commands a second in all, which leaves a machine of two cores half idle."""
_LEAST_PER_S = 30_000.0
_MOST_S = 90.0
_P99_BAR = 1.3


class Load:
    """Clients that chat until `end`, and the times of their commands."""

    def __init__(self, workers: Workers) -> None:
        self._figures = Figures()
        self._stop = asyncio.Event()
        driving = drive(
            workers.urls, clients=_CLIENTS, until=self._stop, seed=3, pause_s=_PAUSE_S, figures=self._figures
        )
        self._task = asyncio.create_task(driving)

    def _latencies(self) -> dict[str, int]:
        return {name: len(each.latencies_s) for name, each in self._figures.operations.items()}

    async def p99_ms(self, work: "asyncio.Future[int] | None" = None, *, least_s: float = 0.0) -> float:
        """The p99 of commands from now until ``work`` has ended and ``least_s`` have passed."""
        before, until = self._latencies(), time.monotonic() + least_s
        if work is not None:
            await work
        await asyncio.sleep(max(0.0, until - time.monotonic()))
        took = sorted(
            each
            for name, operation in self._figures.operations.items()
            for each in operation.latencies_s[before.get(name, 0) :]
        )
        return percentile(took, 0.99) * 1000

    async def end(self) -> None:
        """Return when every client has settled its last command."""
        self._stop.set()
        record = await self._task
        assert not record.unresolved


async def _projected(connection: asyncpg.Connection, within_s: float) -> None:
    await eventually(lambda: caught_up(connection), within_s=within_s, what="the journal is projected")


@pytest.mark.soak
@pytest.mark.timeout(1_200)
async def test_a_million_events_are_rebuilt(dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At 30,000 a second while nothing else happens, and within 90 s under load, whose p99 rises by at most 0.3."""
    connection = await asyncpg.connect(dsn)
    events = await fill(connection, threads=_THREADS, events=_EVENTS_EACH)
    async with workers_on(dsn, tmp_path, "w0", "w1") as workers:
        await _projected(connection, 300.0)
        began = time.monotonic()
        await rebuild(connection, keep_old=False, say=lambda _: None)
        idle_s = time.monotonic() - began
        # The log's files of a server that has run for a while are there: a new one is made while everything waits.
        await connection.execute("CHECKPOINT")
        load = Load(workers)
        await load.p99_ms(least_s=3.0)  # until every client has its threads
        alone_ms = await load.p99_ms(least_s=20.0)
        began = time.monotonic()
        rebuilding = asyncio.ensure_future(rebuild(connection, keep_old=False, say=lambda _: None))
        beside_ms = await load.p99_ms(rebuilding)
        loaded_s = time.monotonic() - began
        await load.end()
        await _projected(connection, 60.0)
        generation = await connection.fetchval("SELECT generation FROM readmodel_generation WHERE live")
        differences = [str(each) async for each in verify(connection, generation, say=lambda _: None)]
    await connection.close()
    with capsys.disabled():
        print(
            f"\n{events:,} events: {idle_s:.1f} s idle ({events / idle_s:,.0f} a second), {loaded_s:.1f} s under load;"
            f" p99 of commands {alone_ms:.1f} ms without and {beside_ms:.1f} ms beside a rebuild"
        )
    assert differences == []
    assert events / idle_s >= _LEAST_PER_S
    assert loaded_s <= _MOST_S
    assert beside_ms <= alone_ms * _P99_BAR
