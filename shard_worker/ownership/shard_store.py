"""The SQL of the owners of shards, and of the plan that gives them targets; `store` has the SQL of the workers.

Every transaction locks the worker row first, then shard rows in ascending order.

Every change of a shard's owner, also to no owner, raises its epoch and leaves a row in ``shard_epoch``; its ``from_seq``
is known for claims and adoptions only, and null where the answer with the head was lost.

A function that failed or was cancelled in the middle of a transaction leaves its connection terminated.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import asyncpg

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.handoff import Transfer
from shard_worker.ownership.transaction import CHANNEL, NOTIFY_SQL, statement, transaction

# A shard's format is raised by the statement that makes a worker its owner, to the format that this worker writes.  So it
# is raised before the worker can append, and fenced with the epoch; the look reads it, because the epoch is another one.
# FOR KEY SHARE lets the worker's own beats pass while a claim waits for a shard row; a fence waits for the claim.
_CLAIM_SQL: Final = """
WITH me AS (
    SELECT id, incarnation, coalesce((capabilities -> 'reads')::int, 1) AS reads,
           coalesce((capabilities -> 'writes')::int, 1) AS writes
      FROM worker
     WHERE id = $1 AND incarnation = $2 AND NOT fenced AND NOT leaving FOR KEY SHARE
), free AS (
    SELECT s.id, me.writes FROM shard s, me
     WHERE s.id = ANY($3::int[]) AND s.owner IS NULL AND s.format <= me.reads ORDER BY s.id FOR UPDATE OF s
), won AS (
    UPDATE shard SET epoch = epoch + 1, owner = $1, incarnation = $2, changed_at = now(),
                     format = greatest(format, free.writes)
      FROM free WHERE shard.id = free.id RETURNING shard.id, shard.epoch
)
INSERT INTO shard_epoch (shard_id, epoch, worker, incarnation, kind)
SELECT id, epoch, $1, $2, 'claim' FROM won RETURNING shard_id, epoch
"""
# The receivers are locked first: a fence of one of them waits for the transfer, or the transfer sees the fence.
_TRANSFER_SQL: Final = """
WITH wanted AS (
    SELECT * FROM unnest($1::int[], $2::bigint[], $3::text[], $4::text[], $5::text[])
        AS w (id, epoch, worker, incarnation, reason)
), receiver AS MATERIALIZED (
    SELECT r.id, r.incarnation, coalesce((r.capabilities -> 'reads')::int, 1) AS reads,
           coalesce((r.capabilities -> 'writes')::int, 1) AS writes
      FROM worker r
     WHERE r.id = ANY($3::text[]) AND r.incarnation = ANY($4::text[]) AND NOT r.fenced AND NOT r.leaving
     ORDER BY r.id FOR KEY SHARE OF r
), mine AS (
    SELECT s.id, wanted.worker, wanted.incarnation, wanted.reason, r.writes
      FROM shard s
      JOIN wanted USING (id, epoch)
      JOIN receiver r ON r.id = wanted.worker AND r.incarnation = wanted.incarnation AND s.format <= r.reads
     WHERE s.incarnation = $6 ORDER BY s.id FOR UPDATE OF s
), given AS (
    UPDATE shard SET epoch = epoch + 1, owner = mine.worker, incarnation = mine.incarnation, changed_at = now(),
                     format = greatest(format, mine.writes)
      FROM mine WHERE shard.id = mine.id RETURNING shard.id, shard.epoch, mine.worker, mine.incarnation, mine.reason
)
INSERT INTO shard_epoch (shard_id, epoch, worker, incarnation, kind, source, reason)
SELECT id, epoch, worker, incarnation, 'handoff', $7, reason FROM given
RETURNING shard_id, epoch, pg_notify($8, '')
"""
_OWNED_HEADS_SQL: Final = """
SELECT s.id, (SELECT coalesce(max(j.shard_seq), 0) FROM journal j WHERE j.shard_id = s.id) AS head
  FROM shard s JOIN unnest($1::int[], $2::bigint[]) AS expected (id, epoch) USING (id, epoch) WHERE s.incarnation = $3
