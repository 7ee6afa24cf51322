"""Catching up: from a position in the history to the head of a thread's feed.

The follower is registered with the feed before the first page is read, so what happens meanwhile is not missed.  Pages
are written at the client's pace: the next is read when the client has read the one before, and nothing of a page is kept
here.  Access is folded event by event.
"""

import asyncio
import logging
import random
from typing import Final, NamedTuple, Protocol

from shard_worker.contract import LiveEvent, Unavailable
from shard_worker.database.connection import CONNECTION_ERRORS
from shard_worker.domain.decide import DESTROYED
from shard_worker.domain.refusals import Refusal
from shard_worker.journal.codec import UndecodableEvent
from shard_worker.streams.access import roles_after
from shard_worker.streams.feed import ThreadFeed, make_frame
from shard_worker.streams.follower import ThreadFollower
from shard_worker.streams.framing import opening_frame, reset_frame
from shard_worker.streams.history import StreamHistory
from shard_worker.streams.opening import POISONED, Opening, StreamOpener, StreamOver, StreamStart
from shard_worker.streams.position import ThreadPosition

log = logging.getLogger(__name__)

_STALLED_S: Final = 60.0
"""A client that takes nothing of its page for this time is gone."""
_NO_PLACE_S: Final = 60.0
"""How long a page waits for place on this worker; then its client may come back, to another."""
_PAUSE_S: Final = 0.2
_SOON_S: Final = (0.02, 0.5)
"""Pauses between empty pages: the first, and the longest; each is twice the one before."""


class CatchUpHost(Protocol):
    """The hub as the readers of histories see it."""

    history: StreamHistory
    opener: StreamOpener

    def attach(self, follower: ThreadFollower) -> ThreadFeed:
        """Register a follower with its thread's feed."""
        ...

    def refusal_frame(self, refusal: Refusal | Unavailable) -> bytes:
        """The ``error`` event that ends a refused stream."""
        ...


class _Lost(NamedTuple):
    """A position that the history does not hold."""

    last: int
    epoch: int | None


async def open_stream(hub: CatchUpHost, follower: ThreadFollower, opening: "asyncio.Task[Opening]") -> None:
    """Begin a stream where its opening says."""
    found = await opening
    follower.opening = None
    await _begin(hub, follower, found, first=True)


async def go_on(hub: CatchUpHost, follower: ThreadFollower, last: int, epoch: int | None) -> None:
    """Go on with a stream whose client has everything up to ``last``, and whose roles are known as of that event."""
    lost = await _catch_up(hub, follower, last, epoch)
    if lost is not None:
        await _reopen(hub, follower, lost)


async def _reopen(hub: CatchUpHost, follower: ThreadFollower, lost: _Lost) -> None:
    position = ThreadPosition(lost.last, lost.epoch or None)
    opening = await hub.opener.open(follower.thread_id, follower.account_id, position)
    await _begin(hub, follower, opening, first=False)


async def _begin(hub: CatchUpHost, follower: ThreadFollower, opening: Opening, *, first: bool) -> None:
    while True:
        if not isinstance(opening, StreamStart):
            follower.end(hub.refusal_frame(DESTROYED if isinstance(opening, StreamOver) else opening))
            return
        if opening.reset:
            follower.write(reset_frame(follower.thread_id, opening.last, opening.epoch or 0))
            if opening.ends:
                follower.end()
                return
        elif first:
            follower.write(opening_frame(opening.last, opening.epoch))
        follower.roles, first = opening.roles, False
        lost = await _catch_up(hub, follower, opening.last, opening.epoch)
        if lost is None:
            return
        await asyncio.sleep(_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311  # spreads load
        position = ThreadPosition(lost.last, lost.epoch or None)
        opening = await hub.opener.open(follower.thread_id, follower.account_id, position)


async def _catch_up(hub: CatchUpHost, follower: ThreadFollower, last: int, epoch: int | None) -> _Lost | None:
    """Write what follows ``last`` until the follower is live or its stream ends; a position that is not held."""
    feed = hub.attach(follower)
    await feed.known()
    soon_s, longest_s = _SOON_S
    while not follower.over:
        if feed.join(follower, last, epoch):
            return None
        try:
            page = await hub.history.page(follower.thread_id, last, epoch or None)
        except CONNECTION_ERRORS as error:
            log.warning("stream failed to read a page; trying again", extra={"cause": repr(error)})
            await asyncio.sleep(_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311  # spreads load
            continue
        if page is None or not (page or follower.roles.reader):  # the event that lets the account in is lost
            return _Lost(last, epoch)
        if not page:  # the feed is about to have what the journal has
            await asyncio.sleep(soon_s)
            soon_s = min(2 * soon_s, longest_s)
            continue
        soon_s = _SOON_S[0]
        try:
            data, over = _visible(follower, page)
        except UndecodableEvent as error:
            log.warning("stream failed to read an event", extra={"thread_id": follower.thread_id, "cause": repr(error)})
            follower.end(hub.refusal_frame(POISONED))
            return None
        last, epoch = page[-1].sequence_nr, page[-1].epoch
        del page  # nothing of it is kept while the client reads
        if over:
            follower.end(data)
            return None
        if not await _write(follower, data):
            return None
    return None


def _visible(follower: ThreadFollower, page: list[LiveEvent]) -> tuple[bytes, bool]:
    """The frames of a page that the account may see, and whether the last of them ends the stream."""
    shown: list[bytes] = []
    for event in page:
        frame = make_frame(follower.thread_id, event)
        before = after = follower.roles
        if frame.event is not None:
            after = follower.roles = roles_after(before, follower.account_id, frame.event)
        if before.reader or after.reader:
            shown.append(frame.data)
            follower.hub.metrics.delivered += 1
            if frame.destroyed or not after.reader:
                return b"".join(shown), True
    return b"".join(shown), False


async def _write(follower: ThreadFollower, data: bytes) -> bool:
    """Write a page once the worker has place for it, and wait until the client has read; False when it does not."""
    sink = follower.sink
    until = asyncio.get_running_loop().time() + _NO_PLACE_S
    while not sink.may_hold(len(data)):
        if asyncio.get_running_loop().time() >= until:
            follower.drop()
            return False
        await asyncio.sleep(_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311  # spreads load
    if follower.over:
        return False
    follower.put(data)
    left = sink.unsent()
    while sink.paused and not await sink.drained(_STALLED_S):
        before, left = left, sink.unsent()
        if left >= before:
            follower.drop()
            return False
        sink.count_unsent()
    return True
