"""Rows of an export: one event each, with the same columns in every kind of file.

The payload is that of the journal, in the version in which the event was stored: two exports of one event are alike, whatever
releases made them.  docs/events.md lists the fields of each version.
"""

from hashlib import sha256
from typing import Final, NamedTuple

from shard_worker.journal.codec import EVENT_NAMES, UndecodableEvent, decode

_NUMBERS: Final = {name: number for number, name in EVENT_NAMES.items()}
_CHECKSUM_DIGITS: Final = 15
"""Hexadecimal digits of a hash that count, as in the SQL function ``event_checksum``."""


class StoredRow(NamedTuple):
    """An event as the views ``journal_event`` and ``journal_event_text`` show it."""

    shard_id: int
    shard_seq: int
    thread_id: str
    seq_nr: int
    event: str | None
    """The name of its type; None for a type that the schema does not know."""
    version: int
    payload: str | None
    """JSON; None where the journal's bytes are none, or, without texts, where the schema does not know the version."""
    epoch: int
    command_id: str | None
    written_at: int
    """Epoch milliseconds of the transaction's begin."""

    @property
    def checksum(self) -> int:
        """As the view's column: the sum over events is the same in whatever order they are read."""
        fields = (self.shard_id, self.shard_seq, self.thread_id, self.seq_nr, self.event, self.version, self.epoch)
        text = "/".join([str(each) for each in (*fields, self.payload) if each is not None])
        return int(sha256(text.encode()).hexdigest()[:_CHECKSUM_DIGITS], 16)


class ExportRow(NamedTuple):
    """One event in a file.  The order and the names of the fields never change; a later release may add some at the end."""

    shard_id: int
    shard_seq: int
    thread_id: str
    seq_nr: int
    event: str | None
    version: int
    at: int | None
    """Epoch milliseconds; None, as ``account_id``, of an event that this release cannot read."""
    account_id: str | None
    payload: str | None
    epoch: int
    command_id: str | None
    written_at: int


COLUMNS: Final = ExportRow._fields


def readable(row: StoredRow) -> ExportRow:
    """The row of an event.  Raises `UndecodableEvent` when this release cannot read the event."""
    number = _NUMBERS.get(row.event or "")
    if number is None:
        raise UndecodableEvent("its type is unknown")
    event = decode(number, row.version, (row.payload or "").encode())
    # The first field of every event is the account that caused it.
    return _row(row, event.at, getattr(event, event.__struct_fields__[0]))


def unreadable(row: StoredRow) -> ExportRow:
    """The row of an event that cannot be read, as far as the journal shows it."""
    return _row(row, None, None)


def _row(row: StoredRow, at: int | None, account_id: str | None) -> ExportRow:
    return ExportRow(*row[:6], at, account_id, *row[6:])
