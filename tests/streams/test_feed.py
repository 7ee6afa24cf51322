"""A feed between an owner and a journal that the test plays: no hole, nothing twice, whatever either says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

from shard_worker.contract import Answer, Followed, FollowThread, LiveEvent, Request, Unavailable, UnavailableCode
from shard_worker.domain.ids import AccountId, ShardId, ThreadId
from shard_worker.domain.refusals import Refusal
from shard_worker.memory import MemoryBudget, MemoryPart
from shard_worker.streams.access import Roles
from shard_worker.streams.feed import ThreadFeed
from shard_worker.streams.follower import LARGE_BYTES, ThreadFollower
from shard_worker.streams.history import Head, StreamHistory
from shard_worker.streams.metrics import StreamMetrics
from shard_worker.streams.opening import Ask
from shard_worker.streams.sink import Sink
from shard_worker.tasks import BackgroundTasks
from tests.support.load.follower import EventParser
from tests.support.polling import eventually

T, A = ThreadId("01HZZZZZZZZZZZZZZZZZZZZZZZ"), AccountId("01HYYYYYYYYYYYYYYYYYYYYYYY")
NOT_NOW = Unavailable(UnavailableCode.SHARD_UNAVAILABLE, "not now")


def event(number: int, epoch: int = 1) -> LiveEvent:
    """A message."""
    return LiveEvent(number, epoch, 7, 1, b'{"messages":[]}')


class _Journal:
    """A thread's events; one read in a while fails."""

    def __init__(self, *events: LiveEvent) -> None:
        self.events = list(events)
        self.faults = 0

    async def head(self, thread_id: ThreadId) -> Head:
        assert thread_id == T
        if self.faults:
            self.faults -= 1
            raise ConnectionResetError("away")
        return Head(len(self.events), self.events[-1].epoch)

    async def page(self, thread_id: ThreadId, after: int, epoch: int | None) -> list[LiveEvent] | None:
        assert thread_id == T
        held = len(self.events) >= after and (not epoch or self.events[after - 1].epoch == epoch)
        return self.events[after : after + 2] if held else None


class _Sink:
    """A client that reads at once."""

    paused = False
    place = True

    def __init__(self) -> None:
        self.parser = EventParser()
        self.ids: list[str] = []
        self.ended = False

    def write(self, data: bytes) -> None:
        self.ids += [each.id for each in self.parser.feed(data)]

    def may_hold(self, size: int) -> bool:
        return self.place and size >= 0

    def end(self, data: bytes) -> None:
        self.write(data)
        self.ended = True


class _Hub:
    """The hub, as far as one feed needs it; the owner's answers come from the test."""

    def __init__(self, journal: _Journal) -> None:
        self.answers: asyncio.Queue[Answer | Exception] = asyncio.Queue()
        self.asked: list[FollowThread] = []
        self.history = cast("StreamHistory", journal)
        self.memory = MemoryPart(MemoryBudget(1 << 20), 1)
        self.metrics = StreamMetrics()
        self.tasks = BackgroundTasks()
        self.behind: list[tuple[int, int | None]] = []
        self.dropped = False
        self.ask: Ask = self._ask

    async def _ask(self, request: Request, budget_s: float) -> Answer:
        assert budget_s > 0
        assert isinstance(request, FollowThread)
        self.asked.append(request)
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def shard_of(self, thread_id: ThreadId) -> ShardId:
        return ShardId(len(thread_id))

    def schedule(self, feed: ThreadFeed) -> None:
        def turn() -> None:
            while feed.more:
                feed.deliver(256)

        asyncio.get_running_loop().call_soon(turn)

    def catch_up(self, follower: ThreadFollower, last: int, epoch: int | None) -> None:
        self.behind.append((last, epoch))

    def drop_feed(self, feed: ThreadFeed) -> None:
        feed.stop()
        self.dropped = True

    def refusal_frame(self, refusal: Refusal | Unavailable) -> bytes:
        return b"event: error\ndata: %b\n\n" % refusal.code.encode()

    def forget(self, follower: ThreadFollower) -> None:
        """Nothing to forget."""


