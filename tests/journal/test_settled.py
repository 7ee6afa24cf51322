"""A mark of the journal's transactions holds also after a crash of the server: ids below it are not given again."""

import asyncio
from contextlib import suppress
from pathlib import Path

import asyncpg
import psutil
from threadcluster_operator.local.postgres import EmbeddedPostgres

from shard_worker.database.migration import migrate
from shard_worker.journal import settled
from shard_worker.journal.settled import read_mark

_LOG_WRITER_SQL = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"


async def test_a_mark_waits_until_no_crash_can_give_its_ids_again(tmp_path: Path) -> None:
    """Rolled-back transactions leave records that nothing waits for; with the server's log writer stopped they stay in memory."""
    postgres = EmbeddedPostgres(tmp_path)
    log_writer: psutil.Process | None = None
    await postgres.start()
    try:
        await migrate(postgres.dsn, cluster_id="test", shards=4, say=lambda _: None)
        connection, other = await asyncpg.connect(postgres.dsn), await asyncpg.connect(postgres.dsn)
        log_writer = psutil.Process(await connection.fetchval(_LOG_WRITER_SQL))
        log_writer.suspend()
        for _ in range(50):
            transaction = other.transaction()
            await transaction.start()
            await other.execute(
                "INSERT INTO read_marker VALUES (gen_random_uuid(), gen_random_uuid(), 1, 0, gen_random_uuid())"
            )
            await transaction.rollback()
        newest = int(await other.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text"))
        reading = asyncio.create_task(read_mark(connection))
        # Nothing writes the log: the mark is not known, however long this takes.
        done, _ = await asyncio.wait((reading,), timeout=settled._FLUSHED_WITHIN_S / 4)
        assert not done
        # A commit does, and then the mark is.
        await other.execute("CREATE TABLE committed ()")
        mark = await reading
        assert mark.xid >= newest
        await _crash(postgres)
        connection = await asyncpg.connect(postgres.dsn)
        assert int(await connection.fetchval("SELECT pg_current_xact_id()::text")) >= mark.xid
        await connection.close()
    finally:
        with suppress(psutil.NoSuchProcess):
            if log_writer is not None:
                log_writer.resume()
        await postgres.stop()


async def _crash(postgres: EmbeddedPostgres) -> None:
    """End every process of the server at once, and start it again."""
    assert postgres.pid is not None
    server = psutil.Process(postgres.pid)
    for process in (server, *server.children(recursive=True)):
        process.kill()
    await postgres.wait()
    await postgres.start()
