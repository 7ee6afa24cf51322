"""Bringing the schema to this release: once, in order, additive, and safe when two start at once.

The first run claims the database for one cluster and one shard count; another cluster or another count is refused by
name.  A schema newer than this release is refused too: the release that made it may write what this one cannot read.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from importlib.resources import files
from typing import Final, NamedTuple, Protocol

import asyncpg

from shard_worker.contract import DatabaseFault
from shard_worker.database.connection import (
    LINK_FAULTS,
    DatabaseError,
    DatabaseUnreachable,
    DatabaseUnsuitable,
    check,
    open_connection,
)
from shard_worker.database.roles import grant_worker_role
from shard_worker.database.tls import BY_DSN, Tls

log = logging.getLogger(__name__)

_LOCK: Final = 0x7463_6C75  # one migration at a time in a database; any fixed number will do
_CHECK_S: Final = 10.0
_POOL_S: Final = 3.0
_GONE: Final = ("08", "57")
"""The classes of SQLSTATE that say that the server, or the link, is going."""
_BOOK_SQL: Final = """
CREATE TABLE IF NOT EXISTS schema_migration (
    version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()
)
"""


class ClaimedByOther(DatabaseError):
    """The database belongs to another cluster."""

    fault = DatabaseFault.CLAIMED_BY_OTHER


class ShardCountMismatch(DatabaseError):
    """The database was made with another shard count, which never changes."""

    fault = DatabaseFault.SHARD_COUNT_MISMATCH


class SchemaTooNew(DatabaseError):
    """The schema was made by a newer release."""

    fault = DatabaseFault.SCHEMA_TOO_NEW


class MigrationFailed(DatabaseError):
    """The server refuses a step, as to a login that may not make tables; nothing of that step is done."""

    fault = DatabaseFault.MIGRATION_FAILED


class Migration(NamedTuple):
    """One step of the schema."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """Tells an edited migration from the one that ran."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def known_migrations() -> list[Migration]:
    """All steps this release knows, in order."""
    found = []
    for file in sorted(files("shard_worker.database").joinpath("migrations").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, file.read_text()))
    return found


SCHEMA_VERSION: Final = known_migrations()[-1].version
"""The schema that this release writes."""


async def migrate(
    dsn: str, *, cluster_id: str, shards: int, say: Callable[[str], None], tls: Tls = BY_DSN
) -> list[str]:
    """Bring the database to `SCHEMA_VERSION` and claim it; returns the names of the steps that were run.

    Raises `shard_worker.database.connection.DatabaseError` and the errors of this module; nothing is half done.  Who
    does not answer is given up within seconds; a step, or another run's, may take as long as it takes.
    """
    connection = await open_connection(dsn, "threadcluster-migrate", statement_s=None, tls=tls)
    try:
        async with asyncio.timeout(_CHECK_S):
            await check(connection)
            other = await open_connection(dsn, "threadcluster-migrate", tls=tls)
            try:
                await refuse_transaction_pooling(connection, other)
            finally:
                other.terminate()
        await connection.execute("SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0")
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
            say("another migration is running; waiting for it")
            await connection.execute(f"SELECT pg_advisory_lock({_LOCK})")
        return await _run(connection, cluster_id, shards, say)
    except LINK_FAULTS as error:
        if isinstance(error, asyncpg.PostgresError) and not str(error.sqlstate).startswith(_GONE):
            raise MigrationFailed(f"Postgres refuses a step: {error}") from error
        raise DatabaseUnreachable(f"Postgres went away: {error!r}") from error
    finally:
        connection.terminate()  # and with the session its lock


async def _run(connection: asyncpg.Connection, cluster_id: str, shards: int, say: Callable[[str], None]) -> list[str]:
    await connection.execute(_BOOK_SQL)
    done = {row["version"]: row for row in await connection.fetch("SELECT * FROM schema_migration")}
    known = known_migrations()
    if done and max(done) > SCHEMA_VERSION:
        raise SchemaTooNew(f"the schema is version {max(done)}, this release knows {SCHEMA_VERSION}: use a newer one")
    ran = []
    for migration in known:
        before = done.get(migration.version)
        if before is not None:
            if before["checksum"] != migration.checksum:
                raise DatabaseUnsuitable(f"migration {migration.version} ({migration.name}) ran in another wording")
            continue
        say(f"schema {migration.version}: {migration.name}")
        async with connection.transaction():
            await connection.execute(migration.sql)
            await connection.execute(
                "INSERT INTO schema_migration (version, name, checksum) VALUES ($1, $2, $3)",
                migration.version,
                migration.name,
                migration.checksum,
            )
        ran.append(migration.name)
    async with connection.transaction():
        await _claim(connection, cluster_id, shards)
    await grant_worker_role(connection, say)
    return ran


