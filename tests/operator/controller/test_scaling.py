"""How many workers there are, and when the operator looks again."""

import copy
from typing import Any

import pytest
from threadcluster_operator.api import parse_spec
from threadcluster_operator.controller.actions import Actions, plan_actions
from threadcluster_operator.controller.snapshot import ClusterSnapshot
from threadcluster_operator.planning.freshness import Outage

from shard_worker.domain.ids import ShardId
from tests.operator.controller.simulated import NAME, OPERATOR, Simulation, settle, wanted_replicas


@pytest.fixture
def simulation() -> Simulation:
    """A cluster that is Ready."""
    made = Simulation()
    settle(made)
    return made


def steps_of(seen: ClusterSnapshot) -> Actions:
    """The actions on a snapshot."""
    return plan_actions(seen, parse_spec(seen.resource), OPERATOR, balancing=False)


def with_ownership(simulation: Simulation, **changes: Any) -> ClusterSnapshot:
    """The cluster, where the workers report something else."""
    seen = simulation.look()
    assert seen.ownership is not None
    return seen._replace(ownership=seen.ownership._replace(**changes))


def owned(simulation: Simulation) -> tuple[dict[ShardId, str | None], ShardId, ShardId]:
    """Every shard's owner, and a shard of each of the first two workers."""
    seen = simulation.look()
    assert seen.ownership is not None
    owners = dict(seen.ownership.owners)
    first, second = (next(shard for shard, owner in owners.items() if owner == f"{NAME}-{n}") for n in (0, 1))
    return owners, first, second


# --- fewer workers


def test_a_worker_that_has_shards_is_not_removed(simulation: Simulation) -> None:
    """The reason names it."""
    simulation.edit(replicas=2)
    steps = steps_of(simulation.look())
    assert wanted_replicas(steps) == []
    assert steps.blocked_reason == f"{NAME}-2 still has shards"


def test_workers_are_removed_down_to_the_highest_that_has_shards(simulation: Simulation) -> None:
    """From the highest ordinal on; a pod of an earlier size, which ends anyway, keeps no other."""
    owners, _, _ = owned(simulation)
    moved = {shard: f"{NAME}-0" if owner == f"{NAME}-1" else owner for shard, owner in owners.items()}
    simulation.edit(replicas=1)
    assert wanted_replicas(steps_of(with_ownership(simulation, owners=moved, targets=moved))) == []
    freed = {shard: f"{NAME}-1" if owner == f"{NAME}-2" else owner for shard, owner in owners.items()}
    seen = with_ownership(simulation, owners=freed, targets=freed)
    assert wanted_replicas(steps_of(seen)) == [2]
    extra = {**seen.pods[2], "metadata": {**seen.pods[2]["metadata"], "name": f"{NAME}-3"}}
    late = {**freed, ShardId(0): f"{NAME}-3"}
    seen = with_ownership(simulation, owners=late, targets=late)._replace(pods=(*seen.pods, extra))
    assert wanted_replicas(steps_of(seen)) == [2]


def test_a_surplus_worker_without_shards_is_removed(simulation: Simulation) -> None:
    """Nothing is waited for."""
    owners, _, _ = owned(simulation)
    moved = {shard: f"{NAME}-0" if owner == f"{NAME}-2" else owner for shard, owner in owners.items()}
    simulation.edit(replicas=2)
    steps = steps_of(with_ownership(simulation, owners=moved, targets=moved))
    assert wanted_replicas(steps) == [2]
    assert steps.blocked_reason == ""


def test_no_worker_is_removed_while_no_worker_has_its_database(simulation: Simulation) -> None:
    """Nor on an old report of the owners; the reason says which."""
    owners, _, _ = owned(simulation)
    moved = {shard: f"{NAME}-0" if owner == f"{NAME}-2" else owner for shard, owner in owners.items()}
    simulation.edit(replicas=2)
    seen = with_ownership(simulation, owners=moved, targets=moved)
    outage = Outage("DatabaseUnreachable", "no answer", 0.0)
    for held, why in (
        (seen._replace(ownership=None, outage=outage), "no worker has its database (DatabaseUnreachable)"),
        (seen._replace(fresh=False), "the last report of the owners of the shards is too old"),
    ):
        steps = steps_of(held)
        assert wanted_replicas(steps) == []
        assert steps.blocked_reason == f"{why}, so no worker is removed"
        assert not steps.settled
        pods = tuple(pod for pod in held.pods if pod["metadata"]["name"] != f"{NAME}-2")
        assert wanted_replicas(steps_of(held._replace(pods=pods))) == [], "its pod may be unseen"
        gone = held._replace(pods=pods, children=copy.deepcopy(held.children))
        live = gone.child("StatefulSet", NAME)
        assert live is not None
        live["status"]["replicas"] = 2
        assert wanted_replicas(steps_of(gone)) == [2]
        if held.ownership is not None:  # an old report keeps a worker that it shows as an owner or a target
            named = {**moved, next(iter(moved)): f"{NAME}-2"}
            for old in (held.ownership._replace(owners=named), held.ownership._replace(targets=named)):
                assert wanted_replicas(steps_of(gone._replace(ownership=old))) == []


