"""The overview of the read model that every worker shows: threads that have stopped, and a rebuild under way."""

import asyncpg
import msgspec

from shard_worker.contract_internal import DEAD_THREADS_MOST, ReadModelOverview, RebuildProgress
from shard_worker.domain.ids import ShardId, ulid_uuid
from shard_worker.readmodel.overview import NEARLY_EVENTS, read_overview
from shard_worker.readmodel.rebuild import rebuild
from shard_worker.readmodel.updater import ReadModelUpdater
from tests.readmodel.sessions import caught_up, connecting
from tests.support.journal_writer import SHARDS, JournalWriter, created, new_thread, posted
from tests.support.polling import eventually

_DEAD = "INSERT INTO dead_letter VALUES (1, $1, $2, 7, 6, 9, $3)"


async def test_threads_that_have_stopped_are_named_and_the_list_is_bounded(dsn: str) -> None:
    """With shard, number and reason; by every worker, one that owns nothing too."""
    connection = await asyncpg.connect(dsn)
    assert await read_overview(connection) == ReadModelOverview()
    thread = new_thread(5)
    await connection.execute(_DEAD, 5, ulid_uuid(thread), "no such event")
    [dead] = (await read_overview(connection)).dead_threads
    assert msgspec.to_builtins(dead) == {
        "threadId": thread,
        "shard": 5,
        "sequenceNr": 7,
        "eventType": 6,
        "eventVersion": 9,
        "reason": "no such event",
        "generation": 1,
    }
    updater = ReadModelUpdater(connecting(dsn))  # owns no shard
    updater.start()
    await eventually(lambda: updater.overview.dead_threads == (dead,), what="a worker names the thread")
    await connection.executemany(
        _DEAD, [(number % SHARDS, ulid_uuid(new_thread()), "x" * 10_000) for number in range(DEAD_THREADS_MOST)]
    )
    found = await read_overview(connection)
    assert len(found.dead_threads) == DEAD_THREADS_MOST
    assert found.more_dead_threads
    assert len(msgspec.json.encode(found)) < 60_000
    await updater.close()
    await connection.close()


async def test_a_rebuild_is_shown_with_its_progress_until_the_switch(dsn: str) -> None:
    """Shards that are all but level count as done; tables that were in use before are no rebuild."""
    connection = await asyncpg.connect(dsn)
    writer = JournalWriter(connection)
    await writer.write(new_thread(1), created(), *[posted() for _ in range(2 * NEARLY_EVENTS)])
    await writer.write(new_thread(2), created(), posted())
    updater = ReadModelUpdater(connecting(dsn))
    for shard, head in ((1, 2 * NEARLY_EVENTS + 1), (2, 2)):
        updater.open_shard(ShardId(shard), head)
    updater.start()
    await eventually(lambda: caught_up(connection), what="the journal is projected")
    await updater.close()

    # Tables that no worker fills yet: shards without events have nothing to wait for.
    await connection.execute("INSERT INTO readmodel_generation (generation, version) VALUES (7, 1)")
    await connection.execute("INSERT INTO projection_offset (generation, shard_id) SELECT 7, id FROM shard")
    progress = RebuildProgress(generation=7, version=1, shards_done=SHARDS - 2, shards=SHARDS)
    assert (await read_overview(connection)).rebuild == progress
    for shard, seq, done in ((1, 1, 0), (1, NEARLY_EVENTS + 1, 1), (2, 2, 2)):
        await connection.execute(
            "UPDATE projection_offset SET seq = $2 WHERE generation = 7 AND shard_id = $1", shard, seq
        )
        found = (await read_overview(connection)).rebuild
        assert found == msgspec.structs.replace(progress, shards_done=SHARDS - 2 + done)
    await connection.execute("UPDATE readmodel_generation SET was_live = true WHERE generation = 7")
    assert (await read_overview(connection)).rebuild is None
    await connection.execute("DELETE FROM readmodel_generation WHERE generation = 7")

    filled = ReadModelUpdater(connecting(dsn))
    for shard, head in ((1, 2 * NEARLY_EVENTS + 1), (2, 2)):
        filled.open_shard(ShardId(shard), head)
    filled.start()
    generation = await rebuild(connection, keep_old=True, say=lambda _: None)
    assert (await read_overview(connection)).rebuild is None
    assert await connection.fetchval("SELECT live FROM readmodel_generation WHERE generation = $1", generation)
    await filled.close()
    await connection.close()
