"""Reading histories back: a thread's state, a shard's head.

Threads are loaded in groups: requests that arrive while a query runs join the next one, so that a restart that wakes
ten thousand threads costs hundreds of queries, not tens of thousands.  The number of concurrent groups is bounded, so
that a takeover does not take everything from the shards that are served already; threads of busy shards have a head
start.

A history is read a page at a time (`history_page`), and each page has its own time-out, so that no length of a history
runs into one.  A thread that a page shared with others does not finish goes on in a lane of its own: a few such threads
take turns there, a page each, and give way to the groups, so that long histories and short ones never wait for each
other's end.  Snapshots are kept along the way: a load that is broken off goes on from the last.

A history that cannot be read poisons its own thread and nothing else.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from shard_worker.database.connection import CONNECTION_ERRORS, ReadPool, Session
from shard_worker.domain.ids import ShardId, ThreadId, ulid_uuid
from shard_worker.domain.thread import Thread
from shard_worker.journal.codec import decode_state, encode_state
from shard_worker.journal.fold import Fold, Pace
from shard_worker.journal.history_page import (
    FROM_SNAPSHOT,
    FROM_START,
    LONG_ROWS,
    PAGE_BYTES,
    THREAD_ROWS,
    ThreadPage,
    Wanted,
    discard_all,
    discard_unbacked,
    read_page,
)
from shard_worker.journal.snapshots import SaveSnapshot
from shard_worker.tasks import BackgroundTasks

log = logging.getLogger(__name__)

GROUP: Final = 50
"""How many threads one query loads at most."""

HEAD_START_S: Final = 1.0
"""By how much earlier than asked a thread of a busy shard is taken, at most."""
_HEAD_START_A_COMMAND_S: Final = 0.01
"""By how much for each command a second of its shard."""

_PAGE_S: Final = 5.0
"""Time-out of one page; a page takes milliseconds, so that only a stalled database runs into it."""
LONG_AT_ONCE: Final = 4
"""Long histories that take turns; the others wait without what was read of them."""
_GIVE_WAY_S: Final = 0.001
"""How long a long load waits after each slice while groups are read: their steps then find the loop free."""
_AGAIN_S: Final = 0.2
"""How long the lane of long histories waits after a fault of the link."""

_KEPT_EVERY_EVENTS: Final = 50_000
_KEPT_EVERY_BYTES: Final = 16 << 20
"""A snapshot is kept along the way after so much of a history, a fraction of a second's reading."""
_KEPT_AT_END_EVENTS: Final = 1_000
_KEPT_AT_END_BYTES: Final = 1 << 20
"""A snapshot is kept at the end of a load that read so much after the last."""

CORRUPTION: Final = (asyncpg.DataCorruptedError, asyncpg.IndexCorruptedError, asyncpg.InternalServerError)
"""Errors of the server about rows that it cannot read; the connection is sound."""

HEAD_SQL: Final = "SELECT coalesce(max(shard_seq), 0) FROM journal WHERE shard_id = $1"


class Recovered(NamedTuple):
    """A thread's state at ``sequence_nr``; None and 0 for a thread that was never created."""

    state: Thread | None
    sequence_nr: int
    snapshot_nr: int
    """Where the last snapshot was taken, or 0."""
    bytes_since: int = 0
    """Bytes of payloads after that snapshot."""
    epoch: int = 0
    """The epoch of the event ``sequence_nr``."""


class Poisoned(NamedTuple):
    """A thread whose history this release cannot read, and why."""

    reason: str


def _keep_none(shard_id: ShardId, thread_uuid: UUID, seq_nr: int, state: bytes, event_metadata: bytes) -> None:
    """Without a writer no snapshot is kept."""


class _LoadRequest:
    """One thread on its way into memory: what was folded so far, and who waits for it."""

    __slots__ = ("distrusts_snapshots", "fold", "future", "number", "shard_id", "start", "turn", "uuid")

    def __init__(
        self, turn: float, number: int, shard_id: ShardId, uuid: UUID, future: "asyncio.Future[Recovered | Poisoned]"
    ) -> None:
        self.turn = turn
        self.number = number
        self.shard_id = shard_id
        self.uuid = uuid
        self.future = future
        self.distrusts_snapshots = False
        self.begin()

    def __lt__(self, other: "_LoadRequest") -> bool:
        return (self.turn, self.number) < (other.turn, other.number)

    def begin(self) -> None:
        """Forget what was folded, if anything was; the next page begins at the snapshot, or at the first event."""
        self.start = FROM_START if self.distrusts_snapshots else FROM_SNAPSHOT
        self.fold = Fold(None, 0, 0)

    def finish(self, found: Recovered | Poisoned) -> None:
        """Hand over what was found."""
        if not self.future.done():
            self.future.set_result(found)

    def fail(self, error: Exception) -> None:
        """The journal cannot be had."""
        if not self.future.done():
            self.future.set_exception(error)


