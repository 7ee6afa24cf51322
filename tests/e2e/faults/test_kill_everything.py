"""kill -9 of every process, Postgres included, while 64 clients post; then `up` again."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.support.load.chat import PACE_S, Recorder, drive, verify
from tests.support.local_cluster import local_cluster
from tests.support.polling import more_acknowledged

CLIENTS = 64


async def kill_rounds(data_dir: Path, rounds: int, seed: int, *, most: int) -> None:
    """Chat through ``rounds`` power cuts, each after a bounded number of commands, then account for every acknowledged
    one.
    """
    print(f"seed {seed}")
    moments = random.Random(seed)
    async with local_cluster(data_dir) as cluster:
        stop = asyncio.Event()
        url = (await cluster.status())["url"]
        recorder = Recorder(seed=seed, clients=CLIENTS)
        driving = asyncio.create_task(
            drive(url, clients=CLIENTS, until=stop, seed=seed, grace_s=60.0, pause_s=PACE_S, recorder=recorder)
        )
        try:
            for _ in range(rounds):
                await more_acknowledged(recorder, moments.randint(50, most))
                await cluster.kill_everything()
                await cluster.up()
            await more_acknowledged(recorder, 200)
        finally:
            stop.set()
        record = await driving
        assert len(record.acknowledged) > 50 * rounds
        assert await verify(url, record) == []
        await cluster.fsck()


async def test_every_acknowledged_command_survives_a_power_cut(data_dir: Path) -> None:
    """Three times over: everything acknowledged is there, nothing twice, and the journal proves itself."""
    await kill_rounds(data_dir, rounds=3, seed=random.randrange(2**32), most=1_000)


@pytest.mark.soak
async def test_twenty_five_power_cuts(data_dir: Path) -> None:
    """The same, twenty-five times."""
    await kill_rounds(data_dir, rounds=25, seed=random.randrange(2**32), most=3_000)
