"""The SQL of one generation of the read model: reading a batch of events, and writing what it changes.

A batch is one transaction.  It first locks the offsets of its shards that still stand where the updater believes (``FOR UPDATE
SKIP LOCKED``, ascending), and reads in the same statement the events that are not in memory; only those shards are projected, and
their offsets are set at the end.  Two owners of a shard, as there may be after a takeover, then neither wait for each other nor
apply an event twice: the second finds the offset elsewhere.  The shard's own row is never locked: appends do not wait for the
read model.

Nor does a batch wait for its commit to be on disk, so that the flushes of the log are the appends' alone.  A crash of the server may
take the last batches, rows and offsets together; all sessions end with it, and their events, which were durable before they were
projected, are projected again.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

import asyncpg
from asyncpg.pgproto.pgproto import UUID as PostgresUUID  # noqa: N811  # made and sent in a third of the time

from shard_worker.database.connection import Session
from shard_worker.domain.events import ThreadCreated
from shard_worker.domain.ids import ulid_bytes
from shard_worker.journal.journal_row import JournalRow
from shard_worker.readmodel.projection import Changes, Head, MessageRow
from shard_worker.readmodel.rules import RULES, Rules, versions

# An offset is found by its key and by its value, both in arrays.  A join with them would carry each row of the arrays along as
# a whole, and be planned in an order that depends on how many offsets there were at that time.
_AT: Final = """o.generation = $1 AND o.shard_id = ANY ($2::int[]) AND o.seq * 4096 + o.shard_id = ANY ($3::bigint[])"""
_BEHIND: Final = """
SELECT mine.shard_id, mine.seq, event.*
  FROM mine LEFT JOIN LATERAL (
       SELECT * FROM (
           SELECT next.*, sum(octet_length(payload)) OVER (ORDER BY shard_seq) - octet_length(payload) AS before
             FROM (
                  SELECT shard_seq, thread_id, seq_nr, event_type, event_version, payload, epoch, xid::text AS xid
                    FROM journal
                   WHERE journal.shard_id = mine.shard_id AND journal.shard_seq > mine.seq
                   ORDER BY shard_seq
                   LIMIT {most_events}
                  ) AS next
           ) AS sized
        WHERE before < {most_bytes}
  ) AS event ON true
 ORDER BY mine.shard_id, event.shard_seq
"""
_READ: Final = """
WITH mine AS (
    SELECT o.shard_id, o.seq FROM projection_offset o
     WHERE {at}
     ORDER BY o.shard_id
       FOR UPDATE OF o SKIP LOCKED
)
{behind}"""
_LOOK: Final = """
WITH mine AS (SELECT unnest($1::int[]) AS shard_id, unnest($2::bigint[]) AS seq)
{behind}"""
_LOCK: Final = """
SELECT o.shard_id FROM projection_offset o
 WHERE {at}
 ORDER BY o.shard_id
   FOR UPDATE OF o SKIP LOCKED
