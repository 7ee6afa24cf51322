"""How many rows of the read model an event writes: a message costs the same in a thread of two members and of ten thousand."""

import asyncpg
import pytest
from ulid import ULID

from shard_worker.domain.events import MemberIdsJoined, MessagesAdded, PostedMessage
from shard_worker.domain.ids import AccountId, ShardId
from shard_worker.readmodel.updater import ReadModelUpdater
from tests.readmodel.sessions import caught_up, connecting, heads
from tests.support.journal_writer import ANN, JournalWriter, created, message_id, new_thread
from tests.support.polling import eventually

_JOINED_AT_ONCE = 1_000
# Of the whole database: a table that is added later counts too.  The writer of the test writes these.
_WRITTEN_SQL = """
SELECT relname, n_tup_ins + n_tup_upd + n_tup_del AS rows FROM pg_stat_user_tables
 WHERE relname NOT IN ('journal', 'shard', 'shard_epoch') AND n_tup_ins + n_tup_upd + n_tup_del > 0
"""
_OTHERS_SQL = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


async def _projected(dsn: str, connection: asyncpg.Connection) -> dict[str, int]:
    """Project what there is by a session of its own; the rows that were written so far, by table.

    A session reports its counts at its end.
    """
    updater = ReadModelUpdater(connecting(dsn))
    for shard, head in (await heads(connection)).items():
        updater.open_shard(ShardId(shard), head)
    updater.start()
    await eventually(lambda: caught_up(connection), what="the journal is projected")
    await updater.close()

    async def alone() -> bool:
        return bool(await connection.fetchval(_OTHERS_SQL) == 0)

    await eventually(alone, what="the updater's session has ended")
    return {row["relname"]: row["rows"] for row in await connection.fetch(_WRITTEN_SQL)}


@pytest.mark.parametrize("members", [1, 10_000])
@pytest.mark.parametrize("mentions", [0, 3])
async def test_a_message_writes_few_rows_however_many_members_the_thread_has(
    dsn: str, members: int, mentions: int
) -> None:
    """One of the thread, one of the message, and the shard's offset; and one of each account that it names."""
    connection = await asyncpg.connect(dsn)
    writer = JournalWriter(connection)
    thread = new_thread(3)
    ids = [AccountId(str(ULID())) for _ in range(members)]
    joins = [
        MemberIdsJoined(adder_id=ANN, member_ids=tuple(ids[first : first + _JOINED_AT_ONCE]), at=2, create_at=2)
        for first in range(0, members, _JOINED_AT_ONCE)
    ]
    await writer.write(thread, created(), *joins)
    before = await _projected(dsn, connection)
    assert before["thread_account"] >= members

    message = PostedMessage(message_id(), "hello", None, tuple(ids[:mentions]))
    await writer.write(thread, MessagesAdded(sender_id=ANN, messages=(message,), at=3, create_at=3))
    after = await _projected(dsn, connection)
    written = {name: rows - before.get(name, 0) for name, rows in after.items() if rows != before.get(name, 0)}
    assert written.pop("thread_mention", 0) == len(message.to_account_ids)
    assert written == {"thread": 1, "thread_message": 1, "projection_offset": 1}
    await connection.close()
