"""A cluster for tests of faults: three workers, each behind a proxy of its own to Postgres, with twelve shards.

A round of faults may leave the cluster in any state; `Cluster.mend` restores it, so that rounds follow each other on
one cluster.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from threadcluster_operator.local.postgres import EmbeddedPostgres

from shard_worker.database.migration import migrate
from shard_worker.journal.fsck.run import fsck
from tests.e2e.moves.ownership_log import OwnershipLog
from tests.support.tcp_proxy import TcpProxy
from tests.support.worker_processes import Workers, workers_on

NAMES = ("a", "b", "c")
SHARDS = 12
QUERY_SOURCES = {"a": "owner", "b": "owner", "c": "read-model"}
"""From which of the two each worker answers queries on a thread: every client meets both."""


class Cluster:
    """Three workers, their links, and their Postgres."""

    def __init__(self, workers: Workers, postgres: EmbeddedPostgres, dsn: str, links: dict[str, TcpProxy]) -> None:
        self.workers = workers
        self.postgres = postgres
        self.links = links
        self.ownership_log = OwnershipLog(dsn)

    async def mend(self) -> None:
        """Have every worker run, reach Postgres, and own a third of the shards."""
        if self.postgres.pid is None:
            await self.postgres.start()
        for name, worker in self.workers.by_name.items():
            self.links[name].heal()
            if worker.alive:
                worker.signal(signal.SIGCONT)
        await self.workers.start(*[name for name, worker in self.workers.by_name.items() if not worker.alive])
        await self._spread()

    async def _spread(self) -> None:
        await self.workers.spread(*NAMES)
        await self.workers.served(*NAMES)

    async def fsck(self) -> None:
        """Fail unless the journal proves itself; as `shard-worker fsck` does, without a process of its own."""
        report = await fsck(self.postgres.dsn, progress=lambda _: None)
        assert report.clean, "\n".join(report.lines())

    async def served_by(self, names: Sequence[str], *, within_s: float = 20.0) -> float:
        """Return once these workers alone serve every shard; how long that took, in seconds."""
        return await self.workers.served(*names, within_s=within_s)

    async def incarnation_other_than(self, worker: str, before: str, *, within_s: float = 15.0) -> str:
        """The incarnation of a worker once it is a new one, and lives."""
        async with asyncio.timeout(within_s):
            while True:
                async with self.ownership_log.connected() as connection:
                    row = await connection.fetchrow("SELECT incarnation, fenced FROM worker WHERE id = $1", worker)
                if row is not None and row["incarnation"] != before and not row["fenced"]:
                    return str(row["incarnation"])
                await asyncio.sleep(0.02)


@asynccontextmanager
async def cluster_on(postgres: EmbeddedPostgres, folder: Path) -> AsyncIterator[Cluster]:
    """A cluster on a server that is the caller's to fail; everything but the server ends with the block."""
    async with AsyncExitStack() as stack:
        dsn = postgres.dsn
        await migrate(dsn, cluster_id="test", shards=SHARDS, say=lambda _: None)
        links = {name: await stack.enter_async_context(TcpProxy("127.0.0.1", postgres.port)) for name in NAMES}
        workers = await stack.enter_async_context(workers_on(dsn, folder, shards=SHARDS))
        for name, link in links.items():
            worker = workers.add(name, dsn=dsn.replace(f":{postgres.port}/", f":{link.port}/"))
            worker.settings["SHARD_WORKER_QUERY_SOURCE"] = QUERY_SOURCES[name]
            await workers.start(name)
        cluster = Cluster(workers, postgres, dsn, links)
        await cluster.mend()
        yield cluster


@asynccontextmanager
async def own_cluster(folder: Path) -> AsyncIterator[Cluster]:
    """A cluster with a server of its own."""
    postgres = EmbeddedPostgres(folder / "postgres")
    await postgres.start()
    try:
        async with cluster_on(postgres, folder / "workers") as cluster:
            yield cluster
    finally:
        await postgres.stop()
