"""A shard's tail: what was stored since its threads were read, so that a shard that comes is warm at its head."""

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import asyncpg

from shard_worker.database.connection import Session
from shard_worker.domain.ids import ShardId
from shard_worker.journal.fold import Fold, Pace
from shard_worker.journal.loader import Recovered

TAILS_BYTES: Final = 16 << 20
"""Maximum bytes of the tails of shards that come together; what is longer costs more than reading what is asked for."""

# LATERAL: each shard's tail by the index on its sequence.  Sizes are summed before a payload is fetched.
_TAILS_SQL: Final = """
SELECT shard_id, shard_seq, thread_id, seq_nr, event_type, event_version, payload, metadata, epoch
  FROM (SELECT w.shard_id, j.shard_seq, j.thread_id, j.seq_nr, j.event_type, j.event_version, j.payload, j.metadata,
               j.epoch,
               sum(octet_length(j.payload)) OVER (ORDER BY w.shard_id, j.shard_seq) AS so_far
          FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS w (shard_id, after, upto)
         CROSS JOIN LATERAL (
                SELECT * FROM journal
                 WHERE shard_id = w.shard_id AND shard_seq > w.after AND shard_seq <= w.upto ORDER BY shard_seq) j) t
 WHERE so_far <= $4 ORDER BY shard_id, shard_seq
"""


async def read_tails(
    connection: Session, spans: Mapping[ShardId, tuple[int, int]]
) -> dict[ShardId, list[asyncpg.Record]]:
    """The events of each shard after the first and up to the second of its two sequence numbers, in their order.

    A shard whose tail is not whole within `TAILS_BYTES` is left out.
    """
    tails: dict[ShardId, list[asyncpg.Record]] = {shard_id: [] for shard_id in spans}
    ends = list(spans.values())
    for row in await connection.fetch(
        _TAILS_SQL, list(spans), [after for after, _ in ends], [upto for _, upto in ends], TAILS_BYTES
    ):
        tails[row["shard_id"]].append(row)
    return {shard_id: rows for shard_id, rows in tails.items() if len(rows) == spans[shard_id][1] - spans[shard_id][0]}


async def apply_tail(threads: Mapping[UUID, Recovered], tail: Sequence[asyncpg.Record]) -> dict[UUID, Recovered]:
    """The threads after a shard's tail, in place; one that the tail does not fit, or whose event is bad, is left out."""
    rows: dict[UUID, list[asyncpg.Record]] = {}
    for row in tail:
        known = threads.get(row["thread_id"])
        if known is not None and row["seq_nr"] > known.sequence_nr:
            rows.setdefault(row["thread_id"], []).append(row)
    followed: dict[UUID, Recovered] = {}
    pace = Pace()
    for uuid, before in threads.items():
        fold = Fold(*before)
        await fold.run(rows.get(uuid, ()), pace)
        if fold.fault is None:
            followed[uuid] = Recovered(fold.state, fold.sequence_nr, fold.snapshot_nr, fold.bytes_since, fold.epoch)
    return followed
