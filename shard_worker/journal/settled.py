"""How far the journal's transactions are settled: a transaction id below which nothing can become visible any more.

A snapshot's ``xmin`` is such an id, but any long transaction on the server holds it back.  Only transactions that write to the
journal count, and each of them holds a lock on the table from before it has an id until after its rows are visible, because
the statement that writes is its first (`shard_worker.journal.append_sql`).  So the locks, read after the snapshot was taken,
name every writer that the snapshot may lack: one that is not there has ended, and a *later* statement sees its rows.

The lock of a writer is seen a moment before its id is, as the server gives the two one after the other.  Then ``xmin`` counts, and
on a replica, which shows no locks of the primary's writers.

A server that crashes gives ids again that its log did not have on disk: those of transactions that were rolled back a moment before, as
nothing waits for their records.  An event of such an id would be below a mark that was taken before the crash.  So a mark is known only
once the log is on disk as far as it was written when the snapshot had been taken.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from shard_worker.database.connection import Session

_MARK_SQL: Final = """
WITH held AS MATERIALIZED (
    SELECT virtualtransaction AS writer, locktype, database, relation, transactionid, mode
      FROM pg_locks WHERE granted AND locktype IN ('relation', 'transactionid')
), writer AS (
    SELECT DISTINCT writer FROM held
     WHERE locktype = 'relation' AND relation = 'journal'::regclass
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
), named AS (
    SELECT writer, transactionid::text::bigint AS xid FROM held
     WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock'
)
SELECT coalesce(meta.generation, '') AS generation,
       pg_snapshot_xmin(taken)::text AS xmin, pg_snapshot_xmax(taken)::text AS xmax,
       CASE WHEN NOT pg_is_in_recovery() THEN (pg_current_wal_insert_lsn() - '0/0')::bigint END AS written,
       CASE WHEN NOT pg_is_in_recovery() THEN (pg_current_wal_flush_lsn() - '0/0')::bigint END AS flushed,
       current_setting('wal_block_size')::int AS block,
       pg_is_in_recovery() OR EXISTS (SELECT FROM writer WHERE writer NOT IN (SELECT writer FROM named)) AS nameless,
       ARRAY(SELECT xid FROM named JOIN writer USING (writer)) AS writers
  FROM meta, pg_current_snapshot() AS taken
"""
_FLUSHED_SQL: Final = "SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint"
_PAGE_HEADER: Final = 40
"""Bytes of the longest header of a page of the log; the shortest record that follows it ends beyond as many."""
_FIRST_LOOK_S: Final = 0.001
_FLUSHED_WITHIN_S: Final = 2.0
"""How long a mark waits for the log.  The server brings records of ended transactions to disk within three times its
`wal_writer_delay`, 0.6 s by default, and all records with each commit: after longer only transactions under way are left."""
_FIRST_UNPROJECTED_SQL: Final = """
SELECT min(coalesce(j.xid::text::bigint, 0))
  FROM shard s
  LEFT JOIN projection_offset o ON o.shard_id = s.id AND o.generation = $1
  JOIN journal j ON j.shard_id = s.id AND j.shard_seq = coalesce(o.seq, 0) + 1
"""
_WRAP: Final = 1 << 32
"""Locks show the lower half of a transaction id."""


class Mark(NamedTuple):
    """A moment of a history of the database."""

    generation: str
    """The history; see `shard_worker.database.generation`."""
    xid: int
    """Whatever a transaction below it wrote to the journal is visible to every later statement."""
    xmax: int
    """No transaction from it on was visible."""


def settled_xid(xmin: int, xmax: int, writers: Sequence[int], *, nameless: bool) -> int:
    """The id of a mark: from a snapshot's bounds, and the writers that were seen after it, by the lower halves of their ids.

    ``nameless``: there may be a writer whose id was not seen.
    """
    xid = xmin if nameless else xmax
    for half in writers:
        # The whole id is the one that is nearest to the snapshot's.
        whole = xmax + (half - xmax + _WRAP // 2) % _WRAP - _WRAP // 2
        xid = min(xid, whole)
    return xid


def is_on_disk(written: int, flushed: int, block: int) -> bool:
    """Whether the log is on disk up to the begin of its next record, which lies behind the header of a page where one begins."""
    return flushed >= written or (flushed % block == 0 and written - flushed <= _PAGE_HEADER)


async def read_mark(connection: Session) -> Mark:
    """The mark of now.  Raises what the connection raises."""
    row = await connection.fetchrow(_MARK_SQL)
    assert row is not None  # meta has one row
    if row["written"] is not None:
        await _flushed(connection, row["written"], row["flushed"], row["block"])
    xmin, xmax = int(row["xmin"]), int(row["xmax"])
    return Mark(row["generation"], settled_xid(xmin, xmax, row["writers"], nameless=row["nameless"]), xmax)


async def _flushed(connection: Session, written: int, flushed: int, block: int) -> None:
    """Return when the log is on disk up to a position, or after a time."""
    loop = asyncio.get_running_loop()
    deadline, pause_s = loop.time() + _FLUSHED_WITHIN_S, _FIRST_LOOK_S
    while not is_on_disk(written, flushed, block) and loop.time() < deadline:
        await asyncio.sleep(pause_s)
        pause_s *= 2
        flushed = await connection.fetchval(_FLUSHED_SQL)


async def first_unprojected(connection: Session, generation: int) -> int | None:
    """The least transaction id of events that a generation of the read model does not have; None where it has every event.

    Read after a mark it says what the tables may lack from below the mark: a shard's transaction ids rise with its numbers.
    """
    xid: int | None = await connection.fetchval(_FIRST_UNPROJECTED_SQL, generation)
    return xid
