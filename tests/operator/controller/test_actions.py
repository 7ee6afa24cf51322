"""Gates that stop the operator, and gates that make it wait, one after the other."""

import copy
from typing import Any

import pytest
from threadcluster_operator.api import parse_spec
from threadcluster_operator.controller.actions import ASKED_AGAIN, Actions, plan_actions, render_input
from threadcluster_operator.controller.reasons import Reason
from threadcluster_operator.controller.snapshot import ClusterSnapshot, Written, pod_of
from threadcluster_operator.controller.tenant_policy import TenantPolicy
from threadcluster_operator.kube.preconditions import Preconditions
from threadcluster_operator.planning.freshness import Outage
from threadcluster_operator.render import digest

from shard_worker.domain.ids import ShardId
from tests.operator.controller.simulated import NAME, OPERATOR, Simulation, settle, wanted_replicas

HALF_FAILED = {"type": "Failed", "status": "True"}


@pytest.fixture
def simulation() -> Simulation:
    """A cluster that is Ready."""
    made = Simulation()
    settle(made)
    return made


def steps_of(seen: ClusterSnapshot) -> Actions:
    """The actions on a snapshot."""
    return plan_actions(seen, parse_spec(seen.resource), OPERATOR, balancing=False)


def owned_by(simulation: Simulation, kind: str, name: str, owner: dict[str, Any] | None) -> ClusterSnapshot:
    """The cluster, with another owner's object in place of a child."""
    references = [] if owner is None else [{**owner, "uid": "other", "controller": True}]
    simulation.objects[kind, name]["metadata"]["ownerReferences"] = references
    return simulation.look()


@pytest.mark.parametrize(
    ("owner", "reason", "word"),
    [
        (None, Reason.NAME_CONFLICT, f"{NAME} exists and belongs to no ThreadCluster. "),
        ({"kind": "Deployment", "name": "web"}, Reason.NAME_CONFLICT, "Deployment web"),
        ({"kind": "ThreadCluster", "name": "other"}, Reason.NAME_CONFLICT, "ThreadCluster other"),
        ({"kind": "ThreadCluster", "name": NAME}, Reason.AWAITING_GARBAGE_COLLECTION, "being collected"),
    ],
    ids=["without-an-owner", "another-kind", "another-cluster", "its-predecessor"],
)
@pytest.mark.parametrize("kind", ["Service", "StatefulSet"])
def test_an_object_of_another_owner_stops_everything(
    simulation: Simulation, kind: str, owner: dict[str, Any] | None, reason: Reason, word: str
) -> None:
    """Nothing is created, changed or deleted, and the message names the object's owner."""
    steps = steps_of(owned_by(simulation, kind, NAME, owner))
    assert steps.blocked is not None
    assert steps.blocked.reason == reason
    assert word in steps.blocked.message
    assert (steps.create, steps.apply, steps.delete, steps.targets) == ((), (), (), None)