"""
_SET_OFFSETS: Final = """
WITH moved AS (
    UPDATE projection_offset o SET seq = ($3::bigint[])[array_position($2::int[], o.shard_id)]
     WHERE o.generation = $1 AND o.shard_id = ANY ($2::int[])
)
SELECT set_config('synchronous_commit', 'off', true)
"""
_VERSION: Final = "SELECT version FROM readmodel_generation WHERE generation = $1"
_POSITIONS: Final = """
SELECT shard_id, seq FROM projection_offset WHERE generation = $1 AND shard_id = ANY($2::int[])
"""
_DEAD: Final = "SELECT shard_id, thread_id FROM dead_letter WHERE generation = $1 AND shard_id = ANY($2::int[])"
_DEAD_AT: Final = "SELECT seq_nr FROM dead_letter WHERE generation = $1 AND thread_id = $2"
_BURY: Final = """
INSERT INTO dead_letter (generation, shard_id, thread_id, seq_nr, event_type, event_version, reason)
SELECT $1, * FROM unnest($2::int[], $3::uuid[], $4::bigint[], $5::smallint[], $6::smallint[], $7::text[])
ON CONFLICT (generation, thread_id) DO NOTHING
"""
_HOLD: Final = """
SELECT seq FROM projection_offset WHERE generation = $1 AND shard_id = $2 FOR UPDATE SKIP LOCKED
"""
_OF_THREAD: Final = """
SELECT * FROM (
    SELECT next.*, sum(octet_length(payload)) OVER (ORDER BY seq_nr) - octet_length(payload) AS before
      FROM (
           SELECT shard_seq, thread_id, seq_nr, event_type, event_version, payload, epoch, xid::text AS xid
             FROM journal
            WHERE shard_id = $1 AND thread_id = $2 AND seq_nr >= $3 AND shard_seq <= $4
            ORDER BY seq_nr LIMIT $5
           ) AS next
    ) AS sized
 WHERE before < $6 ORDER BY seq_nr
"""
_MOVE_DEAD: Final = "UPDATE dead_letter SET seq_nr = $3, reason = $4 WHERE generation = $1 AND thread_id = $2"
_UNBURY: Final = "DELETE FROM dead_letter WHERE generation = $1 AND thread_id = $2"

_OF_THREAD_BYTES: Final = 1 << 20
_REASON_MOST: Final = 500
"""Characters of a reason that are kept."""
_ACCOUNTS_KEPT: Final = 4_096
"""Accounts whose id is kept as the tables have it; about a megabyte."""
_CHUNK: Final = 1_000
"""Maximum rows of one statement: to make and send its columns takes a few milliseconds of the loop."""

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
_ADD_PLAIN_MESSAGES: Final = """
INSERT INTO {place}.thread_message (thread_id, sequence_nr, index, message_id, sender_id, body, created_at)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::smallint[], $4::uuid[], $5::uuid[], $6::text[], $7::bigint[])
"""
_POST_TO_THREADS: Final = """
UPDATE {place}.thread t
   SET sequence_nr = head.sequence_nr, epoch = head.epoch, updated_at = head.at, activity_at = head.at,
       newest_xid = head.xid::xid8
  FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[])
       AS head (thread_id, sequence_nr, epoch, at, xid)
 WHERE t.thread_id = head.thread_id
"""
# Threads that only got plain messages are nearly all that there is to write under load: their batch is one statement.  It locks
# the offsets as `_LOCK` does, and does nothing unless it got all of them.
# Arrays that are unnested side by side in a list of columns are not stored on the way, as those of one `unnest` in FROM are.
_STORE_POSTS: Final = """
WITH held AS MATERIALIZED (
    SELECT o.shard_id FROM projection_offset o
     WHERE {at}
     ORDER BY o.shard_id
       FOR UPDATE OF o SKIP LOCKED
), batch AS MATERIALIZED (
    SELECT count(*) = cardinality($2::int[]) AS is_held FROM held
), moved AS (
    UPDATE projection_offset o SET seq = ($4::bigint[])[array_position($2::int[], o.shard_id)]
     WHERE o.generation = $1 AND o.shard_id = ANY ($2::int[]) AND (SELECT is_held FROM batch)
), posted AS (
    UPDATE {place}.thread t
       SET sequence_nr = head.sequence_nr, epoch = head.epoch, updated_at = head.at, activity_at = head.at,
           newest_xid = head.xid::xid8
      FROM (SELECT unnest($5::uuid[]) AS thread_id, unnest($6::bigint[]) AS sequence_nr, unnest($7::bigint[]) AS epoch,
                   unnest($8::bigint[]) AS at, unnest($9::text[]) AS xid
              FROM batch WHERE is_held) AS head
     WHERE t.thread_id = head.thread_id
), added AS (
    INSERT INTO {place}.thread_message (thread_id, sequence_nr, index, message_id, sender_id, body, created_at)
    SELECT unnest($10::uuid[]), unnest($11::bigint[]), unnest($12::smallint[]), unnest($13::uuid[]), unnest($14::uuid[]),
           unnest($15::text[]), unnest($16::bigint[])
      FROM batch WHERE is_held
)
SELECT is_held, set_config('synchronous_commit', 'off', true) FROM batch
"""
# Written so that there is one way to plan it: a thread's live messages are read from their index, once a thread.
_REMOVE_MESSAGES: Final = """
UPDATE {place}.thread_message m SET removed = true
  FROM (SELECT gone.thread_id, found.sequence_nr, found.index
          FROM (SELECT thread_id, array_agg(message_id) AS message_ids
                  FROM unnest($1::uuid[], $2::uuid[]) AS one (thread_id, message_id) GROUP BY thread_id) AS gone
         CROSS JOIN LATERAL (
               SELECT live.sequence_nr, live.index FROM {place}.thread_message live
                WHERE live.thread_id = gone.thread_id AND NOT live.removed AND live.message_id = ANY (gone.message_ids)
                LIMIT cardinality(gone.message_ids)) AS found
       ) AS removed
 WHERE m.thread_id = removed.thread_id AND m.sequence_nr = removed.sequence_nr AND m.index = removed.index
   AND NOT m.removed
