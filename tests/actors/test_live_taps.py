"""Taps: what waits for a worker's next request, and when the worker has to read the journal."""

import asyncio

import pytest

from shard_worker.actors import live_taps
from shard_worker.actors.live_taps import LiveTaps
from shard_worker.actors.pending import PendingRequest
from shard_worker.contract import Followed, FollowThread, LiveEvent, Moved, OwnerAnswer
from shard_worker.domain.ids import ThreadId
from shard_worker.journal.append_queue import Row
from shard_worker.memory import MemoryBudget, MemoryPart

T, OTHER = ThreadId("01HZZZZZZZZZZZZZZZZZZZZZZZ"), ThreadId("01HZZZZZZZZZZZZZZZZZZZZZZY")


class _Writer:
    def __init__(self, thread_id: ThreadId) -> None:
        self.thread_id = thread_id


def row(number: int, thread_id: ThreadId = T, size: int = 2) -> Row:
    """A durable event."""
    made = Row()
    made.writer = _Writer(thread_id)  # type: ignore[assignment]  # an actor, as far as taps care
    made.seq_nr, made.event_type, made.event_version, made.payload = number, 7, 1, b"x" * size
    return made


def event(number: int, size: int = 2) -> LiveEvent:
    """The form in which a worker gets it."""
    return LiveEvent(number, 3, 7, 1, b"x" * size)


def result(ask: PendingRequest) -> OwnerAnswer:
    """The answer that a request got."""
    return future_of(ask).result()


def future_of(ask: PendingRequest) -> "asyncio.Future[OwnerAnswer]":
    """Where a request's answer is awaited."""
    assert isinstance(ask.slot, asyncio.Future)
    return ask.slot


class _Taps:
    """Taps of one shard at a time that the test chooses."""

    def __init__(self, limit: int = 1 << 30) -> None:
        self.memory = MemoryBudget(limit)
        self.taps = LiveTaps(MemoryPart(self.memory, 4))
        self.now = 0.0

    def follow(self, after: int, tap: int = 0, thread_id: ThreadId = T) -> PendingRequest:
        """A request."""
        future = asyncio.get_running_loop().create_future()
        ask = PendingRequest(FollowThread(thread_id, after, tap), future, 60.0)
        self.taps.follow(ask, self.now)
        return ask

    def fresh(self) -> int:
        """The name of the tap that a new worker gets."""
        answer = result(self.follow(0))
        assert answer == Followed(answer.tap, fresh=True)  # type: ignore[union-attr]  # it is, by the comparison
        return answer.tap

    def stored(self, *rows: Row) -> None:
        """These are durable."""
        self.taps.stored(rows, 3, self.now)


async def test_a_worker_gets_what_comes_after_its_first_request() -> None:
    """At once when there is some, else when there is; each worker for itself."""
    rig = _Taps()
    rig.stored(row(1))
    tap = rig.fresh()
    waiting = [rig.follow(1, tap), rig.follow(1, tap)]
    rig.stored(row(2), row(9, OTHER), row(3))
    assert [result(ask) for ask in waiting] == [Followed(tap, (event(2), event(3)))] * 2
    rig.stored(row(4))
    assert result(rig.follow(2, tap)) == Followed(tap, (event(3), event(4)))
    assert result(rig.follow(3, tap)) == Followed(tap, (event(4),))
    assert not rig.follow(4, tap).done
    assert not rig.follow(7, tap).done  # it read the journal, which knows a commit before its owner does


async def test_a_worker_that_names_another_tap_reads_the_journal() -> None:
    """As after a move, or after this tap was forgotten."""
    rig = _Taps()
    tap = rig.fresh()
    assert result(rig.follow(1, tap + 1)) == Followed(tap, fresh=True)
    rig.now += live_taps._IDLE_S
    rig.taps.expire(rig.now)
    assert len(rig.taps) == 0
    assert rig.fresh() != tap


async def test_more_than_a_tap_holds_is_read_from_the_journal() -> None:
    """Never passed over."""
    rig = _Taps()
    tap = rig.fresh()
    rig.stored(*[row(number) for number in range(2, 3 + live_taps._EVENTS_MOST)])
    assert result(rig.follow(1, tap)) == Followed(tap, fresh=True)
    assert result(rig.follow(live_taps._EVENTS_MOST, tap)).events[0] == event(live_taps._EVENTS_MOST + 1)  # type: ignore[union-attr]  # it has events


async def test_an_answer_is_bounded_in_bytes() -> None:
    """The rest comes with the next request."""
    rig = _Taps()
    tap = rig.fresh()
    asked = rig.follow(1, tap)
    big = 700 << 10
    rig.stored(row(2, size=big), row(3, size=big))
    assert result(asked) == Followed(tap, (event(2, big),))
    assert result(rig.follow(2, tap)) == Followed(tap, fresh=True)  # a tap keeps no event of this size


async def test_what_taps_keep_is_in_the_memory_budget() -> None:
    """They take a part of it, all together, and nothing when it is exceeded."""
    rig = _Taps(limit=4000)
    tap, other = rig.fresh(), result(rig.follow(0, thread_id=OTHER)).tap  # type: ignore[union-attr]  # it is named
    rig.stored(*[row(number, size=300) for number in range(2, 5)])
    assert rig.memory.used == 900
    waiting = rig.follow(1, other, OTHER)
    rig.stored(row(2, OTHER, size=300))
    assert result(waiting) == Followed(other, (event(2, 300),))
    assert rig.memory.used == 900
    assert result(rig.follow(1, other, OTHER)) == Followed(other, fresh=True)
    rig.memory.take(4000)
    rig.taps.expire(rig.now)
    assert rig.memory.used == 4000
    assert result(rig.follow(3, tap)) == Followed(tap, fresh=True)
    rig.memory.take(-4000)
    rig.stored(row(5, size=300))
    assert rig.memory.used == 300
    rig.taps.redirect(None, 0)
    assert rig.memory.used == 0


async def test_events_are_kept_no_longer_than_a_worker_takes_to_ask() -> None:
    """One event of 1 MB in each of many threads would use up the budget, for followers that have it already."""
    rig = _Taps()
    tap = rig.fresh()
    rig.stored(row(2))
    waiting = rig.follow(2, tap)
    rig.taps.expire(rig.now)
    assert rig.memory.used == 2
    rig.now += live_taps._KEPT_S
    rig.taps.expire(rig.now)
    assert (rig.memory.used, waiting.done) == (0, False)
    assert result(rig.follow(1, tap)) == Followed(tap, fresh=True)
    rig.stored(row(3))
    assert result(waiting) == Followed(tap, (event(3),))


async def test_waiting_requests_are_sent_to_the_next_owner() -> None:
    """And those that are over are forgotten."""
    rig = _Taps()
    tap = rig.fresh()
    over, waiting = rig.follow(1, tap), rig.follow(1, tap)
    future_of(over).cancel()
    rig.now += live_taps._IDLE_S
    rig.taps.expire(rig.now)
    rig.taps.redirect("w1", 8)
    assert result(waiting) == Moved("w1", 8)
    assert len(rig.taps) == 0
    with pytest.raises(asyncio.CancelledError):
        result(over)
