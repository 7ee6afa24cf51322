"""Why no shard moves, though a command asked for it: what the planner is not allowed to do, and what it cannot."""

from shard_worker.contract_internal import OwnershipResponse, WorkerState
from threadcluster_operator.cli.cluster_access import Cluster


def not_allowed(cluster: Cluster) -> str | None:
    """Why the planner moves nothing, whatever is asked for; None where it does."""
    if cluster.spec.rebalance.mode == "Paused":
        return "spec.rebalance.mode is Paused"
    return cluster.unplanned


def no_receiver(cluster: Cluster, found: OwnershipResponse, closing: str | None = None) -> str | None:
    """Why no worker may get a shard; None while one may, or may soon: a worker that restarts comes back.

    ``closing`` is a worker that was closed just now: the newest answer may be of a worker that has not read that yet.
    """
    closed = {closing} | {entry.name for entry in found.workers if entry.cordoned or entry.draining}
    wanted = {f"{cluster.name}-{number}" for number in range(cluster.spec.replicas)}
    if wanted <= closed:
        return "every worker is cordoned or draining, so none may have them; `uncordon` one, or raise spec.replicas"
    return None


def not_receiving(cluster: Cluster, found: OwnershipResponse, worker: str) -> str | None:
    """Why a worker gets no shard that is pinned to it; None where it gets the shard."""
    entry = found.worker(worker)
    if entry is None or entry.state is not WorkerState.READY:
        return f"{worker} does not run (spec.replicas is {cluster.spec.replicas})"
    return f"{worker} is draining" if entry.draining else f"{worker} is leaving" if entry.leaving else None
