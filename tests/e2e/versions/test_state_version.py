"""The first commands after a release that raised the version of the state, over HTTP, on a real worker process."""

import asyncio
import random
from pathlib import Path
from statistics import quantiles
from time import perf_counter

import aiohttp
import asyncpg
import pytest

from shard_worker.domain.events import Event
from shard_worker.domain.ids import ThreadId
from shard_worker.journal.codec import STATE_VERSION
from tests.conftest import MakeDatabase
from tests.support.journal_writer import ANN, SHARDS, JournalWriter, created, folded, new_thread, posted
from tests.support.worker_processes import workers_on

THREADS = 200
"""On each side: threads whose snapshots are of this release, and of the one before."""
EVENTS = 150
SNAPSHOT_AT = 130
CLIENTS = 8


async def _write(dsn: str) -> list[tuple[int, ThreadId]]:
    """Threads with histories and snapshots, in unowned shards; each with the version of its snapshot."""
    connection = await asyncpg.connect(dsn)
    pen = JournalWriter(connection)
    found = []
    async with connection.transaction():
        for version in (STATE_VERSION, STATE_VERSION - 1):
            for _ in range(THREADS):
                events: list[Event] = [created(), *[posted(at=at) for at in range(2, EVENTS + 1)]]
                thread = new_thread()
                await pen.write(thread, *events)
                await pen.snapshot(thread, folded(events[:SNAPSHOT_AT]), version=version)
                found.append((version, thread))
        for shard in range(SHARDS):
            await pen.claim(shard, incarnation=None)
    await connection.close()
    return found


async def _post_once_each(url: str, threads: list[tuple[int, ThreadId]]) -> dict[int, list[float]]:
    """One command to each thread, from some clients; how long each took in seconds, by the thread's version."""
    took: dict[int, list[float]] = {version: [] for version, _ in threads}
    waiting = iter(threads)

    async def client(session: aiohttp.ClientSession) -> None:
        for version, thread in waiting:
            body = {"accountId": ANN, "messages": [{"text": "after the upgrade"}]}
            began = perf_counter()
            async with session.post(f"{url}/v1/threads/{thread}/messages/add", json=body) as response:
                assert response.status == 200, await response.text()
            took[version].append(perf_counter() - began)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*[client(session) for _ in range(CLIENTS)])
    return took


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_first_commands_after_an_upgrade_are_as_quick_as_any(make_database: MakeDatabase, tmp_path: Path) -> None:
    """Their p99 is within twice that of first commands to threads whose snapshots this release wrote."""
    dsn = await make_database(SHARDS)
    threads = await _write(dsn)
    random.Random(7).shuffle(threads)
    took: dict[int, list[float]] = {}
    warm: dict[int, list[float]] = {}
    for _ in range(5):  # each time nothing is in memory
        async with workers_on(dsn, tmp_path / "workers", "a", shards=SHARDS) as workers:
            for found, into in (
                (await _post_once_each(workers.url, threads), took),
                (await _post_once_each(workers.url, threads), warm),
            ):
                for version, seconds in found.items():
                    into.setdefault(version, []).extend(seconds)
            await workers.by_name["a"].kill()
    steady, upgraded = (quantiles(took[version], n=100)[98] * 1000 for version in (STATE_VERSION, STATE_VERSION - 1))
    in_memory = quantiles([each for version in warm.values() for each in version], n=100)[98] * 1000
    print(
        f"p99 of first commands: {steady:.1f} ms steady, {upgraded:.1f} ms after an upgrade; in memory {in_memory:.1f} ms"
    )
    assert upgraded <= 2 * steady
