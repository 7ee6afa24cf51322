"""The SQL that decides ownership; `reporting` has the rest.

Every transaction locks the worker row first, then shard rows in ascending order.

Every change of a shard's owner, also to no owner, raises its epoch and leaves a row in ``shard_epoch``; its ``from_seq``
is known for claims and adoptions only, and null where the answer with the head was lost.

A function that failed or was cancelled in the middle of a transaction leaves its connection terminated.

A worker's *beat* is a pair of session-level advisory locks: one on (incarnation, attempt), which shows that the session
lives, and a shared one on a number that advances.  `pg_locks` shows both, so that a beat leaves no dead row version
behind.  ``worker.attempt`` counts the sessions; a session's lock, once gone, never comes back under the same attempt.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import asyncpg

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.handoff import Transfer
from shard_worker.ownership.view import OwnershipView, ShardRow, WorkerRow

CHANNEL: Final = "threadcluster_ownership"
_BEAT_CLASS: Final = 0x7463_6274
"""The first half of the key of every beat's advisory lock; the second half is the beat's number."""
_GONE: Final = 0xFFFF_FFFF
"""The number of a session that ended: greater than that of any beat, so that what a look reads never falls."""
_NOTIFY_SQL: Final = f"SELECT pg_notify('{CHANNEL}', '')"

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
_GENERATION_AGE_SQL: Final = """
SELECT $1::float8 - extract(epoch FROM clock_timestamp() - generation_at)::float8 FROM meta
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
       (SELECT array_agg(ROW(s.id, s.epoch, s.owner, s.incarnation, t.target, t.reason, s.changed_at, s.format))
          FROM shard s LEFT JOIN shard_target t ON t.shard_id = s.id
         WHERE s.epoch IS DISTINCT FROM ($1::bigint[])[s.id + 1] OR t.plan_version > $2)
  FROM plan p
"""  # noqa: S608  # constants of this module
_NEXT_PLAN_SQL: Final = """
UPDATE plan SET version = version + 1, hash = $2, made_at = now() WHERE version = $1 RETURNING version
"""
_TAKEOVER_PLAN_SQL: Final = "UPDATE plan SET version = version + 1, made_at = now() RETURNING version"
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
    """The target of one shard in a plan."""

    shard_id: ShardId
    worker: str | None
    reason: str


@asynccontextmanager
async def _transaction(connection: asyncpg.Connection, begin: str = "BEGIN") -> AsyncIterator[None]:
    """A transaction on a session that is thrown away when it fails, or is cancelled.

    A rollback would have to be waited for, on a silent link without end.
    """
    try:
        await connection.execute(begin)
        yield
        await connection.execute("COMMIT")
    except BaseException:
        connection.terminate()
        raise


@asynccontextmanager
async def _statement(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """One statement that is a transaction of its own; its shards are drained meanwhile.  A failure closes the session too."""
    try:
        yield
    except BaseException:
        connection.terminate()
        raise


async def register(
    connection: asyncpg.Connection, worker: str, incarnation: str, address: Address, capabilities: Mapping[str, object]
) -> str | None:
    """Begin a new incarnation; the one before can beat no more, and its sessions are ended.

    Returns that one, unless it was fenced: it may serve reads from memory until its lease is over, so its shards are
    still its own until `free_predecessors`.  After a lost answer, asked again, it returns ``incarnation`` itself.
    """
    async with _transaction(connection):
        await connection.execute(_ENSURE_WORKER_SQL, worker)
        before = await connection.fetchrow(_PREDECESSOR_SQL, worker)
        assert before is not None  # inserted, or there before
        await connection.execute(_REGISTER_SQL, worker, incarnation, *address, json.dumps(dict(capabilities)))
        if before["incarnation"] not in ("", incarnation):
            await connection.fetch(_TERMINATE_SQL, before["incarnation"])
        await connection.execute(_NOTIFY_SQL)
    return None if before["fenced"] else before["incarnation"]


async def free_predecessors(connection: asyncpg.Connection, worker: str, incarnation: str) -> int:
    """Take from this worker's earlier incarnations what they still hold.  Returns how many shards."""
    async with _transaction(connection):
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

    Returns the shards, or None when it moved on, or another was first.  The plan gets a new version, for plans made
    before know nothing of this.
    """
    async with _transaction(connection):
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
            version = await connection.fetchval(_TAKEOVER_PLAN_SQL)
            await connection.execute(
                _TARGETS_SQL, freed, [targets.get(shard_id) for shard_id in freed], [reason] * len(freed), version
            )
        await connection.execute(_NOTIFY_SQL)
    return freed


async def retire(connection: asyncpg.Connection, worker: str, incarnation: str) -> int:
    """End one's own incarnation, so that no peer waits for its next beat.  Returns how many shards it still held."""
    async with _transaction(connection):
        if await connection.fetchval(_MINE_SQL, worker, incarnation) is None:
            return 0
        await connection.execute(_END_SQL, worker)
        freed = await _free(connection, worker, incarnation, "release", f"{worker} left", itself=True)
        await connection.execute(_NOTIFY_SQL)
    return len(freed)


