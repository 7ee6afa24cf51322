"""Compares the read model with a fresh fold of the journal, thread by thread, while workers write both.

Each page of threads is read in one snapshot: a thread is folded as far as its row says, and every row of it must be what the fold
gives.  A thread whose projection has stopped is compared as far as it got, and named.
"""

import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final
from uuid import UUID

import asyncpg

from shard_worker.domain.ids import ulid_text, ulid_uuid
from shard_worker.journal import codec
from shard_worker.journal.codec import UndecodableEvent
from shard_worker.readmodel.projection import Changes, Head, StoredEvent
from shard_worker.readmodel.tables import GenerationTables, tables_of

_PAGE: Final = 20
"""Threads compared in one snapshot, whose events are in memory at once."""
_EVENTS_MOST: Final = 1_000
"""Events that a repair reads at once."""
_SAY_EVERY: Final = 50
"""Pages between two reports of progress."""

_IS_STORED: Final = """
SELECT EXISTS (SELECT FROM journal WHERE shard_id = (SELECT shard_of($1, shards) FROM meta) AND thread_id = $1)
"""
_SHARDS: Final = "SELECT id FROM shard ORDER BY id"
_THREADS: Final = """
WITH RECURSIVE t AS (
    (SELECT thread_id, 1 AS n FROM journal WHERE shard_id = $1 AND thread_id > $2 ORDER BY thread_id LIMIT 1)
    UNION ALL
    SELECT (SELECT j.thread_id FROM journal j WHERE j.shard_id = $1 AND j.thread_id > t.thread_id
             ORDER BY j.thread_id LIMIT 1), t.n + 1
      FROM t WHERE t.thread_id IS NOT NULL AND t.n < $3
)
SELECT thread_id FROM t WHERE thread_id IS NOT NULL
"""
_EVENTS: Final = """
SELECT thread_id, seq_nr, shard_seq, event_type, event_version, payload, epoch, xid::text AS xid
  FROM journal WHERE shard_id = $1 AND thread_id = ANY($2::uuid[]) ORDER BY thread_id, seq_nr
"""
_ORPHANS: Final = """
SELECT t.thread_id FROM {place}.thread t
 WHERE t.shard_id = $1
   AND NOT EXISTS (SELECT FROM journal j WHERE j.shard_id = $1 AND j.thread_id = t.thread_id)
 ORDER BY t.thread_id
"""
_THREAD_ROWS: Final = """
SELECT thread_id, sequence_nr, epoch, creator_id, parent_thread_id, title, remarks, created_at, updated_at, activity_at,
       destroyed_at
  FROM {place}.thread WHERE thread_id = ANY($1::uuid[])
"""
_ACCOUNT_ROWS: Final = """
SELECT thread_id, account_id, administrator, member, until_nr
  FROM {place}.thread_account WHERE thread_id = $1 ORDER BY account_id
"""
_MESSAGE_ROWS: Final = """
SELECT sequence_nr, index, message_id, sender_id, body, reply_message_id, to_account_ids, created_at, removed
  FROM {place}.thread_message WHERE thread_id = $1 AND NOT removed
 UNION ALL
SELECT sequence_nr, index, message_id, sender_id, body, reply_message_id, to_account_ids, created_at, removed
  FROM {place}.thread_message WHERE thread_id = $1 AND removed
 ORDER BY sequence_nr, index
"""
_MENTION_ROWS: Final = """
SELECT account_id, created_at, sequence_nr, index, message_id
  FROM {place}.thread_mention WHERE thread_id = $1 ORDER BY sequence_nr, index, account_id
"""
_PATIENCE: Final = "SET LOCAL idle_in_transaction_session_timeout = '5min'"
"""For a snapshot in which a page of threads is folded: a session's own 2 s are for locks, and a long history takes longer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """One thread whose rows are not what its events give."""

    shard_id: int
    thread_id: str
    what: str

    def __str__(self) -> str:
        return f"shard {self.shard_id}, thread {self.thread_id}: {self.what}"


async def verify(
    connection: asyncpg.Connection, generation: int, *, say: Callable[[str], None]
) -> AsyncIterator[Difference]:
    """Every thread that differs.  Raises `UnknownVersionError` and asyncpg's errors; a run that failed may simply be made again."""
    tables = await tables_of(connection, generation)
    shards = [row["id"] for row in await connection.fetch(_SHARDS)]
    compared = pages = 0
    for shard_id in shards:
        for row in await connection.fetch(_ORPHANS.format(place=tables.place), shard_id):
            yield Difference(shard_id, _name(row["thread_id"]), "is in the read model and not in the journal")
        after = UUID(int=0)
        while thread_ids := [row["thread_id"] for row in await connection.fetch(_THREADS, shard_id, after, _PAGE)]:
            after = thread_ids[-1]
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                await connection.execute(_PATIENCE)
                found = await _compare(connection, tables, shard_id, thread_ids)
            for difference in found:
                yield difference
            compared += len(thread_ids)
            pages += 1
            if pages % _SAY_EVERY == 0:
                say(f"{compared} threads compared, shard {shard_id} of {len(shards)}")
    say(f"{compared} threads compared")


