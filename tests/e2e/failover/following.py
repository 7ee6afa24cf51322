"""Clients whose streams stay open through fail-overs: each has every event of the new primary once, or a reset first.

They do as docs/streams.md says.  A follower of a thread takes the id of a `reset` as what it has read again.  A follower of an account lists the
account's threads after a `reset`; what the list shows need not come.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import aiohttp

from shard_worker.domain.ids import ThreadId, ulid_text, ulid_uuid
from tests.e2e.failover.pair import Pair
from tests.support.load.follower import Event, Follower
from tests.support.worker_processes import Workers

THREADS: Final = 6
"""How many threads are followed, each by one client."""
ACCOUNTS: Final = 3
"""How many streams of the account are open."""
_AGAIN_S: Final = 0.05
_ANSWER: Final = aiohttp.ClientTimeout(total=4)
_CAUGHT_UP_S: Final = 30.0
_HISTORY_SQL: Final = "SELECT thread_id, seq_nr, epoch FROM journal WHERE thread_id = ANY($1::uuid[]) ORDER BY seq_nr"

History = dict[str, list[tuple[int, int]]]
"""By thread, the numbers and epochs of its events."""


class ThreadClient(Follower):
    """Follows a thread; `Follower.seen` since the last reset is what it was sent after it had read the thread again."""

    def __init__(self, workers: Workers, thread_id: str, account_id: str, turn: int) -> None:
        super().__init__(lambda: workers.urls, thread_id, account_id, position="0", turn=turn)
        self.thread_id = thread_id
        self._read_again = "0"
        self._since = 0

    def _got(self, event: Event) -> None:
        super()._got(event)
        if event.type == "reset":
            self._read_again, self._since = event.id, len(self.seen)

    def missing(self, history: History) -> str | None:
        """A difference between what it has and a history; None when there is none."""
        events = history[self.thread_id]
        number, _, epoch = self._read_again.partition(".")
        if self._read_again != "0" and (int(number), int(epoch)) not in events:
            return f"read again at {self._read_again}, which is not in the history"
        since = self.seen[self._since :]
        return None if since == events[int(number) :] else f"after {self._read_again} {since} and not {events}"


class AccountClient(Follower):
    """Follows an account, beginning with a list of its threads; events come at least once, in order within a thread."""

    def __init__(self, workers: Workers, account_id: str, session: aiohttp.ClientSession, turn: int) -> None:
        super().__init__(lambda: workers.urls, "", account_id, turn=turn)
        self._path = f"/v1/accounts/{account_id}/events"
        self._list = f"{workers.url}/v1/threads?account_id={account_id}&limit=1000"
        self._session = session
        self._listed: dict[str, int] | None = None
        """By thread, what the list after the last reset shows; None until it is there."""
        self._since: dict[str, dict[int, int]] = {}
        """By thread, the epochs of the events by number, since the last reset."""
        self._listing: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """List the threads, and follow from there."""
        self.position = await self._read_list()
        self.start()

    async def stop(self) -> None:
        """Leave."""
        if self._listing is not None:
            self._listing.cancel()
        await super().stop()

    async def _read_list(self) -> str:
        while True:
            with suppress(aiohttp.ClientError, TimeoutError):
                async with self._session.get(self._list, timeout=_ANSWER) as response:
                    if response.status == 200:
                        answer = await response.json()
                        self._listed = {each["id"]: each["sequenceNr"] for each in answer["results"]}
                        return str(answer["position"])
                    assert response.status in (503, 504), await response.text()
            await asyncio.sleep(_AGAIN_S)

    async def _list_again(self) -> None:
        await self._read_list()

    def _got(self, event: Event) -> None:
        if event.id:
            self.position = event.id
        if event.type == "":
            self.opened.set()
        elif event.type == "reset":
            self.resets += 1
            self.opened.set()
            self._listed, self._since = None, {}
            if self._listing is not None:
                self._listing.cancel()
            self._listing = asyncio.create_task(self._list_again())
        elif event.type == "error":
            self.faults.append(f"error {event.data.decode()}")
        else:
            fields = json.loads(event.data)
            number, epoch = fields["sequenceNr"], fields["epoch"]
            had = self._since.setdefault(fields["threadId"], {})
            if had.get(number, epoch) != epoch:
                self.faults.append(f"{fields['threadId']}: {number} of epoch {epoch} after the one of {had[number]}")
            if had and number > max(had) + 1:
                self.faults.append(f"{fields['threadId']}: {number} came after {max(had)}")
            had[number] = epoch

    def missing(self, history: History) -> str | None:
        """See `ThreadClient.missing`."""
        if self._listed is None:
            return "no list after a reset"
        for thread_id, events in history.items():
            listed, had = self._listed.get(thread_id, 0), self._since.get(thread_id, {})
            if not set(had.items()) <= set(events):
                return f"{thread_id}: {had} and not {events}"
            if (had and min(had) > listed + 1) or max(had, default=listed) != len(events):
                return f"{thread_id}: listed up to {listed}, then {had} of {len(events)}"
        return None


class Followers:
    """All clients with open streams."""

    def __init__(self, clients: Sequence[ThreadClient | AccountClient], threads: Sequence[str]) -> None:
        self._clients = clients
        self._threads = threads

    async def verify(self, pair: Pair) -> None:
        """Fail unless every client has the history that the primary has now; nothing is posted meanwhile."""
        history: History = {thread_id: [] for thread_id in self._threads}
        for row in await pair.primary.rows(_HISTORY_SQL, [ulid_uuid(ThreadId(each)) for each in self._threads]):
            history[ulid_text(row["thread_id"].bytes)].append((row["seq_nr"], row["epoch"]))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _CAUGHT_UP_S
        for client in self._clients:
            while (missing := client.missing(history)) is not None and not client.faults:
                assert loop.time() < deadline, f"{missing}; {client.resets} resets, {client.connects} connects"
                await asyncio.sleep(0.02)
            assert client.faults == []
        resets = [client.resets for client in self._clients]
        print(f"  {len(resets)} streams have the primary's history; resets so far: {resets}")


@asynccontextmanager
async def following(workers: Workers, account_id: str, threads: Sequence[str]) -> AsyncIterator[Followers]:
    """Streams of some threads and of the account, on all workers in turn, for as long as the block runs."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        of_threads = [
            ThreadClient(workers, thread_id, account_id, turn) for turn, thread_id in enumerate(threads[:THREADS])
        ]
        of_account = [AccountClient(workers, account_id, session, turn) for turn in range(ACCOUNTS)]
        clients: list[ThreadClient | AccountClient] = [*of_threads, *of_account]
        try:
            for client in of_threads:
                client.start()
            for account_client in of_account:
                await account_client.begin()
            async with asyncio.timeout(_CAUGHT_UP_S):
                for each in clients:
                    await each.opened.wait()
            yield Followers(clients, threads)
        finally:
            await asyncio.gather(*[client.stop() for client in clients])
