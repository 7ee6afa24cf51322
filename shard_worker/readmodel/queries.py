"""The read model as the gateway asks it: lists over the threads of an account, single threads, and read markers.

Each list is one statement, so that its access checks, its order and its counts are of one moment.  A thread that was destroyed,
or that the account can no longer read, is not listed; one whose projection has stopped is left out and named.
"""

from typing import Final

import asyncpg
from msgspec import Struct

from shard_worker.contract import Answer, MessageView, Query, ThreadView
from shard_worker.domain.ids import AccountId, MessageId, ThreadId, ulid_uuid
from shard_worker.journal.answer_size import PAGE_BYTES
from shard_worker.readmodel.list_position import NO_POSITION, ListPosition, ListPositions
from shard_worker.readmodel.markers import MarkerWriter
from shard_worker.readmodel.message_pages import MESSAGE_BYTES, messages_of, text_of
from shard_worker.readmodel.sources import QuerySources, Reading
from shard_worker.readmodel.thread_queries import ThreadQueries, view_of

UNREAD_MOST: Final = 100
"""Unread messages of a thread are counted up to here.  The work is bounded by the live messages that a thread may have, 5,000: those
of the account itself are passed over one by one, in an index."""
_SLOT_MS: Final = 300_000
"""The slots of ``activity_slot``: the longer, the fewer messages write indexes, and the more threads have no order in them."""
_WALK_MOST: Final = 3
"""Threads that a walk may pass for each one of the account; to pass one takes a quarter of the time of looking one up."""
_TRIED: Final = 100
"""Threads of which one must be of the account before more are passed: of an account whose threads are all old none is."""
_HASHED_MOST: Final = 10_000
"""Threads of an account that are put into a hash for a walk; those of an account in more are looked up one by one."""
_REST_MOST: Final = 500
"""Threads of the slot in which a walk ends that are looked at after it."""

