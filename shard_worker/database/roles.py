"""Roles of the database and their rights.

The login that migrates owns the schema.  Workers need less: they read and append the journal, and never change or delete
an event, nor say when it was written.  `WORKER_ROLE` carries just that; give it to the login that the workers use.

Readers outside of the cluster need less still: `READER_ROLE` sees events without their texts.  A view of its own has the texts,
and no migration grants or revokes it.
"""

from collections.abc import Callable, Mapping
from typing import Final

import asyncpg

WORKER_ROLE: Final = "threadcluster_worker"
"""A role without login; ``GRANT threadcluster_worker TO <login>``."""

READER_ROLE: Final = "threadcluster_reader"
"""A role without login for whatever takes events out of the database, `shard-worker export` too."""

_JOURNAL_COLUMNS: Final = (
    "shard_id, shard_seq, thread_id, seq_nr, event_type, event_version, payload, metadata, key_hash, body_hash, epoch"
)
_GRANTS: Final[Mapping[str, tuple[str, ...]]] = {
    "meta": ("UPDATE (system_identifier, timeline, generation, generation_at, holder_seen_at)",),
    "journal": (f"INSERT ({_JOURNAL_COLUMNS})",),
    "snapshot": ("INSERT", "UPDATE", "DELETE"),
    "worker": ("INSERT", "UPDATE"),
    # A row lock needs the right to update some column.
    "shard": ("UPDATE (epoch, owner, incarnation, changed_at, format)",),
    "shard_target": ("INSERT", "UPDATE"),
    "plan": ("UPDATE (version, hash, made_at)",),
    "shard_epoch": (
        "INSERT (shard_id, epoch, worker, incarnation, from_seq, kind, source, reason)",
        "UPDATE (from_seq, pause_ms)",
    ),
    "shard_load": ("INSERT", "UPDATE"),
    "projection_offset": ("UPDATE (seq)",),
    "dead_letter": ("INSERT", "DELETE", "UPDATE (seq_nr, reason)"),
    "read_marker": ("INSERT", "UPDATE"),
}
"""Tables that a worker may write, with the columns where the others must not be forged.  It may read everything."""
_WORKER_SQL: Final = ";\n".join(
    (
        f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {WORKER_ROLE}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {WORKER_ROLE}",
        *(f"GRANT {', '.join(rights)} ON {table} TO {WORKER_ROLE}" for table, rights in _GRANTS.items()),
        # The tables of each generation of the read model, which a worker fills.
        # The role's name is a constant.
        f"""
        DO $grant$
        DECLARE place text;
        BEGIN
            FOR place IN SELECT format('readmodel_%s', generation) FROM readmodel_generation LOOP
                EXECUTE format('GRANT USAGE ON SCHEMA %I TO {WORKER_ROLE}', place);
                EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO {WORKER_ROLE}', place);
            END LOOP;
        END
        $grant$""",  # noqa: S608
    )
)
_READER_SQL: Final = ";\n".join(
    (
        f"GRANT SELECT ON journal_event, schema_migration TO {READER_ROLE}",
        # All but the key of derived thread ids.
        f"GRANT SELECT (cluster_id, shards, system_identifier, timeline, generation, generation_at) ON meta TO {READER_ROLE}",
    )
)
"""All that a reader may see.  Nothing is taken back: further rights of this role, as the one to see texts, are the administrator's."""
_EXCESS_SQL: Final = """
SELECT coalesce(array_agg(privilege ORDER BY privilege), '{}')
  FROM unnest(ARRAY['DELETE', 'TRUNCATE', 'UPDATE']) AS privilege
 WHERE has_table_privilege('journal', privilege)
    OR privilege = 'UPDATE' AND has_any_column_privilege('journal', privilege)
"""
_CONCURRENTLY_UPDATED: Final = "XX000"
"""The SQLSTATE of "tuple concurrently updated": a run for another database of the server grants at the same moment."""


async def grant_roles(connection: asyncpg.Connection, say: Callable[[str], None]) -> None:
    """Make the roles, where the migrating login may, and give each what it needs.

    Running workers notice nothing: what is taken and given again is one transaction.
    """
    for role, grants in ((WORKER_ROLE, _WORKER_SQL), (READER_ROLE, _READER_SQL)):
        if await _have_role(connection, role):
            await _grant(connection, grants)
        else:
            say(f"this login may not create roles: have role {role} made, and migrate again")


async def _have_role(connection: asyncpg.Connection, role: str) -> bool:
    """Whether the role is there, which is made where it is not."""
    try:
        if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role):
            await connection.execute(f"CREATE ROLE {role} NOLOGIN")
    except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
        pass  # another database of the same server made it at this moment: roles are the server's
    except asyncpg.InsufficientPrivilegeError:
        return False
    return True


async def _grant(connection: asyncpg.Connection, grants: str) -> None:
    try:
        await connection.execute(grants)
    except asyncpg.PostgresError as error:
        if error.sqlstate != _CONCURRENTLY_UPDATED:
            raise
        await connection.execute(grants)


async def make_worker_login(connection: asyncpg.Connection, login: str, password: str) -> None:
    """Have a login that may do what a worker must, and no more; one that is there gets this password.

    ``connection`` needs the right to create roles, and `grant_roles` must have made `WORKER_ROLE`.
    """
    name = await connection.fetchval("SELECT quote_ident($1)", login)
    secret = await connection.fetchval("SELECT quote_literal($1)", password)
    there = await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", login)
    await connection.execute(f"{'ALTER' if there else 'CREATE'} ROLE {name} LOGIN PASSWORD {secret}")
    await connection.execute(f"GRANT {WORKER_ROLE} TO {name}")


async def excess_privileges(connection: asyncpg.Connection) -> list[str]:
    """How this session's login could change history: those of DELETE, TRUNCATE and UPDATE that it has on the journal."""
    found: list[str] = await connection.fetchval(_EXCESS_SQL)
    return found
