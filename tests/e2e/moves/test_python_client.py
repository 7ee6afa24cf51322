"""The Python client through rounds of faults: posters whose commands are sent again, and follows that outlive every worker."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from threadcluster_client import Client, Event, Follow, Limits

from shard_worker.tasks import cancel_and_wait
from tests.e2e.moves.cluster import Cluster
from tests.e2e.moves.faults import FAULTS
from tests.e2e.moves.graceful_shutdowns import DEPARTURES
from tests.e2e.moves.handoff_faults import KILLS, OTHER_BLOWS
from tests.e2e.moves.scenario import Fault, play
from tests.support.polling import eventually

pytestmark = pytest.mark.asyncio(loop_scope="package")

ADA = "01ARZ3NDEKTSV4RRFFQ69G5FAA"
THREADS = 6
EVENTS = 10_000
_LIMITS = Limits(deadline_s=120.0, idle_s=4.0, stream_idle_s=20.0)
"""No command may end without an answer: a fault lasts seconds, and several may follow each other."""
_PAUSE_S = 0.05


class Posters:
    """One poster a thread, each with one command at a time, and two follows of each thread."""

    def __init__(self, client: Client, threads: list[str]) -> None:
        self._client = client
        self._threads = threads
        self.acknowledged: dict[str, list[tuple[int, str]]] = {thread: [] for thread in threads}
        """By thread: the event's number and the text of each answered command."""
        self.followed: dict[str, list[tuple[int, str]]] = {thread: [] for thread in threads}
        self.of_account: dict[str, list[tuple[int, str]]] = {thread: [] for thread in threads}
        self.replayed = 0
        """Answers to commands that an earlier attempt had stored already."""
        self._stopping = asyncio.Event()

    @property
    def events(self) -> int:
        """How many events all follows of threads have shown."""
        return sum(map(len, self.followed.values()))

    async def post(self, thread: str) -> None:
        """Post until the end; any error is the test's."""
        while not self._stopping.is_set():
            text = f"{thread} {len(self.acknowledged[thread])}"
            added = await self._client.add_messages(thread, ADA, [text])
            self.acknowledged[thread].append((added.sequence_nr, text))
            self.replayed += added.replayed
            await asyncio.sleep(_PAUSE_S)

    async def follow(self, follow: Follow, into: dict[str, list[tuple[int, str]]]) -> None:
        """Record what one iterator shows; no history is lost in these rounds, so anything but an event is wrong."""
        async for item in follow:
            assert isinstance(item, Event), item
            for message in item.data.get("messages", ()):
                into[item.thread_id].append((item.sequence_nr, message["text"]))

    def stop(self) -> None:
        """Let every poster end its command."""
        self._stopping.set()

    async def expect_all(self) -> None:
        """Each acknowledged command is one event, shown once and in order by every follow; and nothing else is."""
        await eventually(lambda: self.followed == self.of_account == self.acknowledged, within_s=60.0)
        for thread, acknowledged in self.acknowledged.items():
            numbers = [number for number, _ in acknowledged]
            assert numbers == list(range(2, len(numbers) + 2))
            stored = [
                message.body
                async for message in self._client.messages(thread, ADA, limit=100, min_sequence_nr=numbers[-1])
            ]
            assert stored == [text for _, text in acknowledged]


@asynccontextmanager
async def posters_on(cluster: Cluster) -> AsyncIterator[Posters]:
    """Posters and follows while the block runs; afterwards everything is accounted for."""
    async with Client(cluster.workers.url, limits=_LIMITS) as client:
        threads = [(await client.create_thread(ADA, "t")).thread_id for _ in range(THREADS)]
        posters = Posters(client, threads)
        account = client.follow_account(ADA)
        follows = [
            asyncio.create_task(posters.follow(client.follow(thread, ADA, position="0"), posters.followed))
            for thread in threads
        ]
        follows.append(asyncio.create_task(posters.follow(account, posters.of_account)))
        await eventually(lambda: account.position is not None, within_s=30.0)
        posting = [asyncio.create_task(posters.post(thread)) for thread in threads]
        try:
            yield posters
            posters.stop()
            await asyncio.gather(*posting)
            await posters.expect_all()
            assert not any(follow.done() for follow in follows)
        finally:
            await cancel_and_wait(*posting, *follows)


async def test_its_commands_and_follows_outlive_a_worker(cluster: Cluster) -> None:
    """0 lost, 0 doubled, each event once and in order."""
    async with posters_on(cluster) as posters:
        await play(cluster, "kill-one", FAULTS["kill-one"], seed=random.randrange(2**32))
    assert posters.events >= THREADS
    await cluster.fsck()


@pytest.mark.soak
@pytest.mark.timeout(3000)
async def test_ten_thousand_events_through_all_kinds_of_faults(
    cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    """One iterator a thread through all of them."""
    kinds: dict[str, Fault] = FAULTS | KILLS | OTHER_BLOWS | DEPARTURES
    dice, began, played = random.SystemRandom(), time.monotonic(), Counter[str]()
    due: list[str] = []
    with capfd.disabled():  # shows the progress of many rounds
        async with posters_on(cluster) as posters:
            while posters.events < EVENTS or played.total() < len(kinds):
                due = due or dice.sample(list(kinds), len(kinds))
                kind = due.pop()
                await play(cluster, kind, kinds[kind], seed=dice.randrange(2**32))
                played[kind] += 1
                took_s = time.monotonic() - began
                print(
                    f"{posters.events} events of {THREADS} threads, {played.total()} rounds, {took_s:.0f} s", flush=True
                )
        print(f"{posters.replayed} commands were stored by an attempt whose answer was lost", flush=True)
    await cluster.fsck()
