"""Queries about one thread, answered from the read model: while its owner does not serve it, or always, by the setting.

The answers are the owner's, of a moment that ``sequence_nr`` names.  Each query is one statement, so that access and content
are of the same moment.
"""

import asyncio
from functools import partial
from typing import Final, assert_never

import asyncpg
from msgspec.structs import replace

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
from shard_worker.domain.decide import DESTROYED, NOT_FOUND
from shard_worker.domain.ids import AccountId, ThreadId, ulid_uuid
from shard_worker.domain.refusals import Refusal
from shard_worker.readmodel.message_pages import first_messages, messages_sql, text_of, window_of_messages, window_sql
from shard_worker.readmodel.sources import QuerySources, Reading

_BEHIND_S: Final = 3.0
"""How long a query waits for the state that it asks for."""
_LOOK_EVERY_S: Final = 0.05
# Parameters: the thread, the account.  Materialized: it is one row, whatever it is joined to.
_THREAD: Final = """
thread AS MATERIALIZED (
    SELECT {columns}, a.account_id IS NOT NULL AS readable,
           EXISTS (SELECT FROM dead_letter d WHERE d.generation = {generation} AND d.thread_id = t.thread_id) AS dead
      FROM {place}.thread t
      LEFT JOIN LATERAL (SELECT access.account_id FROM {place}.thread_account access
                          WHERE access.account_id = $2 AND access.thread_id = t.thread_id AND access.until_nr IS NULL
                          LIMIT 1) AS a ON true
     WHERE t.thread_id = $1
)"""
_OF_A_PAGE: Final = "t.thread_id, t.shard_id, t.sequence_nr, t.epoch, t.destroyed_at"
"""Columns of a thread beside each item of a page of it: those that every answer needs."""
_READ: Final = "WITH {thread} SELECT * FROM thread"
_ACCOUNTS: Final = """
WITH {thread}
SELECT thread.*, page.account_id
  FROM thread LEFT JOIN LATERAL (
       SELECT a.account_id FROM {place}.thread_account a
        WHERE a.thread_id = thread.thread_id AND a.{role} AND {after}
        ORDER BY a.account_id LIMIT $3 OFFSET $4
  ) AS page ON thread.readable
 ORDER BY page.account_id
"""
_LOCATE: Final = """
WITH {thread}
SELECT thread.*, m.sequence_nr AS place, m.index
  FROM thread LEFT JOIN LATERAL (
       SELECT m.sequence_nr, m.index FROM {place}.thread_message m
        WHERE m.thread_id = thread.thread_id AND m.message_id = $3 AND NOT m.removed LIMIT 1) AS m ON true
"""

_NEWEST: Final = """
SELECT seq_nr FROM journal
 WHERE shard_id = shard_of($1, (SELECT shards FROM meta)) AND thread_id = $1 ORDER BY seq_nr DESC LIMIT 1
"""


class ThreadQueries:
    """Answers a `Query` from the live generation.

    Raises `shard_worker.database.connection.CONNECTION_ERRORS` when the database does not answer.
    """

    def __init__(self, sources: QuerySources) -> None:
        self._sources = sources

    async def answer(self, query: Query) -> Answer:
        """The answer as the read model has it; one that asks for a later state waits for it, for at most 3 s."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _BEHIND_S
        wanted = 0 if isinstance(query, ExistsThread | LocateMessage) else query.min_sequence_nr
        first, known_at = True, None
        while True:
            # A replica is asked once: the primary may have what the replica does not have yet.
            rows, of_replica = await self._sources.run(partial(_read, query), primary=not first)
            first = False
            refused = _refusal(rows)
            if refused is not None and of_replica:
                continue  # the primary may show what the replica does not yet: no refusal is a replica's alone
            if isinstance(query, ExistsThread):
                return Existence(refused is None)
            known_nr: int = rows[0]["sequence_nr"] if rows else 0
            # The caller may have been let in by an event that the tables do not have yet.
            if refused is not None and (refused is not NOT_FOUND or known_nr >= wanted):
                return refused
            if refused is not None and loop.time() >= deadline:
                if await self._sources.run(partial(_newest, query.thread_id), primary=True) <= known_nr:
                    return refused
                return _behind(known_nr)
            if refused is None:
                # As of the first look at the primary: on a busy thread the newest event is always ahead of the read model.
                if known_at is None or known_at[1]:
                    known_at = _anchor_known_at(query, rows[0], of_replica), of_replica
                found = isinstance(query, GetMessageWindow) and rows[0]["anchor_nr"] is not None
                if known_nr >= max(wanted, 0 if found else known_at[0]):
                    return await _answer(query, rows)
                if loop.time() >= deadline:
                    return _behind(known_nr)
            if not of_replica:
                await asyncio.sleep(_LOOK_EVERY_S)


def _behind(known_nr: int) -> Unavailable:
    return Unavailable(
        UnavailableCode.READ_MODEL_BEHIND,
        f"the read model is at {known_nr} of the thread, before what the query needs",
    )


async def _newest(thread_id: ThreadId, reading: Reading) -> int:
    """The number of the thread's newest event in the journal; 0 where there is no such thread."""
    return await reading.connection.fetchval(_NEWEST, ulid_uuid(thread_id)) or 0


