"""Followers and posters on real workers: who posts, who follows, and what each must have seen in the end."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count

import aiohttp

from shard_worker.tasks import cancel_and_wait
from tests.support.load.follower import Follower
from tests.support.polling import eventually
from tests.support.worker_processes import Workers

ADA = "01ARZ3NDEKTSV4RRFFQ69G5FAA"
_ANSWER = aiohttp.ClientTimeout(total=4)
_AGAIN_S = 0.05


class Chat:
    """Some threads of one account, the commands on them, and their followers."""

    def __init__(
        self, workers: Workers, session: aiohttp.ClientSession, account_id: str = ADA, guest_id: str | None = None
    ) -> None:
        self.workers = workers
        self.account_id = account_id
        self._guests = [] if guest_id is None else [guest_id]
        """Members of each thread, addressed by each message."""
        self._session = session
        self._keys = count()
        self._numbers = count()
        self.heads: dict[str, int] = {}
        """By thread, the newest acknowledged event."""
        self.texts: dict[tuple[str, int], str] = {}
        """By thread and sequence number, the acknowledged messages."""
        self.acknowledged = 0
        self.followers: list[tuple[str, Follower]] = []

    async def _post(self, path: str, body: Mapping[str, object]) -> dict[str, object]:
        """The answer to one command, sent until there is one."""
        headers = {"Idempotency-Key": f"{self.account_id}-{next(self._keys)}"}
        while True:
            try:
                async with self._session.post(
                    self.workers.url + path, json=body, headers=headers, timeout=_ANSWER
                ) as response:
                    raw = await response.read()
                    if response.status == 200:
                        answer: dict[str, object] = json.loads(raw)
                        return answer
                    assert response.status >= 500, raw
            except (aiohttp.ClientError, TimeoutError, ConnectionError):
                pass
            await asyncio.sleep(_AGAIN_S)

    async def create(self) -> str:
        """A thread."""
        account_id = self.account_id
        body = {"accountId": account_id, "title": "t", "administratorIds": [account_id], "memberIds": self._guests}
        thread_id = str((await self._post("/v1/threads/create", body))["threadId"])
        self.heads[thread_id] = 1
        return thread_id

    async def post(self, thread_id: str) -> None:
        """A message, acknowledged."""
        text = f"message {next(self._numbers)}"
        body = {"accountId": self.account_id, "messages": [{"text": text, "toAccountIds": self._guests}]}
        answer = await self._post(f"/v1/threads/{thread_id}/messages/add", body)
        number = answer["sequenceNr"]
        assert isinstance(number, int)
        self.texts[thread_id, number] = text
        self.heads[thread_id] = max(self.heads[thread_id], number)
        self.acknowledged += 1

    @asynccontextmanager
    async def posting(self, *threads: str, every_s: float) -> AsyncIterator[None]:
        """Post to these threads in turn, for as long as the block runs."""

        async def go_on() -> None:
            for at in count():
                await self.post(threads[at % len(threads)])
                await asyncio.sleep(every_s)

        task = asyncio.create_task(go_on())
        try:
            yield
        finally:
            await cancel_and_wait(
                task
            )  # one cancellation may be lost: a request's own time-out may come in the same moment

    async def more_acknowledged(self, number: int) -> None:
        """Return when this many more commands were acknowledged."""
        wanted = self.acknowledged + number
        await eventually(lambda: self.acknowledged >= wanted, within_s=30, what=f"{number} more acknowledged")

    async def follow(self, thread_id: str, followers: int) -> None:
        """Have a thread followed from its beginning, on all workers in turn."""
        for turn in range(followers):
            follower = Follower(lambda: self.workers.urls, thread_id, self.account_id, position="0", turn=turn)
            self.followers.append((thread_id, follower))
            follower.start()

    async def verify(self) -> None:
        """Every follower has every event once, in order, and saw no fault."""
        async with asyncio.timeout(60):
            for thread_id, follower in self.followers:
                while follower.head < self.heads[thread_id] and not follower.faults:
                    await asyncio.sleep(0.01)
        for thread_id, follower in self.followers:
            numbers = [number for number, _ in follower.seen]
            assert follower.faults == []
            assert follower.resets == 0
            assert numbers == list(range(1, len(numbers) + 1))
            assert len(numbers) >= self.heads[thread_id]
            epochs = [epoch for _, epoch in follower.seen]
            assert epochs == sorted(epochs)

    async def close(self) -> None:
        """End every follower."""
        await asyncio.gather(*[follower.stop() for _, follower in self.followers])


@asynccontextmanager
async def chat_on(workers: Workers, account_id: str = ADA, guest_id: str | None = None) -> AsyncIterator[Chat]:
    """Posters and followers; all ended with the block."""
    connector = aiohttp.TCPConnector(force_close=True)  # a kept connection would lead to a worker that is gone
    async with aiohttp.ClientSession(connector=connector) as session:
        chat = Chat(workers, session, account_id, guest_id)
        try:
            yield chat
        finally:
            await chat.close()
