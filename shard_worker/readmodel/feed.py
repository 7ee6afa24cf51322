"""Feeds one generation of the read model: batches of events of many shards, and what to do with those that cannot be stored.

A batch is one transaction (see `shard_worker.readmodel.tables`).  A failure stops as little as possible:

* an event that this release cannot read, or whose contents the tables refuse, stops its thread: it is recorded in ``dead_letter``,
  and the shard goes on.  A refused batch is tried again shard by shard, and the guilty shard event by event;
* a hole in the shard's numbers stops the shard: events that were acknowledged are gone, or were never written;
* a refusal for any other reason, as a missing right, makes the shard rest; the others go on.

A batch is bounded in events, bytes and rows, and the loop turns while it is folded.  A batch that did not end in time is halved.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from shard_worker.database.binary_arrays import UNENCODABLE
from shard_worker.domain.events import Event
from shard_worker.journal.codec import UndecodableEvent, posts_format
from shard_worker.journal.journal_row import JournalRow
from shard_worker.journal.outcome import is_about_a_row
from shard_worker.readmodel.pace import AT_ONCE, Left, Turn
from shard_worker.readmodel.post_batch import PostBatch
from shard_worker.readmodel.projection import Changes, StoredEvent
from shard_worker.readmodel.recent_rows import RecentRows, RecentSlice, slice_of
from shard_worker.readmodel.tables import GenerationTables, ShardEvents

log = logging.getLogger(__name__)

_BATCH_SHARDS: Final = 256
"""Maximum shards in a batch."""
_BATCH_EVENTS: Final = 256
"""Maximum events of one shard in a batch; fewer where many shards are behind, so that little is read that is not taken."""
_PIECE_EVENTS: Final = 64
"""Events of a shard that is far behind that are taken at once while there are commands."""
_TURN_EVENTS: Final = 150
"""Events that a look takes if there are as many: a batch of fewer costs noticeably more for each."""
_BATCH_ROWS: Final = 2_000
"""Rows after which a batch takes no further event; one event may make more."""
_POSTS: Final = 1_000
"""The same of a batch of plain messages: its arrays are made in one turn of the loop, of about a millisecond."""
_READ_AT_ONCE: Final = 100
"""Events of such a batch that are read as one document, at least: of fewer each costs more."""
_BATCH_BYTES: Final = 2 << 20
"""Bytes of events in a batch, about; each shard's first event is taken whatever its size."""
_SHARD_BYTES: Final = 8 << 10
"""Bytes of one shard's events that a batch may hold at least."""
_BATCH_S: Final = 10.0
"""After how long a batch that does not end is given up with its connection."""
_TURN_S: Final = 0.001
"""After how long the folding of a batch lets the loop turn."""
_RETRY_SHARD_S: Final = 10.0
"""Pause of a shard whose batch was refused, or whose journal has a hole: another look may find it mended."""
_REVIVE_S: Final = 30.0
"""How often a thread that has stopped is tried again: its history may have been repaired, or this release may read it."""
_REVIVE_EVENTS: Final = 200
"""Maximum events of such a thread that one transaction projects."""
_REVIVE_AT_ONCE: Final = 20
"""Maximum of such transactions in a row: other threads must not wait for a long history."""
_ELSEWHERE_S: Final = 0.1
"""Pause of a shard whose offset another updater holds, as the owner of before may for a moment."""
_VAIN_LOOKS_MOST: Final = 6
_ALLOWED_S: Final = 0.2
"""Time whose allowance of a limited backlog may be taken at once."""
_POST: Final = posts_format()
_LINK: Final = ("08", "57")
"""Classes of SQLSTATE by which the server ends a session."""

Decode = Callable[[int, int, bytes], Event]
Heads = Mapping[int, int]
"""By owned shard, the last event known to be durable."""


class UpdaterMetrics:
    """Counters of the updater since its start."""

    __slots__ = ("batches", "buried", "events", "failures", "found_by_timer", "holes", "seconds")

    def __init__(self) -> None:
        self.batches = 0
        self.events = 0
        self.seconds = 0.0
        self.buried = 0
        """Events that could not be projected, each the first of its thread."""
        self.holes = 0
        """Looks at a shard that found a hole in its numbers."""
        self.failures = 0
        """Batches that the database refused or did not end."""
        self.found_by_timer = 0
        """Looks of the timer that found events of which no wake-up came: more than a few say that wake-ups are lost."""