def test_a_migration_of_another_owner_stops_everything() -> None:
    """Whatever it did, it was not for this cluster."""
    simulation = Simulation()
    simulation.operate()
    (name,) = [name for kind, name in simulation.objects if kind == "Job"]
    simulation.objects["Job", name]["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    assert not steps_of(simulation.look()).migrating
    steps = steps_of(owned_by(simulation, "Job", name, None))
    assert steps.blocked is not None
    assert steps.blocked.reason == Reason.NAME_CONFLICT


def test_no_worker_is_made_before_the_migration_is_done() -> None:
    """Services and Job come first; the Job is made once."""
    simulation = Simulation()
    first = simulation.operate()
    assert first.migrating
    made = [body["kind"] for body in first.create]
    assert "Job" in made
    assert "StatefulSet" not in made
    again = simulation.operate()
    assert again.migrating
    assert again.create == ()


@pytest.mark.parametrize(
    ("condition", "now", "again"),
    [
        ({**HALF_FAILED, "lastTransitionTime": "1970-01-01T00:00:00Z"}, 10.0, False),
        ({**HALF_FAILED, "lastTransitionTime": "1970-01-01T00:00:00Z"}, 15.0, False),
        ({**HALF_FAILED, "lastTransitionTime": "1970-01-01T00:00:00Z"}, 16.0, True),
        (HALF_FAILED, 16.0, False),
        ({"type": "Complete", "status": "False"}, 16.0, False),
    ],
    ids=["just-now", "not-long-ago", "long-ago", "without-a-time", "still-running"],
)
def test_a_migration_that_failed_is_tried_again_after_a_while(
    condition: dict[str, str], now: float, again: bool
) -> None:
    """The Job is deleted then, and the next reconciliation creates another one."""
    simulation = Simulation()
    simulation.operate()
    (job,) = [each for (kind, _), each in simulation.objects.items() if kind == "Job"]
    job["status"] = {"conditions": [condition]}
    steps = steps_of(simulation.look()._replace(now=now))
    assert [body["kind"] for body in steps.delete] == ["Job"] * again
    assert steps.migrating


@pytest.mark.parametrize("kind", ["Service", "Ingress", "NetworkPolicy", "PodDisruptionBudget"])
def test_an_object_of_another_owner_is_left_alone_and_the_rest_goes_on(simulation: Simulation, kind: str) -> None:
    """Workers that run are scaled and rolled out; the cluster is not settled until the object is gone."""
    simulation.edit(gateway={"ingress": {"host": "chat.example"}})
    settle(simulation)
    simulation.objects[kind, NAME]["metadata"]["ownerReferences"] = []
    simulation.edit(
        replicas=5, worker={"snapshotEveryEvents": 50}, networkPolicy={"allowFrom": [{"namespaceSelector": {}}]}
    )
    steps = steps_of(simulation.look())
    assert steps.blocked is not None
    assert wanted_replicas(steps) == [5]
    assert (kind, NAME) not in {(body["kind"], body["metadata"]["name"]) for body, _ in steps.apply}
    simulation.edit(replicas=3, worker={}, networkPolicy={})
    steps = steps_of(simulation.look())
    assert not steps.settled


def test_objects_that_are_being_collected_hide_no_object_of_another_owner(simulation: Simulation) -> None:
    """All of them are left alone."""
    simulation.edit(gateway={"ingress": {"host": "chat.example"}})
    settle(simulation)
    predecessor = {"kind": "ThreadCluster", "name": NAME, "uid": "other", "controller": True}
    strange = {place: each for place, each in simulation.objects.items() if place[0] not in ("StatefulSet", "Job")}
    for number, each in enumerate(strange.values()):
        each["metadata"]["ownerReferences"] = [predecessor] * (number % 2)
    simulation.edit(
        gateway={"ingress": {"host": "talk.example"}, "service": {"type": "LoadBalancer"}},
        worker={"drainTimeout": "9m"},
    )
    steps = steps_of(simulation.look())
    assert steps.blocked is not None
    assert {(body["kind"], body["metadata"]["name"]) for body, _ in steps.apply} <= {("StatefulSet", NAME)}
    assert steps.create == ()


def test_the_patch_of_a_size_names_the_stateful_set_alone(simulation: Simulation) -> None:
    """Its other fields stay as they are."""
    simulation.edit(replicas=5)
    live = simulation.stateful_set
    assert live is not None
    assert steps_of(simulation.look()).scale == (
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": NAME, "namespace": "talk"},
            "spec": {"replicas": 5},
        },
        Preconditions.of(live),
    )


@pytest.mark.parametrize("privileged", [False, True])
def test_pods_are_restricted_unless_tenants_may_ask_for_more(simulation: Simulation, privileged: bool) -> None:
    """By the operator's flag."""
    seen = simulation.look()
    operator = OPERATOR._replace(tenants=TenantPolicy(privileged=privileged))
    assert render_input(seen, parse_spec(seen.resource), operator).restricted is not privileged


