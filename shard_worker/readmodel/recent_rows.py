"""Rows that this worker has just appended, so that its projection need not read them from the journal.

Invariant: a row is here only when its append is acknowledged, and with the number that the append gave it.  The journal is
append-only, so the row is then what a read would find.  The rows of a shard are dense; where one is missing, as after an
append of unknown outcome, the earlier rows go, and the projection reads the journal.  `clear` is called when a session of the
projection begins: rows of a history that a fail-over has lost are never projected into the one that follows.
"""

from collections.abc import Sequence
from typing import Final

from shard_worker.journal.append_queue import Row
from shard_worker.journal.journal_row import JournalRow

_BYTES: Final = 8 << 20
"""Maximum bytes of all rows, about: some hundred milliseconds of a busy worker.  A projection further behind reads the journal."""
_ROW_BYTES: Final = 300
"""Bytes that a row takes beside its payload."""


class _ShardRows:
    """The rows of one shard, dense, and about how many bytes they take."""

    __slots__ = ("bytes", "rows")

    def __init__(self) -> None:
        self.rows: list[JournalRow] = []
        self.bytes = 0


class RecentRows:
    """Rows of the shards of one worker, the newest of each."""

    def __init__(self, most_bytes: int = _BYTES) -> None:
        self._most_bytes = most_bytes
        self._shards: dict[int, _ShardRows] = {}
        self.bytes = 0

    def add(self, shard_id: int, head: int, rows: Sequence[Row], epoch: int, xid: int) -> None:
        """The transaction ``xid`` stored these rows; the last one has the number ``head`` in its shard."""
        number = head - len(rows)
        kept = self._shards.get(shard_id)
        if kept is not None and kept.rows[-1].shard_seq != number:
            self.forget(shard_id)
            kept = None
        if kept is None:
            kept = self._shards[shard_id] = _ShardRows()
        size = len(rows) * _ROW_BYTES
        for row in rows:
            number += 1
            payload = row.payload
            size += len(payload)
            kept.rows.append(
                JournalRow(number, row.writer.uuid, row.seq_nr, row.event_type, row.event_version, payload, epoch, xid)
            )
        kept.bytes += size
        self.bytes += size
        if self.bytes > self._most_bytes:
            self.forget(shard_id)

    def after(self, shard_id: int, position: int, most_rows: int, most_bytes: int) -> list[JournalRow] | None:
        """The rows from ``position + 1`` on, within the bounds but at least one; None when the next is not here."""
        kept = self._shards.get(shard_id)
        if kept is None:
            return None
        skipped = position + 1 - kept.rows[0].shard_seq
        if not 0 <= skipped < len(kept.rows):
            return None
        rows = kept.rows[skipped : skipped + most_rows]
        if kept.bytes <= most_bytes:
            return rows
        before = 0
        for count, row in enumerate(rows):
            if count and before >= most_bytes:
                return rows[:count]
            before += len(row.payload)
        return rows

    def drop(self, shard_id: int, position: int) -> None:
        """The rows up to ``position`` are projected."""
        kept = self._shards.get(shard_id)
        if kept is None:
            return
        count = position + 1 - kept.rows[0].shard_seq
        if count >= len(kept.rows):
            self.forget(shard_id)
        elif count > 0:
            size = count * _ROW_BYTES + sum([len(row.payload) for row in kept.rows[:count]])
            del kept.rows[:count]
            kept.bytes -= size
            self.bytes -= size

    def forget(self, shard_id: int) -> None:
        """Drop a shard's rows."""
        kept = self._shards.pop(shard_id, None)
        if kept is not None:
            self.bytes -= kept.bytes

    def clear(self) -> None:
        """Drop all rows."""
        self._shards.clear()
        self.bytes = 0
