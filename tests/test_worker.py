"""One worker in this process: the end of any part ends it at once, and it closes from whatever state it reached."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from pydantic import SecretStr

from shard_worker.database.claim_store import ClaimedByOther
from shard_worker.settings import WorkerSettings
from shard_worker.worker import Worker, WorkerFailed
from tests.support.polling import eventually

AT_ONCE_S = 0.3
"""Less than a poll every half second would take; in time of a loop that other tests may slow down."""
PARTS = [
    "append-0",
    "append-1",
    "journal-tail",
    "membership",
    "memory-trimmer",
    "read-model",
    "region-sweep",
    "secret-file",
    "snapshot-writer",
    "stream-beats",
    "stream-owners",
]
"""All tasks of a worker that must never end."""
INCARNATION = ["lease", "reconciler"]
"""Tasks of one incarnation: their failure is the membership's."""


def settings_of(dsn: str, secret_file: Path, **changed: object) -> WorkerSettings:
    """A worker alone, on ports that the system chooses."""
    secret_file.write_bytes(b"a secret of sixteen bytes or more")
    given: dict[str, object] = {
        "name": "w0",
        "cluster": "test",
        "dsn": SecretStr(dsn),
        "secret_file": secret_file,
        "public_port": 0,
        "management_port": 0,
        "append_connections": 2,
    }
    return WorkerSettings.model_validate(given | changed)


@asynccontextmanager
async def running(settings: WorkerSettings) -> AsyncIterator[Worker]:
    """A worker that is registered."""
    worker = Worker(settings)
    try:
        assert await worker.start(asyncio.Event())
        cluster = worker._cluster
        assert cluster is not None
        await eventually(cluster.ownership.registered.is_set)
        await eventually(lambda: set(INCARNATION) <= names())
        yield worker
    finally:
        await worker.close()


def names() -> set[str]:
    """Of all tasks but the test's own."""
    return {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()}


async def plant(name: str, error: Exception) -> None:
    """Have what a task waits for fail."""
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == name]
    while (waiter := getattr(task, "_fut_waiter", None)) is None or waiter.done():
        await asyncio.sleep(0)
    waiter.set_exception(error)


async def livez(worker: Worker) -> tuple[int, str | None]:
    """The status and the reason."""
    assert worker._sockets is not None
    port = worker._sockets.management.getsockname()[1]
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/livez") as answer:
        return answer.status, (await answer.json())["reason"]


@pytest.mark.parametrize("name", [*PARTS, *INCARNATION])
async def test_a_part_that_fails_ends_the_worker_at_once_with_its_cause(dsn: str, tmp_path: Path, name: str) -> None:
    """No poll: the wait for a stop ends with the failure, and `/livez` has the same reason."""
    async with running(settings_of(dsn, tmp_path / "secret")) as worker:
        loop, cause = asyncio.get_running_loop(), RuntimeError("planted")
        assert await livez(worker) == (200, None)
        waiting = asyncio.create_task(worker.until(asyncio.Event()), name="until")
        await plant(name, cause)
        planted_at = loop.time()
        reported = "membership" if name in INCARNATION else name
        with pytest.raises(WorkerFailed, match=f"{reported}: RuntimeError") as raised:
            await waiting
        assert loop.time() - planted_at < AT_ONCE_S
        assert raised.value.__cause__ is cause
        assert await livez(worker) == (503, f"{reported}: RuntimeError('planted')")


async def test_every_long_lived_task_of_a_worker_is_in_the_list_above(dsn: str, tmp_path: Path) -> None:
    """A part that gets a task gets a test."""
    async with running(settings_of(dsn, tmp_path / "secret")):
        await eventually(lambda: names() - {"await-fail-over"} == {*PARTS, *INCARNATION})


async def test_a_stop_and_a_leave_end_the_worker_and_leave_no_task_and_no_port(dsn: str, tmp_path: Path) -> None:
    """The whole way of a SIGTERM."""
    async with running(settings_of(dsn, tmp_path / "secret", drain_seconds=5.0)) as worker:
        stopping = asyncio.Event()
        waiting = asyncio.create_task(worker.until(stopping), name="until")
        stopping.set()
        await waiting
        await worker.leave()
        assert worker._sockets is not None
        address = worker._sockets.public.getsockname()
    await eventually(lambda: not names())
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)
    await worker.close()  # once more does no harm


async def test_a_worker_whose_port_is_taken_closes(dsn: str, tmp_path: Path) -> None:
    """Nothing is built but the first socket, which is closed with the error."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        worker = Worker(settings_of(dsn, tmp_path / "secret", management_port=taken.getsockname()[1]))
        with pytest.raises(OSError, match="in use"):
            await worker.start(asyncio.Event())
        await worker.close()
    assert not names()


async def test_a_worker_that_the_database_refuses_closes(dsn: str, tmp_path: Path) -> None:
    """Sockets and links are there, and nothing that serves."""
    worker = Worker(settings_of(dsn, tmp_path / "secret", cluster="another"))
    with pytest.raises(ClaimedByOther):
        await worker.start(asyncio.Event())
    assert worker._sockets is not None
    public = worker._sockets.public
    await worker.close()
    assert public.fileno() == -1
    await eventually(lambda: not names())


async def test_a_stop_before_the_database_answers_ends_the_start(tmp_path: Path) -> None:
    """The start waits for a database for as long as it takes, but not longer than for a stop."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dsn = f"postgresql://someone@127.0.0.1:{silent.getsockname()[1]}/nothing"
        worker, stopping = Worker(settings_of(dsn, tmp_path / "secret")), asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, stopping.set)
        async with asyncio.timeout(5):
            assert not await worker.start(stopping)
            await worker.close()
    await eventually(lambda: not names())


async def test_a_step_of_close_that_fails_does_not_keep_the_later_steps_from_running(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sockets are the last step."""
    worker = Worker(settings_of(dsn, tmp_path / "secret"))
    assert await worker.start(asyncio.Event())
    assert worker._serving is not None
    assert worker._sockets is not None

    async def fail() -> None:
        raise ValueError("planted")

    monkeypatch.setattr(worker._serving.gateway, "close", fail)
    with pytest.raises(ValueError, match="planted"):
        await worker.close()
    assert worker._sockets.public.fileno() == -1
    monkeypatch.undo()
    await worker._serving.gateway.close()
    await eventually(lambda: not names())
