"""Where the moves take place: a Postgres of the benchmark's own, three workers, and threads in every shard."""

import asyncio
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import click
import msgspec
import psutil

from shard_worker.database.migration import migrate
from shard_worker.domain.ids import ThreadId, shard_of
from tests.benchmarks.cpu import process_cpu_s, tree_cpu_s
from tests.benchmarks.moves.figures import Cpu
from tests.benchmarks.moves.load_process import Orders, Thread
from tests.benchmarks.moves.recording import Tape
from tests.benchmarks.moves.settings import Settings
from tests.benchmarks.postgres import own_postgres
from tests.benchmarks.run import database_url, postmaster_pid
from tests.benchmarks.threads import Requests, make_threads
from tests.support.worker_processes import Workers, workers_on

NAMES: Final = ("a", "b", "c")
_STOP_S: Final = 60.0
_FIRST_GUESS: Final = 0.15


class Load:
    """Lanes that run in a process of their own."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process = process
        self._folder = folder
        self.began = time.monotonic()

    def probe(self, shards: Sequence[int]) -> None:
        """Probe these shards and no others."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(list(shards)) + b"\n")

    async def stop(self) -> Tape:
        """End it in order, and read its tape."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(_STOP_S):
            code = await self._process.wait()
        assert code == 0, f"the load ended with {code}"
        return await asyncio.to_thread(Tape.read, self._folder)


@asynccontextmanager
async def lanes(folder: Path, orders: Orders) -> AsyncIterator[Load]:
    """Load until the end of the block at the latest."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        Path(own, "orders.json").write_bytes(msgspec.json.encode(orders))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.benchmarks.moves.load_process", own),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(30):
                assert await process.stdout.readline() == b"ready\n"
            yield Load(process, Path(own))
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def threads_of(requests: Requests, shards: int) -> list[Thread]:
    """The threads that were made, each with its shard; ids stand in the path."""
    return [
        Thread(number, shard_of(ThreadId(path.split("/")[3]), shards), path, body)
        for number, (path, body) in enumerate(requests)
    ]


class Meter:
    """CPU accounts from now on."""

    def __init__(self, workers: Sequence[int], postmaster: int) -> None:
        self._workers, self._postmaster = workers, postmaster
        self._at, self._before, self._busy = time.monotonic(), self._read(), _busy_s()

    def _read(self) -> tuple[float, float]:
        return sum(process_cpu_s(pid) for pid in self._workers), tree_cpu_s(self._postmaster)

    def read(self, generator_share: float) -> Cpu:
        """The cores in use since the start; ``generator_share`` is what the generator says of itself."""
        took = time.monotonic() - self._at
        workers, postgres = self._read()
        return Cpu(
            (workers - self._before[0]) / took,
            (postgres - self._before[1]) / took,
            generator_share,
            (_busy_s() - self._busy) / took,
            psutil.cpu_count() or 1,
        )


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


