"""``python -m tests.benchmarks.reads``: the CPU of a query of a thread, beside a request that does nothing.

One worker, 64 connections, 2,000 threads of a hundred messages each.  The subjects take turns in each round; their CPU is the
kernel's account of the server process, and the ratios are formed within a round.
"""

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Final

import click
import msgspec
import uvloop
from msgspec import Struct

from tests.benchmarks.cpu import process_cpu_s, tree_cpu_s
from tests.benchmarks.generator import Measured
from tests.benchmarks.measure import Pins, generate, write_requests
from tests.benchmarks.postgres import seasoned_postgres
from tests.benchmarks.run import fresh_database, postmaster_pid
from tests.benchmarks.threads import Requests, make_threads
from tests.support.load.target import parse_target
from tests.support.load.wire import Connection, request_bytes
from tests.support.programs import Program, running, worker_alone

_SHARDS: Final = 144
_CLUSTER: Final = "bench"
_CONNECTIONS: Final = 64
_THREADS: Final = 2_000
_MESSAGES: Final = 100
_AT_ONCE: Final = 20
"""Messages of one command that fills a thread."""
_FILLERS: Final = 32
NOOP: Final = "no-op"
_BARS: Final = {"GET thread": 0.5, "GET messages, limit=20": 2.0, "GET messages, limit=100": 4.0}
"""Most CPU of the worker for each no-op."""


class Subject(Struct, frozen=True):
    """A kind of request, and who answers it."""

    name: str
    program: Program
    requests: Path


class Sample(Struct, frozen=True):
    """One turn: requests a second, their p99 in milliseconds, CPU in microseconds each."""

    rate: float
    p99_ms: float
    server_us: float
    postgres_us: float


async def _fill(url: str, posts: Requests) -> None:
    """Post the messages of each thread."""
    target, waiting = parse_target(url), iter(posts)

    async def fill() -> None:
        link = await Connection.open(target, 10.0)
        for path, body in waiting:
            command = msgspec.json.decode(body)
            command["messages"] *= _AT_ONCE
            raw = request_bytes("POST", path, target.authority, msgspec.json.encode(command))
            for _ in range(_MESSAGES // _AT_ONCE):
                reply = await link.ask(raw, 10.0)
                assert reply.status == 200, reply.body
        link.close()

    await asyncio.gather(*[fill() for _ in range(_FILLERS)])


def _targets(posts: Requests, tail: str, more: str = "") -> Requests:
    """Of each thread that is posted to, a query by the account that posts."""
    found: Requests = []
    for path, body in posts:
        account = msgspec.json.decode(body)["accountId"]
        found.append((f"{path.removesuffix('/messages/add')}{tail}?account_id={account}{more}", ""))
    return found


async def _turn(subject: Subject, seconds: float, postgres_pid: int) -> Sample:
    server_s, postgres_s = process_cpu_s(subject.program.pid), tree_cpu_s(postgres_pid)
    measured: Measured = await generate(subject.program, subject.requests, _CONNECTIONS, seconds, "own", Pins())
    assert not measured.failures, measured.failures
    server_s = process_cpu_s(subject.program.pid) - server_s
    postgres_s = tree_cpu_s(postgres_pid) - postgres_s
    each = 1e6 / measured.served
    return Sample(measured.per_second, measured.latency_ms["p99"], server_s * each, postgres_s * each)


async def _run(rounds: int, seconds: float) -> bool:
    with tempfile.TemporaryDirectory(prefix="reads-") as name:
        folder = Path(name)
        async with seasoned_postgres(folder) as base, AsyncExitStack() as stack:
            pid, dsn = await postmaster_pid(base), await fresh_database(base, "reads")
            noop = await stack.enter_async_context(
                running(NOOP, ["-m", "tests.benchmarks.noop"], environment={}, log=folder / "noop.log")
            )
            worker = await stack.enter_async_context(
                worker_alone(dsn, folder, cluster=_CLUSTER, shards=_SHARDS, name="worker")
            )
            posts = await make_threads(worker.url, _THREADS)
            await _fill(worker.url, posts)

            def subject(name: str, program: Program, requests: Requests) -> Subject:
                own = folder / name.replace(" ", "-")
                own.mkdir()
                return Subject(name, program, write_requests(own, requests))

            subjects = [
                subject(NOOP, noop, posts),
                subject("GET thread", worker, _targets(posts, "")),
                subject("GET messages, limit=20", worker, _targets(posts, "/messages", "&limit=20")),
                subject("GET messages, limit=100", worker, _targets(posts, "/messages", "&limit=100")),
            ]
            found: dict[str, list[Sample]] = {each.name: [] for each in subjects}
            for number in range(rounds):
                for each in subjects if number % 2 else subjects[::-1]:
                    done = await _turn(each, seconds, pid)
                    found[each.name].append(done)
                    click.echo(
                        f"round {number + 1}/{rounds}  {each.name:24} {done.rate:8.0f}/s  p99 {done.p99_ms:6.1f} ms"
                        f"  server {done.server_us:6.1f} µs  Postgres {done.postgres_us:6.1f} µs"
                    )
    held = True
    for name, bar in _BARS.items():
        value = median(own.server_us / noop.server_us for own, noop in zip(found[name], found[NOOP], strict=True))
        good = value <= bar
        held = held and good
        click.echo(f"{name + ', CPU of the worker ÷ no-op':50} {value:8.2f}  ≤ {bar:g}  {'holds' if good else 'FAILS'}")
    return held


@click.command()
@click.option("--rounds", type=click.IntRange(1, 50), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.5, 60), default=3.0, show_default=True, help="Of each turn.")
def main(rounds: int, seconds: float) -> None:
    """Print what queries cost; exit 1 when a bar is missed."""
    if not uvloop.run(_run(rounds, seconds)):
        sys.exit(1)


if __name__ == "__main__":
    main()
