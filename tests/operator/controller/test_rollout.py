"""A rolling update, one ordinal at a time: which one is next, why it waits, and when all of it has taken effect."""

from collections.abc import Mapping
from typing import Any

import pytest
from threadcluster_operator.api import KubernetesSpec, parse_spec
from threadcluster_operator.controller.rollout import next_partition, rolled_out
from threadcluster_operator.controller.snapshot import ClusterSnapshot, Object
from threadcluster_operator.planning.freshness import Outage
from threadcluster_operator.render import MIGRATION_CONTAINER, TEMPLATE, RenderInput, selector_of, stateful_set

from tests.operator.controller.simulated import NAME, NAMESPACE, Simulation, settle

OLD, NEW = "old", "new"
SEEN = {"observedGeneration": 2, "currentRevision": OLD, "updateRevision": NEW}


@pytest.fixture
def simulation() -> Simulation:
    """A cluster that is Ready."""
    made = Simulation()
    settle(made)
    return made


def rendered(spec: KubernetesSpec) -> tuple[RenderInput, Object]:
    """Three workers, and the StatefulSet that is rendered for them."""
    wanted = RenderInput(NAME, NAMESPACE, "cluster-1", spec, 3, 3, "threadcluster-system")
    return wanted, stateful_set(wanted)


def with_pods(seen: ClusterSnapshot, revisions: str, *, ready: str = "yyy", ending: str = "nnn") -> ClusterSnapshot:
    """The pods, each of the old or the new revision (``o`` or ``n``), ready or not, ending or not."""
    pods = []
    for ordinal, revision in enumerate(revisions):
        pod = {**seen.pods[min(ordinal, 2)]}
        labels = {**pod["metadata"]["labels"], "controller-revision-hash": OLD if revision == "o" else NEW}
        meta = {**pod["metadata"], "name": f"{NAME}-{ordinal}", "labels": labels}
        if ending[min(ordinal, 2)] == "y":
            meta["deletionTimestamp"] = "2026-05-01T12:00:00Z"
        pod["metadata"] = meta
        is_ready = str(ready[min(ordinal, 2)] == "y")
        pod["status"] = {**pod["status"], "conditions": [{"type": "Ready", "status": is_ready}]}
        pods.append(pod)
    return seen._replace(pods=tuple(pods))


def ask(
    seen: ClusterSnapshot, present: int | None, *, status: Mapping[str, Any] = SEEN, generation: int | None = 2
) -> tuple[int, str]:
    """The next partition, where the StatefulSet has this one, and the reason why no further worker is restarted."""
    spec = parse_spec(seen.resource)
    wanted, live = rendered(spec)
    live["status"] = dict(status)
    live["metadata"]["generation"] = generation
    if generation is None:
        del live["metadata"]["generation"]
    live["spec"]["updateStrategy"]["rollingUpdate"] = {} if present is None else {"partition": present}
    return next_partition(seen, spec, wanted, [stateful_set(wanted)], live)


def test_the_highest_ordinal_with_the_old_template_is_next(simulation: Simulation) -> None:
    """One after the other, as each becomes ready."""
    seen = simulation.look()
    assert ask(with_pods(seen, "ooo"), 3) == (2, "")
    assert ask(with_pods(seen, "oon"), 2) == (1, "")
    assert ask(with_pods(seen, "onn"), 1) == (0, "")


def test_no_more_than_one_worker_is_ever_let_go(simulation: Simulation) -> None:
    """Those that were let go and have not restarted are held back again: several would restart at once."""
    seen = simulation.look()
    assert ask(with_pods(seen, "ooo"), 0) == (2, "")
    assert ask(with_pods(seen, "ooo"), None) == (2, "")
    assert ask(with_pods(seen, "oon"), 0) == (1, "")