def test_the_last_worker_but_one_stays_while_it_may_own_shards(simulation: Simulation) -> None:
    """Whether its pod was seen or not, and on an old report."""
    owners, _, _ = owned(simulation)
    simulation.edit(replicas=1)
    left = {shard: f"{NAME}-1" if owner == f"{NAME}-2" else owner for shard, owner in owners.items()}
    seen = without_pods(with_ownership(simulation, owners=left, targets=left), f"{NAME}-1", f"{NAME}-2")
    assert wanted_replicas(steps_of(seen)) == [2]
    assert steps_of(seen).blocked_reason == f"{NAME}-1 still has shards"
    alone = dict.fromkeys(owners, f"{NAME}-0")
    seen = with_ownership(simulation, owners=alone, targets=alone)
    assert wanted_replicas(steps_of(seen)) == [1]
    assert wanted_replicas(steps_of(seen._replace(fresh=False))) == []


@pytest.mark.parametrize("fresh", [True, False])
def test_a_cluster_is_stopped_on_any_report_of_its_owners(simulation: Simulation, fresh: bool) -> None:
    """An old one, too: no worker is left that could take a shard over."""
    simulation.edit(replicas=0)
    steps = steps_of(simulation.look()._replace(fresh=fresh))
    assert wanted_replicas(steps) == [0]
    assert steps.blocked_reason == ""


def test_a_cluster_is_stopped_without_an_answer_of_its_workers(simulation: Simulation) -> None:
    """No worker is left that could receive a shard, so none needs to be asked."""
    simulation.edit(replicas=0)
    simulation.unanswered = True
    steps = steps_of(simulation.look())
    assert wanted_replicas(steps) == [0]
    assert steps.blocked_reason == ""


def test_a_stateful_set_that_names_no_size_has_one_worker(simulation: Simulation) -> None:
    """That is its default."""
    simulation.edit(replicas=1)
    simulation.unanswered = True
    live = simulation.stateful_set
    assert live is not None
    del live["spec"]["replicas"]
    assert steps_of(simulation.look()).blocked_reason == ""


# --- when to look again, and when nothing is left to do


def test_a_cluster_at_rest_is_looked_at_rarely(simulation: Simulation) -> None:
    """Every 10 s: what happens to it is watched."""
    steps = steps_of(simulation.look())
    assert (steps.settled, steps.requeue_after_s) == (True, 10.0)


def test_a_cluster_whose_shards_move_is_looked_at_often(simulation: Simulation) -> None:
    """Ten times a second: the next moves wait for these, and no watch reports them."""
    owners, first, second = owned(simulation)
    going = {**owners, first: f"{NAME}-1", second: f"{NAME}-0"}
    steps = steps_of(with_ownership(simulation, targets=going))
    assert steps.targets is None
    assert (steps.settled, steps.requeue_after_s) == (False, 0.1)


def test_a_single_shard_that_moves_is_waited_for(simulation: Simulation) -> None:
    """The last move of a plan, too."""
    owners, first, _ = owned(simulation)
    before = {**owners, first: f"{NAME}-1"}
    steps = steps_of(with_ownership(simulation, owners=before, targets=owners))
    assert steps.targets is None
    assert (steps.settled, steps.requeue_after_s) == (False, 0.1)


def test_a_plan_of_moves_is_followed_closely(simulation: Simulation) -> None:
    """From its beginning, when nothing moves yet."""
    owners, first, _ = owned(simulation)
    uneven = {**owners, first: f"{NAME}-1"}
    steps = steps_of(with_ownership(simulation, owners=uneven, targets=uneven))
    assert steps.targets is not None
    assert steps.requeue_after_s == 0.1


def test_a_shard_that_waits_for_its_claim_does_not_move(simulation: Simulation) -> None:
    """Its target claims it by itself."""
    owners, first, _ = owned(simulation)
    steps = steps_of(with_ownership(simulation, owners={**owners, first: None}))
    assert steps.targets is None
    assert (steps.settled, steps.requeue_after_s) == (False, 10.0)


def test_a_change_that_takes_effect_is_looked_at_soon(simulation: Simulation) -> None:
    """Twice a second."""
    simulation.edit(worker={"snapshotEveryEvents": 50})
    assert steps_of(simulation.look()).requeue_after_s == 0.5


@pytest.mark.parametrize("replicas", [1, 3])
def test_nothing_is_settled_before_every_owner_serves(simulation: Simulation, replicas: int) -> None:
    """All pods may be as wanted before."""
    simulation.edit(replicas=replicas)
    settle(simulation)
    assert steps_of(simulation.look()).settled
    seen = simulation.look()
    assert seen.ownership is not None
    assert not steps_of(with_ownership(simulation, serving=dict.fromkeys(seen.ownership.serving, frozenset()))).settled


# --- by names, whatever pods were seen


def without_pods(seen: ClusterSnapshot, *names: str) -> ClusterSnapshot:
    """The cluster, of which these pods were not seen yet."""
    return seen._replace(pods=tuple(pod for pod in seen.pods if pod["metadata"]["name"] not in names))


