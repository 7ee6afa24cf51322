"""Faults between the workers and Postgres, and of Postgres itself, with real worker processes under load."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
from threadcluster_operator.local.postgres import EmbeddedPostgres

from tests.conftest import MakeDatabase
from tests.support.load.chat import PACE_S, Recorder, drive, verify
from tests.support.local_cluster import LocalCluster, local_cluster
from tests.support.polling import eventually, more_acknowledged
from tests.support.tcp_proxy import TcpProxy

CLIENTS = 16
SHARDS = 16


@asynccontextmanager
async def chatting(url: str) -> AsyncIterator[Recorder]:
    """Clients that chat for as long as the block runs; afterwards everything is accounted for."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    stop, recorder = asyncio.Event(), Recorder(seed=seed, clients=CLIENTS)
    driving = asyncio.create_task(
        drive(url, clients=CLIENTS, until=stop, seed=seed, grace_s=60.0, pause_s=PACE_S, recorder=recorder)
    )
    try:
        await more_acknowledged(recorder, 200)
        yield recorder
        await more_acknowledged(recorder, 200)
    finally:
        stop.set()
        record = await driving
    assert await verify(url, record) == []


@asynccontextmanager
async def behind_a_proxy(data_dir: Path, postgres: EmbeddedPostgres) -> AsyncIterator[tuple[LocalCluster, TcpProxy]]:
    """A cluster whose every connection to Postgres goes through a proxy with faults."""
    name = f"proxied_{os.getpid()}_{random.randrange(10**9)}"
    admin = await asyncpg.connect(postgres.dsn_of("postgres"))
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    async with TcpProxy("127.0.0.1", postgres.port) as proxy:
        url = postgres.dsn_of(name).replace(f":{postgres.port}/", f":{proxy.port}/")
        async with local_cluster(data_dir, database_url=url, shards=SHARDS) as cluster:
            yield cluster, proxy


async def test_a_link_cut_in_the_middle_of_batches_loses_and_doubles_nothing(
    data_dir: Path, postgres: EmbeddedPostgres
) -> None:
    """Whether statements or only their answers are lost, every client gets a correct answer."""
    async with behind_a_proxy(data_dir, postgres) as (cluster, proxy):
        url = (await cluster.status())["url"]
        async with chatting(url) as recorder:
            for up, down in [(True, False), (False, True), (True, True)]:
                seen = asyncio.Event()
                # In the turn in which an append passes, the chosen direction is stopped.
                proxy.watch = lambda chunk, up=up, down=down, seen=seen: _stall_at_append(proxy, chunk, up, down, seen)
                async with asyncio.timeout(20):
                    await seen.wait()
                proxy.watch = None
                proxy.cut()
                proxy.heal()
                await more_acknowledged(recorder, 100)
        await cluster.fsck()


def _stall_at_append(proxy: TcpProxy, chunk: bytes, up: bool, down: bool, seen: asyncio.Event) -> None:
    if not seen.is_set() and b"commandId" in chunk:
        proxy.stall(up=up, down=down)
        seen.set()


async def test_a_silent_link_stalls_for_at_most_five_seconds(data_dir: Path, postgres: EmbeddedPostgres) -> None:
    """A black hole that swallows everything, while new connections pass: the watchdog ends it, and service goes on."""
    async with behind_a_proxy(data_dir, postgres) as (cluster, proxy):
        url = (await cluster.status())["url"]
        async with chatting(url) as recorder:
            proxy.blackhole()
            began = asyncio.get_running_loop().time()
            await more_acknowledged(recorder, 50, within_s=5.0)
            print(f"stalled for {asyncio.get_running_loop().time() - began:.1f} s")
        await cluster.fsck()


async def test_a_backend_that_is_stopped_and_continued_disturbs_no_worker(
    data_dir: Path, postgres: EmbeddedPostgres
) -> None:
    """SIGSTOP of the server process that appends: its statement may commit late, and is waited out."""
    async with behind_a_proxy(data_dir, postgres) as (cluster, _):
        found = await cluster.status()
        admin = await asyncpg.connect(cluster.admin_dsn)
        async with chatting(found["url"]) as recorder:
            for _ in range(2):
                pids: list[int] = []
                async with asyncio.timeout(10):
                    while not pids:
                        rows = await admin.fetch(
                            "SELECT pid FROM pg_stat_activity WHERE query LIKE '%fence AS MATERIALIZED%'"
                            " AND state = 'active' AND datname = current_database() AND pid <> pg_backend_pid()"
                        )
                        pids = [row["pid"] for row in rows]
                for pid in pids:
                    os.kill(pid, signal.SIGSTOP)
                # Longer than the append's watchdog: its outcome is being found out while it still may commit.
                loop = asyncio.get_running_loop()
                resume_at = loop.time() + 2.5
                await _at(resume_at)
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
                await more_acknowledged(recorder, 100)
        await admin.close()
        await cluster.fsck()


async def _at(moment: float) -> None:
    """Return at a moment of the loop's clock: what is tested is a pause of a length."""
    loop = asyncio.get_running_loop()
    while loop.time() < moment:
        await asyncio.sleep(0.01)


async def test_postgres_restarted_under_load_heals_by_itself(data_dir: Path) -> None:
    """The server is killed and started again by the supervisor: nothing acknowledged is lost, nothing doubles."""
    async with local_cluster(data_dir, shards=SHARDS) as cluster:
        found = await cluster.status()
        async with chatting(found["url"]) as recorder:
            for number in (signal.SIGINT, signal.SIGKILL):
                before = (await cluster.status())["postgres"]["pid"]
                os.kill(before, number)
                await more_acknowledged(recorder, 200)
                assert (await cluster.status())["postgres"]["pid"] != before
        incarnations = {worker["name"]: worker["incarnation"] for worker in found["workers"]}
        after = {worker["name"]: worker["incarnation"] for worker in (await cluster.ready())["workers"]}
        assert after == incarnations, "a restart of the database is no death of a worker"
        await cluster.fsck()


async def test_an_unreachable_database_is_waited_for_with_a_clear_message(
    data_dir: Path, postgres: EmbeddedPostgres, make_database: MakeDatabase
) -> None:
    """At the start `up` says what it waits for; when the database answers, it goes on."""
    del make_database
    name = f"late_{os.getpid()}"
    admin = await asyncpg.connect(postgres.dsn_of("postgres"))
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    async with TcpProxy("127.0.0.1", postgres.port) as proxy:
        proxy.refusing = True
        url = postgres.dsn_of(name).replace(f":{postgres.port}/", f":{proxy.port}/")
        cluster = LocalCluster(data_dir, database_url=url, shards=SHARDS)
        coming_up = asyncio.create_task(cluster.up(1))
        log = data_dir / "logs" / "supervisor.log"
        await eventually(lambda: log.exists() and "waiting for Postgres" in log.read_text(), within_s=20)
        assert not coming_up.done()
        proxy.heal()
        output = await coming_up
        assert f"no Postgres at 127.0.0.1:{proxy.port}" in output
        await cluster.down()
