"""A view of the cluster in memory, behind the management port in its tests."""

import msgspec

from shard_worker.contract_internal import (
    EncodedOwnership,
    HistoryEntry,
    OwnershipDigest,
    ShardState,
    TargetsRequest,
    ThreadResponse,
    ThreadStateResponse,
)
from shard_worker.domain.ids import ShardId, ThreadId
from shard_worker.gateway.management.backend import DatabaseOfOther, DatabaseUnavailable

OWNERSHIP = EncodedOwnership(
    answered_by="w-0", plan_version=4, plan_hash="h", workers=(), shards=(msgspec.Raw(b"{}"),), serving=()
)

DIGEST = OwnershipDigest(
    answered_by="w-0", plan_version=4, epochs=1, beats=2, digest="d", member=True, serving=(ShardId(0),)
)

CHANGE = HistoryEntry(
    at="2026-05-01T12:00:00.123Z",
    shard=ShardId(0),
    epoch=2,
    source="w-0",
    to=None,
    kind="takeover",
    reason="w-0 is silent",
    pause_ms=None,
)


class MemoryView:
    """A worker's view of a cluster; a test sets the answers and the failures."""

    def __init__(self) -> None:
        self.why_not: str | None = None
        self.targets: object = None
        self.broken = False
        self.away = False
        self.of_other = False
        self.cordons: dict[str, tuple[bool, bool]] = {"w-0": (False, False), "w 1": (False, False)}
        self.pins: dict[int, str | None] = {}
        self.left = 0
        self.asked: object = None

    def fault(self) -> str | None:
        return self.why_not

    def ready(self) -> str | None:
        return self.why_not

    def cluster(self) -> dict[str, object]:
        if self.broken:
            raise RuntimeError("inner secret")
        return {"workers": [], "shards": []}

    async def ownership(self) -> EncodedOwnership:
        return OWNERSHIP

    def digest(self) -> OwnershipDigest:
        return DIGEST

    def plan_version(self) -> int:
        return 4

    async def set_targets(self, plan: TargetsRequest) -> int | None:
        self._check_database()
        if plan.plan_version != 4:
            return None
        self.targets = (plan.hash, [(each.shard, each.target, each.reason) for each in plan.targets])
        return 5

    async def set_pin(self, shard: int, worker: str | None) -> bool:
        self._check_database()
        changed = self.pins.get(shard) != worker
        self.pins[shard] = worker
        return changed

    async def shard_count(self) -> int:
        self._check_database()
        return 8

    def worker_names(self) -> list[str]:
        return sorted(self.cordons)

    async def set_cordon(self, worker: str, *, cordoned: bool, draining: bool) -> bool:
        self._check_database()
        if worker not in self.cordons:
            return False
        self.cordons[worker] = (cordoned, draining)
        return True

    def leave(self) -> int:
        self.left += 1
        return 3

    async def history(self, limit: int, shard: int | None) -> list[HistoryEntry]:
        self._check_database()
        self.asked = (limit, shard)
        return [CHANGE]

    async def thread(self, thread_id: ThreadId, before: int | None, limit: int) -> ThreadResponse:
        self._check_database()
        self.asked = (thread_id, before, limit)
        return ThreadResponse(
            thread_id=thread_id,
            shard=ShardId(3),
            state=ShardState.UNOWNED,
            owner=None,
            incarnation=None,
            epoch=2,
            sequence_nr=0,
            events=(),
            more=False,
        )

    async def thread_state(self, thread_id: ThreadId, at: int | None) -> ThreadStateResponse:
        self._check_database()
        self.asked = (thread_id, at)
        return ThreadStateResponse(thread_id=thread_id, sequence_nr=0, fault=None, state=None)

    def _check_database(self) -> None:
        if self.of_other:
            raise DatabaseOfOther("the database belongs to cluster 'other'")
        if self.away:
            raise DatabaseUnavailable("not there")