"""
_RELEASE_SQL: Final = """
WITH mine AS (
    SELECT s.id FROM shard s JOIN unnest($1::int[], $2::bigint[]) AS held (id, epoch) USING (id, epoch)
     WHERE s.incarnation = $3 ORDER BY s.id FOR UPDATE OF s
), freed AS (
    UPDATE shard SET epoch = epoch + 1, owner = NULL, incarnation = NULL, changed_at = now()
      FROM mine WHERE shard.id = mine.id RETURNING shard.id, shard.epoch
)
INSERT INTO shard_epoch (shard_id, epoch, kind, source)
SELECT id, epoch, 'release', $4 FROM freed RETURNING shard_id
"""
_RAISE_SQL: Final = """
WITH mine AS (
    SELECT s.id FROM shard s JOIN unnest($1::int[], $2::bigint[]) AS held (id, epoch) USING (id, epoch)
     WHERE s.incarnation = $3 ORDER BY s.id FOR UPDATE OF s
), raised AS (
    UPDATE shard SET epoch = epoch + 1, changed_at = now()
      FROM mine WHERE shard.id = mine.id RETURNING shard.id, shard.epoch, shard.owner, shard.incarnation
)
INSERT INTO shard_epoch (shard_id, epoch, worker, incarnation, kind, source)
SELECT id, epoch, owner, incarnation, 'adopt', owner FROM raised RETURNING shard_id, epoch
"""
_LOCK_BELOW_SQL: Final = """
SELECT s.id FROM shard s JOIN unnest($1::int[], $2::bigint[]) AS seen (id, epoch) USING (id)
 WHERE s.epoch <= seen.epoch ORDER BY s.id FOR UPDATE OF s
"""
_RAISE_PAST_SQL: Final = """
WITH raised AS (
    UPDATE shard s SET epoch = seen.epoch + 1, owner = NULL, incarnation = NULL, changed_at = now()
      FROM unnest($1::int[], $2::bigint[]) AS seen (id, epoch)
     WHERE s.id = seen.id AND s.epoch <= seen.epoch RETURNING s.id, s.epoch
)
INSERT INTO shard_epoch (shard_id, epoch, kind, reason)
SELECT id, epoch, 'release', 'an epoch that was seen before a fail-over is not used again' FROM raised
RETURNING shard_id
"""
_FROM_SQL: Final = """
UPDATE shard_epoch e SET from_seq = h.head + 1
  FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS h (shard_id, epoch, head)
 WHERE e.shard_id = h.shard_id AND e.epoch = h.epoch AND e.from_seq IS NULL
"""
_NEXT_PLAN_SQL: Final = """
UPDATE plan SET version = version + 1, hash = $2, made_at = now() WHERE version = $1 RETURNING version
"""
_RAISE_PLAN_SQL: Final = "UPDATE plan SET version = version + 1, made_at = now() RETURNING version"
_TARGETS_SQL: Final = """
INSERT INTO shard_target (shard_id, target, reason, plan_version)
SELECT shard_id, target, reason, $4 FROM unnest($1::int[], $2::text[], $3::text[]) AS t (shard_id, target, reason)
 ORDER BY shard_id
    ON CONFLICT (shard_id) DO UPDATE
   SET target = excluded.target, reason = excluded.reason, plan_version = excluded.plan_version
