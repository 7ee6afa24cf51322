"""Keeping snapshots: off the hot path, in batches, and dropped without regret when there are too many.

A snapshot is only a cache of the fold, so losing one costs a longer replay and nothing else.  Its key has the version of
the state, so that workers of two releases do not overwrite each other's.
"""

import asyncio
import logging
from functools import partial
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from shard_worker.database.connection import CONNECTION_ERRORS, ReadPool, Session
from shard_worker.domain.ids import ShardId
from shard_worker.journal.codec import STATE_VERSION, STATE_VERSIONS_READ
from shard_worker.memory import MemoryBudget
from shard_worker.tasks import BackgroundTasks, OnFailure, log_only

log = logging.getLogger(__name__)

_BATCH: Final = 16
"""Maximum snapshots of one statement: Postgres compresses each, and appends wait for the processor meanwhile."""
_BATCH_BYTES: Final = 4 << 20
"""Maximum bytes of states in one statement, but for the last: a state has up to 1 MB, with long titles a little more."""
_PART: Final = 8
"""An eighth of the memory budget may wait here at most."""
_GATHER_S: Final = 0.2
"""How long snapshots gather before they are written: a statement costs half a millisecond whatever it holds."""
_APART_S: Final = 0.01
"""Pause after a statement: threads that are written to alike have their snapshots at the same time."""
_BACK_OFF_S: Final = 0.5

_SAVE_SQL: Final = """
WITH saved AS (
    INSERT INTO snapshot (shard_id, thread_id, state_version, seq_nr, event_metadata, state)
    SELECT shard_id, thread_id, $6, seq_nr, event_metadata, state
      FROM unnest($1::int[], $2::uuid[], $3::bigint[], $4::bytea[], $5::bytea[])
           AS s (shard_id, thread_id, seq_nr, event_metadata, state)
        ON CONFLICT (shard_id, thread_id, state_version) DO UPDATE
       SET seq_nr = excluded.seq_nr, event_metadata = excluded.event_metadata, state = excluded.state
     WHERE snapshot.seq_nr < excluded.seq_nr)
DELETE FROM snapshot s USING unnest($1::int[], $2::uuid[]) AS w (shard_id, thread_id)
 WHERE s.shard_id = w.shard_id AND s.thread_id = w.thread_id AND s.state_version < $7
"""
_SHARDS_SQL: Final = "SELECT id FROM shard ORDER BY id"
_DISCARD_OF_SHARDS_SQL: Final = """
DELETE FROM snapshot s WHERE s.shard_id = ANY($1::int[])
   AND NOT EXISTS (SELECT FROM journal j WHERE j.shard_id = s.shard_id AND j.thread_id = s.thread_id
                      AND j.seq_nr = s.seq_nr AND j.metadata = s.event_metadata)
"""


class SaveSnapshot(Protocol):
    """Keep a state, some time, or drop it; see `SnapshotWriter.save`."""

    def __call__(
        self, shard_id: ShardId, thread_uuid: UUID, seq_nr: int, state: bytes, event_metadata: bytes
    ) -> None: ...


class _Snapshot(NamedTuple):
    seq_nr: int
    event_metadata: bytes
    state: bytes


