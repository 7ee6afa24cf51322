"""Read-model tables of any size, written by SQL as the projection would have: what queries cost on them is measured."""

from hashlib import md5
from typing import NamedTuple
from uuid import UUID

import asyncpg

from shard_worker.domain.ids import AccountId, MessageId, ThreadId, ulid_text, ulid_uuid
from tests.support.journal_writer import ANN, SHARDS

_MEMBER_EVERY = 20
"""Ann is in one of this number of threads."""

# Accounts, threads and messages have the MD5 of their number as id; threads beyond the usual ones are special.
_TABLES_SQL = (
    """
INSERT INTO readmodel_1.thread (thread_id, shard_id, sequence_nr, epoch, creator_id, title, remarks, created_at, updated_at,
                                activity_at)
SELECT id, shard_of(id, $2), 1 + $3, 1, md5('account 1')::uuid, 'title ' || n, repeat('r', n % 200), 1, n, hashint4(n)::bigint + 2^31
  FROM (SELECT n, md5('thread ' || n)::uuid AS id FROM generate_series(1, $1::int) n) made
""",
    """
INSERT INTO readmodel_1.thread_account (account_id, thread_id, administrator, member)
SELECT DISTINCT md5('account ' || (n * 7 + k * 13) % greatest($1 / 5, 10))::uuid, md5('thread ' || n)::uuid, false, true
  FROM generate_series(1, $1::int) n, generate_series(1, 3) k
""",
    """
INSERT INTO readmodel_1.thread_account (account_id, thread_id, administrator, member)
SELECT $2, md5('thread ' || n)::uuid, true, false FROM generate_series($3::int, $1::int, $3) n
""",
    """
INSERT INTO readmodel_1.thread_account (account_id, thread_id, administrator, member)
SELECT md5('account old')::uuid, thread_id, false, true
  FROM (SELECT thread_id FROM readmodel_1.thread ORDER BY activity_at LIMIT $1::int / $2::int) oldest
""",
    """
INSERT INTO readmodel_1.thread_account (account_id, thread_id, administrator, member)
SELECT md5('account every')::uuid, thread_id, false, true FROM readmodel_1.thread
""",
    """
INSERT INTO readmodel_1.thread_message (thread_id, sequence_nr, index, message_id, sender_id, body, to_account_ids, created_at, removed)
SELECT md5('thread ' || 1 + n % $1)::uuid, 2 + n / $1, 0, md5('message ' || n)::uuid,
       CASE WHEN n % 7 = 0 THEN $3 ELSE md5('account ' || n % 50)::uuid END, 'a message of a usual length, as sent ' || n,
       CASE WHEN n % 20 = 0 OR n % 20 = 19 THEN ARRAY[$3] END, 2 + n, n % 9 = 0
  FROM generate_series(0, $2::int - 1) n
""",
    """
INSERT INTO readmodel_1.thread_mention (account_id, created_at, thread_id, sequence_nr, index, message_id)
SELECT $1, created_at, thread_id, sequence_nr, index, message_id FROM readmodel_1.thread_message WHERE to_account_ids IS NOT NULL
""",
    """
INSERT INTO read_marker (thread_id, account_id, sequence_nr, index, message_id)
SELECT md5('thread ' || n)::uuid, CASE WHEN n % (2 * $3) = 0 THEN $2 ELSE md5('account 1')::uuid END, 4, 0, md5('')::uuid
  FROM generate_series(1, $1::int) n
""",
)
_SPECIAL_THREAD_SQL = """
INSERT INTO readmodel_1.thread (thread_id, shard_id, sequence_nr, epoch, creator_id, title, created_at, updated_at, activity_at)
SELECT id, shard_of(id, $2), 20000, 1, $3, 'special', 1, 1, 2^33::bigint FROM (SELECT md5($1)::uuid AS id) made
"""
_SPECIAL_ACCOUNTS_SQL = """
INSERT INTO readmodel_1.thread_account (account_id, thread_id, administrator, member)
SELECT account, md5($1)::uuid, false, true
  FROM (SELECT $3::uuid UNION ALL SELECT md5('account ' || n)::uuid FROM generate_series(1, $2::int) n) each (account)
"""
_SPECIAL_MESSAGES_SQL = """
INSERT INTO readmodel_1.thread_message (thread_id, sequence_nr, index, message_id, sender_id, body, created_at, removed)
SELECT md5($1)::uuid, 1 + n, 0, md5($1 || n)::uuid, CASE WHEN n <= $3 THEN md5('account ' || n)::uuid ELSE $4 END, 'text', n,
       n % $5::int <> 0
  FROM generate_series(1, $2::int) n
"""


class Size(NamedTuple):
    """How much is written."""

    threads: int
    messages: int
    special: int
    """Live messages, or members, of a special thread."""


GATE = Size(4_000, 40_000, 500)
SOAK = Size(100_000, 1_000_000, 5_000)


def special(name: str) -> ThreadId:
    """The id of a special thread."""
    return ThreadId(ulid_text(UUID(_md5(name)).bytes))


def _md5(text: str) -> str:
    return md5(text.encode(), usedforsecurity=False).hexdigest()


def message_of(thread: str, number: int) -> MessageId:
    """The id of a message of a special thread."""
    return MessageId(ulid_text(UUID(_md5(f"{thread}{number}")).bytes))


def account_of(name: int | str) -> AccountId:
    """The id of an account: of a number, or one of `fill`."""
    return AccountId(ulid_text(UUID(_md5(f"account {name}")).bytes))


async def fill(connection: asyncpg.Connection, size: Size) -> None:
    """Write the tables, with these threads of Ann beside the usual ones, by their newest activity:

    - ``own``: all messages are hers; ``marked``: half are others', which she has read, and the other half her own;
    - ``crowd``: as ``marked``, and each message that she has read is another account's;
    - ``removed``: nine of ten messages were removed; ``people``: twice as many members.

    The account ``old`` is in as many of the usual threads as Ann, those with the oldest activity; ``every`` is in all of them.
    """
    threads, messages, many = size
    ann = ulid_uuid(ANN)
    arguments = (
        (threads, SHARDS, messages // threads),
        (threads,),
        (threads, ann, _MEMBER_EVERY),
        (threads, _MEMBER_EVERY),
        (),
        (threads, messages, ann),
        (ann,),
        (threads, ann, _MEMBER_EVERY),
    )
    for sql, values in zip(_TABLES_SQL, arguments, strict=True):
        await connection.execute(sql, *values, timeout=600)
    for name, people, count, others, live_every in (
        ("own", 1, many, 0, 1),
        ("marked", 1, many, many // 2, 1),
        ("crowd", many, many, many * 9 // 10, 1),
        ("removed", 2, many * 10, many * 10, 10),
        ("people", 2 * many, 5, 0, 1),
    ):
        await connection.execute(_SPECIAL_THREAD_SQL, name, SHARDS, ann)
        await connection.execute(_SPECIAL_ACCOUNTS_SQL, name, people, ann)
        await connection.execute(_SPECIAL_MESSAGES_SQL, name, count, others, ann, live_every)
        if name in ("marked", "crowd"):
            await connection.execute(
                "INSERT INTO read_marker VALUES (md5($1)::uuid, $2, $3, 0, md5('')::uuid)", name, ann, others + 1
            )
    await connection.execute(
        "UPDATE readmodel_1.thread_message SET sender_id = md5('account 1')::uuid"
        " WHERE thread_id = md5('marked')::uuid AND sender_id <> $1",
        ann,
    )
    await connection.execute("VACUUM ANALYZE", timeout=600)
