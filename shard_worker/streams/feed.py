"""The feed of one thread: everything that its followers on this worker share.

A feed asks the thread's owner, here or elsewhere, for the events after its head, again and again: one request under way
for a thread, however many follow.  Whether the owner moved, died or had nothing, the next request names the head, and
what the owner does not have comes from the journal: events reach the followers in the order of their numbers, without a
hole, and once.

Each event is framed once.  Followers get it in slices, a few hundred in one turn of the loop (`StreamHub`), and events
that come meanwhile are joined into the next pass.
"""

import asyncio
import logging
import random
from collections import deque
from typing import Final, NamedTuple, Protocol

from shard_worker.contract import Followed, FollowThread, LiveEvent, Unavailable
from shard_worker.database.connection import CONNECTION_ERRORS
from shard_worker.domain.events import Event
from shard_worker.domain.ids import ShardId, ThreadId
from shard_worker.domain.refusals import Refusal
from shard_worker.journal.codec import UndecodableEvent, decode
from shard_worker.memory import MemoryPart
from shard_worker.streams.access import DESTROYED_TYPE, PLAIN_TYPES, roles_after
from shard_worker.streams.follower import LARGE_BYTES, ThreadFollower
from shard_worker.streams.framing import event_frame
from shard_worker.streams.history import StreamHistory
from shard_worker.streams.metrics import StreamMetrics
from shard_worker.streams.opening import POISONED, Ask
from shard_worker.tasks import BackgroundTasks

log = logging.getLogger(__name__)

_ASK_S: Final = 20.0
"""How long a request waits at the owner for the next event.  After it the journal is looked at, whatever happened."""
_SOON_S: Final = 1.0
"""An answer that came sooner and says "not now" is not asked for again before a pause."""
_PAUSE_S: Final = 0.25
_KEPT_EVENTS: Final = 64
_KEPT_BYTES: Final = 32 << 10
"""Frames that a feed keeps for followers that come from the journal: a busy thread's pages never meet its head."""
_PENDING_BYTES: Final = 1 << 20
"""Bytes of events that wait to be written, beyond which no more are asked for."""
_JOINED_BYTES: Final = 64 << 10
"""Bytes of events that are written to a follower at once."""
_DELIVERY_BYTES: Final = 4 << 10
"""Bytes that take about as long to write as one small event to one follower: a turn writes 1 MiB, or to 256 of them."""


class Frame(NamedTuple):
    """One event, ready to be written."""

    sequence_nr: int
    epoch: int
    data: bytes
    event: Event | None
    """An event that may change an account's access; None for all others."""
    destroyed: bool


def make_frame(thread_id: ThreadId, event: LiveEvent) -> Frame:
    """Frame an event.  Raises `UndecodableEvent`."""
    data = event_frame(thread_id, event)
    if event.event_type in PLAIN_TYPES:
        return Frame(event.sequence_nr, event.epoch, data, None, False)
    decoded = decode(event.event_type, event.event_version, event.payload)
    return Frame(event.sequence_nr, event.epoch, data, decoded, event.event_type == DESTROYED_TYPE)


class _Pass(NamedTuple):
    """Frames that are being written to followers, and the followers."""

    frames: list[Frame]
    data: bytes
    first: int
    before: int
    """The epoch of the event before the first."""
    targets: list[ThreadFollower]

    def epoch_at(self, sequence_nr: int) -> int:
        """The epoch of one of the events, or of the one before them."""
        return next((each.epoch for each in self.frames if each.sequence_nr == sequence_nr), self.before)


class FeedHost(Protocol):
    """The hub as its feeds see it."""

    ask: Ask
    history: StreamHistory
    memory: MemoryPart
    metrics: StreamMetrics
    tasks: BackgroundTasks

    def shard_of(self, thread_id: ThreadId) -> ShardId:
        """The shard of a thread."""
        ...

    def schedule(self, feed: "ThreadFeed") -> None:
        """Have `ThreadFeed.deliver` called until nothing is left."""

    def catch_up(self, follower: ThreadFollower, last: int, epoch: int | None) -> None:
        """Have a follower that was live read the journal after ``last``."""

    def drop_feed(self, feed: "ThreadFeed") -> None:
        """Follow the thread no more."""

    def refusal_frame(self, refusal: Refusal | Unavailable) -> bytes:
        """The ``error`` event that ends a refused stream."""
        ...