def test_workers_are_scaled_while_a_migration_does_not_end(simulation: Simulation) -> None:
    """In both directions, with the template that they have; the StatefulSet that is to follow is tried out before."""
    before = simulation.stateful_set
    assert before is not None
    template = copy.deepcopy(before["spec"]["template"])
    simulation.migrations_hang = True
    simulation.edit(image="missing:1")
    steps = steps_of(simulation.look())
    assert steps.migrating
    assert steps.trial is not None
    assert steps.trial[0]["spec"]["template"]["spec"]["containers"][0]["image"] == "missing:1"
    assert steps.trial[1] == Preconditions.of(before)
    assert steps.scale is None
    for replicas in (5, 1):
        simulation.edit(replicas=replicas)
        for _ in range(100):
            simulation.turn()
            simulation.operate()
        live = simulation.stateful_set
        assert live is not None
        assert live["spec"]["replicas"] == len(simulation.pods) == replicas
        assert live["spec"]["template"] == template
        assert steps_of(simulation.look()).migrating


def test_a_migration_is_complete_by_its_own_container() -> None:
    """A container beside it may run on, or fail; the Job that does not end is deleted when the workers are made after it."""
    simulation = Simulation()
    simulation.migrations_hang = True
    simulation.operate()
    (job,) = [each for (kind, _), each in simulation.objects.items() if kind == "Job"]
    done = migration_pod("Running", job["metadata"]["uid"], state={"terminated": {"exitCode": 0}})
    done["status"]["containerStatuses"].insert(0, {"name": "proxy", "state": {"running": {}}})
    seen = simulation.look()._replace(pods=(done,))
    steps = steps_of(seen)
    assert not steps.migrating
    assert [body["kind"] for body in steps.create] == ["StatefulSet"]
    assert steps.delete == ()
    simulation._store(steps.create[0], None)
    seen = simulation.look()._replace(pods=(done,))
    assert [body["kind"] for body in steps_of(seen).delete] == ["Job"]
    before = migration_pod("Failed", job["metadata"]["uid"], **failed(0))
    assert [body["kind"] for body in steps_of(seen._replace(pods=(before, done))).delete] == ["Job"]
    # During an outage the rollout, which may be the remedy, follows from the end of the migration.
    away = Outage("DatabaseUnreachable", "no answer", 0.0)
    assert steps_of(seen._replace(ownership=None, outage=away)).delete == ()
    ended = migration_pod("Succeeded", job["metadata"]["uid"], state={"terminated": {"exitCode": 0}})
    assert steps_of(simulation.look()._replace(pods=(ended,))).delete == ()  # its Job ends by itself
    job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    assert steps_of(simulation.look()._replace(pods=(done,))).delete == ()


@pytest.mark.parametrize(
    ("phase", "container", "again"),
    [
        ("Pending", {"state": {"waiting": {"reason": "ContainerCreating"}}}, True),
        ("Running", {"state": {"terminated": {"exitCode": 1, "finishedAt": "1970-01-01T00:00:00Z"}}}, True),
        ("Running", {"state": {"running": {}}}, False),
    ],
    ids=["waits", "failed-beside-a-sidecar", "runs"],
)
def test_an_edit_of_where_a_migration_runs_is_tried_at_once(phase: str, container: dict[str, Any], again: bool) -> None:
    """Unless its pod works: that edit is no reason to begin again."""
    simulation = Simulation()
    simulation.migrations_hang = True
    simulation.operate()
    (job,) = [each for (kind, _), each in simulation.objects.items() if kind == "Job"]
    its = migration_pod(phase, job["metadata"]["uid"], **container)
    assert steps_of(simulation.look()._replace(pods=(its,))).delete == ()
    simulation.edit(podTemplate={"spec": {"nodeSelector": {"disk": "fast"}}})
    steps = steps_of(simulation.look()._replace(pods=(its,)))
    assert [body["metadata"]["name"] for body in steps.delete] == [job["metadata"]["name"]] * again
    job["metadata"]["annotations"].clear()  # an admission rule may take the mark away: it tells nothing then
    assert steps_of(simulation.look()._replace(pods=(its,))).delete == ()


