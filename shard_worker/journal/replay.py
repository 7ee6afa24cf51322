"""Reading histories back: a thread's state, its events, a shard's head.

Threads are loaded in groups: whoever asks while a query runs joins the next one, so that a restart that wakes ten
thousand threads costs hundreds of queries, not tens of thousands.  Only so many groups are read at once, so that a
takeover does not take everything from the shards that are served already; threads of busy shards have a head start.  A
history that cannot be read poisons its own thread and nothing else.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from shard_worker.database.connection import ReadPool, Session
from shard_worker.domain.events import Event
from shard_worker.domain.evolve import evolve
from shard_worker.domain.ids import ShardId, ThreadId, ulid_uuid
from shard_worker.domain.thread import Thread
from shard_worker.journal.codec import STATE_VERSION, UndecodableEvent, decode, decode_state

log = logging.getLogger(__name__)

GROUP: Final = 50
"""How many threads one query loads at most."""

SLICE: Final = 100
"""How many events are folded before the loop turns: a millisecond, so that what is served already hardly notices."""

HEAD_START_S: Final = 1.0
"""By how much earlier than asked a thread of a busy shard is taken, at most."""
_HEAD_START_A_COMMAND_S: Final = 0.01
"""By how much for each command a second of its shard."""

_LOAD_S: Final = 10.0
"""How long reading a group may take: its threads can have long histories without snapshots."""

HEAD_SQL: Final = "SELECT coalesce(max(shard_seq), 0) FROM journal WHERE shard_id = $1"
# One round trip for a group: a thread's usable snapshot, which has no type, and the events after it.  LATERAL with its
# own order: each thread's events by the primary key, whatever the planner believes of the journal's size.
_THREADS_SQL: Final = """
WITH wanted AS MATERIALIZED (
    SELECT w.shard_id, w.thread_id, s.seq_nr, s.state
      FROM unnest($1::int[], $2::uuid[]) AS w (shard_id, thread_id)
      LEFT JOIN snapshot s ON s.shard_id = w.shard_id AND s.thread_id = w.thread_id AND s.state_version = $3
)
SELECT thread_id, seq_nr, NULL::smallint AS event_type, NULL::smallint AS event_version, state AS payload
  FROM wanted WHERE state IS NOT NULL
 UNION ALL
SELECT j.thread_id, j.seq_nr, j.event_type, j.event_version, j.payload
  FROM wanted w
 CROSS JOIN LATERAL (
        SELECT * FROM journal
         WHERE shard_id = w.shard_id AND thread_id = w.thread_id AND seq_nr > coalesce(w.seq_nr, 0) ORDER BY seq_nr) j
 ORDER BY thread_id, seq_nr
"""
_NO_SNAPSHOT: Final = -1
"""A version that no state has: with it the events are read from the first."""
# LATERAL as above: each shard's tail by the index on its sequence.
_SHARD_TAILS_SQL: Final = """
SELECT w.shard_id, j.thread_id, j.seq_nr, j.event_type, j.event_version, j.payload
  FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS w (shard_id, after, upto)
 CROSS JOIN LATERAL (
        SELECT * FROM journal
         WHERE shard_id = w.shard_id AND shard_seq > w.after AND shard_seq <= w.upto ORDER BY shard_seq) j
"""
_EVENTS_SQL: Final = """
SELECT seq_nr, event_type, event_version, payload FROM journal
 WHERE shard_id = $1 AND thread_id = $2 AND seq_nr = ANY($3::bigint[])
"""


class Recovered(NamedTuple):
    """A thread's state at ``sequence_nr``; None and 0 for a thread that was never created."""

    state: Thread | None
    sequence_nr: int
    snapshot_nr: int
    """Where the snapshot stood that was used, or 0."""


class Poisoned(NamedTuple):
    """A thread whose history this release cannot read, and why."""

    reason: str


class _Read(NamedTuple):
    """What the journal has of a group: usable snapshots with where they stand, and the rows after them."""

    snapshots: dict[UUID, tuple[Thread, int]]
    tails: dict[UUID, list[asyncpg.Record]]


class _Waiting(NamedTuple):
    """Somebody who waits for a thread; the least is the next."""

    turn: float
    number: int
    shard_id: ShardId
    uuid: UUID
    future: "asyncio.Future[Recovered | Poisoned]"


