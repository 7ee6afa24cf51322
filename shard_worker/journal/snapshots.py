"""Keeping snapshots: off the hot path, in batches, and dropped without regret when there are too many.

A snapshot is only a cache of the fold, so losing one costs a longer replay and nothing else.
"""

import asyncio
import logging
from functools import partial
from typing import Final
from uuid import UUID

from shard_worker.database.connection import ReadPool, Session
from shard_worker.domain.ids import ShardId
from shard_worker.journal.codec import STATE_VERSION

log = logging.getLogger(__name__)

_BATCH: Final = 64
_SAVE_SQL: Final = """
INSERT INTO snapshot (shard_id, thread_id, seq_nr, state_version, state)
SELECT shard_id, thread_id, seq_nr, $5, state
  FROM unnest($1::int[], $2::uuid[], $3::bigint[], $4::bytea[]) AS s (shard_id, thread_id, seq_nr, state)
    ON CONFLICT (shard_id, thread_id) DO UPDATE
   SET seq_nr = excluded.seq_nr, state_version = excluded.state_version, state = excluded.state
 WHERE snapshot.seq_nr < excluded.seq_nr OR snapshot.state_version <> excluded.state_version
"""


class SnapshotWriter:
    """Writes snapshots one batch at a time; keeps at most ``most`` waiting, the newest of each thread."""

    def __init__(self, pool: ReadPool, *, most: int = 1_000) -> None:
        self._pool = pool
        self._most = most
        self._waiting: dict[tuple[ShardId, UUID], tuple[int, bytes]] = {}
        self._era = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0
        self.saved = 0

    def start(self) -> None:
        """Start writing."""
        self._task = asyncio.create_task(self._run(), name="snapshot-writer")

    def save(self, shard_id: ShardId, thread_uuid: UUID, seq_nr: int, state: bytes) -> None:
        """Keep the state at ``seq_nr``, which is durable, some time; or drop it."""
        key = (shard_id, thread_uuid)
        if key not in self._waiting and len(self._waiting) >= self._most:
            self.dropped += 1
            return
        self._waiting[key] = (seq_nr, state)
        self._wake.set()

    def forget_all(self) -> None:
        """Drop what waits, and what is about to be sent: after a fail-over its events may not be in the journal."""
        self._era += 1
        self.dropped += len(self._waiting)
        self._waiting.clear()

    async def close(self) -> None:
        """Stop; what waits is dropped."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            batch = [(key, self._waiting.pop(key)) for key in list(self._waiting)[:_BATCH]]
            if not batch:
                self._wake.clear()
                continue
            # In the order of their keys: two workers that meet in a batch must not wait for each other in a ring.
            batch.sort(key=lambda item: item[0])
            try:
                await self._pool.run(partial(self._save, batch=batch, era=self._era))
                self.saved += len(batch)
            except Exception as error:  # noqa: BLE001  # a snapshot is only a cache; logged with its cause
                self.dropped += len(batch)
                log.warning("snapshots dropped", extra={"count": len(batch), "cause": repr(error)})
                await asyncio.sleep(0.5)

    async def _save(
        self, connection: Session, *, batch: list[tuple[tuple[ShardId, UUID], tuple[int, bytes]]], era: int
    ) -> None:
        # The connection may have been waited for across a fail-over.
        if era == self._era:
            await _save(connection, batch)


async def _save(connection: Session, batch: list[tuple[tuple[ShardId, UUID], tuple[int, bytes]]]) -> None:
    await connection.execute(
        _SAVE_SQL,
        [key[0] for key, _ in batch],
        [key[1] for key, _ in batch],
        [seq_nr for _, (seq_nr, _) in batch],
        [state for _, (_, state) in batch],
        STATE_VERSION,
    )
