"""Records that are written now and then: the pauses of handoffs, the loads of shards, and that the cluster lives."""

import math
import time
from collections.abc import Callable
from typing import Final

import asyncpg

from shard_worker.database import claim_store
from shard_worker.database.claim import Claimant
from shard_worker.domain.ids import ShardId
from shard_worker.ownership import reporting
from shard_worker.ownership.view import Load

_LOADS_S: Final = 2.0
"""Time between two writes of the loads: planners average over longer times."""
_PAUSES_S: Final = 0.5
"""Time between two writes of the pauses: one statement for the handoffs of a rebalance."""
_CLAIM_S: Final = 10.0
"""Time between two refreshes of the database's claim, by whichever worker is first: a sixth of the silence that ends it."""
_IDLE: Final = Load(0.0, 0.0)


class PeriodicReports:
    """The records of one incarnation that are not written yet, and the loads of all shards as last read."""

    def __init__(self, loads_of_host: Callable[[], dict[ShardId, Load]], claimant: Claimant | None = None) -> None:
        self.loads: dict[ShardId, Load] = {}
        self._loads_of_host = loads_of_host
        self._saved: dict[ShardId, Load] = {}
        self._pauses: dict[tuple[ShardId, int], float] = {}
        self._claimant = claimant
        self._pauses_at = self._loads_at = time.monotonic()
        self._claim_at = -math.inf

    def add_pause(self, shard_id: ShardId, epoch: int, pause_ms: float) -> None:
        """The handoff that led to an epoch stopped its shard for this time."""
        self._pauses[(shard_id, epoch)] = pause_ms

    async def write_due(self, connection: asyncpg.Connection) -> None:
        """Write the records that are due."""
        now = time.monotonic()
        if self._claimant is not None and now - self._claim_at >= _CLAIM_S:
            self._claim_at = now
            await claim_store.refresh(connection, self._claimant, _CLAIM_S / 2)
        if self._pauses and now - self._pauses_at >= _PAUSES_S:
            self._pauses_at = now
            pauses, self._pauses = self._pauses, {}
            await reporting.record_pauses(connection, pauses)
        if now - self._loads_at >= _LOADS_S:
            self._loads_at = now
            changed = {
                shard_id: load
                for shard_id, load in self._loads_of_host().items()
                if _differs(load, self._saved.get(shard_id, _IDLE))
            }
            if changed:
                await reporting.save_loads(connection, changed)
                self._saved |= changed
            self.loads = await reporting.read_loads(connection)


def _differs(load: Load, saved: Load) -> bool:
    """Whether the change of a shard's load is large enough to be written."""
    return abs(load.commands_s - saved.commands_s) > max(0.1, 0.1 * saved.commands_s)
