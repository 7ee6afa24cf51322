"""``python -m tests.benchmarks.streams``: what live events cost a worker, and how soon they reach clients.

One thread is posted to 20 times a second with no follower, with 100 and with 1,000: the CPU of a delivery is what the
worker takes beyond the commands, as a part of what aiohttp's no-op takes for a request in the same run.  The time is from
the answer to a command, which leaves with the event, to the arrival at followers in a process of their own.  Then some
thousand followers of some hundred threads are idle, for the memory of one.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import click
import msgspec
import uvloop
from msgspec import Struct

from tests.benchmarks.cpu import process_cpu_s, resident_bytes
from tests.benchmarks.generator import Measured
from tests.benchmarks.measure import Settings, generate, write_requests
from tests.benchmarks.postgres import own_postgres
from tests.benchmarks.run import fresh_database
from tests.benchmarks.stream_clients import Task
from tests.benchmarks.threads import Requests, make_threads
from tests.support.load.target import parse_target
from tests.support.load.wire import Connection, request_bytes
from tests.support.programs import Program, running, worker_alone

_SHARDS: Final = 144
_CLUSTER: Final = "bench"
_RATE: Final = 20
"""Messages a second."""
_SAMPLED: Final = 50
_SETTLE_S: Final = 1.0
_CPU_BAR: Final = 0.12
_IDLE_BAR_BYTES: Final = 12_000


class _Arrived(Struct):
    lost: int
    arrivals: list[tuple[int, float]]


class _Turn(Struct, frozen=True):
    """One load: CPU seconds of the worker, when commands were answered, and when events arrived."""

    cpu_s: float
    answered: dict[int, float]
    arrived: list[_Arrived]

    def latencies_ms(self) -> list[float]:
        """From an answer to the arrival, sorted; an event that was there first took no time."""
        return sorted(
            max(0.0, at - self.answered[number]) * 1000.0
            for each in self.arrived
            for number, at in each.arrivals
            if number in self.answered
        )


@asynccontextmanager
async def _followers(port: int, paths: Sequence[str], sampled: int) -> AsyncIterator[list[_Arrived]]:
    """Followers in a process of their own for as long as the block runs; the list has what they saw after it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.benchmarks.stream_clients"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=64 << 20,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    found: list[_Arrived] = []
    try:
        process.stdin.write(msgspec.json.encode(Task(port, list(paths), sampled)) + b"\n")
        async with asyncio.timeout(120):
            assert await process.stdout.readline() == b"open\n", "the followers failed"
        yield found
        process.stdin.write(b"\n")
        async with asyncio.timeout(30):
            found.append(msgspec.json.decode(await process.stdout.readline(), type=_Arrived))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _path(requests: Requests, number: int) -> str:
    """The stream of the thread that a request posts to, as its account."""
    path, body = requests[number % len(requests)]
    account = msgspec.json.decode(body)["accountId"]
    return f"/v1/threads/{path.split('/')[3]}/events?account_id={account}"


async def _turn(worker: Program, requests: Requests, followers: int, seconds: float) -> _Turn:
    """Post to one thread, with this many followers."""
    target = parse_target(worker.url)
    path, body = requests[0]
    raw = request_bytes("POST", path, target.authority, body.encode())
    link = await Connection.open(target, 10.0)
    answered: dict[int, float] = {}
    async with AsyncExitStack() as stack:
        groups: list[list[_Arrived]] = []
        for count, sampled in ((min(followers, _SAMPLED), _SAMPLED), (max(0, followers - _SAMPLED), 0)):
            if count:
                group = _followers(worker.port, [_path(requests, 0)] * count, sampled)
                groups.append(await stack.enter_async_context(group))
        await asyncio.sleep(_SETTLE_S)
        cpu_s, next_at = process_cpu_s(worker.pid), time.monotonic()
        over_at = next_at + seconds
        while next_at < over_at:
            reply = await link.ask(raw, 10.0)
            answered[msgspec.json.decode(reply.body)["sequenceNr"]] = time.monotonic()
            next_at += 1 / _RATE
            await asyncio.sleep(max(0.0, next_at - time.monotonic()))
        cpu_s = process_cpu_s(worker.pid) - cpu_s
        await asyncio.sleep(_SETTLE_S)
    link.close()
    return _Turn(cpu_s, answered, [each for group in groups for each in group])


