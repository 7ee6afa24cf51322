"""Bringing the schema to this release: once, in order, additive, safe when two start at once, beside a running cluster.

The first run claims the database for one cluster and one shard count; another cluster or another count is refused by
name.  A schema that is one version newer than this release is left as it is: workers of this release serve it, so that a
release that is half rolled out can be taken back.  A schema newer than that is refused: the release that made it may write
what this one cannot read.
So is one that was made by the same migration in another wording, from before the first release.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import asyncpg

from shard_worker.contract_internal import DatabaseFault
from shard_worker.database.claim import Claimant, Claims
from shard_worker.database.claim_store import expect_mine, expect_not_refused, take
from shard_worker.database.connection import (
    DatabaseError,
    DatabaseUnreachable,
    DatabaseUnsuitable,
    check,
    open_connection,
)
from shard_worker.database.migration_files import SCHEMA_VERSION, known_migrations
from shard_worker.database.migration_steps import STEP_TABLE_SQL, StepRunner
from shard_worker.database.roles import grant_roles
from shard_worker.database.session import CONNECTION_ERRORS
from shard_worker.database.tls import BY_DSN, Tls

log = logging.getLogger(__name__)

_LOCK: Final = 0x7463_6C75  # one migration at a time in a database; any fixed number will do
_CHECK_S: Final = 10.0
_POOL_S: Final = 3.0
_TRY_AGAIN_S: Final = 0.2
_UNRELEASED: Final = (
    "the database was made by an earlier, unreleased version and cannot be brought to this one; make a new database"
    " (on the local platform: choose another data directory)"
)
_LEASES_S: Final = 1.0
"""How long a migration goes on after it displaced a cluster: longer than a worker that was fenced serves reads from memory."""
_GONE: Final = ("08", "57")
"""The classes of SQLSTATE that say that the server, or the link, is going."""
_SCHEMA_TABLE_SQL: Final = """
CREATE TABLE IF NOT EXISTS schema_migration (
    version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()
)
"""


class ShardCountMismatch(DatabaseError):
    """The database was made with another shard count, which never changes."""

    fault = DatabaseFault.SHARD_COUNT_MISMATCH


class SchemaTooNew(DatabaseError):
    """The schema was made by a newer release."""

    fault = DatabaseFault.SCHEMA_TOO_NEW


class MigrationFailed(DatabaseError):
    """The server refuses a step, as to a login that may not make tables; nothing of that step is done."""

    fault = DatabaseFault.MIGRATION_FAILED


async def migrate(
    dsn: str,
    *,
    cluster_id: str,
    shards: int,
    say: Callable[[str], None],
    tls: Tls = BY_DSN,
    claimant: Claimant | None = None,
    take_over: str = "",
) -> list[str]:
    """Bring the database to `SCHEMA_VERSION` and claim it; returns the names of the versions that were run.

    ``claimant`` says more of the cluster than its id, and ``take_over`` is the uid of the holder that it displaces.  A
    database of another cluster is left as it is, also its schema.

    Only the claim is made where a release one version newer has migrated already.  Raises
    `shard_worker.database.connection.DatabaseError` and the errors of this module; what was done is recorded, and
    the next run goes on from there.  A database that does not answer fails the run within seconds.  A step of this run
    or of another one may take any time, and blocks no request meanwhile.
    """
    connection = await open_connection(dsn, "threadcluster-migrate", statement_s=None, tls=tls)
    watcher: asyncpg.Connection | None = None
    try:
        async with asyncio.timeout(_CHECK_S):
            await check(connection)
            other = await open_connection(dsn, "threadcluster-migrate", tls=tls)
            try:
                await refuse_transaction_pooling(connection, other)
            finally:
                other.terminate()
            watcher = await open_connection(dsn, "threadcluster-migrate", tls=tls)
        await connection.execute(
            "SET lock_timeout = 0; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0"
        )
        await _alone(connection, say)
        claims = Claims(claimant or Claimant(cluster_id), take_over)
        return await _run(connection, watcher, claims, shards, say)
    except CONNECTION_ERRORS as error:
        if isinstance(error, asyncpg.PostgresError) and not str(error.sqlstate).startswith(_GONE):
            raise MigrationFailed(f"Postgres refuses a step: {error}") from error
        raise DatabaseUnreachable(f"Postgres went away: {error!r}") from error
    finally:
        connection.terminate()  # and with the session its lock
        if watcher is not None:
            watcher.terminate()


async def _alone(connection: asyncpg.Connection, say: Callable[[str], None]) -> None:
    """Return when no other run is under way.

    The lock is tried, not waited for: who waits holds a snapshot, and an index that the other run builds waits for that.
    """
    waiting = False
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
        if not waiting:
            say("another migration is running; waiting for it")
        waiting = True
        await asyncio.sleep(_TRY_AGAIN_S)


async def _run(
    connection: asyncpg.Connection,
    watcher: asyncpg.Connection,
    claims: Claims,
    shards: int,
    say: Callable[[str], None],
) -> list[str]:
    await expect_not_refused(connection, *claims)
    await connection.execute(_SCHEMA_TABLE_SQL)
    await connection.execute(STEP_TABLE_SQL)
    done = {row["version"]: row["checksum"] for row in await connection.fetch("SELECT * FROM schema_migration")}
    if done and max(done) > SCHEMA_VERSION:
        _refuse_too_new(max(done))
        async with connection.transaction():
            displaced = await take(connection, *claims)
            await read_meta(connection, cluster_id=claims.claimant.cluster_id, shards=shards, claimant=claims.claimant)
        say(f"the schema is version {max(done)}, one newer than this release; nothing is to be done to it")
        await _await_displaced(claims, say, displaced=displaced)
        return []
    _refuse_another_wording(done)
    ran = []
    runner = StepRunner(connection, watcher, say)
    for migration in known_migrations():
        if migration.version in done:
            continue
        say(f"schema {migration.version}: {migration.name}")
        try:
            steps = await runner.unfinished(migration)
        except ValueError as error:
            raise DatabaseUnsuitable(f"{error}: {_UNRELEASED}") from error
        for step in sorted(steps):
            await runner.run(migration, step)
        await connection.execute(
            "INSERT INTO schema_migration (version, name, checksum) VALUES ($1, $2, $3)",
            *(migration.version, migration.name, migration.checksum),
        )
        ran.append(migration.name)
    async with connection.transaction():
        displaced = await _claim(connection, claims, shards)
    await grant_roles(connection, say)
    await _await_displaced(claims, say, displaced=displaced)
    return ran


async def _await_displaced(claims: Claims, say: Callable[[str], None], *, displaced: bool) -> None:
    """Return when the leases of a displaced cluster's workers are over."""
    if displaced:
        say(f"the database was taken over from {claims.take_over or 'the cluster of this name that was before'}")
        await asyncio.sleep(_LEASES_S)