class ShardProjection:
    """One owned shard in one generation."""

    __slots__ = ("dead", "not_before", "position", "projected_at", "revive_at", "shard_id")

    def __init__(self, shard_id: int) -> None:
        self.shard_id = shard_id
        self.position: int | None = None
        """Offset in the database as last seen; None while unknown."""
        self.not_before = 0.0
        """Loop time before which it is left alone."""
        self.projected_at = -math.inf
        """Loop time of the look that projected all of its events last."""
        self.dead: Collection[UUID] = ()
        """Threads that have stopped, as last seen; whether one has is asked under the offset's lock."""
        self.revive_at = 0.0
        """Loop time from which on they are tried again."""

    def rest(self, until: float) -> None:
        """Leave it alone until then."""
        self.not_before = until


class Outcome(NamedTuple):
    """Result of a batch: by shard the last event that it deals with and the number that is missing; the events that it buried."""

    reached: Mapping[int, int]
    holes: Mapping[int, int] = {}
    buried: Sequence[tuple[int, JournalRow, str]] = ()


class GenerationFeed:
    """Projects the shards of this worker into one generation.  Used by one task; `add` and `remove` may come at any time."""

    def __init__(
        self,
        tables: GenerationTables,
        *,
        decode: Decode,
        clock: Callable[[], float] = time.monotonic,
        metrics: UpdaterMetrics,
        recent: RecentRows | None = None,
    ) -> None:
        self.projections: dict[int, ShardProjection] = {}
        self._line: dict[int, ShardProjection] = {}
        """Shards that may have events to project, in the order in which they get their turns.  A worker has hundreds of shards, and
        a look at a moment of little load finds events in two or three.
        """
        self._recent = RecentRows() if recent is None else recent
        self._tables = tables
        self._decode = decode
        self._clock = clock
        self._metrics = metrics
        self._share = 1.0
        """Part of the bounds that a batch uses: halved by each that did not end in time."""
        self.rate = math.inf
        """Events a second of shards that are far behind that are taken at most."""
        self._allowed = 0.0
        """How many may be taken now; less than none after a batch that took more than was allowed."""
        self._allowed_at = clock()
        self._projected_at = -math.inf
        """Loop time of the last look that projected all events of a shard."""
        self.takes_arrays = False
        """Whether the session takes ready-made arrays."""
        self._vain_looks = 0
        """Looks for plain messages in a row that found other events."""
        self._looks_left_out = 0
        """How many of the next are left out."""

    def add(self, shard_id: int) -> None:
        """Project a shard from now on, from wherever its offset is."""
        self._line[shard_id] = self.projections[shard_id] = ShardProjection(shard_id)

    def remove(self, shard_id: int) -> None:
        """Leave a shard to its next owner."""
        self.projections.pop(shard_id, None)
        self._line.pop(shard_id, None)

    def notify(self, shard_id: int) -> None:
        """The shard has new events."""
        if shard_id not in self._line and shard_id in self.projections:
            self._line[shard_id] = self.projections[shard_id]

    def notify_missed(self, heads: Heads) -> int:
        """Look at all shards; how many have events of which `notify` did not tell."""
        missed = [
            each
            for shard_id, each in self.projections.items()
            if shard_id not in self._line and (each.position is None or each.position < heads.get(shard_id, 0))
        ]
        for each in missed:
            self._line[each.shard_id] = each
        return len(missed)

    def forget_positions(self) -> None:
        """Read every offset again: a session was lost, and its last batch may be stored."""
        for projection in self.projections.values():
            projection.position = None
        self._line = dict(self.projections)

    def lag(self, heads: Heads) -> int:
        """Events that are not projected; those of an unknown offset count whole."""
        return sum(heads.get(each.shard_id, 0) - (each.position or 0) for each in self.projections.values())

    async def catch_up(self, connection: asyncpg.Connection, heads: Heads, batches: int, turn: Turn = AT_ONCE) -> Left:
        """Project what is durable by now, in at most this number of batches, and what becomes durable meanwhile only with it.

        A shard is projected once in ``turn.every_s`` seconds, and of all events about ``turn.share`` are, unless they are few: the
        work of a busy worker comes in small pieces.  A shard with more than a batch takes is not held back by that, but by the
        turn's bound on a backlog.

        A busy worker always has something new when a batch ends: batches of that would be small ones, at several times the
        cost an event, one behind the other.

        Returns what is left.  Raises `shard_worker.database.connection.CONNECTION_ERRORS` when the session is lost.
        """
        newest, heads = heads, dict(heads)
        now = self._clock()
        unknown = [each for each in self._line.values() if each.position is None and each.not_before <= now]
        if unknown:
            await self._locate(connection, unknown)
        await self._revive(connection)
        look, looked_at = _Look(self._line, heads, now, turn, self._projected_at, self._allow(now)), unknown
        for _ in range(batches):
            behind, piece = look.next(max(1, int(_BATCH_SHARDS * self._share)))
            if not behind:
                break
            looked_at += behind
            before = {each.shard_id: each.position for each in behind}
            await self._project(connection, behind, heads, piece)
            # To the end of the line, but for those of which the batch could take no event: shards that always have events must
            # not keep others waiting.
            for each in behind:
                if each.position == heads.get(each.shard_id):
                    each.projected_at = self._projected_at = now
                if each.position is not None:
                    # Another generation that is not as far yet reads them from the journal.
                    self._recent.drop(each.shard_id, each.position)
                if each.position != before[each.shard_id] and self._line.get(each.shard_id) is each:
                    self._line[each.shard_id] = self._line.pop(each.shard_id)
        self._allowed -= look.taken
        for each in looked_at:
            done = each.position is not None and each.position >= newest.get(each.shard_id, 0)
            if done and self._line.get(each.shard_id) is each:
                del self._line[each.shard_id]
        return look.left(self._clock())

    def _allow(self, now: float) -> float:
        """How many events of a backlog the rate allows at ``now``; what was not taken for a while does not add up."""
        if self.rate == math.inf:
            self._allowed = math.inf
        else:
            self._allowed = min(self.rate * _ALLOWED_S, self._allowed + self.rate * (now - self._allowed_at))
        self._allowed_at = now
        return self._allowed

    async def _locate(self, connection: asyncpg.Connection, projections: Sequence[ShardProjection]) -> None:
        """Read offsets, and the threads that have stopped."""
        async with asyncio.timeout(_BATCH_S):
            shards = [each.shard_id for each in projections]
            positions = await self._tables.positions(connection, shards)
            dead = await self._tables.dead_threads(connection, shards)
        for each in projections:
            each.position = positions.get(each.shard_id, 0)
            each.dead = dead.get(each.shard_id, ())

    # --- batches

    async def _project(
        self, connection: asyncpg.Connection, behind: Sequence[ShardProjection], heads: Heads, piece: int
    ) -> None:
        """One batch of these shards, of each at most ``piece`` events; when it is refused, each by itself."""
        try:
            most_events = min(piece, max(1, 2 * _BATCH_ROWS // len(behind)))
            await self._batch(connection, behind, heads, most_events)
        except TimeoutError:
            self._share = max(1 / _BATCH_SHARDS, self._share / 2)
            raise
        except (asyncpg.PostgresError, ValueError, OverflowError) as error:
            if _is_of_the_link(connection, error):
                raise
            refusal = error
        else:
            self._share = min(1.0, self._share * 1.2)
            return
        self._metrics.failures += 1
        await self._locate(connection, behind)  # nothing of the batch was stored
        if len(behind) == 1:
            await self._isolate(connection, behind[0], heads, refusal)
            return
        for each in behind:
            if self.projections.get(each.shard_id) is each:  # it may have gone meanwhile
                await self._project(connection, [each], heads, piece)

    async def _isolate(
        self, connection: asyncpg.Connection, projection: ShardProjection, heads: Heads, refusal: Exception
    ) -> None:
        """Find the event for which a shard was refused, and stop its thread; the shard rests when no event is guilty."""
        for _ in range(_BATCH_EVENTS):
            if not _is_about_an_event(refusal):
                break
            try:
                await self._batch(connection, [projection], heads, 1)
            except (asyncpg.PostgresError, ValueError, OverflowError) as error:
                if _is_of_the_link(connection, error):
                    raise
                await self._locate(connection, [projection])
                if _is_about_an_event(error):
                    await self._batch(connection, [projection], heads, 1, refused=repr(error))
                    return
                refusal = error
            if projection.position is None or projection.position >= heads.get(projection.shard_id, 0):
                return
        projection.position = None
        projection.rest(self._clock() + _RETRY_SHARD_S)
        log.error(
            "read model could not project a shard; trying again later",
            extra={"shard": projection.shard_id, "cause": repr(refusal), "after_s": _RETRY_SHARD_S, "alarm": True},
        )

    async def _batch(
        self,
        connection: asyncpg.Connection,
        behind: Sequence[ShardProjection],
        heads: Heads,
        most_events: int,
        *,
        refused: str | None = None,
    ) -> None:
        """Project some events of these shards; with ``refused``, stop the thread of the first event instead."""
        began = self._clock()
        positions = {each.shard_id: each.position or 0 for each in behind}
        # Before the read: an event that becomes durable during it need not be in what it returns.
        durable = {each.shard_id: heads.get(each.shard_id, 0) for each in behind}
        doubtful = [each.shard_id for each in behind if each.dead]
        for each in behind:
            each.position = None  # unknown until the commit is acknowledged
        most_bytes = int(max(_SHARD_BYTES, _BATCH_BYTES // len(behind)) * self._share)
        # Taken before the lock: what is in memory is durable, and the lock says that nothing of it is projected.
        recent = self._recent_events(positions, most_events, most_bytes)
        async with asyncio.timeout(_BATCH_S):
            if not doubtful and refused is None:
                plain = recent
                if len(recent) < len(positions):
                    plain = await self._look(connection, positions, recent, most_events, most_bytes)
                reached = await self._store_posts(connection, plain) if plain else None
                if reached is not None:
                    self._settle(behind, Outcome(reached), positions, began)
                    return
            async with connection.transaction():
                found = await self._events(connection, positions, recent, most_events, most_bytes)
                # Under the offsets' locks: another owner, or a repair, may have brought a thread up to its shard's offset.
                dead = await self._tables.dead_threads(connection, doubtful) if doubtful else {}
                fold = await self._fold(found, durable, dead, refused)
                if fold.buried:
                    await self._tables.bury(connection, fold.buried)
                if fold.reached:
                    await self._tables.write(connection, fold.changes)
                    await self._tables.set_offsets(connection, fold.reached)
        self._settle(behind, Outcome(fold.reached, fold.holes, fold.buried), positions, began)

    async def _look(
        self,
        connection: asyncpg.Connection,
        positions: Mapping[int, int],
        recent: dict[int, RecentSlice],
        most_events: int,
        most_bytes: int,
    ) -> dict[int, RecentSlice]:
        """The events behind ``positions``, from memory or from the journal, if all of them may be plain messages; else nothing.

        The journal is read without a lock: what it holds does not change, and the offsets are compared when the events are stored.
        Where a look was in vain the next ones are left out: a history of many kinds of events is read once.
        """
        if not self.takes_arrays:
            return {}
        if self._looks_left_out > 0:
            self._looks_left_out -= 1
            return {}
        self._vain_looks = min(_VAIN_LOOKS_MOST, self._vain_looks + 1)
        self._looks_left_out = (1 << self._vain_looks) - 1
        wanted = {shard_id: position for shard_id, position in positions.items() if shard_id not in recent}
        found = await self._tables.look(connection, wanted, most_events, most_bytes)
        slices = dict(recent)
        for shard_id, events in found.items():
            if not is_plain(events):
                return {}
            slices[shard_id] = slice_of(events.seq, events.rows)
        self._vain_looks = self._looks_left_out = 0
        return {shard_id: slices[shard_id] for shard_id in positions}

    async def _store_posts(
        self, connection: asyncpg.Connection, recent: Mapping[int, RecentSlice]
    ) -> dict[int, int] | None:
        """Store events of memory that are plain messages by one statement; how far each shard is, or None: nothing is stored."""
        posts, most, turned_at = PostBatch(), max(1, int(_POSTS * self._share)), time.perf_counter()
        try:
            for shard_id, events in recent.items():
                if posts.messages >= most:
                    posts.reached[shard_id] = events.position
                    continue
                posts.add(shard_id, *events)
                if posts.unread >= _READ_AT_ONCE:
                    if not posts.read():
                        return None
                    if time.perf_counter() - turned_at > _TURN_S:
                        await asyncio.sleep(0)
                        turned_at = time.perf_counter()
            if not posts.read():
                return None
            arrays = posts.arrays()
        except (UndecodableEvent, *UNENCODABLE):
            return None  # a transaction finds out whose fault it is
        positions = {shard_id: events.position for shard_id, events in recent.items()}
        held = await self._tables.store_posts(connection, arrays, posts.reached, positions)
        return posts.reached if held else None

    async def _fold(
        self,
        found: Mapping[int, ShardEvents],
        durable: Heads,
        dead: Mapping[int, set[UUID]],
        refused: str | None,
    ) -> "_Fold":
        """The events of a batch in the order of the line; it may not take all of them."""
        fold = _Fold(self._tables.new_changes(), self._decode, refused, max(1, int(_BATCH_ROWS * self._share)))
        for stopped in dead.values():
            fold.dead |= stopped
        for shard_id, events in found.items():
            await fold.add(shard_id, events, durable[shard_id])
        return fold

    def _recent_events(self, positions: Mapping[int, int], most_events: int, most_bytes: int) -> dict[int, RecentSlice]:
        """The events behind ``positions`` as this worker appended them, of the shards whose next event is in memory."""
        recent: dict[int, RecentSlice] = {}
        for shard_id, position in positions.items():
            rows = self._recent.after(shard_id, position, most_events, most_bytes)
            if rows is not None:
                recent[shard_id] = rows
        return recent

    async def _events(
        self,
        connection: asyncpg.Connection,
        positions: Mapping[int, int],
        recent: Mapping[int, RecentSlice],
        most_events: int,
        most_bytes: int,
    ) -> dict[int, ShardEvents]:
        """Lock the offsets that stand at ``positions``; what is behind them, from memory or from the journal."""
        found: dict[int, ShardEvents] = {}
        if recent:
            for shard_id in await self._tables.lock(connection, {each: positions[each] for each in recent}):
                found[shard_id] = ShardEvents(positions[shard_id], recent[shard_id].journal_rows())
        others = {shard_id: position for shard_id, position in positions.items() if shard_id not in recent}
        if others:
            found |= await self._tables.read(connection, others, most_events, most_bytes)
        return {shard_id: found[shard_id] for shard_id in positions if shard_id in found}

    def _settle(
        self, behind: Sequence[ShardProjection], outcome: Outcome, positions: Mapping[int, int], began: float
    ) -> None:
        """A batch that ``began`` then was committed: take note of where its shards are."""
        now = self._clock()
        self._metrics.batches += 1
        self._metrics.events += sum(reached - positions[shard_id] for shard_id, reached in outcome.reached.items())
        self._metrics.seconds += now - began
        for shard_id, row, reason in outcome.buried:
            self._metrics.buried += 1
            log.critical(
                "read model cannot project an event; the thread's projection has stopped",
                extra={
                    "shard": shard_id,
                    "thread_uuid": str(row.thread_id),
                    "seq_nr": row.seq_nr,
                    "event_type": row.event_type,
                    "event_version": row.event_version,
                    "cause": reason,
                    "alarm": True,
                },
            )
        buried = {
            shard_id: {row.thread_id for of, row, _ in outcome.buried if of == shard_id}
            for shard_id, _, _ in outcome.buried
        }
        for projection in behind:
            shard_id = projection.shard_id
            projection.position = outcome.reached.get(shard_id)
            if shard_id in buried:
                projection.dead = {*projection.dead, *buried[shard_id]}
                projection.revive_at = now + _REVIVE_S
            if shard_id in outcome.holes:
                projection.rest(now + _RETRY_SHARD_S)
                self._metrics.holes += 1
                log.critical(
                    "journal lacks an event; the shard's projection stopped before it",
                    extra={
                        "shard": shard_id,
                        "shard_seq": outcome.holes[shard_id],
                        "after_s": _RETRY_SHARD_S,
                        "alarm": True,
                    },
                )
            elif projection.position is None:
                # Another owner's updater holds the offset or has moved it: look again in a moment.
                projection.rest(now + _ELSEWHERE_S)
            else:
                projection.not_before = 0.0

    # --- threads that have stopped

    async def _revive(self, connection: asyncpg.Connection) -> None:
        """Try the threads that have stopped again, each from the event at which it stopped."""
        for projection in list(self.projections.values()):
            if not projection.dead or projection.revive_at > self._clock() or projection.position is None:
                continue
            projection.revive_at = self._clock() + _REVIVE_S
            left, more = _REVIVE_AT_ONCE, False
            # Some of them, by chance: of many that stay unreadable none keeps the others from being tried.
            threads = list(projection.dead)
            for thread_id in random.sample(threads, min(len(threads), _REVIVE_AT_ONCE)):
                more = True
                while more and left > 0:
                    left -= 1
                    try:
                        more = await self._revive_some(connection, projection.shard_id, thread_id)
                    except (asyncpg.PostgresError, ValueError, OverflowError) as error:
                        if _is_of_the_link(connection, error):
                            raise
                        more = False
                        log.warning(
                            "read model cannot project a thread yet",
                            extra={
                                "shard": projection.shard_id,
                                "thread_uuid": str(thread_id),
                                "cause": repr(error),
                            },
                        )
            if more:
                projection.revive_at = 0.0  # a long history: on with the next look
            async with asyncio.timeout(_BATCH_S):
                dead = await self._tables.dead_threads(connection, [projection.shard_id])
            projection.dead = dead.get(projection.shard_id, ())

    async def _revive_some(self, connection: asyncpg.Connection, shard_id: int, thread_id: UUID) -> bool:
        """Project some events of a thread that has stopped; True when there may be more to project at once."""
        changes, reason = self._tables.new_changes(), None
        async with asyncio.timeout(_BATCH_S), connection.transaction():
            up_to = await self._tables.hold(connection, shard_id)
            # Asked under the lock: another owner or a repair may have been here since.
            at = None if up_to is None else await self._tables.dead_at(connection, thread_id)
            if up_to is None or at is None:
                return False
            first = await self._tables.events_of(connection, shard_id, thread_id, at, up_to, 1)
            if first and self._reason_against(first[0]) is not None:
                return False
            rows = await self._tables.events_of(connection, shard_id, thread_id, at, up_to, _REVIVE_EVENTS)
            next_nr = at
            for row in rows:
                reason = self._reason_against(row)
                if reason is not None or changes.rows >= _BATCH_ROWS:
                    break
                event = self._decode(row.event_type, row.event_version, row.payload)
                changes.add(StoredEvent(shard_id, thread_id, row.seq_nr, row.epoch, row.xid, event))
                next_nr = row.seq_nr + 1
                await asyncio.sleep(0)
            await self._tables.write(connection, changes)
            if not rows:
                await self._tables.unbury(connection, thread_id)
            else:
                await self._tables.move_dead(connection, thread_id, next_nr, reason or "is being projected again")
        if not rows:
            log.warning(
                "read model projects a thread again",
                extra={"shard": shard_id, "thread_uuid": str(thread_id), "seq_nr": at - 1},
            )
        return bool(rows) and reason is None

    def _reason_against(self, row: JournalRow) -> str | None:
        try:
            self._decode(row.event_type, row.event_version, row.payload)
        except UndecodableEvent as error:
            return str(error)
        return None


class _Look:
    """The shards that one look projects, in the order of the line."""

    def __init__(
        self,
        line: Mapping[int, ShardProjection],
        heads: Heads,
        now: float,
        turn: Turn,
        projected_at: float,
        allowed: float,
    ) -> None:
        self._line = line
        self._heads = heads
        self._now = now
        self._latest = now - turn.every_s
        self._far = max(_BATCH_EVENTS, 2 * turn.events / max(1, len(line)))
        """A shard with this number of events or more is far behind."""
        self._pieces = turn.backlog < math.inf
        self._backlog = min(turn.backlog, allowed)
        """Events of shards that are far behind that this look may still take."""
        self.taken = 0.0
        """How many of them it took, at most."""
        self._first = list(self._behind())
        """The shards that are behind, until a batch changes that."""
        self._left = math.inf
        """Events of shards that are not far behind that this look may still take."""
        if turn.share < 1.0:
            self._left = max(_TURN_EVENTS, turn.share * sum([events for _, events in self._first]))
        elif projected_at > self._latest:
            self._left = 0  # all of them together when the time comes: batches of a few cost as much as large ones

    def next(self, most: int) -> tuple[list[ShardProjection], int]:
        """The shards of the next batch, at most ``most``, and how many events of each it may take."""
        found: list[ShardProjection] = []
        piece = _BATCH_EVENTS
        behind, self._first = self._first or list(self._behind()), []
        for each, events in behind:
            if len(found) == most:
                break
            if events >= self._far:
                if self._backlog > 0:
                    if self._pieces:
                        piece = _PIECE_EVENTS
                    self._backlog -= piece
                    self.taken += piece
                    found.append(each)
            elif self._left > 0 and each.projected_at <= self._latest:
                self._left -= events
                found.append(each)
        return found, piece

    def left(self, now: float) -> Left:
        """The events that can be projected at ``now``."""
        self._now = now
        most = max((events for _, events in self._behind()), default=0)
        return Left.BACKLOG if most >= self._far else Left.EVENTS if most else Left.NOTHING

    def _behind(self) -> Iterator[tuple[ShardProjection, int]]:
        """The shards with events that can be projected now, and how many events each has."""
        for shard_id, each in self._line.items():
            if each.position is not None and each.not_before <= self._now:
                events = self._heads.get(shard_id, 0) - each.position
                if events > 0:
                    yield each, events


class _Fold:
    """The events of a batch as they are read, and what they come to."""

    def __init__(self, changes: Changes, decode: Decode, refused: str | None, most_rows: int) -> None:
        self.changes = changes
        self.reached: dict[int, int] = {}
        """By shard, the last event that the batch deals with."""
        self.holes: dict[int, int] = {}
        """By shard, the number that is missing."""
        self.buried: list[tuple[int, JournalRow, str]] = []
        self.dead: set[UUID] = set()
        self._decode = decode
        self._refused = refused
        self._most_rows = most_rows
        self._turned_at = time.perf_counter()

    async def add(self, shard_id: int, read: ShardEvents, head: int) -> None:
        """Fold a shard's events, as many as the batch may hold."""
        rows, missing = dense(read, head)
        taken, changes, most_rows, clock = 0, self.changes, self._most_rows, time.perf_counter
        for row in rows:
            if changes.rows >= most_rows:
                break
            self._fold(shard_id, row)
            taken += 1
            if clock() - self._turned_at > _TURN_S:
                await asyncio.sleep(0)
                self._turned_at = clock()
        self.reached[shard_id] = read.seq + taken
        if missing is not None and taken == len(rows):
            self.holes[shard_id] = missing

    def _fold(self, shard_id: int, row: JournalRow) -> None:
        if row.thread_id in self.dead:
            return
        reason = self._refused
        if reason is None:
            try:
                event = self._decode(row.event_type, row.event_version, row.payload)
            except UndecodableEvent as error:
                reason = str(error)
        if reason is None:
            self.changes.add(StoredEvent(shard_id, row.thread_id, row.seq_nr, row.epoch, row.xid, event))
        else:
            self.dead.add(row.thread_id)
            self.buried.append((shard_id, row, reason))


def dense(read: ShardEvents, head: int) -> tuple[Sequence[JournalRow], int | None]:
    """The events up to the first hole in the shard's numbers, and the number that is missing there.

    ``head`` was durable before the read.  A hole is never passed over: events behind it may depend on what is missing.
    """
    for count, row in enumerate(read.rows):
        if row.shard_seq != read.seq + 1 + count:
            return read.rows[:count], read.seq + 1 + count
    # Nothing at all, though something is durable: else the read was only cut short by its bounds.
    return read.rows, read.seq + 1 if not read.rows and read.seq < head else None


def is_plain(read: ShardEvents) -> bool:
    """Whether these events may all be plain messages: at least one, without a hole, of that type, and each with its transaction."""
    return bool(read.rows) and all(
        row.shard_seq == number and (row.event_type, row.event_version) == _POST and row.xid is not None
        for number, row in enumerate(read.rows, start=read.seq + 1)
    )


def _is_of_the_link(connection: asyncpg.Connection, error: Exception) -> bool:
    """Whether the session ended, so that nothing more can be tried on it."""
    return connection.is_closed() or (
        isinstance(error, asyncpg.PostgresError) and str(error.sqlstate).startswith(_LINK)
    )


def _is_about_an_event(error: Exception) -> bool:
    """Whether an event's contents were refused, here or by the database."""
    return isinstance(error, (ValueError, OverflowError)) or is_about_a_row(error)
