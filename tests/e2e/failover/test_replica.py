"""Queries of the read model on a real streaming standby: whatever becomes of it, each is answered, and from what is new enough."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from shard_worker.contract import ReadThread, ThreadView
from shard_worker.database.connection import Database
from shard_worker.database.migration import migrate
from shard_worker.database.replica import Replica
from shard_worker.domain.ids import ThreadId, ulid_uuid
from shard_worker.readmodel.markers import MarkerWriter
from shard_worker.readmodel.queries import ReadModelQueries
from shard_worker.readmodel.sources import SET_UP, QuerySources, Reading, WatchedReplica
from tests.e2e.failover.pair import Pair, running_pair
from tests.support.journal_writer import ANN, new_thread
from tests.support.polling import eventually
from tests.support.worker_processes import workers_on

_THREAD_SQL = """
INSERT INTO readmodel_1.thread (thread_id, shard_id, sequence_nr, epoch, creator_id, title, created_at, updated_at, activity_at)
VALUES ($1, 0, 1, 1, $2, 'title', 1, 1, 1)
"""
_ACCESS_SQL = (
    "INSERT INTO readmodel_1.thread_account (account_id, thread_id, administrator, member) VALUES ($2, $1, true, true)"
)


class Asker:
    """The queries of one worker, with its clock in the test's hands."""

    def __init__(self, pair: Pair, thread_id: ThreadId) -> None:
        self.pair = pair
        self.thread_id = thread_id
        self.ahead_s = 0.0
        self.database = Database(pair.primary.dsn, application_name=lambda: "test")
        self.replica: WatchedReplica
        self.sources: QuerySources
        self.queries: ReadModelQueries

    async def start(self) -> None:
        """Open the pools, and begin to look at the replica."""
        pool = await self.database.pool(most=2, statements=SET_UP)
        replica = Replica(self.pair.standby.dsn, self.database, application_name=lambda: "test")
        replicas = await replica.pool(most=2, statements=SET_UP)
        self.replica = WatchedReplica(replica, replicas, pool, clock=lambda: time.monotonic() + self.ahead_s)
        self.sources = QuerySources(pool, self.replica)
        self.queries = ReadModelQueries(self.sources, MarkerWriter(pool))
        self.replica.start()
        self._pool = pool

    async def close(self) -> None:
        """Close everything."""
        await self.replica.close()
        self._pool.terminate()
        await self.database.close()

    async def read(self, least_nr: int = 0) -> int:
        """The thread's sequence number."""
        view = await self.queries.answer(ReadThread(self.thread_id, ANN, least_nr))
        assert isinstance(view, ThreadView), view
        return view.sequence_nr

    async def listed_by(self, least_lsn: int = 0) -> str:
        """The side that answers a list."""
        before = self.replica.counts.answered
        page = await self.queries.threads(ANN, 10, 0, None, least_lsn=least_lsn)
        assert [each.view.thread_id for each in page.threads] == [self.thread_id]
        assert page.lsn >= least_lsn
        return "replica" if self.replica.counts.answered > before else "primary"

    async def is_fit(self) -> None:
        """Return once the replica may be asked."""
        await eventually(lambda: self.replica.is_fit(0), what="the replica is fit")

    async def is_unfit(self) -> None:
        """Return once the replica may not be asked."""
        await eventually(lambda: not self.replica.is_fit(0), what="the replica is unfit")


@asynccontextmanager
async def asking(folder: Path) -> AsyncIterator[Asker]:
    """A pair with one thread in its read model, and queries on it."""
    async with running_pair(folder) as pair:
        await migrate(pair.primary.dsn, cluster_id="test", shards=8, say=lambda _: None)
        await pair.attach_standby()
        asker = Asker(pair, new_thread())
        for sql in (_THREAD_SQL, _ACCESS_SQL):
            await pair.primary.sql(sql, ulid_uuid(asker.thread_id), ulid_uuid(ANN))
        await pair.replicated()
        await asker.start()
        await asker.is_fit()
        yield asker
        await asker.close()


async def test_each_query_is_answered_whatever_becomes_of_the_replica(tmp_path: Path) -> None:
    """One thing after another happens to it: a pair takes seconds to start."""
    async with asking(tmp_path) as asker:
        assert await asker.listed_by() == "replica"
        await _a_query_that_recovery_cancels_is_asked_of_the_primary(asker)
        await _a_replica_that_does_not_replay_is_not_asked(asker)
        await _a_replica_that_is_gone_costs_no_error(asker)
        await _workers_ask_it(asker, tmp_path / "workers")
        await _a_replica_of_another_history_is_not_asked(asker)


