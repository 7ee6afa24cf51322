"""Bringing worker processes to new settings, one at a time, each emptied before it ends.

Afterwards it gets back what it had, so that new settings change nothing about who owns what, whatever the mode says of
balance.  In mode Paused nothing may be moved off a worker, so no worker is restarted before that ends.
"""

from collections.abc import Callable, Mapping

from threadcluster_operator.api import Mode
from threadcluster_operator.local.worker_process import WorkerProcess
from threadcluster_operator.planning.placement import Move
from threadcluster_operator.planning.planner import ShardOwnership
from threadcluster_operator.planning.rebalance import RebalanceSession


class Recycling:
    """The rolling restart: the worker that is being restarted, and the shards that it had."""

    def __init__(self, moves: RebalanceSession, say: Callable[[str], None]) -> None:
        self._moves = moves
        self._say = say
        self._name: str | None = None
        self._had: tuple[Move, ...] = ()

    def emptying(self) -> frozenset[str]:
        """The worker that shall own nothing now."""
        return frozenset() if self._name is None else frozenset({self._name})

    def turn(
        self,
        workers: Mapping[str, WorkerProcess],
        environment: dict[str, str],
        observed: ShardOwnership | None,
        mode: Mode,
        *,
        converged: bool,
    ) -> bool:
        """Go one step on; whether there is more to do.  Another worker's turn comes when all serve."""
        outdated = []
        for worker in workers.values():
            worker.configure(environment)
            if worker.outdated() and not worker.stopping():
                outdated.append(worker)
        if self._name is not None:
            self._go_on(workers.get(self._name), observed, mode)
            return True
        if not outdated or mode == "Paused":
            return False
        if converged and observed is not None:
            worker = outdated[0]
            self._say(f"{worker.name}: restarting with the new settings")
            self._name = worker.name
            self._had = tuple(
                Move(shard_id, None, worker.name, f"back on {worker.name}, which was restarted")
                for shard_id, owner in observed.owners.items()
                if owner == worker.name
            )
        return True

    def _go_on(self, worker: WorkerProcess | None, observed: ShardOwnership | None, mode: Mode) -> None:
        if worker is None or worker.stopping() or mode == "Paused":
            self._name = None
        elif observed is None:
            return
        elif worker.outdated():
            if _may_end(worker.name, observed):
                worker.recycle()
        elif worker.name in observed.serving and observed.workers[worker.name].live:
            self._moves.add(self._had)
            self._name = None


def _may_end(name: str, observed: ShardOwnership) -> bool:
    """Whether a worker owns no shard and is to get none, or no other worker can receive its shards."""
    others = [worker for worker in observed.workers.values() if worker.name != name]
    receivers = [worker for worker in others if worker.may_keep and not worker.cordoned]
    return not receivers or name not in {*observed.owners.values(), *observed.targets.values()}
