"""The supervisor's parts that must never end: a failure reaches `up` at once, with its cause."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from threadcluster_operator.api import parse_resources
from threadcluster_operator.local.data_dir import DataDir
from threadcluster_operator.local.database_choice import DatabaseChoice
from threadcluster_operator.local.errors import UpFailed
from threadcluster_operator.local.supervisor import Supervisor
from threadcluster_operator.local.worker_process import WorkerProcess

from shard_worker.database.claim import Claimant
from shard_worker.database.migration import migrate
from shard_worker.tasks import FirstFailure, TaskFailure
from tests.support.polling import eventually

DEMO = """
apiVersion: threadcluster.io/v1alpha1
kind: ThreadCluster
metadata: {name: demo}
spec: {replicas: 1, shards: 8}
"""
SHARDS = 8


def supervisor(folder: Path, url: str | None = None) -> Supervisor:
    """A supervisor that is not up."""
    resources = parse_resources(DEMO, "demo.yaml")
    return Supervisor(DataDir(folder), resources, port=0, database=DatabaseChoice(url), say=lambda _: None)


async def test_a_part_that_ended_ends_the_wait_for_a_stop(tmp_path: Path) -> None:
    """The error names the part and has the cause."""
    local, cause = supervisor(tmp_path), RuntimeError("planted")
    asyncio.get_running_loop().call_soon(local.failure.report, TaskFailure("control", cause))
    async with asyncio.timeout(0.3):
        with pytest.raises(UpFailed, match="control: RuntimeError") as raised:
            await local.fail_until(asyncio.Event())
    assert raised.value.__cause__ is cause


async def test_a_stop_ends_the_wait_without_an_error(tmp_path: Path) -> None:
    """A failure of later is not waited for."""
    local, stopping = supervisor(tmp_path), asyncio.Event()
    stopping.set()
    async with asyncio.timeout(0.3):
        await local.fail_until(stopping)
    await local.down()  # what was never up goes down too


async def test_a_keeper_of_a_worker_that_fails_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its keeper a worker that dies would stay dead."""
    failed, worker = FirstFailure(), WorkerProcess("w0", DataDir(tmp_path), {}, 3)

    async def fail() -> int:
        raise ValueError("planted")

    monkeypatch.setattr(worker, "_run_once", fail)
    worker.start(failed.report)
    async with asyncio.timeout(0.3):
        failure = await failed.wait()
    assert failure.name == "keep-w0"
    assert isinstance(failure.cause, ValueError)


async def take_over(local: Supervisor, dsn: str) -> None:
    """Another cluster displaces this one."""
    other = Claimant("other", "uid-2", "other", "site-2")
    held = local.data_dir.id
    await migrate(dsn, cluster_id="other", shards=SHARDS, say=lambda _: None, claimant=other, take_over=held)


@asynccontextmanager
async def up(local: Supervisor) -> AsyncIterator[None]:
    """A supervisor that is up, and goes down."""
    try:
        await local.up()
        yield
    finally:
        await local.down()


async def test_a_database_that_is_taken_before_the_workers_start_ends_up(
    empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers end again and again and answer no question: the database itself is asked whose it is."""
    local = supervisor(tmp_path, empty)
    migrated = local._migrate

    async def migrate_and_lose() -> None:
        await migrated()
        await take_over(local, empty)

    monkeypatch.setattr(local, "_migrate", migrate_and_lose)
    async with asyncio.timeout(60), up(local):
        with pytest.raises(UpFailed, match="uid-2"):
            await local.await_converged()
        assert "uid-2" in (await local.status())["claimedByOther"]


async def test_a_database_that_is_taken_before_the_workers_are_ready_ends_up(
    empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers run, and say whose the database is."""
    local = supervisor(tmp_path, empty)
    monkeypatch.setattr(local.converged, "set", lambda: None)
    async with asyncio.timeout(60), up(local):
        await eventually(lambda: bool(local._watch is not None and local._watch.answers), within_s=30)
        await take_over(local, empty)
        with pytest.raises(UpFailed, match="uid-2"):
            await local.await_converged()
