"""The operator's decisions, on a simulated Kubernetes: no forbidden action in any history, and every history
converges.
"""

from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from threadcluster_operator.api import parse_spec
from threadcluster_operator.controller.actions import plan_actions
from threadcluster_operator.controller.snapshot import pod_of
from threadcluster_operator.kube.preconditions import Preconditions

from tests.operator.controller.simulated import NAME, OPERATOR, Simulation, settle, wanted_replicas

ordinals = st.integers(0, 5)


class Operating(RuleBasedStateMachine):
    """A user, a world and an operator, in any order."""

    taken: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.simulation = Simulation()

    @initialize(counts=st.booleans())
    def choose_controller(self, counts: bool) -> None:
        """A StatefulSet controller of either kind."""
        self.simulation.counts_unavailable = counts

    @rule()
    def hang_migrations(self) -> None:
        """No migration ends."""
        self.simulation.migrations_hang = True

    @rule(replicas=st.integers(0, 6))
    def scale(self, replicas: int) -> None:
        """More workers, or fewer, or none."""
        self.simulation.edit(replicas=replicas)

    @rule(image=st.sampled_from(["threadcluster:1", "threadcluster:2", "threadcluster:3"]))
    def change_image(self, image: str) -> None:
        """Another release."""
        self.simulation.edit(image=image)

    @rule(every=st.sampled_from([50, 100]))
    def change_setting(self, every: int) -> None:
        """Another pod template."""
        self.simulation.edit(worker={"snapshotEveryEvents": every})

    @rule(moves=st.integers(1, 4))
    def change_limit(self, moves: int) -> None:
        """Another limit of moves."""
        self.simulation.edit(rebalance={"maxConcurrentMoves": moves})

    @rule(ordinal=ordinals)
    def crash(self, ordinal: int) -> None:
        """A worker's process dies and comes again."""
        self.simulation.crash(f"{NAME}-{ordinal}")

    @rule(ordinal=ordinals)
    def break_down(self, ordinal: int) -> None:
        """A worker dies and does not come again."""
        name = f"{NAME}-{ordinal}"
        self.simulation.crash(name)
        if name in self.simulation.pods:
            self.simulation.broken.add(name)

    @rule(ordinal=ordinals)
    def lose_node(self, ordinal: int) -> None:
        """A worker's node is cut off."""
        self.simulation.lose(f"{NAME}-{ordinal}")

    @rule()
    def heal(self) -> None:
        """No fault goes on."""
        self.simulation.heal()

    @rule()
    def no_worker_answers(self) -> None:
        """No worker can be asked."""
        self.simulation.unanswered = True

    @rule()
    def freeze_database(self) -> None:
        """No worker has its database."""
        self.simulation.frozen = True

    @rule()
    def answers_grow_old(self) -> None:
        """The operator could not ask for a while."""
        self.simulation.stale = True

    @rule()
    def answers_are_new(self) -> None:
        """It can again, and the database is there."""
        self.simulation.frozen = self.simulation.stale = False

    @rule()
    def contradict(self) -> None:
        """One worker says what the others do not."""
        self.simulation.contradicting = True

    @rule()
    def restart_operator(self) -> None:
        """The operator's memory is lost."""
        self.simulation.restart_operator()

    @rule(turns=st.integers(1, 8))
    def go_on(self, turns: int) -> None:
        """World and operator, in turn."""
        for _ in range(turns):
            self.simulation.turn()
            self.simulation.operate()

    @rule()
    def turn(self) -> None:
        """The world alone."""
        self.simulation.turn()

    @rule(ago=st.integers(0, 3))
    def operate(self, ago: int) -> None:
        """The operator alone, which may see an earlier moment."""
        self.simulation.operate(ago=ago)

    @rule(ago=st.integers(1, 5))
    def operate_on_earlier_pods(self, ago: int) -> None:
        """The operator alone, whose watch of pods is behind that of everything else."""
        self.simulation.operate(pods_ago=ago)

    @invariant()
    def a_step_is_counted(self) -> None:
        """For how much was tried."""
        Operating.taken += 1

    @invariant()
    def one_owner_a_shard_is_known_to_workers_alone(self) -> None:
        """The operator writes no owner: only workers change one."""
        assert {name for name, _ in self.simulation.workers.calls} <= {"targets"}

    def teardown(self) -> None:
        settle(self.simulation)


def test_whatever_happens_nothing_forbidden_is_done_and_it_ends_well() -> None:
    """Two thousand steps of users, faults, world and operator, in random order; `make explore` takes ten times as many."""
    Operating.taken = 0
    run_state_machine_as_test(Operating, settings=settings(max_examples=70, stateful_step_count=40, deadline=None))
    assert Operating.taken >= 2_000


@pytest.mark.parametrize("unseen", [{3, 4}, {4}], ids=["both", "the-highest"])
@pytest.mark.parametrize("unanswered", [False, True], ids=["answered", "unanswered"])
def test_a_worker_that_owns_shards_stays_though_its_pod_was_not_seen(unseen: set[int], unanswered: bool) -> None:
    """5 → 3 while the watch of pods is behind: replicas falls when the shards are elsewhere, by the owners' names."""
    simulation = Simulation()
    settle(simulation)
    simulation.edit(replicas=5)
    settle(simulation)
    assert simulation.workers.owned_by(f"{NAME}-4")
    simulation.edit(replicas=3)
    simulation.unanswered = unanswered
    seen = simulation.look()
    behind = tuple(pod for pod in seen.pods if pod_of(pod).ordinal not in unseen)
    steps = plan_actions(seen._replace(pods=behind), parse_spec(seen.resource), OPERATOR, balancing=False)
    assert wanted_replicas(steps) == []
    assert "still has shards" in steps.blocked_reason or "no worker reports the owners" in steps.blocked_reason
    settle(simulation)
    assert sorted(simulation.pods) == [f"{NAME}-{ordinal}" for ordinal in range(3)]


def test_a_decision_on_an_earlier_state_is_not_carried_out() -> None:
    """A StatefulSet that has changed since is another one to judge."""
    simulation = Simulation()
    settle(simulation)
    seen = simulation.look()
    simulation.edit(worker={"snapshotEveryEvents": 50})
    live = simulation.stateful_set
    assert live is not None
    steps = plan_actions(
        seen._replace(resource=simulation.resource), parse_spec(simulation.resource), OPERATOR, balancing=False
    )
    [judged] = [judged for body, judged in steps.apply if body["kind"] == "StatefulSet"]
    assert judged == Preconditions.of(live)
    simulation.edit(replicas=4)
    simulation.operate()
    assert Preconditions.of(live) == judged != Preconditions.of(simulation.stateful_set or {})


@pytest.mark.parametrize(
    "edits",
    [
        [{"replicas": 5}, {"replicas": 1}],
        [{"image": "threadcluster:2"}],
        [{"image": "threadcluster:2"}, {"image": "threadcluster:1"}],
        [{"replicas": 0}, {"replicas": 2}],
        [{"replicas": 6, "image": "threadcluster:2"}, {"replicas": 2, "worker": {"snapshotEveryEvents": 50}}],
    ],
    ids=["scale", "image", "there-and-back", "to-nothing", "all-at-once"],
)
def test_edits_are_carried_out(edits: list[dict[str, Any]]) -> None:
    """One after the other, each begun before the one before is done."""
    simulation = Simulation()
    settle(simulation)
    for edit in edits:
        simulation.edit(**edit)
        for _ in range(7):
            simulation.turn()
            simulation.operate()
    settle(simulation)