class Loader:
    """Loads threads in groups, at most ``at_once`` groups at a time.

    ``heat`` gives a shard's commands a second.  A thread of a busy shard is taken as if it had been asked earlier, by
    `HEAD_START_S` at most: so hot shards come first after a takeover, and nobody waits for ever.
    """

    def __init__(self, pool: ReadPool, *, at_once: int = 4, heat: Callable[[ShardId], float] = lambda _: 0.0) -> None:
        self._pool = pool
        self._at_once = at_once
        self._heat = heat
        self._numbers = count()
        self._waiting: list[_Waiting] = []
        self._running: set[asyncio.Task[None]] = set()

    async def load(self, shard_id: ShardId, thread_id: ThreadId) -> Recovered | Poisoned:
        """A thread's state now, read on the primary.  Raises what asyncpg raises when the database is away."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Recovered | Poisoned] = loop.create_future()
        turn = loop.time() - min(HEAD_START_S, self._heat(shard_id) * _HEAD_START_A_COMMAND_S)
        heappush(self._waiting, _Waiting(turn, next(self._numbers), shard_id, ulid_uuid(thread_id), future))
        self._start()
        return await future

    def _start(self) -> None:
        while self._waiting and len(self._running) < self._at_once:
            group = self._take()
            task = asyncio.get_running_loop().create_task(self._run(group), name="load-threads")
            self._running.add(task)
            task.add_done_callback(partial(self._ended, group))

    def _take(self) -> list[_Waiting]:
        """The next group.  No thread is in it twice: each who asks owns the state he gets, and may change it."""
        group: dict[UUID, _Waiting] = {}
        later: list[_Waiting] = []
        while self._waiting and len(group) < GROUP:
            waiting = heappop(self._waiting)
            if waiting.uuid in group:
                later.append(waiting)
            else:
                group[waiting.uuid] = waiting
        for waiting in later:
            heappush(self._waiting, waiting)
        return list(group.values())

    def _ended(self, group: list[_Waiting], task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        for waiting in group:  # a task that is cancelled before its first step runs none of its handlers
            waiting.future.cancel()
        self._start()

    async def _run(self, group: list[_Waiting]) -> None:
        try:
            wanted = [(waiting.shard_id, waiting.uuid) for waiting in group]
            read = await self._pool.run(lambda connection: _read(connection, wanted), within_s=_LOAD_S)
            found = await _replay_all([uuid for _, uuid in wanted], read)  # the connection is not needed for this
        except BaseException as error:
            for waiting in group:
                if not waiting.future.done():
                    waiting.future.set_exception(
                        error if isinstance(error, Exception) else ConnectionAbortedError("loading was cancelled")
                    )
            if not isinstance(error, Exception):
                raise
            return
        for waiting in group:
            if not waiting.future.done():
                waiting.future.set_result(found[waiting.uuid])

    async def close(self) -> None:
        """Stop; whoever still waits gets an error."""
        while self._waiting:  # first, for a group that ends starts the next
            self._waiting.pop().future.cancel()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


async def _read(connection: Session, wanted: Sequence[tuple[ShardId, UUID]]) -> _Read:
    """Snapshots and the events after them, of threads each named once."""
    read = _Read({}, {})
    broken = await _read_into(read, connection, wanted, STATE_VERSION)
    if broken:
        await _read_into(read, connection, [each for each in wanted if each[1] in broken], _NO_SNAPSHOT)
    return read


async def _read_into(
    read: _Read, connection: Session, wanted: Sequence[tuple[ShardId, UUID]], state_version: int
) -> set[UUID]:
    """Read with the snapshots of one version; the threads whose snapshot is not one, of which nothing is taken."""
    broken: set[UUID] = set()
    shard_ids, uuids = [shard_id for shard_id, _ in wanted], [uuid for _, uuid in wanted]
    for row in await connection.fetch(_THREADS_SQL, shard_ids, uuids, state_version):
        uuid = row["thread_id"]
        if row["event_type"] is not None:
            if uuid not in broken:
                read.tails.setdefault(uuid, []).append(row)
            continue
        seq_nr = row["seq_nr"]
        try:
            state = decode_state(row["payload"])
            if state.sequence_nr != seq_nr:
                raise msgspec.ValidationError(f"it is the state at {state.sequence_nr}, kept as that at {seq_nr}")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("snapshot thrown away", extra={"thread_id": str(uuid), "cause": str(error)})
            broken.add(uuid)
        else:
            read.snapshots[uuid] = (state, seq_nr)
    return broken


async def _replay_all(uuids: Sequence[UUID], read: _Read) -> dict[UUID, Recovered | Poisoned]:
    """Fold each thread, letting the loop turn every `SLICE` events."""
    found: dict[UUID, Recovered | Poisoned] = {}
    folded = 0
    for uuid in uuids:
        state, snapshot_nr = read.snapshots.get(uuid, (None, 0))
        sofar: Recovered | Poisoned = Recovered(state, snapshot_nr, snapshot_nr)
        rows = read.tails.get(uuid, ())
        start = 0
        while start < len(rows) and isinstance(sofar, Recovered):
            end = start + SLICE - folded
            sofar = _replay(sofar, rows[start:end])
            folded += len(rows[start:end])
            start = end
            if folded >= SLICE:
                folded = 0
                await asyncio.sleep(0)
        found[uuid] = sofar
    return found


def _replay(before: Recovered, rows: Sequence[asyncpg.Record]) -> Recovered | Poisoned:
    """The state after ``rows``; ``before`` is changed in place."""
    state, sequence_nr, snapshot_nr = before
    for row in rows:
        try:
            if row["seq_nr"] != sequence_nr + 1:
                return Poisoned(f"event {sequence_nr + 1} is missing before {row['seq_nr']}")
            event = decode(row["event_type"], row["event_version"], row["payload"])
            state = evolve(state, event, row["seq_nr"])
        except UndecodableEvent as error:
            return Poisoned(f"event {row['seq_nr']}: {error}")
        except Exception as error:
            # A bug in evolve, or a history that no rule allows: this thread's alone.
            log.exception("event cannot be applied", extra={"seq_nr": row["seq_nr"]})
            return Poisoned(f"event {row['seq_nr']} cannot be applied: {error!r}")
        sequence_nr = row["seq_nr"]
    return Recovered(state, sequence_nr, snapshot_nr)


def follow(threads: Mapping[UUID, Recovered], tail: Sequence[asyncpg.Record]) -> dict[UUID, Recovered]:
    """The threads after a shard's tail, in place; one that the tail does not fit, or whose event is bad, is left out."""
    rows: dict[UUID, list[asyncpg.Record]] = {}
    for row in tail:
        known = threads.get(row["thread_id"])
        if known is not None and row["seq_nr"] > known.sequence_nr:
            rows.setdefault(row["thread_id"], []).append(row)
    followed = {uuid: _replay(before, rows.get(uuid, ())) for uuid, before in threads.items()}
    return {uuid: found for uuid, found in followed.items() if isinstance(found, Recovered)}


async def read_head(connection: Session, shard_id: ShardId) -> int:
    """The sequence number of a shard's last event."""
    head: int = await connection.fetchval(HEAD_SQL, shard_id)
    return head


async def read_tails(
    connection: Session, spans: Mapping[ShardId, tuple[int, int]]
) -> dict[ShardId, list[asyncpg.Record]]:
    """The events of each shard after the first and up to the second of its two sequence numbers, in their order."""
    tails: dict[ShardId, list[asyncpg.Record]] = {shard_id: [] for shard_id in spans}
    ends = list(spans.values())
    for row in await connection.fetch(
        _SHARD_TAILS_SQL, list(spans), [after for after, _ in ends], [upto for _, upto in ends]
    ):
        tails[row["shard_id"]].append(row)
    return tails


async def read_events(
    connection: Session, shard_id: ShardId, thread_uuid: UUID, seq_nrs: Sequence[int]
) -> dict[int, Event]:
    """Events of one thread by their sequence numbers."""
    rows = await connection.fetch(_EVENTS_SQL, shard_id, thread_uuid, list(seq_nrs))
    return {row["seq_nr"]: decode(row["event_type"], row["event_version"], row["payload"]) for row in rows}
