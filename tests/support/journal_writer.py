"""Histories written into a real journal by plain SQL, as an owner would have: for tests that read them back."""

from collections.abc import Sequence
from uuid import UUID

import asyncpg
import msgspec
from ulid import ULID

from shard_worker.domain.events import (
    AdministratorIdsJoined,
    AdministratorIdsLeft,
    Event,
    MemberIdsJoined,
    MemberIdsLeft,
    MessagesAdded,
    MessagesRemoved,
    PostedMessage,
    ThreadCreated,
    ThreadDestroyed,
)
from shard_worker.domain.evolve import evolve
from shard_worker.domain.ids import AccountId, MessageId, ShardId, ThreadId, shard_of, ulid_uuid
from shard_worker.domain.thread import Thread
from shard_worker.journal.codec import STATE_VERSION, encode, encode_state

SHARDS = 8
INCARNATION = "01JZZZZZZZZZZZZZZZZZZZZZZZ"
ANN = AccountId("01JAAAAAAAAAAAAAAAAAAAAAAA")
BOB = AccountId("01JBBBBBBBBBBBBBBBBBBBBBBB")
ONE_MESSAGE = MessageId("01JMMMMMMMMMMMMMMMMMMMMMMM")


def new_thread(shard: int | None = None) -> ThreadId:
    """A fresh thread, on ``shard`` when given."""
    while True:
        thread_id = ThreadId(str(ULID()))
        if shard is None or shard_of(thread_id, SHARDS) == shard:
            return thread_id


def message_id() -> MessageId:
    """A fresh message id."""
    return MessageId(str(ULID()))


def created() -> ThreadCreated:
    """Ann opens a thread."""
    return ThreadCreated(
        creator_id=ANN,
        title="title",
        remarks=None,
        parent_thread_id=None,
        administrator_ids=(ANN,),
        member_ids=(),
        at=1,
        create_at=1,
    )


def posted(*ids: MessageId, by: AccountId = ANN, at: int = 2) -> MessagesAdded:
    """``by`` posts a message for each id, or one."""
    messages = tuple([PostedMessage(id, f"text of {id}") for id in ids or (message_id(),)])
    return MessagesAdded(sender_id=by, messages=messages, at=at, create_at=at)


def whole_life() -> list[Event]:
    """One event of every type, legal from creation to destruction."""
    kept, gone = message_id(), message_id()
    return [
        created(),
        MemberIdsJoined(adder_id=ANN, member_ids=(BOB,), at=2, create_at=2),
        posted(kept, gone, by=BOB, at=3),
        AdministratorIdsJoined(adder_id=ANN, administrator_ids=(BOB,), at=4, create_at=4),
        AdministratorIdsLeft(remover_id=BOB, administrator_ids=(ANN,), at=5, create_at=5),
        MessagesRemoved(remover_id=BOB, message_ids=(gone,), at=6, create_at=6),
        MemberIdsLeft(remover_id=BOB, member_ids=(BOB,), at=7, create_at=7),
        ThreadDestroyed(destroyer_id=BOB, at=8, create_at=8),
    ]


def folded(events: Sequence[Event]) -> Thread:
    """The state after ``events``."""
    state: Thread | None = None
    for seq_nr, event in enumerate(events, 1):
        state = evolve(state, event, seq_nr)
    assert state is not None
    return state


def encode_previous_state(state: Thread) -> bytes:
    """A snapshot of version 1, in which no message had a place."""
    fields = msgspec.to_builtins(state)
    fields[10] = {message_id: live[:6] for message_id, live in fields[10].items()}
    return msgspec.msgpack.encode(fields)


# Message 2k-1 is posted by event 2k-1 of the series and removed by the next; its id is its number.
_MANY_SQL = """
INSERT INTO journal (shard_id, shard_seq, thread_id, seq_nr, event_type, event_version, payload, metadata, epoch)
SELECT $1, $3 + n, $2, $4 + n, CASE WHEN n % 2 = 1 THEN 7 ELSE 8 END, 1,
       convert_to(CASE WHEN n % 2 = 1 THEN
           format('{"senderId":"%s","messages":[{"messageId":"%s","text":"a message of a usual length, as sent",'
                  '"replyMessageId":null,"toAccountIds":[]}],"at":%s,"createAt":1}',
                  $7::text, '01' || lpad(n::text, 24, '0'), n + 1)
       ELSE format('{"removerId":"%s","messageIds":["%s"],"at":%s,"createAt":1}',
                   $7::text, '01' || lpad((n - 1)::text, 24, '0'), n + 1) END, 'UTF8'),
       convert_to(format('{"commandId":"%s"}', md5($2::uuid::text || n)), 'UTF8'), $6
  FROM generate_series(1::bigint, $5::bigint) n
"""