"""


_PIN_SQL: Final = """
UPDATE shard_target SET pin = $2, plan_version = $3 WHERE shard_id = $1 AND pin IS DISTINCT FROM $2 RETURNING shard_id
"""


class Target(NamedTuple):
    """The target of one shard in a plan."""

    shard_id: ShardId
    worker: str | None
    reason: str


async def claim(
    connection: asyncpg.Connection, worker: str, incarnation: str, shard_ids: Sequence[ShardId]
) -> dict[ShardId, int]:
    """Take those of the shards that have no owner and whose format this incarnation reads; the epoch of each one won."""
    async with transaction(connection):
        won = await connection.fetch(_CLAIM_SQL, worker, incarnation, sorted(shard_ids))
        if won:
            await connection.execute(NOTIFY_SQL)
    return {ShardId(row["shard_id"]): row["epoch"] for row in won}


async def owned_heads(
    connection: asyncpg.Connection, incarnation: str, epochs: Mapping[ShardId, int]
) -> dict[ShardId, int]:
    """The last sequence number of each of these shards that this incarnation owns at just that epoch.

    To be called after the change of owner is acknowledged: in a claim's own statement the snapshot would be older than the
    claim's wait for the owner before.
    """
    rows = await connection.fetch(_OWNED_HEADS_SQL, *_columns(epochs), incarnation)
    return {ShardId(row["id"]): int(row["head"]) for row in rows}


async def record_start_seqs(
    connection: asyncpg.Connection, epochs: Mapping[ShardId, int], heads: Mapping[ShardId, int]
) -> None:
    """Keep in ``shard_epoch`` where each epoch begins."""
    numbers = list(heads.values())
    await connection.execute(_FROM_SQL, list(heads), [epochs[shard_id] for shard_id in heads], numbers)


async def transfer(
    connection: asyncpg.Connection, worker: str, incarnation: str, transfers: Sequence[Transfer]
) -> dict[ShardId, int]:
    """Give shards to other incarnations, in one step; the new epoch of each one given.

    One whose receiver was fenced, replaced, leaves or does not read its format, or that is no longer ours at that epoch,
    stays as it is.
    """
    async with statement(connection):
        given = await connection.fetch(
            _TRANSFER_SQL,
            [transfer.shard_id for transfer in transfers],
            [transfer.epoch for transfer in transfers],
            [transfer.worker for transfer in transfers],
            [transfer.incarnation for transfer in transfers],
            [transfer.reason for transfer in transfers],
            incarnation,
            worker,
            CHANNEL,
        )
    return {ShardId(row["shard_id"]): row["epoch"] for row in given}


async def release(
    connection: asyncpg.Connection, worker: str, incarnation: str, held: Mapping[ShardId, int]
) -> set[ShardId]:
    """Give up shards, each at the epoch it is held at; those that are no longer so are left alone.

    A release whose answer was lost may be sent again, and one that arrives late frees nothing that was adopted since.
    """
    async with transaction(connection):
        freed = await connection.fetch(_RELEASE_SQL, *_columns(held), incarnation, worker)
        if freed:
            await connection.execute(NOTIFY_SQL)
    return {ShardId(row["shard_id"]) for row in freed}


async def raise_epoch(
    connection: asyncpg.Connection, incarnation: str, held: Mapping[ShardId, int]
) -> dict[ShardId, int]:
    """Raise the epoch of own shards, each from the one it is held at, committed; the new epoch of each one raised."""
    raised = await connection.fetch(_RAISE_SQL, *_columns(held), incarnation)
    return {ShardId(row["shard_id"]): row["epoch"] for row in raised}


async def raise_past(connection: asyncpg.Connection, epochs: Mapping[ShardId, int]) -> int:
    """Free every shard whose epoch is not above the one given, and raise it above; how many those were.

    After a fail-over: an epoch that this worker has seen, on a history that was lost, must not be used again.
    """
    async with transaction(connection):
        await connection.fetch(_LOCK_BELOW_SQL, *_columns(epochs))
        raised = await connection.fetch(_RAISE_PAST_SQL, *_columns(epochs))
        if raised:
            await connection.execute(NOTIFY_SQL)
    return len(raised)


def _columns(held: Mapping[ShardId, int]) -> tuple[list[ShardId], list[int]]:
    return list(held), list(held.values())


async def set_targets(
    connection: asyncpg.Connection, version: int, plan_hash: str, targets: Sequence[Target]
) -> int | None:
    """Make a plan that was made from plan ``version`` the present one; None when that is no longer the present."""
    async with transaction(connection):
        new: int | None = await connection.fetchval(_NEXT_PLAN_SQL, version, plan_hash)
        if new is not None:
            await connection.execute(
                _TARGETS_SQL,
                [target.shard_id for target in targets],
                [target.worker for target in targets],
                [target.reason for target in targets],
                new,
            )
            await connection.execute(NOTIFY_SQL)
    return new


async def set_pin(connection: asyncpg.Connection, shard_id: ShardId, worker: str | None) -> int | None:
    """Pin a shard to a worker, or with None to none; the plan's new version, None when it was so already.

    The pin is part of the plan: plans that were made without it are refused.
    """
    async with transaction(connection):
        version: int = await connection.fetchval(_RAISE_PLAN_SQL)
        if await connection.fetchval(_PIN_SQL, shard_id, worker, version) is None:
            # The version rises all the same, which costs a planner one more look.
            return None
        await connection.execute(NOTIFY_SQL)
    return version


async def plan_takeover(
    connection: asyncpg.Connection, targets: Sequence[tuple[ShardId, str | None]], reason: str
) -> None:
    """Give shards that a fence freed their targets, within the fence's transaction.

    The plan gets a new version, for plans made before know nothing of the fence.
    """
    version = await connection.fetchval(_RAISE_PLAN_SQL)
    await connection.execute(
        _TARGETS_SQL,
        [shard_id for shard_id, _ in targets],
        [target for _, target in targets],
        [reason] * len(targets),
        version,
    )
