"""Queries about one thread, answered from the read model: while its owner does not serve it, or always, by the setting.

The answers are the owner's, of a moment that ``sequence_nr`` names.  Each query is one statement, so that access and content
are of the same moment.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final, assert_never
from uuid import UUID

import asyncpg
from msgspec.structs import replace

from shard_worker.contract import (
    AccountIdPage,
    Answer,
    Existence,
    ExistsThread,
    GetAdministratorIds,
    GetMemberIds,
    GetMessages,
    LocateMessage,
    MessageLocation,
    MessagePage,
    MessageView,
    Query,
    ReadThread,
    ThreadView,
    Unavailable,
    UnavailableCode,
)
from shard_worker.database.connection import ReadPool, Session
from shard_worker.domain.decide import DESTROYED, NOT_FOUND
from shard_worker.domain.events import PostedMessage, encoded_size
from shard_worker.domain.ids import AccountId, MessageId, ThreadId, ulid_text, ulid_uuid
from shard_worker.domain.refusals import Refusal
from shard_worker.journal.answer_size import FRAME_BYTES, PAGE_BYTES, listed_size
from shard_worker.readmodel.live_generation import LiveGeneration

_BEHIND_S: Final = 3.0
"""How long a query waits for the state that it asks for."""
_LOOK_EVERY_S: Final = 0.05
_POISONED: Final = Unavailable(
    UnavailableCode.THREAD_POISONED, "this thread's history cannot be read by this release", retry_after_s=30.0
)

_THREAD: Final = """
thread AS (
    SELECT t.*, a.account_id IS NOT NULL AS readable,
           EXISTS (SELECT FROM dead_letter d WHERE d.generation = {generation} AND d.thread_id = t.thread_id) AS dead
      FROM {place}.thread t
      LEFT JOIN {place}.thread_account a ON a.account_id = $2 AND a.thread_id = t.thread_id AND a.until_nr IS NULL
     WHERE t.thread_id = $1
)"""
_READ: Final = "WITH {thread} SELECT * FROM thread"
_ACCOUNTS: Final = """
WITH {thread}
SELECT thread.*, page.account_id
  FROM thread LEFT JOIN LATERAL (
       SELECT a.account_id FROM {place}.thread_account a
        WHERE a.thread_id = thread.thread_id AND a.{role} AND ($5::uuid IS NULL OR a.account_id > $5)
        ORDER BY a.account_id LIMIT $3 OFFSET $4
  ) AS page ON thread.readable
 ORDER BY page.account_id
"""
_MESSAGES: Final = """
WITH {thread}
SELECT thread.*, page.*
  FROM thread LEFT JOIN LATERAL (
       SELECT * FROM (
           SELECT found.*, count(*) OVER () AS matched,
                  sum({bytes}) OVER (ORDER BY place, index) - ({bytes}) AS before
             FROM (
                  SELECT m.message_id, m.sequence_nr AS place, m.index, m.sender_id, m.body, m.reply_message_id,
                         m.to_account_ids, m.created_at AS posted_at
                    FROM {place}.thread_message m
                   WHERE m.thread_id = thread.thread_id AND NOT m.removed
                     AND (m.sequence_nr, m.index) > (coalesce($5::bigint, 0), coalesce($6::smallint, -1))
                   ORDER BY m.sequence_nr, m.index LIMIT $3 OFFSET $4
                  ) AS found
           ) AS sized
        WHERE before < {most_bytes}
  ) AS page ON thread.readable
 ORDER BY page.place, page.index
"""
MESSAGE_BYTES: Final = "octet_length(coalesce(body, '')) + 29 * coalesce(cardinality(to_account_ids), 0)"
"""About how many bytes a message takes in an answer, in SQL: a page is cut before its rows are sent."""
_TURN_IDS: Final = 2_000
"""Addressees after which the making of a page lets the loop turn."""
_LOCATE: Final = """
WITH {thread}
SELECT thread.*, m.sequence_nr AS place, m.index
  FROM thread LEFT JOIN {place}.thread_message m
    ON m.thread_id = thread.thread_id AND m.message_id = $3 AND NOT m.removed