# Joins are written so that there is one way to plan them: each row of the first table looks its partners up by an index.
#
# The order of a list is known to the slot from indexes alone, which messages write once a slot.  Threads are therefore taken by
# their slot, and looked up for the instant, until there are enough of them and the last one's slot is complete.  The threads that
# are taken are found in one of two ways.
# - `walked`: all threads are passed from the newest slot down, and the account's are kept; the `rest` is what the walk, which has
#   an end, did not pass of its last slot.
# - `slots`: each thread of the account is looked up for its slot.
# The walk is expected to pass as many threads for each one that it keeps as there are for each one of the account.  It is tried
# where these are at most `walk_most` times the account's own, which needs `bound.own` of these, and given up when it passes many
# more than that.  All that decides about the time alone, never about the answer.
_THREADS: Final = """
WITH walk AS MATERIALIZED (
    SELECT CASE WHEN (SELECT count(*) FROM (SELECT FROM {own} LIMIT bound.own) AS one) >= bound.own
                     AND EXISTS (SELECT FROM (SELECT thread.thread_id FROM {place}.thread WHERE {of_slot}
                                               ORDER BY thread.activity_slot DESC, thread.thread_id DESC LIMIT {tried}) AS passed
                                  WHERE ({is_own}))
                THEN (1.5 * {walk_most} * bound.own)::bigint + 100 ELSE 0 END AS most
      FROM pg_catalog.pg_class c
     CROSS JOIN LATERAL (
           SELECT ceil(sqrt(($2::bigint + $3::bigint) * greatest(c.reltuples, 0) / {walk_most}))::bigint AS own) AS bound
     WHERE c.oid = '{place}.thread'::regclass
), walked AS MATERIALIZED (
    SELECT found.thread_id, found.activity_at, passed.activity_slot
      FROM (SELECT thread.thread_id, thread.activity_slot FROM {place}.thread WHERE {of_slot}
             ORDER BY thread.activity_slot DESC, thread.thread_id DESC LIMIT (SELECT walk.most FROM walk)) AS passed
     CROSS JOIN LATERAL ({found} AND thread.thread_id = passed.thread_id OFFSET 0) AS found
     WHERE CASE WHEN (SELECT count(*) FROM (SELECT FROM {own} LIMIT {hashed_most} + 1) AS one) > {hashed_most}
                THEN ({is_own}) ELSE passed.thread_id IN (SELECT access.thread_id FROM {own}) END
     ORDER BY passed.activity_slot DESC
     FETCH FIRST ($2::bigint + $3::bigint) ROWS WITH TIES
), last AS MATERIALIZED (
    SELECT walked.activity_slot, walked.thread_id FROM walked
     WHERE (SELECT count(*) FROM walked) >= $2::bigint + $3::bigint
     ORDER BY walked.activity_slot, walked.thread_id LIMIT 1
), rest AS MATERIALIZED (
    SELECT passed.thread_id
      FROM last CROSS JOIN LATERAL (
           SELECT thread.thread_id FROM {place}.thread
            WHERE thread.activity_slot = last.activity_slot AND thread.thread_id < last.thread_id
            ORDER BY thread.thread_id DESC LIMIT {rest_most} + 1) AS passed
), way AS MATERIALIZED (
    SELECT EXISTS (SELECT FROM last) AND (SELECT count(*) FROM rest) <= {rest_most} AS walked
), listed AS MATERIALIZED (
    SELECT candidate.thread_id, candidate.activity_at
      FROM (
           SELECT walked.thread_id, walked.activity_at FROM walked WHERE (SELECT way.walked FROM way)
            UNION ALL
           SELECT found.thread_id, found.activity_at
             FROM rest AS passed CROSS JOIN LATERAL ({found} AND thread.thread_id = passed.thread_id OFFSET 0) AS found
            WHERE (SELECT way.walked FROM way) AND ({is_own})
            UNION ALL
           SELECT taken.thread_id, taken.activity_at
             FROM (SELECT found.thread_id, found.activity_at
                     FROM (SELECT of_slot.thread_id, of_slot.activity_slot
                             FROM (SELECT thread.thread_id, thread.activity_slot FROM {place}.thread
                                    WHERE thread.thread_id = ANY (ARRAY(SELECT access.thread_id FROM {own})) AND {of_slot}
                                      AND NOT (SELECT way.walked FROM way) OFFSET 0) AS of_slot
                            ORDER BY of_slot.activity_slot DESC) AS slots
                    CROSS JOIN LATERAL ({found} AND thread.thread_id = slots.thread_id OFFSET 0) AS found
                    ORDER BY slots.activity_slot DESC
                    FETCH FIRST ($2::bigint + $3::bigint) ROWS WITH TIES) AS taken
           ) AS candidate
     ORDER BY candidate.activity_at DESC, candidate.thread_id DESC
     LIMIT $2 OFFSET $3
)
SELECT t.thread_id, t.creator_id, t.parent_thread_id, t.title, t.remarks, t.created_at, t.updated_at, t.sequence_nr,
       listed.activity_at, unread.count AS unread
  FROM listed
 CROSS JOIN LATERAL (SELECT * FROM {place}.thread WHERE thread.thread_id = listed.thread_id LIMIT 1) AS t
 CROSS JOIN LATERAL (
       SELECT coalesce(max(one.sequence_nr), 0) AS sequence_nr, coalesce(max(one.index), 0::smallint) AS index
         FROM (SELECT r.sequence_nr, r.index FROM read_marker r
                WHERE r.thread_id = listed.thread_id AND r.account_id = $1 LIMIT 1) AS one
       ) AS marker
 CROSS JOIN LATERAL (
       SELECT count(*) AS count
         FROM (SELECT FROM {place}.thread_message m
                WHERE m.thread_id = listed.thread_id AND NOT m.removed AND m.sender_id <> $1
                  AND (m.sequence_nr, m.index) > (marker.sequence_nr, marker.index)
                LIMIT {unread_most}) AS one
       ) AS unread
"""
_OWN: Final = "{place}.thread_account access WHERE access.account_id = $1 AND access.until_nr IS NULL"
_IS_OWN: Final = "SELECT true FROM {own} AND access.thread_id = passed.thread_id LIMIT 1"
_FOUND: Final = """
SELECT thread.thread_id, thread.activity_at FROM {place}.thread
 WHERE thread.destroyed_at IS NULL AND {after}
   AND thread.thread_id NOT IN (SELECT d.thread_id FROM dead_letter d WHERE d.generation = {generation})"""
