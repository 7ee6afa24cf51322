"""Pins that are made by command: whether one can be, and which of two wins."""

from collections.abc import Collection

from shard_worker.contract_internal import ShardEntry
from threadcluster_operator.api.spec import ThreadClusterSpec


def wrong_pin(shard: int, worker: str | None, *, shards: int, workers: Collection[str]) -> str | None:
    """Why a shard of a cluster of ``shards`` cannot be pinned to a worker, or unpinned; None where it can."""
    if worker is not None and worker not in workers:
        return f"no worker is called {worker!r}; there are {', '.join(sorted(workers)) or 'none'}"
    if not 0 <= shard < shards:
        return f"there is no shard {shard}; the cluster has shards 0 to {shards - 1}"
    return None


def pin_of(shard: ShardEntry, spec: ThreadClusterSpec) -> tuple[str, str] | None:
    """The worker that a shard is pinned to, and where that comes from; a pin in the spec wins over one by command."""
    for pin in spec.rebalance.pins:
        if pin.shard == shard.id:
            return pin.worker, "spec"
    return None if shard.pin is None else (shard.pin, "command")
