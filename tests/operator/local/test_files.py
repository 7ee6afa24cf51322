"""Small files after a power loss: emptied, damaged or missing, each heals or is named."""

import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner
from threadcluster_operator.cli.local import local
from threadcluster_operator.local import durable_file
from threadcluster_operator.local.control_client import ControlClient
from threadcluster_operator.local.data_dir import DataDir
from threadcluster_operator.local.errors import NotRunning
from threadcluster_operator.local.postgres import EmbeddedPostgres
from threadcluster_operator.local.worker_process import WorkerProcess

from shard_worker.database.migration import migrate

DAMAGES = {
    "emptied": b"",
    "blank": b"\n\n",
    "zeros": b"\0" * 32,
    "not-utf8": b"\xff\xfe\xfd",
    "other-json": b"[1, 2]",
    "half": b'{"url": "http://127',
    "empty-object": b"{}",
}


def damage(path: Path, content: bytes | None) -> None:
    """Give a file this content, or remove it."""
    if content is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(content)


every_damage = pytest.mark.parametrize("content", [*DAMAGES.values(), None], ids=[*DAMAGES, "missing"])


def test_a_write_is_flushed_before_it_replaces_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the content, then the name, then the folder: a power loss leaves the old text or the new one."""
    path = tmp_path / "file"
    path.write_text("old")
    seen: list[tuple[str, str]] = []
    flush = os.fsync

    def fsync(fd: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"
        seen.append((kind, path.read_text()))
        flush(fd)

    monkeypatch.setattr("os.fsync", fsync)
    durable_file.write_durably(path, "new")
    assert seen == [("file", "old"), ("folder", "new")]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@every_damage
def test_a_damaged_secret_is_made_again(tmp_path: Path, content: bytes | None) -> None:
    """A good one stays, also while it holds two values."""
    data_dir = DataDir(tmp_path)
    data_dir.make()
    good = data_dir.secret_file.read_text()
    data_dir.make()
    assert data_dir.secret_file.read_text() == good
    damage(data_dir.secret_file, content)
    data_dir.make()
    made = data_dir.secret_file.read_text()
    assert made != good
    assert len(made) >= 32
    data_dir.secret_file.write_text(f"{good}\n{made}\n")
    data_dir.make()
    assert data_dir.secret_file.read_text() == f"{good}\n{made}\n"


@every_damage
async def test_a_damaged_control_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    """To a client of a supervisor that lives."""
    data_dir = DataDir(tmp_path)
    data_dir.lock()
    data_dir.write_control("http://127.0.0.1:1", "t", "")
    assert data_dir.control() is not None
    damage(tmp_path / "control.json", content)
    assert data_dir.control() is None
    with pytest.raises(NotRunning, match=r"control\.json does not say where it listens"):
        await ControlClient(data_dir).status()


@every_damage
def test_a_damaged_list_of_workers_ends_nothing(tmp_path: Path, content: bytes | None) -> None:
    """And one with wrong ids in it neither."""
    data_dir = DataDir(tmp_path)
    data_dir.make()
    data_dir.remember_workers({"a": os.getpid()})
    damage(tmp_path / "workers.json", content)
    assert data_dir.end_orphans() == []
    (tmp_path / "workers.json").write_text(json.dumps({"a": "1", "b": None, "c": -1, "d": 2**40}))
    assert data_dir.end_orphans() == []


@every_damage
def test_a_damaged_ready_file_is_no_answer(tmp_path: Path, content: bytes | None) -> None:
    """The worker is taken for one that has not bound its ports."""
    data_dir = DataDir(tmp_path)
    data_dir.make()
    damage(data_dir.run / "w.json", content)
    assert WorkerProcess("w", data_dir, {}, 3).bound() is None


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_resource_is_asked_for_again(tmp_path: Path, content: bytes) -> None:
    """`up` without -f names it; `status` says that nothing runs."""
    data_dir = DataDir(tmp_path / "demo")
    data_dir.make()
    damage(data_dir.cluster_yaml, content)
    up = CliRunner().invoke(local, ["up", "--data-dir", str(data_dir.path), "--port", "0"])
    assert up.exit_code == 1
    assert "cluster.yaml is damaged: hand the resource over again with -f" in up.output
    status = CliRunner().invoke(local, ["status", "--data-dir", str(data_dir.path)])
    assert status.exit_code == 3
    assert "no cluster is running" in status.output


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A server whose files may be damaged."""
    server = EmbeddedPostgres(tmp_path / "postgres")
    await server.start()
    await migrate(server.dsn, cluster_id="test", shards=4, say=lambda _: None)
    yield server
    await server.stop()


async def logins(server: EmbeddedPostgres) -> list[tuple[bool, bool]]:
    """For both DSNs: whether the login is a superuser, and whether it may delete events."""
    found = []
    for dsn in (server.dsn, server.worker_dsn):
        connection = await asyncpg.connect(dsn)
        try:
            row = await connection.fetchrow(
                "SELECT rolsuper, has_table_privilege('journal', 'DELETE') FROM pg_roles WHERE rolname = current_user"
            )
            assert row is not None
            found.append((row[0], row[1]))
        finally:
            await connection.close()
    return found


async def test_postgres_starts_whatever_became_of_its_small_files(server: EmbeddedPostgres) -> None:
    """The port and both passwords, each damaged in each way; data and logins stay, and the workers' may not delete."""
    assert await logins(server) == [(True, True), (False, False)]
    damages = {"emptied": b"", "not-utf8": b"\xff\xfe", "missing": None, "another": b"another-password-than-before"}
    for name, content in damages.items():
        await server.stop()
        for file in ("port", "password", "worker-password", "cluster/threadcluster.conf"):
            damage(server.data_dir / file, content)
        server = EmbeddedPostgres(server.data_dir)
        await server.start()
        assert await logins(server) == [(True, True), (False, False)], name
    await server.stop()