_FILL_SQL = """
INSERT INTO journal (shard_id, shard_seq, thread_id, seq_nr, event_type, event_version, payload, metadata, epoch)
SELECT shard, row_number() OVER (PARTITION BY shard ORDER BY nr, thread), thread, nr,
       CASE WHEN nr = 1 THEN $3::int ELSE $5::int END, 1,
       CASE WHEN nr = 1 THEN $4::bytea
            ELSE convert_to(replace($6, $7, lpad((number * $2::bigint + nr)::text, 26, '0')), 'UTF8') END,
       convert_to(format('{"commandId":"%s"}', md5(number || '/' || nr)), 'UTF8'), 1
  FROM (SELECT number, md5(number::text)::uuid AS thread, shard_of(md5(number::text)::uuid, $8) AS shard
          FROM generate_series(1, $1::int) number) t, generate_series(1, $2::int) nr
"""


async def fill(connection: asyncpg.Connection, *, threads: int, events: int) -> int:
    """Write a journal of ``threads`` threads with ``events`` events each, by an owner that released its shards; its
    events.
    """
    await connection.execute("UPDATE shard SET epoch = 2")
    await connection.execute(
        "INSERT INTO shard_epoch (shard_id, epoch, worker, incarnation, from_seq, kind)"
        " SELECT id, 1, 'w', $1, 1, 'claim' FROM shard UNION ALL SELECT id, 2, NULL, NULL, NULL, 'release' FROM shard",
        INCARNATION,
    )
    creation, (kind, _, message) = encode(created()), encode(posted(ONE_MESSAGE))
    await connection.execute(
        *(_FILL_SQL, threads, events, creation[0], creation[2], kind, message.decode(), ONE_MESSAGE, SHARDS),
        timeout=600,
    )
    await connection.execute("ANALYZE journal")
    return threads * events


class JournalWriter:
    """Writes rows as an owner does: dense sequences, under a claimed epoch."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self._heads: dict[int, int] = {}
        self._last: dict[UUID, int] = {}
        self._epochs: dict[int, int] = {}

    async def claim(self, shard: int, *, incarnation: str | None = INCARNATION) -> int:
        """Raise the shard's epoch with its record, as a claim does; without ``incarnation``, as a release does."""
        epoch = self._epochs[shard] = self._epochs.get(shard, 0) + 1
        owner = None if incarnation is None else "w"
        await self.connection.execute(
            "UPDATE shard SET epoch = $2, owner = $3, incarnation = $4 WHERE id = $1", shard, epoch, owner, incarnation
        )
        await self.connection.execute(
            "INSERT INTO shard_epoch (shard_id, epoch, worker, incarnation, from_seq) VALUES ($1, $2, $3, $4, $5)",
            *(shard, epoch, owner, incarnation, None if incarnation is None else self._heads.get(shard, 0) + 1),
        )
        return epoch

    async def write(self, thread_id: ThreadId, *events: Event, key: bytes | None = None) -> ShardId:
        """Append events of one thread; ``key`` goes with the last.  Its shard."""
        shard, uuid = shard_of(thread_id, SHARDS), ulid_uuid(thread_id)
        if shard not in self._epochs:
            await self.claim(shard)
        for number, event in enumerate(events, 1):
            self._heads[shard] = self._heads.get(shard, 0) + 1
            self._last[uuid] = self._last.get(uuid, 0) + 1
            event_type, version, payload = encode(event)
            keyed = key if number == len(events) else None
            await self.connection.execute(
                "INSERT INTO journal (shard_id, shard_seq, thread_id, seq_nr, event_type, event_version, payload,"
                " metadata, key_hash, body_hash, epoch) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
                *(shard, self._heads[shard], uuid, self._last[uuid], event_type, version, payload),
                b'{"commandId":"%b"}' % ULID().hex.encode(),
                *(keyed, None if keyed is None else b"b" * 16, self._epochs[shard]),
            )
        return shard

    async def write_many(self, thread_id: ThreadId, events: int) -> None:
        """Append as many events as asked to a thread that Ann has created: she posts a message, then removes it."""
        shard, uuid = shard_of(thread_id, SHARDS), ulid_uuid(thread_id)
        await self.connection.execute(
            _MANY_SQL, shard, uuid, self._heads[shard], self._last[uuid], events, self._epochs[shard], ANN, timeout=600
        )
        self._heads[shard] += events
        self._last[uuid] += events

    async def snapshot(
        self, thread_id: ThreadId, state: Thread, *, seq_nr: int | None = None, version: int = STATE_VERSION
    ) -> None:
        """Keep a snapshot of ``state``, at its own sequence number or another, as this release or the one before."""
        await self.connection.execute(
            "INSERT INTO snapshot (shard_id, thread_id, seq_nr, state_version, state, event_metadata)"
            " VALUES ($1, $2, $3, $4, $5, coalesce((SELECT metadata FROM journal"
            " WHERE shard_id = $1 AND thread_id = $2 AND seq_nr = $3), 'none'))",
            *(shard_of(thread_id, SHARDS), ulid_uuid(thread_id)),
            *(state.sequence_nr if seq_nr is None else seq_nr, version),
            encode_state(state) if version == STATE_VERSION else encode_previous_state(state),
        )