class Harness:
    """Three workers under the benchmark's hand, and what is known of their cluster."""

    def __init__(self, workers: Workers, dsn: str, postmaster: int, folder: Path, settings: Settings) -> None:
        self.workers = workers
        self.dsn = dsn
        self.settings = settings
        self.threads: list[Thread] = []
        self.saturated_per_s = 0.0
        self.think_s = 0.0
        self._postmaster = postmaster
        self._folder = folder

    async def prepare(self) -> None:
        """Make the threads, and find out how much load is too much."""
        settings = self.settings
        await self.make_threads()
        async with self.load(self.workers.urls, think_s=0.0) as load:
            await asyncio.sleep(settings.saturate_s)
            tape = await load.stop()
        self.saturated_per_s = tape.per_second
        self.think_s = await self.thinking_for(settings.cpu_share)

    async def make_threads(self) -> None:
        """Make new threads for the load that follows: on a fast machine those of an earlier figure are long histories
        by now, or at their limit of live messages.
        """
        settings = self.settings
        wanted = settings.shards * settings.threads_per_shard
        click.echo(f"creating about {wanted} threads in {settings.shards} shards", err=True)
        by_shard: dict[int, list[Thread]] = defaultdict(list)
        requests: Requests = []
        while len(by_shard) < settings.shards:
            requests += await make_threads(self.workers.urls[0], wanted)
            by_shard = defaultdict(list)
            for thread in threads_of(requests, settings.shards):
                by_shard[thread.shard].append(thread)
        self.threads = [thread for mine in by_shard.values() for thread in mine[: settings.threads_per_shard]]

    async def thinking_for(self, cpu_share: float) -> float:
        """How long lanes must think so that all together keep this share of the cores busy.

        By processor time and not by the rate, because commands that come one by one cost more than those that share a
        batch: a third of the rate that saturates the machine keeps nine tenths of it busy.
        """
        settings = self.settings
        wanted = cpu_share * (psutil.cpu_count() or 1)
        rate = _FIRST_GUESS * self.saturated_per_s
        for _ in range(settings.guesses):
            async with self.load(self.workers.urls, think_s=settings.shards / rate) as load:
                load.probe([0])
                meter = self.meter()
                await asyncio.sleep(settings.saturate_s / 2)
                cpu = meter.read(0.0)
                tape = await load.stop()
            used = cpu.workers + cpu.postgres + tape.account.core_share
            rate *= min(2.0, max(0.5, wanted / used))
        think_s = settings.shards / rate
        click.echo(
            f"saturated at {self.saturated_per_s:,.0f} commands/s; lanes send {rate:,.0f}/s, thinking"
            f" {think_s * 1e3:.0f} ms, to keep {wanted:.1f} cores busy",
            err=True,
        )
        return think_s

    def load(
        self, urls: Sequence[str], *, think_s: float | None = None, seed: int = 0
    ) -> Any:  # an asynchronous context manager of a Load
        """One lane a shard, over these addresses."""
        settings = self.settings
        orders = Orders(
            urls=list(urls),
            threads=self.threads,
            per_shard=1,
            think_s=self.think_s if think_s is None else think_s,
            probe_think_s=settings.probe_think_s,
            timeout_s=10.0,
            seed=settings.seed + seed,
        )
        return lanes(self._folder, orders)

    def meter(self) -> Meter:
        """CPU accounts of the workers and of Postgres, from now on."""
        return Meter([worker.pid for worker in self.workers.by_name.values()], self._postmaster)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[asyncpg.Connection]:
        """A session for looking on."""
        connection = await asyncpg.connect(self.dsn)
        try:
            yield connection
        finally:
            await connection.close()

    async def events(self) -> int:
        """How many events are stored."""
        async with self.database() as connection:
            return int(await connection.fetchval("SELECT count(*) FROM journal"))

    async def spread(self) -> None:
        """Have every worker run and serve a third of the shards."""
        workers = self.workers
        gone = [name for name, worker in workers.by_name.items() if not worker.alive]
        await workers.start(*gone)
        async with asyncio.timeout(60):
            while True:
                await workers.spread(*NAMES)
                owners = await workers.owners()
                if all(owners[shard] == NAMES[shard % len(NAMES)] for shard in range(workers.shards)):
                    return

    async def owned_by(
        self, connection: asyncpg.Connection, targets: Mapping[int, str], *, within_s: float = 20.0
    ) -> None:
        """Return once the database says that each of these shards is its target's."""
        async with asyncio.timeout(within_s):
            while True:
                rows = await connection.fetch("SELECT id, owner FROM shard WHERE id = ANY($1::int[])", list(targets))
                if all(row["owner"] == targets[row["id"]] for row in rows):
                    return
                await asyncio.sleep(0.01)


async def unaccounted(harness: Harness, tape: Tape, before: int) -> list[str]:
    """The sums that do not add up after a run of the load: what was accepted is what is stored, no less and no more."""
    account, found = tape.account, []
    if account.kept + account.given_up != account.commands or account.given_up:
        found.append(f"{account.commands} commands, {account.kept} accepted, {account.given_up} given up")
    if (stored := await harness.events() - before) != account.kept:
        found.append(f"{account.kept} commands were accepted and {stored} events are stored")
    return found


@asynccontextmanager
async def harness_on(out: Path, settings: Settings) -> AsyncIterator[Harness]:
    """A harness that is ready; all its processes end with the block."""
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        async with own_postgres(out) as base:
            async with _admin(base) as connection:
                await connection.execute("CREATE DATABASE moves")
            dsn = database_url(base, "moves")
            await migrate(dsn, cluster_id="test", shards=settings.shards, say=lambda _: None)
            async with workers_on(dsn, out / "workers", *NAMES, shards=settings.shards) as workers:
                harness = Harness(workers, dsn, await postmaster_pid(base), Path(scratch), settings)
                await harness.prepare()
                yield harness


@asynccontextmanager
async def _admin(base: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(base)
    try:
        yield connection
    finally:
        await connection.close()
