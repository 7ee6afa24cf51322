"""Migrations beside a running cluster: no request waits behind a statement that waits for a lock."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import asyncpg
import pytest

from shard_worker.database import migration
from shard_worker.database.connection import DatabaseUnsuitable
from shard_worker.database.migration import MigrationFailed, migrate
from shard_worker.database.migration_files import Migration, known_migrations
from tests.conftest import MakeDatabase
from tests.support.load.chat import drive, verify
from tests.support.load.record import Recorder
from tests.support.polling import eventually, more_acknowledged
from tests.support.programs import worker_alone

Plant = Callable[[str], int]
"""Add a migration with this SQL to those that are known; its version."""


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Migrations of a later release."""
    known = known_migrations()

    def add(sql: str) -> int:
        version = known[-1].version + 1
        planted = [*known, Migration(version, "planted", sql)]
        monkeypatch.setattr(migration, "known_migrations", lambda: planted)
        monkeypatch.setattr(migration, "SCHEMA_VERSION", version)
        return version

    return add


async def run(dsn: str, progress: list[str] | None = None, shards: int = 8) -> list[str]:
    """Migrate, and the versions that ran."""
    say = (lambda _: None) if progress is None else progress.append
    return await migrate(dsn, cluster_id="test", shards=shards, say=say)


async def _migrated_behind_a_reader(
    make_database: MakeDatabase, tmp_path: Path, plant: Plant, *, reads_s: float, clients: int
) -> None:
    dsn = await make_database(16)
    async with worker_alone(dsn, tmp_path, shards=16) as worker:
        stop, recorder = asyncio.Event(), Recorder(seed=3, clients=clients)
        driving = asyncio.create_task(
            drive(worker.url, clients=clients, until=stop, seed=3, pause_s=0.05, recorder=recorder)
        )
        await more_acknowledged(recorder, 20)
        reader = await asyncpg.connect(dsn)
        await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        for table in ("journal", "snapshot", "worker", "shard", "shard_epoch", "meta"):
            await reader.execute(f"LOCK TABLE {table} IN ACCESS SHARE MODE")
        plant(
            "ALTER TABLE journal ADD COLUMN planted text; ALTER TABLE snapshot ADD COLUMN planted text;"
            "ALTER TABLE worker ADD COLUMN planted integer NOT NULL DEFAULT 0; ALTER TABLE shard ADD COLUMN planted text;"
            "CREATE INDEX CONCURRENTLY journal_planted ON journal (shard_id, written_at);"
            "ALTER TABLE meta ADD COLUMN planted text;"
        )
        progress: list[str] = []
        migrating = asyncio.create_task(run(dsn, progress, shards=16))
        until_s = asyncio.get_running_loop().time() + reads_s
        await eventually(
            lambda: asyncio.get_running_loop().time() >= until_s and len(progress) > 1, within_s=reads_s + 15
        )
        assert not migrating.done()
        before = recorder.acknowledged_count
        await more_acknowledged(recorder, 20)
        assert recorder.acknowledged_count > before
        await reader.execute("COMMIT")
        ended = monotonic()
        assert await migrating == ["planted"]
        took_s = monotonic() - ended
        await more_acknowledged(recorder, 20)
        stop.set()
        record = await driving
        assert await verify(worker.url, record) == []
        await reader.close()
    again = [done for done in record.acknowledged if done.attempts > 1]
    print(
        f"migrated {took_s:.2f} s after a reader of {reads_s} s; {len(record.acknowledged)} requests, {len(again)} failed"
    )
    assert any("the lock is held by" in sentence and "requests pass meanwhile" in sentence for sentence in progress), (
        progress
    )
    assert (again, list(record.refused), list(record.unresolved), list(record.surprises)) == ([], [], [], [])
    assert took_s < 5.0


async def test_a_migration_behind_a_long_reader_fails_no_request(
    make_database: MakeDatabase, tmp_path: Path, plant: Plant
) -> None:
    """A backup holds ACCESS SHARE on every table; the migration waits for it, and no request waits for the
    migration.
    """
    await _migrated_behind_a_reader(make_database, tmp_path, plant, reads_s=2.0, clients=4)


@pytest.mark.soak
async def test_a_migration_behind_a_reader_of_a_minute_fails_no_request(
    make_database: MakeDatabase, tmp_path: Path, plant: Plant
) -> None:
    """The same for longer, and under more load."""
    await _migrated_behind_a_reader(make_database, tmp_path, plant, reads_s=60.0, clients=32)


async def test_a_step_reports_the_session_that_it_waits_for(dsn: str, plant: Plant) -> None:
    """By process, program and age of its transaction: an operator knows what to end."""
    reader = await asyncpg.connect(dsn, server_settings={"application_name": "pg_dump"})
    await reader.execute("BEGIN; LOCK TABLE journal IN ACCESS SHARE MODE")
    plant("ALTER TABLE journal ADD COLUMN planted text;")
    progress: list[str] = []
    migrating = asyncio.create_task(run(dsn, progress))
    await eventually(lambda: any("the lock is held by" in sentence for sentence in progress))
    assert f"{reader.get_server_pid()} (pg_dump, for " in progress[-1]
    assert "step 1 of 1 (ALTER TABLE journal ADD COLUMN planted text)" in progress[-1]
    await reader.close()
    assert await migrating == ["planted"]


