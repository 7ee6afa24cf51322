"""The programs that are compared, as processes: started, waited for, and ended by the one who started them."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
from msgspec import Struct


class Program(Struct, frozen=True):
    """A running server: its process and where it listens."""

    name: str
    pid: int
    port: int
    log: Path
    ended: Callable[[], Awaitable[int]]
    """Wait for its end; gives its exit status."""

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"


class ProgramFailed(RuntimeError):
    """A program did not become ready, or ended by itself; the message ends with the tail of its log."""


_READY_S = 60.0
_STOP_S = 30.0
_MESSAGES_MOST = 1_000_000_000
"""Live messages a thread: out of the way."""


async def announced_port(process: asyncio.subprocess.Process) -> int:
    """The port of a program that says ``ready PORT`` on its standard output."""
    assert process.stdout is not None, "started with a pipe"
    async for line in process.stdout:
        words = line.decode().split()
        if words[:1] == ["ready"]:
            return int(words[1])
    raise ProgramFailed(f"ended with status {await process.wait()} before it was ready")


@asynccontextmanager
async def running(
    name: str,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    port_of: Callable[[asyncio.subprocess.Process], Awaitable[int]] = announced_port,
) -> AsyncIterator[Program]:
    """``python ARGUMENTS`` until the end of the block; its log is kept at ``log``.  Raises `ProgramFailed`."""
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if port_of is announced_port else errors,
            stderr=errors,
            env={**os.environ, **environment},
        )
    try:
        port = await _ready(name, process, port_of, log)
        yield Program(name, process.pid, port, log, process.wait)
        if process.returncode is not None:
            raise ProgramFailed(f"{name}: ended by itself with status {process.returncode}\n{_tail(log)}")
    finally:
        await _end(process)


async def _ready(
    name: str,
    process: asyncio.subprocess.Process,
    port_of: Callable[[asyncio.subprocess.Process], Awaitable[int]],
    log: Path,
) -> int:
    becoming = asyncio.ensure_future(port_of(process))
    ending = asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait({becoming, ending}, timeout=_READY_S, return_when=asyncio.FIRST_COMPLETED)
        if becoming.done() and becoming.exception() is None:
            return becoming.result()
        if becoming.done():
            raise ProgramFailed(f"{name}: {becoming.exception()}\n{_tail(log)}")
        state = f"ended with status {process.returncode}" if ending.done() else f"not ready after {_READY_S:.0f} s"
        raise ProgramFailed(f"{name}: {state}\n{_tail(log)}")
    finally:
        becoming.cancel()
        ending.cancel()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


@asynccontextmanager
async def worker_alone(
    dsn: str,
    folder: Path,
    *,
    shards: int,
    cluster: str = "test",
    name: str = "worker",
    log: Path | None = None,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Program]:
    """A worker alone in its cluster, once it owns every shard; its secret is in ``folder``, its log too if no other is named."""
    secret = folder / "secret"
    secret.write_text("0123456789abcdef" * 4)
    secret.chmod(0o600)
    environment = {
        "SHARD_WORKER_NAME": "bench-0",
        "SHARD_WORKER_CLUSTER": cluster,
        "SHARD_WORKER_DSN": dsn,
        "SHARD_WORKER_HOST": "127.0.0.1",
        "SHARD_WORKER_PUBLIC_PORT": "0",
        "SHARD_WORKER_MANAGEMENT_PORT": "0",
        "SHARD_WORKER_SECRET_FILE": str(secret),
        "SHARD_WORKER_SHARDS": str(shards),
        "SHARD_WORKER_MAX_MESSAGES": str(_MESSAGES_MOST),
    }
    async with running(
        name,
        ["-m", "shard_worker.main", "run"],
        environment={**environment, **(settings or {})},
        log=log or folder / f"{name}.log",
        port_of=lambda _: _registered_port(dsn),
    ) as program:
        yield program


async def _registered_port(dsn: str) -> int:
    """Where the only worker of a database listens, as soon as its row says so and it owns all shards."""
    connection = await asyncpg.connect(dsn)
    try:
        while True:
            port = await connection.fetchval(
                "SELECT public_port FROM worker w WHERE NOT EXISTS"
                " (SELECT FROM shard WHERE incarnation IS DISTINCT FROM w.incarnation)"
            )
            if port:
                return int(port)
            await asyncio.sleep(0.05)
    finally:
        await connection.close()