async def _free(
    connection: asyncpg.Connection, worker: str, incarnation: str, kind: str, reason: str, *, itself: bool
) -> list[ShardId]:
    await connection.fetch(_LOCK_SHARDS_SQL, worker, incarnation, itself)
    rows = await connection.fetch(_FREE_SQL, worker, incarnation, itself, kind, reason)
    if rows:
        await connection.execute(_NOTIFY_SQL)
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
    async with _transaction(connection):
        await connection.execute(_LEAVING_SQL, worker, incarnation)
        await connection.execute(_NOTIFY_SQL)


async def claim(
    connection: asyncpg.Connection, worker: str, incarnation: str, shard_ids: Sequence[ShardId]
) -> dict[ShardId, int]:
    """Take those of the shards that have no owner and whose format this incarnation reads; the epoch of each one won."""
    async with _transaction(connection):
        won = await connection.fetch(_CLAIM_SQL, worker, incarnation, sorted(shard_ids))
        if won:
            await connection.execute(_NOTIFY_SQL)
    return {ShardId(row["shard_id"]): row["epoch"] for row in won}


async def heads(connection: asyncpg.Connection, epochs: Mapping[ShardId, int]) -> dict[ShardId, int]:
    """The last sequence number of each claimed shard.

    To be called after the claim is acknowledged: in the claim's own statement the snapshot would be older than its wait
    for the owner before.
    """
    rows = await connection.fetch(_HEADS_SQL, list(epochs))
    return {ShardId(row["id"]): int(row["head"]) for row in rows}


async def owned_heads(
    connection: asyncpg.Connection, incarnation: str, epochs: Mapping[ShardId, int]
) -> dict[ShardId, int]:
    """The last sequence number of each of these shards that this incarnation owns at just that epoch.

    To be called after the change of owner is acknowledged, like `heads`, which keeps the numbers.
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
    async with _statement(connection):
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
    async with _transaction(connection):
        freed = await connection.fetch(_RELEASE_SQL, *_columns(held), incarnation, worker)
        if freed:
            await connection.execute(_NOTIFY_SQL)
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
    async with _transaction(connection):
        await connection.fetch(_LOCK_BELOW_SQL, *_columns(epochs))
        raised = await connection.fetch(_RAISE_PAST_SQL, *_columns(epochs))
        if raised:
            await connection.execute(_NOTIFY_SQL)
    return len(raised)


async def old_leases_s(connection: asyncpg.Connection, most_s: float) -> float:
    """For how long a lease of before the last fail-over may still hold, if ``most_s`` is how long one can."""
    left: float | None = await connection.fetchval(_GENERATION_AGE_SQL, most_s)
    return 0.0 if left is None else min(most_s, max(0.0, left))


def _columns(held: Mapping[ShardId, int]) -> tuple[list[ShardId], list[int]]:
    return list(held), list(held.values())


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


async def set_targets(
    connection: asyncpg.Connection, version: int, plan_hash: str, targets: Sequence[Target]
) -> int | None:
    """Make a plan that was made from plan ``version`` the present one; None when that is no longer the present."""
    async with _transaction(connection):
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