"""


class ThreadQueries:
    """Answers a `Query` from the live generation.

    Raises `shard_worker.database.connection.CONNECTION_ERRORS` when the database does not answer.
    """

    def __init__(self, pool: ReadPool, live: LiveGeneration) -> None:
        self._pool = pool
        self._live = live

    async def answer(self, query: Query) -> Answer:
        """The answer as the read model has it; one that asks for a later state waits for it, for at most 3 s."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _BEHIND_S
        wanted = 0 if isinstance(query, ExistsThread | LocateMessage) else query.min_sequence_nr
        while True:
            rows = await self._pool.run(lambda connection: self._read(connection, query))
            refused = _refusal(rows)
            if isinstance(query, ExistsThread):
                return Existence(refused is None)
            if refused is not None and (refused is not NOT_FOUND or not wanted or loop.time() >= deadline):
                return refused
            if refused is None and rows[0]["sequence_nr"] >= wanted:
                return await _page(query, rows) if isinstance(query, GetMessages) else _answer(query, rows)
            if loop.time() >= deadline:
                return Unavailable(
                    UnavailableCode.READ_MODEL_BEHIND,
                    f"the read model is at {rows[0]['sequence_nr']}, before min_sequence_nr",
                )
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _read(self, connection: Session, query: Query) -> list[asyncpg.Record]:
        names = await self._live.names(connection)
        names["thread"] = _THREAD.format(**names)
        subject = ulid_uuid(query.thread_id), ulid_uuid(query.account_id)
        match query:
            case ReadThread() | ExistsThread():
                return await connection.fetch(_READ.format(**names), *subject)
            case GetAdministratorIds() | GetMemberIds():
                role = "administrator" if isinstance(query, GetAdministratorIds) else "member"
                after = None if query.after is None else ulid_uuid(query.after)
                offset = query.offset if after is None else 0
                sql = _ACCOUNTS.format(**names, role=role)
                return await connection.fetch(sql, *subject, query.limit + 1, offset, after)
            case GetMessages():
                place = (None, None) if query.after is None else query.after
                offset = query.offset if query.after is None else 0
                sql = _MESSAGES.format(**names, bytes=MESSAGE_BYTES, most_bytes=PAGE_BYTES)
                return await connection.fetch(sql, *subject, query.limit + 1, offset, *place)
            case LocateMessage():
                return await connection.fetch(_LOCATE.format(**names), *subject, ulid_uuid(query.message_id))
            case _:
                assert_never(query)


def _refusal(rows: list[asyncpg.Record]) -> Refusal | Unavailable | None:
    """Why the account may not look at the thread, as the owner would say it."""
    if not rows or not rows[0]["readable"]:
        return NOT_FOUND
    if rows[0]["dead"]:
        return _POISONED
    return None if rows[0]["destroyed_at"] is None else DESTROYED


def _answer(query: Query, rows: list[asyncpg.Record]) -> Answer:
    head = rows[0]
    match query:
        case ReadThread():
            return replace(view_of(head), epoch=head["epoch"])
        case GetAdministratorIds() | GetMemberIds():
            ids = tuple(AccountId(text_of(row["account_id"])) for row in rows if row["account_id"] is not None)
            return AccountIdPage(ids[: query.limit], len(ids) > query.limit, head["sequence_nr"], head["epoch"])
        case LocateMessage():
            place = None if head["place"] is None else (head["place"], head["index"])
            return MessageLocation(place, head["sequence_nr"])
        case _:
            raise TypeError(f"no answer to {type(query).__name__}")


async def _page(query: GetMessages, rows: list[asyncpg.Record]) -> MessagePage:
    """As many messages as the answer may have bytes for, and at least one."""
    head = rows[0]
    if head["message_id"] is None:
        return MessagePage((), False, head["sequence_nr"], head["epoch"])
    kept: list[MessageView] = []
    size = FRAME_BYTES
    async for message in messages_of(rows[: query.limit], "place", "posted_at"):
        posted = PostedMessage(message.message_id, message.text, message.reply_message_id, message.to_account_ids)
        size += listed_size(message.created_at, message.sequence_nr, encoded_size(posted))
        if kept and size > PAGE_BYTES:
            break
        kept.append(message)
    return MessagePage(tuple(kept), len(kept) < head["matched"], head["sequence_nr"], head["epoch"])


async def messages_of(rows: Sequence[asyncpg.Record], place: str, created_at: str) -> AsyncIterator[MessageView]:
    """Rows of the table thread_message, whose place and time have these names; the loop turns in between."""
    made = 0
    for row in rows:
        message = message_of(row, row[place], row[created_at])
        made += 1 + len(message.to_account_ids)
        if made > _TURN_IDS:
            made = 0
            await asyncio.sleep(0)
        yield message


def view_of(row: asyncpg.Record) -> ThreadView:
    """A row of the table thread."""
    parent = row["parent_thread_id"]
    return ThreadView(
        thread_id=ThreadId(text_of(row["thread_id"])),
        creator_id=AccountId(text_of(row["creator_id"])),
        parent_thread_id=None if parent is None else ThreadId(text_of(parent)),
        title=row["title"],
        remarks=row["remarks"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        sequence_nr=row["sequence_nr"],
    )


def message_of(row: asyncpg.Record, sequence_nr: int, created_at: int) -> MessageView:
    """A row of the table thread_message, whose place and time may stand under other names."""
    reply = row["reply_message_id"]
    return MessageView(
        message_id=MessageId(text_of(row["message_id"])),
        sender_id=AccountId(text_of(row["sender_id"])),
        text=row["body"],
        reply_message_id=None if reply is None else MessageId(text_of(reply)),
        to_account_ids=tuple(AccountId(text_of(each)) for each in row["to_account_ids"] or ()),
        created_at=created_at,
        updated_at=created_at,
        sequence_nr=sequence_nr,
        index=row["index"],
    )


def text_of(stored: UUID) -> str:
    """An id as clients see it."""
    return ulid_text(stored.bytes)
