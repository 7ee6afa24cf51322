"""The claim in the database: read, taken, refreshed.  `shard_worker.database.claim` decides."""

from collections.abc import Mapping
from typing import Any, Final

import asyncpg
import msgspec

from shard_worker.contract_internal import DatabaseFault
from shard_worker.database.claim import Claim, Claimant, Verdict, judge, refusal
from shard_worker.database.connection import DatabaseError
from shard_worker.database.generation import free_all_shards, raise_plan

# As JSON, because the columns of the holder may not be there yet: a claim is read before the schema is changed.
_READ_SQL: Final = """
SELECT to_jsonb(m)::text AS claim,
       CASE WHEN isfinite(seen_at) THEN extract(epoch FROM clock_timestamp() - seen_at)::float8 END AS silent_s
  FROM meta m, LATERAL (SELECT (to_jsonb(m) ->> 'holder_seen_at')::timestamptz AS seen_at) seen
"""
_LOCK_SQL: Final = "SELECT FROM meta FOR UPDATE"
# Waits for a displacement that is under way, and keeps the next one waiting until the transaction's end.
_SHARE_SQL: Final = "SELECT FROM meta FOR SHARE"
_TAKE_SQL: Final = """
UPDATE meta SET cluster_id = $1, holder_uid = $2, holder_name = $3, holder_site = $4, holder_seen_at = clock_timestamp()
"""
_REFRESH_SQL: Final = """
UPDATE meta SET holder_seen_at = clock_timestamp()
 WHERE holder_uid = $1 AND holder_site = $2 AND holder_seen_at < clock_timestamp() - make_interval(secs => $3)
"""
_END_SQL: Final = """
UPDATE meta SET holder_seen_at = '-infinity' WHERE NOT EXISTS (SELECT FROM worker WHERE NOT fenced)
"""


class ClaimedByOther(DatabaseError):
    """The database belongs to another cluster."""

    fault = DatabaseFault.CLAIMED_BY_OTHER


async def read_claim(connection: asyncpg.Connection) -> Claim | None:
    """The claim in a database of any schema version; None before the first."""
    if await connection.fetchval("SELECT to_regclass('meta')") is None:
        return None
    return await _read(connection)


async def _read(connection: asyncpg.Connection) -> Claim | None:
    row = await connection.fetchrow(_READ_SQL)
    if row is None:
        return None
    meta: Mapping[str, Any] = msgspec.json.decode(row["claim"])
    holder = Claimant(
        meta["cluster_id"], *(meta.get(column, "") for column in ("holder_uid", "holder_name", "holder_site"))
    )
    silent_s = row["silent_s"]
    return Claim(holder, float("inf") if silent_s is None else silent_s)


async def expect_not_refused(connection: asyncpg.Connection, claimant: Claimant, take_over: str) -> None:
    """Change nothing.  Raises `ClaimedByOther` when ``claimant`` may not take the database."""
    claim = await read_claim(connection)
    if claim is not None and judge(claim, claimant, take_over) is Verdict.REFUSED:
        raise ClaimedByOther(refusal(claim, claimant))


async def take(connection: asyncpg.Connection, claimant: Claimant, take_over: str) -> bool:
    """Make ``claimant`` the holder, in the caller's transaction; whether another one was displaced.

    A displaced holder's workers are fenced, and its shards are without owner: from the commit on it appends nothing.  Its
    workers may serve reads from memory until their leases are over.  Raises `ClaimedByOther`.
    """
    # Before the claim is read: of two that displace at once, the second reads what the first made of it.
    await connection.execute(_LOCK_SQL)
    claim = await _read(connection)
    assert claim is not None  # the migration has made the row
    verdict = judge(claim, claimant, take_over)
    if verdict is Verdict.REFUSED:
        raise ClaimedByOther(refusal(claim, claimant))
    if verdict is Verdict.DISPLACE:
        reason = f"the database was taken over from {claim.holder.name or claim.holder.cluster_id}"
        await free_all_shards(connection, 1, reason, "takeover")
        await raise_plan(connection)  # the plans of the holder's planner were made for its own workers
    await connection.execute(_TAKE_SQL, *claimant)
    return verdict is Verdict.DISPLACE


async def keep_mine(connection: asyncpg.Connection, claimant: Claimant) -> None:
    """Within a transaction: the database is ``claimant``'s until its end.  Raises `ClaimedByOther`."""
    await connection.execute(_SHARE_SQL)
    # A statement of its own: one that waited for the lock would read what was there before.
    await expect_mine(connection, claimant)


async def expect_mine(connection: asyncpg.Connection, claimant: Claimant) -> None:
    """The database is ``claimant``'s at this moment.  Raises `ClaimedByOther`."""
    claim = await _read(connection)
    assert claim is not None  # a worker starts on a database of its schema
    if claim.holder != claimant:
        raise ClaimedByOther(refusal(claim, claimant))


async def refresh(connection: asyncpg.Connection, claimant: Claimant, period_s: float) -> None:
    """Show that the holder lives, unless another of its workers did so within the period."""
    await connection.execute(_REFRESH_SQL, claimant.uid, claimant.site, period_s)


async def end_if_last(connection: asyncpg.Connection) -> None:
    """After the commit that ends a worker: a cluster whose last worker ended in order is silent at once.

    Of two workers that end at the same time, the one that commits later sees that all have ended.
    """
    await connection.execute(_END_SQL)
