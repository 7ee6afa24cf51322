"""The schema: made once, safe to make twice at once, and never for somebody else."""

import asyncio

import asyncpg
import pytest
from threadcluster_operator.local.postgres import EmbeddedPostgres

from shard_worker.database import migration
from shard_worker.database.connection import DatabaseUnsuitable
from shard_worker.database.migration import (
    SCHEMA_VERSION,
    ClaimedByOther,
    SchemaTooNew,
    ShardCountMismatch,
    migrate,
    read_meta,
)
from shard_worker.database.roles import WORKER_ROLE


async def run(dsn: str, *, cluster_id: str = "test", shards: int = 8) -> list[str]:
    """Migrate, and the steps that ran."""
    return await migrate(dsn, cluster_id=cluster_id, shards=shards, say=lambda _: None)


async def test_ten_at_once_make_one_schema(postgres: EmbeddedPostgres) -> None:
    """Each step runs once, whoever is first; the rest find it made."""
    admin = await asyncpg.connect(postgres.dsn_of("postgres"))
    await admin.execute("DROP DATABASE IF EXISTS ten_at_once")
    await admin.execute("CREATE DATABASE ten_at_once")
    dsn = postgres.dsn_of("ten_at_once")
    ran = await asyncio.gather(*[run(dsn) for _ in range(10)])
    assert sorted(map(len, ran)) == [0] * 9 + [SCHEMA_VERSION]
    connection = await asyncpg.connect(dsn)
    assert await read_meta(connection, cluster_id="test") == 8
    assert await connection.fetchval("SELECT count(*) FROM shard") == 8
    await connection.close()
    await admin.execute("DROP DATABASE ten_at_once")
    await admin.close()


async def test_a_second_run_changes_nothing(dsn: str) -> None:
    """And says so."""
    assert await run(dsn) == []


async def test_another_cluster_is_refused_by_name(dsn: str) -> None:
    """Two clusters never share a journal."""
    with pytest.raises(ClaimedByOther, match="'test', not to 'other'"):
        await run(dsn, cluster_id="other")


async def test_another_shard_count_is_refused_by_name(dsn: str) -> None:
    """A thread's shard would change under its history."""
    with pytest.raises(ShardCountMismatch, match=r"shards = 8.*16 was asked"):
        await run(dsn, shards=16)


async def test_a_newer_schema_is_refused(dsn: str) -> None:
    """By the migration at once; a worker still reads one version ahead, for a rollout."""
    connection = await asyncpg.connect(dsn)
    newer = "INSERT INTO schema_migration (version, name, checksum) VALUES ($1, 'future', '')"
    await connection.execute(newer, SCHEMA_VERSION + 1)
    with pytest.raises(SchemaTooNew):
        await run(dsn)
    assert await read_meta(connection, cluster_id="test") == 8
    await connection.execute(newer, SCHEMA_VERSION + 2)
    with pytest.raises(SchemaTooNew):
        await read_meta(connection, cluster_id="test")
    await connection.close()


async def test_an_edited_migration_is_noticed(dsn: str) -> None:
    """What ran under this number was something else."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("UPDATE schema_migration SET checksum = 'x'")
    await connection.close()
    with pytest.raises(DatabaseUnsuitable, match="another wording"):
        await run(dsn)


async def test_a_worker_refuses_a_database_without_schema(postgres: EmbeddedPostgres) -> None:
    """With the command that makes one."""
    connection = await asyncpg.connect(postgres.dsn_of("postgres"))
    with pytest.raises(DatabaseUnsuitable, match="shard-worker migrate"):
        await read_meta(connection, cluster_id="test")
    await connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE journal SET epoch = 0",
        "DELETE FROM journal",
        "TRUNCATE journal",
        "DELETE FROM shard",
        "DROP TABLE worker",
    ],
)
async def test_a_workers_role_cannot_change_history(dsn: str, statement: str) -> None:
    """It reads and appends; that is all."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(f"SET ROLE {WORKER_ROLE}")
    await connection.fetch("SELECT * FROM journal")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(statement)
    await connection.close()


async def test_a_pool_of_transactions_is_refused(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that changes the session between statements shows it by losing the session's own settings."""
    connection = await asyncpg.connect(dsn)
    honest = asyncpg.Connection.fetch

    async def elsewhere(query: str) -> list[asyncpg.Record]:
        await connection.execute("RESET ALL")  # what another session would know
        return await honest(connection, query)

    monkeypatch.setattr(asyncpg.Connection, "fetch", lambda _, query: elsewhere(query))
    with pytest.raises(DatabaseUnsuitable, match="pools transactions"):
        await migration.refuse_transaction_pooling(connection)
    await connection.close()
