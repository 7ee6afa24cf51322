"""Rows that this worker has just appended, so that its projection need not read them from the journal.

Invariant: a row is here only when its append is acknowledged, and with the number that the append gave it.  The journal is
append-only, so the row is then what a read would find.  The rows of a shard are dense; where one is missing, as after an
append of unknown outcome, the earlier rows go, and the projection reads the journal.  `clear` is called when a session of the
projection begins: rows of a history that a fail-over has lost are never projected into the one that follows.

A row is kept without the answered request that it refers to, which takes more memory than its payload: what some hundred
rows hold back is lost to the processor's caches, and every command is slower for it.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

from shard_worker.journal.append_queue import Row
from shard_worker.journal.journal_row import JournalRow

_BYTES: Final = 8 << 20
"""Maximum bytes of all rows, about: some hundred milliseconds of a busy worker.  A projection further behind reads the journal."""
_ROW_BYTES: Final = 250
"""Bytes that a row takes beside its payload."""

RecentRow = tuple[UUID, int, int, int, bytes]
"""Thread, number in the thread, event type, event version and payload: a plain tuple, which is made in a tenth of a microsecond."""


def recent_rows(rows: Sequence[Row]) -> list[RecentRow]:
    """The part of each row that is kept."""
    return [(row.writer.uuid, row.seq_nr, row.event_type, row.event_version, row.payload) for row in rows]


class RecentSlice(NamedTuple):
    """Rows of one shard behind ``position``, each with the epoch and the transaction that stored it."""

    position: int
    rows: Sequence[RecentRow]
    stored: Sequence[tuple[int, int]]

    def journal_rows(self) -> list[JournalRow]:
        """The rows as a read of the journal gives them."""
        return [
            JournalRow(number, *row, epoch, xid)
            for number, (row, (epoch, xid)) in enumerate(
                zip(self.rows, self.stored, strict=True), start=self.position + 1
            )
        ]


def slice_of(position: int, rows: Sequence[JournalRow]) -> RecentSlice:
    """Rows as a read of the journal gives them, all of which have a transaction."""
    return RecentSlice(
        position,
        [(row.thread_id, row.seq_nr, row.event_type, row.event_version, row.payload) for row in rows],
        [(row.epoch, row.xid) for row in rows if row.xid is not None],
    )


class _ShardRows:
    """The rows of one shard, dense from the number ``first`` on, and about how many bytes they take."""

    __slots__ = ("bytes", "first", "rows", "stored")

    def __init__(self, first: int) -> None:
        self.first = first
        self.rows: list[RecentRow] = []
        self.stored: list[tuple[int, int]] = []
        self.bytes = 0


class RecentRows:
    """Rows of the shards of one worker, the newest of each."""

    def __init__(self, most_bytes: int = _BYTES) -> None:
        self._most_bytes = most_bytes
        self._shards: dict[int, _ShardRows] = {}
        self.bytes = 0

    def add(self, shard_id: int, head: int, rows: Sequence[Row], epoch: int, xid: int) -> None:
        """The transaction ``xid`` stored these rows; the last one has the number ``head`` in its shard."""
        count = len(rows)
        first = head - count + 1
        kept = self._shards.get(shard_id)
        if kept is not None and kept.first + len(kept.rows) != first:
            self.forget(shard_id)
            kept = None
        if kept is None:
            kept = self._shards[shard_id] = _ShardRows(first)
        added = recent_rows(rows)
        kept.rows += added
        kept.stored += ((epoch, xid),) * count
        size = _size(added)
        kept.bytes += size
        self.bytes += size
        if self.bytes > self._most_bytes:
            self.forget(shard_id)

    def after(self, shard_id: int, position: int, most_rows: int, most_bytes: int) -> RecentSlice | None:
        """The rows from ``position + 1`` on, within the bounds but at least one; None when the next is not here."""
        kept = self._shards.get(shard_id)
        if kept is None:
            return None
        skipped = position + 1 - kept.first
        if not 0 <= skipped < len(kept.rows):
            return None
        end = skipped + most_rows
        if kept.bytes > most_bytes:
            before = 0
            for count, (*_, payload) in enumerate(kept.rows[skipped:end]):
                if count and before >= most_bytes:
                    end = skipped + count
                    break
                before += len(payload)
        return RecentSlice(position, kept.rows[skipped:end], kept.stored[skipped:end])

    def drop(self, shard_id: int, position: int) -> None:
        """The rows up to ``position`` are projected."""
        kept = self._shards.get(shard_id)
        if kept is None:
            return
        count = position + 1 - kept.first
        if count >= len(kept.rows):
            self.forget(shard_id)
        elif count > 0:
            size = _size(kept.rows[:count])
            del kept.rows[:count]
            del kept.stored[:count]
            kept.first += count
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


def _size(rows: Sequence[RecentRow]) -> int:
    return len(rows) * _ROW_BYTES + sum([len(payload) for _, _, _, _, payload in rows])