async def test_a_run_that_was_ended_goes_on_with_the_next_step(dsn: str, plant: Plant) -> None:
    """A finished step is not repeated: each step is recorded when it is done."""
    admin = await asyncpg.connect(dsn)
    version = plant("CREATE TABLE one (id integer); CREATE TABLE two (id integer); CREATE TABLE three (id integer);")
    await admin.execute("CREATE TABLE two (in_the_way integer)")
    with pytest.raises(MigrationFailed, match="already exists"):
        await run(dsn)
    assert await admin.fetchval("SELECT count(*) FROM schema_step WHERE version = $1", version) == 1
    assert await admin.fetchval("SELECT max(version) FROM schema_migration") == version - 1
    await admin.execute("DROP TABLE two")
    assert await run(dsn) == ["planted"]
    assert await admin.fetchval("SELECT count(*) FROM pg_class WHERE relname IN ('one', 'two', 'three')") == 3
    assert await run(dsn) == []
    await admin.close()


async def test_a_run_that_began_in_another_wording_is_refused(dsn: str, plant: Plant) -> None:
    """Half of the one and half of the other would be a schema that no release knows."""
    admin = await asyncpg.connect(dsn)
    await admin.execute("CREATE TABLE two (in_the_way integer)")
    plant("CREATE TABLE one (id integer); CREATE TABLE two (id integer);")
    with pytest.raises(MigrationFailed):
        await run(dsn)
    plant("CREATE TABLE one (id bigint); CREATE TABLE three (id integer);")
    with pytest.raises(DatabaseUnsuitable, match="began in another wording"):
        await run(dsn)
    await admin.close()


async def test_an_index_that_was_left_half_built_is_built_again(dsn: str, plant: Plant) -> None:
    """An index that is not valid costs every write, and serves no read."""
    admin = await asyncpg.connect(dsn)
    await admin.execute("CREATE TABLE people (name text); INSERT INTO people VALUES ('ann'), ('ann')")
    with pytest.raises(asyncpg.UniqueViolationError):
        await admin.execute("CREATE UNIQUE INDEX CONCURRENTLY people_name ON people (name)")
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'people_name'::regclass"
    assert await admin.fetchval(valid) is False
    plant("CREATE INDEX CONCURRENTLY people_name ON people (name);")
    progress: list[str] = []
    assert await run(dsn, progress) == ["planted"]
    assert await admin.fetchval(valid) is True
    assert any("was left half built" in sentence for sentence in progress)
    await admin.close()


async def test_an_index_that_was_built_and_not_recorded_is_kept(dsn: str, plant: Plant) -> None:
    """The run ended just then: it is there, and valid."""
    admin = await asyncpg.connect(dsn)
    await admin.execute("CREATE TABLE people (name text); CREATE INDEX people_name ON people (name)")
    oid = await admin.fetchval("SELECT 'people_name'::regclass::oid")
    plant("CREATE INDEX CONCURRENTLY people_name ON people (name);")
    assert await run(dsn) == ["planted"]
    assert await admin.fetchval("SELECT 'people_name'::regclass::oid") == oid
    await admin.close()


def test_an_index_that_would_stop_writes_is_refused_in_a_file() -> None:
    """On a table of an earlier file it is built concurrently; on one of its own it is empty anyway."""
    Migration(9, "new", "CREATE TABLE t (a integer); CREATE INDEX t_a ON t (a);")
    Migration(9, "new", "CREATE UNIQUE INDEX CONCURRENTLY journal_a ON journal (epoch);")
    with pytest.raises(ValueError, match="must make index journal_a concurrently"):
        Migration(9, "new", "-- more\nCREATE UNIQUE INDEX journal_a\n    ON journal (epoch);")


def test_a_file_is_split_where_its_statements_end() -> None:
    """Not in a literal, a name, a body or a comment; and how it is written does not make it another."""
    sql = """
    -- one; two
    INSERT INTO t VALUES ('a;''b  c');  /* three; */
    CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $body$ SELECT ';' $body$;
    SELECT ";" FROM t;  -- end
    """
    split = Migration(9, "new", sql)
    assert [statement.sql for statement in split.statements] == [
        "INSERT INTO t VALUES ('a;''b  c')",
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $body$ SELECT ';' $body$",
        'SELECT ";" FROM t',
    ]
    again = Migration(9, "new", ";\n".join(statement.sql for statement in split.statements) + "; -- another comment")
    assert again.checksum == split.checksum
    assert Migration(9, "new", sql.replace("a;", "b;")).checksum != split.checksum
    with pytest.raises(ValueError, match="no semicolon"):
        Migration(9, "new", "SELECT 1; SELECT 2")
