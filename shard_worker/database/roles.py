"""Who may do what in the database.

Whoever migrates owns the schema.  Workers need less: they read and append the journal, and never change or delete an
event.  `WORKER_ROLE` carries just that; give it to the login that the workers use.
"""

from collections.abc import Callable
from typing import Final

import asyncpg

WORKER_ROLE: Final = "threadcluster_worker"
"""A role without login; ``GRANT threadcluster_worker TO <login>``."""

_GRANTS: Final = f"""
GRANT SELECT ON ALL TABLES IN SCHEMA public TO {WORKER_ROLE};
GRANT UPDATE (system_identifier, timeline, generation, generation_at) ON meta TO {WORKER_ROLE};
GRANT INSERT ON journal, shard_epoch, shard_load TO {WORKER_ROLE};
GRANT INSERT, UPDATE ON worker, snapshot TO {WORKER_ROLE};
GRANT DELETE ON snapshot TO {WORKER_ROLE};
GRANT UPDATE ON shard, shard_target, plan, shard_epoch, shard_load TO {WORKER_ROLE};
"""


async def grant_worker_role(connection: asyncpg.Connection, say: Callable[[str], None]) -> None:
    """Make the role, where the migrating login may, and give it what a worker needs."""
    try:
        if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", WORKER_ROLE):
            await connection.execute(f"CREATE ROLE {WORKER_ROLE} NOLOGIN")
    except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
        pass  # another database of the same server made it at this moment: roles are the server's
    except asyncpg.InsufficientPrivilegeError:
        say(f"this login may not create roles: have role {WORKER_ROLE} made, and migrate again")
        return
    try:
        await connection.execute(_GRANTS)
    except asyncpg.PostgresError as error:
        if error.sqlstate != "XX000":  # "tuple concurrently updated": another run grants the same
            raise
        await connection.execute(_GRANTS)