_THREADS_AFTER: Final = "(thread.activity_at, thread.thread_id) < ($4::bigint, $5::uuid)"
_OF_SLOT: Final = "thread.activity_slot IS NOT NULL"  # a destroyed thread has none
_OF_SLOT_AFTER: Final = f"thread.activity_slot <= $4::bigint / {_SLOT_MS}"
_MENTIONS: Final = """
SELECT * FROM (
    SELECT found.*, count(*) OVER () AS matched,
           sum({bytes}) OVER (ORDER BY created_at DESC, thread_id DESC, sequence_nr DESC, index DESC) - ({bytes}) AS before
      FROM (
           SELECT mention.thread_id, mention.sequence_nr, mention.index, mention.created_at, m.*
             FROM {place}.thread_mention mention
            CROSS JOIN LATERAL (
                  SELECT access.thread_id FROM {place}.thread_account access
                   WHERE access.account_id = $1 AND access.thread_id = mention.thread_id AND access.until_nr IS NULL
                   LIMIT 1) AS readable
            CROSS JOIN LATERAL (
                  SELECT thread.thread_id FROM {place}.thread
                   WHERE thread.thread_id = readable.thread_id AND thread.destroyed_at IS NULL LIMIT 1) AS present
            CROSS JOIN LATERAL (
                  SELECT m.message_id, m.sender_id, m.body, m.reply_message_id, m.to_account_ids
                    FROM {place}.thread_message m
                   WHERE m.thread_id = present.thread_id AND m.sequence_nr = mention.sequence_nr
                     AND m.index = mention.index AND NOT m.removed LIMIT 1) AS m
            WHERE mention.account_id = $1 AND {after}
              AND mention.thread_id NOT IN (SELECT d.thread_id FROM dead_letter d WHERE d.generation = {generation})
            ORDER BY mention.created_at DESC, mention.thread_id DESC, mention.sequence_nr DESC, mention.index DESC
            LIMIT $2 OFFSET $3
           ) AS found
    ) AS sized
 WHERE before < {most_bytes}
"""
_MENTIONS_AFTER: Final = """(mention.created_at, mention.thread_id, mention.sequence_nr, mention.index)
                  < ($4::bigint, $5::uuid, $6::bigint, $7::smallint)"""
_MESSAGE: Final = """
SELECT (SELECT sequence_nr FROM {place}.thread WHERE thread_id = $1) AS sequence_nr, m.sequence_nr AS place, m.index
  FROM (SELECT) AS one LEFT JOIN (
       SELECT sequence_nr, index FROM {place}.thread_message WHERE thread_id = $1 AND message_id = $2 AND NOT removed
        UNION ALL
       SELECT sequence_nr, index FROM {place}.thread_message WHERE thread_id = $1 AND message_id = $2 AND removed
       ) AS m ON true
 ORDER BY m.sequence_nr DESC, m.index DESC LIMIT 1
"""
# One statement, so that a thread that is left out is named.  The position is that of a moment after the statement's snapshot.
_PAGE: Final = """
WITH about AS MATERIALIZED (
    SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - '0/0'::pg_lsn)::bigint
           AS lsn,
           ARRAY(SELECT d.thread_id FROM dead_letter d
                  CROSS JOIN LATERAL (
                        SELECT FROM {place}.thread_account access
                         WHERE access.account_id = $1 AND access.thread_id = d.thread_id AND access.until_nr IS NULL LIMIT 1
                        ) AS readable
                  WHERE d.generation = {generation}
                  ORDER BY d.thread_id LIMIT 1000) AS poisoned
)
SELECT about.lsn, about.poisoned, page.* FROM about LEFT JOIN ({page}) AS page ON true ORDER BY {order}
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
    lsn: int = 0
    """The primary's WAL position that the page shows at most: a replica behind it may lack what the page has."""
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
    lsn: int = 0


class MessageState(Struct, frozen=True, gc=False):
    """State of a message in the read model: its place (sequence number, index), removed or not, and how new that is."""

    place: tuple[int, int] | None
    sequence_nr: int
    """The thread's newest event in the read model; 0 before its first."""


