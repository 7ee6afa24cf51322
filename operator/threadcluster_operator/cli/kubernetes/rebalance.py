"""Rebalancing by command on Kubernetes, where the operator plans and has no interface of its own.

`plan` asks the operator's own pure planner, with the
spec as it is and ownership as the workers tell it.  `rebalance` then records the moves that were agreed to as targets, a
few at a time, as the operator would: the workers take a plan only if it was made from the newest one, so neither of the
two overwrites the other, and a shard that is on its way is left alone by both.  So it works in mode Manual, too, and also
while no operator runs.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from shard_worker.contract_internal import PLAN_STALE
from shard_worker.domain.ids import ShardId
from threadcluster_operator.api import InvalidSpec, KubernetesSpec, parse_spec
from threadcluster_operator.cli.kubernetes.errors import ClusterNotFound, ClusterUnreachable
from threadcluster_operator.controller.snapshot import Object
from threadcluster_operator.kube.client import THREAD_CLUSTER, Kube
from threadcluster_operator.planning.observation import build_observation
from threadcluster_operator.planning.planner import NewPlan, ShardOwnership
from threadcluster_operator.planning.rebalance import Document, MovesRefused, RebalanceSession
from threadcluster_operator.workers.client import WorkerRefused
from threadcluster_operator.workers.protocol import WorkersClient

_LOOK_EVERY_S: Final = 0.2


class RebalanceClient:
    """See `threadcluster_operator.cli.cluster_access.Planner`; also raises `ClusterUnreachable` and `KubeError`."""

    def __init__(
        self,
        kube: Kube,
        workers: WorkersClient,
        running: Callable[[], Awaitable[frozenset[str]]],
        namespace: str,
        name: str,
    ) -> None:
        """``running``: the names of all workers' pods, ready or not."""
        self._kube = kube
        self._workers = workers
        self._running = running
        self._namespace = namespace
        self._name = name
        self._moves = RebalanceSession(name)

    async def plan(self) -> Document:
        """The plan that `rebalance` would carry out now."""
        return self._moves.show(*await self._look())

    async def rebalance(self, plan: str | None) -> Document:
        """Begin; the moves are ordered by `progress` and `hand_over`."""
        spec, running, observed = await self._look()
        if spec.paused:
            raise MovesRefused("spec.paused is true, so no shard is moved; set it to false first")
        return self._moves.begin(spec, running, observed, plan)

    async def progress(self) -> Document:
        """Order what may be ordered now; how far the moves are."""
        spec, running, observed = await self._look()
        if self._moves.busy():
            agreed: dict[ShardId, str] = {move.shard: move.target for move in self._moves.agreed}
            steps = self._moves.steps(spec, running, observed)
            if steps.plan is not None:
                await self._order(steps.plan, agreed)
        return self._moves.progress(observed)

    async def hand_over(self) -> None:
        """Return when every move is ordered: from then on the workers need no planner for them."""
        while True:
            await self.progress()
            if not self._moves.busy():
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _order(self, plan: NewPlan, agreed: dict[ShardId, str]) -> None:
        """Record the agreed part of a plan: the rest is the operator's, which knows more of it."""
        targets = {shard: target for shard, target in plan.targets.items() if agreed.get(shard) == target}
        if not targets:
            return
        try:
            await self._workers.set_targets(plan._replace(targets=targets).request())
        except WorkerRefused as error:
            if error.code != PLAN_STALE:
                raise

    async def _look(self) -> tuple[KubernetesSpec, frozenset[str], ShardOwnership | None]:
        spec, running = spec_of(await self._resource()), await self._running()
        answers = await self._workers.answers()
        return spec, running, build_observation(answers, running=running, starting=frozenset(), emptying=frozenset())

    async def _resource(self) -> Object:
        found = await self._kube.get(THREAD_CLUSTER, self._namespace, self._name)
        if found is None:
            raise ClusterNotFound(f"ThreadCluster {self._name} has just been deleted")
        return found


def spec_of(resource: Object) -> KubernetesSpec:
    """The spec of a cluster.  Raises `ClusterUnreachable` for a spec that no operator could act on."""
    try:
        return parse_spec(resource)
    except InvalidSpec as error:
        raise ClusterUnreachable(f"ThreadCluster {resource['metadata']['name']} is wrong: {error}") from error
