"""The read model as the gateway asks it: lists over the threads of an account, single threads, and read markers.

Each list is read in one snapshot, so that its access checks, its order and its counts are of one moment.  A thread that was destroyed,
or that the account can no longer read, is not listed; one whose projection has stopped is left out and named.
"""

from typing import Final
from uuid import UUID

import asyncpg
from msgspec import Struct

from shard_worker.contract import Answer, MessageView, Query, ThreadView
from shard_worker.database.connection import ReadPool, Session
from shard_worker.domain.ids import AccountId, MessageId, ThreadId, ulid_uuid
from shard_worker.journal.answer_size import PAGE_BYTES
from shard_worker.readmodel.list_position import NO_POSITION, ListPosition, ListPositions
from shard_worker.readmodel.live_generation import LiveGeneration
from shard_worker.readmodel.markers import MarkerWriter
from shard_worker.readmodel.thread_queries import MESSAGE_BYTES, ThreadQueries, messages_of, text_of, view_of

UNREAD_MOST: Final = 100
"""Unread messages of a thread are counted up to here."""

_THREADS: Final = """
SELECT t.thread_id, t.creator_id, t.parent_thread_id, t.title, t.remarks, t.created_at, t.updated_at, t.sequence_nr,
       t.activity_at, unread.count AS unread
  FROM (
       SELECT thread.*
         FROM {place}.thread_account access JOIN {place}.thread USING (thread_id)
        WHERE access.account_id = $1 AND access.until_nr IS NULL AND thread.destroyed_at IS NULL
          AND ($4::bigint IS NULL OR (thread.activity_at, thread.thread_id) < ($4, $5::uuid))
          AND NOT EXISTS (SELECT FROM dead_letter d WHERE d.generation = {generation} AND d.thread_id = thread.thread_id)
        ORDER BY thread.activity_at DESC, thread.thread_id DESC
        LIMIT $2 OFFSET $3
       ) AS t
  LEFT JOIN read_marker marker ON marker.thread_id = t.thread_id AND marker.account_id = $1
 CROSS JOIN LATERAL (
       SELECT count(*) AS count
         FROM (SELECT FROM {place}.thread_message m
                WHERE m.thread_id = t.thread_id AND NOT m.removed AND m.sender_id <> $1
                  AND (m.sequence_nr, m.index) > (coalesce(marker.sequence_nr, 0), coalesce(marker.index, 0))
                LIMIT {unread_most}) AS newer
       ) AS unread
 ORDER BY t.activity_at DESC, t.thread_id DESC
"""
_MENTIONS: Final = """
SELECT * FROM (
    SELECT found.*, count(*) OVER () AS matched,
           sum({bytes}) OVER (ORDER BY created_at DESC, thread_id DESC, sequence_nr DESC, index DESC) - ({bytes}) AS before
      FROM (
           SELECT mention.thread_id, mention.sequence_nr, mention.index, mention.created_at,
                  m.message_id, m.sender_id, m.body, m.reply_message_id, m.to_account_ids
             FROM {place}.thread_mention mention
             JOIN {place}.thread_message m
               ON m.thread_id = mention.thread_id AND m.message_id = mention.message_id AND NOT m.removed
              AND m.sequence_nr = mention.sequence_nr AND m.index = mention.index
             JOIN {place}.thread ON thread.thread_id = mention.thread_id AND thread.destroyed_at IS NULL
             JOIN {place}.thread_account access
               ON access.account_id = $1 AND access.thread_id = mention.thread_id AND access.until_nr IS NULL
            WHERE mention.account_id = $1
              AND ($4::bigint IS NULL OR (mention.created_at, mention.thread_id, mention.sequence_nr, mention.index)
                                         < ($4, $5::uuid, $6, $7::smallint))
              AND NOT EXISTS (
                  SELECT FROM dead_letter d WHERE d.generation = {generation} AND d.thread_id = mention.thread_id)
            ORDER BY mention.created_at DESC, mention.thread_id DESC, mention.sequence_nr DESC, mention.index DESC
            LIMIT $2 OFFSET $3
           ) AS found
    ) AS sized
 WHERE before < {most_bytes}
 ORDER BY created_at DESC, thread_id DESC, sequence_nr DESC, index DESC
"""
_MESSAGE: Final = """
SELECT (SELECT sequence_nr FROM {place}.thread WHERE thread_id = $1) AS sequence_nr, m.sequence_nr AS place, m.index
  FROM (SELECT) AS one LEFT JOIN {place}.thread_message m ON m.thread_id = $1 AND m.message_id = $2
 ORDER BY m.sequence_nr DESC, m.index DESC LIMIT 1
"""
_POISONED: Final = """
SELECT thread_id FROM dead_letter d
 WHERE d.generation = {generation}
   AND EXISTS (SELECT FROM {place}.thread_account access
                WHERE access.account_id = $1 AND access.thread_id = d.thread_id AND access.until_nr IS NULL)
 ORDER BY thread_id LIMIT 1000
"""


