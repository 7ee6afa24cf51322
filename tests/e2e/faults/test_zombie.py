"""A worker that was paused, fenced meanwhile, and continued."""

import asyncio
import os
import random
import signal
from pathlib import Path

import asyncpg

from shard_worker.ownership import store
from shard_worker.ownership.view import EMPTY
from tests.support.load.chat import PACE_S, Recorder, drive, verify
from tests.support.local_cluster import local_cluster
from tests.support.polling import more_acknowledged


async def test_a_fenced_zombie_writes_nothing_more_and_serves_again(data_dir: Path) -> None:
    """0 further rows of its old incarnation, and the same process goes on under a new one."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    async with local_cluster(data_dir, shards=16) as cluster:
        found = await cluster.status()
        database = await asyncpg.connect(cluster.admin_dsn)
        stop, recorder = asyncio.Event(), Recorder(seed=seed, clients=32)
        driving = asyncio.create_task(
            drive(
                [worker["address"] for worker in found["workers"]],
                clients=32,
                until=stop,
                seed=seed,
                grace_s=60,
                pause_s=PACE_S,
                recorder=recorder,
            )
        )
        await more_acknowledged(recorder, 500)
        # The clients share a few threads: the owner of most of them is the victim.
        epochs = "SELECT e.shard_id, e.epoch FROM shard_epoch e WHERE e.incarnation = $1"
        rows = f"SELECT count(*) FROM journal j JOIN ({epochs}) z ON z.shard_id = j.shard_id AND z.epoch = j.epoch"
        wrote = [await database.fetchval(rows, worker["incarnation"]) for worker in found["workers"]]
        zombie = found["workers"][wrote.index(max(wrote))]
        os.kill(zombie["pid"], signal.SIGSTOP)
        # The first look may fall between two beats that are still being committed.
        async with asyncio.timeout(10):
            fenced = None
            while fenced is None:
                beat = (await store.read_view(database, EMPTY)).workers[zombie["name"]].beat
                fenced = await store.fence(database, zombie["name"], zombie["incarnation"], beat, {}, "by hand")
        written = await database.fetchval(rows, zombie["incarnation"])
        assert written > 0
        await more_acknowledged(recorder, 100)
        os.kill(zombie["pid"], signal.SIGCONT)
        await more_acknowledged(recorder, 500)
        after = await cluster.ready()
        stop.set()
        record = await driving
        assert await database.fetchval(rows, zombie["incarnation"]) == written
        again = next(worker for worker in after["workers"] if worker["name"] == zombie["name"])
        assert again["pid"] == zombie["pid"]
        assert again["incarnation"] != zombie["incarnation"]
        assert again["shards"]
        assert await verify(found["url"], record) == []
        await database.close()
        await cluster.fsck()
