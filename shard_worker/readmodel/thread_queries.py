"""Queries about one thread, answered from the read model: while its owner does not serve it, or always, by the setting.

The answers are the owner's, of a moment that ``sequence_nr`` names.  Each query is one statement, so that access and content
are of the same moment.
"""

import asyncio
from typing import Final, assert_never

import asyncpg

from shard_worker.contract import (
    POISONED,
    AccountIdPage,
    Answer,
    Existence,
    ExistsThread,
    GetAdministratorIds,
    GetMemberIds,
    GetMessages,
    GetMessageWindow,
    LocateMessage,
    MessageLocation,
    Query,
    ReadThread,
    ThreadView,
    Unavailable,
    UnavailableCode,
)
from shard_worker.database.connection import ReadPool, Session
from shard_worker.domain.decide import DESTROYED, NOT_FOUND
from shard_worker.domain.ids import AccountId, ThreadId, ulid_uuid
from shard_worker.domain.refusals import Refusal
from shard_worker.readmodel.live_generation import LiveGeneration
from shard_worker.readmodel.message_pages import first_messages, messages_sql, text_of, window_of_messages, window_sql

_BEHIND_S: Final = 3.0
"""How long a query waits for the state that it asks for."""
_LOOK_EVERY_S: Final = 0.05
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
            if refused is None and rows[0]["sequence_nr"] >= max(wanted, _anchor_known_at(query, rows[0])):
                return await _answer(query, rows)
            if loop.time() >= deadline:
                return Unavailable(
                    UnavailableCode.READ_MODEL_BEHIND,
                    f"the read model is at {rows[0]['sequence_nr']} of the thread, before what the query needs",
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
                return await connection.fetch(messages_sql(names), *subject, query.limit + 1, offset, *place)
            case GetMessageWindow():
                anchor = None if query.anchor is None else ulid_uuid(query.anchor)
                place = (None, None) if query.place is None else query.place
                sql = window_sql(names, query.side)
                return await connection.fetch(sql, *subject, query.limit + 1, anchor, *place)
            case LocateMessage():
                return await connection.fetch(_LOCATE.format(**names), *subject, ulid_uuid(query.message_id))
            case _:
                assert_never(query)


def _refusal(rows: list[asyncpg.Record]) -> Refusal | Unavailable | None:
    """Why the account may not look at the thread, as the owner would say it."""
    if not rows or not rows[0]["readable"]:
        return NOT_FOUND
    if rows[0]["dead"]:
        return POISONED
    return None if rows[0]["destroyed_at"] is None else DESTROYED


def _anchor_known_at(query: Query, head: asyncpg.Record) -> int:
    """The event of the thread from which on an anchor that was not found is known never to have been a message."""
    if not isinstance(query, GetMessageWindow) or head["anchor_nr"] is not None:
        return 0
    newest: int = head["journal_nr"] or 0
    return newest


async def _answer(query: Query, rows: list[asyncpg.Record]) -> Answer:
    head = rows[0]
    match query:
        case ReadThread():
            return view_of(head)
        case GetAdministratorIds() | GetMemberIds():
            ids = tuple(AccountId(text_of(row["account_id"])) for row in rows if row["account_id"] is not None)
            return AccountIdPage(ids[: query.limit], len(ids) > query.limit, head["sequence_nr"])
        case GetMessages():
            return await first_messages(rows, query.limit)
        case GetMessageWindow():
            if head["anchor_nr"] is None:
                return MessageLocation(None, head["sequence_nr"])
            return await window_of_messages(rows, query.side, query.limit)
        case LocateMessage():
            place = None if head["place"] is None else (head["place"], head["index"])
            return MessageLocation(place, head["sequence_nr"])
        case _:
            raise TypeError(f"no answer to {type(query).__name__}")


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
