"""Workers of two releases on one journal, while clients chat: real processes, a planted event version 2.

`tests.e2e.versions.next_release` is the second release.  Every step is the one of docs/upgrades.md.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from tests.e2e.versions.rolling import chatting, restart_each
from tests.support.polling import more_acknowledged
from tests.support.worker_processes import WorkerProcess, Workers, workers_on

TWO, THREE = ("a", "b"), ("a", "b", "c")
SHARDS = 6
NEXT_RELEASE = "tests.e2e.versions.next_release"


async def roll(workers: Workers, names: Sequence[str], write_format: int) -> None:
    """Restart the workers one after another as the next release that writes this format."""

    def change(worker: WorkerProcess) -> None:
        worker.program = NEXT_RELEASE
        worker.settings = {"SHARD_WORKER_WRITE_FORMAT": str(write_format)}

    await restart_each(workers, names, change)


async def formats(dsn: str) -> list[int]:
    """The format of each shard."""
    connection = await asyncpg.connect(dsn)
    try:
        return [row["format"] for row in await connection.fetch("SELECT format FROM shard ORDER BY id")]
    finally:
        await connection.close()


async def count_written(dsn: str, version: int) -> int:
    """How many `MessagesAdded` events of a version the journal has."""
    connection = await asyncpg.connect(dsn)
    try:
        sql = "SELECT count(*) FROM journal WHERE event_type = 7 AND event_version = $1"
        return int(await connection.fetchval(sql, version))
    finally:
        await connection.close()


async def check_journal(dsn: str) -> None:
    """Fail unless the next release proves the journal."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", NEXT_RELEASE, "fsck", "--dsn", dsn),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()


async def forward_and_back(dsn: str, folder: Path, seed: int, names: Sequence[str]) -> None:
    """Some workers: the next release, then its format, then back; at last a worker of the first release joins."""
    async with workers_on(dsn, folder, *names, shards=SHARDS) as workers:
        async with chatting(workers, seed) as recorder:
            await roll(workers, names, write_format=1)
            assert await formats(dsn) == [1] * SHARDS
            assert await count_written(dsn, 2) == 0

            await roll(workers, names, write_format=2)
            await more_acknowledged(recorder, 50)
            assert await formats(dsn) == [2] * SHARDS
            written = await count_written(dsn, 2)
            assert written > 0

            await roll(workers, names, write_format=1)
            older = await count_written(dsn, 1)
            newer = await count_written(dsn, 2)
            await more_acknowledged(recorder, 50)
            assert await count_written(dsn, 1) > older
            assert await count_written(dsn, 2) == newer
            assert await formats(dsn) == [2] * SHARDS  # there are events of it: it never falls
        assert workers.logged("poison") == []
        await check_journal(dsn)
        await expect_no_capable_worker(workers, names)


async def expect_no_capable_worker(workers: Workers, names: Sequence[str]) -> None:
    """A worker that does not read the shards' format gets none of them, also when it is the only one alive."""
    await workers.start("old")
    await workers.plan(dict.fromkeys(range(SHARDS), "old"))
    await asyncio.gather(*[workers.by_name[name].kill() for name in names])
    async with aiohttp.ClientSession() as session, asyncio.timeout(90):
        while True:
            async with session.get(f"{workers.by_name['old'].management}/cluster") as response:
                shards = (await response.json())["shards"]
            if {shard["reason"] for shard in shards} == {"NoCapableWorker"}:
                break
            await asyncio.sleep(0.02)
    assert {shard["owner"] for shard in shards} == {None}
    assert workers.logged("NoCapableWorker")
    assert (await workers.ownership(of="old"))["serving"] == []
    workers.add("a")
    await workers.start("a")
    await workers.served("a", within_s=90)
    assert workers.logged("poison") == []


@pytest.mark.timeout(900)  # a dozen processes are started, one after another
async def test_an_event_version_rolls_forward_and_back(dsn_of_six: str, tmp_path: Path) -> None:
    """No request fails and no thread is poisoned through six restarts of two workers."""
    await forward_and_back(dsn_of_six, tmp_path, seed=1, names=TWO)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2, 12))
async def test_an_event_version_rolls_forward_and_back_again_and_again(
    dsn_of_six: str, tmp_path: Path, seed: int
) -> None:
    """The same with three workers, nine restarts and other clients."""
    await forward_and_back(dsn_of_six, tmp_path, seed, names=THREE)