async def _claim(connection: asyncpg.Connection, cluster_id: str, shards: int) -> None:
    await connection.execute(
        "INSERT INTO meta (cluster_id, shards) VALUES ($1, $2) ON CONFLICT DO NOTHING", cluster_id, shards
    )
    meta = await connection.fetchrow("SELECT cluster_id, shards FROM meta")
    assert meta is not None  # just inserted, or there before
    if meta["cluster_id"] != cluster_id:
        raise ClaimedByOther(f"the database belongs to cluster {meta['cluster_id']!r}, not to {cluster_id!r}")
    if meta["shards"] != shards:
        raise ShardCountMismatch(
            f"the database was made with shards = {meta['shards']}, which never changes; {shards} was asked for"
        )
    await connection.execute(
        "INSERT INTO shard (id) SELECT generate_series(0, $1::int - 1) ON CONFLICT DO NOTHING", shards
    )
    await connection.execute("INSERT INTO shard_target (shard_id) SELECT id FROM shard ON CONFLICT DO NOTHING")
    await connection.execute("INSERT INTO plan DEFAULT VALUES ON CONFLICT DO NOTHING")


class Asked(Protocol):
    """What is asked of a session to find a pool before it; asyncpg's own connections have it."""

    async def execute(self, query: str) -> object: ...

    async def fetchval(self, query: str) -> object: ...


async def refuse_transaction_pooling(connection: Asked, other: Asked) -> None:
    """Refuse a proxy that gives each transaction another session: locks and fences are a session's.

    One that lends its server processes in turns shows it by itself.  One that lends the last first looks like Postgres
    until ``other`` is in a transaction, for which it takes the process that is idle, and that is the first's.
    """
    pid = "SELECT pg_backend_pid()"
    try:
        mine = {await connection.fetchval(pid) for _ in range(3)}
        await other.execute("BEGIN")
        shared = await other.fetchval(pid) in mine
        async with asyncio.timeout(_POOL_S):
            mine |= {await connection.fetchval(pid) for _ in range(3)}
    except TimeoutError:  # a pool of one: everybody waits for the end of the transaction
        shared = True
    except (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError):
        shared = True  # what was prepared is another session's
    if shared or len(mine) != 1:
        raise DatabaseUnsuitable(
            "a proxy that pools transactions stands before this Postgres: connect to the server itself, or have the proxy"
            " pool sessions"
        )


async def read_meta(connection: asyncpg.Connection, *, cluster_id: str, shards: int | None = None) -> int:
    """The database's shard count, when it belongs to ``cluster_id`` and its schema is this release's or one newer."""
    try:
        meta = await connection.fetchrow("SELECT cluster_id, shards FROM meta")
        version = await connection.fetchval("SELECT max(version) FROM schema_migration")
    except asyncpg.UndefinedTableError as error:
        raise DatabaseUnsuitable("the database has no schema yet: run `shard-worker migrate` first") from error
    if meta is None or version < SCHEMA_VERSION:
        raise DatabaseUnsuitable(f"the schema is version {version}, this release needs {SCHEMA_VERSION}: migrate first")
    if version > SCHEMA_VERSION + 1:
        raise SchemaTooNew(f"the schema is version {version}, this release reads at most {SCHEMA_VERSION + 1}")
    if meta["cluster_id"] != cluster_id:
        raise ClaimedByOther(f"the database belongs to cluster {meta['cluster_id']!r}, not to {cluster_id!r}")
    count: int = meta["shards"]
    if shards is not None and shards != count:
        raise ShardCountMismatch(f"the database was made with shards = {count}, not {shards}")
    return count
