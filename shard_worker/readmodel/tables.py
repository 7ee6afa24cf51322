"""The SQL of one generation of the read model: reading a batch of events, and writing what it changes.

A batch is one transaction.  It first locks the offsets of its shards that still stand where the updater believes (``FOR UPDATE
SKIP LOCKED``, ascending), and reads the events behind them in the same statement; only those shards are projected, and their
offsets are set at the end.  Two owners of a shard, as there may be after a takeover, then neither wait for each other nor
apply an event twice: the second finds the offset elsewhere.  The shard's own row is never locked: appends do not wait for the
read model.
"""

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from shard_worker.database.connection import Session
from shard_worker.domain.ids import ulid_uuid
from shard_worker.readmodel.projection import Changes

_READ: Final = """
WITH mine AS (
    SELECT o.shard_id, o.seq
      FROM projection_offset o JOIN unnest($2::int[], $3::bigint[]) AS at (shard_id, seq) USING (shard_id, seq)
     WHERE o.generation = $1
     ORDER BY o.shard_id
       FOR UPDATE OF o SKIP LOCKED
)
SELECT mine.shard_id, mine.seq, event.*
  FROM mine LEFT JOIN LATERAL (
       SELECT shard_seq, thread_id, seq_nr, event_type, event_version, payload, epoch, xid::text AS xid
         FROM journal
        WHERE journal.shard_id = mine.shard_id AND journal.shard_seq > mine.seq
        ORDER BY shard_seq
        LIMIT $4
  ) AS event ON true
 ORDER BY mine.shard_id, event.shard_seq
"""
_SET_OFFSETS: Final = """
UPDATE projection_offset o SET seq = at.seq
  FROM unnest($2::int[], $3::bigint[]) AS at (shard_id, seq)
 WHERE o.generation = $1 AND o.shard_id = at.shard_id
"""
_POSITIONS: Final = """
SELECT shard_id, seq FROM projection_offset WHERE generation = $1 AND shard_id = ANY($2::int[])
"""
_DEAD: Final = "SELECT shard_id, thread_id, seq_nr FROM dead_letter WHERE generation = $1 AND shard_id = ANY($2::int[])"
_BURY: Final = """
INSERT INTO dead_letter (generation, shard_id, thread_id, seq_nr, event_type, event_version, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (generation, thread_id) DO NOTHING
"""

_HOLD: Final = """
SELECT seq FROM projection_offset WHERE generation = $1 AND shard_id = $2 FOR UPDATE SKIP LOCKED
"""
_OF_THREAD: Final = """
SELECT shard_seq, thread_id, seq_nr, event_type, event_version, payload, epoch, xid::text AS xid
  FROM journal
 WHERE shard_id = $1 AND thread_id = $2 AND seq_nr >= $3 AND shard_seq <= $4
 ORDER BY seq_nr LIMIT $5
"""
_MOVE_DEAD: Final = "UPDATE dead_letter SET seq_nr = $3, reason = $4 WHERE generation = $1 AND thread_id = $2"
_UNBURY: Final = "DELETE FROM dead_letter WHERE generation = $1 AND thread_id = $2"

_CREATE_THREADS: Final = """
INSERT INTO {place}.thread (thread_id, shard_id, sequence_nr, epoch, creator_id, parent_thread_id, title, remarks,
                            created_at, updated_at, activity_at, destroyed_at, newest_xid)
SELECT thread_id, shard_id, sequence_nr, epoch, creator_id, parent_thread_id, title, remarks,
       created_at, updated_at, activity_at, destroyed_at, newest_xid::xid8
  FROM unnest($1::uuid[], $2::int[], $3::bigint[], $4::bigint[], $5::uuid[], $6::uuid[], $7::text[], $8::text[],
              $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::text[])
       AS made (thread_id, shard_id, sequence_nr, epoch, creator_id, parent_thread_id, title, remarks,
                created_at, updated_at, activity_at, destroyed_at, newest_xid)
"""
_ADVANCE_THREADS: Final = """
UPDATE {place}.thread t
   SET sequence_nr = head.sequence_nr, epoch = head.epoch, updated_at = head.updated_at,
       activity_at = coalesce(head.activity_at, t.activity_at), destroyed_at = coalesce(head.destroyed_at, t.destroyed_at),
       newest_xid = head.newest_xid::xid8
  FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[])
       AS head (thread_id, sequence_nr, epoch, updated_at, activity_at, destroyed_at, newest_xid)
 WHERE t.thread_id = head.thread_id
"""
_CHANGE_ACCOUNTS: Final = """
INSERT INTO {place}.thread_account (account_id, thread_id, administrator, member, until_nr)
SELECT account_id, thread_id, administrator, member, CASE WHEN administrator OR member THEN NULL ELSE seq_nr END
  FROM (
       SELECT account_id, thread_id, change.seq_nr,
              coalesce(change.administrator, before.administrator, false) AS administrator,
              coalesce(change.member, before.member, false) AS member
         FROM unnest($1::uuid[], $2::uuid[], $3::boolean[], $4::boolean[], $5::bigint[])
              AS change (account_id, thread_id, administrator, member, seq_nr)
         LEFT JOIN {place}.thread_account AS before USING (account_id, thread_id)
  ) AS after
ON CONFLICT (account_id, thread_id) DO UPDATE
   SET administrator = excluded.administrator, member = excluded.member, until_nr = excluded.until_nr
"""
_ADD_MESSAGES: Final = """
INSERT INTO {place}.thread_message (thread_id, sequence_nr, index, message_id, sender_id, body, reply_message_id,
                                    to_account_ids, created_at, removed)
SELECT thread_id, sequence_nr, index, message_id, sender_id, body, reply_message_id,
       string_to_array(to_account_ids, ',')::uuid[], created_at, removed
  FROM unnest($1::uuid[], $2::bigint[], $3::smallint[], $4::uuid[], $5::uuid[], $6::text[], $7::uuid[],
              $8::text[], $9::bigint[], $10::boolean[])
       AS added (thread_id, sequence_nr, index, message_id, sender_id, body, reply_message_id,
                 to_account_ids, created_at, removed)
"""
_REMOVE_MESSAGES: Final = """
UPDATE {place}.thread_message m SET removed = true
  FROM unnest($1::uuid[], $2::uuid[]) AS gone (thread_id, message_id)
 WHERE m.thread_id = gone.thread_id AND m.message_id = gone.message_id
"""
_ADD_MENTIONS: Final = """
INSERT INTO {place}.thread_mention (account_id, created_at, thread_id, sequence_nr, index, message_id)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::bigint[], $5::smallint[], $6::uuid[])
"""


