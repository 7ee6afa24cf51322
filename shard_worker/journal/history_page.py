"""One page of the histories of several threads: a statement whose answer is bounded in rows and in bytes.

A history has no bound of its own: a legal one has a million events, or 500 MB in 900 events.  So a page gives each
thread its best snapshot and as many of the events after it as fit; what does not fit is left for the next page.

A snapshot is a cache, and is believed only as far as the journal goes: the event at which it was taken must be in the
journal, under the same command.  After a fail-over that lost a tail the journal grows again with other events under
the same numbers; the command's id, which is random, tells them apart.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from shard_worker.database.connection import Session
from shard_worker.domain.ids import ShardId
from shard_worker.journal.codec import STATE_VERSIONS_READ

log = logging.getLogger(__name__)

PAGE_BYTES: Final = 2 << 20
"""Maximum bytes of payloads and states in a page, but for the last row, which is given whole: an event of `messages/add`
has up to 1 MiB, a state up to 3 MB.  Two or three pages are held at once."""
PAGE_ROWS: Final = 4_000
"""Maximum rows in a page: walking them costs the loop a few milliseconds, folding them is done in slices."""
THREAD_ROWS: Final = 500
"""Maximum events of one thread in a page that it shares with others; several times what follows a usual snapshot."""
LONG_ROWS: Final = 2_000
"""Maximum events in a page of one long history."""
FROM_SNAPSHOT: Final = -1
"""Instead of a sequence number: read from the thread's snapshot, or from the first event where it has none."""
FROM_START: Final = 0

# LATERAL with its own order: each thread's events by the primary key, whatever the planner believes of the journal's
# size.  The sum runs over sizes alone: a payload outside its row is fetched only when it is in the page.
PAGE_SQL: Final = """
WITH wanted AS MATERIALIZED (
    SELECT w.ord, w.shard_id, w.thread_id, coalesce(s.seq_nr, greatest(w.after, 0)) AS start,
           s.state_version, s.state, coalesce(c.unbacked, 0) AS unbacked,
           coalesce((SELECT seq_nr FROM journal WHERE shard_id = w.shard_id AND thread_id = w.thread_id
                      ORDER BY seq_nr DESC LIMIT 1), 0) AS last,
           coalesce((SELECT epoch FROM journal WHERE shard_id = w.shard_id AND thread_id = w.thread_id
                        AND seq_nr = s.seq_nr), 0) AS epoch
      FROM unnest($1::int[], $2::uuid[], $3::bigint[]) WITH ORDINALITY AS w (shard_id, thread_id, after, ord)
      LEFT JOIN LATERAL (
            SELECT c.*, count(*) FILTER (WHERE NOT c.backed) OVER () AS unbacked
              FROM (SELECT s.seq_nr, s.state_version, s.state,
                           EXISTS (SELECT FROM journal j
                                    WHERE j.shard_id = s.shard_id AND j.thread_id = s.thread_id
                                      AND j.seq_nr = s.seq_nr AND j.metadata = s.event_metadata) AS backed
                      FROM snapshot s
                     WHERE s.shard_id = w.shard_id AND s.thread_id = w.thread_id AND s.state_version = ANY($4)) c
             ORDER BY c.backed DESC, c.seq_nr DESC, c.state_version DESC LIMIT 1) c ON w.after < 0
      LEFT JOIN LATERAL (SELECT c.seq_nr, c.state_version, c.state WHERE c.backed) s ON true
)
SELECT ord, seq_nr, event_type, event_version, payload, metadata, last, unbacked, epoch
  FROM (SELECT u.*, sum(size) OVER (ORDER BY ord, seq_nr) - size AS before
          FROM (SELECT ord, start AS seq_nr, NULL::smallint AS event_type, state_version AS event_version,
                       state AS payload, NULL::bytea AS metadata, last, unbacked, epoch,
                       coalesce(octet_length(state), 0) AS size
                  FROM wanted
                 UNION ALL
                SELECT w.ord, j.seq_nr, j.event_type, j.event_version, j.payload, j.metadata, NULL, NULL,
                       j.epoch, octet_length(j.payload)
                  FROM wanted w
                 CROSS JOIN LATERAL (
                        SELECT * FROM journal
                         WHERE shard_id = w.shard_id AND thread_id = w.thread_id AND seq_nr > w.start
                         ORDER BY seq_nr LIMIT $6) j) u) p
 WHERE before < $5 ORDER BY ord, seq_nr LIMIT $7
"""
_UNBACKED_SQL: Final = """
DELETE FROM snapshot s USING unnest($1::int[], $2::uuid[]) AS w (shard_id, thread_id)
 WHERE s.shard_id = w.shard_id AND s.thread_id = w.thread_id
   AND NOT EXISTS (SELECT FROM journal j WHERE j.shard_id = s.shard_id AND j.thread_id = s.thread_id
                      AND j.seq_nr = s.seq_nr AND j.metadata = s.event_metadata)
"""
_ALL_SQL: Final = """
DELETE FROM snapshot s USING unnest($1::int[], $2::uuid[]) AS w (shard_id, thread_id)
 WHERE s.shard_id = w.shard_id AND s.thread_id = w.thread_id
"""


