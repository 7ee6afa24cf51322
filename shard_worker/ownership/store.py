"""All SQL of ownership.  Whoever locks shard rows does so in ascending order, the worker row before them.

Every change of a shard's owner, also to nobody, raises its epoch and leaves a row in ``shard_epoch``.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import asyncpg

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.owners import ShardRow, View, WorkerRow

CHANNEL: Final = "threadcluster_ownership"
_NOTIFY_SQL: Final = f"SELECT pg_notify('{CHANNEL}', '')"

_OLD_SQL: Final = "SELECT incarnation FROM worker WHERE id = $1 FOR UPDATE"
_TERMINATE_SQL: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND pid <> pg_backend_pid()
"""
_REGISTER_SQL: Final = """
INSERT INTO worker (id, incarnation, host, public_port, management_port, capabilities)
VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (id) DO UPDATE
   SET incarnation = excluded.incarnation, attempt = 0, host = excluded.host, public_port = excluded.public_port,
       management_port = excluded.management_port, capabilities = excluded.capabilities, beat = worker.beat + 1,
       fenced = false, leaving = false
"""
_LOCK_SHARDS_SQL: Final = "SELECT id FROM shard WHERE incarnation = $1 ORDER BY id FOR UPDATE"
_FREE_SQL: Final = """
WITH freed AS (
    UPDATE shard SET epoch = epoch + 1, owner = NULL, incarnation = NULL, changed_at = now()
     WHERE incarnation = $1 RETURNING id, epoch
)
INSERT INTO shard_epoch (shard_id, epoch) SELECT id, epoch FROM freed RETURNING shard_id
"""
_FENCE_SQL: Final = """
UPDATE worker SET fenced = true WHERE id = $1 AND incarnation = $2 AND beat = $3 AND NOT fenced RETURNING id
"""
_ATTEMPT_SQL: Final = """
UPDATE worker SET attempt = attempt + 1 WHERE id = $1 AND incarnation = $2 AND NOT fenced RETURNING attempt
"""
_BEAT_SQL: Final = """
UPDATE worker SET beat = beat + 1 WHERE id = $1 AND incarnation = $2 AND NOT fenced RETURNING beat
"""
_LEAVING_SQL: Final = "UPDATE worker SET leaving = true WHERE id = $1 AND incarnation = $2"
_CLAIM_SQL: Final = """
WITH me AS (
    SELECT id, incarnation FROM worker
     WHERE id = $1 AND incarnation = $2 AND NOT fenced AND NOT leaving FOR SHARE
), free AS (
    SELECT s.id FROM shard s, me WHERE s.id = ANY($3::int[]) AND s.owner IS NULL ORDER BY s.id FOR UPDATE OF s
), won AS (
    UPDATE shard SET epoch = epoch + 1, owner = $1, incarnation = $2, changed_at = now()
      FROM free WHERE shard.id = free.id RETURNING shard.id, shard.epoch
)
INSERT INTO shard_epoch (shard_id, epoch, worker, incarnation)
SELECT id, epoch, $1, $2 FROM won RETURNING shard_id, epoch
"""
_RELEASE_SQL: Final = """
WITH mine AS (
    SELECT id FROM shard WHERE id = ANY($1::int[]) AND incarnation = $2 ORDER BY id FOR UPDATE
), freed AS (
    UPDATE shard SET epoch = epoch + 1, owner = NULL, incarnation = NULL, changed_at = now()
      FROM mine WHERE shard.id = mine.id RETURNING shard.id, shard.epoch
)
INSERT INTO shard_epoch (shard_id, epoch) SELECT id, epoch FROM freed RETURNING shard_id
"""
_BUMP_SQL: Final = """
WITH raised AS (
    UPDATE shard SET epoch = epoch + 1, changed_at = now()
     WHERE id = $1 AND epoch = $2 AND incarnation = $3 RETURNING id, epoch, owner, incarnation
)
INSERT INTO shard_epoch (shard_id, epoch, worker, incarnation)
SELECT id, epoch, owner, incarnation FROM raised RETURNING epoch
"""
_HEADS_SQL: Final = """
SELECT s.id, (SELECT coalesce(max(j.shard_seq), 0) FROM journal j WHERE j.shard_id = s.id) AS head
  FROM unnest($1::int[]) AS s (id)
"""
_FROM_SQL: Final = """
UPDATE shard_epoch e SET from_seq = h.head + 1
  FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS h (shard_id, epoch, head)
 WHERE e.shard_id = h.shard_id AND e.epoch = h.epoch AND e.from_seq IS NULL
"""
_WORKERS_SQL: Final = """
SELECT id, incarnation, host, public_port, management_port, beat, fenced, leaving, cordoned FROM worker
"""
_SHARDS_SQL: Final = """
SELECT s.id, s.epoch, s.owner, s.incarnation, t.target, t.reason FROM shard s LEFT JOIN shard_target t ON t.shard_id = s.id
"""
_PLAN_SQL: Final = "SELECT version, hash FROM plan"
_NEXT_PLAN_SQL: Final = """
UPDATE plan SET version = version + 1, hash = $2, made_at = now() WHERE version = $1 RETURNING version
"""
_TARGETS_SQL: Final = """
INSERT INTO shard_target (shard_id, target, reason, plan_version)
SELECT shard_id, target, reason, $4 FROM unnest($1::int[], $2::text[], $3::text[]) AS t (shard_id, target, reason)
 ORDER BY shard_id
    ON CONFLICT (shard_id) DO UPDATE
   SET target = excluded.target, reason = excluded.reason, plan_version = excluded.plan_version
"""


