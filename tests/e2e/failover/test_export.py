"""An export across a real fail-over: events that the standby never had are noticed, and the old primary is refused."""

from pathlib import Path

import asyncpg
import pytest

from shard_worker.database.connection import Database, DatabaseSuperseded
from shard_worker.database.migration import migrate
from shard_worker.journal.export.report import Reason, Report
from shard_worker.journal.export.run import Options, export
from tests.e2e.failover.pair import running_pair
from tests.support.exported import checksum_of_journal, read_export
from tests.support.journal_writer import SHARDS, JournalWriter, created, new_thread, posted


async def _worker_comes(dsn: str) -> None:
    """Open a session as a worker does; the first on a new timeline stores the generation."""
    database = Database(dsn, application_name=lambda: "a worker")
    (await database.connect("test")).terminate()
    await database.close()


async def test_an_export_notices_what_a_fail_over_lost(tmp_path: Path) -> None:
    """From a standby, from the primary, and from the promoted standby, into one folder."""
    folder, shard = tmp_path / "events", 3

    async def run(dsn: str, **options: bool) -> Report:
        return await export(dsn, folder, Options(texts=True, **options), progress=lambda _: None)  # type: ignore[arg-type]

    async with running_pair(tmp_path) as pair:
        await migrate(pair.primary.dsn, cluster_id="test", shards=SHARDS, say=lambda _: None)
        await _worker_comes(pair.primary.dsn)
        await pair.attach_standby()
        old = await asyncpg.connect(pair.primary.dsn)
        pen, thread = JournalWriter(old), new_thread(shard)
        await pen.write(thread, created(), posted())
        await pen.write(new_thread(0), created())
        await pair.replicated()
        assert (await run(pair.standby.dsn)).new_events == 3
        pair.stream.stall(up=False)
        await pen.write(thread, posted(), posted())
        assert (await run(pair.standby.dsn)).new_events == 0
        assert (await run(pair.primary.dsn)).new_events == 2
        assert (await run(pair.standby.dsn)).behind == (shard,)
        await pair.promote()
        (stop,) = (await run(pair.primary.dsn)).stops
        assert (stop.shard, stop.reason, stop.shard_seq) == (shard, Reason.LOST, 4)
        await _worker_comes(pair.primary.dsn)
        (stop,) = (await run(pair.primary.dsn)).stops
        assert (stop.reason, "some from number 3 on" in stop.detail) == (Reason.LOST, True)
        assert (await run(pair.primary.dsn, take_back=True)).stops == ()
        new = await asyncpg.connect(pair.primary.dsn)
        epoch = await new.fetchval("SELECT epoch FROM shard WHERE id = 0")
        pen = JournalWriter(new)
        pen._epochs, pen._heads = {0: epoch}, {0: 1}
        await pen.write(new_thread(0), created())
        assert (await run(pair.primary.dsn)).new_events == 1
        with pytest.raises(DatabaseSuperseded, match="an old primary"):
            await run(pair.standby.dsn)
        found = read_export(folder)
        assert [row["shard_seq"] for row in found.of(shard)] == [1, 2]
        assert (len(found.rows), found.checksum) == await checksum_of_journal(new, texts=True)
        await old.close()
        await new.close()
