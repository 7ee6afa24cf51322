"""Finding the row for which the database refused a whole batch, so that the row costs only itself.

A constraint's error names the row in its detail: a unique violation gives the key's columns and values, a check or
not-null violation the failing row.  Only the values are read, for the words around them depend on the server's
language.  An error that names no row is bisected: the batch is sent in halves, until the guilty row is alone.  The
lane sends an ordinary batch between two halves, so that the other shards go on.
"""

import re
from collections import deque
from itertools import islice
from typing import Final

import asyncpg

from shard_worker.database.connection import Session
from shard_worker.journal.append_queue import AppendQueue, AppendQueueState, Row
from shard_worker.journal.append_sql import ShardBatch

_KEY_VALUES: Final = re.compile(r"\((?P<columns>[a-z_, ]+)\)=\((?P<values>[^()]*)\)")
_FAILING_ROW: Final = re.compile(r"\((?P<shard>\d+), -?\d+, (?P<thread>[0-9a-f-]{36}), (?P<seq>-?\d+), ")
_KEY_COLUMNS: Final = "shard_id, thread_id, key_hash"
_KEY_CONSTRAINT: Final = "journal_key"
_STORED_KEYS_SQL: Final = """
SELECT j.shard_id, j.thread_id, j.key_hash
  FROM unnest($1::int[], $2::uuid[], $3::bytea[]) AS k (shard_id, thread_id, key_hash)
  JOIN journal j USING (shard_id, thread_id, key_hash)
"""


def is_key_violation(error: Exception) -> bool:
    """Whether an idempotency key was used before: judged by the columns, for a partition's index has a name of its own."""
    if not isinstance(error, asyncpg.UniqueViolationError):
        return False
    named = _KEY_VALUES.search(error.detail or "")
    if named is not None:
        return named["columns"] == _KEY_COLUMNS
    return error.constraint_name == _KEY_CONSTRAINT


def find_guilty(batch: list[ShardBatch], error: Exception) -> tuple[AppendQueue, Row] | None:
    """The row that the error names; also the only row of a batch; None when it is unknown."""
    if len(batch) == 1 and len(batch[0][1]) == 1:
        return batch[0][0], batch[0][1][0]
    detail = getattr(error, "detail", None) or ""
    named = _KEY_VALUES.search(detail)
    if named is not None and isinstance(error, asyncpg.UniqueViolationError):
        return _by_columns(batch, dict(zip(named["columns"].split(", "), named["values"].split(", "), strict=False)))
    failing = _FAILING_ROW.search(detail)
    if failing is not None:
        return _by_columns(
            batch, {"shard_id": failing["shard"], "thread_id": failing["thread"], "seq_nr": failing["seq"]}
        )
    return None


def _by_columns(batch: list[ShardBatch], values: dict[str, str]) -> tuple[AppendQueue, Row] | None:
    """The one row that has these values, as the server writes them."""
    for stream, rows in batch:
        if str(stream.shard_id) != values.get("shard_id"):
            continue
        if set(values) == {"shard_id", "shard_seq"}:
            index = int(values["shard_seq"]) - stream.head - 1
            return (stream, rows[index]) if 0 <= index < len(rows) else None
        for row in rows:
            if str(row.writer.uuid) != values.get("thread_id"):
                continue
            if "seq_nr" in values and str(row.seq_nr) != values["seq_nr"]:
                continue
            if "key_hash" in values and (row.key_hash is None or f"\\x{row.key_hash.hex()}" != values["key_hash"]):
                continue
            return stream, row
    return None


async def find_used_keys(
    connection: Session, batch: list[ShardBatch], within_s: float
) -> list[tuple[AppendQueue, Row]]:
    """The rows of a batch whose key is in the journal.  Raises what asyncpg raises, and `TimeoutError`."""
    keyed = [(stream, row) for stream, rows in batch for row in rows if row.key_hash is not None]
    records = await connection.fetch(
        _STORED_KEYS_SQL,
        [stream.shard_id for stream, _ in keyed],
        [row.writer.uuid for _, row in keyed],
        [row.key_hash for _, row in keyed],
        timeout=within_s,
    )
    used = {(record["shard_id"], record["thread_id"], record["key_hash"]) for record in records}
    return [(stream, row) for stream, row in keyed if (stream.shard_id, row.writer.uuid, row.key_hash) in used]


class Suspects:
    """Groups of rows of which one at least is refused.

    A group of several shards is halved by shard, and the halves take turns, so that a shard without a bad row is free
    after a few statements.  The rows of one shard are sent in their order.  They are in their stream's queue as well,
    and a stream with suspect rows takes part in no ordinary batch: a later row must not overtake an earlier one.
    """

    def __init__(self) -> None:
        self._turns: deque[list[list[ShardBatch]]] = deque()
        """Each the groups of one shard, the next one last, or one group of several shards."""
        self._taken: list[list[ShardBatch]] = []

    def __len__(self) -> int:
        return len(self._turns)

    def split(self, batch: list[ShardBatch]) -> None:
        """Suspect a refused batch of at least two rows, in two halves; it is the one taken last, or an ordinary one."""
        if len(batch) > 1:
            half = len(batch) // 2
            for group in (batch[:half], batch[half:]):
                self._turns.append([group])
                for stream, _ in group:
                    stream.suspected += 1
            return
        stream, rows = batch[0]
        half = len(rows) // 2
        groups = self._taken if stream.suspected else []
        if not groups:
            self._turns.append(groups)
        groups += [[(stream, rows[half:])], [(stream, rows[:half])]]
        stream.suspected += 2

    def take(self) -> tuple[list[ShardBatch], list[AppendQueue]]:
        """The next group as a batch, taken from the queues, and all its streams, to be woken afterwards.

        A row that was withdrawn meanwhile is left out; a stream that cannot be sent keeps its rows queued.
        """
        batch: list[ShardBatch] = []
        self._taken = self._turns.popleft()
        group = self._taken.pop()
        if self._taken:
            self._turns.append(self._taken)
        for stream, suspected in group:
            stream.suspected -= 1
            if stream.state is not AppendQueueState.OPEN:
                continue
            rows = [row for row in suspected if _is_next(stream, row)]
            if rows:
                stream.in_flight = len(rows)
                batch.append((stream, rows))
        return batch, [stream for stream, _ in group]


def _is_next(stream: AppendQueue, row: Row) -> bool:
    """Take the row from the front of its queue, if that is where it is."""
    if next(islice(stream.queue, 1), None) is not row:
        return False
    stream.queue.popleft()
    return True
