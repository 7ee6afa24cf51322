"""Taps: what the owner of a shard keeps for the workers that follow its threads live.

A tap belongs to one thread.  It holds the newest durable events of that thread and the requests that wait for the next
one, at most one for each worker with followers.  Between two requests of a worker the events wait here; when more came
than a tap holds, or when the tap is new, the answer is `Followed.fresh`, and the worker reads the journal, which has
every event.  So nothing depends on a tap: it is only faster than the journal.  Therefore it keeps events no longer than
a worker takes to ask again, and the taps of all shards together keep a small part of the memory budget.

A tap needs no resident actor: events reach it when the journal has them.
"""

import random
from collections import deque
from collections.abc import Sequence
from typing import Final, cast

from shard_worker.actors.pending import PendingRequest
from shard_worker.actors.thread_actor import ThreadActor
from shard_worker.contract import Followed, FollowThread, LiveEvent
from shard_worker.domain.ids import ThreadId
from shard_worker.journal.append_queue import Row
from shard_worker.memory import MemoryPart

_EVENTS_MOST: Final = 128
_BYTES_MOST: Final = 256 << 10
"""Events, and bytes of them, that wait for a worker's next request."""
_ANSWER_BYTES: Final = 1 << 20
"""Bytes of events in one answer, but for the first event."""
_KEPT_S: Final = 2.0
"""A worker that did not ask for a tap's events within this time after the newest came reads the journal."""
_IDLE_S: Final = 10.0
"""A tap that no worker asked for this time is forgotten; one that follows asks again within milliseconds."""


class _Tap:
    """The newest events of one thread, without a hole, and who waits for the next."""

    __slots__ = ("events", "id", "last", "size", "stored_at", "used_at", "waiting")

    def __init__(self, now: float) -> None:
        self.id = random.getrandbits(60) + 1  # tells taps apart, guards nothing
        self.events: deque[LiveEvent] = deque()
        self.size = 0
        self.last = 0
        """The newest event that came here; 0 before the first."""
        self.waiting: list[PendingRequest] = []
        self.stored_at = now
        self.used_at = now


class LiveTaps:
    """The taps of one shard."""

    def __init__(self, memory: MemoryPart) -> None:
        self._memory = memory
        self._taps: dict[ThreadId, _Tap] = {}

    def __len__(self) -> int:
        return len(self._taps)

    def follow(self, ask: PendingRequest, now: float) -> None:
        """Answer a `FollowThread` with the events after its number, now or when there are some."""
        request = cast("FollowThread", ask.request)
        tap = self._taps.get(request.thread_id)
        if tap is None:
            tap = self._taps[request.thread_id] = _Tap(now)
        tap.used_at = now
        if request.tap != tap.id:  # what came before this tap is known to the journal alone
            ask.answer(Followed(tap.id, fresh=True))
        else:
            self._serve(tap, ask, request.after)

    def stored(self, rows: Sequence[Row], epoch: int, now: float) -> None:
        """These events are durable; they were written in ``epoch``."""
        touched: dict[ThreadId, _Tap] = {}
        for row in rows:
            thread_id = cast("ThreadActor", row.writer).thread_id
            tap = self._taps.get(thread_id)
            if tap is None:
                continue
            touched[thread_id] = tap
            tap.events.append(LiveEvent(row.seq_nr, epoch, row.event_type, row.event_version, row.payload))
            tap.last = row.seq_nr
            self._count(tap, len(row.payload))
        for tap in touched.values():
            tap.stored_at = now
            waiting, tap.waiting = tap.waiting, []
            if waiting:
                tap.used_at = now
            for ask in waiting:
                if not ask.done:
                    self._serve(tap, ask, cast("FollowThread", ask.request).after)
            self._trim(tap)

    def expire(self, now: float) -> None:
        """Forget requests that are over, events that were not asked for in time, and taps that are not used."""
        exceeded = bool(self._taps) and self._memory.exceeded
        for thread_id, tap in list(self._taps.items()):
            if tap.events and (exceeded or now - tap.stored_at >= _KEPT_S):
                self._empty(tap)
            if tap.waiting:
                tap.waiting = [ask for ask in tap.waiting if not ask.done]
            if tap.waiting:
                tap.used_at = now
            elif now - tap.used_at >= _IDLE_S:
                self._empty(tap)
                del self._taps[thread_id]

    def redirect(self, owner: str | None, epoch: int) -> None:
        """Send every request to the next owner: the shard is no longer here."""
        taps, self._taps = self._taps, {}
        for tap in taps.values():
            self._empty(tap)
            for ask in tap.waiting:
                ask.redirect(owner, epoch)

    @staticmethod
    def _serve(tap: _Tap, ask: PendingRequest, after: int) -> None:
        if after >= tap.last:
            tap.waiting.append(ask)
            return
        events = tap.events
        if not events or events[0].sequence_nr > after + 1:
            ask.answer(Followed(tap.id, fresh=True))
            return
        found: list[LiveEvent] = []
        size = 0
        for event in events:
            if event.sequence_nr > after:
                size += len(event.payload)
                if found and size > _ANSWER_BYTES:
                    break
                found.append(event)
        ask.answer(Followed(tap.id, tuple(found)))

    def _trim(self, tap: _Tap) -> None:
        events = tap.events
        while tap.size > _BYTES_MOST or len(events) > _EVENTS_MOST:
            self._count(tap, -len(events.popleft().payload))
        while events and self._memory.exceeded:
            self._count(tap, -len(events.popleft().payload))

    def _empty(self, tap: _Tap) -> None:
        tap.events.clear()
        self._count(tap, -tap.size)

    def _count(self, tap: _Tap, size: int) -> None:
        tap.size += size
        self._memory.take(size)
