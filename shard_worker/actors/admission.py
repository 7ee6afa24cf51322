"""Requests that wait for a shard's owner: one line a shard, in order of arrival, let in at a pace.

When a worker dies, every client of its shards waits, and the same event ends the wait of all.  Let in at once they
would take the processors from the shards that were never in doubt; so lines are let in a part at a time.  And while
they wait they cost nothing: a change of ownership is compared with each line once, not with each request.

A line is let in when its shard is served here, or when another owner is known than the one that did not serve it.
Until then the first of the line tries the known owner again, now and then; when that request is answered, the others
follow.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final, NamedTuple, Protocol

from shard_worker.actors.pending import Expiring, TimerWheel
from shard_worker.domain.ids import ShardId

_APART_S: Final = 0.01
"""Twice as long as the cold loads of what was let in before take: shorter, and the shards of the survivors answer in
twice to three times their usual time until the last line is let in."""
_PART: Final = 20
"""A twentieth of the most that waited in open lines, and at least one request, is let in at a time."""
_AT_ONCE_MOST: Final = 100
"""Requests let in by one turn of the loop: some milliseconds of work."""
_PACED_AFTER_S: Final = 0.25
"""A request that waited for longer than a planned move takes, waited with all the others whose owner died."""
_PROBE_AGAIN_S: Final = 0.1
"""After how long the known owner is tried again when a try brought no news."""


class Owners(Protocol):
    """Keys of the queues."""

    def next_change(self) -> "asyncio.Future[None]":
        """Done when something of ownership is next read or learned; shared, never to be cancelled."""

    def request_refresh(self) -> None:
        """Have ownership read again soon."""


class Place(NamedTuple):
    """Where a request lines up: its number among all, when it came, and when its budget ends (loop times, seconds)."""

    number: int
    since: float
    deadline: float


class Waiter:
    """One request in a line; ``since`` is the loop time at which it first waited."""

    __slots__ = ("future", "since", "watched")

    def __init__(self, future: "asyncio.Future[None]", since: float) -> None:
        self.future = future
        self.since = since
        self.watched: set[Expiring] | None = None

    def let_in(self) -> bool:
        """End the wait; False when it had ended."""
        if self.watched is not None:
            self.watched.discard(self)
        if self.future.done():
            return False
        self.future.set_result(None)
        return True

    def expire(self) -> None:
        """The budget has run out."""
        self.let_in()


class _Line:
    """The requests for one shard, the first to arrive first."""

    __slots__ = ("after_epoch", "open", "probe_at", "waiting")

    def __init__(self) -> None:
        self.waiting: list[tuple[int, Waiter]] = []
        self.after_epoch = -1
        """The owner of this epoch, and of every earlier one, did not serve the shard."""
        self.probe_at = 0.0
        self.open = False

    def first(self) -> Waiter | None:
        """The first that still waits."""
        while self.waiting and self.waiting[0][1].future.done():
            heappop(self.waiting)
        return self.waiting[0][1] if self.waiting else None


class PacedQueue:
    """All lines of one worker.

    ``served`` says whether a shard is served here, or by an owner after an epoch, or will be by none; ``named`` whether
    a worker is known that could be tried.
    """

    def __init__(
        self, owners: Owners, *, served: Callable[[ShardId, int], bool], named: Callable[[ShardId], bool]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._owners = owners
        self._served = served
        self._named = named
        self._deadlines = TimerWheel()
        self._lines: dict[ShardId, _Line] = {}
        self._open: deque[ShardId] = deque()
        self._part = 1
        """Requests that are let in at a time until no line is open: with it the end comes after about `_PART` turns."""
        self._timer: asyncio.TimerHandle | None = None
        self._watching = False

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._deadlines)

    def holds(self, shard_id: ShardId) -> bool:
        """Whether a request for the shard must line up: others wait, and are not being let in."""
        line = self._lines.get(shard_id)
        return line is not None and not line.open and line.first() is not None

    async def enqueue(self, shard_id: ShardId, place: Place, *, after_epoch: int, probe_at: float) -> None:
        """Return when the request may go on, or its deadline has passed.

        ``after_epoch`` is the epoch of the owner that is known not to serve the shard, -1 for none; ``probe_at`` (loop
        time, seconds) when that owner may be tried again.
        """
        line = self._lines.get(shard_id)
        if line is None:
            line = self._lines[shard_id] = _Line()
        if after_epoch > line.after_epoch:
            line.after_epoch, line.probe_at = after_epoch, probe_at
        elif after_epoch == line.after_epoch:  # the request that probed comes back: the pause after its probe holds
            line.probe_at = max(line.probe_at, probe_at)
        if line.open and not self._served(shard_id, line.after_epoch):
            line.open = False
        waiter = Waiter(self._loop.create_future(), place.since)
        heappush(line.waiting, (place.number, waiter))
        self._deadlines.add(waiter, place.deadline)
        if not self._watching:
            self._watching = True
            self._owners.next_change().add_done_callback(self._changed)
        if self._named(shard_id):
            self._owners.request_refresh()
        if not line.open and self._served(shard_id, line.after_epoch):
            self.open(shard_id)
        try:
            await waiter.future
        finally:
            waiter.let_in()

    def open(self, shard_id: ShardId) -> None:
        """Let a line in: its shard is served."""
        line = self._lines.get(shard_id)
        if line is None or line.open:
            return
        first = line.first()
        if first is None:
            del self._lines[shard_id]
            return
        line.open = True
        self._open.append(shard_id)
        if self._loop.time() - first.since < _PACED_AFTER_S:
            for _ in range(_AT_ONCE_MOST):
                if not self._admit_first(line):
                    break
        if self._timer is None:
            self._timer = self._loop.call_later(0.0, self._let_in)

    def sweep(self, now: float) -> None:
        """End what is due, and look at every line.  To be called now and then."""
        self._deadlines.sweep(now)
        self._look(now)

    def _changed(self, _: "asyncio.Future[None]") -> None:
        self._watching = False
        self._look(self._loop.time())
        if self._lines and not self._watching:
            self._watching = True
            self._owners.next_change().add_done_callback(self._changed)

    def _look(self, now: float) -> None:
        """Open the lines whose shard is served; where an owner is named, try it and have ownership read again."""
        ring = False
        for shard_id, line in list(self._lines.items()):
            if line.first() is None:
                if not line.open:
                    del self._lines[shard_id]
            elif line.open:
                continue
            elif self._served(shard_id, line.after_epoch):
                self.open(shard_id)
            elif self._named(shard_id):
                ring = True
                if now >= line.probe_at:
                    line.probe_at = now + _PROBE_AGAIN_S
                    self._admit_first(line)
        if ring:
            self._owners.request_refresh()

    def _let_in(self) -> None:
        if not self._open:
            self._timer = None
            self._part = 1
            return
        waiting = sum([len(self._lines[shard_id].waiting) for shard_id in self._open if shard_id in self._lines])
        part = self._part = min(_AT_ONCE_MOST, max(self._part, waiting // _PART))
        while part and self._open:
            shard_id = self._open.popleft()
            line = self._lines.get(shard_id)
            if line is None or not line.open:
                continue  # what was let in found the shard not served after all
            if self._admit_first(line):
                part -= 1
                self._open.append(shard_id)
            else:
                del self._lines[shard_id]
        # Also after the last: a request that lines up next keeps the distance, else many that come one by one go in at once.
        self._timer = self._loop.call_later(_APART_S, self._let_in)

    def _admit_first(self, line: _Line) -> bool:
        first = line.first()
        if first is None:
            return False
        heappop(line.waiting)  # it may line up again, under the same number
        return first.let_in()

    def close(self) -> None:
        """End every wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for line in self._lines.values():
            for _, waiter in line.waiting:
                waiter.let_in()
        self._lines.clear()
        self._open.clear()
