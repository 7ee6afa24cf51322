"""One whole run: the programs started side by side, the rounds interleaved, the fence at the end.

All programs live for the whole run, so that a round differs from another by chance alone; an idle one costs its
heart-beat.  In each round every subject has its turn at every number of connections, and the order turns by one with
every round.
"""

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import click
from msgspec import Struct
from psutil import Process

from shard_worker.database.migration import migrate
from tests.benchmarks.core import measure_core
from tests.benchmarks.cpu import pin_tree
from tests.benchmarks.fence import FenceBench, FenceRound, prepare_shards
from tests.benchmarks.measure import Settings, sample, write_requests
from tests.benchmarks.report import Run, now, this_machine
from tests.benchmarks.samples import HOT, NOOP, STATEMENT, TRANSACTION, WORKER, Sample
from tests.benchmarks.threads import Requests, make_threads
from tests.support.programs import Program, running, worker_alone

_CLUSTER = "bench"
_SHARDS = 144


class Subject(Struct, frozen=True):
    """One line of the comparison.  ``fresh`` makes new requests for a sample when they cannot be used twice."""

    name: str
    program: Program
    requests: Requests
    uses_postgres: bool = True
    only_judged: bool = False
    """Measured only at the number of connections where ratios are judged."""
    fresh: Callable[[], Awaitable[Requests]] | None = None


def database_url(base: str, name: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(base)._replace(path=f"/{name}"))


async def fresh_database(base: str, name: str, *, cluster: str = _CLUSTER, shards: int = _SHARDS) -> str:
    """Drop and create it, with this release's schema, claimed for the benchmark."""
    connection = await asyncpg.connect(database_url(base, "postgres"))
    try:
        await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()
    dsn = database_url(base, name)
    await migrate(dsn, cluster_id=cluster, shards=shards, say=lambda _: None)
    return dsn


async def postmaster_pid(dsn: str) -> int:
    """The parent of the backend that serves us: the postmaster, when it is on this machine."""
    connection = await asyncpg.connect(database_url(dsn, "postgres"))
    try:
        return int(Process(await connection.fetchval("SELECT pg_backend_pid()")).ppid())
    finally:
        await connection.close()


async def _postgres_version(dsn: str) -> str:
    connection = await asyncpg.connect(database_url(dsn, "postgres"))
    try:
        return " ".join(str(await connection.fetchval("SELECT version()")).split()[:2])
    finally:
        await connection.close()


@asynccontextmanager
async def _worker(base: str, scratch: Path, out: Path) -> AsyncIterator[Program]:
    dsn = await fresh_database(base, "bench_worker")
    # The command path alone: what the read model adds is the subject of `make bench-read`.
    settings = {"SHARD_WORKER_PROJECTION_ENABLED": "false"}
    log = out / "worker.log"
    async with worker_alone(dsn, scratch, cluster=_CLUSTER, shards=_SHARDS, log=log, settings=settings) as program:
        yield program


@asynccontextmanager
async def _baseline(base: str, form: str, out: Path) -> AsyncIterator[Program]:
    dsn = await fresh_database(base, f"bench_{form}")
    connection = await asyncpg.connect(dsn)
    await prepare_shards(connection)
    await connection.close()
    async with running(
        form,
        ["-m", "tests.benchmarks.one_transaction", "--dsn", dsn, "--form", form],
        environment={},
        log=out / f"{form}.log",
    ) as program:
        yield program


async def _subjects(stack: AsyncExitStack, base: str, settings: Settings, scratch: Path, out: Path) -> list[Subject]:
    click.echo("starting the programs", err=True)
    noop = await stack.enter_async_context(
        running("no-op", ["-m", "tests.benchmarks.noop"], environment={}, log=out / "noop.log")
    )
    worker = await stack.enter_async_context(_worker(base, scratch, out))
    transaction = await stack.enter_async_context(_baseline(base, "transaction", out))
    statement = await stack.enter_async_context(_baseline(base, "statement", out))
    if settings.pins.server is not None:
        for program in (noop, worker, transaction, statement):
            pin_tree(program.pid, settings.pins.server)
    click.echo(f"creating {settings.threads} threads in each of the three", err=True)
    many = await make_threads(worker.url, settings.threads)
    return [
        Subject(NOOP, noop, many, uses_postgres=False),
        Subject(WORKER, worker, many),
        Subject(TRANSACTION, transaction, await make_threads(transaction.url, settings.threads)),
        Subject(HOT, worker, [], only_judged=True, fresh=lambda: make_threads(worker.url, 1)),
        Subject(STATEMENT, statement, await make_threads(statement.url, settings.threads), only_judged=True),
    ]


async def _rounds(subjects: list[Subject], postgres_pid: int, settings: Settings, scratch: Path) -> list[Sample]:
    samples: list[Sample] = []
    for number in range(settings.rounds):
        for connections in settings.connections:
            here = [each for each in subjects if not each.only_judged or connections == settings.judged_at]
            turn = number % len(here)
            for subject in here[turn:] + here[:turn]:
                taken = await sample(
                    subject.name,
                    subject.program,
                    write_requests(scratch, subject.requests if subject.fresh is None else await subject.fresh()),
                    connections=connections,
                    round_number=number,
                    postgres_pid=postgres_pid if subject.uses_postgres else None,
                    settings=settings,
                )
                samples.append(taken)
                click.echo(_line(taken, settings.rounds), err=True)
    return samples


def _line(taken: Sample, rounds: int) -> str:
    measured = taken.measured
    line = (
        f"round {taken.round + 1}/{rounds}  {taken.connections:>3} connections  {taken.subject:<26}"
        f"{measured.per_second:>9,.0f}/s  p99 {measured.latency_ms['p99']:>7.2f} ms  server {taken.server_cpu_us:>6.1f} µs"
    )
    if taken.postgres_cpu_us is not None:
        line += f"  Postgres {taken.postgres_cpu_us:>6.1f} µs"
    line += f"  generator {measured.core_share:.0%} of a core"
    if taken.bound:
        line += " (bound by the generator)"
    if measured.failures:
        line += f"  failed: {measured.failures}"
    return line


async def _fence(base: str, settings: Settings) -> list[FenceRound]:
    click.echo("the fence", err=True)
    dsn = await fresh_database(base, "bench_fence")
    fenced, unfenced = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        bench = FenceBench(fenced, unfenced)
        await bench.prepare()
        found = []
        for _ in range(settings.rounds):
            for shards in settings.fence_shards:
                found.append(await bench.round(shards, settings.fence_seconds))
                click.echo(f"  {shards:>2} shards a batch: the fence adds {found[-1].cost:.1%}", err=True)
        return found
    finally:
        await fenced.close()
        await unfenced.close()


async def benchmark(base: str, settings: Settings, out: Path) -> Run:
    """Run everything against the Postgres at ``base`` (a superuser's URL); logs go to ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    machine = this_machine(await _postgres_version(base))
    at = now()
    postgres_pid = await postmaster_pid(base)
    if settings.pins.rest is not None:
        pin_tree(postgres_pid, settings.pins.rest)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        async with AsyncExitStack() as stack:
            subjects = await _subjects(stack, base, settings, scratch, out)
            samples = await _rounds(subjects, postgres_pid, settings, scratch)
        fence = await _fence(base, settings)
    return Run(at, machine, settings, samples, fence, measure_core())
