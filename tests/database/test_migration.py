"""The schema: made once, safe to make twice at once, and never in another cluster's database."""

import asyncio
from collections import deque

import asyncpg
import pytest
from threadcluster_operator.local.postgres import EmbeddedPostgres

from shard_worker.database import migration
from shard_worker.database.claim_store import ClaimedByOther
from shard_worker.database.connection import DatabaseUnsuitable
from shard_worker.database.migration import (
    SchemaTooNew,
    ShardCountMismatch,
    migrate,
    read_id_salt,
    read_meta,
)
from shard_worker.database.migration_files import SCHEMA_VERSION


async def run(dsn: str, *, cluster_id: str = "test", shards: int = 8) -> list[str]:
    """Migrate, and the steps that ran."""
    return await migrate(dsn, cluster_id=cluster_id, shards=shards, say=lambda _: None)


async def test_ten_at_once_make_one_schema(postgres: EmbeddedPostgres) -> None:
    """Each step runs once, in one of the runs; the other runs find it made."""
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


async def test_the_salt_of_derived_ids_is_made_once(postgres: EmbeddedPostgres) -> None:
    """Each database has its own, of 32 bytes; a second run keeps it."""
    admin = await asyncpg.connect(postgres.dsn_of("postgres"))
    salts = []
    for name in ("salt_one", "salt_two"):
        await admin.execute(f"DROP DATABASE IF EXISTS {name}")
        await admin.execute(f"CREATE DATABASE {name}")
        for _ in range(2):
            await run(postgres.dsn_of(name))
            connection = await asyncpg.connect(postgres.dsn_of(name))
            salts.append(await read_id_salt(connection))
            await connection.close()
        await admin.execute(f"DROP DATABASE {name}")
    await admin.close()
    assert [len(salt) for salt in salts] == [32] * 4
    assert (salts[0], salts[2]) == (salts[1], salts[3])
    assert salts[0] != salts[2]


async def test_a_second_run_changes_nothing(dsn: str) -> None:
    """And says so."""
    assert await run(dsn) == []


async def test_another_cluster_is_refused_by_name(dsn: str) -> None:
    """Two clusters never share a journal."""
    with pytest.raises(ClaimedByOther, match="cluster 'test', not to cluster 'other'"):
        await run(dsn, cluster_id="other")


async def test_another_shard_count_is_refused_by_name(dsn: str) -> None:
    """A thread's shard would change under its history."""
    with pytest.raises(ShardCountMismatch, match=r"shards = 8.*16 was asked"):
        await run(dsn, shards=16)


async def test_a_schema_of_the_next_release_is_left_as_it_is(dsn: str) -> None:
    """By the migration and by a worker: a release that is half rolled out is taken back. The one after that is refused by
    both, and what the database is claimed for counts as ever.
    """
    connection = await asyncpg.connect(dsn)
    newer = "INSERT INTO schema_migration (version, name, checksum) VALUES ($1, 'future', '')"
    await connection.execute(newer, SCHEMA_VERSION + 1)
    await connection.execute(
        "REVOKE SELECT ON journal FROM threadcluster_worker"
    )  # a newer release knows its own grants
    assert await run(dsn) == []
    assert not await connection.fetchval("SELECT has_table_privilege('threadcluster_worker', 'journal', 'SELECT')")
    assert await read_meta(connection, cluster_id="test") == 8
    with pytest.raises(ShardCountMismatch):
        await run(dsn, shards=16)
    await connection.execute(newer, SCHEMA_VERSION + 2)
    for look in (run(dsn), read_meta(connection, cluster_id="test")):
        with pytest.raises(SchemaTooNew):
            await look
    await connection.close()


async def test_a_database_of_an_earlier_unreleased_schema_is_refused(dsn: str) -> None:
    """By the migration and by a worker: what ran under this number was something else, and nothing leads from there."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("UPDATE schema_migration SET checksum = 'x' WHERE version = 1")
    sentence = (
        r"migration 1 \(foundation\) ran in another wording: .* earlier, unreleased version .* make a new database"
    )
    with pytest.raises(DatabaseUnsuitable, match=sentence):
        await run(dsn)
    with pytest.raises(DatabaseUnsuitable, match=sentence):
        await read_meta(connection, cluster_id="test")
    await connection.close()


async def test_a_worker_refuses_a_schema_that_is_being_made(dsn: str) -> None:
    """Some steps are done, and no version is."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("DELETE FROM schema_migration")
    with pytest.raises(DatabaseUnsuitable, match=r"is version 0, .* migrate first"):
        await read_meta(connection, cluster_id="test")
    await connection.close()


async def test_a_worker_refuses_a_database_without_schema(postgres: EmbeddedPostgres) -> None:
    """With the command that makes one."""
    connection = await asyncpg.connect(postgres.dsn_of("postgres"))
    with pytest.raises(DatabaseUnsuitable, match="shard-worker migrate"):
        await read_meta(connection, cluster_id="test")
    await connection.close()


class Pooled:
    """A session before a pool of transactions, which lends an idle server process to any client."""

    def __init__(self, idle: deque[int], *, most: int, last_first: bool = True) -> None:
        self._idle = idle
        self._most = most
        self._last_first = last_first
        self._held: int | None = None

    async def execute(self, query: str) -> object:
        assert query == "BEGIN"
        self._held = await self._lent()
        return None

    async def fetchval(self, query: str) -> object:
        pid = self._held if self._held is not None else await self._lent()
        if self._held is None:
            self._idle.append(pid)
        return pid

    async def _lent(self) -> int:
        if not self._idle:
            if self._most == 1:
                await asyncio.Event().wait()
            return 100 + self._most
        return self._idle.pop() if self._last_first else self._idle.popleft()


@pytest.mark.parametrize("last_first", [True, False], ids=["last-first", "in-turns"])
@pytest.mark.parametrize("idle", [1, 2, 3])
async def test_a_pool_of_transactions_is_refused(idle: int, last_first: bool) -> None:
    """However it chooses among its server processes, and though no other client uses it."""
    servers = deque(range(idle))
    mine, other = (Pooled(servers, most=9, last_first=last_first) for _ in range(2))
    with pytest.raises(DatabaseUnsuitable, match="pools transactions"):
        await migration.refuse_transaction_pooling(mine, other)


async def test_a_pool_of_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No client gets an answer while another client is in a transaction."""
    monkeypatch.setattr(migration, "_POOL_S", 0.01)
    servers = deque([1])
    with pytest.raises(DatabaseUnsuitable, match="pools transactions"):
        await migration.refuse_transaction_pooling(Pooled(servers, most=1), Pooled(servers, most=1))


async def test_postgres_itself_is_no_pool(dsn: str) -> None:
    """Two sessions are two server processes."""
    connection, other = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    await migration.refuse_transaction_pooling(connection, other)
    connection.terminate()
    other.terminate()