def _refuse_too_new(version: int) -> None:
    if version > SCHEMA_VERSION + 1:
        raise SchemaTooNew(f"the schema is version {version}, this release reads at most {SCHEMA_VERSION + 1}")


def _refuse_another_wording(done: Mapping[int, str]) -> None:
    """Refuse a database whose schema was made by other statements than this release's under the same numbers."""
    for migration in known_migrations():
        if done.get(migration.version, migration.checksum) != migration.checksum:
            raise DatabaseUnsuitable(
                f"migration {migration.version} ({migration.name}) ran in another wording: {_UNRELEASED}"
            )


async def _claim(connection: asyncpg.Connection, claims: Claims, shards: int) -> bool:
    """Claim the database, in a transaction; whether another cluster was displaced."""
    await connection.execute(
        "INSERT INTO meta (cluster_id, shards) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        claims.claimant.cluster_id,
        shards,
    )
    displaced = await take(connection, *claims)
    count = await connection.fetchval("SELECT shards FROM meta")
    if count != shards:
        raise ShardCountMismatch(
            f"the database was made with shards = {count}, which never changes; {shards} was asked for"
        )
    await connection.execute(
        "INSERT INTO shard (id) SELECT generate_series(0, $1::int - 1) ON CONFLICT DO NOTHING", shards
    )
    await connection.execute("INSERT INTO shard_target (shard_id) SELECT id FROM shard ON CONFLICT DO NOTHING")
    await connection.execute(
        "INSERT INTO projection_offset (generation, shard_id)"
        " SELECT generation, id FROM readmodel_generation, shard ON CONFLICT DO NOTHING"
    )
    await connection.execute("INSERT INTO plan DEFAULT VALUES ON CONFLICT DO NOTHING")
    return displaced


class Queryable(Protocol):
    """The part of a session that detects a pooler; asyncpg's connections have it."""

    async def execute(self, query: str) -> object: ...

    async def fetchval(self, query: str) -> object: ...


async def refuse_transaction_pooling(connection: Queryable, other: Queryable) -> None:
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
    except TimeoutError:  # a pool of one session: every other client waits for the end of the transaction
        shared = True
    except (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError):
        shared = True  # what was prepared is another session's
    if shared or len(mine) != 1:
        raise DatabaseUnsuitable(
            "a proxy that pools transactions is in front of this Postgres: connect to the server itself, or let the"
            " proxy pool sessions"
        )


async def read_meta(
    connection: asyncpg.Connection, *, cluster_id: str, shards: int | None = None, claimant: Claimant | None = None
) -> int:
    """The database's shard count, when it belongs to the cluster and its schema is this release's or one newer."""
    try:
        meta = await connection.fetchrow("SELECT shards FROM meta")
        done = {row["version"]: row["checksum"] for row in await connection.fetch("SELECT * FROM schema_migration")}
    except asyncpg.UndefinedTableError as error:
        raise DatabaseUnsuitable("the database has no schema yet: run `shard-worker migrate` first") from error
    version = max(done, default=0)
    _refuse_another_wording(done)
    if meta is None or version < SCHEMA_VERSION:
        raise DatabaseUnsuitable(f"the schema is version {version}, this release needs {SCHEMA_VERSION}: migrate first")
    _refuse_too_new(version)
    await expect_mine(connection, claimant or Claimant(cluster_id))
    count: int = meta["shards"]
    if shards is not None and shards != count:
        raise ShardCountMismatch(f"the database was made with shards = {count}, not {shards}")
    return count


async def read_id_salt(connection: asyncpg.Connection) -> bytes:
    """The key of thread ids that are derived from idempotency keys; after `read_meta` on a database of this schema."""
    salt: bytes = await connection.fetchval("SELECT id_salt FROM meta")
    return salt
