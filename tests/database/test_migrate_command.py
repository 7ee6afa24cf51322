"""`shard-worker migrate`: the container's termination message has the reason of a failure as one word."""

import asyncio
import json
import socket
import time
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner, Result
from threadcluster_operator.local.postgres import EmbeddedPostgres

from shard_worker.contract_internal import DatabaseFault
from shard_worker.database.migration_files import SCHEMA_VERSION
from shard_worker.main import main
from tests.support.tcp_proxy import TcpProxy


@pytest.fixture
def message_file(tmp_path: Path) -> Path:
    """Where a container's termination message would be: there before, and empty."""
    path = tmp_path / "termination-log"
    path.touch()
    return path


async def migrate(dsn: str, message_file: Path, **environment: str) -> Result:
    """Run the command as a Job does."""
    given = {
        "SHARD_WORKER_DSN": dsn,
        "SHARD_WORKER_CLUSTER": "test",
        "SHARD_WORKER_SHARDS": "8",
        "SHARD_WORKER_TERMINATION_FILE": str(message_file),
        **environment,
    }
    return await asyncio.to_thread(CliRunner().invoke, main, ["migrate"], env=given)


def reason(result: Result, message_file: Path) -> DatabaseFault:
    """Why it failed, after a look at how."""
    assert result.exit_code == 1, result.output
    message = json.loads(message_file.read_text())
    assert set(message) == {"reason", "message"}
    assert message["message"] in result.output
    return DatabaseFault(message["reason"])


async def test_one_that_succeeds_leaves_no_message(dsn: str, message_file: Path) -> None:
    """There is nothing to tell."""
    result = await migrate(dsn, message_file)
    assert result.exit_code == 0, result.output
    assert message_file.read_text() == ""


async def test_without_a_file_the_reason_is_on_standard_error_alone(dsn: str) -> None:
    """As at a terminal."""
    arguments = ["migrate", "--dsn", dsn, "--cluster", "other", "--shards", "8"]
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments)
    assert result.exit_code == 1
    assert "belongs to cluster 'test'" in result.output


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"SHARD_WORKER_CLUSTER": "other"}, DatabaseFault.CLAIMED_BY_OTHER, id="another cluster's"),
        pytest.param({"SHARD_WORKER_SHARDS": "16"}, DatabaseFault.SHARD_COUNT_MISMATCH, id="another shard count"),
        pytest.param({"SHARD_WORKER_DATABASE_TLS": "require"}, DatabaseFault.TLS_FAILED, id="TLS that it has not"),
    ],
)
async def test_what_is_asked_of_the_database_is_not_so(
    dsn: str, message_file: Path, change: dict[str, str], expected: DatabaseFault
) -> None:
    """Each has its word."""
    assert reason(await migrate(dsn, message_file, **change), message_file) is expected


async def test_a_wrong_password_or_database(dsn: str, message_file: Path) -> None:
    """It answers, and does not let us in; the password is not in the message."""
    for wrong in (dsn.replace("@", "wrong@"), dsn + "_that_is_not_there"):
        assert reason(await migrate(wrong, message_file), message_file) is DatabaseFault.AUTH_FAILED
        assert dsn.split(":")[2].split("@")[0] not in message_file.read_text()


async def test_a_schema_that_is_too_new(dsn: str, message_file: Path) -> None:
    """Releases after the next may have written events that this release cannot read."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "INSERT INTO schema_migration (version, name, checksum) VALUES ($1, 'future', ''), ($2, 'later', '')",
        *(SCHEMA_VERSION + 1, SCHEMA_VERSION + 2),
    )
    await connection.close()
    assert reason(await migrate(dsn, message_file), message_file) is DatabaseFault.SCHEMA_TOO_NEW


async def test_another_wording_of_what_ran(dsn: str, message_file: Path) -> None:
    """The database was made by something else under the same numbers."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("UPDATE schema_migration SET checksum = 'x'")
    await connection.close()
    assert reason(await migrate(dsn, message_file), message_file) is DatabaseFault.UNSUITABLE


