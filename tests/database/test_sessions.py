"""Sessions pin their settings; a failed login is retried when it may pass; hosts are tried in turn."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from threadcluster_operator.local.postgres import EmbeddedPostgres

from shard_worker.database.connection import Database, DatabaseAuthFailed, DatabaseUnreachable
from shard_worker.database.reconnecting import Backoff, ConnectGate
from tests.support.members import EVERY, member
from tests.support.polling import eventually
from tests.support.tcp_proxy import TcpProxy

HOSTILE = {
    "default_transaction_isolation": ("serializable", "read committed"),
    "default_transaction_read_only": ("on", "off"),
    "default_transaction_deferrable": ("on", "off"),
    "search_path": ("nowhere", "public"),
    "statement_timeout": ("3ms", "0"),
    "lock_timeout": ("1ms", "2s"),
    "idle_in_transaction_session_timeout": ("1ms", "2s"),
    "idle_session_timeout": ("200ms", "0"),
    "synchronous_commit": ("off", "on"),
    "jit": ("on", "off"),
    "timezone": ("Asia/Kathmandu", "UTC"),
}


def database(dsn: str | Path) -> Database:
    """As a worker has one."""
    return Database(dsn, application_name=lambda: "me")


@pytest.fixture
async def hostile(dsn: str) -> str:
    """A database whose own settings would break every promise."""
    admin = await asyncpg.connect(dsn)
    for name, (value, _) in HOSTILE.items():
        await admin.execute(f"ALTER DATABASE {dsn.rsplit('/', 1)[1]} SET {name} = '{value}'")
    await admin.close()
    return dsn


async def test_every_session_pins_what_the_protocol_rests_on(hostile: str) -> None:
    """Whatever the database or the role sets."""
    connection = await database(hostile).connect("test")
    assert {name: await connection.fetchval(f"SHOW {name}") for name in HOSTILE} == {
        name: pinned for name, (_, pinned) in HOSTILE.items()
    }
    connection.terminate()


async def test_a_worker_joins_and_claims_on_a_hostile_database(hostile: str) -> None:
    """And loses no session to an ambient time-out."""
    async with member(hostile, "a") as a:
        await eventually(lambda: a.shards == EVERY, within_s=30)


@pytest.mark.parametrize("content", [None, b"", b"not a DSN", b"\xff\xfe\x00", b"postgresql://u:p#w@h/d"])
async def test_a_dsn_file_that_cannot_be_used_is_waited_out_and_named(
    dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    """Missing, empty, or half of a Secret that is being replaced: no error leaves the task that connects."""
    file = tmp_path / "dsn"
    if content is not None:
        file.write_bytes(content)
    connecting = asyncio.create_task(database(file).connect("lease"))
    await eventually(lambda: "waiting for Postgres" in caplog.text)
    cause = next(record.__dict__["cause"] for record in caplog.records if record.message == "waiting for Postgres")
    assert str(file) in cause
    file.write_text(dsn)
    (await connecting).terminate()


async def test_a_directory_in_place_of_the_dsn_file_is_named(tmp_path: Path) -> None:
    """As a volume that is mounted wrongly."""
    with pytest.raises(DatabaseUnreachable, match="cannot be read"):
        await database(tmp_path).connect_once("lease")


# --- several hosts


@pytest.fixture
async def silent() -> AsyncIterator[TcpProxy]:
    """A host that accepts and says nothing, as a frozen server does."""
    async with TcpProxy("127.0.0.1", 1) as proxy:

        async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(swallow, "127.0.0.1", 0)
        proxy.port = server.sockets[0].getsockname()[1]
        yield proxy
        server.close()


@pytest.mark.parametrize("query", ["", "?target_session_attrs=read-write", "?target_session_attrs=any"])
async def test_the_host_that_answers_is_found_whichever_place_it_has(
    dsn: str, postgres: EmbeddedPostgres, silent: TcpProxy, query: str
) -> None:
    """The first connection asks all, later ones begin with the one that was good, and pass over a silent one."""
    good = f"127.0.0.1:{postgres.port}"
    for hosts in (f"127.0.0.1:1,{good}", f"127.0.0.1:{silent.port},{good}", f"{good},127.0.0.1:{silent.port}"):
        seen = database(dsn.replace(good, hosts) + query)
        for _ in range(2):
            async with asyncio.timeout(20):
                (await seen.connect("test")).terminate()
        seen._last_host = None
        async with asyncio.timeout(20):
            (await seen.connect("test")).terminate()


async def test_of_several_failures_the_most_telling_is_named(dsn: str, postgres: EmbeddedPostgres) -> None:
    """A refused login is more than a host that is away."""
    good = f"127.0.0.1:{postgres.port}"
    seen = database(dsn.replace(good, f"127.0.0.1:1,{good}").replace("@", "wrong@"))
    with pytest.raises(DatabaseAuthFailed, match=r"127\.0\.0\.1:1"):
        await seen.connect_once("test")


# --- backing off


def test_pauses_double_up_to_a_second_with_jitter() -> None:
    """Workers that lost their database do not connect again in one moment."""
    longest, shortest = Backoff(jitter=lambda: 1.0), Backoff(jitter=lambda: 0.0)
    pauses = [longest.next_s() for _ in range(7)]
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert [shortest.next_s() for _ in range(7)] == [pause / 2 for pause in pauses]
    longest.reset()
    assert longest.next_s() == 0.05


async def test_a_worker_that_cannot_connect_makes_one_attempt_a_round() -> None:
    """Ten sessions that are lost at once, and ten that want to connect: one attempt, then a longer pause."""
    now = 0.0
    gate = ConnectGate(Backoff(jitter=lambda: 1.0), clock=lambda: now)
    tried = 0

    async def away() -> None:
        nonlocal tried
        tried += 1
        await asyncio.sleep(0)
        raise DatabaseUnreachable("away")

    await asyncio.gather(*[gate.run(away) for _ in range(10)], return_exceptions=True)
    assert (tried, gate.wait_s) == (10, 0.05)
    for pause_s in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0):
        tried = 0
        now += gate.wait_s
        errors = await asyncio.gather(*[gate.run(away) for _ in range(10)], return_exceptions=True)
        assert all(isinstance(error, DatabaseUnreachable) for error in errors)
        assert (tried, round(gate.wait_s, 6)) == (1, pause_s)

    async def there() -> str:
        return "there"

    now += gate.wait_s
    assert await asyncio.gather(*[gate.run(there) for _ in range(10)]) == ["there"] * 10
    assert gate.wait_s == 0.0


async def test_all_sessions_of_a_worker_share_one_line_to_a_database_that_is_away() -> None:
    """Counted at the far end of the link: no fifteen a second."""
    accepted = 0

    def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        writer.transport.abort()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    seen = database(f"postgresql://u:p@127.0.0.1:{server.sockets[0].getsockname()[1]}/d?sslmode=disable")
    purposes = ["lease", "reconciler", *[f"append-{number}" for number in range(4)], *["append-outcome"] * 4]
    waiting = [asyncio.create_task(seen.connect(purpose)) for purpose in purposes]
    await eventually(lambda: seen.gate.wait_s > 0.5, what="the longest pause")
    # Ten at once, then one a round, and the lease's beside it: 0.05, 0.1, 0.2, 0.4, 0.8 s apart, each pause at least half of it.
    assert accepted <= len(purposes) + 2 * 8
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    server.close()


async def test_a_long_lived_session_that_breaks_at_once_is_opened_ever_less_often(dsn: str) -> None:
    """As where the server lets in and refuses every statement."""
    seen = database(dsn)
    pauses = []
    loop = asyncio.get_running_loop()
    for _ in range(4):
        began = loop.time()
        (await seen.connect("lease")).terminate()
        pauses.append(loop.time() - began)
    assert pauses[2] >= 0.05
    assert pauses[3] >= 0.1


@pytest.mark.parametrize("beside", ["", ",127.0.0.1:1"])
async def test_an_address_that_moves_while_an_attempt_hangs_is_found_without_waiting_for_it(
    dsn: str, postgres: EmbeddedPostgres, silent: TcpProxy, beside: str
) -> None:
    """A frozen server accepts and says nothing; the next attempt is made beside the one that waits, and only one."""
    good = f"127.0.0.1:{postgres.port}"
    async with TcpProxy("127.0.0.1", postgres.port) as address:
        seen = database(dsn.replace(good, f"127.0.0.1:{address.port}{beside}"))
        (await seen.connect_once("test")).terminate()
        await eventually(lambda: address.connections == 0)
        address.lead_to("127.0.0.1", silent.port)
        hanging = [asyncio.create_task(seen.connect_once("test")) for _ in range(5)]
        async with asyncio.timeout(10):
            while address.connections < 6:
                await asyncio.sleep(0.01)
            address.lead_to("127.0.0.1", postgres.port)
            done, _ = await asyncio.wait(hanging, return_when=asyncio.FIRST_COMPLETED)
        (await done.pop()).terminate()
        assert address.connections <= 8
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)


async def test_sessions_that_a_fail_over_ended_are_opened_again_at_once(dsn: str) -> None:
    """They did not break by themselves: the pause between sessions that break at once is not for them."""
    seen = database(dsn)
    for _ in range(6):
        await seen.connect("lease")
        assert seen.newest is not None
        seen._advance(seen.newest, "test")
    loop = asyncio.get_running_loop()
    began = loop.time()
    await seen._steady("lease")
    assert loop.time() - began < 0.05
