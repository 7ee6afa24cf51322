"""The read-model updater: projects the journal of the shards that this worker owns, and of no others.

One task serves all shards of the worker.  An append wakes it; a timer looks after every interval too, so that a lost wake-up
costs an interval and not a projection.  Neither moves a position: what is projected is what the journal holds behind the
offset that the batch's own transaction has locked (see `shard_worker.readmodel.tables`), so that a crash, a takeover or a
handoff between any two steps applies each event once.

A batch may hold events of many shards.  What stops a projection stops as little as possible:

* an event that this release cannot read stops its thread: the event is recorded in ``dead_letter``, and the shard goes on;
* a hole in the shard's numbers stops the shard: events that were acknowledged are gone, or were never written;
* anything that the database refuses is tried again, at last shard by shard, so that one shard's trouble is its own.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

import asyncpg

from shard_worker.database.connection import CONNECTION_ERRORS, OpenConnection
from shard_worker.database.reconnecting import Backoff
from shard_worker.domain.events import Event
from shard_worker.domain.ids import ShardId
from shard_worker.journal import codec
from shard_worker.journal.codec import UndecodableEvent
from shard_worker.readmodel.projection import VERSION, Changes, StoredEvent
from shard_worker.readmodel.tables import EventRow, GenerationTables, ShardEvents
from shard_worker.tasks import BackgroundTasks, OnFailure, log_only

log = logging.getLogger(__name__)

_POLL_S: Final = 0.5
"""Longest time for which a projection may lag because a wake-up was lost."""
_REFRESH_S: Final = 2.0
"""How often the generations that are to be fed are read again; a rebuild waits for every worker that long."""
BATCH_EVENTS: Final = 256
"""Maximum events of one shard in a batch."""
_BATCH_SHARDS: Final = 64
"""Maximum shards in a batch: together at most 16,384 events, and as a rule far fewer."""
_BATCHES_AT_ONCE: Final = 4
"""Batches of a generation in a row: one that is being rebuilt must not hold up the one that answers queries."""
_BATCH_S: Final = 10.0
"""After how long a batch that does not end is given up with its connection."""
_RETRY_SHARD_S: Final = 10.0
"""Pause of a shard whose batch was refused, or whose journal has a hole: another look may find it mended."""
_REVIVE_S: Final = 30.0
"""How often a thread that stands still is tried again: its history may have been repaired, or this release may read it."""
_REVIVE_EVENTS: Final = 1_000
"""Maximum events of such a thread that one transaction projects."""
_ELSEWHERE_S: Final = 0.1
"""Pause of a shard whose offset another updater holds, as the owner of before may for a moment."""
_GENERATIONS: Final = "SELECT generation FROM readmodel_generation WHERE version = $1 ORDER BY generation"

Decode = Callable[[int, int, bytes], Event]


class UpdaterMetrics:
    """Counters of the updater since its start."""

    __slots__ = ("batches", "buried", "events", "failures", "found_by_timer", "holes", "seconds")

    def __init__(self) -> None:
        self.batches = 0
        self.events = 0
        self.seconds = 0.0
        self.buried = 0
        """Events that could not be read, each the first of its thread."""
        self.holes = 0
        """Looks at a shard that found a hole in its numbers."""
        self.failures = 0
        """Batches that the database refused or did not end."""
        self.found_by_timer = 0
        """Looks of the timer that found events of which no wake-up came: more than a few say that wake-ups are lost."""


class _Projection:
    """One owned shard in one generation."""

    __slots__ = ("dead", "not_before", "position", "revive_at", "shard_id")

    def __init__(self, shard_id: int) -> None:
        self.shard_id = shard_id
        self.position: int | None = None
        """Offset in the database as last seen; None while unknown."""
        self.not_before = 0.0
        """Loop time before which it is left alone."""
        self.dead: dict[UUID, int] = {}
        """Threads that stand still, each with the number of the event at which it does."""
        self.revive_at = 0.0
        """Loop time from which on they are tried again."""


class ReadModelUpdater:
    """Feeds the generations of the read model from the journal of this worker's shards.

    `open_shard` and `close_shard` follow the ownership of shards, `advance` follows their appends; all three are called on the event
    loop, and none of them waits.
    """

    def __init__(
        self, connect: OpenConnection, *, decode: Decode = codec.decode, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connect = connect
        self._decode = decode
        self._clock = clock
        self._heads: dict[int, int] = {}
        """By owned shard: the last event known to be durable."""
        self._woken: set[int] = set()
        """Shards with events that the updater was woken for and has not projected yet."""
        self._fed: dict[int, tuple[GenerationTables, dict[int, _Projection]]] = {}
        self._wake: asyncio.Future[None] | None = None
        self._tasks = BackgroundTasks()
        self.metrics = UpdaterMetrics()

    # --- what the worker owns

    def open_shard(self, shard_id: ShardId, head: int) -> None:
        """Project a shard from now on; its events up to ``head`` are durable."""
        self._heads[shard_id] = head
        for _, projections in self._fed.values():
            projections[shard_id] = _Projection(shard_id)
        self._notify(shard_id)

    def close_shard(self, shard_id: ShardId) -> None:
        """Leave a shard to its next owner.  A batch that is under way may still be stored: the offset's lock orders the two."""
        self._heads.pop(shard_id, None)
        self._woken.discard(shard_id)
        for _, projections in self._fed.values():
            projections.pop(shard_id, None)

    def advance(self, shard_id: ShardId, head: int) -> None:
        """The events of a shard up to ``head`` are durable."""
        if shard_id in self._heads:
            self._heads[shard_id] = head
            self._notify(shard_id)

    def _notify(self, shard_id: int) -> None:
        self._woken.add(shard_id)
        wake = self._wake
        if wake is not None:
            self._wake = None
            if not wake.done():
                wake.set_result(None)

    # --- what is known of it

    def lag(self) -> int:
        """Events of owned shards that the slowest generation has not projected; those of an unknown offset count whole."""
        slowest = 0
        for _, projections in self._fed.values():
            behind = sum(self._heads[each.shard_id] - (each.position or 0) for each in projections.values())
            slowest = max(slowest, behind)
        return slowest

    def dead_threads(self) -> set[UUID]:
        """The threads of owned shards whose projection stands still."""
        return {
            thread_id
            for _, projections in self._fed.values()
            for projection in projections.values()
            for thread_id in projection.dead
        }

    # --- the task

    def start(self, on_failure: OnFailure = log_only) -> None:
        """Start the updater; it connects at once, and again however often the database goes away."""
        self._tasks.on_failure = on_failure
        self._tasks.start(self._run(), name="read-model")

    async def close(self) -> None:
        """Stop; a batch that is under way is given up with its connection, and the next owner projects it."""
        await self._tasks.close()

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            connection = await self._connect("read-model")
            try:
                await self._follow(connection, backoff)
            except CONNECTION_ERRORS as error:
                self.metrics.failures += 1
                log.warning("read model lost its connection", extra={"cause": repr(error)})
                await asyncio.sleep(backoff.next_s())
            finally:
                connection.terminate()

    async def _follow(self, connection: asyncpg.Connection, backoff: Backoff) -> None:
        """Project until the connection fails."""
        for _, projections in self._fed.values():
            for projection in projections.values():
                projection.position = None  # a batch may have been stored by the session that was lost
        refreshed_at = -_REFRESH_S
        while True:
            if self._clock() - refreshed_at >= _REFRESH_S:
                async with asyncio.timeout(_BATCH_S):
                    await self._refresh(connection)
                refreshed_at = self._clock()
            by_timer = await self._wait()
            # Taken before the look: an event that becomes durable during it wakes the updater again.
            woken, self._woken = self._woken, set()
            for tables, projections in list(self._fed.values()):
                found = await self._catch_up(connection, tables, projections)
                if by_timer and found - woken:
                    self.metrics.found_by_timer += 1
                    log.warning(
                        "read model found events of which no wake-up came", extra={"shards": len(found - woken)}
                    )
            backoff.reset()

    async def _wait(self) -> bool:
        """Return when an append woke the updater, or when its interval is over; True in the second case."""
        if self._woken:
            return False
        # No await between the check and the future: `_notify` cannot run in between.
        wake = self._wake = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait((wake,), timeout=_POLL_S)
        self._wake = None
        return not done

    async def _refresh(self, connection: asyncpg.Connection) -> None:
        """Feed the generations that this release's rules fill, and no others."""
        wanted = [row["generation"] for row in await connection.fetch(_GENERATIONS, VERSION)]
        for generation in set(self._fed) - set(wanted):
            del self._fed[generation]
        for generation in wanted:
            if generation not in self._fed:
                tables = GenerationTables(generation)
                self._fed[generation] = tables, {shard_id: _Projection(shard_id) for shard_id in self._heads}
                self._woken.update(self._heads)

    async def _catch_up(
        self, connection: asyncpg.Connection, tables: GenerationTables, projections: dict[int, _Projection]
    ) -> set[int]:
        """Project what is durable by now, a few batches at most; the shards that had something to project and did not rest."""
        await self._locate(connection, tables, projections)
        await self._revive(connection, tables, projections)
        touched: set[int] = set()
        for _ in range(_BATCHES_AT_ONCE):
            now = self._clock()
            behind = [
                each
                for each in projections.values()
                if each.position is not None
                and each.not_before <= now
                and each.position < self._heads.get(each.shard_id, 0)
            ][:_BATCH_SHARDS]
            if not behind:
                return touched
            touched.update(each.shard_id for each in behind if not each.not_before)
            await self._batch_or_singly(connection, tables, behind)
        self._woken |= touched  # there is more: come back when the other generations had their turn
        return touched

    async def _locate(
        self, connection: asyncpg.Connection, tables: GenerationTables, projections: dict[int, _Projection]
    ) -> None:
        """Read the offsets that are not known, and the threads that stand still."""
        now = self._clock()
        unknown = [each for each in projections.values() if each.position is None and each.not_before <= now]
        if not unknown:
            return
        async with asyncio.timeout(_BATCH_S):
            shards = [each.shard_id for each in unknown]
            positions = await tables.positions(connection, shards)
            dead = await tables.dead_threads(connection, shards)
        for each in unknown:
            each.position = positions.get(each.shard_id, 0)
            each.dead = dead.get(each.shard_id, {})

    async def _revive(
        self, connection: asyncpg.Connection, tables: GenerationTables, projections: dict[int, _Projection]
    ) -> None:
        """Try the threads that stand still again, each from the event at which it does."""
        now = self._clock()
        for projection in list(projections.values()):
            if not projection.dead or projection.revive_at > now or projection.position is None:
                continue
            projection.revive_at = now + _REVIVE_S
            for thread_id in list(projection.dead):
                while await self._revive_some(connection, tables, projection, thread_id):
                    pass

    async def _revive_some(
        self, connection: asyncpg.Connection, tables: GenerationTables, projection: _Projection, thread_id: UUID
    ) -> bool:
        """Project some events of a thread that stands still; True when there may be more to project at once."""
        reason: str | None = None
        async with asyncio.timeout(_BATCH_S), connection.transaction():
            up_to = await tables.hold(connection, projection.shard_id)
            if up_to is None:
                return False
            from_nr = projection.dead[thread_id]
            rows = await tables.events_of(connection, projection.shard_id, thread_id, from_nr, up_to, _REVIVE_EVENTS)
            changes, next_nr = Changes(), from_nr
            for row in rows:
                try:
                    event = self._decode(row.event_type, row.event_version, row.payload)
                except UndecodableEvent as error:
                    reason = str(error)
                    break
                changes.add(StoredEvent(projection.shard_id, thread_id, row.seq_nr, row.epoch, row.xid, event))
                next_nr = row.seq_nr + 1
            if next_nr == from_nr and reason is not None:
                return False
            await tables.write(connection, changes)
            ended = reason is None and len(rows) < _REVIVE_EVENTS
            if ended:
                await tables.unbury(connection, thread_id)
            else:
                await tables.move_dead(connection, thread_id, next_nr, reason or "being projected again")
        # After the commit: a batch that follows projects the thread's later events from here on.
        if ended:
            del projection.dead[thread_id]
            log.warning(
                "read model projects a thread again",
                extra={"shard": projection.shard_id, "thread_uuid": str(thread_id), "seq_nr": next_nr - 1},
            )
        else:
            projection.dead[thread_id] = next_nr
        return not ended and reason is None

    async def _batch_or_singly(
        self, connection: asyncpg.Connection, tables: GenerationTables, behind: Sequence[_Projection]
    ) -> None:
        """One batch of these shards; when the database refuses it, each by itself, and the guilty ones rest."""
        try:
            await self._batch(connection, tables, behind)
            return
        except asyncpg.PostgresError as error:
            if connection.is_closed():
                raise
            self.metrics.failures += 1
            if len(behind) == 1:
                self._rest(behind[0], error)
                return
        for each in behind:
            await self._batch_or_singly(connection, tables, [each])

    def _rest(self, projection: _Projection, error: Exception) -> None:
        projection.position = None
        projection.not_before = self._clock() + _RETRY_SHARD_S
        log.error(
            "read model could not project a shard; trying again later",
            extra={"shard": projection.shard_id, "cause": repr(error), "after_s": _RETRY_SHARD_S, "alarm": True},
        )

    async def _batch(
        self, connection: asyncpg.Connection, tables: GenerationTables, behind: Sequence[_Projection]
    ) -> None:
        began = self._clock()
        positions = {each.shard_id: each.position or 0 for each in behind}
        # Before the read: an event that becomes durable during it need not be in what it returns.
        heads = {each.shard_id: self._heads[each.shard_id] for each in behind}
        for each in behind:
            each.position = None  # unknown until the commit is acknowledged
        changes = Changes()
        reached: dict[int, int] = {}
        holes: dict[int, int] = {}
        buried: list[tuple[_Projection, EventRow]] = []
        async with asyncio.timeout(_BATCH_S), connection.transaction():
            found = await tables.read(connection, positions, BATCH_EVENTS)
            for projection in behind:
                read = found.get(projection.shard_id)
                if read is None:
                    continue
                rows, missing = dense(read, heads[projection.shard_id])
                if missing is not None:
                    holes[projection.shard_id] = missing
                for row in rows:
                    reason = self._project(changes, projection, row)
                    if reason is not None:
                        await tables.bury(connection, projection.shard_id, row, reason)
                        buried.append((projection, row))
                reached[projection.shard_id] = read.seq + len(rows)
            await tables.write(connection, changes)
            await tables.set_positions(connection, reached)
        for projection, row in buried:
            self._report_buried(projection, row)
        now = self._clock()
        for projection in behind:
            projection.position = reached.get(projection.shard_id)
            if projection.shard_id in holes:
                projection.not_before = now + _RETRY_SHARD_S
                self._report_hole(projection.shard_id, holes[projection.shard_id])
            elif projection.position is None:
                # Another owner's updater holds the offset or has moved it: look again in a moment.
                projection.not_before = now + _ELSEWHERE_S
            else:
                projection.not_before = 0.0
        self.metrics.batches += 1
        self.metrics.events += sum(reached.values()) - sum(positions[shard_id] for shard_id in reached)
        self.metrics.seconds += now - began

    def _report_hole(self, shard_id: int, missing: int) -> None:
        self.metrics.holes += 1
        log.critical(
            "journal lacks an event; the shard's projection stopped before it",
            extra={"shard": shard_id, "shard_seq": missing, "after_s": _RETRY_SHARD_S, "alarm": True},
        )

    def _project(self, changes: Changes, projection: _Projection, row: EventRow) -> str | None:
        """Add an event to the batch's changes; the reason when its thread stands still from now on."""
        if row.thread_id in projection.dead:
            return None
        try:
            event = self._decode(row.event_type, row.event_version, row.payload)
        except UndecodableEvent as error:
            projection.dead[row.thread_id] = row.seq_nr
            return str(error)
        changes.add(StoredEvent(projection.shard_id, row.thread_id, row.seq_nr, row.epoch, row.xid, event))
        return None

    def _report_buried(self, projection: _Projection, row: EventRow) -> None:
        self.metrics.buried += 1
        log.critical(
            "read model cannot read an event; the thread's projection stands still",
            extra={
                "shard": projection.shard_id,
                "thread_uuid": str(row.thread_id),
                "seq_nr": row.seq_nr,
                "event_type": row.event_type,
                "event_version": row.event_version,
                "alarm": True,
            },
        )


def dense(read: ShardEvents, head: int) -> tuple[Sequence[EventRow], int | None]:
    """The events up to the first hole in the shard's numbers, and the number that is missing there.

    ``head`` was durable before the read.  A hole is never passed over: events behind it may depend on what is missing.
    """
    for count, row in enumerate(read.rows):
        if row.shard_seq != read.seq + 1 + count:
            return read.rows[:count], read.seq + 1 + count
    last = read.seq + len(read.rows)
    return read.rows, last + 1 if len(read.rows) < BATCH_EVENTS and last < head else None