async def _read(query: Query, reading: Reading) -> tuple[list[asyncpg.Record], bool]:
    """The rows that the answer is made of, at least one where there is such a thread; and whether a replica gave them."""
    sql, arguments = _statement(query, reading.names)
    subject = ulid_uuid(query.thread_id), ulid_uuid(query.account_id)
    return await reading.connection.fetch(sql, *subject, *arguments), reading.of_replica


def _statement(query: Query, names: dict[str, object]) -> tuple[str, tuple[object, ...]]:
    """The statement, and its parameters beside thread and account."""
    columns = "t.*" if isinstance(query, ReadThread) else _OF_A_PAGE
    names = {**names, "thread": _THREAD.format(**names, columns=columns)}
    match query:
        case ReadThread() | ExistsThread():
            return _READ.format(**names), ()
        case GetAdministratorIds() | GetMemberIds():
            role = "administrator" if isinstance(query, GetAdministratorIds) else "member"
            if query.after is None:
                return _ACCOUNTS.format(**names, role=role, after="true"), (query.limit + 1, query.offset)
            sql = _ACCOUNTS.format(**names, role=role, after="a.account_id > $5::uuid")
            return sql, (query.limit + 1, 0, ulid_uuid(query.after))
        case GetMessages():
            offset = query.offset if query.after is None else 0
            return messages_sql(names), (query.limit + 1, offset, *(query.after or (None, None)))
        case GetMessageWindow():
            anchor = None if query.anchor is None else ulid_uuid(query.anchor)
            return window_sql(names, query.side), (query.limit + 1, anchor, *(query.place or (None, None)))
        case LocateMessage():
            return _LOCATE.format(**names), (ulid_uuid(query.message_id),)
        case _:
            assert_never(query)


def _refusal(rows: list[asyncpg.Record]) -> Refusal | Unavailable | None:
    """Why the account may not look at the thread, as the owner would say it."""
    if not rows or not rows[0]["readable"]:
        return NOT_FOUND
    if rows[0]["dead"]:
        return POISONED
    return None if rows[0]["destroyed_at"] is None else DESTROYED


def _anchor_known_at(query: Query, head: asyncpg.Record, of_replica: bool) -> int:
    """The event of the thread from which on an anchor that was not found is known never to have been a message.

    A replica does not know it: the newest event in its journal need not be the thread's.
    """
    if not isinstance(query, GetMessageWindow) or head["anchor_nr"] is not None:
        return 0
    newest: int = (head["journal_nr"] or 0) + of_replica
    return newest


async def _answer(query: Query, rows: list[asyncpg.Record]) -> Answer:
    head = rows[0]
    match query:
        case ReadThread():
            return replace(view_of(head), epoch=head["epoch"])
        case GetAdministratorIds() | GetMemberIds():
            ids = tuple(AccountId(text_of(row["account_id"])) for row in rows if row["account_id"] is not None)
            return AccountIdPage(ids[: query.limit], len(ids) > query.limit, head["sequence_nr"], head["epoch"])
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