class SnapshotWriter:
    """Writes snapshots one batch at a time; keeps at most ``most`` waiting, the newest of each thread."""

    def __init__(self, pool: ReadPool, *, most: int = 1_000, memory: MemoryBudget) -> None:
        self._pool = pool
        self._most = most
        self._memory = memory
        self._waiting: dict[tuple[ShardId, UUID], _Snapshot] = {}
        self._era = 0
        self._tail_lost = False
        self._wake = asyncio.Event()
        self._tasks = BackgroundTasks()
        self.waiting_bytes = 0
        self.dropped = 0
        self.saved = 0

    def start(self, on_failure: OnFailure = log_only) -> None:
        """Start writing."""
        self._tasks.on_failure = on_failure
        self._tasks.start(self._run(), name="snapshot-writer")

    def save(self, shard_id: ShardId, thread_uuid: UUID, seq_nr: int, state: bytes, event_metadata: bytes) -> None:
        """Keep the state at ``seq_nr``, which is durable and has this metadata, some time; or drop it."""
        key = (shard_id, thread_uuid)
        before = self._waiting.get(key)
        more = len(state) - (len(before.state) if before is not None else 0)
        if (
            before is None and len(self._waiting) >= self._most
        ) or self.waiting_bytes + more > self._memory.limit // _PART:
            self.dropped += 1
            return
        self._waiting[key] = _Snapshot(seq_nr, event_metadata, state)
        self._count(more)
        self._wake.set()

    def forget_all(self) -> None:
        """Drop what waits, and what is about to be sent: after a fail-over its events may not be in the journal.

        Then discard, shard by shard, the snapshots in the database whose events the fail-over lost.
        """
        self._era += 1
        self.dropped += len(self._waiting)
        self._count(-sum(len(snapshot.state) for snapshot in self._waiting.values()))
        self._waiting.clear()
        self._tail_lost = True
        self._wake.set()

    def _count(self, more: int) -> None:
        self.waiting_bytes += more
        self._memory.take(more)

    async def close(self) -> None:
        """Stop; what waits is dropped."""
        await self._tasks.close()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._tail_lost:
                self._tail_lost = False
                try:
                    await self._discard_unbacked()
                except Exception as error:  # a thread that is loaded discards its own
                    log.error("snapshot store failed to compare snapshots with the journal", exc_info=error)
            await asyncio.sleep(_GATHER_S)
            while batch := self._take():
                await self._write(batch)
                await asyncio.sleep(_APART_S)

    async def _write(self, batch: list[tuple[tuple[ShardId, UUID], _Snapshot]]) -> None:
        """Write a batch, or drop it."""
        try:
            await self._pool.run(partial(self._save, batch=batch, era=self._era))
            self.saved += len(batch)
        except Exception as error:  # noqa: BLE001  # a snapshot is only a cache; logged with its cause
            self.dropped += len(batch)
            log.warning("snapshot store dropped snapshots", extra={"count": len(batch), "cause": repr(error)})
            await asyncio.sleep(_BACK_OFF_S)
        finally:
            self._count(-sum(len(snapshot.state) for _, snapshot in batch))

    async def _discard_unbacked(self) -> None:
        """Compare every shard's snapshots with its journal; while the database is away, wait and go on."""
        for shard_id in await self._shards():
            while not self._tail_lost:  # else another fail-over came: all shards are compared once more
                try:
                    await self._pool.run(partial(discard_unbacked_of_shards, shard_ids=[shard_id]))
                except CONNECTION_ERRORS as error:
                    log.warning(
                        "snapshot store failed to compare a shard; trying again",
                        extra={"shard": shard_id, "cause": repr(error)},
                    )
                    await asyncio.sleep(_BACK_OFF_S)
                else:
                    break

    async def _shards(self) -> list[ShardId]:
        while True:
            try:
                rows = await self._pool.run(lambda connection: connection.fetch(_SHARDS_SQL))
            except CONNECTION_ERRORS as error:
                log.warning("snapshot store failed to list shards; trying again", extra={"cause": repr(error)})
                await asyncio.sleep(_BACK_OFF_S)
            else:
                return [row["id"] for row in rows]

    def _take(self) -> list[tuple[tuple[ShardId, UUID], _Snapshot]]:
        """The next batch, in the order of keys: two workers that meet in a batch must not wait for each other in a ring."""
        batch: list[tuple[tuple[ShardId, UUID], _Snapshot]] = []
        size = 0
        while self._waiting and len(batch) < _BATCH and size < _BATCH_BYTES:
            key = next(iter(self._waiting))
            snapshot = self._waiting.pop(key)
            batch.append((key, snapshot))
            size += len(snapshot.state)
        batch.sort(key=lambda item: item[0])
        return batch

    async def _save(
        self, connection: Session, *, batch: list[tuple[tuple[ShardId, UUID], _Snapshot]], era: int
    ) -> None:
        # The connection may have been waited for across a fail-over.
        if era == self._era:
            await _save(connection, batch)


async def _save(connection: Session, batch: list[tuple[tuple[ShardId, UUID], _Snapshot]]) -> None:
    await connection.execute(
        _SAVE_SQL,
        [key[0] for key, _ in batch],
        [key[1] for key, _ in batch],
        [snapshot.seq_nr for _, snapshot in batch],
        [snapshot.event_metadata for _, snapshot in batch],
        [snapshot.state for _, snapshot in batch],
        STATE_VERSION,
        min(STATE_VERSIONS_READ),
    )


async def discard_unbacked_of_shards(connection: Session, shard_ids: list[ShardId]) -> int:
    """Delete the snapshots of these shards whose event the journal does not hold: after a lost tail.  How many.

    A thread that is loaded discards its own; this is for those that are not asked.
    """
    status: str = await connection.execute(_DISCARD_OF_SHARDS_SQL, shard_ids)
    discarded = int(status.rpartition(" ")[2])
    if discarded:
        log.error(
            "snapshots discarded: their events are not in the journal",
            extra={"shards": shard_ids, "count": discarded, "alarm": True},
        )
    return discarded