class ThreadFeed:
    """Belongs to the running loop; lives while a follower is there."""

    def __init__(self, hub: FeedHost, thread_id: ThreadId) -> None:
        self._hub = hub
        self.thread_id = thread_id
        self.shard_id = hub.shard_of(thread_id)
        self.head = -1
        """The newest event that was accepted; -1 until the owner follows the thread for this worker."""
        self.epoch = 0
        self.followers: dict[ThreadFollower, None] = {}
        """All that follow the thread here, live or behind."""
        self.answered_at = 0.0
        """Loop time of the last answer."""
        self._tap = 0
        """Where the owner keeps the thread's events; see `shard_worker.actors.live_taps`."""
        self._live: dict[ThreadFollower, None] = {}
        self._kept: deque[Frame] = deque()
        self._kept_bytes = 0
        self._pending: deque[Frame] = deque()
        self._pending_bytes = 0
        self._before = 0
        """The epoch of the event before the first that is pending."""
        self._pass: _Pass | None = None
        self._at = 0
        self._filling = False
        """Whether the journal's pages are written to live followers, for whom they may come too fast."""
        self._known: asyncio.Future[None] | None = None
        self._flushed: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    # --- its followers

    def start(self) -> None:
        """Ask the owner; again from the start, if it was asked."""
        if self._task is not None:
            self._task.cancel()
        self._task = self._hub.tasks.spawn(self._run(), name=f"feed-{self.thread_id}", on_end=self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("feed failed; its streams end", exc_info=error, extra={"thread_id": self.thread_id})
            self.fail()

    def fail(self, data: bytes = b"") -> None:
        """End every stream of the thread, with a last frame or for a bug; clients resume."""
        self._hub.drop_feed(self)
        for follower in list(self.followers):
            follower.end(data)

    def stop(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._pending.clear()
        self._pending_bytes = 0
        self._pass = None
        self.keep_nothing()

    def keep_nothing(self) -> None:
        """Let go of the frames that are kept for followers to come: those read the journal."""
        self._kept.clear()
        self._count_kept(-self._kept_bytes)

    async def known(self) -> None:
        """Return when the owner has the thread followed, and the head is known."""
        while self.head < 0:
            if self._known is None:
                self._known = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._known)

    def remove(self, follower: ThreadFollower) -> None:
        """Forget a follower whose connection is closed."""
        self.followers.pop(follower, None)
        self._live.pop(follower, None)

    def join(self, follower: ThreadFollower, last: int, epoch: int | None) -> bool:
        """Make a follower live that has everything up to ``last``, of that epoch where it is known.

        False when it has to read the journal first: it lacks too much, or may have what the history does not hold, or
        its account is no reader yet, so that events before the one that lets it in are not for it.
        """
        if not follower.roles.reader:
            return False
        kept = self._kept
        # The frame of ``last`` itself is needed too: it shows that the follower has no other event of that number.
        if last > self.head or (last < self.head and (not kept or kept[0].sequence_nr > last)):
            return False
        held = self.epoch if last == self.head else next(each.epoch for each in kept if each.sequence_nr == last)
        if epoch and epoch != held:
            return False
        lacking = [frame for frame in kept if frame.sequence_nr > last]
        if lacking and not follower.has_place(sum([len(frame.data) for frame in lacking])):
            return False
        for frame in lacking:
            follower.put(frame.data)
            self._hub.metrics.delivered += 1
            if frame.event is not None and self._ends(follower, frame):
                return True
        follower.since = self.head
        follower.live = True
        self._live[follower] = None
        return True

    @staticmethod
    def _ends(follower: ThreadFollower, frame: Frame) -> bool:
        """Apply an event that was written to a follower's access; whether it was the last."""
        assert frame.event is not None  # else it changes nothing
        follower.roles = roles_after(follower.roles, follower.account_id, frame.event)
        if frame.destroyed or not follower.roles.reader:
            follower.end()
        return follower.over

    # --- what comes

    def _accept(self, event: LiveEvent) -> None:
        """Take the event after the head.  Raises `UndecodableEvent`."""
        frame = make_frame(self.thread_id, event)
        before = self.epoch
        self.head, self.epoch = frame.sequence_nr, frame.epoch
        self._kept.append(frame)
        self._count_kept(len(frame.data))
        while self._kept_bytes > _KEPT_BYTES or len(self._kept) > _KEPT_EVENTS:
            self._count_kept(-len(self._kept.popleft().data))
        if self._kept and self._hub.memory.exceeded:
            self.keep_nothing()
        if self._live or self.more:  # what is pending has no hole
            if not self.more:
                self._hub.schedule(self)
            if not self._pending:
                self._before = before
            self._pending.append(frame)
            self._pending_bytes += len(frame.data)

    def _count_kept(self, size: int) -> None:
        self._kept_bytes += size
        self._hub.memory.take(size)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if self._pending_bytes > _PENDING_BYTES:
                await self._flush()
            began = loop.time()
            answer = await self._hub.ask(FollowThread(self.thread_id, max(self.head, 0), self._tap), _ASK_S)
            self.answered_at = loop.time()
            try:
                if isinstance(answer, Followed) and not answer.fresh and self.head >= 0:
                    if self._take(answer):
                        continue
                elif not isinstance(answer, Followed) and loop.time() - began < _SOON_S:
                    await asyncio.sleep(_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311  # spreads load
                await self._read_journal()
                if isinstance(answer, Followed):  # only now: a tap is of use from the journal's end on
                    self._tap = answer.tap
            except CONNECTION_ERRORS as error:
                log.warning("stream failed to read the journal", extra={"cause": repr(error)})
                await asyncio.sleep(_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311  # as above
            except UndecodableEvent as error:
                self._poison(error)
                return

    def _take(self, answer: Followed) -> bool:
        """Accept what the owner sent; False when something is missing before it."""
        for event in answer.events:
            if event.sequence_nr <= self.head:
                continue
            if event.sequence_nr != self.head + 1:
                return False
            self._accept(event)
        return True

    async def _read_journal(self) -> None:
        """Bring the feed to the journal's end, after the owner was asked to keep what comes from now on."""
        head = await self._hub.history.head(self.thread_id)
        if self.head < 0:
            self.head, self.epoch = head
            known, self._known = self._known, None
            if known is not None:
                known.set_result(None)
            return
        if head == (self.head, self.epoch):
            return
        self._filling = True
        try:
            while self.head != head.sequence_nr:
                page = await self._hub.history.page(self.thread_id, self.head, self.epoch or None)
                if not page:
                    break
                for event in page:
                    if event.sequence_nr == self.head + 1:
                        self._accept(event)
                await self._flush()
            else:
                if self.epoch == head.epoch:
                    return
        finally:
            self._filling = False
        await self._lose_tail()

    async def _lose_tail(self) -> None:
        """The history does not hold the head: a fail-over lost it.  Each follower finds out what that means for it."""
        await self._flush()
        head = await self._hub.history.head(self.thread_id)
        if await self._hub.history.page(self.thread_id, self.head, self.epoch or None) is not None:
            return  # it grew between two reads
        log.warning(
            "stream's newest event is not in the journal; its followers get a reset or an error",
            extra={"thread_id": self.thread_id, "seq_nr": self.head, "head": head.sequence_nr},
        )
        # Without a wait from here on: a feed that is started again in between would never tell its followers.
        before = (self.head, self.epoch)
        self.head, self.epoch = head
        self.keep_nothing()
        for follower in list(self._live):
            self._fall_behind(follower, *before)

    def _fall_behind(self, follower: ThreadFollower, last: int, epoch: int | None) -> None:
        self._live.pop(follower, None)
        if follower.live:
            follower.live = False
            self._hub.catch_up(follower, last, epoch)

    def _poison(self, error: UndecodableEvent) -> None:
        log.error(
            "stream failed to read an event; its followers get an error",
            extra={"thread_id": self.thread_id, "cause": repr(error)},
        )
        self.fail(self._hub.refusal_frame(POISONED))

    # --- what goes out

    async def _flush(self) -> None:
        """Return when every accepted event was written."""
        while self._pending or self._pass is not None:
            if self._flushed is None:
                self._flushed = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._flushed)

    def deliver(self, most: int) -> int:
        """Write as much as ``most`` small events cost, to at least one follower; the cost.

        `more` says whether that was all.
        """
        current = self._pass
        if current is None:
            current = self._pass = self._next_pass()
            self._at = 0
        begin = self._at
        first, data = current.first, current.data
        large = len(data) > LARGE_BYTES
        cost = 1 + len(data) // _DELIVERY_BYTES
        end = self._at = min(len(current.targets), begin + max(1, most // cost))
        for follower in current.targets[begin:end]:
            if follower.live:
                if follower.sink.paused or large or follower.since >= first:
                    self._deliver_with_care(follower, current)
                else:
                    follower.write(data)
        frame = current.frames[-1]
        if frame.event is not None:
            for follower in current.targets[begin:end]:
                if follower.live and follower.since < frame.sequence_nr:
                    self._ends(follower, frame)
        if end == len(current.targets):
            self._pass = None
        if not self.more and self._flushed is not None:
            flushed, self._flushed = self._flushed, None
            flushed.set_result(None)
        self._hub.metrics.delivered += (end - begin) * len(current.frames)
        return max(1, end - begin) * cost

    @property
    def more(self) -> bool:
        """Whether something is still to be written."""
        return self._pass is not None or bool(self._pending)

    def _next_pass(self) -> _Pass:
        """As many events as are written at once; one that may change access is the last of them."""
        pending = self._pending
        frames: list[Frame] = []
        size = 0
        while pending and (not frames or size + len(pending[0].data) <= _JOINED_BYTES):
            frame = pending.popleft()
            frames.append(frame)
            size += len(frame.data)
            self._pending_bytes -= len(frame.data)
            if frame.event is not None:
                break
        data = frames[0].data if len(frames) == 1 else b"".join([frame.data for frame in frames])
        before, self._before = self._before, frames[-1].epoch
        return _Pass(frames, data, frames[0].sequence_nr, before, list(self._live))

    def _deliver_with_care(self, follower: ThreadFollower, current: _Pass) -> None:
        """Write to a follower that does not read, or that has some of the events already."""
        frames = current.frames
        data = current.data
        if follower.since >= current.first:
            data = b"".join([frame.data for frame in frames if frame.sequence_nr > follower.since])
            if not data:
                return
        # From the journal events come at the client's pace, and when there is place for them.
        if (self._filling and follower.sink.paused) or (not follower.send(data) and follower.live):
            last = max(follower.since, current.first - 1)
            self._fall_behind(follower, last, current.epoch_at(last))