"""
_ADD_MENTIONS: Final = """
INSERT INTO {place}.thread_mention (account_id, created_at, thread_id, sequence_nr, index, message_id)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::bigint[], $5::smallint[], $6::uuid[])
"""


_DELETE: Final = (
    "DELETE FROM {place}.thread_mention WHERE thread_id = $1",
    "DELETE FROM {place}.thread_message WHERE thread_id = $1 AND NOT removed",
    "DELETE FROM {place}.thread_message WHERE thread_id = $1 AND removed",
    "DELETE FROM {place}.thread_account WHERE thread_id = $1",
    "DELETE FROM {place}.thread WHERE thread_id = $1",
)


class ShardEvents(NamedTuple):
    """The events of one shard behind an offset whose row this transaction holds."""

    seq: int
    rows: list[JournalRow]


class UnknownVersionError(Exception):
    """The generation is not there, or of a version that this release does not know."""


async def tables_of(connection: Session, generation: int) -> "GenerationTables":
    """The tables of a generation, with its version's rules.  Raises `UnknownVersionError`."""
    version = await connection.fetchval(_VERSION, generation)
    if version not in RULES:
        known = ", ".join(map(str, versions()))
        raise UnknownVersionError(f"generation {generation} has version {version}; this release knows {known}")
    return GenerationTables(generation, RULES[version])


