"""The pages that a check of the journal reads, each in a transaction of its own (`shard_worker.journal.short_reads`).

A shard's `Frame` is one statement: head, claims and row as of one moment.
"""

import time
from collections.abc import AsyncIterator
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from shard_worker.journal.fsck.shard import Claim
from shard_worker.journal.fsck.thread import StoredRow
from shard_worker.journal.short_reads import FIRST_ROWS, PAGE_BYTES, ShortReads, next_size

_FRAME_SQL: Final = """
SELECT (SELECT coalesce(max(shard_seq), 0) FROM journal WHERE shard_id = $1),
       (SELECT epoch FROM shard WHERE id = $1),
       (SELECT array_agg(ROW(epoch, incarnation, from_seq) ORDER BY epoch) FROM shard_epoch WHERE shard_id = $1)
"""
_ANCHOR_SQL: Final = "SELECT epoch, thread_id, seq_nr FROM journal WHERE shard_id = $1 AND shard_seq = $2"
# Whatever is in the tables, not only what should be; each step goes to the next id by an index.
_SHARDS_SQL: Final = """
WITH RECURSIVE events AS (
    SELECT min(shard_id) AS id FROM journal
     UNION ALL
    SELECT (SELECT min(shard_id) FROM journal WHERE shard_id > events.id) FROM events WHERE events.id IS NOT NULL
), snapshots AS (
    SELECT min(shard_id) AS id FROM snapshot
     UNION ALL
    SELECT (SELECT min(shard_id) FROM snapshot WHERE shard_id > snapshots.id) FROM snapshots WHERE snapshots.id IS NOT NULL
)
SELECT id FROM shard UNION SELECT id FROM events WHERE id IS NOT NULL UNION SELECT id FROM snapshots WHERE id IS NOT NULL
"""
# The place in the table is part of each key: damage may have made the rest of it ambiguous, and nothing may be passed over.
_ORDER_SQL: Final = """
SELECT shard_seq, ctid, epoch, thread_id, seq_nr FROM journal
 WHERE shard_id = $1 AND shard_seq >= $2 AND (shard_seq, ctid) > ($2, $3::tid) AND shard_seq <= $4
 ORDER BY shard_seq, ctid LIMIT $5
"""
_HISTORY_SQL: Final = """
SELECT thread_id, seq_nr, shard_seq, at, event_type, event_version, payload, metadata, key_hash, body_hash, snapshots
  FROM (SELECT j.*, s.snapshots,
               sum(j.size + coalesce(s.size, 0)) OVER (ORDER BY thread_id, seq_nr, shard_seq, at) AS upto,
               j.size + coalesce(s.size, 0) AS own
          FROM (SELECT thread_id, seq_nr, shard_seq, ctid AS at, event_type, event_version, payload, metadata,
                       key_hash, body_hash, octet_length(payload) + octet_length(metadata) AS size
                  FROM journal
                 WHERE shard_id = $1 AND shard_seq <= $2 AND thread_id >= $3 AND thread_id <= $4
                   AND (thread_id, seq_nr, shard_seq, ctid) > ($3, $5, $6, $7::tid)
                 ORDER BY thread_id, seq_nr, shard_seq, ctid LIMIT $8) j
          LEFT JOIN LATERAL (
               SELECT array_agg(ROW(state_version, state)) AS snapshots, sum(octet_length(state)) AS size
                 FROM snapshot
                WHERE shard_id = $1 AND thread_id = j.thread_id AND seq_nr = j.seq_nr) s ON true) j
 WHERE upto - own < $9
 ORDER BY thread_id, seq_nr, shard_seq, at
"""
# A snapshot is kept once its event is durable: within one statement the event is there.
_ORPHANS_SQL: Final = """
SELECT thread_id, state_version, seq_nr, there,
       CASE WHEN NOT there THEN (SELECT max(seq_nr) FROM journal j WHERE j.shard_id = $1 AND j.thread_id = s.thread_id)
       END AS last
  FROM (SELECT thread_id, state_version, seq_nr,
               EXISTS (SELECT FROM journal j
                        WHERE j.shard_id = $1 AND j.thread_id = s.thread_id AND j.seq_nr = s.seq_nr) AS there
          FROM snapshot s WHERE shard_id = $1 AND (thread_id, state_version) > ($2, $3)
         ORDER BY thread_id, state_version LIMIT $4) s
"""
_LEAST_NR: Final = -(1 << 63)
_NOWHERE: Final = (0, 0)
LEAST_THREAD: Final = UUID(int=0)
GREATEST_THREAD: Final = UUID(int=(1 << 128) - 1)


