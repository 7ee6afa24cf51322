"""A planner: it asks the workers, lets the real rule decide, and has the plan recorded through one of them.

There are two of them, as when a leader does not know that it is none any more.  Each acts on what it saw some time ago;
what keeps them apart is the plan version alone.
"""

from functools import partial
from typing import TYPE_CHECKING, Final

from threadcluster_operator.api import RebalanceSpec, ThreadClusterSpec
from threadcluster_operator.planning.placement import Worker
from threadcluster_operator.planning.planner import NewPlan, PlanResult, ShardOwnership, next_steps

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.view import OwnershipView
from tests.simulation import transactions
from tests.simulation.clock import Clocks
from tests.simulation.link import connect
from tests.simulation.task import LinkFault, Process, Sleep, Task, Work

if TYPE_CHECKING:
    from tests.simulation.simulation import World
    from tests.simulation.worker import WorkerProcess

CLUSTER: Final = "w"
_SPECS: Final[dict[tuple[int, int], ThreadClusterSpec]] = {}


def spec_of(replicas: int, most_moves: int) -> ThreadClusterSpec:
    """The resource; made once, because it is validated when it is made."""
    key = (replicas, most_moves)
    if key not in _SPECS:
        _SPECS[key] = ThreadClusterSpec(replicas=replicas, rebalance=RebalanceSpec(max_concurrent_moves=most_moves))
    return _SPECS[key]


def observed(view: OwnershipView) -> ShardOwnership:
    """The observation that a planner makes of one worker's view."""
    shards = sorted(view.shards.values())
    return ShardOwnership(
        view.plan_version,
        {row.id: row.owner for row in shards},
        {row.id: row.target for row in shards},
        {},
        {
            row.id: Worker(
                row.id, live=not row.fenced, leaving=row.leaving, cordoned=row.cordoned, draining=row.draining
            )
            for row in view.workers.values()
        },
        {},
    )


class Planner(Process):
    """One of the two."""

    def __init__(self, world: "World", name: str) -> None:
        super().__init__(world.timeline, Clocks(1.0, 0.0), name)
        self.balancing = False
        self._world = world
        self._decided: tuple[object, PlanResult] | None = None
        self._newest: OwnershipView | None = None

    def start(self) -> None:
        """Observe, decide and act, again and again."""
        Task(self, self._run())

    def _run(self) -> Work[None]:
        world, rng = self._world, self._world.rng
        while True:
            yield Sleep(0.15 + rng.random() * 0.3)
            asked = [each for each in world.processes if each.alive and not each.paused and each.view.shards]
            answers = [each for each in asked if rng.random() < 0.9]
            running = frozenset(world.running)
            if not answers:
                continue
            newest = max((each.view for each in answers), key=freshness)
            if self._newest is not None and not world.dawdles_s:
                # As the operator does.  While there are faults, it may be another one each time, which has seen nothing yet.
                newest = max(newest, self._newest, key=freshness)
            self._newest = newest
            steps = self.decide(running, newest)
            if steps.plan is not None:
                yield Sleep(rng.random() * max(0.05, world.dawdles_s if rng.random() < 0.35 else 0.0))
                through = rng.choice(answers)
                if through.alive:
                    through.deliver(partial(self._record, through, steps, newest))
            for name in steps.run:
                world.want(name)
            for name in steps.stop:
                world.stop(name)

    def decide(self, running: frozenset[str], view: OwnershipView) -> PlanResult:
        """The real rule; its last result is kept, because it depends on nothing else."""
        world = self._world
        seen = observed(view)
        now = (world.replicas, world.most_moves, running, seen, self.balancing)
        if self._decided is None or self._decided[0] != now:
            spec = spec_of(world.replicas, world.most_moves)
            self._decided = (now, next_steps(CLUSTER, spec, running, seen, rebalance_now=self.balancing))
        steps = self._decided[1]
        self.balancing = steps.balancing
        return steps

    def _record(self, through: "WorkerProcess", steps: PlanResult, view: OwnershipView) -> None:
        plan = steps.plan
        assert plan is not None
        moves = moves_of(plan, view)
        tell = self._world.watch.tell
        if tell is not None:
            tell(f"{self.name}: from plan {plan.base_version}, {dict(plan.targets)}, through {through.name}")

        def record() -> Work[None]:
            session = yield from connect(self._world, through, "targets")
            try:
                yield from session.execute(
                    transactions.set_targets(plan.base_version, plan.hash, plan.targets, moves), 5.0
                )
            except LinkFault:
                pass
            finally:
                session.close()

        Task(through, record())


def moves_of(plan: NewPlan, view: OwnershipView) -> frozenset[ShardId]:
    """The shards of a plan that have a living owner, and another target than that."""
    owners = {shard_id: row.owner for shard_id, row in view.shards.items()}
    live = {row.id for row in view.workers.values() if not row.fenced}
    return frozenset(s for s, target in plan.targets.items() if owners[s] in live and target != owners[s])


def freshness(view: OwnershipView) -> tuple[int, int]:
    """The view with the highest is the newest."""
    return view.plan_version, sum(row.epoch for row in view.shards.values())
