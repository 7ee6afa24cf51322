"""The read model is compared with the journal, repaired thread by thread, and rebuilt while it is in use."""

import asyncio
import math

import asyncpg
import pytest

from shard_worker.domain.ids import ShardId, ulid_uuid
from shard_worker.readmodel.rebuild import RebuildFailed, rebuild
from shard_worker.readmodel.status import read_status
from shard_worker.readmodel.verify import repair
from tests.readmodel.histories import in_order, stored_rows
from tests.readmodel.sessions import caught_up, heads
from tests.readmodel.written import Written
from tests.support.journal_writer import SHARDS, JournalWriter, created, new_thread, posted
from tests.support.polling import eventually


async def test_a_comparison_names_every_kind_of_damage_and_a_repair_mends_it(dsn: str) -> None:
    """A missing row, a changed one, one too many; nothing where nothing is wrong."""
    connection = await asyncpg.connect(dsn)
    written = Written(dsn, connection)
    written.updater.start()
    await written.append(120)
    await eventually(lambda: caught_up(connection), what="the journal is projected")
    assert await written.differences() == []
    thread = max(written.threads, key=lambda each: len(each.history))
    uuid = ulid_uuid(thread.thread_id)
    for damage, what in (
        ("UPDATE readmodel_1.thread SET title = 'x' WHERE thread_id = $1", "its row differs"),
        ("UPDATE readmodel_1.thread_message SET body = 'x' WHERE thread_id = $1", "its messages differ"),
        ("DELETE FROM readmodel_1.thread_message WHERE thread_id = $1", "its messages differ"),
        ("DELETE FROM readmodel_1.thread_mention WHERE thread_id = $1", "its mentions differ"),
        ("UPDATE readmodel_1.thread_account SET member = NOT member WHERE thread_id = $1", "its accounts differ"),
        ("DELETE FROM readmodel_1.thread WHERE thread_id = $1", "is missing"),
    ):
        await connection.execute(damage, uuid)
        assert await written.differences() == [what], damage
        assert await repair(connection, 1, uuid)
        assert await written.differences() == []
        assert await stored_rows(connection, thread.thread_id) == in_order(thread.rows())
    await connection.execute(
        "INSERT INTO readmodel_1.thread (thread_id, shard_id, sequence_nr, epoch, creator_id, created_at, updated_at, activity_at)"
        " SELECT $1, t.shard_id, t.sequence_nr, t.epoch, t.creator_id, 1, 1, 1 FROM readmodel_1.thread t LIMIT 1",
        ulid_uuid(new_thread()),
    )
    assert await written.differences() == ["is in the read model and not in the journal"]
    await written.updater.close()
    await connection.close()


async def test_a_rebuild_beside_appends_switches_to_tables_that_are_the_fold(dsn: str) -> None:
    """Ended in the middle it goes on; the old tables are gone afterwards; later events reach the new ones."""
    connection, other = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    written = Written(dsn, connection)
    written.updater.start()
    await written.append(150)
    reports: list[str] = []
    ended = asyncio.create_task(rebuild(other, keep_old=False, say=reports.append))
    await eventually(lambda: bool(reports), what="the rebuild has begun")
    ended.cancel()
    await asyncio.gather(ended, return_exceptions=True)
    other.terminate()
    other = await asyncpg.connect(dsn)
    again = asyncio.create_task(rebuild(other, keep_old=False, say=reports.append, rate=400_000))
    rates: set[float] = set()
    while not again.done():
        await written.append(5)
        await asyncio.sleep(0.01)
        rates |= {feed.rate for feed in written.updater._feeds.values()}
    assert await again == 2
    owned = len(written.updater._heads)
    assert math.inf in rates
    assert rates - {math.inf} <= {400_000.0 * count / SHARDS for count in range(1, owned + 1)}
    assert len(rates) >= 2, "the updater heard of the rate"
    assert await connection.fetchval("SELECT rate FROM readmodel_generation") is None
    assert "going on with generation 2" in reports
    assert await connection.fetchval("SELECT to_regnamespace('readmodel_1')") is None
    await written.append(30)

    async def followed() -> bool:
        rows = await connection.fetch("SELECT shard_id, seq FROM projection_offset WHERE generation = 2")
        reached = {row["shard_id"]: row["seq"] for row in rows}
        return all(reached[shard] == head for shard, head in (await heads(connection)).items())

    await eventually(followed, what="the new generation follows")
    assert await written.differences(2) == []
    for thread in written.threads:
        assert await stored_rows(connection, thread.thread_id, 2) == in_order(thread.rows())
    events = sum(len(thread.history) for thread in written.threads)
    assert await read_status(connection) == [f"generation 2 (version 1, live): {events} of {events} events projected"]
    await written.updater.close()
    await connection.close()
    await other.close()


async def test_a_rebuild_that_no_worker_feeds_says_so(dsn: str) -> None:
    """Instead of waiting for good; queries go on with the old tables."""
    connection = await asyncpg.connect(dsn)
    writer = JournalWriter(connection)
    thread_id = new_thread()
    shard = await writer.write(thread_id, created(), posted())
    await connection.execute("UPDATE projection_offset SET seq = 2 WHERE shard_id = $1", shard)
    with pytest.raises(RebuildFailed, match="no worker of this release feeds generation 2"):
        await rebuild(connection, keep_old=False, say=lambda _: None, wait_s=0.3)
    assert await connection.fetchval("SELECT generation FROM readmodel_generation WHERE live") == 1
    assert ShardId(shard) in (await heads(connection))
    await connection.close()
