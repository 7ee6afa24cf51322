"""The hub of a worker's streams: its feeds, its followers, and what all of them share.

One turn of the loop writes to a few hundred followers, whichever threads they follow; one timer wheel beats for all
streams; two counts bound them, by account and in all.  A stream costs no task, no timer and no queue while it is live.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Final, Protocol

from shard_worker.contract import Answer, Request, Unavailable
from shard_worker.database.connection import ReadPool
from shard_worker.domain.ids import AccountId, ShardId, ThreadId, shard_of
from shard_worker.domain.refusals import Refusal
from shard_worker.memory import MemoryBudget, MemoryPart
from shard_worker.ownership.view import ShardOwner
from shard_worker.streams.account_follower import AccountFollower
from shard_worker.streams.account_hub import AccountStreams
from shard_worker.streams.catching_up import go_on, open_stream
from shard_worker.streams.feed import ThreadFeed
from shard_worker.streams.follower import ThreadFollower
from shard_worker.streams.framing import error_frame, retry_frame
from shard_worker.streams.history import StreamHistory
from shard_worker.streams.metrics import StreamMetrics
from shard_worker.streams.opening import Ask, Opening, StreamOpener
from shard_worker.streams.position import ThreadPosition
from shard_worker.streams.sink import Sink
from shard_worker.tasks import BackgroundTasks, OnFailure, log_only

log = logging.getLogger(__name__)

_SLICE: Final = 256
"""Deliveries in one turn of the loop: 2 ms."""
_KEPT_PART: Final = 16
"""Feeds keep at most this part of the memory budget for followers that come from the journal."""
_BEAT_SLOTS: Final = 15
_BEAT_S: Final = 1.0
"""Each stream beats once in `_BEAT_SLOTS` turns of the wheel: every 15 s, and 20 s when the worker is late by a third."""
_RETRY_MS: Final = (500, 5_000)
"""When clients of a worker that leaves come back: spread, so that its peers do not get them all at once."""
_REATTACH_S: Final = 1.0
"""After a change of owner a feed has this time to be answered; then its request is made again.  The region finds the new
owner by itself, unless the one before neither answers nor hangs up."""


class Asker(Protocol):
    """The region as the streams see it; see `shard_worker.actors.region.ShardRegion`."""

    async def ask(self, request: Request, budget_s: float) -> Answer: ...


class Owners(Protocol):
    """Ownership as the streams see it; see `shard_worker.ownership.membership.Ownership`."""

    def owner_of(self, shard_id: ShardId) -> ShardOwner | None: ...

    def next_change(self) -> "asyncio.Future[None]": ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamBounds:
    """How many streams may be open at once, of one account and in all, and the budget of what their feeds keep."""

    account: int
    worker: int
    memory: MemoryBudget
    position_key: bytes = b""
    """Binds the positions of an account's stream to the account; the same on every worker of a cluster."""


