"""What the local platform keeps to itself: passwords, the superuser, its control port."""

import json
import socket
from pathlib import Path

import asyncpg
import psutil
import pytest
from click.testing import CliRunner
from threadcluster_operator.local.cli import local
from threadcluster_operator.local.postgres import EmbeddedPostgres

from tests.local.cluster import LocalCluster, local_cluster


async def test_workers_have_no_superuser_and_no_argument_has_a_password(data_dir: Path) -> None:
    """Of all processes of a running cluster; a control request with any header gets an answer."""
    async with local_cluster(data_dir, 1, shards=4) as cluster:
        found = await cluster.status()
        admin = await asyncpg.connect(found["postgres"]["dsn"])
        try:
            logins = await admin.fetch(
                "SELECT DISTINCT a.usename, r.rolsuper FROM pg_stat_activity a JOIN pg_roles r ON r.rolname = a.usename"
                " WHERE a.application_name = $1",
                found["workers"][0]["incarnation"],
            )
        finally:
            await admin.close()
        assert [tuple(row) for row in logins] == [("threadcluster_worker_login", False)]
        passwords = [(data_dir / "postgres" / name).read_text().strip() for name in ("password", "worker-password")]
        supervisor = psutil.Process(found["supervisor"]["pid"])
        family = [supervisor, *supervisor.children(recursive=True)]
        arguments = " ".join(" ".join(process.cmdline()) for process in family)
        assert "shard_worker.main" in arguments
        assert not [password for password in passwords if password in arguments]
        assert _control_answer(data_dir, b"Bearer \xff\xfe\x80").startswith(b"HTTP/1.1 401")
        assert (await cluster.status())["ready"]


def _control_answer(data_dir: Path, authorization: bytes) -> bytes:
    """What the control port answers to a header."""
    port = int(json.loads((data_dir / "control.json").read_text())["url"].rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(
            b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: " + authorization + b"\r\n\r\n"
        )
        return connection.recv(65536)


async def test_a_password_that_is_refused_ends_up_at_once(data_dir: Path, postgres: EmbeddedPostgres) -> None:
    """It does not pass by itself, so nobody is kept waiting for it."""
    wrong = f"postgresql://threadcluster:wrong@127.0.0.1:{postgres.port}/threadcluster"
    cluster = LocalCluster(data_dir, database_url=wrong)
    with pytest.raises(AssertionError, match="password authentication failed"):
        await cluster.up(1)
    said = (data_dir / "logs" / "supervisor.log").read_text()
    assert "waiting for Postgres" not in said


@pytest.mark.parametrize(
    "dsn",
    ["postgresql://user:password@127.0.0.1/x", "postgresql://user@127.0.0.1/x?password=password"],
    ids=["login", "parameter"],
)
def test_a_password_in_an_argument_is_refused(tmp_path: Path, dsn: str) -> None:
    """With what to do instead."""
    done = CliRunner().invoke(local, ["up", "--data-dir", str(tmp_path), "--database-url", dsn])
    assert done.exit_code == 2
    assert "--database-url-file" in done.output
    assert "user:password" not in done.output
