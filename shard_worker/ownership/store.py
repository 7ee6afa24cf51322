"""The SQL of the workers: their incarnations, beats and fences, and the view of all workers and shards.

`shard_store` has the SQL of the owners of shards, `reporting` what decides nothing.

Every transaction locks the worker row first, then shard rows in ascending order.

A function that failed or was cancelled in the middle of a transaction leaves its connection terminated.

A worker's *beat* is a pair of session-level advisory locks: one on (incarnation, attempt), which shows that the session
lives, and a shared one on a number that advances.  `pg_locks` shows both, so that a beat leaves no dead row version
behind.  ``worker.attempt`` counts the sessions; a session's lock, once gone, never comes back under the same attempt.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import asyncpg

from shard_worker.database import claim_store
from shard_worker.database.claim import Claimant
from shard_worker.domain.ids import ShardId
from shard_worker.ownership.shard_store import plan_takeover
from shard_worker.ownership.transaction import NOTIFY_SQL, transaction
from shard_worker.ownership.view import OwnershipView, ShardRow, WorkerRow

_BEAT_CLASS: Final = 0x7463_6274
"""The first half of the key of every beat's advisory lock; the second half is the beat's number."""
_GONE: Final = 0xFFFF_FFFF
"""The number of a session that ended: greater than that of any beat, so that what a look reads never falls."""

_READ_MODEL_LOCK: Final = 0x7463_726D
LOCK_READ_MODEL_SQL: Final = f"SELECT pg_advisory_xact_lock({_READ_MODEL_LOCK})"
"""A transaction that makes another generation of the read model the live one holds this lock: a worker that registers before is a
row of ``worker`` by then, one that registers after reads the new generation."""

_ENSURE_WORKER_SQL: Final = """
INSERT INTO worker (id, incarnation, host, public_port, management_port, fenced) VALUES ($1, '', '', 0, 0, true)
    ON CONFLICT DO NOTHING
