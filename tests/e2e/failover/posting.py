"""Clients that post to threads of every shard, and remember what was acknowledged and when."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from shard_worker.domain.ids import ThreadId, shard_of
from shard_worker.tasks import cancel_and_wait
from tests.support.polling import eventually

ACCOUNT = "01JD0000000000000000000001"
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def _ulid() -> str:
    return "01" + "".join(secrets.choice(_CROCKFORD) for _ in range(24))


class Posts:
    """Answers to each thread's client."""

    def __init__(self, url: str, session: aiohttp.ClientSession, shards: int) -> None:
        self.acknowledged: dict[str, list[str]] = {}
        self.first_since: dict[str, float] = {}
        """When each thread first had an acknowledgement for a request of after `mark`."""
        self.clients: list[asyncio.Task[None]] = []
        self._url = url
        self._session = session
        self._shards = shards
        self._marked_at = 0.0
        self._marked_number = 0
        self._number = 0
        self._paused = asyncio.Event()
        self._paused.set()
        self._busy = 0

    def shard(self, thread_id: str) -> int:
        """The shard of a thread."""
        return shard_of(ThreadId(thread_id), self._shards)

    @property
    def count(self) -> int:
        """Messages acknowledged so far."""
        return sum(map(len, self.acknowledged.values()))

    async def more(self, count: int, *, within_s: float = 30.0) -> None:
        """Return once ``count`` more messages were acknowledged."""
        wanted = self.count + count
        await eventually(lambda: self.count >= wanted, within_s=within_s, what=f"{count} more messages")

    async def everywhere(self, *, within_s: float = 30.0) -> float:
        """Return once every thread had a request of after the mark acknowledged; when the last one had, since the mark."""
        await eventually(self._acknowledged_everywhere, within_s=within_s, what="every thread")
        return max(self.first_since.values()) - self._marked_at

    def _acknowledged_everywhere(self) -> bool:
        for client in self.clients:
            if client.done():
                client.result()  # a client that ended by itself has met an answer that it may not meet
        return len(self.first_since) == len(self.acknowledged)

    def mark(self) -> None:
        """Measure from now."""
        self._marked_at = time.monotonic()
        self._marked_number = self._number
        self.first_since = {}

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """No request is on its way within the block."""
        self._paused.clear()
        await eventually(lambda: self._busy == 0, within_s=60, what="every request is answered")
        yield
        self._paused.set()

    async def create(self, per_shard: int) -> None:
        """Make threads, as many for each shard."""
        wanted = dict.fromkeys(range(self._shards), per_shard)
        while any(wanted.values()):
            thread_id = _ulid()
            if not wanted[self.shard(thread_id)]:
                continue
            wanted[self.shard(thread_id)] -= 1
            body = {
                "threadId": thread_id,
                "accountId": ACCOUNT,
                "title": "a thread",
                "administratorIds": [ACCOUNT],
                "memberIds": [],
            }
            await self._insist("/v1/threads/create", body)
            self.acknowledged[thread_id] = []

    async def post_until_cancelled(self, thread_id: str) -> None:
        """One client: a message after the other, each until its outcome is definite."""
        while True:
            await self._paused.wait()
            self._busy += 1
            try:
                self._number += 1
                text = f"message {self._number}"
                sent_at = await self._insist(
                    f"/v1/threads/{thread_id}/messages/add", {"accountId": ACCOUNT, "messages": [{"text": text}]}
                )
                self.acknowledged[thread_id].append(text)
                if sent_at >= self._marked_at:
                    self.first_since.setdefault(thread_id, time.monotonic())
            finally:
                self._busy -= 1
            await asyncio.sleep(0.05)

    async def _insist(self, path: str, body: object) -> float:
        """Send one keyed command until it is done; when the successful sending began."""
        key = secrets.token_hex(8)
        while True:
            began = time.monotonic()
            try:
                async with self._session.post(
                    self._url + path,
                    json=body,
                    headers={"Idempotency-Key": key},
                    timeout=aiohttp.ClientTimeout(total=6),
                ) as response:
                    if response.status == 200:
                        return began
                    assert response.status in (503, 504), f"{path}: {response.status} {await response.text()}"
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(0.05)

    async def read(self, thread_id: str, *, within_s: float = 20.0) -> list[str]:
        """All texts of a thread, in order; fails when it cannot be read."""
        texts: list[str] = []
        cursor = ""
        last = ""
        async with asyncio.timeout(within_s):
            while True:
                path = f"/v1/threads/{thread_id}/messages?account_id={ACCOUNT}&limit=1000{cursor}"
                async with self._session.get(self._url + path) as response:
                    document = await response.json()
                    last = f"{response.status} {document}"
                    if response.status == 503 and "poisoned" not in last:
                        await asyncio.sleep(0.05)
                        continue
                assert response.status == 200, f"{thread_id} is not readable: {last[:300]}"
                texts += [message["body"] for message in document["result"]]
                if document.get("nextCursor") is None:
                    return texts
                cursor = f"&cursor={document['nextCursor']}"

    async def lost(self) -> dict[str, set[str]]:
        """Acknowledged messages that are missing, by thread; forgotten afterwards.  Fails on duplicates and
        disorder.
        """
        found = {}
        for thread_id, acknowledged in self.acknowledged.items():
            texts = await self.read(thread_id)
            stored = set(texts)
            assert len(stored) == len(texts), f"{thread_id} has a message twice"
            known = set(acknowledged)
            kept = [text for text in acknowledged if text in stored]
            assert [text for text in texts if text in known] == kept, f"{thread_id} is out of order"
            if missing := known - stored:
                after = [text for text in missing if int(text.split()[1]) > self._marked_number]
                assert not after, f"{after} were sent after the promotion, acknowledged, and are lost"
                found[thread_id] = missing
            self.acknowledged[thread_id] = kept
        return found


@asynccontextmanager
async def posting(url: str, shards: int, *, per_shard: int = 2) -> AsyncIterator[Posts]:
    """Clients that post until the block ends."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        posts = Posts(url, session, shards)
        await posts.create(per_shard)
        clients = posts.clients = [
            asyncio.create_task(posts.post_until_cancelled(thread_id)) for thread_id in posts.acknowledged
        ]
        try:
            yield posts
            for client in clients:
                if client.done():
                    client.result()
        finally:
            await cancel_and_wait(*clients)
