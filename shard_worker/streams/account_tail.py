"""The tail of the journal: every new event, handed to the streams of the accounts that may see it.

One task of a worker with account streams reads what is new in the journal, of all shards, wherever they are served.  Within a
shard events become visible in the order of their numbers, so that one head a shard says what was read.  Nothing depends on the
shards' owners: a move, a takeover or an unknown outcome is no event here.  A wake-up by this worker's own appends, and a short
interval for those of other workers, only make it sooner.

A position is confirmed by a mark (`shard_worker.journal.settled`): it is taken first, then the journal is read to its end, and
then every live stream has all that transactions below the mark wrote.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Final, NamedTuple
from uuid import UUID

from shard_worker.contract import LiveEvent
from shard_worker.database.connection import CONNECTION_ERRORS
from shard_worker.domain.ids import AccountId
from shard_worker.journal.codec import UndecodableEvent, decode
from shard_worker.journal.settled import Mark
from shard_worker.streams.account_access import PLAIN, AccessChange, change_of
from shard_worker.streams.account_follower import AccountFollower, Backlog
from shard_worker.streams.account_journal import AccountJournal, TailEvent
from shard_worker.streams.framing import bare_frame, thread_error_frame
from shard_worker.streams.metrics import StreamMetrics
from shard_worker.tasks import BackgroundTasks

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.1
"""Longest time between two looks at the journal: how late an event of another worker's shard may be seen."""
_LOOK_OF_A_SHARD_S: Final = 0.0005
"""With many shards a look costs more: it comes once in this time for each of them, at most."""
_PACE_S: Final = 0.01
"""Shortest time between two looks: under load more events come with each."""
_MARK_S: Final = 1.5
"""Time between two marks, so that a position is at most 5 s old whatever a look takes."""
_PAUSE_S: Final = 0.25
_SLICE: Final = 256
"""Deliveries in one turn of the loop."""
_PART: Final = 256
_PART_BYTES: Final = 2 << 20
"""Events whose payloads are read at once, and bytes of all of them; the first is taken whatever its size."""


class Registration(NamedTuple):
    """The begin of a follower that is behind: everything up to ``heads`` is in the journal, the rest comes to ``backlog``."""

    mark: Mark
    made_at: int
    heads: dict[int, int]
    backlog: Backlog