"""
_PREDECESSOR_SQL: Final = "SELECT incarnation, fenced FROM worker WHERE id = $1 FOR UPDATE"
# Only our own role's sessions: another's may not be terminated, and need not be, for the epoch fences them too.
_TERMINATE_SQL: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE application_name = $1 AND usename = current_user AND pid <> pg_backend_pid()
"""
_REGISTER_SQL: Final = """
UPDATE worker
   SET incarnation = $2, attempt = attempt + 1, host = $3, public_port = $4, management_port = $5, capabilities = $6,
       fenced = false, leaving = false
 WHERE id = $1
"""
# Shared with other registrations, and exclusive for a change of the live generation (`LOCK_READ_MODEL_SQL`): each sees the other.
_SHARE_READ_MODEL_SQL: Final = f"SELECT pg_advisory_xact_lock_shared({_READ_MODEL_LOCK})"
_READ_MODEL_VERSION_SQL: Final = "SELECT version FROM readmodel_generation WHERE live"
# $3 says whether incarnation $2 is the only one meant, or the only one not meant: by the worker's name, so that nothing
# stays with an incarnation that no row of ``worker`` knows any more.
_LOCK_SHARDS_SQL: Final = """
SELECT id FROM shard WHERE owner = $1 AND (incarnation = $2) = $3 ORDER BY id FOR UPDATE
"""
_FREE_SQL: Final = """
WITH freed AS (
    UPDATE shard SET epoch = epoch + 1, owner = NULL, incarnation = NULL, changed_at = now()
     WHERE owner = $1 AND (incarnation = $2) = $3 RETURNING id, epoch
)
INSERT INTO shard_epoch (shard_id, epoch, kind, source, reason) SELECT id, epoch, $4, $1, $5 FROM freed RETURNING shard_id
"""
# One scan of `pg_locks` holds all its partitions, so that a session's two locks are read as of one moment.  A beat takes
# the next number before it gives the last one back.
_BEATS_SQL: Final = f"""
WITH held AS MATERIALIZED (
    SELECT pid, classid, objid, objsubid FROM pg_locks
     WHERE locktype = 'advisory' AND granted
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
), beat AS MATERIALIZED (
    SELECT session.classid::bigint << 32 | session.objid::bigint AS session, max(number.objid::bigint) AS number
      FROM held session JOIN held number USING (pid)
     WHERE session.objsubid = 1 AND number.objsubid = 2 AND number.classid = {_BEAT_CLASS}
     GROUP BY 1
)"""  # noqa: S608  # constants of this module
_BEAT_OF_WORKER: Final = f"attempt::bigint << 32 | coalesce(beat.number, {_GONE})"
_SESSION_OF_WORKER: Final = "hashtextextended(incarnation || ':' || attempt, 0)"
# To be read in a statement after `_MINE_SQL`: its row lock waits for a beat that is under way, and keeps out the next.
_LAST_BEAT_SQL: Final = f"""
{_BEATS_SQL}
SELECT {_BEAT_OF_WORKER} FROM worker LEFT JOIN beat ON beat.session = {_SESSION_OF_WORKER} WHERE id = $1
"""  # noqa: S608  # constants of this module
_NAMED_WORKER_SQL: Final = "SELECT incarnation, fenced FROM worker WHERE id = $1 FOR UPDATE"
# FOR UPDATE waits for a claim that holds the row FOR KEY SHARE, so that what it won is freed too.
_MINE_SQL: Final = "SELECT id FROM worker WHERE id = $1 AND incarnation = $2 AND NOT fenced FOR UPDATE"
_END_SQL: Final = "UPDATE worker SET fenced = true WHERE id = $1"
# In one statement: the lock is held before anybody can read its number.  Read before that, the number would look like one
# whose lock is gone, and a worker that was only reconnecting would be fenced.  The lock is tried, not waited for: a
# session that half died may hold this number too, and then the next one is taken.
_LOCK_SQL: Final = f"""
UPDATE worker SET attempt = attempt + 1 WHERE id = $1 AND incarnation = $2 AND NOT fenced
RETURNING pg_try_advisory_lock({_SESSION_OF_WORKER}) AND pg_try_advisory_lock_shared({_BEAT_CLASS}, 0)
"""  # noqa: S608  # constants of this module
# The row lock serialises the beat with a fence, which locks FOR UPDATE: a beat that waited reads the row again.  It leaves
# no row version, and is all the same a write, which is meant: with a synchronous standby an old primary that has lost it
# acknowledges no beat, and with that ends the lease on memory reads.
_BEAT_SQL: Final = f"""
WITH me AS MATERIALIZED (
    SELECT FROM worker WHERE id = $1 AND incarnation = $2 AND NOT fenced FOR KEY SHARE
)
SELECT CASE WHEN pg_try_advisory_lock_shared({_BEAT_CLASS}, $3::int)
            THEN pg_advisory_unlock_shared({_BEAT_CLASS}, $3::int - 1) IS NOT NULL ELSE false END
  FROM me
"""  # noqa: S608  # constants of this module
_LEAVING_SQL: Final = "UPDATE worker SET leaving = true WHERE id = $1 AND incarnation = $2"
_GENERATION_AGE_SQL: Final = """
SELECT $1::float8 - extract(epoch FROM clock_timestamp() - generation_at)::float8 FROM meta
"""
# One statement is one snapshot.  The locks are looked at, never waited for: a waiter pins the horizon of vacuum.  A shard
# whose epoch is known, and a target whose plan is known, cannot have changed: $1 has the known epochs by shard id, $2
# the known plan's version.
_LOOK_SQL: Final = f"""
{_BEATS_SQL}
SELECT p.version, p.hash,
       (SELECT array_agg(ROW(id, incarnation, host, public_port, management_port, {_BEAT_OF_WORKER},
                             fenced, leaving, cordoned, draining, beat.number IS NOT NULL,
                              coalesce((capabilities -> 'reads')::int, 1)))
          FROM worker LEFT JOIN beat ON beat.session = {_SESSION_OF_WORKER}),
       (SELECT array_agg(ROW(s.id, s.epoch, s.owner, s.incarnation, t.target, t.reason, s.changed_at, s.format, t.pin))
          FROM shard s LEFT JOIN shard_target t ON t.shard_id = s.id
         WHERE s.epoch IS DISTINCT FROM ($1::bigint[])[s.id + 1] OR t.plan_version > $2)
  FROM plan p
"""  # noqa: S608  # constants of this module