class GenerationTables:
    """Reads and writes the tables of one generation; every method is part of the caller's transaction."""

    def __init__(self, generation: int, rules: Rules) -> None:
        self.generation = generation
        self.new_changes = rules.changes
        place = f"readmodel_{generation:d}"
        self.place = place
        """The schema of its tables."""
        self._read = _READ.format(at=_AT, behind=_BEHIND.format(most_events="$4", most_bytes="$5"))
        self._look = _LOOK.format(behind=_BEHIND.format(most_events="$3", most_bytes="$4"))
        self._lock = _LOCK.format(at=_AT)
        self._create_threads = _CREATE_THREADS.format(place=place)
        self._advance_threads = _ADVANCE_THREADS.format(place=place)
        self._change_accounts = _CHANGE_ACCOUNTS.format(place=place)
        self._add_messages = _ADD_MESSAGES.format(place=place)
        self._add_plain_messages = _ADD_PLAIN_MESSAGES.format(place=place)
        self._post_to_threads = _POST_TO_THREADS.format(place=place)
        self._store_posts = _STORE_POSTS.format(place=place, at=_AT)
        self._remove_messages = _REMOVE_MESSAGES.format(place=place)
        self._add_mentions = _ADD_MENTIONS.format(place=place)
        self._delete = tuple(sql.format(place=place) for sql in _DELETE)

    async def positions(self, connection: Session, shards: Collection[int]) -> dict[int, int]:
        """The offsets of these shards."""
        rows = await connection.fetch(_POSITIONS, self.generation, list(shards))
        return {row["shard_id"]: row["seq"] for row in rows}

    async def dead_threads(self, connection: Session, shards: Collection[int]) -> dict[int, set[UUID]]:
        """By shard, the threads whose projection has stopped."""
        found: dict[int, set[UUID]] = {}
        for row in await connection.fetch(_DEAD, self.generation, list(shards)):
            found.setdefault(row["shard_id"], set()).add(row["thread_id"])
        return found

    async def dead_at(self, connection: Session, thread_id: UUID) -> int | None:
        """The number of the event at which a thread has stopped; None when it has not."""
        found: int | None = await connection.fetchval(_DEAD_AT, self.generation, thread_id)
        return found

    async def read(
        self, connection: Session, positions: Mapping[int, int], most_events: int, most_bytes: int
    ) -> dict[int, ShardEvents]:
        """Lock the offsets that stand at ``positions`` and return what is behind them, at most so much of each shard.

        The first event of a shard is returned whatever its size.  A shard whose offset is elsewhere, or is held by another updater, is left out.
        """
        parameters = self.generation, list(positions), _all_at(positions), most_events, most_bytes
        return _by_shard(await connection.fetch(self._read, *parameters))

    async def look(
        self, connection: Session, positions: Mapping[int, int], most_events: int, most_bytes: int
    ) -> dict[int, ShardEvents]:
        """The events behind ``positions``, as `read` returns it, without a lock."""
        parameters = list(positions), list(positions.values()), most_events, most_bytes
        return _by_shard(await connection.fetch(self._look, *parameters))

    async def lock(self, connection: Session, positions: Mapping[int, int]) -> list[int]:
        """Lock the offsets that stand at ``positions``, as `read` does; the shards whose offset is locked."""
        rows = await connection.fetch(self._lock, self.generation, list(positions), _all_at(positions))
        return [row["shard_id"] for row in rows]

    async def hold(self, connection: Session, shard_id: int) -> int | None:
        """Lock a shard's offset and return it; None when another updater holds it."""
        seq: int | None = await connection.fetchval(_HOLD, self.generation, shard_id)
        return seq

    async def events_of(
        self, connection: Session, shard_id: int, thread_id: UUID, from_nr: int, up_to: int, most_events: int
    ) -> list[JournalRow]:
        """Events of one thread from ``from_nr`` on, of the shard's up to ``up_to``; about a megabyte at most."""
        rows = await connection.fetch(_OF_THREAD, shard_id, thread_id, from_nr, up_to, most_events, _OF_THREAD_BYTES)
        return [_event_row(row) for row in rows]

    async def move_dead(self, connection: Session, thread_id: UUID, seq_nr: int, reason: str) -> None:
        """Record that a thread has stopped at a later event than before."""
        await connection.execute(_MOVE_DEAD, self.generation, thread_id, seq_nr, reason)

    async def delete_thread(self, connection: Session, thread_id: UUID) -> None:
        """Remove all rows of a thread, which is projected afresh in the same transaction."""
        for sql in self._delete:
            await connection.execute(sql, thread_id)

    async def unbury(self, connection: Session, thread_id: UUID) -> None:
        """Record that a thread is projected as far as its shard."""
        await connection.execute(_UNBURY, self.generation, thread_id)

    async def bury(self, connection: Session, buried: Sequence[tuple[int, JournalRow, str]]) -> None:
        """Record that threads have stopped: of each the shard, the event, and why it cannot be projected."""
        await connection.execute(
            _BURY,
            self.generation,
            [shard_id for shard_id, _, _ in buried],
            [row.thread_id for _, row, _ in buried],
            [row.seq_nr for _, row, _ in buried],
            [row.event_type for _, row, _ in buried],
            [row.event_version for _, row, _ in buried],
            [reason[:_REASON_MOST] for _, _, reason in buried],
        )

    async def store_posts(
        self, connection: Session, posts: Sequence[bytes], reached: Mapping[int, int], positions: Mapping[int, int]
    ) -> bool:
        """Write the arrays of a `PostBatch` and move its offsets from ``positions`` by one statement, a transaction of its own.

        False, and nothing is written, when not all offsets are at ``positions`` and free.  The connection takes ready-made arrays.
        """
        held: bool = await connection.fetchval(
            self._store_posts,
            self.generation,
            list(reached),
            _all_at({shard_id: positions[shard_id] for shard_id in reached}),
            list(reached.values()),
            *posts,
        )
        return held

    async def set_offsets(self, connection: Session, reached: Mapping[int, int]) -> None:
        """Move the offsets of these shards, which this transaction holds; its commit is not waited for to be on disk."""
        await connection.execute(_SET_OFFSETS, self.generation, list(reached), list(reached.values()))

    async def write(self, connection: Session, changes: Changes) -> None:
        """Write what a batch changes: at most one statement a table and kind of change."""
        await self._write_threads(connection, _Threads(changes))
        for accounts in _chunks(list(changes.accounts.items())):
            await connection.execute(
                self._change_accounts,
                [_uuid(account_id) for (_, account_id), _ in accounts],
                [thread_id for (thread_id, _), _ in accounts],
                [change.administrator for _, change in accounts],
                [change.member for _, change in accounts],
                [change.seq_nr for _, change in accounts],
            )
        # Before the messages: an added one may have the id of one that is removed.
        for removed in _chunks(list(changes.removed)):
            await connection.execute(
                self._remove_messages,
                [thread_id for thread_id, _ in removed],
                [_uuid(message_id) for _, message_id in removed],
            )
        await self._write_messages(connection, _Messages(changes))
        for mentions in _chunks(changes.mentions):
            await connection.execute(
                self._add_mentions,
                [_uuid(mention.account_id) for mention in mentions],
                [mention.created_at for mention in mentions],
                [mention.thread_id for mention in mentions],
                [mention.sequence_nr for mention in mentions],
                [mention.index for mention in mentions],
                [_uuid(mention.message_id) for mention in mentions],
            )

    async def _write_threads(self, connection: Session, threads: "_Threads") -> None:
        created, others = threads.created, threads.others
        if created:
            await connection.execute(
                self._create_threads,
                [thread_id for thread_id, _, _ in created],
                [head.shard_id for _, head, _ in created],
                [head.sequence_nr for _, head, _ in created],
                [head.epoch for _, head, _ in created],
                [_uuid(event.creator_id) for _, _, event in created],
                [None if event.parent_thread_id is None else _uuid(event.parent_thread_id) for _, _, event in created],
                [event.title for _, _, event in created],
                [event.remarks for _, _, event in created],
                [event.at for _, _, event in created],
                [head.updated_at for _, head, _ in created],
                [head.activity_at for _, head, _ in created],
                [head.destroyed_at for _, head, _ in created],
                [_text(head.xid) for _, head, _ in created],
            )
        if threads.posted:
            await connection.execute(self._post_to_threads, *_post_columns(threads.posted))
        if others:
            await connection.execute(
                self._advance_threads,
                [thread_id for thread_id, _ in others],
                [head.sequence_nr for _, head in others],
                [head.epoch for _, head in others],
                [head.updated_at for _, head in others],
                [head.activity_at for _, head in others],
                [head.destroyed_at for _, head in others],
                [_text(head.xid) for _, head in others],
            )

    async def _write_messages(self, connection: Session, messages: "_Messages") -> None:
        for plain in _chunks(messages.plain):
            await connection.execute(self._add_plain_messages, *_plain_columns(plain))
        for others in _chunks(messages.others):
            await connection.execute(
                self._add_messages,
                [message.thread_id for message in others],
                [message.sequence_nr for message in others],
                [message.index for message in others],
                [_uuid(message.message_id) for message in others],
                [_uuid(message.sender_id) for message in others],
                [message.body for message in others],
                [None if message.reply_message_id is None else _uuid(message.reply_message_id) for message in others],
                [
                    ",".join([str(_uuid(each)) for each in message.to_account_ids]) if message.to_account_ids else None
                    for message in others
                ],
                [message.created_at for message in others],
                [message.removed for message in others],
            )


