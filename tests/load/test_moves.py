"""The reference's load and its client against three workers whose shards move all the time: no request fails."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shard_worker.tasks import cancel_and_wait
from tests.load.reference import simulate
from tests.load.reference_client import DECODERS, ReferenceClient
from tests.support.load.chat import random_ulid
from tests.support.load.client import Client
from tests.support.load.figures import Figures
from tests.support.load.target import Target, parse_target
from tests.support.worker_processes import Workers, workers_on

NAMES = ("a", "b", "c")


async def test_the_reference_runs_clean_while_shards_move(dsn: str, tmp_path: Path) -> None:
    """Some users for a few seconds; and every answer is what the reference's client decodes."""
    await _scenario(dsn, tmp_path, users=10, hold_s=2.0, lives=4)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_the_reference_runs_clean_for_minutes_while_shards_move(dsn: str, tmp_path: Path) -> None:
    """A hundred users, as many as the reference's containers ran, for five minutes."""
    await _scenario(dsn, tmp_path, users=100, hold_s=300.0, lives=200)


async def _scenario(dsn: str, folder: Path, *, users: int, hold_s: float, lives: int) -> None:
    figures, decoding = Figures(), Figures()
    async with workers_on(dsn, folder, *NAMES) as workers:
        targets = [parse_target(url) for url in workers.urls]
        async with _moving(workers) as moves:
            async with asyncio.TaskGroup() as group:
                group.create_task(simulate(targets, figures, users=users, ramp_s=1.0, pause_s=0.1, hold_s=hold_s))
                for number in range(4):
                    group.create_task(_live(targets, decoding, number, lives // 4))
            assert len(moves) > 1, "no shard moved"
        await workers.fsck()
        for name in NAMES:
            assert (await workers.metrics(of=name))["threadcluster_takeovers_total"] == 0.0
    print(f"{figures.sent} requests beside {len(moves) * workers.shards} moves, and {decoding.sent} that were decoded")
    for row in figures.summaries():
        print(row)
    for found in (figures, decoding):
        assert found.balance() is None
        assert not found.check_failures
        assert found.total("unknown") == found.not_sent == 0
    assert figures.total("accepted") == figures.sent > users
    assert decoding.total("refused") == lives  # one a life: a thread that is not there


async def _live(targets: list[Target], figures: Figures, number: int, lives: int) -> None:
    """One user of the reference's client after the other."""
    rng = random.SystemRandom()
    client = Client(targets, figures, first=number)
    try:
        for _ in range(lives):
            user = ReferenceClient(client, random_ulid(rng))
            await user.life_of_a_thread(random_ulid(rng), lambda: random_ulid(rng))
            assert user.decoded == DECODERS.keys()
    finally:
        client.close()


@asynccontextmanager
async def _moving(workers: Workers) -> AsyncIterator[list[int]]:
    """Every shard goes to the next worker, again and again, for as long as the block runs; counts the rounds in the list."""
    rounds: list[int] = []

    async def move() -> None:
        for number in itertools.count(1):
            first = number % len(NAMES)
            await workers.spread(*NAMES[first:], *NAMES[:first])
            rounds.append(number)

    task = asyncio.create_task(move())
    try:
        yield rounds
        if task.done():
            task.result()
    finally:
        await cancel_and_wait(task)