class ReadModelNotFed(Exception):
    """The read model's live tables are of a version that this release does not feed: it may own no shard."""

    def __init__(self, version: int, feeds: Sequence[int]) -> None:
        super().__init__(
            f"the read model in use is of version {version}, and this release feeds {', '.join(map(str, feeds))} only:"
            " start the release before it, and run `shard-worker readmodel switch` first"
        )


class Address(NamedTuple):
    """Where a worker can be reached."""

    host: str
    public_port: int
    management_port: int


async def register(
    connection: asyncpg.Connection,
    worker: str,
    incarnation: str,
    address: Address,
    capabilities: Mapping[str, object],
    claimant: Claimant | None = None,
) -> str | None:
    """Begin a new incarnation; the one before can beat no more, and its sessions are ended.

    Returns that one, unless it was fenced: it may serve reads from memory until its lease is over, so its shards are
    still its own until `free_predecessors`.  After a lost answer, asked again, it returns ``incarnation`` itself.
    Raises `ReadModelNotFed` when ``capabilities`` lack the version of the read model that queries are answered from, and
    `ClaimedByOther` when the database is no longer ``claimant``'s.
    """
    async with transaction(connection):
        if claimant is not None:  # first: the row of the claim is locked before those of workers
            await claim_store.keep_mine(connection, claimant)
        await _expect_read_model_fed(connection, capabilities)
        await connection.execute(_ENSURE_WORKER_SQL, worker)
        before = await connection.fetchrow(_PREDECESSOR_SQL, worker)
        assert before is not None  # inserted, or there before
        await connection.execute(_REGISTER_SQL, worker, incarnation, *address, json.dumps(dict(capabilities)))
        if before["incarnation"] not in ("", incarnation):
            await connection.fetch(_TERMINATE_SQL, before["incarnation"])
        await connection.execute(NOTIFY_SQL)
    return None if before["fenced"] else before["incarnation"]


async def _expect_read_model_fed(connection: asyncpg.Connection, capabilities: Mapping[str, object]) -> None:
    feeds = capabilities.get("readmodel")
    if isinstance(feeds, Sequence):
        await connection.execute(_SHARE_READ_MODEL_SQL)
        # A statement of its own: one that waited for the lock would read what was there before.
        version = await connection.fetchval(_READ_MODEL_VERSION_SQL)
        if version is not None and version not in feeds:
            raise ReadModelNotFed(version, feeds)


async def free_predecessors(connection: asyncpg.Connection, worker: str, incarnation: str) -> int:
    """Take from this worker's earlier incarnations what they still hold.  Returns how many shards."""
    async with transaction(connection):
        if await connection.fetchval(_MINE_SQL, worker, incarnation) is None:
            return 0
        return len(await _free(connection, worker, incarnation, "restart", f"{worker} was restarted", itself=False))


async def fence(
    connection: asyncpg.Connection,
    worker: str,
    incarnation: str,
    beat: int | None,
    targets: Mapping[ShardId, str | None],
    reason: str,
) -> list[ShardId] | None:
    """End an incarnation last seen at ``beat`` (None: one that no longer lives by its row) and assign its shards to ``targets``.

    Returns the shards, or None when it moved on, or another was first.
    """
    async with transaction(connection):
        if beat is None:
            row = await connection.fetchrow(_NAMED_WORKER_SQL, worker)
            # Whatever the reason it no longer lives: no row, another incarnation's, or one that was fenced and kept shards.
            if row is not None and incarnation and row["incarnation"] == incarnation and not row["fenced"]:
                return None
        elif (
            await connection.fetchval(_MINE_SQL, worker, incarnation) is None
            or await connection.fetchval(_LAST_BEAT_SQL, worker) != beat
        ):
            return None
        else:
            await connection.execute(_END_SQL, worker)
        if incarnation:  # an empty name is that of every session without one
            await connection.fetch(_TERMINATE_SQL, incarnation)
        freed = await _free(connection, worker, incarnation, "takeover", reason, itself=True)
        if freed:
            await plan_takeover(connection, [(shard_id, targets.get(shard_id)) for shard_id in freed], reason)
        await connection.execute(NOTIFY_SQL)
    return freed


