"""The generation of a database system: which of its histories a server continues.

A promoted standby continues the journal on a higher timeline, without what the old primary had not yet sent.  Timeline
numbers are not unique: two standbys of one system can each become timeline 2.  The first worker that opens a session on
a new timeline therefore stores a *generation* in ``meta``, before any session of that timeline is used.  Generations
are ULIDs: of two with one timeline the later one counts as the newer.

The same transaction takes back everything that a lost tail may have taken back by itself, so that nothing that a live
worker has seen can mean something else from then on:

* all epochs and the plan's version rise by `SKIPPED`, far past any that was given out and lost;
* every incarnation is fenced and every shard is without owner: workers register and claim again;
* one row a shard in ``shard_epoch``, of kind ``failover``, says in ``from_seq`` where the surviving journal ends.
"""

from typing import Final, NamedTuple

import asyncpg
from ulid import ULID

SKIPPED: Final = 1_000_000
"""How far epochs and plan versions rise at a fail-over: more than any lost tail can hold, since a change of owner costs
milliseconds and a standby that is hours behind is not promoted."""

_READ_SQL: Final = "SELECT system_identifier, timeline, generation FROM meta"
_STORE_SQL: Final = """
UPDATE meta SET system_identifier = $1, timeline = $2, generation = $3,
       generation_at = CASE WHEN $4 THEN clock_timestamp() END
"""
# In this order, which is that of all statements of ownership: worker rows before shard rows, those ascending.
_FENCE_SQL: Final = "UPDATE worker SET fenced = true"
_KEEP_TARGETS_SQL: Final = """
UPDATE shard_target t SET target = s.owner FROM shard s
 WHERE s.id = t.shard_id AND t.target IS NULL AND s.owner IS NOT NULL
"""
_LOCK_SHARDS_SQL: Final = "SELECT id FROM shard ORDER BY id FOR UPDATE"
_FREE_SQL: Final = """
WITH survived AS MATERIALIZED (
    SELECT s.id, s.owner, (SELECT coalesce(max(j.shard_seq), 0) FROM journal j WHERE j.shard_id = s.id) AS head
      FROM shard s
), freed AS (
    UPDATE shard SET epoch = epoch + $1, owner = NULL, incarnation = NULL, changed_at = now() RETURNING id, epoch
)
INSERT INTO shard_epoch (shard_id, epoch, from_seq, kind, source, reason)
SELECT freed.id, freed.epoch, survived.head + 1, $3, survived.owner, $2 FROM freed JOIN survived USING (id)
"""
_PLAN_SQL: Final = "UPDATE plan SET version = version + $1, made_at = now()"


class ServerIdentity(NamedTuple):
    """Which system a server belongs to, and which of its histories it continues."""

    system: int
    timeline: int
    generation: str = ""
    """Empty where no worker has stored one yet, as before the first migration."""

    @property
    def position(self) -> tuple[int, str]:
        """Orders the histories of one system: the higher one is the newer."""
        return (self.timeline, self.generation)


async def read_generation(connection: asyncpg.Connection, identity: ServerIdentity, newest: str) -> ServerIdentity:
    """``identity`` with the generation of its timeline, which is stored first if this server has none yet.

    ``newest`` is the newest generation that this worker knows: one that is made here is newer.  Raises what asyncpg
    raises; after an error the connection must be closed.
    """
    try:
        row = await connection.fetchrow(_READ_SQL)
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
        return identity  # not migrated yet; who needs the schema says so
    if row is None:
        return identity
    if (row["system_identifier"], row["timeline"]) != (identity.system, identity.timeline):
        return await _store(connection, identity, newest)
    return identity._replace(generation=row["generation"])


async def _store(connection: asyncpg.Connection, identity: ServerIdentity, newest: str) -> ServerIdentity:
    await connection.execute("BEGIN")
    # Of workers that come at once one stores the generation; the others wait for its commit here and read it.
    row = await connection.fetchrow(f"{_READ_SQL} FOR UPDATE")
    assert row is not None  # read a moment ago; meta's row is never deleted
    if (row["system_identifier"], row["timeline"]) == (identity.system, identity.timeline):
        await connection.execute("ROLLBACK")
        return identity._replace(generation=row["generation"])
    followed = row["system_identifier"] is not None
    generation = generation_after(newest)
    await connection.execute(_STORE_SQL, identity.system, identity.timeline, generation, followed)
    if followed:
        await free_all_shards(connection, SKIPPED, f"fail-over to timeline {identity.timeline}")
        await raise_plan(connection)
    await connection.execute("COMMIT")
    return identity._replace(generation=generation)


async def free_all_shards(connection: asyncpg.Connection, raise_by: int, reason: str, kind: str = "failover") -> None:
    """Fence every incarnation and free every shard, in the caller's transaction; each epoch rises by ``raise_by``."""
    await connection.execute(_FENCE_SQL)
    await connection.execute(_KEEP_TARGETS_SQL)
    await connection.execute(_LOCK_SHARDS_SQL)
    await connection.execute(_FREE_SQL, raise_by, reason, kind)


async def raise_plan(connection: asyncpg.Connection) -> None:
    """Raise the plan's version past any that was given out: every plan that was made before is refused."""
    await connection.execute(_PLAN_SQL, SKIPPED)


def generation_after(newest: str) -> str:
    """A new generation; newer than ``newest`` also where a clock went back."""
    fresh = ULID()
    if newest and str(fresh) <= newest:
        fresh = ULID.from_int(int(ULID.from_str(newest)) + 1)
    return str(fresh)