class Wanted(NamedTuple):
    """A thread whose history is read, after the event ``after``, or from `FROM_SNAPSHOT`."""

    shard_id: ShardId
    uuid: UUID
    after: int


@dataclass(slots=True)
class ThreadPage:
    """The part of a page that belongs to one thread."""

    start: int
    """The events follow this number: the snapshot's, or the one asked for."""
    state_version: int | None
    state: bytes | None
    """The snapshot, or None where the thread has none that may be used."""
    last: int
    """The thread's last event at the time of the statement; the page may end before."""
    unbacked: int
    """How many snapshots of the thread are of events that are not in the journal."""
    size: int
    """Bytes of the snapshot and the payloads."""
    epoch: int = 0
    """The epoch of the snapshot's event."""
    rows: list[asyncpg.Record] = field(default_factory=list)


async def read_page(connection: Session, wanted: Sequence[Wanted], *, rows_each: int) -> list[ThreadPage]:
    """The next page of these threads, each named once, in their order.

    The page ends within a thread or between two; the threads behind its end have no part in it.
    """
    pages: list[ThreadPage] = []
    for row in await connection.fetch(
        PAGE_SQL,
        [thread.shard_id for thread in wanted],
        [thread.uuid for thread in wanted],
        [thread.after for thread in wanted],
        STATE_VERSIONS_READ,
        PAGE_BYTES,
        rows_each,
        PAGE_ROWS,
    ):
        payload = row["payload"]
        if row["event_type"] is None:
            page = ThreadPage(
                start=row["seq_nr"],
                state_version=row["event_version"],
                state=payload,
                last=row["last"],
                unbacked=row["unbacked"],
                size=0 if payload is None else len(payload),
                epoch=row["epoch"],
            )
            pages.append(page)
        else:
            page.rows.append(row)
            page.size += len(payload)
    return pages


async def discard_all(connection: Session, threads: Sequence[tuple[ShardId, UUID]]) -> None:
    """Delete every snapshot of these threads: one of them is not what it should be."""
    await connection.execute(_ALL_SQL, [shard_id for shard_id, _ in threads], [uuid for _, uuid in threads])


async def discard_unbacked(connection: Session, threads: Sequence[tuple[ShardId, UUID]]) -> None:
    """Delete the snapshots of these threads that are of events which the journal does not hold."""
    await connection.execute(_UNBACKED_SQL, [shard_id for shard_id, _ in threads], [uuid for _, uuid in threads])
    for shard_id, uuid in threads:
        log.error(
            "snapshot discarded: its event is not in the journal",
            extra={"shard": shard_id, "thread_id": str(uuid), "alarm": True},
        )