@asynccontextmanager
async def following(journal: _Journal, last: int) -> AsyncIterator[tuple[_Hub, ThreadFeed, _Sink]]:
    """A feed at the journal's end with a live follower that has everything up to ``last``."""
    hub, sink = _Hub(journal), _Sink()
    feed = ThreadFeed(hub, T)
    feed.start()
    hub.answers.put_nowait(Followed(7, fresh=True))
    await feed.known()
    follower = ThreadFollower(hub, cast("Sink", sink), T, A)
    follower.roles = Roles(member=True)
    feed.followers[follower] = None
    assert feed.join(follower, last, None)
    try:
        yield hub, feed, sink
    finally:
        feed.stop()
        await hub.tasks.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the feed does by itself."""
    await eventually(condition, within_s=5)


async def test_events_come_once_whatever_the_owner_repeats_or_leaves_out() -> None:
    """The missing ones come from the journal."""
    journal = _Journal(event(1), event(2))
    async with following(journal, 2) as (hub, _, sink):
        journal.events += [event(number) for number in range(3, 9)]
        hub.answers.put_nowait(Followed(7, (event(2), event(3))))
        hub.answers.put_nowait(Followed(7, (event(8),)))
        await until(lambda: sink.ids[-1:] == ["8.1"])
        assert sink.ids == [f"{number}.1" for number in range(3, 9)]
        await until(lambda: len(hub.asked) == 4)
        assert [(asked.after, asked.tap) for asked in hub.asked] == [(0, 0), (2, 7), (3, 7), (8, 7)]


async def test_a_new_tap_is_used_only_after_the_journal_was_read() -> None:
    """Else an event between the two taps would be missing until the next look."""
    journal = _Journal(event(1))
    async with following(journal, 1) as (hub, _, sink):
        await until(lambda: len(hub.asked) == 2)
        journal.events.append(event(2))
        journal.faults = 1
        hub.answers.put_nowait(Followed(8, fresh=True))
        await until(lambda: len(hub.asked) == 3)
        assert hub.asked[-1] == FollowThread(T, 1, 7)
        hub.answers.put_nowait(Followed(8, fresh=True))
        await until(lambda: sink.ids == ["2.1"])
        await until(lambda: hub.asked[-1] == FollowThread(T, 2, 8))


async def test_an_owner_that_is_not_to_be_had_costs_only_time() -> None:
    """The journal is read meanwhile."""
    journal = _Journal(event(1))
    async with following(journal, 1) as (hub, _, sink):
        journal.events.append(event(2))
        hub.answers.put_nowait(NOT_NOW)
        await until(lambda: sink.ids == ["2.1"])


async def test_followers_of_a_lost_tail_go_back_to_the_journal() -> None:
    """With the position that it does not hold; and a position is not taken for held by its number alone."""
    journal = _Journal(event(1), event(2), event(3))
    async with following(journal, 3) as (hub, feed, _):
        journal.events[1:] = [event(2, 2), event(3, 2), event(4, 2)]
        hub.answers.put_nowait(Followed(8, fresh=True))
        await until(lambda: hub.behind == [(3, 1)])
        assert (feed.head, feed.epoch) == (4, 2)
        journal.events.append(event(5, 2))
        hub.answers.put_nowait(Followed(8, (event(5, 2),)))
        await until(lambda: feed.head == 5)
        behind = ThreadFollower(hub, cast("Sink", _Sink()), T, A)
        assert not feed.join(behind, 5, 2)  # it may not read yet
        behind.roles = Roles(member=True)
        assert not feed.join(behind, 4, 1)
        assert not feed.join(behind, 5, 1)
        assert not feed.join(behind, 6, None)
        assert feed.join(behind, 5, 2)


async def test_a_lost_tail_is_noticed_though_the_feed_is_started_again_meanwhile() -> None:
    """As when the shard gets another owner while the last events are still being written."""
    journal = _Journal(event(1), event(2), event(3))
    async with following(journal, 3) as (hub, feed, _):
        held: list[ThreadFeed] = []
        hub.schedule = held.append  # type: ignore[method-assign, assignment]  # the writing waits
        hub.answers.put_nowait(Followed(7, (event(4),)))
        await until(lambda: feed.head == 4)
        journal.events = [event(1), event(2), event(3, 2)]
        hub.answers.put_nowait(Followed(8, fresh=True))
        await until(lambda: hub.answers.empty() and feed._flushed is not None)
        feed.start()
        hub.answers.put_nowait(Followed(9, fresh=True))
        await until(lambda: hub.answers.empty())
        while feed.more:
            feed.deliver(256)
        await until(lambda: hub.behind == [(4, 1)])
        assert (feed.head, feed.epoch) == (3, 2)


async def test_a_follower_without_place_reads_the_journal_later() -> None:
    """From the event that it has, by number and epoch; it joins again when it has read that."""
    async with following(_Journal(event(1)), 1) as (hub, feed, sink):
        sink.place = False
        large = LiveEvent(2, 2, 7, 1, b'{"messages":[],"x":"%b"}' % (b"x" * LARGE_BYTES))
        hub.answers.put_nowait(Followed(7, (large,)))
        await until(lambda: hub.behind == [(1, 1)])
        assert (sink.ids, sink.ended) == ([], False)
        follower = next(iter(feed.followers))
        assert not feed.join(follower, 1, 1)
        hub.answers.put_nowait(Followed(7, (event(3, 2),)))
        await until(lambda: feed.head == 3)
        assert not feed.join(follower, 2, 1)
        assert feed.join(follower, 2, 2)
        assert sink.ids == ["3.2"]


async def test_a_large_event_is_written_to_few_followers_in_a_turn() -> None:
    """By its bytes: 250 followers of an event of 1 MB would hold the loop for seconds."""
    async with following(_Journal(event(1)), 1) as (hub, feed, _):
        for _ in range(9):
            other = ThreadFollower(hub, cast("Sink", _Sink()), T, A)
            other.roles = Roles(member=True)
            assert feed.join(other, 1, 1)
        held: list[ThreadFeed] = []
        hub.schedule = held.append  # type: ignore[method-assign, assignment]  # the writing waits
        hub.answers.put_nowait(
            Followed(7, (LiveEvent(2, 1, 7, 1, b'{"messages":[],"x":"%b"}' % (b"x" * (300 << 10))),))
        )
        await until(lambda: feed.more)
        costs: list[int] = []
        while feed.more:
            costs.append(feed.deliver(256))
        assert len(costs) == 4
        assert max(costs) <= 256


async def test_a_bug_ends_the_streams_of_its_thread() -> None:
    """Their clients resume; a stream that is silent for good would be worse."""
    async with following(_Journal(event(1)), 1) as (hub, _, sink):
        hub.answers.put_nowait(RuntimeError("a bug"))
        await until(lambda: sink.ended and hub.dropped)


async def test_an_event_that_cannot_be_read_ends_the_streams_with_an_error() -> None:
    """Here one of a type that a later release knows."""
    async with following(_Journal(event(1)), 1) as (hub, _, sink):
        hub.answers.put_nowait(Followed(7, (LiveEvent(2, 1, 99, 1, b"{}"),)))
        await until(lambda: sink.ended and hub.dropped)