def test_what_an_admission_rule_made_of_a_child_is_not_applied_again(simulation: Simulation) -> None:
    """As long as it is the answer to just that write, to just that object."""
    live = simulation.stateful_set
    assert live is not None
    added = ("status", "uid", "generation", "resourceVersion")
    wanted = {name: value for name, value in copy.deepcopy(live).items() if name not in added}
    wanted["metadata"] = {name: value for name, value in wanted["metadata"].items() if name not in added}
    live["spec"]["minReadySeconds"] = 77
    place, uid = ("StatefulSet", NAME), live["metadata"]["uid"]
    answer = Written(uid, digest(wanted), copy.deepcopy(live), ("spec.minReadySeconds",))
    for written, applied in (
        ({}, False),
        ({place: answer}, True),
        ({place: answer._replace(uid="another")}, False),
        ({place: answer._replace(wanted="another")}, False),
    ):
        steps = steps_of(simulation.look()._replace(written=written))
        assert [body["kind"] for body, _ in steps.apply] == ["StatefulSet"] * (not applied)


def at(second: int) -> str:
    """An instant, as Kubernetes writes it."""
    return f"1970-01-01T00:{second // 60:02}:{second % 60:02}Z"


def migration_pod(phase: str, owner: str, **container: Any) -> dict[str, Any]:
    """A pod of the migration's Job."""
    return {
        "kind": "Pod",
        "metadata": {
            "name": f"migrate-{phase}",
            "uid": "pod-1",
            "labels": {},
            "ownerReferences": [{"kind": "Job", "uid": owner, "controller": True}],
        },
        "status": {"phase": phase, "containerStatuses": [{"name": "migrate", **container}] if container else []},
    }


def failed(second: int | None) -> dict[str, Any]:
    """A container that ended badly."""
    return {"state": {"terminated": {"exitCode": 1} | ({"finishedAt": at(second)} if second is not None else {})}}


def waits_for(reason: str) -> dict[str, Any]:
    """A container that does not start."""
    return {"image": "threadcluster:1", "state": {"waiting": {"reason": reason}}}


@pytest.mark.parametrize(
    ("pods", "now", "again"),
    [
        ([("Failed", failed(10))], 39.0, False),
        ([("Failed", failed(10))], 40.0, False),
        ([("Failed", failed(10))], 41.0, True),
        ([("Failed", failed(10)), ("Failed", failed(20))], 41.0, False),
        ([("Failed", failed(None))], 90.0, False),
        ([("Failed", {})], 90.0, False),
        ([("Failed", failed(10)), ("Running", {})], 90.0, False),
        ([("Failed", failed(10)), ("Pending", waits_for("ContainerCreating"))], 90.0, False),
        ([("Failed", failed(10)), ("Pending", waits_for("ImagePullBackOff"))], 90.0, True),
        ([("Pending", waits_for("ImagePullBackOff"))], 30.0, False),
        ([("Pending", waits_for("ImagePullBackOff"))], 31.0, True),
        ([], 90.0, False),
    ],
    ids=[
        "just-failed",
        "failed-not-long-ago",
        "failed-some-time-ago",
        "failed-again",
        "no-time",
        "evicted",
        "is-running",
        "begins",
        "image-missing-after-a-failure",
        "image-missing",
        "image-still-missing",
        "no-pod-yet",
    ],
)
def test_a_migration_does_not_wait_for_its_jobs_back_off(
    pods: list[tuple[str, dict[str, Any]]], now: float, again: bool
) -> None:
    """A corrected migration is tried within half a minute, however long it failed; a running one is left alone."""
    simulation = Simulation()
    simulation.operate()
    (job,) = [each for (kind, _), each in simulation.objects.items() if kind == "Job"]
    job["metadata"]["creationTimestamp"] = at(0)
    job["status"] = {}
    made = tuple(migration_pod(phase, job["metadata"]["uid"], **container) for phase, container in pods)
    stranger = migration_pod("Failed", "an-earlier-job", **failed(0))
    steps = steps_of(simulation.look()._replace(now=now, pods=(*made, stranger)))
    assert [body["kind"] for body in steps.delete] == ["Job"] * again