_DELETE: Final = (
    "DELETE FROM {place}.thread_mention WHERE thread_id = $1",
    "DELETE FROM {place}.thread_message WHERE thread_id = $1",
    "DELETE FROM {place}.thread_account WHERE thread_id = $1",
    "DELETE FROM {place}.thread WHERE thread_id = $1",
)


class EventRow(NamedTuple):
    """One event as it stands in the journal."""

    shard_seq: int
    thread_id: UUID
    seq_nr: int
    event_type: int
    event_version: int
    payload: bytes
    epoch: int
    xid: int | None


class ShardEvents(NamedTuple):
    """The events of one shard behind an offset whose row this transaction holds."""

    seq: int
    rows: list[EventRow]


class GenerationTables:
    """Reads and writes the tables of one generation; every method is part of the caller's transaction."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        place = f"readmodel_{generation:d}"
        self.place = place
        """The schema of its tables."""
        self._create_threads = _CREATE_THREADS.format(place=place)
        self._advance_threads = _ADVANCE_THREADS.format(place=place)
        self._change_accounts = _CHANGE_ACCOUNTS.format(place=place)
        self._add_messages = _ADD_MESSAGES.format(place=place)
        self._remove_messages = _REMOVE_MESSAGES.format(place=place)
        self._add_mentions = _ADD_MENTIONS.format(place=place)
        # The mentions first: they are found by the messages.
        self._delete = tuple(sql.format(place=place) for sql in _DELETE)

    async def positions(self, connection: Session, shards: Collection[int]) -> dict[int, int]:
        """The offsets of these shards."""
        rows = await connection.fetch(_POSITIONS, self.generation, list(shards))
        return {row["shard_id"]: row["seq"] for row in rows}

    async def dead_threads(self, connection: Session, shards: Collection[int]) -> dict[int, dict[UUID, int]]:
        """By shard, the threads whose projection stands still, each with the number of the event at which it does."""
        found: dict[int, dict[UUID, int]] = {}
        for row in await connection.fetch(_DEAD, self.generation, list(shards)):
            found.setdefault(row["shard_id"], {})[row["thread_id"]] = row["seq_nr"]
        return found

    async def read(self, connection: Session, positions: Mapping[int, int], most_events: int) -> dict[int, ShardEvents]:
        """Lock the offsets that stand at ``positions`` and return what is behind them, at most so many events a shard.

        A shard whose offset is elsewhere, or is held by another updater, is left out.
        """
        found: dict[int, ShardEvents] = {}
        for row in await connection.fetch(
            _READ, self.generation, list(positions), list(positions.values()), most_events
        ):
            events = found.get(row["shard_id"])
            if events is None:
                events = found[row["shard_id"]] = ShardEvents(row["seq"], [])
            if row["shard_seq"] is not None:
                events.rows.append(_event_row(row))
        return found

    async def hold(self, connection: Session, shard_id: int) -> int | None:
        """Lock a shard's offset and return it; None when another updater holds it."""
        seq: int | None = await connection.fetchval(_HOLD, self.generation, shard_id)
        return seq

    async def events_of(
        self, connection: Session, shard_id: int, thread_id: UUID, from_nr: int, up_to: int, most_events: int
    ) -> list[EventRow]:
        """Events of one thread from ``from_nr`` on, of the shard's up to ``up_to``."""
        rows = await connection.fetch(_OF_THREAD, shard_id, thread_id, from_nr, up_to, most_events)
        return [_event_row(row) for row in rows]

    async def move_dead(self, connection: Session, thread_id: UUID, seq_nr: int, reason: str) -> None:
        """Record that a thread stands still at a later event than before."""
        await connection.execute(_MOVE_DEAD, self.generation, thread_id, seq_nr, reason)

    async def delete_thread(self, connection: Session, thread_id: UUID) -> None:
        """Remove all rows of a thread, which is projected afresh in the same transaction."""
        for sql in self._delete:
            await connection.execute(sql, thread_id)

    async def unbury(self, connection: Session, thread_id: UUID) -> None:
        """Record that a thread is projected as far as its shard."""
        await connection.execute(_UNBURY, self.generation, thread_id)

    async def set_positions(self, connection: Session, positions: Mapping[int, int]) -> None:
        """Move offsets that this transaction holds."""
        await connection.execute(_SET_OFFSETS, self.generation, list(positions), list(positions.values()))

    async def bury(self, connection: Session, shard_id: int, row: EventRow, reason: str) -> None:
        """Record that a thread's projection stands still at an event."""
        await connection.execute(
            _BURY, self.generation, shard_id, row.thread_id, row.seq_nr, row.event_type, row.event_version, reason
        )

    async def write(self, connection: Session, changes: Changes) -> None:
        """Write what a batch changes: at most one statement a table and kind of change."""
        created = [(thread_id, head) for thread_id, head in changes.threads.items() if head.created is not None]
        advanced = [(thread_id, head) for thread_id, head in changes.threads.items() if head.created is None]
        if created:
            events = [head.created for _, head in created if head.created is not None]
            await connection.execute(
                self._create_threads,
                [thread_id for thread_id, _ in created],
                [head.shard_id for _, head in created],
                [head.sequence_nr for _, head in created],
                [head.epoch for _, head in created],
                [ulid_uuid(event.creator_id) for event in events],
                [None if event.parent_thread_id is None else ulid_uuid(event.parent_thread_id) for event in events],
                [event.title for event in events],
                [event.remarks for event in events],
                [event.at for event in events],
                [head.updated_at for _, head in created],
                [head.activity_at for _, head in created],
                [head.destroyed_at for _, head in created],
                [_text(head.xid) for _, head in created],
            )
        if advanced:
            await connection.execute(
                self._advance_threads,
                [thread_id for thread_id, _ in advanced],
                [head.sequence_nr for _, head in advanced],
                [head.epoch for _, head in advanced],
                [head.updated_at for _, head in advanced],
                [head.activity_at for _, head in advanced],
                [head.destroyed_at for _, head in advanced],
                [_text(head.xid) for _, head in advanced],
            )
        if changes.accounts:
            await connection.execute(
                self._change_accounts,
                [account_id for _, account_id in changes.accounts],
                [thread_id for thread_id, _ in changes.accounts],
                [change.administrator for change in changes.accounts.values()],
                [change.member for change in changes.accounts.values()],
                [change.seq_nr for change in changes.accounts.values()],
            )
        removed = changes.removed
        if changes.messages:
            messages = list(changes.messages.values())
            addressees = [message.to_account_ids for message in messages]
            await connection.execute(
                self._add_messages,
                [message.thread_id for message in messages],
                [message.sequence_nr for message in messages],
                [message.index for message in messages],
                [message.message_id for message in messages],
                [message.sender_id for message in messages],
                [message.body for message in messages],
                [message.reply_message_id for message in messages],
                [None if each is None else ",".join(map(str, each)) for each in addressees],
                [message.created_at for message in messages],
                [key in removed for key in changes.messages],
            )
        stored = [key for key in removed if key not in changes.messages]
        if stored:
            await connection.execute(
                self._remove_messages, [thread_id for thread_id, _ in stored], [message_id for _, message_id in stored]
            )
        if changes.mentions:
            mentions = changes.mentions
            await connection.execute(
                self._add_mentions,
                [mention.account_id for mention in mentions],
                [mention.created_at for mention in mentions],
                [mention.thread_id for mention in mentions],
                [mention.sequence_nr for mention in mentions],
                [mention.index for mention in mentions],
                [mention.message_id for mention in mentions],
            )


def _event_row(row: asyncpg.Record) -> EventRow:
    xid = row["xid"]
    return EventRow(
        row["shard_seq"],
        row["thread_id"],
        row["seq_nr"],
        row["event_type"],
        row["event_version"],
        row["payload"],
        row["epoch"],
        None if xid is None else int(xid),
    )


def _text(xid: int | None) -> str | None:
    """A transaction id as the client library, which does not know its type, sends it."""
    return None if xid is None else str(xid)
