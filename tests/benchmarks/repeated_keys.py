"""``python -m tests.benchmarks.repeated_keys``: what one client that repeats old idempotency keys costs all others.

Sixty-four clients post keyed messages as fast as they are answered, through a real worker.  In every other round one of
them repeats keys that were stored before, on threads of its own, as a client does that lost its memory.  The others'
throughput with it is compared with theirs without it, in rounds next to each other.
"""

import asyncio
import os
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

import asyncpg
import click
import msgspec
import uvloop
from threadcluster_operator.local.postgres import EmbeddedPostgres

from shard_worker.database.migration import migrate
from shard_worker.domain.ids import ulid_text
from tests.support.load.target import Target, parse_target
from tests.support.load.wire import Connection, request_bytes
from tests.support.worker_processes import SECRET, WorkerProcess

_CLIENTS = 64
_OLD_THREADS = 20
_OLD_KEYS = 100
"""On each of those threads: three times as many as an actor remembers."""
_BAR = 0.95
_LIMIT = 1_000_000_000
"""Live messages a thread: out of the way."""


def _id() -> str:
    return ulid_text(os.urandom(16))


class _Chat:
    """One thread of one account, and its connection."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.account = _id()
        self.threads: list[str] = []
        self.connection: Connection | None = None

    async def send(self, path: str, body: dict[str, object], key: str) -> dict[str, object]:
        if self.connection is None:
            self.connection = await Connection.open(self.target, 10.0)
        raw = msgspec.json.encode({"accountId": self.account, **body})
        reply = await self.connection.ask(request_bytes("POST", path, self.target.authority, raw, key), 10.0)
        if reply.status != 200:
            raise click.ClickException(f"{path}: {reply.status} {reply.body.decode(errors='replace')}")
        document: dict[str, object] = msgspec.json.decode(reply.body)
        return document

    async def create(self) -> None:
        body: dict[str, object] = {"title": "t", "administratorIds": [self.account], "memberIds": []}
        self.threads.append(
            str((await self.send("/v1/threads/create", body, f"create-{len(self.threads)}"))["threadId"])
        )

    async def add(self, thread: str, key: str) -> None:
        text = f"a message of a usual length, under the key {key}"
        await self.send(f"/v1/threads/{thread}/messages/add", {"messages": [{"text": text}]}, key)


async def _fresh(chat: _Chat, until: float) -> int:
    """Post under fresh keys; how many were stored."""
    done = 0
    while time.monotonic() < until:
        await chat.add(chat.threads[0], os.urandom(8).hex())
        done += 1
    return done


async def _repeat(chat: _Chat, until: float, at: int) -> int:
    """Send old keys again, one after another; where it stopped."""
    while time.monotonic() < until:
        await chat.add(chat.threads[at % _OLD_THREADS], f"old-{at // _OLD_THREADS % _OLD_KEYS}")
        at += 1
    return at


async def _measure(target: Target, rounds: int, seconds: float) -> list[tuple[float, float, int]]:
    """Commands a second of the others without and with the repeating client, and its repetitions, for each round."""
    chats = [_Chat(target) for _ in range(_CLIENTS)]
    await asyncio.gather(*[chat.create() for chat in chats])
    repeater = _Chat(target)
    for _ in range(_OLD_THREADS):
        await repeater.create()
    for number in range(_OLD_KEYS):
        for thread in repeater.threads:
            await repeater.add(thread, f"old-{number}")
    await asyncio.gather(*[_fresh(chat, time.monotonic() + 1.0) for chat in chats])
    found = []
    at = 0
    for number in range(rounds):
        before = at
        plain: list[int] = []
        others: list[int] = []
        # Threads grow meanwhile: neither half always comes first.
        for repeats in (False, True) if number % 2 else (True, False):
            until = time.monotonic() + seconds
            posting = [_fresh(chat, until) for chat in chats[:-1]]
            if repeats:
                at, *others = await asyncio.gather(_repeat(repeater, until, at), *posting)
            else:
                _, *plain = await asyncio.gather(_fresh(chats[-1], until), *posting)
        found.append((sum(plain) / seconds, sum(others) / seconds, at - before))
    return found


async def _run(rounds: int, seconds: float) -> list[tuple[float, float, int]]:
    with tempfile.TemporaryDirectory(prefix="repeated-keys-") as name:
        folder = Path(name)
        postgres = EmbeddedPostgres(folder / "postgres")
        await postgres.start()
        admin = await asyncpg.connect(postgres.dsn_of("postgres"))
        await admin.execute("CREATE DATABASE repeated")
        await admin.close()
        dsn = postgres.dsn_of("repeated")
        await migrate(dsn, cluster_id="test", shards=144, say=lambda _: None)
        with socket.create_server(("127.0.0.1", 0)) as shared:
            environment = {
                "SHARD_WORKER_CLUSTER": "test",
                "SHARD_WORKER_DSN": dsn,
                "SHARD_WORKER_SECRET": SECRET,
                "SHARD_WORKER_PUBLIC_PORT": "0",
                "SHARD_WORKER_MANAGEMENT_PORT": "0",
                "SHARD_WORKER_MAX_MESSAGES": str(_LIMIT),
            }
            worker = WorkerProcess("w0", folder, environment, shared.fileno())
            try:
                await worker.start()
                await asyncio.sleep(2.0)  # until every shard is owned
                return await _measure(parse_target(worker.url), rounds, seconds)
            finally:
                if worker.alive:
                    await worker.kill()
                await postgres.stop()


@click.command()
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.2, 60), default=3.0, show_default=True, help="Of each half round.")
def main(rounds: int, seconds: float) -> None:
    """Print the others' throughput without and with one client that repeats old keys; exit 1 below 0.95."""
    found = uvloop.run(_run(rounds, seconds))
    for plain, beside, repeated in found:
        click.echo(
            f"without {plain:8.0f}/s   with {beside:8.0f}/s   ratio {beside / plain:.3f}   {repeated} keys repeated"
        )
    ratio = statistics.median(beside / plain for plain, beside, _ in found)
    click.echo(f"median ratio {ratio:.3f} (bar {_BAR}), {_CLIENTS} clients, one of them repeating")
    if ratio < _BAR:
        sys.exit(1)


if __name__ == "__main__":
    main()
