"""The one statement that stores a batch: it locks the shard rows that still are as their owner believes, and inserts
their events and no others.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import asyncpg

from shard_worker.database import binary_arrays
from shard_worker.journal.append_queue import AppendQueue, Row

ShardBatch = tuple[AppendQueue, list[Row]]
"""The rows of one shard in a batch."""

APPEND_SQL: Final = """
WITH fence AS MATERIALIZED (
    SELECT s.id, s.epoch
      FROM shard s
     WHERE s.id = ANY ($1::int[])
       AND get_bit($2::bytea, s.id) = 1
       AND s.epoch * 4096 + s.id = ANY ($3::bigint[])
       AND s.incarnation = $4
       FOR SHARE OF s SKIP LOCKED
), stored AS (
    INSERT INTO journal (shard_id, shard_seq, thread_id, seq_nr, event_type, event_version,
                         payload, metadata, key_hash, body_hash, epoch)
    SELECT r.shard_id, r.shard_seq, r.thread_id, r.seq_nr, r.event_type, r.event_version,
           r.payload, r.metadata, r.key_hash, r.body_hash, fence.epoch
      FROM unnest($5::int[], $6::bigint[], $7::uuid[], $8::bigint[], $9::smallint[], $10::smallint[],
                  $11::bytea[], $12::bytea[], $13::bytea[], $14::bytea[])
           AS r (shard_id, shard_seq, thread_id, seq_nr, event_type, event_version,
                 payload, metadata, key_hash, body_hash)
      JOIN fence ON fence.id = r.shard_id
)
SELECT pg_current_xact_id() AS xid FROM fence OFFSET cardinality($1::int[]) - 1
"""
"""Parameters: what `fence_parameters` gives, then the rows by column; a column that is NULL as a whole is NULL in every row.

One row, its transaction, when every shard was locked and so every row is stored; none otherwise, and `FIRST_ROWS_SQL` tells
which shards were.  A row for each shard makes an append of 28 shards 2 % slower.

With few shards Postgres reads all their rows and compares each with every element of the arrays; the bits pass over those
that are not in the batch at once, which takes 2 % off an append of 28 shards.  With many shards it goes by the index on
the id.  Epoch and id are one number because a join with two arrays makes the whole append 2 to 4 % slower.
"""
APPEND_SESSION_SQL: Final = "SET plan_cache_mode = force_generic_plan"
"""For the append's session: one generic plan, where Postgres would make a new plan for each batch's arrays (0.1 ms)."""

OWNERS_SQL: Final = "SELECT id, epoch, incarnation FROM shard WHERE id = ANY($1::int[])"
"""The owners of shards whose batch was not stored, or whose outcome is unknown."""

FIRST_ROWS_SQL: Final = """
SELECT w.shard_id, first.thread_id, first.seq_nr, first.epoch, first.xid,
       (SELECT coalesce(max(j.shard_seq), 0) FROM journal j WHERE j.shard_id = w.shard_id) AS head
  FROM unnest($1::int[], $2::bigint[]) AS w (shard_id, shard_seq)
  LEFT JOIN LATERAL (
        SELECT j.thread_id, j.seq_nr, j.epoch, j.xid FROM journal j
         WHERE j.shard_id = w.shard_id AND j.shard_seq = w.shard_seq) first ON true
"""
"""The first row that a batch would have stored, and the head, of each shard; by the index on the sequence."""

_SHARDS_MOST: Final = 4096


def first_rows_parameters(batch: Iterable[ShardBatch]) -> tuple[list[int], list[int]]:
    """Parameters of `FIRST_ROWS_SQL`: the shards, and where each one's rows begin."""
    streams = [stream for stream, _ in batch]
    return [stream.shard_id for stream in streams], [stream.head + 1 for stream in streams]


def is_stored(first: asyncpg.Record, stream: AppendQueue, rows: list[Row]) -> bool:
    """Whether these rows are the ones that `FIRST_ROWS_SQL` found: the rows of a shard are stored all or none."""
    expected = (rows[0].writer.uuid, rows[0].seq_nr, stream.epoch)
    return (first["thread_id"], first["seq_nr"], first["epoch"]) == expected


def fence_parameters(shards: Sequence[tuple[int, int]], incarnation: str) -> tuple[list[int], bytes, list[int], str]:
    """The statement's parameters for these shards, each with the epoch it must have: ids, ids as bits, both in one, owner."""
    bits = 0
    for shard_id, _ in shards:
        bits |= 1 << shard_id
    return (
        [shard_id for shard_id, _ in shards],
        bits.to_bytes(_SHARDS_MOST // 8, "little"),
        [epoch * _SHARDS_MOST + shard_id for shard_id, epoch in shards],
        incarnation,
    )


def parameters(batch: list[ShardBatch], incarnation: str) -> tuple[object, ...]:
    """The statement's parameters; a row's ``shard_seq`` is allotted here, from the durable head."""
    shard_ids: list[int] = []
    sequence: list[int] = []
    rows: list[Row] = []
    for stream, part in batch:
        count = len(part)
        shard_ids += [stream.shard_id] * count
        sequence += range(stream.head + 1, stream.head + 1 + count)
        rows += part
    keys = [row.key_hash for row in rows]
    keyed = any(keys)
    return (
        *fence_parameters([(stream.shard_id, stream.epoch) for stream, _ in batch], incarnation),
        shard_ids,
        sequence,
        [row.writer.uuid for row in rows],
        [row.seq_nr for row in rows],
        [row.event_type for row in rows],
        [row.event_version for row in rows],
        [row.payload for row in rows],
        [row.metadata for row in rows],
        keys if keyed else None,
        [row.body_hash for row in rows] if keyed else None,
    )


def binary_parameters(batch: list[ShardBatch], incarnation: str) -> tuple[object, ...]:
    """`parameters` for a connection that takes ready-made arrays: a fifth of the cost.

    Raises one of `binary_arrays.UNENCODABLE` for a row that has a value of another type than its column.
    """
    shards: list[bytes] = []
    sequence: list[int] = []
    rows: list[Row] = []
    for stream, part in batch:
        count = len(part)
        shards.append(binary_arrays.int4_element(stream.shard_id) * count)
        sequence += range(stream.head + 1, stream.head + 1 + count)
        rows += part
    keys = [row.key_hash for row in rows]
    keyed = any(keys)
    ids, bits, fences, owner = fence_parameters([(stream.shard_id, stream.epoch) for stream, _ in batch], incarnation)
    return (
        binary_arrays.int4s(ids),
        bits,
        binary_arrays.int8s(fences),
        owner,
        b"".join([binary_arrays.header(binary_arrays.INT4, len(rows)), *shards]),
        binary_arrays.int8s(sequence),
        binary_arrays.uuids([row.writer.uuid for row in rows]),
        binary_arrays.int8s([row.seq_nr for row in rows]),
        _small_numbers([row.event_type for row in rows]),
        _small_numbers([row.event_version for row in rows]),
        binary_arrays.byteas([row.payload for row in rows]),
        binary_arrays.byteas([row.metadata for row in rows]),
        binary_arrays.byteas(keys) if keyed else None,
        binary_arrays.byteas([row.body_hash for row in rows]) if keyed else None,
    )


def _small_numbers(values: list[int]) -> bytes:
    first, count = values[0], len(values)
    if values.count(first) == count:  # nearly always: messages, of the newest version
        return binary_arrays.same_int2s(first, count)
    return binary_arrays.int2s(values)