async def retire(connection: asyncpg.Connection, worker: str, incarnation: str) -> int:
    """End one's own incarnation, so that no peer waits for its next beat.  Returns how many shards it still held."""
    async with transaction(connection):
        if await connection.fetchval(_MINE_SQL, worker, incarnation) is None:
            return 0
        await connection.execute(_END_SQL, worker)
        freed = await _free(connection, worker, incarnation, "release", f"{worker} left", itself=True)
        await connection.execute(NOTIFY_SQL)
    await claim_store.end_if_last(connection)
    return len(freed)


async def _free(
    connection: asyncpg.Connection, worker: str, incarnation: str, kind: str, reason: str, *, itself: bool
) -> list[ShardId]:
    await connection.fetch(_LOCK_SHARDS_SQL, worker, incarnation, itself)
    rows = await connection.fetch(_FREE_SQL, worker, incarnation, itself, kind, reason)
    if rows:
        await connection.execute(NOTIFY_SQL)
    return sorted(ShardId(row["shard_id"]) for row in rows)


async def lock(connection: asyncpg.Connection, worker: str, incarnation: str) -> bool:
    """Hold the session-level locks whose disappearance shows that this incarnation's session ended.

    Returns False when the incarnation was ended.  The session's beats begin at number 1.
    """
    while True:
        held: bool | None = await connection.fetchval(_LOCK_SQL, worker, incarnation)
        if held is not False:
            return held is True


async def heartbeat(connection: asyncpg.Connection, worker: str, incarnation: str, number: int) -> bool:
    """Show that this incarnation lives; False when it was ended.

    ``number`` is one more than that of the session's last beat.  Raises `ConnectionError` when a stranger holds its
    advisory lock: the next session begins at 1 again.
    """
    shown: bool | None = await connection.fetchval(_BEAT_SQL, worker, incarnation, number)
    if shown is False:
        raise ConnectionError(f"the advisory lock ({_BEAT_CLASS}, {number}) is held by a session that is no worker's")
    return shown is True


async def mark_leaving(connection: asyncpg.Connection, worker: str, incarnation: str) -> None:
    """Tell everyone that this incarnation takes no more shards."""
    async with transaction(connection):
        await connection.execute(_LEAVING_SQL, worker, incarnation)
        await connection.execute(NOTIFY_SQL)


async def old_leases_s(connection: asyncpg.Connection, most_s: float) -> float:
    """For how long a lease of before the last fail-over may still hold, if ``most_s`` is how long one can."""
    left: float | None = await connection.fetchval(_GENERATION_AGE_SQL, most_s)
    return 0.0 if left is None else min(most_s, max(0.0, left))


async def read_view(connection: asyncpg.Connection, known: OwnershipView) -> OwnershipView:
    """All workers and shards, as of one moment; what cannot have changed since ``known`` is taken from there."""
    epochs: list[int | None] = [None] * (max(known.shards, default=-1) + 1)
    for shard_id, row in known.shards.items():
        epochs[shard_id] = row.epoch
    found = await connection.fetchrow(_LOOK_SQL, epochs, known.plan_version)
    assert found is not None  # the plan's row is made by the migration
    version, plan_hash, workers, shards = found
    changed = {ShardId(row[0]): ShardRow(*row) for row in shards or ()}
    return OwnershipView(
        {row[0]: WorkerRow(*row) for row in workers or ()},
        known.shards | changed if changed else known.shards,
        version,
        plan_hash,
        known.loads,
    )
