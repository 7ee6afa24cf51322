"""A new version of the read model, forward and back under load: real workers of two releases, and real commands.

`tests.support.next_read_model` is the second release.  Every step is the one of docs/read-model.md, Versions.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from ulid import ULID

from shard_worker.tasks import cancel_and_wait
from tests.e2e.versions.rolling import chatting, restart
from tests.support.next_read_model import MIGRATION
from tests.support.polling import more_acknowledged
from tests.support.worker_processes import WorkerProcess, Workers, workers_on

SHARDS = 6
THREADS = 5
FIRST, NEXT = "shard_worker.main", "tests.support.next_read_model"


async def command(program: str, *arguments: str) -> tuple[int, str]:
    """The exit code of a command line of a release, and all that it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


async def roll(workers: Workers, names: Sequence[str], program: str) -> None:
    """Restart the workers one after another as another release."""

    def change(worker: WorkerProcess) -> None:
        worker.program = program

    for name in names:
        await restart(workers, name, change, among=("a", "b"))


class Reader:
    """Asks the lists of one account over and over; its threads change no more, so that every answer is known."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session
        self._account, self._other = str(ULID()), str(ULID())
        self._threads: list[str] = []
        self._mentions: list[str] = []
        self.asked = 0

    async def _post(self, path: str, body: dict[str, object]) -> Any:  # JSON
        async with self._session.post(f"{self._url}/v1/threads/{path}", json=body) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def begin(self) -> None:
        """Make the threads, and return when the lists show them."""
        for number in range(THREADS):
            made = await self._post(
                "create",
                {
                    "accountId": self._other,
                    "title": f"thread {number}",
                    "administratorIds": [self._other],
                    "memberIds": [self._account],
                },
            )
            self._threads.insert(0, made["threadId"])
            message = {"text": "hello", "toAccountIds": [self._account]}
            body: dict[str, object] = {"accountId": self._other, "messages": [message]}
            added = await self._post(f"{made['threadId']}/messages/add", body)
            self._mentions.insert(0, added["messageIds"][0])
        async with asyncio.timeout(10):
            while await self._answers() != self._wanted():
                await asyncio.sleep(0.02)

    def _wanted(self) -> tuple[list[tuple[str, int]], list[str]]:
        return [(thread_id, 1) for thread_id in self._threads], self._mentions

    async def _answers(self) -> tuple[list[tuple[str, int]], list[str]]:
        async with self._session.get(f"{self._url}/v1/threads", params={"account_id": self._account}) as response:
            assert response.status == 200, await response.text()
            threads = (await response.json())["results"]
        async with self._session.get(f"{self._url}/v1/accounts/{self._account}/mentions") as response:
            assert response.status == 200, await response.text()
            mentions = (await response.json())["result"]
        return [(each["id"], each["unreadCount"]) for each in threads], [each["id"] for each in mentions]

    async def keep_asking(self) -> None:
        """Fail on the first answer that is not the one that is known."""
        while True:
            assert await self._answers() == self._wanted()
            self.asked += 1
            await asyncio.sleep(0.05)


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[Reader]:
    """A reader that asks for as long as the block runs."""
    async with aiohttp.ClientSession() as session:
        reader = Reader(url, session)
        await reader.begin()
        asking = asyncio.create_task(reader.keep_asking(), name="reader")
        try:
            yield reader
        finally:
            await cancel_and_wait(asking)
        assert asking.cancelled() or asking.exception() is None, asking.exception()


async def generations(admin: asyncpg.Connection) -> list[tuple[int, int, bool]]:
    """Number, version, and whether it answers, of each generation."""
    rows = await admin.fetch("SELECT generation, version, live FROM readmodel_generation ORDER BY generation")
    return [tuple(row) for row in rows]


async def expect_fed(admin: asyncpg.Connection) -> None:
    """Return when every generation has every event that the journal has now."""
    sql = """
    SELECT count(*) FROM projection_offset o JOIN unnest($1::int[], $2::bigint[]) AS head (shard_id, seq) USING (shard_id)
     WHERE o.seq < head.seq
    """
    heads = await admin.fetch("SELECT shard_id, max(shard_seq) AS seq FROM journal GROUP BY shard_id")
    shards, numbers = [row["shard_id"] for row in heads], [row["seq"] for row in heads]
    async with asyncio.timeout(30):
        while await admin.fetchval(sql, shards, numbers):
            await asyncio.sleep(0.02)


async def expect_refused(workers: Workers, dsn: str) -> None:
    """A worker that does not feed the read model in use owns nothing, and says why; it joins as soon as it may."""
    await workers.start("old")
    async with aiohttp.ClientSession() as session, asyncio.timeout(30):
        while True:
            async with session.get(f"{workers.by_name['old'].management}/readyz") as response:
                if response.status == 503 and "is of version 2" in (text := await response.text()):
                    break
            await asyncio.sleep(0.02)
    assert "readmodel switch" in text
    assert "old" not in (await workers.owners()).values()
    code, printed = await command(FIRST, "readmodel", "verify", "--dsn", dsn)
    assert code == 3, printed
    assert "version 2" in printed


@pytest.mark.soak
@pytest.mark.timeout(900)  # a dozen processes are started, one after another
async def test_a_version_of_the_read_model_rolls_forward_and_back(dsn_of_six: str, tmp_path: Path) -> None:
    """No request fails and no list is wrong, whichever release answers, and whichever tables it answers from."""
    names = ("a", "b")
    admin = await asyncpg.connect(dsn_of_six)
    async with (
        workers_on(dsn_of_six, tmp_path, *names, shards=SHARDS) as workers,
        chatting(workers, seed=1) as recorder,
        reading(workers.url) as reader,
    ):
        await admin.execute(MIGRATION)
        await roll(workers, names[:1], NEXT)
        # A release that is not everywhere yet: the switch waits, and gives up.
        code, printed = await command(NEXT, "readmodel", "rebuild", "--dsn", dsn_of_six, "--wait", "3")
        assert code == 3, printed
        await roll(workers, names[1:], NEXT)
        code, printed = await command(NEXT, "readmodel", "rebuild", "--dsn", dsn_of_six)
        assert code == 0, printed
        assert await generations(admin) == [(1, 1, False), (2, 2, True)]
        await more_acknowledged(recorder, 50)
        await expect_fed(admin)
        code, printed = await command(NEXT, "readmodel", "verify", "--dsn", dsn_of_six)
        assert code == 0, printed
        await expect_refused(workers, dsn_of_six)

        code, printed = await command(NEXT, "readmodel", "switch", "--dsn", dsn_of_six, "1")
        assert code == 0, printed
        assert await generations(admin) == [(1, 1, True), (2, 2, False)]
        await workers.move(dict.fromkeys(range(SHARDS), "old"))
        await roll(workers, names, FIRST)
        await more_acknowledged(recorder, 50)
        code, printed = await command(FIRST, "readmodel", "verify", "--dsn", dsn_of_six)
        assert code == 0, printed
        # The release of before does not know the version, so it cannot be made the one in use.
        code, printed = await command(NEXT, "readmodel", "switch", "--dsn", dsn_of_six, "--wait", "3", "2")
        assert code == 3, printed
        assert reader.asked > 20
    await admin.close()