def test_no_worker_is_let_go_before_the_stateful_sets_controller_has_acted(simulation: Simulation) -> None:
    """Its revisions are of the template before."""
    seen, waits = with_pods(simulation.look(), "ooo"), "the StatefulSet's controller has not acted yet"
    assert ask(seen, 2, status={**SEEN, "observedGeneration": 1}) == (2, waits)
    assert ask(seen, 5, status={**SEEN, "observedGeneration": 1}) == (3, waits)
    assert ask(seen, 3, status={}, generation=1) == (3, waits)
    assert ask(seen, 3, status={**SEEN, "observedGeneration": 1}, generation=None) == (2, "")


def test_a_new_template_comes_with_all_ordinals_held_back(simulation: Simulation) -> None:
    """As does a new StatefulSet: no pod restarts because of the change itself."""
    seen = with_pods(simulation.look(), "nnn")
    spec = parse_spec(seen.resource)
    wanted, live = rendered(spec)
    live["spec"]["template"]["spec"]["containers"][0]["image"] = "threadcluster:0"
    live["metadata"]["annotations"][TEMPLATE] = "of the template before"
    for present in (live, None):
        assert next_partition(seen, spec, wanted, [stateful_set(wanted)], present) == (3, "")


def test_a_template_that_an_admission_rule_changes_is_rolled_out(simulation: Simulation) -> None:
    """The API server took it: what the rule made of it is what the pods run; also one that takes the mark away."""
    seen = with_pods(simulation.look(), "ooo")
    spec = parse_spec(seen.resource)
    wanted, live = rendered(spec)
    live["status"], live["metadata"]["generation"] = dict(SEEN), 2
    live["spec"]["template"]["spec"]["containers"][0]["image"] = "mirror/threadcluster:1"
    assert next_partition(seen, spec, wanted, [stateful_set(wanted)], live) == (2, "")
    _, unmarked = rendered(spec)
    unmarked["status"], unmarked["metadata"]["generation"] = dict(SEEN), 2
    del unmarked["metadata"]["annotations"]
    assert next_partition(seen, spec, wanted, [stateful_set(wanted)], unmarked) == (2, "")


def test_all_ordinals_are_held_back_again_when_the_rollout_is_complete(simulation: Simulation) -> None:
    """Until then the controller restarts nothing more, but must see no partition to make the new revision current."""
    seen = with_pods(simulation.look(), "nnn")
    assert ask(seen, 0) == (0, "")
    assert ask(seen, 0, status={**SEEN, "currentRevision": NEW}) == (3, "")
    assert ask(seen, 0, status={"observedGeneration": 2, "updateRevision": NEW}) == (3, "")


def test_a_worker_that_is_to_be_removed_is_not_restarted(simulation: Simulation) -> None:
    """The rollout is complete without it."""
    assert ask(with_pods(simulation.look(), "nnno"), 3) == (0, "")


def test_a_paused_rollout_stays_where_it_is(simulation: Simulation) -> None:
    """Also when there are fewer workers by now."""
    simulation.edit(rollout={"paused": True})
    seen = with_pods(simulation.look(), "oon")
    assert ask(seen, 1) == (1, "spec.rollout.paused is true")
    assert ask(seen, 5) == (3, "spec.rollout.paused is true")
    assert ask(seen, None) == (0, "spec.rollout.paused is true"), "without a partition all are let go"


def test_the_next_worker_waits_for_those_with_the_new_template(simulation: Simulation) -> None:
    """Only a worker that was not let go yet waits."""
    seen = simulation.look()
    assert ask(with_pods(seen, "oon", ready="yyn"), 2) == (2, f"{NAME}-2 is not ready yet")
    assert ask(with_pods(seen, "oon", ready="yyn"), 5) == (3, f"{NAME}-2 is not ready yet")
    assert ask(with_pods(seen, "ooo", ending="nyn"), 2) == (2, "")


def test_one_ready_worker_is_enough_to_wait_for_an_answer(simulation: Simulation) -> None:
    """It may be the last that serves; with none that is ready the new template may be the remedy."""
    seen = simulation.look()._replace(ownership=None)
    assert ask(with_pods(seen, "ooo", ready="nyn"), 3) == (
        3,
        "no worker reports the owners of the shards, so no worker is restarted",
    )
    assert ask(with_pods(seen, "ooo", ready="nnn"), 3) == (2, "")