async def _compare(
    connection: asyncpg.Connection, tables: GenerationTables, shard_id: int, thread_ids: Sequence[UUID]
) -> list[Difference]:
    """The differing threads of a page, in one snapshot."""
    offset = (await tables.positions(connection, [shard_id])).get(shard_id, 0)
    dead = (await tables.dead_threads(connection, [shard_id])).get(shard_id, set())
    rows = {
        row["thread_id"]: row for row in await connection.fetch(_THREAD_ROWS.format(place=tables.place), thread_ids)
    }
    events: dict[UUID, list[asyncpg.Record]] = {thread_id: [] for thread_id in thread_ids}
    async for event in connection.cursor(_EVENTS, shard_id, list(thread_ids), prefetch=1_000):
        events[event["thread_id"]].append(event)
    found: list[Difference] = []
    for thread_id, history in events.items():
        reached = [each for each in history if each["shard_seq"] <= offset]
        if thread_id in dead:
            at = await tables.dead_at(connection, thread_id) or 1
            reached = [each for each in reached if each["seq_nr"] < at]
            found.append(
                Difference(shard_id, _name(thread_id), f"has stopped at event {at}, which cannot be projected")
            )
        what = await _difference(connection, tables, thread_id, rows.get(thread_id), reached)
        if what is not None:
            found.append(Difference(shard_id, _name(thread_id), what))
    return found


async def _difference(
    connection: asyncpg.Connection,
    tables: GenerationTables,
    thread_id: UUID,
    row: asyncpg.Record | None,
    history: Sequence[asyncpg.Record],
) -> str | None:
    """How a thread's rows differ from the fold of ``history``, or None."""
    changes = tables.new_changes()
    try:
        for each in history:
            xid = None if each["xid"] is None else int(each["xid"])
            event = codec.decode(each["event_type"], each["event_version"], each["payload"])
            changes.add(StoredEvent(0, thread_id, each["seq_nr"], each["epoch"], xid, event))
    except UndecodableEvent as error:
        return f"event {each['seq_nr']} cannot be read, and the projection passed it: {error}"
    head = changes.threads.get(thread_id)
    if head is None:
        return None if row is None else "is in the read model before its first event was projected"
    if row is None:
        return "is missing"
    if tuple(row)[1:] != _thread_row(head):
        return "its row differs"
    for what, sql, wanted in (
        ("its accounts differ", _ACCOUNT_ROWS, _account_rows(changes)),
        ("its messages differ", _MESSAGE_ROWS, _message_rows(changes)),
        ("its mentions differ", _MENTION_ROWS, _mention_rows(changes)),
    ):
        stored = await connection.fetch(sql.format(place=tables.place), thread_id)
        if [tuple(each) for each in stored] != wanted:
            return what
    return None


def _thread_row(head: Head) -> tuple[object, ...]:
    created = head.created
    assert created is not None  # a history begins with its creation
    return (
        head.sequence_nr,
        head.epoch,
        ulid_uuid(created.creator_id),
        None if created.parent_thread_id is None else ulid_uuid(created.parent_thread_id),
        created.title,
        created.remarks,
        created.at,
        head.updated_at,
        head.activity_at,
        head.destroyed_at,
    )


def _account_rows(changes: Changes) -> list[tuple[object, ...]]:
    return sorted(
        (
            thread_id,
            ulid_uuid(account_id),
            bool(change.administrator),
            bool(change.member),
            None if change.administrator or change.member else change.seq_nr,
        )
        for (thread_id, account_id), change in changes.accounts.items()
    )


def _message_rows(changes: Changes) -> list[tuple[object, ...]]:
    return [
        (
            each.sequence_nr,
            each.index,
            ulid_uuid(each.message_id),
            ulid_uuid(each.sender_id),
            each.body,
            None if each.reply_message_id is None else ulid_uuid(each.reply_message_id),
            [ulid_uuid(account_id) for account_id in each.to_account_ids] or None,
            each.created_at,
            each.removed,
        )
        for each in changes.messages
    ]


def _mention_rows(changes: Changes) -> list[tuple[object, ...]]:
    return sorted(
        (
            (ulid_uuid(each.account_id), each.created_at, each.sequence_nr, each.index, ulid_uuid(each.message_id))
            for each in changes.mentions
        ),
        key=lambda row: (row[2], row[3], row[0]),
    )


def _name(thread_id: UUID) -> str:
    return ulid_text(thread_id.bytes)


async def is_stored(connection: asyncpg.Connection, thread_id: UUID) -> bool:
    """Whether the journal has events of a thread."""
    found: bool = await connection.fetchval(_IS_STORED, thread_id)
    return found


async def repair(connection: asyncpg.Connection, generation: int, thread_id: UUID) -> bool:
    """Project one thread afresh, as far as its shard is projected; False when its shard's offset is held right now.

    The rows are replaced in one transaction, under the offset's lock: no query sees the thread without them.
    """
    tables = await tables_of(connection, generation)
    shard_id = await connection.fetchval("SELECT shard_of($1, shards) FROM meta", thread_id)
    async with connection.transaction():
        offset = await tables.hold(connection, shard_id)
        if offset is None:
            return False
        await tables.delete_thread(connection, thread_id)
        await tables.unbury(connection, thread_id)
        from_nr = 1
        while rows := await tables.events_of(connection, shard_id, thread_id, from_nr, offset, _EVENTS_MOST):
            changes = tables.new_changes()
            for row in rows:
                try:
                    event = codec.decode(row.event_type, row.event_version, row.payload)
                except UndecodableEvent as error:
                    await tables.write(connection, changes)
                    await tables.bury(connection, [(shard_id, row, str(error))])
                    return True
                changes.add(StoredEvent(shard_id, thread_id, row.seq_nr, row.epoch, row.xid, event))
            await tables.write(connection, changes)
            from_nr = rows[-1].seq_nr + 1
    return True
