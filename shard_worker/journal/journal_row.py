"""One row of the journal, for the folds of it."""

from typing import NamedTuple
from uuid import UUID


class JournalRow(NamedTuple):
    """One event as it is in the journal; ``xid`` is the id of the transaction that wrote it, None for an event of before there were any."""

    shard_seq: int
    thread_id: UUID
    seq_nr: int
    event_type: int
    event_version: int
    payload: bytes
    epoch: int
    xid: int | None