class Address(NamedTuple):
    """Where a worker can be reached."""

    host: str
    public_port: int
    management_port: int


class Target(NamedTuple):
    """What a plan wants of one shard."""

    shard_id: ShardId
    worker: str | None
    reason: str


async def register(
    connection: asyncpg.Connection, worker: str, incarnation: str, address: Address, capabilities: Mapping[str, object]
) -> int:
    """Begin a new incarnation; whatever the one before still holds is taken from it.  Returns how many shards."""
    async with connection.transaction():
        old = await connection.fetchval(_OLD_SQL, worker)
        await connection.execute(_REGISTER_SQL, worker, incarnation, *address, json.dumps(dict(capabilities)))
        if old is None:
            return 0
        await connection.fetch(_TERMINATE_SQL, old)
        freed = await _free(connection, old)
        await connection.execute(_NOTIFY_SQL)
    return freed


async def fence(connection: asyncpg.Connection, worker: str, incarnation: str, beat: int) -> bool:
    """End an incarnation that was last seen at ``beat``; False when it moved on, or another was first."""
    async with connection.transaction():
        if await connection.fetchval(_FENCE_SQL, worker, incarnation, beat) is None:
            return False
        await connection.fetch(_TERMINATE_SQL, incarnation)
        await _free(connection, incarnation)
        await connection.execute(_NOTIFY_SQL)
    return True


async def _free(connection: asyncpg.Connection, incarnation: str) -> int:
    await connection.fetch(_LOCK_SHARDS_SQL, incarnation)
    return len(await connection.fetch(_FREE_SQL, incarnation))


async def next_attempt(connection: asyncpg.Connection, worker: str, incarnation: str) -> int | None:
    """The number for this session's lock, or None when the incarnation was ended."""
    attempt: int | None = await connection.fetchval(_ATTEMPT_SQL, worker, incarnation)
    return attempt


async def lock(connection: asyncpg.Connection, incarnation: str, attempt: int) -> None:
    """Hold the session-level lock whose disappearance shows that this incarnation's session ended."""
    await connection.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", f"{incarnation}:{attempt}")


async def beat(connection: asyncpg.Connection, worker: str, incarnation: str) -> bool:
    """Show that this incarnation lives; False when it was ended."""
    return await connection.fetchval(_BEAT_SQL, worker, incarnation) is not None


async def mark_leaving(connection: asyncpg.Connection, worker: str, incarnation: str) -> None:
    """Tell everyone that this incarnation takes no more shards."""
    async with connection.transaction():
        await connection.execute(_LEAVING_SQL, worker, incarnation)
        await connection.execute(_NOTIFY_SQL)


async def claim(
    connection: asyncpg.Connection, worker: str, incarnation: str, shard_ids: Sequence[ShardId]
) -> dict[ShardId, int]:
    """Take those of the shards that are nobody's; the epoch of each one won."""
    async with connection.transaction():
        won = await connection.fetch(_CLAIM_SQL, worker, incarnation, sorted(shard_ids))
        await connection.execute(_NOTIFY_SQL)
    return {ShardId(row["shard_id"]): row["epoch"] for row in won}


async def heads(connection: asyncpg.Connection, epochs: Mapping[ShardId, int]) -> dict[ShardId, int]:
    """The last sequence number of each claimed shard, kept in ``shard_epoch``.

    To be called after the claim is acknowledged: in the claim's own statement the snapshot would be older than its wait
    for the owner before.
    """
    rows = await connection.fetch(_HEADS_SQL, list(epochs))
    found = {ShardId(row["id"]): int(row["head"]) for row in rows}
    await connection.execute(_FROM_SQL, list(found), [epochs[shard_id] for shard_id in found], list(found.values()))
    return found


async def release(connection: asyncpg.Connection, incarnation: str, shard_ids: Iterable[ShardId]) -> None:
    """Give shards up; those that are no longer this incarnation's are left alone."""
    async with connection.transaction():
        await connection.execute(_RELEASE_SQL, sorted(shard_ids), incarnation)
        await connection.execute(_NOTIFY_SQL)


async def bump(connection: asyncpg.Connection, incarnation: str, shard_id: ShardId, epoch: int) -> int | None:
    """Raise the epoch of an own shard, committed; None when it is not ``epoch``, or not this incarnation's."""
    raised: int | None = await connection.fetchval(_BUMP_SQL, shard_id, epoch, incarnation)
    return raised


async def look(connection: asyncpg.Connection) -> View:
    """All workers and shards, as of one moment."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        plan = await connection.fetchrow(_PLAN_SQL)
        workers = await connection.fetch(_WORKERS_SQL)
        shards = await connection.fetch(_SHARDS_SQL)
    assert plan is not None  # made by the migration
    return View(
        {row["id"]: WorkerRow(*row) for row in workers},
        {ShardId(row["id"]): ShardRow(*row) for row in shards},
        plan["version"],
        plan["hash"],
    )


async def set_targets(
    connection: asyncpg.Connection, version: int, plan_hash: str, targets: Sequence[Target]
) -> int | None:
    """Make a plan that was made from plan ``version`` the present one; None when that is no longer the present."""
    async with connection.transaction():
        new: int | None = await connection.fetchval(_NEXT_PLAN_SQL, version, plan_hash)
        if new is not None:
            await connection.execute(
                _TARGETS_SQL,
                [target.shard_id for target in targets],
                [target.worker for target in targets],
                [target.reason for target in targets],
                new,
            )
            await connection.execute(_NOTIFY_SQL)
    return new