async def _idle_bytes(worker: Program, requests: Requests, followers: int) -> float:
    """Resident bytes that each of these followers of all threads takes."""
    await asyncio.sleep(_SETTLE_S)
    before = resident_bytes(worker.pid)
    paths = [_path(requests, number) for number in range(followers)]
    async with _followers(worker.port, paths, 0):
        await asyncio.sleep(2 * _SETTLE_S)
        return (resident_bytes(worker.pid) - before) / followers


async def _noop_us(folder: Path, requests: Requests, seconds: float) -> float:
    """CPU that the no-op takes for a request, in microseconds."""
    settings = Settings(seconds=seconds)
    async with running("noop", ["-m", "tests.benchmarks.noop"], environment={}, log=folder / "noop.log") as noop:
        file = write_requests(folder, requests)
        cpu_s = process_cpu_s(noop.pid)
        measured: Measured = await generate(noop, file, 64, seconds, settings.tool, settings.pins)
        return (process_cpu_s(noop.pid) - cpu_s) / measured.served * 1e6


async def _run(seconds: float, idle: int, threads: int) -> bool:
    with tempfile.TemporaryDirectory(prefix="streams-") as name:
        folder = Path(name)
        async with own_postgres(folder) as base:
            return await _measured(base, folder, seconds, idle, threads)


async def _measured(base: str, folder: Path, seconds: float, idle: int, threads: int) -> bool:
    dsn = await fresh_database(base, "streams")
    settings = {
        "SHARD_WORKER_MAX_STREAMS": "20000",
        "SHARD_WORKER_MAX_STREAMS_PER_ACCOUNT": "20000",
        "SHARD_WORKER_MAX_CONNECTIONS": "30000",
    }
    worker = worker_alone(dsn, folder, cluster=_CLUSTER, shards=_SHARDS, settings=settings)
    held = True
    async with worker as program:
        requests = await make_threads(program.url, threads)
        # First: memory that a turn has left free would be used again.
        bytes_each = await _idle_bytes(program, requests, idle)
        click.echo(f"{idle} idle followers of {len(requests)} threads: {bytes_each:.0f} bytes resident each")
        noop_us = await _noop_us(folder, requests, min(5.0, seconds))
        click.echo(f"aiohttp no-op at 64 connections: {noop_us:.1f} µs of CPU a request")
        alone = await _turn(program, requests, 0, seconds)
        for followers in (100, 1_000):
            turn = await _turn(program, requests, followers, seconds)
            delivered = len(turn.answered) * followers
            each_us = (turn.cpu_s - alone.cpu_s * len(turn.answered) / len(alone.answered)) / delivered * 1e6
            latencies = turn.latencies_ms()
            click.echo(
                f"{followers:5} followers: {each_us:5.1f} µs of CPU a delivery, {each_us / noop_us:.3f} of the no-op;"
                f" answer → client p50 {latencies[len(latencies) // 2]:.1f} ms, p99 {latencies[len(latencies) * 99 // 100]:.1f} ms;"
                f" {len(latencies)} of {len(turn.answered) * min(followers, _SAMPLED)} samples,"
                f" {sum(each.lost for each in turn.arrived)} streams lost"
            )
            if followers == 1_000:
                held = each_us / noop_us <= _CPU_BAR
    return held and bytes_each <= _IDLE_BAR_BYTES


@click.command()
@click.option("--seconds", type=click.FloatRange(1, 60), default=12.0, show_default=True, help="Of each turn.")
@click.option("--idle", type=click.IntRange(10, 20_000), default=5_000, show_default=True, help="Idle followers.")
@click.option("--threads", type=click.IntRange(1, 10_000), default=500, show_default=True, help="That they follow.")
def main(seconds: float, idle: int, threads: int) -> None:
    """Print what a delivery and an idle follower cost; exit 1 when a bar is missed."""
    if not uvloop.run(_run(seconds, idle, threads)):
        sys.exit(1)


if __name__ == "__main__":
    main()