async def _a_query_that_recovery_cancels_is_asked_of_the_primary(asker: Asker) -> None:
    """Once; and the replica goes on to be asked."""
    standby, primary = asker.pair.standby, asker.pair.primary
    await standby.sql("ALTER SYSTEM SET max_standby_streaming_delay = 0")
    await standby.sql("SELECT pg_reload_conf()")
    asked: list[bool] = []

    async def reads_slowly(reading: Reading) -> bool:
        asked.append(reading.of_replica)
        pause_s = 20.0 if reading.of_replica else 0.0
        await reading.connection.fetchval(
            f"SELECT pg_sleep({pause_s}) FROM (SELECT count(*) FROM read_marker) AS locked"
        )
        return reading.of_replica

    query = asyncio.create_task(asker.sources.run(reads_slowly))
    await eventually(
        lambda: standby.sql("SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), what="it reads"
    )
    failed = asker.replica.counts.failed
    await primary.sql("TRUNCATE read_marker")
    assert await query is False
    assert asked == [True, False]
    assert asker.replica.counts.failed == failed + 1
    assert asker.replica.is_fit(0)


async def _a_replica_that_does_not_replay_is_not_asked(asker: Asker) -> None:
    """For what it does not have at once; and for nothing when its lag is above 5 s."""
    standby, primary = asker.pair.standby, asker.pair.primary
    await standby.sql("SELECT pg_wal_replay_pause()")
    await eventually(
        lambda: standby.sql("SELECT pg_get_wal_replay_pause_state() = 'paused'"), what="the replay is paused"
    )
    await primary.sql("UPDATE readmodel_1.thread SET sequence_nr = 2")
    lsn = int(await primary.sql("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"))
    if asker.replica.is_fit(0):  # on a busy machine the lag may be above 5 s already
        assert await asker.read() in (1, 2)
        assert await asker.listed_by() in ("replica", "primary")
    assert await asker.read(least_nr=2) == 2
    assert await asker.listed_by(least_lsn=lsn) == "primary"
    asker.ahead_s += 6.0
    await asker.is_unfit()
    assert await asker.read() == 2
    await standby.sql("SELECT pg_wal_replay_resume()")
    await asker.is_fit()
    await eventually(lambda: asker.replica.is_fit(lsn), what="the replica has replayed the page's position")
    assert await asker.listed_by(least_lsn=lsn) == "replica"
    assert await asker.read() == 2


async def _a_replica_that_is_gone_costs_no_error(asker: Asker) -> None:
    """Queries that are under way included; it is asked again when it is back."""
    standby = asker.pair.standby

    async def ask_on(until: asyncio.Event) -> int:
        count = 0
        while not until.is_set():
            assert await asker.read() == 2
            count += 1
        return count

    over = asyncio.Event()
    askers = [asyncio.create_task(ask_on(over)) for _ in range(2)]
    await standby.kill()
    await asker.is_unfit()
    began = time.monotonic()
    assert await asker.listed_by() == "primary"
    assert time.monotonic() - began < 1.5, "a replica that is known to be gone is not tried"
    over.set()
    assert min(await asyncio.gather(*askers)) > 0
    await standby.server.start()
    await asker.is_fit()
    assert await asker.listed_by() == "replica"


async def _workers_ask_it(asker: Asker, folder: Path) -> None:
    """By their setting; what became of the queries is counted."""
    pair = asker.pair
    async with workers_on(pair.primary.dsn, folder) as workers, aiohttp.ClientSession() as session:
        workers.add("w0").settings["SHARD_WORKER_REPLICA_DSN"] = pair.standby.dsn
        await workers.start("w0")

        async def asked() -> bool:
            async with session.get(f"{workers.url}/v1/threads", params={"account_id": ANN}) as response:
                assert response.status == 200
            metrics = await workers.metrics(of="w0")
            return metrics['threadcluster_replica_queries_total{outcome="answered"}'] > 0

        await eventually(asked, what="the replica answers a list")
        assert (await workers.metrics(of="w0"))["threadcluster_replica_lag_seconds"] < 5


async def _a_replica_of_another_history_is_not_asked(asker: Asker) -> None:
    """One that was promoted beside its primary."""
    await asker.is_fit()
    asker.pair.stream.cut()
    assert await asker.pair.standby.sql("SELECT pg_promote(true, 20)")
    await asker.is_unfit()
    assert await asker.listed_by() == "primary"
    assert asker.replica.lag_s == float("inf")
