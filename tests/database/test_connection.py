"""Connections that may be trusted, and those that may not."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
from threadcluster_operator.local.postgres import EmbeddedPostgres

from shard_worker.database.connection import (
    CONNECTION_ERRORS,
    Database,
    DatabaseAuthFailed,
    DatabaseUnreachable,
    DatabaseUnsuitable,
    ServerIdentity,
    address_of,
    check,
)
from tests.support.polling import eventually
from tests.support.tcp_proxy import TcpProxy


def database(dsn: str | Path) -> Database:
    """As a worker has one."""
    return Database(dsn, application_name=lambda: "me")


async def test_every_session_waits_for_the_disk_and_gives_up_on_locks(dsn: str) -> None:
    """The settings that the journal relies on."""
    connection = await database(dsn).connect("test")
    shown = {
        name: await connection.fetchval(f"SHOW {name}")
        for name in ("synchronous_commit", "lock_timeout", "idle_in_transaction_session_timeout", "application_name")
    }
    assert shown == {
        "synchronous_commit": "on",
        "lock_timeout": "2s",
        "idle_in_transaction_session_timeout": "2s",
        "application_name": "me",
    }
    await connection.close()


async def test_a_file_with_the_dsn_is_read_again_each_time(dsn: str, tmp_path: Path) -> None:
    """A rotated password needs no restart."""
    file = tmp_path / "dsn"
    rotating = database(file)
    file.write_text(dsn.replace("@", "wrong@"))
    with pytest.raises(DatabaseAuthFailed):
        await rotating.connect_once("test")
    file.write_text(dsn + "\n")
    await (await rotating.connect("test")).close()


async def test_an_unreachable_server_differs_from_a_refused_login(dsn: str) -> None:
    """And neither message holds the password."""
    async with TcpProxy("127.0.0.1", 1) as proxy:
        proxy.refusing = True
        away = f"postgresql://u:secret-word@127.0.0.1:{proxy.port}/d"
        with pytest.raises(DatabaseUnreachable) as caught:
            await database(away).connect_once("test")
    assert "secret-word" not in str(caught.value)
    with pytest.raises(DatabaseAuthFailed):
        await database(dsn + "_that_is_not_there").connect_once("test")
    assert address_of(away) == f"127.0.0.1:{proxy.port}/d"


async def test_the_lease_is_connected_before_sessions_that_were_lost_with_it(
    dsn: str, postgres: EmbeddedPostgres
) -> None:
    """Also when it has to pause, because links are reset one after the other."""
    async with TcpProxy("127.0.0.1", postgres.port) as proxy:
        shared = database(dsn.replace(f":{postgres.port}/", f":{proxy.port}/"))
        opened: list[str] = []

        async def hold(purpose: str) -> None:
            while True:
                ended = asyncio.Event()
                connection = await shared.connect(purpose)
                connection.add_termination_listener(lambda _, ended=ended: ended.set())
                opened.append(purpose)
                await ended.wait()

        purposes = [*(f"read-{number}" for number in range(12)), "lease"]
        holding = [asyncio.create_task(hold(purpose)) for purpose in purposes]
        for _ in range(3):
            await eventually(lambda: len(opened) == len(purposes))
            opened.clear()
            proxy.cut()
            await eventually(lambda: len(opened) > 0)
            assert opened[0] == "lease"
        assert shared.attempts >= 3 * len(purposes)
        for each in holding:
            each.cancel()
        await asyncio.gather(*holding, return_exceptions=True)


async def test_a_read_finds_a_server_that_is_away_to_be_a_link_fault(dsn: str) -> None:
    """Readers do not know how connections are opened: a failed read is tried again."""
    async with TcpProxy("127.0.0.1", 1) as proxy:
        proxy.refusing = True
        pool = await database(f"postgresql://u:p@127.0.0.1:{proxy.port}/d").pool(most=1)
        with pytest.raises(CONNECTION_ERRORS):
            await pool.run(lambda connection: connection.fetchval("SELECT 1"))
        pool.terminate()
    wrong = await database(dsn.replace("@", "wrong@")).pool(most=1)
    with pytest.raises(CONNECTION_ERRORS):
        await wrong.run(lambda connection: connection.fetchval("SELECT 1"))
    wrong.terminate()


async def test_a_server_that_may_lose_commits_is_refused(tmp_path: Path) -> None:
    """Fsync off is for toys."""
    server = EmbeddedPostgres(tmp_path / "careless")
    await server.start()
    try:
        connection = await asyncpg.connect(server.dsn)
        await connection.execute("ALTER SYSTEM SET fsync = off")
        await connection.close()
        await server.stop()
        await server.start()
        with pytest.raises(DatabaseUnsuitable, match="fsync"):
            await database(server.dsn).connect_once("test")
    finally:
        await server.stop()


async def test_a_fail_over_is_noticed_once_and_another_system_refused(dsn: str) -> None:
    """A new timeline means that nothing in memory can be trusted; another system means another journal."""
    failovers: list[int] = []
    seen = Database(dsn, application_name=lambda: "me", on_failover=lambda: failovers.append(1))
    connection = await seen.connect("test")
    identity = await check(connection)
    await connection.close()
    seen._newest = ServerIdentity(identity.system, identity.timeline - 1)
    for _ in range(2):
        await (await seen.connect("test")).close()
    assert failovers == [1]
    seen._newest = ServerIdentity(identity.system + 1, identity.timeline)
    with pytest.raises(DatabaseUnsuitable, match="another database system"):
        await seen.connect_once("test")


async def test_an_address_that_leads_elsewhere_by_mistake_heals_when_it_is_taken_back(
    dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A running worker waits, and names what is wrong; it does not end."""
    file = tmp_path / "dsn"
    file.write_text(dsn)
    seen = database(file)
    await (await seen.connect("lease")).close()
    ours = seen._newest
    assert ours is not None
    seen._newest = ours._replace(system=ours.system + 1)
    connecting = asyncio.create_task(seen.connect("reconciler"))
    await eventually(lambda: "waiting for Postgres" in caplog.text)
    assert "another database system" in str([record.__dict__ for record in caplog.records])
    seen._newest = ours
    (await connecting).terminate()


async def test_a_read_that_hangs_is_given_up_and_its_connection_closed(dsn: str) -> None:
    """A connection in an unknown state is never put back."""
    pool = await database(dsn).pool(most=1)
    pids = [await pool.run(lambda connection: connection.fetchval("SELECT pg_backend_pid()")) for _ in range(2)]
    assert pids[0] == pids[1]
    with pytest.raises(TimeoutError):
        await pool.run(lambda connection: connection.execute("SELECT pg_sleep(20)"), within_s=0.1)
    assert await pool.run(lambda connection: connection.fetchval("SELECT pg_backend_pid()")) != pids[0]
    pool.terminate()
