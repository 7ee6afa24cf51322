"""What the management port shows: this worker's health, and the cluster as this worker sees it."""

import time
from typing import Final

from shard_worker.actors.region import ShardRegion
from shard_worker.domain.ids import ShardId
from shard_worker.journal.appender import Appender
from shard_worker.ownership.membership import Ownership
from shard_worker.ownership.owners import ShardRow, WorkerRow
from shard_worker.ownership.store import Target

_SETTLE_MOST_S: Final = 10.0


class WorkerView:
    """Implements the gateway's `ClusterView`."""

    def __init__(self, worker: str, ownership: Ownership, region: ShardRegion, appender: Appender) -> None:
        self._worker = worker
        self._ownership = ownership
        self._region = region
        self._appender = appender
        self._started = time.monotonic()
        self._ready = False

    def fault(self) -> str | None:
        """Why the process should be ended, or None."""
        error = self._appender.fault() or self._ownership.fault() or self._region.fault()
        return None if error is None else repr(error)

    def ready(self) -> str | None:
        """Why it should get no requests yet, or no more; None when it should.

        Once ready it stays so until it leaves: a database fault or a recovery never changes it.
        """
        if self._ownership.leaving:
            return "leaving"
        if not self._ready:
            if not self._ownership.registered.is_set():
                return "not registered yet"
            if not self._ownership.settled() and time.monotonic() - self._started < _SETTLE_MOST_S:
                return "the first shards are not served yet"
            self._ready = True
        return None

    def cluster(self) -> dict[str, object]:
        """Workers and shards, for people and dashboards."""
        view = self._ownership.view
        return {
            "workers": [
                {
                    "name": row.id,
                    "state": _worker_state(row),
                    "incarnation": row.incarnation,
                    "address": f"http://{row.host}:{row.public_port}",
                }
                for row in sorted(view.workers.values())
            ],
            "shards": [
                {
                    "id": row.id,
                    "owner": row.owner,
                    "epoch": row.epoch,
                    "state": _shard_state(row),
                    "load": self._load(row.id),
                }
                for row in sorted(view.shards.values())
            ],
        }

    def ownership(self) -> dict[str, object]:
        """What a planner needs: workers, incarnations, shards, targets and the plan's version."""
        view = self._ownership.view
        return {
            "apiVersion": 1,
            "answeredBy": self._worker,
            "planVersion": view.plan_version,
            "planHash": view.plan_hash,
            "workers": [
                {
                    "name": row.id,
                    "incarnation": row.incarnation,
                    "state": _worker_state(row),
                    "host": row.host,
                    "publicPort": row.public_port,
                    "managementPort": row.management_port,
                    "beat": row.beat,
                    "leaving": row.leaving,
                    "cordoned": row.cordoned,
                }
                for row in sorted(view.workers.values())
            ],
            "shards": [
                {
                    "id": row.id,
                    "owner": row.owner,
                    "incarnation": row.incarnation,
                    "epoch": row.epoch,
                    "state": _shard_state(row),
                    "target": row.target,
                    "reason": row.reason,
                    "load": self._load(row.id),
                }
                for row in sorted(view.shards.values())
            ],
            "serving": sorted(self._region.serving()),
        }

    async def set_targets(self, version: int, plan_hash: str, targets: list[tuple[int, str | None, str]]) -> int | None:
        """Record a plan made from plan ``version``: its own version, or None when another came first."""
        return await self._ownership.set_targets(
            version, plan_hash, [Target(ShardId(shard), worker, reason) for shard, worker, reason in targets]
        )

    def plan_version(self) -> int:
        """The present plan's version, as far as this worker knows."""
        return self._ownership.view.plan_version

    def _load(self, shard_id: ShardId) -> int | None:
        shard = self._region.shards.get(shard_id)
        return None if shard is None else shard.commands


def _worker_state(row: WorkerRow) -> str:
    if row.fenced:
        return "fenced"
    return "leaving" if row.leaving else "ready"


def _shard_state(row: ShardRow) -> str:
    if row.owner is None:
        return "unowned"
    return "moving" if row.target is not None and row.target != row.owner else "serving"