@pytest.mark.parametrize(
    ("reason", "away", "pods", "again"),
    [
        ("DatabaseUnreachable", False, ["Failed"], True),
        ("DatabaseUnreachable", False, ["Failed", "Running"], False),
        ("DatabaseUnreachable", True, ["Failed"], False),
        ("MigrationFailed", False, ["Failed"], False),
    ],
    ids=["over", "over-and-running", "not-over", "another-fault"],
)
@pytest.mark.parametrize("exhausted", [False, True], ids=["job-waits", "job-failed"])
def test_a_migration_is_tried_again_when_the_database_is_back(
    simulation: Simulation, reason: str, away: bool, pods: list[str], again: bool, exhausted: bool
) -> None:
    """It failed for want of it, and its Job would wait for longer and longer."""
    simulation.migrations_hang = True
    simulation.edit(image="threadcluster:2")
    simulation.operate()
    (job,) = [each for (kind, _), each in simulation.objects.items() if kind == "Job"]
    job["status"] = {"conditions": [{**HALF_FAILED, "lastTransitionTime": at(60)}]} if exhausted else {}
    end = {"exitCode": 1, "finishedAt": at(60), "message": f'{{"reason": "{reason}", "message": "no answer"}}'}
    states: dict[str, dict[str, Any]] = {
        "Failed": {"state": {"terminated": end}},
        "Running": {"state": {"running": {}}},
    }
    made = tuple(migration_pod(phase, job["metadata"]["uid"], **states[phase]) for phase in pods)
    seen = simulation.look()._replace(now=62.0)
    seen = seen._replace(pods=(*seen.pods, *made))
    seen.resource["status"] = {
        "conditions": [{"type": "Available", "status": "False", "reason": "DatabaseUnreachable"}]
    }
    if away:
        seen = seen._replace(ownership=None, outage=Outage("DatabaseUnreachable", "no answer", 50.0))
    assert [body["kind"] for body in steps_of(seen).delete] == ["Job"] * again


@pytest.mark.parametrize(
    ("made_at", "grew_at", "again"),
    [(0, 12.0, True), (0, None, False), (9, 12.0, False), (14, 12.0, False)],
    ids=["after it was refused", "never", "just after", "before it was made"],
)
def test_a_refused_migration_is_tried_again_when_quotas_leave_more_headroom(
    made_at: int, grew_at: float | None, again: bool
) -> None:
    """Once: the next Job is one of after that.  Clocks may differ by seconds."""
    simulation = Simulation()
    simulation.operate()
    (job,) = [each for (kind, _), each in simulation.objects.items() if kind == "Job"]
    job["metadata"]["creationTimestamp"] = at(made_at)
    job["status"] = {}
    event = {
        "kind": "Event",
        "reason": "FailedCreate",
        "message": "pods is forbidden: exceeded quota: small",
        "involvedObject": {"uid": job["metadata"]["uid"]},
        "metadata": {"creationTimestamp": at(made_at)},
    }
    steps = steps_of(simulation.look()._replace(now=20.0, warnings=(event,), headroom_grew_at=grew_at))
    assert [body["kind"] for body in steps.delete] == ["Job"] * again