class StreamHub:
    """Owns every stream of a worker.

    ``worker`` is this worker's name; ``problem`` gives the JSON of a refusal, as the gateway answers it.
    """

    def __init__(
        self,
        asker: Asker,
        owners: Owners,
        pool: ReadPool,
        *,
        worker: str,
        shards: int,
        bounds: StreamBounds,
        problem: Callable[[Refusal | Unavailable], bytes],
    ) -> None:
        self.ask: Ask = asker.ask
        self.tasks = BackgroundTasks()
        self.budget = bounds.memory
        self.memory = MemoryPart(bounds.memory, _KEPT_PART)
        self.metrics = StreamMetrics()
        self.draining = False
        """Whether new streams are refused: the worker leaves."""
        self.history = StreamHistory(pool, self.shard_of)
        self.opener = StreamOpener(asker.ask, self.history)
        self._worker = worker
        self._owners = owners
        self._shards = shards
        self._bounds = bounds
        self._problem = problem
        self._feeds: dict[ThreadId, ThreadFeed] = {}
        self._by_shard: dict[ShardId, dict[ThreadFeed, None]] = {}
        self._followers: dict[ThreadFollower | AccountFollower, None] = {}
        self._by_account: dict[AccountId, int] = {}
        self._openings: dict[asyncio.Task[Opening], AccountId] = {}
        """Openings under way whose answer has not begun."""
        self._ready: deque[ThreadFeed] = deque()
        """Feeds with something to write."""
        self._turning = False
        self._slots: list[dict[ThreadFollower | AccountFollower, None]] = [{} for _ in range(_BEAT_SLOTS)]
        self._next_slot = 0
        # Kept, not asked for: before Python 3.12 each `get_running_loop` costs a system call.
        self._loop = asyncio.get_running_loop()
        self.accounts = AccountStreams(self, pool, key=bounds.position_key, problem=problem)

    def start(self, on_failure: OnFailure = log_only) -> None:
        """Start the heart-beats and the watch over owners."""
        self.tasks.on_failure = on_failure
        self.tasks.start(self._beat(), name="stream-beats")
        self.tasks.start(self._watch_owners(), name="stream-owners")
        self.accounts.start()

    async def drain(self) -> None:
        """Refuse new streams, and end all: each client learns when it may come back, to another worker."""
        self.draining = True
        followers = list(self._followers)
        for at in range(0, len(followers), _SLICE):
            for follower in followers[at : at + _SLICE]:
                follower.end(retry_frame(random.randint(*_RETRY_MS)))  # noqa: S311  # spreads load
            await asyncio.sleep(0)

    async def close(self) -> None:
        """End every stream at once."""
        self.draining = True
        for follower in list(self._followers):
            follower.over, follower.live = True, False
            follower.sink.abort()
        for feed in list(self._feeds.values()):
            self.drop_feed(feed)
        await self.tasks.close()
        await self.history.close()

    def shard_of(self, thread_id: ThreadId) -> ShardId:
        """The shard of a thread."""
        return shard_of(thread_id, self._shards)

    def refusal_frame(self, refusal: Refusal | Unavailable) -> bytes:
        """The ``error`` event that ends a refused stream."""
        return error_frame(self._problem(refusal))

    # --- how many

    @property
    def open_streams(self) -> int:
        """How many streams are open."""
        return len(self._followers)

    @property
    def followed_threads(self) -> int:
        """How many threads are followed."""
        return len(self._feeds)

    @property
    def relays(self) -> int:
        """How many of them another worker owns."""
        owners = {shard_id: self._owners.owner_of(shard_id) for shard_id in self._by_shard}
        elsewhere = [
            shard_id for shard_id, owner in owners.items() if owner is not None and owner.worker != self._worker
        ]
        return sum([len(self._by_shard[shard_id]) for shard_id in elsewhere])

    def limit(self, most: int) -> None:
        """Have no more than ``most`` streams: the port has connections for as many."""
        self._bounds = replace(self._bounds, worker=min(most, self._bounds.worker))

    def has_place(self, account_id: AccountId, own: "asyncio.Task[Opening] | None" = None) -> bool:
        """Whether one more stream of an account may open, beside those that are open or opening but for ``own``."""
        bounds = self._bounds
        if len(self._followers) + len(self._openings) - (own in self._openings) >= bounds.worker:
            return False
        others = sum([each == account_id for opening, each in self._openings.items() if opening is not own])
        return self._by_account.get(account_id, 0) + others < bounds.account

    # --- streams

    def open(
        self, thread_id: ThreadId, account_id: AccountId, position: ThreadPosition | None
    ) -> "asyncio.Task[Opening]":
        """Find out where a stream begins; the caller hands the task to `begin`, or cancels it."""
        opening = self.tasks.spawn(
            self.opener.open(thread_id, account_id, position),
            name=f"open-stream-{thread_id}",
            on_end=lambda task: self._openings.pop(task, None),
        )
        self._openings[opening] = account_id
        return opening

    def begin(
        self, sink: Sink, thread_id: ThreadId, account_id: AccountId, opening: "asyncio.Task[Opening]"
    ) -> ThreadFollower:
        """Send a stream to a client whose answer has begun; the sink calls the follower's `lost` when it is closed."""
        self._openings.pop(opening, None)
        follower = ThreadFollower(self, sink, thread_id, account_id)
        if self.admit(follower):
            follower.opening = opening
            self._spawn(follower, open_stream(self, follower, opening))
        else:
            opening.cancel()
        return follower

    def admit(self, stream: ThreadFollower | AccountFollower) -> bool:
        """Count a stream that begins, and have it beat; False when it ends at once, because the worker leaves."""
        account_id = stream.account_id
        self._followers[stream] = None
        self._by_account[account_id] = self._by_account.get(account_id, 0) + 1
        stream.slot = self._next_slot = (self._next_slot + 1) % _BEAT_SLOTS
        self._slots[stream.slot][stream] = None
        self.metrics.opened += 1
        if self.draining:
            stream.end(retry_frame(random.randint(*_RETRY_MS)))  # noqa: S311  # spreads load
        return not self.draining

    def catch_up(self, follower: ThreadFollower, last: int, epoch: int | None) -> None:
        """Have a follower that was live read the journal after ``last``."""
        self._spawn(follower, go_on(self, follower, last, epoch))

    def _spawn(self, follower: ThreadFollower, work: Coroutine[object, object, None]) -> None:
        thread_id = follower.thread_id

        def ended(task: "asyncio.Task[None]") -> None:
            if follower.task is task:
                follower.task = None
            if not task.cancelled() and (error := task.exception()) is not None:
                # A bug: the client resumes, and may have more luck with another worker.
                log.error("stream failed", exc_info=error, extra={"thread_id": thread_id})
                follower.end()

        follower.task = self.tasks.spawn(work, name=f"stream-{thread_id}", on_end=ended)

    def attach(self, follower: ThreadFollower) -> ThreadFeed:
        """Register a follower with its thread's feed, before the history is read."""
        thread_id = follower.thread_id
        feed = self._feeds.get(thread_id)
        if feed is None:
            feed = self._feeds[thread_id] = ThreadFeed(self, thread_id)
            self._by_shard.setdefault(feed.shard_id, {})[feed] = None
            feed.start()
        feed.followers[follower] = None
        return feed

    def forget(self, follower: ThreadFollower) -> None:
        """Forget a follower whose connection is closed, and its feed with the last of them."""
        if not self.release(follower):
            return
        feed = self._feeds.get(follower.thread_id)
        if feed is not None:
            feed.remove(follower)
            if not feed.followers:
                self.drop_feed(feed)

    def release(self, stream: ThreadFollower | AccountFollower) -> bool:
        """Count a stream no more; False when it was not counted."""
        if self._followers.pop(stream, stream) is stream:
            return False
        account_id = stream.account_id
        left = self._by_account[account_id] - 1
        if left:
            self._by_account[account_id] = left
        else:
            del self._by_account[account_id]
        self._slots[stream.slot].pop(stream, None)
        return True

    def drop_feed(self, feed: ThreadFeed) -> None:
        """Follow a thread no more."""
        feed.stop()
        if self._feeds.get(feed.thread_id) is feed:
            del self._feeds[feed.thread_id]
            feeds = self._by_shard[feed.shard_id]
            del feeds[feed]
            if not feeds:
                del self._by_shard[feed.shard_id]

    # --- turns

    def schedule(self, feed: ThreadFeed) -> None:
        """Have a feed's events written, in the next turn of the loop and those that follow."""
        self._ready.append(feed)
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        left, ready = _SLICE, self._ready
        while ready and left > 0:
            feed = ready.popleft()
            try:
                if feed.more:
                    left -= feed.deliver(left)
                if feed.more:
                    ready.append(feed)
            except Exception as error:  # a bug ends one thread's streams, which resume
                log.error("feed failed to deliver", exc_info=error, extra={"thread_id": feed.thread_id})
                feed.fail()
        if ready:
            self._loop.call_soon(self._turn)
        else:
            self._turning = False

    async def _beat(self) -> None:
        slot = 0
        while True:
            await asyncio.sleep(_BEAT_S)
            slot = (slot + 1) % _BEAT_SLOTS
            if self.memory.exceeded:
                for feed in self._feeds.values():
                    feed.keep_nothing()
            followers = list(self._slots[slot])
            for at in range(0, len(followers), _SLICE):
                for follower in followers[at : at + _SLICE]:
                    follower.beat()
                await asyncio.sleep(0)

    async def _watch_owners(self) -> None:
        """Ask again where a shard has another owner and the request to the one before is not answered."""
        known: dict[ShardId, ShardOwner | None] = {}
        while True:
            await asyncio.wait((self._owners.next_change(),))
            before, known = known, {shard_id: self._owners.owner_of(shard_id) for shard_id in self._by_shard}
            for shard_id, owner in known.items():
                if owner is not None and before.get(shard_id, owner) != owner:
                    self._loop.call_later(_REATTACH_S, self._reattach, shard_id, self._loop.time())

    def _reattach(self, shard_id: ShardId, moved_at: float) -> None:
        for feed in self._by_shard.get(shard_id, ()):
            if feed.answered_at < moved_at:
                feed.start()
