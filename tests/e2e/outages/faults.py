"""Outages of the Postgres of a `Harness`, each for as long as its block runs."""

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Final

import asyncpg

from tests.e2e.outages.harness import DATABASE, Harness

Fault = Callable[[Harness], AbstractAsyncContextManager[None]]

_BLOCK: Final = 8192
_WAL_SEGMENT: Final = 16 << 20


@asynccontextmanager
async def stopped(harness: Harness) -> AsyncIterator[None]:
    """The server is killed, with all its sessions, and started again."""
    assert harness.server.pid is not None
    os.kill(harness.server.pid, signal.SIGQUIT)
    await harness.server.wait()
    yield
    await harness.server.start()


@asynccontextmanager
async def frozen(harness: Harness) -> AsyncIterator[None]:
    """Every process of the server is stopped in its tracks, and goes on where it was."""
    processes = harness.processes()
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in reversed(processes):
            process.resume()


@asynccontextmanager
async def read_only(harness: Harness) -> AsyncIterator[None]:
    """As managed databases do when their disk is nearly full: transactions are read-only by default."""
    await harness.reload("default_transaction_read_only", "on")
    await harness.end_sessions()
    yield
    await harness.reload("default_transaction_read_only", "")


@asynccontextmanager
async def disk_full(harness: Harness) -> AsyncIterator[None]:
    """The journal's file cannot grow: the kernel refuses it to every process of the server (RLIMIT_FSIZE).

    The limit must be above a WAL segment's size, so the journal's file is grown first, with rows that are deleted.
    """
    connection = await harness.admin()
    await connection.execute(
        "INSERT INTO journal (shard_id, shard_seq, thread_id, seq_nr, event_type, event_version, payload, metadata, epoch)"
        " SELECT 4095, n, gen_random_uuid(), 1, 1, 1, convert_to(repeat('x', 1900), 'UTF8'), '', 1"
        " FROM generate_series(1, 9500) n"
    )
    await connection.execute("DELETE FROM journal WHERE shard_id = 4095")
    size = await connection.fetchval("SELECT pg_relation_size('journal')")
    await connection.close()
    assert size > _WAL_SEGMENT
    limits = []
    for process in harness.processes():
        limits.append((process.pid, resource.prlimit(process.pid, resource.RLIMIT_FSIZE)))
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size + _BLOCK, limits[-1][1][1]))
    try:
        yield
    finally:
        before = limits[0][1]
        for pid in {pid for pid, _ in limits} | {process.pid for process in harness.processes()}:
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@asynccontextmanager
async def connections_full(harness: Harness) -> AsyncIterator[None]:
    """Every slot is taken by sessions of others; the worker's own were ended."""
    others: list[asyncpg.Connection] = []
    dsn = f"postgresql://{harness.login}:{harness.password}@127.0.0.1:{harness.server.port}/postgres"
    connection = await harness.admin()
    mine = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND usename = $2"
    try:
        async with asyncio.timeout(20):
            while True:
                with suppress(asyncpg.PostgresError, OSError):
                    while True:
                        others.append(await asyncpg.connect(dsn, ssl=False))
                if await connection.fetchval(mine, DATABASE, harness.login) == 0:
                    break
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND usename = $2",
                    DATABASE,
                    harness.login,
                )
        yield
    finally:
        await connection.close()
        for other in others:
            await other.close()


@asynccontextmanager
async def password_rotated(harness: Harness) -> AsyncIterator[None]:
    """The login's password is another; the worker's file names it later."""
    harness.password = f"{harness.password} again".replace(" ", "-")
    await harness.execute(f"ALTER ROLE {harness.login} PASSWORD '{harness.password}'")
    await harness.end_sessions()
    yield
    harness.write_dsn()


@asynccontextmanager
async def login_rotated(harness: Harness) -> AsyncIterator[None]:
    """The worker's file names another login, and the one of before is locked, with its sessions ended."""
    before = harness.login
    harness.login, harness.password = ("chat2", "second") if before == "chat" else ("chat", harness.password)
    await harness.execute(f"ALTER ROLE {before} NOLOGIN")
    await harness.end_sessions()
    yield
    harness.write_dsn()


@asynccontextmanager
async def certificate_expired(harness: Harness) -> AsyncIterator[None]:
    """The server shows a certificate that ended yesterday."""
    harness.show(expired=True)
    await harness.end_sessions()
    yield
    harness.show(expired=False)


@asynccontextmanager
async def in_recovery_then_promoted(harness: Harness) -> AsyncIterator[None]:
    """The server comes back as a standby, and is promoted to a new timeline."""
    await harness.server.stop()
    (harness.cluster / "standby.signal").touch()
    await harness.server.start()
    yield
    await harness.execute("SELECT pg_promote(true, 30)")


@asynccontextmanager
async def synchronous_standby_lost(harness: Harness) -> AsyncIterator[None]:
    """Every commit waits for a standby that is not there."""
    await harness.reload("synchronous_standby_names", "'gone'")
    yield
    await harness.reload("synchronous_standby_names", "")


@asynccontextmanager
async def statements_of_three_milliseconds(harness: Harness) -> AsyncIterator[None]:
    """The login's statements are ended after 3 ms, in sessions that do not ask for more."""
    await harness.execute(f"ALTER ROLE {harness.login} SET statement_timeout = '3ms'")
    await harness.end_sessions()
    yield
    await harness.execute(f"ALTER ROLE {harness.login} RESET statement_timeout")
    await harness.end_sessions()


OUTAGES: Final[dict[str, Fault]] = {
    "stopped": stopped,
    "frozen": frozen,
    "read only": read_only,
    "disk full": disk_full,
    "connections full": connections_full,
    "password rotated": password_rotated,
    "login rotated": login_rotated,
    "certificate expired": certificate_expired,
    "in recovery then promoted": in_recovery_then_promoted,
    "synchronous standby lost": synchronous_standby_lost,
    "statements of 3 ms": statements_of_three_milliseconds,
}
"""By the name that the table has."""