class ListedThread(Struct, frozen=True, gc=False):
    """A thread in the list of an account."""

    view: ThreadView
    activity_at: int
    """Epoch milliseconds of its creation or its newest messages."""
    unread_count: int
    """Live messages of others after the account's marker, counted to `UNREAD_MOST`."""


class ThreadList(Struct, frozen=True, gc=False):
    """A page of an account's threads; ``more`` is True when the list goes on, ``poisoned`` are threads it leaves out."""

    threads: tuple[ListedThread, ...]
    more: bool
    poisoned: tuple[ThreadId, ...]
    position: ListPosition = NO_POSITION
    """Where an account's stream goes on after the list; one position for the lists of a second, taken before them."""


class Mention(Struct, frozen=True, gc=False):
    """A message that names the account, and its thread."""

    thread_id: ThreadId
    message: MessageView


class MentionList(Struct, frozen=True, gc=False):
    """A page of an account's mentions; see `ThreadList`."""

    mentions: tuple[Mention, ...]
    more: bool
    poisoned: tuple[ThreadId, ...]


class MessageState(Struct, frozen=True, gc=False):
    """State of a message in the read model: its place (sequence number, index), removed or not, and how new that is."""

    place: tuple[int, int] | None
    sequence_nr: int
    """The thread's newest event in the read model; 0 before its first."""


class ReadModelQueries:
    """Answers lists from the generation that is live, and keeps the read markers.

    Raises `shard_worker.database.connection.CONNECTION_ERRORS` when the database does not answer.
    """

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool
        self._live = LiveGeneration()
        self._threads = ThreadQueries(pool, self._live)
        self._markers = MarkerWriter(pool)
        self._positions = ListPositions()

    async def answer(self, query: Query) -> Answer:
        """The answer to a query about one thread, as the owner would give it; see `ThreadQueries`."""
        return await self._threads.answer(query)

    async def threads(
        self, account_id: AccountId, limit: int, offset: int, after: tuple[int, ThreadId] | None
    ) -> ThreadList:
        """The threads that an account can read, newest activity first, those after ``after`` (activity, id)."""
        place = (None, None) if after is None else (after[0], ulid_uuid(after[1]))
        account = ulid_uuid(account_id)

        async def read(connection: Session) -> ThreadList:
            names = await self._live.names(connection)
            position = await self._positions.read(connection, names["generation"])  # before the list
            rows = await connection.fetch(
                _THREADS.format(**names, unread_most=UNREAD_MOST), account, limit + 1, offset, *place
            )
            poisoned = await self._poisoned(connection, names, account)
            listed = tuple(ListedThread(view_of(row), row["activity_at"], row["unread"]) for row in rows[:limit])
            return ThreadList(listed, len(rows) > limit, poisoned, position)

        return await self._pool.run(read)

    async def mentions(
        self, account_id: AccountId, limit: int, offset: int, after: tuple[int, ThreadId, int, int] | None
    ) -> MentionList:
        """The messages that name an account, newest first, those after ``after`` (creation, thread, sequence number, index)."""
        place: tuple[object, ...] = (None, None, None, None)
        if after is not None:
            place = (after[0], ulid_uuid(after[1]), after[2], after[3])
        account = ulid_uuid(account_id)

        async def read(connection: Session) -> tuple[list[asyncpg.Record], tuple[ThreadId, ...]]:
            names = await self._live.names(connection)
            sql = _MENTIONS.format(**names, bytes=MESSAGE_BYTES, most_bytes=PAGE_BYTES)
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return await connection.fetch(sql, account, limit + 1, offset, *place), await self._poisoned(
                    connection, names, account
                )

        rows, poisoned = await self._pool.run(read)
        messages = [each async for each in messages_of(rows[:limit], "sequence_nr", "created_at")]
        listed = tuple(
            Mention(ThreadId(text_of(row["thread_id"])), message)
            for row, message in zip(rows[:limit], messages, strict=True)
        )
        return MentionList(listed, bool(rows) and len(listed) < rows[0]["matched"], poisoned)

    async def message(self, thread_id: ThreadId, message_id: MessageId) -> MessageState:
        """Where a message of a thread is or was."""

        async def read(connection: Session) -> MessageState:
            names = await self._live.names(connection)
            row = await connection.fetchrow(_MESSAGE.format(**names), ulid_uuid(thread_id), ulid_uuid(message_id))
            assert row is not None  # a select without a table gives one row
            place = None if row["place"] is None else (row["place"], row["index"])
            return MessageState(place, row["sequence_nr"] or 0)

        return await self._pool.run(read)

    async def set_marker(
        self, thread_id: ThreadId, account_id: AccountId, message_id: MessageId, place: tuple[int, int]
    ) -> MessageId:
        """Move an account's marker forward to a message, and return the message at which it is, durable."""
        return await self._markers.set(ulid_uuid(thread_id), ulid_uuid(account_id), message_id, place)

    @staticmethod
    async def _poisoned(connection: Session, names: dict[str, object], account: UUID) -> tuple[ThreadId, ...]:
        rows = await connection.fetch(_POISONED.format(**names), account)
        return tuple(ThreadId(text_of(row["thread_id"])) for row in rows)