class _Threads:
    """The changed threads: new ones, those that only got messages, and all others."""

    def __init__(self, changes: Changes) -> None:
        self.created: list[tuple[UUID, Head, ThreadCreated]] = []
        self.posted: list[tuple[UUID, Head]] = []
        self.others: list[tuple[UUID, Head]] = []
        for thread_id, head in changes.threads.items():
            if head.created is not None:
                self.created.append((thread_id, head, head.created))
            elif head.activity_at == head.updated_at and head.destroyed_at is None:
                self.posted.append((thread_id, head))
            else:
                self.others.append((thread_id, head))


class _Messages:
    """The new messages: plain ones, without reply link and addressees and not removed yet, and all others."""

    def __init__(self, changes: Changes) -> None:
        self.plain: list[MessageRow] = []
        self.others: list[MessageRow] = []
        for message in changes.messages:
            if message.reply_message_id is None and not message.to_account_ids and not message.removed:
                self.plain.append(message)
            else:
                self.others.append(message)


T = TypeVar("T")


def _chunks(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    for first in range(0, len(rows), _CHUNK):
        yield rows[first : first + _CHUNK]


def _post_columns(posted: Sequence[tuple[UUID, Head]]) -> tuple[list[object], ...]:
    return (
        [thread_id for thread_id, _ in posted],
        [head.sequence_nr for _, head in posted],
        [head.epoch for _, head in posted],
        [head.updated_at for _, head in posted],
        [_text(head.xid) for _, head in posted],
    )


def _plain_columns(plain: Sequence[MessageRow]) -> tuple[list[object], ...]:
    return (
        [message.thread_id for message in plain],
        [message.sequence_nr for message in plain],
        [message.index for message in plain],
        [_uuid(message.message_id) for message in plain],
        [_account_uuid(message.sender_id) for message in plain],
        [message.body for message in plain],
        [message.created_at for message in plain],
    )


def _all_at(positions: Mapping[int, int]) -> list[int]:
    """Offsets at these positions, each as one number with its shard, which is less than 4096: as `_AT` compares them."""
    return [seq * 4096 + shard_id for shard_id, seq in positions.items()]


def _by_shard(rows: Sequence[asyncpg.Record]) -> dict[int, ShardEvents]:
    found: dict[int, ShardEvents] = {}
    for row in rows:
        events = found.get(row["shard_id"])
        if events is None:
            events = found[row["shard_id"]] = ShardEvents(row["seq"], [])
        if row["shard_seq"] is not None:
            events.rows.append(_event_row(row))
    return found


def _event_row(row: asyncpg.Record) -> JournalRow:
    xid = row["xid"]
    return JournalRow(
        row["shard_seq"],
        row["thread_id"],
        row["seq_nr"],
        row["event_type"],
        row["event_version"],
        row["payload"],
        row["epoch"],
        None if xid is None else int(xid),
    )


@lru_cache(maxsize=_ACCOUNTS_KEPT)
def _account_uuid(account_id: str) -> UUID:
    """`_uuid` of an account: the senders of a moment are few."""
    return _uuid(account_id)


def _text(xid: int | None) -> str | None:
    """A transaction id as the client library, which does not know its type, sends it."""
    return None if xid is None else str(xid)


def _uuid(ulid: str) -> UUID:
    """An id as the tables hold it."""
    found: UUID = PostgresUUID(ulid_bytes(ulid))
    return found
