"""One request's life: answered once, ended in time, and kept no longer than that."""

import asyncio

from shard_worker.actors.pending import NOT_SERVED, UNKNOWN, PendingRequest, TimerWheel
from shard_worker.contract import Done, OwnerAnswer, ReadThread
from shard_worker.domain.ids import AccountId, ThreadId, ulid_text

_ID = ulid_text(bytes(16))


def _ask() -> PendingRequest:
    return PendingRequest(ReadThread(ThreadId(_ID), AccountId(_ID)), asyncio.get_running_loop().create_future(), 0.0)


def _future(ask: PendingRequest) -> "asyncio.Future[OwnerAnswer]":
    assert isinstance(ask.slot, asyncio.Future)
    return ask.slot


async def test_an_ask_that_ran_out_of_time_says_what_is_known_of_its_storage() -> None:
    """Not admitted: nothing was stored; admitted: the outcome is unknown."""
    deadlines, early, admitted, late = TimerWheel(), _ask(), _ask(), _ask()
    admitted.admitted = True
    for ask, deadline in ((early, 1.0), (admitted, 1.0), (late, 3.0)):
        deadlines.add(ask, deadline)
    deadlines.sweep(1.2)
    assert (_future(early).result(), _future(admitted).result()) == (NOT_SERVED, UNKNOWN)
    assert not late.done
    assert len(deadlines) == 1


async def test_an_answered_ask_is_watched_no_longer() -> None:
    """A thousand asks answered before their time leave nothing behind, and a second answer changes nothing."""
    deadlines = TimerWheel()
    asks = [_ask() for _ in range(1000)]
    for number, ask in enumerate(asks):
        deadlines.add(ask, 5.0 + number / 100)
    assert len(deadlines) == 1000
    for ask in asks:
        ask.answer(Done(1))
    assert len(deadlines) == 0
    asks[0].expire()
    deadlines.sweep(100.0)
    assert {repr(_future(ask).result()) for ask in asks} == {repr(Done(1))}


async def test_a_request_without_a_waiter_ends_with_its_budget() -> None:
    """A client that has gone cancels its future; the sweep forgets the ask without a fault."""
    deadlines, ask = TimerWheel(), _ask()
    deadlines.add(ask, 1.0)
    _future(ask).cancel()
    deadlines.sweep(2.0)
    assert ask.done
    assert len(deadlines) == 0
