"""SQL of what planners and people want of ownership: cordons, the load of shards, the history of moves.

Nothing here locks a shard's row or decides who owns one; that is `store`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple

import asyncpg

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.transaction import CHANNEL
from shard_worker.ownership.view import Load

_PAUSES_SQL: Final = """
UPDATE shard_epoch e SET pause_ms = p.pause_ms
  FROM unnest($1::int[], $2::bigint[], $3::real[]) AS p (shard_id, epoch, pause_ms)
 WHERE e.shard_id = p.shard_id AND e.epoch = p.epoch
"""
_LOADS_SQL: Final = "SELECT shard_id, commands_s, append_ms FROM shard_load"
_CORDON_SQL: Final = "UPDATE worker SET cordoned = $2, draining = $3 WHERE id = $1 RETURNING id, pg_notify($4, '')"
_LOAD_SQL: Final = """
INSERT INTO shard_load (shard_id, commands_s, append_ms)
SELECT * FROM unnest($1::int[], $2::real[], $3::real[]) AS l (shard_id, commands_s, append_ms) ORDER BY shard_id
    ON CONFLICT (shard_id) DO UPDATE
   SET commands_s = excluded.commands_s, append_ms = excluded.append_ms, measured_at = now()
"""
# A claim tells from whom only through the row before it, which says how the shard came to be free.
_HISTORY_SQL: Final = """
SELECT e.claimed_at, e.shard_id, e.epoch, coalesce(e.source, before.source),
       e.worker, CASE WHEN e.kind = 'claim' AND before.worker IS NULL THEN coalesce(before.kind, e.kind) ELSE e.kind END,
       CASE WHEN e.reason = '' THEN coalesce(before.reason, '') ELSE e.reason END, e.pause_ms
  FROM shard_epoch e LEFT JOIN shard_epoch before ON before.shard_id = e.shard_id AND before.epoch = e.epoch - 1
 WHERE $2::int IS NULL OR e.shard_id = $2
 ORDER BY e.claimed_at DESC, e.shard_id, e.epoch DESC LIMIT $1
"""


class OwnershipChange(NamedTuple):
    """One change of a shard's owner: a row of ``shard_epoch``."""

    at: datetime
    shard_id: ShardId
    epoch: int
    source: str | None
    worker: str | None
    kind: str
    reason: str
    pause_ms: float | None


async def record_pauses(connection: asyncpg.Connection, pauses: Mapping[tuple[ShardId, int], float]) -> None:
    """Keep how long the handoffs that led to these (shard, epoch)s stopped their shards, in milliseconds."""
    await connection.execute(
        _PAUSES_SQL, [shard for shard, _ in pauses], [epoch for _, epoch in pauses], list(pauses.values())
    )


async def set_cordon(connection: asyncpg.Connection, worker: str, *, cordoned: bool, draining: bool) -> bool:
    """Record whether a worker gets more shards, and whether it keeps its own; False for a name no worker has had."""
    return await connection.fetchval(_CORDON_SQL, worker, cordoned, draining, CHANNEL) is not None


async def save_loads(connection: asyncpg.Connection, loads: Mapping[ShardId, Load]) -> None:
    """Tell everyone how busy shards are."""
    await connection.execute(
        _LOAD_SQL,
        list(loads),
        [load.commands_s for load in loads.values()],
        [load.append_ms for load in loads.values()],
    )


async def history(connection: asyncpg.Connection, limit: int, shard_id: ShardId | None) -> list[OwnershipChange]:
    """The last changes of owner, newest first."""
    return [OwnershipChange(*row) for row in await connection.fetch(_HISTORY_SQL, limit, shard_id)]


async def read_loads(connection: asyncpg.Connection) -> dict[ShardId, Load]:
    """How busy each shard is, by its owner."""
    return {
        ShardId(shard_id): Load(commands_s, append_ms)
        for shard_id, commands_s, append_ms in await connection.fetch(_LOADS_SQL)
    }