OUTAGE = Outage("DatabaseTLSFailed", "the certificate is not believed", 1_777_636_800.0)  # since 2026-05-01T12:00:00Z


def test_no_worker_is_restarted_while_no_worker_has_its_database(simulation: Simulation) -> None:
    """The reason is that of the outage; nor on an old report of the owners."""
    seen = with_pods(simulation.look(), "ooo")
    waits = "no worker has its database (DatabaseTLSFailed), so no worker is restarted"
    assert ask(seen._replace(ownership=None, outage=OUTAGE), 3) == (3, waits)
    old = "the last report of the owners of the shards is too old, so no worker is restarted"
    assert ask(seen._replace(fresh=False), 3) == (3, old)


@pytest.mark.parametrize(
    ("ended", "goes_on"),
    [
        ("2026-05-01T12:00:06Z", True),
        ("2026-05-01T12:00:05Z", False),
        ("2026-05-01T11:00:00Z", False),
        (None, False),
    ],
    ids=["during the outage", "clocks differ", "before", "not ended"],
)
def test_a_template_whose_database_was_migrated_during_the_outage_is_let_go(
    simulation: Simulation, ended: str | None, goes_on: bool
) -> None:
    """It is the remedy: the spec names another Secret or authority, and the workers wait for it."""
    seen = with_pods(simulation.look(), "ooo")._replace(ownership=None, outage=OUTAGE)
    job = {"kind": "Job", "metadata": {"name": "chat-migrate-2"}, "status": {"completionTime": ended}}
    assert (ask(seen._replace(children=(*seen.children, job)), 3)[0] == 2) is goes_on
    for code in (0, 1):  # and of a Job that a container beside the migration's own keeps from its end
        end = {"terminated": {"exitCode": code, "finishedAt": ended}}
        migration = {
            "kind": "Pod",
            "metadata": {"name": "chat-migrate-2-x", "labels": selector_of(NAME, "migration")},
            "status": {"phase": "Running", "containerStatuses": [{"name": MIGRATION_CONTAINER, "state": end}]},
        }
        assert (ask(seen._replace(pods=(*seen.pods, migration)), 3)[0] == 2) is (goes_on and code == 0)


@pytest.mark.parametrize(
    ("pods", "status", "generation", "expected"),
    [
        ({"revisions": "nnn"}, {}, 2, True),
        ({"revisions": "nnn"}, {"observedGeneration": 1}, 2, False),
        ({"revisions": "nnn"}, {"observedGeneration": None}, 1, False),
        ({"revisions": "nnn"}, {"observedGeneration": 1}, None, True),
        ({"revisions": "nnn"}, {"currentRevision": OLD}, 2, False),
        ({"revisions": "nn"}, {}, 2, False),
        ({"revisions": "nnnn"}, {}, 2, False),
        ({"revisions": "non"}, {}, 2, False),
        ({"revisions": "nnn", "ready": "yny"}, {}, 2, False),
        ({"revisions": "nnn", "ending": "yyy"}, {}, 2, False),
    ],
    ids=[
        "complete",
        "controller has not acted",
        "controller never acted",
        "first generation",
        "new revision not current",
        "worker missing",
        "worker too many",
        "worker with the old template",
        "worker not ready",
        "workers ending",
    ],
)
def test_a_change_has_taken_effect_when_every_worker_runs_it(
    simulation: Simulation, pods: dict[str, str], status: dict[str, Any], generation: int | None, expected: bool
) -> None:
    """The gate of the condition Ready: each of its parts alone keeps it closed."""
    spec = parse_spec(simulation.resource)
    _, live = rendered(spec)
    shown = {**SEEN, "currentRevision": NEW, **status}
    live["status"] = {name: value for name, value in shown.items() if value is not None}
    live["metadata"] |= {} if generation is None else {"generation": generation}
    assert rolled_out(with_pods(simulation.look(), **pods), spec, live) is expected