class Frame(NamedTuple):
    """The checked rows of a shard, as of one moment."""

    head: int
    epoch: int | None
    """Of its row; None when it has none."""
    claims: list[Claim]


class Ordered(NamedTuple):
    """One event as it lies in its shard's order."""

    shard_seq: int
    epoch: int
    thread_id: UUID
    seq_nr: int


class Orphan(NamedTuple):
    """A snapshot of an event that is not there, and the thread's last event, if it has any."""

    thread_id: UUID
    seq_nr: int
    last: int | None


class Pages(ShortReads):
    """Reads the pages of a check on one session."""

    async def shard_ids(self) -> set[int]:
        """Every shard that has a row, an event or a snapshot."""
        return {row["id"] for row in await self.fetch(_SHARDS_SQL)}

    async def frame(self, shard_id: int) -> Frame:
        """Head, row and claims of a shard."""
        ((head, epoch, claims),) = await self.fetch(_FRAME_SQL, shard_id)
        return Frame(head, epoch, [Claim(*claim) for claim in claims or ()])

    async def event_at(self, shard_id: int, shard_seq: int) -> list[tuple[int, UUID, int]]:
        """Epoch, thread and number of the event at a place; more than one, or none, is damage."""
        return [tuple(row) for row in await self.fetch(_ANCHOR_SQL, shard_id, shard_seq)]

    async def order(self, shard_id: int, after: int, head: int) -> AsyncIterator[list[Ordered]]:
        """The events with numbers above ``after``, up to ``head``, in the order of their numbers."""
        key: tuple[object, ...] = (after, (0xFFFF_FFFF, 0xFFFF))
        size = FIRST_ROWS
        while True:
            began = time.monotonic()
            rows = await self.fetch(_ORDER_SQL, shard_id, *key, head, size)
            if not rows:
                return
            yield [Ordered(row[0], row[2], row[3], row[4]) for row in rows]
            key = tuple(rows[-1])[:2]
            size = next_size(size, len(rows), time.monotonic() - began)

    async def histories(
        self, shard_id: int, head: int, first: UUID = LEAST_THREAD, last: UUID = GREATEST_THREAD
    ) -> AsyncIterator[list[tuple[UUID, StoredRow]]]:
        """The events up to ``head`` of the threads from ``first`` to ``last``, thread by thread, in each in its order."""
        key: tuple[object, ...] = (_LEAST_NR, _LEAST_NR, _NOWHERE)
        size = FIRST_ROWS
        while True:
            began = time.monotonic()
            rows = await self.fetch(_HISTORY_SQL, shard_id, head, first, last, *key, size, PAGE_BYTES)
            if not rows:
                return
            yield [(row[0], _stored(row)) for row in rows]
            first, *key_list = tuple(rows[-1])[:4]
            key = tuple(key_list)
            size = next_size(size, len(rows), time.monotonic() - began)

    async def orphans(self, shard_id: int) -> AsyncIterator[Orphan]:
        """The snapshots of events that are not there."""
        key: tuple[object, ...] = (LEAST_THREAD, -(1 << 15))
        size = FIRST_ROWS
        while True:
            began = time.monotonic()
            rows = await self.fetch(_ORPHANS_SQL, shard_id, *key, size)
            if not rows:
                return
            for row in rows:
                if not row["there"]:
                    yield Orphan(row["thread_id"], row["seq_nr"], row["last"])
            key = (rows[-1]["thread_id"], rows[-1]["state_version"])
            size = next_size(size, len(rows), time.monotonic() - began)


def _stored(row: asyncpg.Record) -> StoredRow:
    snapshots = tuple([(each[0], each[1]) for each in row[10] or ()])
    return StoredRow(row[2], row[1], row[4], row[5], row[6], row[7], row[8], row[9], snapshots)