def test_a_migration_without_a_node_is_left_to_the_scheduler() -> None:
    """It is not asked less and less often: a node that comes is taken at once."""
    simulation = Simulation()
    simulation.operate()
    (job,) = [each for (kind, _), each in simulation.objects.items() if kind == "Job"]
    job["metadata"]["creationTimestamp"] = at(0)
    job["status"] = {"active": 1}
    lonely = migration_pod("Pending", job["metadata"]["uid"])
    lonely["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]
    assert steps_of(simulation.look()._replace(now=90.0, pods=(lonely,))).delete == ()


def test_a_controller_whose_pods_are_refused_is_asked_again(simulation: Simulation) -> None:
    """By a change of the StatefulSet, every half a minute; it restarts no worker."""
    live = simulation.stateful_set
    assert live is not None
    simulation.edit(replicas=4)
    simulation.operate()
    event = {
        "kind": "Event",
        "reason": "FailedCreate",
        "message": "pods is forbidden: exceeded quota: small",
        "involvedObject": {"uid": live["metadata"]["uid"]},
        "metadata": {"creationTimestamp": at(0)},
    }
    asked = []
    for now in (40.0, 50.0, 70.0):
        steps = steps_of(simulation.look()._replace(now=now, warnings=(event,)))
        asked += [body["metadata"]["annotations"].get(ASKED_AGAIN) for body, _ in steps.apply]
        assert all(body["spec"] == simulation.stateful_set["spec"] for body, _ in steps.apply)  # type: ignore[index]
        for body, _ in steps.apply:
            simulation._store(body, simulation.stateful_set)
    assert asked == ["1", "2"]
    # When the quotas leave more headroom it is asked at once, and once.
    for now in (75.0, 80.0):
        steps = steps_of(simulation.look()._replace(now=now, warnings=(event,), headroom_grew_at=74.5))
        asked += [body["metadata"]["annotations"].get(ASKED_AGAIN) for body, _ in steps.apply]
        for body, _ in steps.apply:
            simulation._store(body, simulation.stateful_set)
    assert asked == ["1", "2", "2-74"]
    assert steps_of(simulation.look()._replace(now=90.0)).apply == ()


def test_a_stateful_set_that_is_being_deleted_is_left_alone(simulation: Simulation) -> None:
    """The garbage collector deletes it; then it is created again."""
    simulation.edit(worker={"snapshotEveryEvents": 50})
    live = simulation.stateful_set
    assert live is not None
    live["metadata"]["deletionTimestamp"] = "2026-05-01T12:00:00Z"
    assert all(body["kind"] != "StatefulSet" for body, _ in steps_of(simulation.look()).apply)


def test_no_worker_is_removed_while_the_ownership_is_unknown(simulation: Simulation) -> None:
    """Whether a worker owns something is not known then."""
    simulation.edit(replicas=1)
    simulation.unanswered = True
    steps = steps_of(simulation.look())
    assert wanted_replicas(steps) in ([], [3])
    assert "no worker is " in steps.blocked_reason


def test_replicas_without_pods_are_given_up_without_asking(simulation: Simulation) -> None:
    """Pods that were never made own nothing."""
    simulation.edit(replicas=5)
    simulation.operate()
    simulation.edit(replicas=3)
    simulation.unanswered = True
    live = simulation.stateful_set
    assert live is not None
    live["status"]["observedGeneration"] = live["metadata"]["generation"]
    steps = steps_of(simulation.look())
    assert wanted_replicas(steps) == [3]
    assert steps.blocked_reason == ""


def rolling(simulation: Simulation) -> Simulation:
    """A new template is known to the StatefulSet's controller, and no worker runs it yet."""
    simulation.edit(worker={"snapshotEveryEvents": 50})
    simulation.operate()
    simulation.turn()
    return simulation


def partitions(steps: Actions) -> list[int]:
    """From which ordinal on the new template is let go, if that changes."""
    return [
        body["spec"]["updateStrategy"]["rollingUpdate"]["partition"]
        for body, _ in steps.apply
        if body["kind"] == "StatefulSet"
    ]


def test_one_worker_at_a_time_gets_a_new_template(simulation: Simulation) -> None:
    """The highest first."""
    assert partitions(steps_of(rolling(simulation).look())) == [2]


def test_a_paused_rollout_restarts_no_worker(simulation: Simulation) -> None:
    """The new template is applied, and waits for the user."""
    simulation.edit(rollout={"paused": True}, worker={"snapshotEveryEvents": 50})
    simulation.operate()
    simulation.turn()
    steps = steps_of(simulation.look())
    assert partitions(steps) == []
    assert steps.blocked_reason == "spec.rollout.paused is true"


def test_no_worker_is_restarted_while_the_ownership_is_unknown(simulation: Simulation) -> None:
    """A worker that cannot be asked may be the last that serves."""
    rolling(simulation).unanswered = True
    steps = steps_of(simulation.look())
    assert partitions(steps) == []
    assert "no worker is " in steps.blocked_reason


def test_no_worker_is_restarted_while_a_shard_is_unserved(simulation: Simulation) -> None:
    """One gap at a time."""
    seen = rolling(simulation).look()
    assert seen.ownership is not None
    free = seen.ownership._replace(owners={**seen.ownership.owners, ShardId(0): None})
    steps = steps_of(seen._replace(ownership=free))
    assert partitions(steps) == []
    assert steps.blocked_reason.startswith("shards without an owner: 1")


@pytest.mark.parametrize("what", ["ending", "not-ready"])
def test_the_next_waits_for_the_one_before(simulation: Simulation, what: str) -> None:
    """Until it runs the new template and is ready; also when it goes away once more."""
    rolling(simulation).operate()
    name = f"{NAME}-2"
    live = simulation.stateful_set
    assert live is not None
    for _ in range(50):
        simulation.turn()
        pod = pod_of(simulation.pods[name])
        if pod.revision == live["status"]["updateRevision"] and pod.ready == (what == "ending"):
            break
    if what == "ending":
        simulation.pods[name]["metadata"]["deletionTimestamp"] = "2026-05-01T12:00:00Z"
    simulation.operate()
    assert partitions(simulation.last) == []
    assert simulation.last.blocked_reason == f"{name} is {'being restarted' if what == 'ending' else 'not ready yet'}"
    assert condition_of(simulation, "Ready") == ("False", "RolloutInProgress")
    assert condition_of(simulation, "Progressing") == ("True", "RollingOut")


def condition_of(simulation: Simulation, kind: str) -> tuple[str, str]:
    """Status and reason of a condition, as the user sees them."""
    return next((c["status"], c["reason"]) for c in simulation.resource["status"]["conditions"] if c["type"] == kind)


def test_an_old_unready_worker_does_not_block_the_rollout(simulation: Simulation) -> None:
    """The new template may be its remedy: it is the one that is let go, although a shard may be without owner."""
    for ordinal in range(3):
        simulation.broken.add(f"{NAME}-{ordinal}")
        simulation.crash(f"{NAME}-{ordinal}")
    rolling(simulation).unanswered = True
    assert partitions(steps_of(simulation.look())) == [2]


def test_nothing_is_settled_without_a_stateful_set(simulation: Simulation) -> None:
    """It is made again."""
    del simulation.objects["StatefulSet", NAME]
    steps = steps_of(simulation.look())
    assert not steps.settled
    assert "StatefulSet" in [body["kind"] for body in steps.create]


def test_no_shard_is_moved_beside_workers_of_another_cluster(simulation: Simulation) -> None:
    """Whatever is wanted; and no worker is removed."""
    simulation.edit(replicas=2, rebalance={"pins": [{"shard": 0, "worker": f"{NAME}-1"}]})
    seen = simulation.look()
    spec = parse_spec(seen.resource)
    assert plan_actions(seen, spec, OPERATOR, balancing=False).targets is not None
    beside = plan_actions(seen._replace(foreign_workers=("elsewhere-0",)), spec, OPERATOR, balancing=False)
    assert beside.targets is None
    assert "no worker is removed" in beside.blocked_reason