async def test_a_login_that_may_not_make_tables(postgres: EmbeddedPostgres, message_file: Path) -> None:
    """The server says no to a step, and nothing of it is done."""
    admin = await asyncpg.connect(postgres.dsn_of("postgres"))
    await admin.execute("CREATE ROLE visitor LOGIN PASSWORD 'visitor'")
    await admin.execute("CREATE DATABASE visited")
    dsn = f"postgresql://visitor:visitor@127.0.0.1:{postgres.port}/visited"
    assert reason(await migrate(dsn, message_file), message_file) is DatabaseFault.MIGRATION_FAILED
    await admin.execute("DROP DATABASE visited")
    await admin.execute("DROP ROLE visitor")
    await admin.close()


async def test_a_host_that_does_not_resolve_is_unreachable(message_file: Path) -> None:
    """The name may come to be."""
    assert (
        reason(await migrate("postgresql://u:p@nowhere.invalid/d", message_file), message_file)
        is DatabaseFault.UNREACHABLE
    )


@pytest.mark.parametrize(
    ("dsn", "says"),
    [
        ("postgresql://u:p@h:port/d", "port"),
        ("postgresql://u:p@[::1/d", "IPv6"),
        ("host=h dbname=d", "postgresql://"),
        ("postgresql://u:se#cret@h/d", "%23"),
        ("postgresql://u:se/cret@h/d", "%2F"),
    ],
    ids=["no port", "half an address", "no URL", "unescaped #", "unescaped /"],
)
async def test_a_dsn_that_waiting_does_not_mend_is_unsuitable(dsn: str, says: str, message_file: Path) -> None:
    """A permanent fault is not reported as a passing one."""
    assert reason(await migrate(dsn, message_file), message_file) is DatabaseFault.UNSUITABLE
    assert says in message_file.read_text()
    assert "cret" not in message_file.read_text()


async def test_a_refused_connection_is_unreachable(message_file: Path) -> None:
    """The caller tries again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        dsn = f"postgresql://u:secret-word@127.0.0.1:{taken.getsockname()[1]}/d"
        began = time.monotonic()
        assert reason(await migrate(dsn, message_file), message_file) is DatabaseFault.UNREACHABLE
    assert time.monotonic() - began < 5
    assert "secret-word" not in message_file.read_text()


async def test_a_link_that_falls_silent_is_given_up(
    dsn: str, message_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it connects, and after that: in both cases it ends by itself."""
    monkeypatch.setattr("shard_worker.database.session.CONNECT_S", 0.5)
    monkeypatch.setattr("shard_worker.database.migration._CHECK_S", 0.5)
    target = int(dsn.rpartition(":")[2].partition("/")[0])
    async with TcpProxy("127.0.0.1", target) as proxy:
        through = dsn.replace(f":{target}/", f":{proxy.port}/")
        proxy.stall()
        assert reason(await migrate(through, message_file), message_file) is DatabaseFault.UNREACHABLE
        proxy.heal()

        def stall_at_the_check(data: bytes) -> None:
            if b"pg_control_system" in data:
                proxy.stall()

        proxy.watch = stall_at_the_check
        assert reason(await migrate(through, message_file), message_file) is DatabaseFault.UNREACHABLE


async def test_a_server_that_stops_meanwhile(dsn: str, message_file: Path) -> None:
    """The link is cut in the middle: unreachable, not a failed step."""
    target = int(dsn.rpartition(":")[2].partition("/")[0])
    async with TcpProxy("127.0.0.1", target) as proxy:

        def cut_at_the_schema_table(data: bytes) -> None:
            if b"schema_migration" in data:
                proxy.cut()

        proxy.watch = cut_at_the_schema_table
        through = dsn.replace(f":{target}/", f":{proxy.port}/")
        assert reason(await migrate(through, message_file), message_file) is DatabaseFault.UNREACHABLE
