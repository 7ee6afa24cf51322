"""The cluster's secret is rotated while real workers serve: no client sees an error, and the old secret is worth nothing."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from ulid import ULID

from shard_worker.contract_tls import INTERNAL_NAME, fingerprint, internal_client_context
from tests.e2e.moves.chatting import chatting
from tests.support.load.figures import Figures
from tests.support.polling import more_acknowledged
from tests.support.worker_processes import SECRET, Workers, workers_on

ME = str(ULID())


async def hold(workers: Workers, *secrets: str) -> None:
    """Write the secret's file as a mounted Secret changes, and return when every worker holds just these values."""
    fresh = workers.secret_file.with_suffix(".new")
    fresh.write_text("\n".join(secrets) + "\n")
    fresh.replace(workers.secret_file)
    wanted = [fingerprint(secret.encode()) for secret in secrets]
    async with asyncio.timeout(20):
        for name in workers.by_name:
            while True:
                try:
                    if (await workers.ownership(of=name))["secrets"] == wanted:
                        break
                except (AssertionError, aiohttp.ClientError, TimeoutError):
                    pass  # it does not hold what the test signs with yet
                await asyncio.sleep(0.02)


async def rotate(workers: Workers, old: str, new: str) -> None:
    """The three steps of docs/internal-api.md."""
    await hold(workers, old, new)
    await hold(workers, new, old)
    await hold(workers, new)


async def page(session: aiohttp.ClientSession, url: str, thread: str, cursor: str | None) -> Any:  # JSON
    """A page of one message."""
    query = f"account_id={ME}&limit=1" + (f"&cursor={cursor}" if cursor else "")
    async with session.get(f"{url}/v1/threads/{thread}/messages?{query}") as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def test_the_secret_is_rotated_under_load_and_no_client_sees_an_error(dsn: str, tmp_path: Path) -> None:
    """Twice, without a restart; links are made again, a cursor goes on, the secret of before opens nothing."""
    async with workers_on(dsn, tmp_path, "a", "b") as workers, aiohttp.ClientSession() as session:
        pids = {name: worker.pid for name, worker in workers.by_name.items()}
        thread = await _thread(session, workers.urls[0])
        first = await page(session, workers.urls[0], thread, None)
        figures = Figures()
        async with chatting(workers, figures) as recorder:
            await rotate(workers, SECRET, "another secret for tests")
            await more_acknowledged(recorder, 100)
            await rotate(workers, "another secret for tests", "a third secret for tests")
            await more_acknowledged(recorder, 100)
        assert figures.total("refused") == figures.total("unknown") == figures.not_sent == 0
        second = await page(session, workers.urls[1], thread, first["nextCursor"])
        assert len(second["result"]) == 1
        assert b"two" in msgspec.json.encode(second["result"])
        for url in workers.urls:  # each worker forwards: the eight threads of the clients may all be on one
            for _ in range(16):
                await _thread(session, url)
        for name, worker in workers.by_name.items():
            assert worker.pid == pids[name]
            assert (await workers.metrics(of=name))["threadcluster_peer_links"] == 1.0, "of the new secret alone"
            with pytest.raises(aiohttp.ClientError):
                await session.get(
                    worker.management.replace("http:", "https:") + "/internal/v1/ownership",
                    ssl=internal_client_context((SECRET.encode(),)),
                    server_hostname=INTERNAL_NAME,
                )


async def test_a_file_that_is_no_secret_changes_nothing(dsn: str, tmp_path: Path) -> None:
    """Absent, empty or too short for a moment, as while it is replaced: the values of before are kept, and it is logged."""
    async with workers_on(dsn, tmp_path, "a") as workers:
        held = (await workers.ownership())["secrets"]
        for number, content in enumerate((None, "", "short", "one\ntwo\nthree"), 1):
            workers.secret_file.unlink(missing_ok=True)
            if content is not None:
                workers.secret_file.write_text(content)
            async with asyncio.timeout(20):
                while len(workers.logged("failed to read its secret again")) < number:
                    await asyncio.sleep(0.02)
        workers.secret_file.write_text(SECRET)
        assert (await workers.ownership())["secrets"] == held


async def _thread(session: aiohttp.ClientSession, url: str) -> str:
    """A thread with two messages."""
    made = {"accountId": ME, "title": "t", "administratorIds": [ME], "memberIds": []}
    async with session.post(f"{url}/v1/threads/create", json=made) as response:
        assert response.status == 200, await response.text()
        thread = str((await response.json())["threadId"])
    for text in ("one", "two"):
        body = {"accountId": ME, "messages": [{"text": text}]}
        async with session.post(f"{url}/v1/threads/{thread}/messages/add", json=body) as response:
            assert response.status == 200, await response.text()
    return thread