class LoadMetrics:
    """Counters of the loader since its start."""

    __slots__ = ("events", "pages", "poisoned", "snapshots_discarded", "threads")

    def __init__(self) -> None:
        self.events = 0
        self.pages = 0
        self.poisoned = 0
        self.snapshots_discarded = 0
        self.threads = 0


class ThreadLoader:
    """Loads threads in groups, at most ``at_once`` groups at a time, and long histories in a lane of their own.

    ``heat`` gives a shard's commands a second.  A thread of a busy shard is taken as if it had been asked earlier, by
    `HEAD_START_S` at most: so hot shards come first after a takeover, and no thread waits without end.  ``keep`` takes
    the snapshots of long loads.
    """

    def __init__(
        self,
        pool: ReadPool,
        *,
        at_once: int = 4,
        heat: Callable[[ShardId], float] = lambda _: 0.0,
        keep: SaveSnapshot = _keep_none,
    ) -> None:
        self.metrics = LoadMetrics()
        self._pool = pool
        self._at_once = at_once
        self._load_of = heat
        self._keep = keep
        self._numbers = count()
        self._waiting: list[_LoadRequest] = []
        self._tasks = BackgroundTasks()
        self._groups = 0
        """Groups that are being loaded."""
        self._long: deque[_LoadRequest] = deque()
        self._long_waiting: deque[_LoadRequest] = deque()
        self._going_on: _LoadRequest | None = None
        self._lane: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def long_loads(self) -> int:
        """How many threads are in the lane of long histories."""
        return len(self._long) + len(self._long_waiting) + (self._going_on is not None)

    async def load(self, shard_id: ShardId, thread_id: ThreadId) -> Recovered | Poisoned:
        """A thread's state now, read on the primary.  Raises what asyncpg raises when the database is away.

        A thread with a long history takes as long as its history; cancelling ends the load.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Recovered | Poisoned] = loop.create_future()
        turn = loop.time() - min(HEAD_START_S, self._load_of(shard_id) * _HEAD_START_A_COMMAND_S)
        heappush(self._waiting, _LoadRequest(turn, next(self._numbers), shard_id, ulid_uuid(thread_id), future))
        self._start()
        return await future

    # --- groups

    def _start(self) -> None:
        while self._waiting and self._groups < self._at_once and not self._closed:
            group = self._take()
            self._groups += 1
            self._tasks.spawn(self._run(group), name="load-threads", on_end=partial(self._ended, group))

    def _take(self) -> list[_LoadRequest]:
        """The next group.  No thread is in it twice: each who asks owns the state that it gets, and may change it."""
        group: dict[UUID, _LoadRequest] = {}
        later: list[_LoadRequest] = []
        while self._waiting and len(group) < GROUP:
            load = heappop(self._waiting)
            if load.future.done():
                continue
            if load.uuid in group:
                later.append(load)
            else:
                group[load.uuid] = load
        for load in later:
            heappush(self._waiting, load)
        return list(group.values())

    def _ended(self, group: list[_LoadRequest], task: "asyncio.Task[None]") -> None:
        self._groups -= 1
        if task.cancelled():  # one that is cancelled before its first step runs none of its handlers
            for load in group:
                load.future.cancel()
        elif (error := task.exception()) is not None:
            self._failed(group, error)
        self._start()

    def _failed(self, loads: Sequence[_LoadRequest], error: BaseException) -> None:
        """A bug, in short; those who wait take it for a fault of the link, and ask again."""
        log.error("loader failed; its requests try again", exc_info=error)
        for load in loads:
            load.fail(ConnectionAbortedError(f"loading failed: {error!r}"))

    async def _run(self, group: list[_LoadRequest]) -> None:
        try:
            pages = await self._pool.run(partial(self._read, group, THREAD_ROWS), within_s=_PAGE_S)
        except CORRUPTION as error:
            log.error("loader failed to read a group of threads; each is read alone", extra={"cause": repr(error)})
            for load in group:
                self._go_long(load)
            return
        except Exception as error:  # noqa: BLE001  # whatever it was, those who wait must hear of it
            for load in group:
                load.fail(error)
            return
        pace = Pace()
        for load, page in zip(group, pages, strict=False):  # the connection is not needed for this
            if await self._advance(load, page, pace):
                continue
            if page.rows and (len(page.rows) >= THREAD_ROWS or page.size >= PAGE_BYTES // 2):
                self._go_long(load)
            else:
                heappush(self._waiting, load)
        for load in group[len(pages) :]:  # the page ended before them
            heappush(self._waiting, load)

    # --- long histories

    def _go_long(self, load: _LoadRequest) -> None:
        if len(self._long) + (self._going_on is not None) < LONG_AT_ONCE:
            self._long.append(load)
        else:
            load.begin()  # a state that waits would be memory that waits
            self._long_waiting.append(load)
        if self._lane is None or self._lane.done():
            self._lane = self._tasks.spawn(self._run_long(), name="load-long-threads")

    async def _run_long(self) -> None:
        pace = Pace(lambda: _GIVE_WAY_S if self._groups else 0.0)
        while self._long:
            load = self._going_on = self._long.popleft()
            more = False
            try:
                more = not load.future.done() and await self._go_on(load, pace)
            except Exception as error:  # noqa: BLE001  # the lane goes on with the next; logged with its cause
                self._failed([load], error)
            self._going_on = None
            if more:
                self._long.append(load)
            elif self._long_waiting:
                self._long.append(self._long_waiting.popleft())

    async def _go_on(self, load: _LoadRequest, pace: Pace) -> bool:
        """Read and fold one page of a long history; whether more of it follows.  Never raises for a fault of the link."""
        await pace.turn()
        try:
            (page,) = await self._pool.run(partial(self._read, [load], LONG_ROWS), within_s=_PAGE_S)
        except CORRUPTION as error:
            self._poisoned(load, f"the database cannot read it: {error}")
            return False
        except CONNECTION_ERRORS as error:
            log.warning(
                "loader failed to read a page of a history; trying again",
                extra={"shard": load.shard_id, "cause": repr(error)},
            )
            await asyncio.sleep(_AGAIN_S)
            return True
        return not await self._advance(load, page, pace)

    # --- both

    async def _read(self, group: Sequence[_LoadRequest], rows_each: int, connection: Session) -> list[ThreadPage]:
        self.metrics.pages += 1
        wanted = [Wanted(load.shard_id, load.uuid, load.start) for load in group]
        pages = await read_page(connection, wanted, rows_each=rows_each)
        unbacked = [(load.shard_id, load.uuid) for load, page in zip(group, pages, strict=False) if page.unbacked]
        if unbacked:
            self.metrics.snapshots_discarded += len(unbacked)
            await discard_unbacked(connection, unbacked)
        distrusted = [
            (load.shard_id, load.uuid) for load in group if load.distrusts_snapshots and load.start == FROM_START
        ]
        if distrusted:
            await discard_all(connection, distrusted)
        return pages

    async def _advance(self, load: _LoadRequest, page: ThreadPage, pace: Pace) -> bool:
        """Fold a page; whether the load is over, by success or not."""
        if load.start == FROM_SNAPSHOT and page.state is not None and not self._take_snapshot(load, page, pace):
            load.distrusts_snapshots = True
            load.begin()
            return False
        fold = load.fold
        before = fold.sequence_nr
        await fold.run(page.rows, pace)
        self.metrics.events += fold.sequence_nr - before
        load.start = fold.sequence_nr
        if load.future.done():
            return True
        if fold.fault is not None:
            self._poisoned(load, fold.fault)
            return True
        over = fold.sequence_nr >= page.last
        self._keep_some(load, over=over)
        if over:
            self.metrics.threads += 1
            load.finish(Recovered(fold.state, fold.sequence_nr, fold.snapshot_nr, fold.bytes_since, fold.epoch))
        return over

    def _take_snapshot(self, load: _LoadRequest, page: ThreadPage, pace: Pace) -> bool:
        """Begin the fold with the page's snapshot; False when it cannot be used."""
        assert page.state is not None
        assert page.state_version is not None
        pace.size += len(page.state)
        try:
            state = decode_state(page.state, page.state_version)
            if state.sequence_nr != page.start:
                raise msgspec.ValidationError(f"it is the state at {state.sequence_nr}, kept as that at {page.start}")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.metrics.snapshots_discarded += 1
            log.warning("snapshot discarded", extra={"thread_id": str(load.uuid), "cause": str(error)})
            return False
        load.fold = Fold(state, page.start, page.start, epoch=page.epoch)
        return True

    def _keep_some(self, load: _LoadRequest, *, over: bool) -> None:
        """Have a snapshot kept after much of a history, so that neither a fault nor a restart begins it again."""
        fold = load.fold
        events, size = fold.sequence_nr - fold.snapshot_nr, fold.bytes_since
        if fold.state is not None and (
            events >= _KEPT_EVERY_EVENTS
            or size >= _KEPT_EVERY_BYTES
            or (over and (events >= _KEPT_AT_END_EVENTS or size >= _KEPT_AT_END_BYTES))
        ):
            self._keep(load.shard_id, load.uuid, fold.sequence_nr, encode_state(fold.state), fold.metadata)
            fold.snapshot_nr, fold.bytes_since = fold.sequence_nr, 0

    def _poisoned(self, load: _LoadRequest, reason: str) -> None:
        self.metrics.poisoned += 1
        load.finish(Poisoned(reason))

    async def close(self) -> None:
        """Stop; who still waits gets an error."""
        self._closed = True
        await self._tasks.close()
        for load in (*self._waiting, *self._long, *self._long_waiting, self._going_on):
            if load is not None:
                load.future.cancel()


async def read_head(connection: Session, shard_id: ShardId) -> int:
    """The sequence number of a shard's last event."""
    head: int = await connection.fetchval(HEAD_SQL, shard_id)
    return head
