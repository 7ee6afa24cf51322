"""The supervisor's parts that must never end: a failure reaches `up` at once, with its cause."""

import asyncio
from pathlib import Path

import pytest
from threadcluster_operator.api import parse_resources
from threadcluster_operator.local.data_dir import DataDir
from threadcluster_operator.local.database_choice import DatabaseChoice
from threadcluster_operator.local.errors import UpFailed
from threadcluster_operator.local.supervisor import Supervisor
from threadcluster_operator.local.worker_process import WorkerProcess

from shard_worker.tasks import FirstFailure, TaskFailure

DEMO = """
apiVersion: threadcluster.io/v1alpha1
kind: ThreadCluster
metadata: {name: demo}
spec: {replicas: 1}
"""


def supervisor(folder: Path) -> Supervisor:
    """A supervisor that is not up."""
    resources = parse_resources(DEMO, "demo.yaml")
    return Supervisor(DataDir(folder), resources, port=0, database=DatabaseChoice(), say=lambda _: None)


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
