"""One client's stream of one thread.

A follower is *behind* while a task of its own reads the journal for it, at the client's pace, and *live* from the moment
at which it has all that its thread's feed has: then it is an entry in the feed's table, and events are written to its
connection without a queue or a task.
"""

import asyncio
from typing import Final, Protocol

from shard_worker.domain.ids import AccountId, ThreadId
from shard_worker.streams.access import NO_ROLES, Roles
from shard_worker.streams.framing import HEART_BEAT
from shard_worker.streams.metrics import StreamMetrics
from shard_worker.streams.opening import Opening
from shard_worker.streams.sink import SLOW_BYTES, Sink

LARGE_BYTES: Final = 16 << 10
"""Size from which on the worker asks whether it may keep what the client does not take at once."""


class Host(Protocol):
    """The hub as every follower sees it."""

    metrics: StreamMetrics


class FollowerHost(Host, Protocol):
    """The hub as its followers see it."""

    def forget(self, follower: "ThreadFollower") -> None:
        """Forget a follower whose connection is closed."""


class Follower:
    """A stream that is open, of a thread or of an account."""

    __slots__ = ("account_id", "hub", "live", "over", "sink", "slot", "task", "write")

    hub: Host

    def __init__(self, sink: Sink, account_id: AccountId) -> None:
        self.sink = sink
        self.write = sink.write
        """Kept: one look-up a delivery less."""
        self.account_id = account_id
        self.live = False
        """Whether it has all that there is, and gets what comes as it comes."""
        self.over = False
        """Whether its last frame was written."""
        self.slot = 0
        self.task: asyncio.Task[None] | None = None
        """Reads the journal for it while it is behind."""

    def drop(self) -> None:
        """End the stream of a client that does not read: it resumes after what it has read."""
        self.over = True
        self.live = False
        self.hub.metrics.dropped += 1
        self.sink.abort()

    def end(self, data: bytes = b"") -> None:
        """Write the last frames, and end."""
        if not self.over:
            self.over = True
            self.live = False
            self.sink.end(data)


class ThreadFollower(Follower):
    """A stream of one thread."""

    __slots__ = ("opening", "roles", "since", "thread_id")

    hub: FollowerHost

    def __init__(self, hub: FollowerHost, sink: Sink, thread_id: ThreadId, account_id: AccountId) -> None:
        super().__init__(sink, account_id)
        self.hub = hub
        self.thread_id = thread_id
        self.roles: Roles = NO_ROLES
        self.since = 0
        """The newest event that the client had when it became live: earlier events of the feed are not for it."""
        self.opening: asyncio.Task[Opening] | None = None

    def send(self, data: bytes) -> bool:
        """Write to a live client that may be slow; False when nothing was written.

        Then its stream ended, for it leaves too much unread, or the worker has no place for the bytes now.
        """
        sink = self.sink
        if sink.paused and sink.unsent() > SLOW_BYTES:
            self.drop()
            return False
        if not self.has_place(len(data)):
            return False
        self.put(data)
        return True

    def has_place(self, size: int) -> bool:
        """Whether the worker may keep ``size`` bytes that the client does not take at once."""
        sink = self.sink
        return not (sink.paused or size > LARGE_BYTES) or sink.may_hold(size)

    def put(self, data: bytes) -> None:
        """Write, and have what waits for the client counted again."""
        self.write(data)
        if self.sink.paused:
            self.sink.count_unsent()

    def beat(self) -> None:
        """Send a heart-beat, by the rules of events."""
        if self.over:
            return
        if self.live:
            self.send(HEART_BEAT)
        elif not self.sink.paused:  # a client that reads its history has a sign of life in each page
            self.write(HEART_BEAT)

    def lost(self) -> None:
        """The connection is closed: leave nothing behind."""
        self.over = True
        self.live = False
        for task in (self.task, self.opening):
            if task is not None:
                task.cancel()
        self.task = self.opening = None
        self.hub.forget(self)
