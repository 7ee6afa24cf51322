"""Followers and readers beside the load of a round: what they see of some threads must be right at every moment.

An account posts to threads of its own.  Their streams and a guest's account stream are followed on all workers in turn, and each
worker is asked for the threads, their pages, and the guest's lists: by the cluster's settings some answer from the threads'
owners, one from the read model.  Each answer must be a prefix of the thread's history, as new as `min_sequence_nr` asks, and
no list may go back.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp

from shard_worker.tasks import cancel_and_wait
from tests.e2e.streams.following import Chat, chat_on
from tests.support.load.account_follower import AccountFollower
from tests.support.load.chat import random_ulid
from tests.support.worker_processes import WorkerProcess, Workers

THREADS: Final = 3
FOLLOWERS: Final = 2
"""Of each thread, and of the guest's account."""
_POST_EVERY_S: Final = 0.1
_READ_EVERY_S: Final = 0.4
"""Pause of a worker's reader: with a shorter one the readers would be most of a round's work."""
_AGAIN_S: Final = 0.05
_ANSWER: Final = aiohttp.ClientTimeout(total=4)
_CAUGHT_UP_S: Final = 60.0
_NOT_NOW: Final = {
    503: {"shard-unavailable", "leaving", "overloaded"},
    504: {"read-model-behind"},
}
"""Answers that the contract allows while a fault lasts; any other than these and 200 is a finding."""