class JournalTail:
    """Belongs to the running loop.  ``clock`` is the worker's clock, in epoch seconds."""

    def __init__(
        self,
        journal: AccountJournal,
        metrics: StreamMetrics,
        poison: Callable[[], bytes],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._journal = journal
        self._metrics = metrics
        self._poison = poison
        self._clock = clock
        self.mark = Mark("", 0, 0)
        """Up to which every live follower has everything."""
        self.made_at = 0
        self._heads: dict[int, int] | None = None
        """The newest event of each shard that was handed out; None while none is."""
        self._by_account: dict[AccountId, dict[AccountFollower, None]] = {}
        self._by_thread: dict[UUID, dict[AccountFollower, None]] = {}
        """Live followers."""
        self.followed = 0
        """How many pairs of a live stream and a thread are kept."""
        self._followers: dict[AccountFollower, None] = {}
        self._behind: dict[AccountFollower, Backlog] = {}
        self._registering: list[tuple[AccountFollower, asyncio.Future[Registration]]] = []
        self._wake: asyncio.Future[None] | None = None
        self._woken = False
        self._marked_at = 0.0
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._followers)

    # --- followers

    async def register(self, follower: AccountFollower) -> Registration:
        """Keep events for a follower from a mark on that is taken after this call; once more, it starts over."""
        self._withdraw(follower)
        self._followers[follower] = None
        future: asyncio.Future[Registration] = self._loop.create_future()
        self._registering.append((follower, future))
        self.wake()
        return await future

    def join(self, follower: AccountFollower, backlog: Backlog) -> bool:
        """Make a follower live that has shown all of its backlog; False when more has come, or some of it was lost."""
        if backlog.events or backlog.lost or self._behind.get(follower) is not backlog:
            return False
        del self._behind[follower]
        follower.live = True
        self._by_account.setdefault(follower.account_id, {})[follower] = None
        for uuid in follower.threads.entries:
            self._link(uuid, follower)
        return True

    def remove(self, follower: AccountFollower) -> None:
        """Forget a follower."""
        self._withdraw(follower)
        self._followers.pop(follower, None)

    def _withdraw(self, follower: AccountFollower) -> None:
        self._behind.pop(follower, None)
        self._registering = [each for each in self._registering if each[0] is not follower]
        of_account = self._by_account.get(follower.account_id)
        if of_account is not None and of_account.pop(follower, follower) is None:
            if not of_account:
                del self._by_account[follower.account_id]
            for uuid in follower.threads.entries:
                self._unlink(uuid, follower)

    def _link(self, uuid: UUID, follower: AccountFollower) -> None:
        followers = self._by_thread.setdefault(uuid, {})
        if follower not in followers:
            followers[follower] = None
            self.followed += 1

    def _unlink(self, uuid: UUID, follower: AccountFollower) -> None:
        followers = self._by_thread.get(uuid)
        if followers is not None and followers.pop(follower, follower) is None:
            self.followed -= 1
            if not followers:
                del self._by_thread[uuid]

    # --- the task

    def start(self, tasks: BackgroundTasks) -> None:
        """Follow the journal while a stream is there."""
        tasks.start(self._run(), name="journal-tail")

    def wake(self) -> None:
        """Look at once: something was stored."""
        self._woken = True
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)

    async def _run(self) -> None:
        while True:
            began = self._loop.time()
            try:
                await self._turn()
            except CONNECTION_ERRORS as error:
                log.warning("journal's tail failed to read; trying again", extra={"cause": repr(error)})
                await asyncio.sleep(_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311  # spreads load
                continue
            await asyncio.sleep(max(0.0, began + _PACE_S - self._loop.time()))
            await self._wait()

    async def _wait(self) -> None:
        """Return when it is time for the next look."""
        if self._registering or self._woken:
            return
        # No await between the check and the future: `wake` cannot run in between.
        wake = self._wake = self._loop.create_future()
        look_s = None if not self._followers else max(_LOOK_S, _LOOK_OF_A_SHARD_S * len(self._heads or ()))
        await asyncio.wait((wake,), timeout=look_s)
        self._wake = None

    async def _turn(self) -> None:
        """One look at the journal; with a mark before it, when one is due or wanted."""
        self._woken = False
        if not self._followers:
            self._heads = None
            return
        registering = list(self._registering)
        if not registering and self._heads is not None and self._loop.time() - self._marked_at < _MARK_S:
            await self._look()
            return
        made_at = int(self._clock())
        mark = await self._journal.mark()
        if mark.generation != self.mark.generation:
            self._change_history(mark)
        if self._heads is None:
            self._heads = await self._journal.heads()
        elif not await self._look():
            return
        # Everything that the mark covers is visible since it was taken, and was handed out: the heads say so.
        self.mark, self.made_at, self._marked_at = mark, made_at, self._loop.time()
        await self._confirm()
        for follower, future in registering:
            if not future.done() and follower in self._followers:
                backlog = self._behind[follower] = Backlog()
                future.set_result(Registration(mark, made_at, dict(self._heads), backlog))
        self._registering = [each for each in self._registering if not each[1].done()]

    def _change_history(self, mark: Mark) -> None:
        """The database failed over: what was handed out may be lost, so that every follower starts over with a reset."""
        if self.mark.generation:
            log.warning(
                "journal's tail noticed another history; its streams get a reset",
                extra={"generation": mark.generation, "before": self.mark.generation, "streams": len(self._followers)},
            )
        self._heads = None
        for backlog in self._behind.values():
            backlog.lose()
        self.mark = mark
        for follower in [each for each in self._followers if each.live]:
            self._withdraw(follower)
            follower.live = False
            follower.hub.start_over(follower)

    async def _confirm(self) -> None:
        """Send the mark to the streams that had events.  Nothing is handed out meanwhile."""
        waiting = [each for each in self._followers if each.news and each.live]
        for at in range(0, len(waiting), _SLICE):
            for follower in waiting[at : at + _SLICE]:
                if follower.live:
                    follower.confirm()
            await asyncio.sleep(0)

    async def _look(self) -> bool:
        """Hand out what is new; False when the journal is of another history, whose mark is taken next."""
        heads = self._heads
        assert heads is not None  # read before the first look
        while True:
            found = await self._journal.new_events(heads)
            if found.generation is not None and found.generation != self.mark.generation:
                self._marked_at = float("-inf")
                return False
            part: list[TailEvent] = []
            size = 0
            for event in found.events:
                if part and (len(part) == _PART or size + event.size > _PART_BYTES):
                    await self._hand_out(heads, part)
                    part, size = [], 0
                part.append(event)
                size += event.size
            await self._hand_out(heads, part)
            if not found.more:
                return True

    async def _hand_out(self, heads: dict[int, int], events: list[TailEvent]) -> None:
        """Hand out events in their order.  Raises `ConnectionError` at a hole, which no history has that is whole."""
        await self._journal.read_payloads([each for each in events if not each.plain or each.uuid in self._by_thread])
        for event in events:
            if event.shard_seq != heads[event.shard_id] + 1:
                raise ConnectionError(f"shard {event.shard_id} has no event {heads[event.shard_id] + 1}")
            await self._deliver(event)
            heads[event.shard_id] = event.shard_seq

    async def _deliver(self, event: TailEvent) -> None:
        change = self.change_for(event)
        targets = self._targets(event, change)
        if targets and event.payload is None:  # a follower came since the payloads were read
            await self._journal.read_payloads([event])
            targets = self._targets(event, change)
        # In one turn with the targets: a follower that joins from here on has the event in its backlog, once.
        for backlog in self._behind.values():
            backlog.add(event)
        for at in range(0, len(targets), _SLICE):
            if at:
                await asyncio.sleep(0)
            for follower in targets[at : at + _SLICE]:
                if follower.live:
                    self.show(follower, event, change)
                    if follower.live and event.uuid in follower.threads.entries:
                        self._link(event.uuid, follower)
                    else:
                        self._unlink(event.uuid, follower)

    def _targets(self, event: TailEvent, change: AccessChange | None) -> list[AccountFollower]:
        """The live followers that may see an event."""
        linked = self._by_thread.get(event.uuid, {})
        targets = list(linked)
        if change is not None and change is not PLAIN:
            for account_id in change.named:
                targets += [each for each in self._by_account.get(account_id, ()) if each not in linked]
        return targets

    @staticmethod
    def _change_of(event: TailEvent) -> AccessChange | None:
        assert event.payload is not None  # read before
        try:
            return change_of(decode(event.event_type, event.event_version, event.payload))
        except UndecodableEvent as error:
            log.error("stream failed to read an event", extra={"thread_id": event.thread_id, "cause": repr(error)})
            return None

    def show(self, follower: AccountFollower, event: TailEvent, change: AccessChange | None) -> None:
        """Write an event to a follower that may see it; None is an event that cannot be read, the last of its thread."""
        threads = follower.threads
        if change is not None:
            if not threads.take(event.uuid, event.sequence_nr, change):
                return
            frame = event.frame
            if frame is None:
                frame = event.frame = self._frame(event)
            if frame:
                self._metrics.delivered += 1
                follower.news = 2
                follower.send(frame)
                return
        entry = threads.entries.pop(event.uuid, None)
        if change is not None or (entry is not None and entry.roles.reader and event.sequence_nr > entry.since):
            follower.news = 2
            follower.send(thread_error_frame(event.thread_id, self._poison()))

    def change_for(self, event: TailEvent) -> AccessChange | None:
        """The change of an event whose payload was read."""
        return PLAIN if event.plain else self._change_of(event)

    @staticmethod
    def _frame(event: TailEvent) -> bytes:
        """The frame; empty for an event that cannot be read."""
        assert event.payload is not None  # read for all who may see it
        live = LiveEvent(event.sequence_nr, event.epoch, event.event_type, event.event_version, event.payload)
        try:
            return bare_frame(event.thread_id, live)
        except UndecodableEvent as error:
            log.error("stream failed to read an event", extra={"thread_id": event.thread_id, "cause": repr(error)})
            return b""