def test_a_worker_that_is_to_get_a_shard_is_not_removed(simulation: Simulation) -> None:
    """Nor one that owns something, though its pod was not seen."""
    owners, first, _ = owned(simulation)
    elsewhere = dict.fromkeys(owners, f"{NAME}-0")
    simulation.edit(replicas=2)
    coming = with_ownership(simulation, owners=elsewhere, targets={**elsewhere, first: f"{NAME}-2"})
    for seen in (coming, without_pods(coming, f"{NAME}-2")):
        steps = steps_of(seen)
        assert wanted_replicas(steps) == []
        assert steps.blocked_reason == f"{NAME}-2 still has shards"
    gone = with_ownership(simulation, owners=elsewhere, targets=elsewhere)
    assert wanted_replicas(steps_of(without_pods(gone, f"{NAME}-2"))) == [2]


def test_pods_that_a_controller_counts_and_no_watch_has_shown_are_not_given_up(simulation: Simulation) -> None:
    """While no worker reports the owners; also before the controller has acted on the last size."""
    simulation.edit(replicas=2)
    simulation.unanswered = True
    seen = without_pods(simulation.look(), f"{NAME}-2")
    assert wanted_replicas(steps_of(seen)) == []
    live = simulation.stateful_set
    assert live is not None
    live["status"]["replicas"] = 2
    assert wanted_replicas(steps_of(without_pods(simulation.look(), f"{NAME}-2"))) == [2]
    live["status"]["observedGeneration"] = live["metadata"]["generation"] - 1
    assert wanted_replicas(steps_of(without_pods(simulation.look(), f"{NAME}-2"))) == []
    live["metadata"]["generation"], live["status"]["observedGeneration"] = 2, 1
    assert wanted_replicas(steps_of(without_pods(simulation.look(), f"{NAME}-2"))) == []


@pytest.mark.parametrize(
    ("status", "generation", "given_up"),
    [
        ({}, {"generation": 1}, False),
        ({"replicas": 0}, {"generation": 1}, False),
        ({"observedGeneration": 1}, {"generation": 1}, True),
        ({"observedGeneration": 1}, {}, True),
        ({"observedGeneration": 1, "replicas": 1}, {"generation": 1}, False),
    ],
    ids=["no-status", "not-acted", "no-pod-counted", "no-generation", "a-pod-counted"],
)
def test_a_controller_that_has_not_acted_may_have_pods(
    simulation: Simulation, status: dict[str, int], generation: dict[str, int], given_up: bool
) -> None:
    """A StatefulSet without a status is new to its controller."""
    simulation.edit(replicas=2)
    simulation.unanswered = True
    live = simulation.stateful_set
    assert live is not None
    live["status"] = status
    del live["metadata"]["generation"]
    live["metadata"].update(generation)
    seen = simulation.look()._replace(pods=())
    assert wanted_replicas(steps_of(seen)) == [2] * given_up


def made_by(steps: Actions) -> dict[str, Any]:
    """The StatefulSet that is created, now or when the migration is done."""
    return next((body for body in steps.create if body["kind"] == "StatefulSet"), steps.trial[0] if steps.trial else {})


def test_workers_that_a_stateful_set_has_left_behind_are_not_taken_away_by_the_next(simulation: Simulation) -> None:
    """It takes them over, and would delete at once those beyond its size."""
    del simulation.objects["StatefulSet", NAME]
    for pod in simulation.pods.values():
        pod["metadata"]["ownerReferences"] = []
    simulation.edit(replicas=1)
    steps = steps_of(simulation.look())
    assert made_by(steps)["spec"]["replicas"] == 3
    assert steps.blocked_reason == f"{NAME}-2 still has shards"
    simulation.unanswered = True
    steps = steps_of(simulation.look())
    assert made_by(steps)["spec"]["replicas"] == 3
    assert steps.blocked_reason == "no worker reports the owners of the shards, so no worker is removed"


def test_a_worker_that_was_left_behind_and_not_seen_is_not_taken_away(simulation: Simulation) -> None:
    """It owns shards, or is to: the others say so."""
    owners, first, _ = owned(simulation)
    del simulation.objects["StatefulSet", NAME]
    for pod in simulation.pods.values():
        pod["metadata"]["ownerReferences"] = []
    simulation.edit(replicas=1)
    alone = dict.fromkeys(owners, f"{NAME}-0")
    for reported in (
        with_ownership(simulation),
        with_ownership(simulation, owners=alone, targets={**alone, first: f"{NAME}-2"}),
    ):
        steps = steps_of(without_pods(reported, f"{NAME}-2"))
        assert made_by(steps)["spec"]["replicas"] == 3
        assert steps.blocked_reason == f"{NAME}-2 still has shards"
    without_shards = with_ownership(simulation, owners=alone, targets=alone)
    assert made_by(steps_of(without_pods(without_shards, f"{NAME}-1", f"{NAME}-2")))["spec"]["replicas"] == 1