class Observers:
    """The readers and followers of one account's threads; `faults` has what was wrong."""

    def __init__(self, workers: Workers, chat: Chat, guest_id: str, session: aiohttp.ClientSession) -> None:
        self._workers = workers
        self._chat = chat
        self._guest_id = guest_id
        self._session = session
        self._accounts = [AccountFollower(lambda: workers.urls, guest_id, turn=turn) for turn in range(FOLLOWERS)]
        self._listed: dict[str, int] = {}
        """By thread, the newest event that a list has shown."""
        self._mentioned: dict[str, int] = {}
        self.faults: list[str] = []

    async def begin(self) -> None:
        """Create the threads once the account's streams are open, and follow them."""
        for follower in self._accounts:
            follower.start()
        async with asyncio.timeout(_CAUGHT_UP_S):
            await asyncio.gather(*[follower.opened.wait() for follower in self._accounts])
        for thread_id in await asyncio.gather(*[self._chat.create() for _ in range(THREADS)]):
            await self._chat.follow(thread_id, FOLLOWERS)

    async def read_until_cancelled(self, worker: WorkerProcess) -> None:
        """Ask one worker, thread by thread; a failed attempt is none, since the fault may be this worker's."""
        while True:
            for thread_id in list(self._chat.heads):
                await self._read_thread(worker, thread_id)
                await self._read_lists(worker)
                await asyncio.sleep(_READ_EVERY_S)

    async def verify(self) -> None:
        """Fail unless every follower has every acknowledged event, and every worker answers with all of them."""
        async with asyncio.timeout(_CAUGHT_UP_S):
            await asyncio.gather(*[self._read_until_new(worker) for worker in self._workers.by_name.values()])
            await self._chat.verify()
            for follower in self._accounts:
                while not follower.faults and any(
                    follower.newest.get(thread_id, 0) < head for thread_id, head in self._chat.heads.items()
                ):
                    await asyncio.sleep(0.01)
        assert self.faults == []
        for follower in self._accounts:
            assert follower.faults == []
            assert follower.resets == 0

    async def close(self) -> None:
        """End the streams of accounts; those of threads are the chat's."""
        await asyncio.gather(*[follower.stop() for follower in self._accounts])

    async def _read_until_new(self, worker: WorkerProcess) -> None:
        """Return when the worker answers every query, and the lists have every acknowledged event; at once where it does not run."""
        [one, *_] = self._chat.heads
        while worker.ready and not self.faults:
            answered = await self._read_thread(worker, one) and await self._read_lists(worker)
            if answered and all(
                self._listed.get(thread_id, 0) >= head and self._mentioned.get(thread_id, 1) >= head
                for thread_id, head in self._chat.heads.items()
            ):
                return
            await asyncio.sleep(_AGAIN_S)

    async def _read_thread(self, worker: WorkerProcess, thread_id: str) -> bool:
        """Ask for a thread and its pages; whether all was answered."""
        known = self._chat.heads[thread_id]
        query = f"account_id={self._guest_id}&min_sequence_nr={known}"
        thread = await self._get(worker, "thread", f"/v1/threads/{thread_id}?{query}")
        messages = await self._get(worker, "messages", f"/v1/threads/{thread_id}/messages?limit=1000&{query}")
        members = await self._get(worker, "members", f"/v1/threads/{thread_id}/member-ids?{query}")
        if thread is not None:
            self._expect(worker, thread["result"]["sequenceNr"] >= known, f"stale thread, not yet {known}", thread)
        if messages is not None:
            self._expect(worker, messages["sequenceNr"] >= known, f"stale page, not yet {known}", messages)
            self._expect_prefix(worker, thread_id, messages["sequenceNr"], messages["result"])
        if members is not None:
            right = members["sequenceNr"] >= known and members["results"] == [self._guest_id]
            self._expect(worker, right, "other members", members)
        return None not in (thread, messages, members)

    async def _read_lists(self, worker: WorkerProcess) -> bool:
        """Ask for the guest's lists; whether both were answered."""
        listed, mentioned = dict(self._listed), dict(self._mentioned)
        threads = await self._get(worker, "threads", f"/v1/threads?account_id={self._guest_id}")
        mentions = await self._get(worker, "mentions", f"/v1/accounts/{self._guest_id}/mentions?limit=1000")
        if threads is not None:
            self._look_at_threads(worker, listed, threads)
        if mentions is not None:
            self._look_at_mentions(worker, mentioned, mentions)
        return None not in (threads, mentions)

    def _look_at_threads(self, worker: WorkerProcess, before: Mapping[str, int], answer: Any) -> None:
        results = answer["results"]
        numbers = {each["id"]: each["sequenceNr"] for each in results}
        whole = len(numbers) == len(results) and answer["poisoned"] == [] and answer["nextCursor"] is None
        self._expect(worker, whole, "a thread listed twice or left out", answer)
        backward = [each for each, number in before.items() if numbers.get(each, 0) < number]
        self._expect(worker, not backward, f"a list went back, before {before}", answer)
        # The guest has no marker and posts nothing: everything but the creation is unread.
        for each in results:
            right = each["unreadCount"] == min(100, each["sequenceNr"] - 1)
            self._expect(worker, right, "an unread count that is not of its list", each)
        for each, number in numbers.items():
            self._listed[each] = max(number, self._listed.get(each, 0))

    def _look_at_mentions(self, worker: WorkerProcess, before: Mapping[str, int], answer: Any) -> None:
        by_thread: dict[str, list[Any]] = {}
        for each in reversed(answer["result"]):
            by_thread.setdefault(each["threadId"], []).append(each)
        backward = [each for each, number in before.items() if len(by_thread.get(each, ())) + 1 < number]
        self._expect(worker, not backward, f"mentions went back, before {before}", answer)
        for thread_id, messages in by_thread.items():
            newest = len(messages) + 1
            self._expect_prefix(worker, thread_id, newest, messages)
            self._mentioned[thread_id] = max(newest, self._mentioned.get(thread_id, 0))

    def _expect_prefix(self, worker: WorkerProcess, thread_id: str, newest: int, messages: list[Any]) -> None:
        """Every message from the thread's second event to this one, each with its text, once it was acknowledged."""
        numbers = [each["sequenceNr"] for each in messages]
        self._expect(worker, numbers == list(range(2, newest + 1)), f"no prefix up to {newest} of {thread_id}", numbers)
        for each in messages:
            text = self._chat.texts.get((thread_id, each["sequenceNr"]), each["body"])
            self._expect(worker, each["body"] == text, f"another message than {text!r}", each)

    def _expect(self, worker: WorkerProcess, right: bool, what: str, answer: object) -> None:
        if not right:
            self.faults.append(f"{worker.name}: {what}: {answer}")

    async def _get(self, worker: WorkerProcess, query: str, path: str) -> Any:  # Any: JSON
        """The answer; None when there was none that counts."""
        if not worker.ready:
            return None
        try:
            async with self._session.get(worker.url + path, timeout=_ANSWER) as response:
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            return None
        if response.status == 200:
            return answer
        allowed = answer.get("code") in _NOT_NOW.get(response.status, ())
        self._expect(worker, allowed, f"{query} was answered {response.status}", answer)
        return None


@asynccontextmanager
async def observing(workers: Workers) -> AsyncIterator[Observers]:
    """Post, follow and read for as long as the block runs; then fail unless all that was seen was right, and nothing is missing."""
    fresh = random.SystemRandom()  # no other round on this database has these accounts
    account_id, guest_id = random_ulid(fresh), random_ulid(fresh)
    connector = aiohttp.TCPConnector(force_close=True)  # a kept connection would lead to a worker that is gone
    async with (
        chat_on(workers, account_id, guest_id) as chat,
        aiohttp.ClientSession(connector=connector) as session,
    ):
        observers = Observers(workers, chat, guest_id, session)
        readers: list[asyncio.Task[None]] = []

        try:
            await observers.begin()
            readers += [asyncio.create_task(observers.read_until_cancelled(each)) for each in workers.by_name.values()]
            async with chat.posting(*chat.heads, every_s=_POST_EVERY_S):
                yield observers
            for reader in readers:
                if reader.done():
                    reader.result()  # a reader that ended by itself has met an answer that it cannot read
            await observers.verify()
        finally:
            await cancel_and_wait(*readers)
            await observers.close()