class ReadModelQueries:
    """Answers lists from the generation that is live, and keeps the read markers.

    Raises `shard_worker.database.connection.CONNECTION_ERRORS` when the database does not answer.
    """

    def __init__(self, sources: QuerySources, markers: MarkerWriter) -> None:
        self._sources = sources
        self._threads = ThreadQueries(sources)
        self._markers = markers
        self._positions = ListPositions()

    async def answer(self, query: Query) -> Answer:
        """The answer to a query about one thread, as the owner would give it; see `ThreadQueries`."""
        return await self._threads.answer(query)

    async def threads(
        self,
        account_id: AccountId,
        limit: int,
        offset: int,
        after: tuple[int, ThreadId] | None,
        *,
        least_lsn: int = 0,
    ) -> ThreadList:
        """The threads that an account can read, newest activity first, those after ``after`` (activity, id).

        ``least_lsn`` is the position of the first page: a replica behind it is not asked.
        """
        place = () if after is None else (after[0], ulid_uuid(after[1]))
        account = ulid_uuid(account_id)

        async def read(reading: Reading) -> tuple[ListPosition, list[asyncpg.Record]]:
            # Before the list and on the same server.  A replica's is not kept: the next list may be of another one, further behind.
            positions = ListPositions() if reading.of_replica else self._positions
            position = await positions.read(reading.connection, reading.names["generation"])
            page = _threads_sql(reading.names, first_page=after is None)
            sql = _PAGE.format(**reading.names, page=page, order="page.activity_at DESC, page.thread_id DESC")
            return position, await reading.connection.fetch(sql, account, limit + 1, offset, *place)

        position, rows = await self._sources.run(read, least_lsn=least_lsn)
        lsn, poisoned, rows = _about(rows)
        listed = tuple(ListedThread(view_of(row), row["activity_at"], row["unread"]) for row in rows[:limit])
        return ThreadList(listed, len(rows) > limit, poisoned, lsn, position)

    async def mentions(
        self,
        account_id: AccountId,
        limit: int,
        offset: int,
        after: tuple[int, ThreadId, int, int] | None,
        *,
        least_lsn: int = 0,
    ) -> MentionList:
        """The messages that name an account, newest first, those after ``after`` (creation, thread, sequence number, index)."""
        place = () if after is None else (after[0], ulid_uuid(after[1]), after[2], after[3])
        account = ulid_uuid(account_id)

        async def read(reading: Reading) -> list[asyncpg.Record]:
            bound = "true" if after is None else _MENTIONS_AFTER
            page = _MENTIONS.format(**reading.names, after=bound, bytes=MESSAGE_BYTES, most_bytes=PAGE_BYTES)
            order = "page.created_at DESC, page.thread_id DESC, page.sequence_nr DESC, page.index DESC"
            sql = _PAGE.format(**reading.names, page=page, order=order)
            return await reading.connection.fetch(sql, account, limit + 1, offset, *place)

        rows = await self._sources.run(read, least_lsn=least_lsn)
        lsn, poisoned, rows = _about(rows)
        messages = [each async for each in messages_of(rows[:limit], "sequence_nr", "created_at")]
        listed = tuple(
            Mention(ThreadId(text_of(row["thread_id"])), message)
            for row, message in zip(rows[:limit], messages, strict=True)
        )
        return MentionList(listed, bool(rows) and len(listed) < rows[0]["matched"], poisoned, lsn)

    async def message(self, thread_id: ThreadId, message_id: MessageId) -> MessageState:
        """Where a message of a thread is or was; asked of the primary, since it decides what never was a message."""

        async def read(reading: Reading) -> MessageState:
            sql = _MESSAGE.format(**reading.names)
            row = await reading.connection.fetchrow(sql, ulid_uuid(thread_id), ulid_uuid(message_id))
            assert row is not None  # a select without a table gives one row
            place = None if row["place"] is None else (row["place"], row["index"])
            return MessageState(place, row["sequence_nr"] or 0)

        return await self._sources.run(read, primary=True)

    async def set_marker(
        self, thread_id: ThreadId, account_id: AccountId, message_id: MessageId, place: tuple[int, int]
    ) -> MessageId:
        """Move an account's marker forward to a message, and return the message at which it is, durable."""
        return await self._markers.set(ulid_uuid(thread_id), ulid_uuid(account_id), message_id, place)


def _about(rows: list[asyncpg.Record]) -> tuple[int, tuple[ThreadId, ...], list[asyncpg.Record]]:
    """Of the rows of a page: its position, the threads that it leaves out, and the rows of its items."""
    poisoned = tuple(ThreadId(text_of(thread_id)) for thread_id in rows[0]["poisoned"])
    return rows[0]["lsn"], poisoned, [] if rows[0]["thread_id"] is None else rows


def _threads_sql(names: dict[str, object], *, first_page: bool) -> str:
    own = _OWN.format(**names)
    parts: dict[str, object] = {
        "unread_most": UNREAD_MOST,
        "own": own,
        "is_own": _IS_OWN.format(own=own),
        "found": _FOUND.format(**names, after="true" if first_page else _THREADS_AFTER),
        "of_slot": _OF_SLOT if first_page else _OF_SLOT_AFTER,
        "walk_most": _WALK_MOST,
        "tried": _TRIED,
        "hashed_most": _HASHED_MOST,
        "rest_most": _REST_MOST,
    }
    return _THREADS.format(**names, **parts)
