"""Status as `kubectl get` and `kubectl wait` read it."""

from typing import Any

import pytest
from msgspec.structs import replace
from threadcluster_operator.api import KubernetesSpec, parse_spec
from threadcluster_operator.controller.actions import Actions, OperatorContext, plan_actions
from threadcluster_operator.controller.diagnosis import Diagnosis, examine
from threadcluster_operator.controller.reasons import Reason
from threadcluster_operator.controller.snapshot import ClusterSnapshot
from threadcluster_operator.controller.status import patch_of, ranges, status_of
from threadcluster_operator.planning.placement import Worker
from threadcluster_operator.planning.planner import ShardOwnership
from threadcluster_operator.planning.rebalance import RebalanceSession
from threadcluster_operator.render import SecretState, SecretValue, selector_of

from shard_worker.contract_internal import RebuildProgress
from shard_worker.domain.ids import ShardId
from tests.operator.controller.simulated import NAME, Simulation, settle

TROUBLE = Diagnosis(Reason.SPEC_INVALID, "spec.shards: too many. Remedy: fewer.")


@pytest.fixture
def simulation() -> Simulation:
    """A cluster that is Ready."""
    made = Simulation()
    settle(made)
    return made


def conditions_of(
    simulation: Simulation, trouble: Diagnosis | None = None, **changes: Any
) -> dict[str, tuple[str, str]]:
    """Status and reason of each condition, after one more look at what is there, changed so."""
    seen = simulation.look()._replace(**changes)
    return conditions(status_of(seen, parse_spec(seen.resource), simulation.last, trouble, examine(seen).wait))


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Status and reason of each condition."""
    return {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]}


def test_a_spec_that_is_not_understood_leaves_the_rest_of_the_status_as_it_is(simulation: Simulation) -> None:
    """It stalls; how many workers there are is still true."""
    before = simulation.resource["status"]
    after = status_of(simulation.look()._replace(now=1_000_000.0), None, Actions(), TROUBLE)
    assert conditions(after)["Stalled"] == ("True", "SpecInvalid")
    assert conditions(after)["Ready"] == ("False", "Stalled")
    assert conditions(after)["Progressing"] == ("False", "Stable")
    times = [{each["type"]: each["lastTransitionTime"] for each in status["conditions"]} for status in (before, after)]
    assert times[0]["Available"] == times[1]["Available"]
    assert times[1]["Stalled"] == "1970-01-12T13:46:40Z"
    assert {name: value for name, value in after.items() if name != "conditions"} == {
        name: value for name, value in before.items() if name != "conditions"
    }


def test_a_patch_has_what_changed_and_takes_away_what_is_gone() -> None:
    """As RFC 7386 has it; nothing at all when nothing changed."""
    assert patch_of(None, {"replicas": 1}) == {"replicas": 1}
    assert patch_of({"replicas": 1, "image": "a", "old": 1}, {"replicas": 2, "image": "a"}) == {
        "replicas": 2,
        "old": None,
    }
    assert patch_of({"replicas": 1}, {"replicas": 1}) == {}


def test_the_secrets_are_recorded(simulation: Simulation) -> None:
    """As they are to be, before they are so; a cluster without Secrets records none."""
    seen = simulation.look()
    spec = parse_spec(seen.resource)
    actions = plan_actions(seen, spec, OperatorContext("here"), balancing=False)
    assert "secret" not in status_of(seen, spec, actions, None)
    state = SecretState((SecretValue(2, "a"), SecretValue(1, "b")), made=False)
    assert status_of(seen._replace(secret_state=state), spec, actions, None)["secret"] == {
        "values": [{"generation": 2, "operatorKey": "a"}, {"generation": 1, "operatorKey": "b"}],
        "made": False,
    }


@pytest.mark.parametrize(
    ("shards", "text"), [([], ""), ([3], "3"), ([0, 1, 2, 3, 7], "0-3,7"), ([9, 8, 5], "5,8-9")], ids=str
)
def test_shards_are_written_as_ranges(shards: list[int], text: str) -> None:
    """Short, in ascending order."""
    assert ranges(shards) == text


def test_a_transition_keeps_its_time_while_the_status_stays(simulation: Simulation) -> None:
    """A new reason alone is no transition."""
    seen = simulation.look()._replace(now=1_000_000.0)
    spec = parse_spec(seen.resource)
    first = status_of(seen, spec, simulation.last, TROUBLE)
    later = seen._replace(now=2_000_000.0, resource={**seen.resource, "status": first})
    other = Diagnosis(Reason.FORBIDDEN, "no")
    times = {
        each["type"]: each["lastTransitionTime"]
        for each in status_of(later, spec, simulation.last, other)["conditions"]
    }
    healed = status_of(later, spec, simulation.last, None)
    assert times["Stalled"] == "1970-01-12T13:46:40Z"
    assert {each["type"]: each["lastTransitionTime"] for each in healed["conditions"]}["Stalled"] == (
        "1970-01-24T03:33:20Z"
    )


def test_a_paused_cluster_says_so_and_is_not_ready(simulation: Simulation) -> None:
    """A client that waits for an edit must not see it as effective."""
    simulation.edit(paused=True)
    found = conditions_of(simulation)
    assert found["Ready"] == ("False", "Paused")
    assert found["Paused"] == ("True", "ClusterPaused")
    assert found["Progressing"] == ("False", "Stable")


def test_a_rebuild_of_the_read_model_is_shown_and_leaves_the_cluster_ready(simulation: Simulation) -> None:
    """With its progress, as long as a worker says so; what puts the spec into effect is shown first."""
    rebuild = RebuildProgress(generation=2, version=1, shards_done=5, shards=12)
    simulation.workers.knobs.distort = lambda answer: replace(answer, rebuild=rebuild)
    settle(simulation)
    status = simulation.resource["status"]
    assert conditions(status)["Ready"] == ("True", "Reconciled")
    assert conditions(status)["Progressing"] == ("True", "RebuildingReadModel")
    [message] = [each["message"] for each in status["conditions"] if each["type"] == "Progressing"]
    assert message == "Generation 2 of the read model, of version 1: 5 of 12 shards are filled."
    simulation.edit(paused=True)
    assert conditions_of(simulation)["Progressing"] == ("True", "RebuildingReadModel")
    simulation.edit(paused=False, replicas=4)
    simulation.turn()
    simulation.operate()
    assert conditions(simulation.resource["status"])["Progressing"] == ("True", "ScalingUp")
    settle(simulation)
    simulation.workers.knobs.distort = lambda answer: answer
    settle(simulation)
    assert conditions(simulation.resource["status"])["Progressing"] == ("False", "Stable")


@pytest.mark.parametrize(
    ("edit", "reason"),
    [({"rollout": {"paused": True}}, "RolloutPaused"), ({"rebalance": {"mode": "Paused"}}, "RebalancePaused")],
    ids=["rollout", "rebalance"],
)
def test_each_pause_has_its_name(simulation: Simulation, edit: dict[str, Any], reason: str) -> None:
    """A paused cluster, and one that is not."""
    simulation.edit(**edit)
    assert conditions_of(simulation)["Paused"] == ("True", reason)


def test_a_cluster_without_workers_is_ready_and_not_available(simulation: Simulation) -> None:
    """Zero is what was wanted."""
    simulation.edit(replicas=0)
    settle(simulation)
    found = conditions_of(simulation)
    assert found["Ready"] == ("True", "ScaledToZero")
    assert found["Available"] == ("False", "ScaledToZero")
    status = simulation.resource["status"]
    assert (status["desiredReplicas"], status["replicas"], status["shards"]["imbalancePercent"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("counts", "percent"), [((6, 4, 3), 38.5), ((5, 4, 4), 0.0), ((4, 4, 4), 0.0)], ids=["uneven", "odd one", "even"]
)
def test_the_imbalance_is_that_of_the_plan(
    simulation: Simulation, counts: tuple[int, int, int], percent: float
) -> None:
    """The status has the figure of `threadcluster plan`, without its decimals."""
    names = [f"{NAME}-{number}" for number, count in enumerate(counts) for _ in range(count)]
    owners = {ShardId(shard): name for shard, name in enumerate(names)}
    observed = ShardOwnership(1, owners, owners, {}, {name: Worker(name) for name in names}, {})
    simulation.edit(rebalance={"mode": "Manual"})
    seen = simulation.look()._replace(ownership=observed)
    spec, running = parse_spec(seen.resource), frozenset(names)
    actions = plan_actions(seen, spec, OperatorContext("here"), balancing=False)
    status = status_of(seen, spec, actions, None)
    shown = RebalanceSession(NAME).show(spec, running, observed)
    assert shown["imbalancePercent"] == percent
    assert status["shards"]["imbalancePercent"] == round(percent)


@pytest.mark.parametrize("mode", ["Auto", "Manual", "Paused"])
def test_the_status_does_not_follow_the_load(simulation: Simulation, mode: str) -> None:
    """While only rates change nothing is written; a change of ownership brings the figure up to date."""
    simulation.edit(rebalance={"mode": mode, "strategy": "Load"})
    simulation.operate()
    simulation.operate()
    before = simulation.resource["status"]
    assert before["shards"]["imbalancePercent"] == 0
    simulation.workers.load(ShardId(0), 5.0)
    simulation.workers.load(ShardId(3), 5.0)
    busy = simulation.look()
    spec = parse_spec(busy.resource)
    actions = plan_actions(busy, spec, OperatorContext("here"), balancing=False)
    assert actions.next is not None
    assert actions.next.imbalance_percent > 0
    still = simulation.last._replace(next=actions.next._replace(plan=None))
    assert patch_of(before, status_of(busy, spec, still, None)) == {}
    assert busy.ownership is not None
    moved = busy.ownership._replace(owners={**busy.ownership.owners, ShardId(0): f"{NAME}-1"})
    after = status_of(busy._replace(ownership=moved), spec, still, None)
    assert after["shards"]["imbalancePercent"] == round(actions.next.imbalance_percent)


@pytest.mark.parametrize("strategy", ["Count", "Load"])
def test_the_imbalance_by_count_is_always_that_of_the_plan(simulation: Simulation, strategy: str) -> None:
    """By load it is what was shown, while the rest of the status stays; where none was shown it is that of the plan."""
    simulation.edit(rebalance={"strategy": strategy})
    simulation.operate()
    simulation.operate()
    assert simulation.last.next is not None
    steps = simulation.last._replace(next=simulation.last.next._replace(imbalance_percent=33.3))
    seen = simulation.look()
    spec = parse_spec(seen.resource)
    shown = status_of(seen, spec, steps, None)["shards"]["imbalancePercent"]
    assert shown == (33 if strategy == "Count" else 0)
    del seen.resource["status"]["shards"]["imbalancePercent"]
    assert status_of(seen, spec, steps, None)["shards"]["imbalancePercent"] == 33


def test_workers_are_counted(simulation: Simulation) -> None:
    """All of them, those that are ready, and those with the newest template."""
    pod = simulation.pods[f"{NAME}-1"]
    pod["metadata"]["labels"] = {**pod["metadata"]["labels"], "controller-revision-hash": "old"}
    simulation.pods[f"{NAME}-2"]["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    simulation.edit(replicas=4)
    seen = simulation.look()
    status = status_of(seen, parse_spec(seen.resource), simulation.last, None)
    counts = ("desiredReplicas", "replicas", "readyReplicas", "updatedReplicas")
    assert [status[name] for name in counts] == [4, 3, 2, 2]
    assert [row["revision"] == "old" for row in status["workers"]] == [False, True, False]


def test_no_worker_is_up_to_date_before_the_newest_template_is_known(simulation: Simulation) -> None:
    """Neither without a StatefulSet nor before its controller has acted."""
    seen = simulation.look()
    live = seen.child("StatefulSet", NAME)
    assert live is not None
    for each in simulation.pods.values():
        del each["metadata"]["labels"]["controller-revision-hash"]
    for children in ((), ({**live, "status": {}},)):
        seen = simulation.look()._replace(children=children)
        assert status_of(seen, parse_spec(seen.resource), simulation.last, None)["updatedReplicas"] == 0


def test_shards_on_their_way_are_counted(simulation: Simulation) -> None:
    """A shard whose target is another worker than its live owner; one without an owner waits for a claim."""
    observed = simulation.look().ownership
    assert observed is not None
    owners = {**observed.owners, ShardId(5): None}
    targets = {**observed.targets, ShardId(1): "chat-9", ShardId(2): "chat-9", ShardId(3): None, ShardId(5): "chat-9"}
    seen = simulation.look()._replace(ownership=observed._replace(owners=owners, targets=targets))
    status = status_of(seen, parse_spec(seen.resource), simulation.last, None)
    assert status["shards"] == {"total": 12, "assigned": 11, "moving": 2, "imbalancePercent": 0}
    assert status["plan"]["pendingMoves"] == 2


def test_autoscaling_reports_that_it_is_not_supported_yet(simulation: Simulation) -> None:
    """A field that does nothing yet says so."""
    simulation.edit(autoscaling={"minReplicas": 1, "maxReplicas": 3, "targetCommandsPerSecond": 100})
    status = status_of(simulation.look(), parse_spec(simulation.resource), simulation.last, None)
    message = next(each["message"] for each in status["conditions"] if each["type"] == "AutoscalingActive")
    assert conditions_of(simulation)["AutoscalingActive"] == ("False", "Disabled")
    assert "not scale by itself yet" in message


def test_the_ownership_is_unknown_without_an_answer(simulation: Simulation) -> None:
    """The last known numbers stay, and the condition says that they are old."""
    before = simulation.resource["status"]["shards"]
    simulation.unanswered = True
    simulation.operate()
    assert simulation.resource["status"]["shards"] == before
    assert conditions(simulation.resource["status"])["Available"] == ("Unknown", "OwnershipUnknown")


def test_shards_without_owner_are_named(simulation: Simulation) -> None:
    """As ranges."""
    observed = simulation.look().ownership
    assert observed is not None
    free = observed._replace(owners={**observed.owners, ShardId(3): None, ShardId(4): None, ShardId(7): None})
    seen = simulation.look()._replace(ownership=free)
    status = status_of(seen, parse_spec(seen.resource), simulation.last, None)
    assert conditions(status)["Available"] == ("False", "ShardsUnassigned")
    assert "3-4,7" in next(each["message"] for each in status["conditions"] if each["type"] == "Available")
    assert status["shards"]["assigned"] == 9


def test_shards_that_no_worker_reads_have_no_capable_worker(simulation: Simulation) -> None:
    """Neither ready nor available, and the message says what to do."""
    observed = simulation.look().ownership
    assert observed is not None
    free = observed._replace(owners={**observed.owners, ShardId(3): None})
    seen = simulation.look()._replace(ownership=free)
    assert simulation.last.next is not None
    steps = simulation.last._replace(settled=False, next=simulation.last.next._replace(unreadable=(ShardId(3),)))
    status = status_of(seen, parse_spec(seen.resource), steps, None)
    assert conditions(status)["Available"] == ("False", "NoCapableWorker")
    assert conditions(status)["Ready"] == ("False", "NoCapableWorker")
    message = next(each["message"] for each in status["conditions"] if each["type"] == "Ready")
    assert message.startswith("No worker that may get them reads the journal format of shards 3: set spec.image")


def test_owned_but_unserved_shards_are_reported(simulation: Simulation) -> None:
    """Owned by the database's word, and recovering."""
    observed = simulation.look().ownership
    assert observed is not None
    nothing = observed._replace(serving=dict.fromkeys(observed.serving, frozenset[Any]()))
    assert conditions_of(simulation, ownership=nothing)["Available"] == ("False", "ShardsRecovering")


def test_ready_waits_for_shards_to_be_where_they_belong(simulation: Simulation) -> None:
    """All pods may be as wanted before all shards are."""
    simulation.last = simulation.last._replace(settled=False)
    assert conditions_of(simulation)["Ready"] == ("False", "ShardsUnserved")


def test_ready_names_the_workers_that_are_not(simulation: Simulation) -> None:
    """By name."""
    simulation.crash(f"{NAME}-1")
    simulation.broken.add(f"{NAME}-1")
    simulation.operate()
    status = simulation.resource["status"]
    assert conditions(status)["Ready"] == ("False", "WorkersNotReady")
    assert f"{NAME}-1" in next(each["message"] for each in status["conditions"] if each["type"] == "Ready")


def test_ready_names_what_a_pod_waits_for(simulation: Simulation) -> None:
    """The worker, or before there is one the migration."""
    name = f"{NAME}-1"
    simulation.crash(name)
    simulation.broken.add(name)
    waits = {"name": "worker", "state": {"waiting": {"reason": "ContainerCreating"}}}
    simulation.pods[name]["status"]["containerStatuses"] = [waits]
    simulation.operate()
    message = ready_message(simulation.resource["status"])
    assert message == f"Not ready: {name} (container worker waits: ContainerCreating)."
    seen = simulation.look()
    labels = {**selector_of(NAME, "migration")}
    pod = {
        "metadata": {"name": "chat-migrate-1-x", "uid": "9", "labels": labels},
        "status": {"containerStatuses": [waits]},
    }
    steps = simulation.last._replace(migrating=True)
    spec = parse_spec(seen.resource)
    for pods, text in (
        ((*seen.pods, pod), " Pod chat-migrate-1-x: container worker waits: ContainerCreating."),
        (seen.pods, ""),
    ):
        message = ready_message(status_of(seen._replace(pods=pods), spec, steps, None))
        assert message == f"The objects of this generation are being applied.{text}"


def test_ready_names_a_lost_node_by_its_reason(simulation: Simulation) -> None:
    """Before it stalls the cluster."""
    name = f"{NAME}-1"
    simulation.pods[name]["status"]["conditions"] = [
        {"type": "ContainersReady", "status": "True"},
        {"type": "Ready", "status": "False"},
    ]
    simulation.last = simulation.last._replace(settled=False)
    found = conditions_of(simulation)
    assert found["Ready"] == ("False", "NodeLost")
    assert found["Stalled"] == ("False", "NotStalled")


def ready_message(status: dict[str, Any]) -> str:
    """The message of the condition Ready."""
    return str(next(each["message"] for each in status["conditions"] if each["type"] == "Ready"))


def test_an_edit_is_pending_until_the_controller_of_the_stateful_set_acted(simulation: Simulation) -> None:
    """Until then its numbers are of the generation before."""
    simulation.edit(replicas=4)
    simulation.operate()
    assert conditions(simulation.resource["status"])["Ready"] == ("False", "GenerationPending")
    simulation.operate()
    assert conditions(simulation.resource["status"])["Ready"] == ("False", "GenerationPending")


def reasons_of(simulation: Simulation, turns: int) -> list[tuple[str, str]]:
    """The reasons of Ready and Progressing, one after another, while the operator looks before and after each turn."""
    found: list[tuple[str, str]] = []
    for _ in range(turns):
        for step in (simulation.operate, simulation.turn, simulation.operate):
            step()
            conditions_now = conditions(simulation.resource["status"])
            pair = (conditions_now["Ready"][1], conditions_now["Progressing"][1])
            if not found or found[-1] != pair:
                found.append(pair)
    return found


def test_a_rollout_has_one_reason_from_its_first_restart_to_its_end(simulation: Simulation) -> None:
    """The operator and the controller write the StatefulSet at each ordinal: the reason does not change with these writes."""
    simulation.edit(podTemplate={"metadata": {"annotations": {"example.org/edition": "2"}}})
    found = [reason for reason, _ in reasons_of(simulation, 100)]
    assert found.count("RolloutInProgress") == 1, found
    assert found[0] == "GenerationPending"
    assert "GenerationPending" not in found[1:]
    assert found[-1] == "Reconciled"
    assert simulation.ready


def test_an_edit_during_a_rollout_is_pending_until_its_template_is_there(simulation: Simulation) -> None:
    """A rollout of the generation before is none of this one."""
    simulation.edit(podTemplate={"metadata": {"annotations": {"example.org/edition": "2"}}})
    while conditions(simulation.resource["status"])["Ready"][1] != "RolloutInProgress":
        simulation.turn()
        simulation.operate()
    simulation.edit(podTemplate={"metadata": {"annotations": {"example.org/edition": "3"}}})
    simulation.operate()
    assert conditions(simulation.resource["status"])["Ready"][1] == "GenerationPending"
    found = [reason for reason, _ in reasons_of(simulation, 100)]
    assert found.count("RolloutInProgress") == 1, found
    assert found[-1] == "Reconciled"


def test_a_rollout_names_the_worker_that_is_not_ready(simulation: Simulation) -> None:
    """Also the last one, when no worker with the old template is left."""
    simulation.edit(podTemplate={"metadata": {"annotations": {"example.org/edition": "2"}}})
    for ordinal in (2, 0):
        name = f"{NAME}-{ordinal}"
        for _ in range(100):
            simulation.broken.add(name)  # also the pod that takes its place
            simulation.turn()
            simulation.operate()
        status = simulation.resource["status"]
        assert conditions(status)["Ready"] == ("False", "RolloutInProgress")
        assert f"Not ready: {name}" in ready_message(status)
        simulation.broken.clear()


@pytest.mark.parametrize(
    ("flag", "expected", "state"),
    [("leaving", ("True", "Leaving"), "Leaving"), ("draining", ("True", "Cordoned"), "Draining")],
)
def test_a_worker_that_hands_over_is_reported(
    simulation: Simulation, flag: str, expected: tuple[str, str], state: str
) -> None:
    """In the condition, and in its own row."""
    observed = simulation.look().ownership
    assert observed is not None
    name = f"{NAME}-2"
    worker = observed.workers[name]
    worker = worker._replace(leaving=flag == "leaving", draining=flag == "draining")
    changed = observed._replace(workers={**observed.workers, name: worker})
    assert conditions_of(simulation, ownership=changed)["Draining"] == expected
    seen = simulation.look()._replace(ownership=changed)
    rows = status_of(seen, parse_spec(seen.resource), simulation.last, None)["workers"]
    assert [row["state"] for row in rows if row["name"] == name] == [state]


def test_a_shrink_that_waits_for_shards_is_reported() -> None:
    """Which worker still has some."""
    simulation = Simulation()
    settle(simulation)
    simulation.edit(replicas=1)
    reasons = set()
    for _ in range(200):
        simulation.turn()
        simulation.operate()
        found = conditions(simulation.resource["status"])
        reasons.add((found["Draining"][1], found["Progressing"][1], found["Ready"][1]))
    assert ("ScaleDown", "ScalingDown", "ScaleInProgress") in reasons
    assert found["Draining"] == ("False", "Idle")


def endpoint(simulation: Simulation, **edit: Any) -> str:
    """The address for clients."""
    simulation.edit(**edit)
    seen = simulation.look()
    return str(status_of(seen, parse_spec(seen.resource), simulation.last, None)["endpoint"])


def test_the_endpoint_is_what_clients_can_use(simulation: Simulation) -> None:
    """The ingress' host, else the load balancer's, else the Service's name."""
    assert endpoint(simulation) == "http://chat.talk.svc"
    assert endpoint(simulation, gateway={"service": {"port": 8080}}) == "http://chat.talk.svc:8080"
    service = simulation.objects["Service", NAME]
    service["status"] = {"loadBalancer": {"ingress": [{}, {"ip": "192.0.2.1"}]}}
    assert endpoint(simulation) == "http://192.0.2.1:8080"
    service["status"] = {"loadBalancer": {"ingress": [{"hostname": "lb.example"}]}}
    assert endpoint(simulation, gateway={"service": {"port": 80}}) == "http://lb.example"
    ingress = {"className": "nginx", "host": "chat.example"}
    assert endpoint(simulation, gateway={"ingress": ingress}) == "http://chat.example"
    assert endpoint(simulation, gateway={"ingress": {**ingress, "tlsSecretName": "tls"}}) == "https://chat.example"


def test_a_worker_that_fails_again_and_again_is_not_starting(simulation: Simulation) -> None:
    """Its row says NotReady, one that comes for the first time Starting."""
    name = f"{NAME}-1"
    pod = simulation.pods[name]
    pod["status"]["conditions"] = [{"type": "Ready", "status": "False"}]

    def state(seen: ClusterSnapshot, spec: KubernetesSpec) -> str:
        rows = status_of(seen, spec, simulation.last, None)["workers"]
        return next(str(row["state"]) for row in rows if row["name"] == name)

    assert state(simulation.look(), parse_spec(simulation.resource)) == "Starting"
    pod["status"]["containerStatuses"] = [{"restartCount": 2}]
    assert state(simulation.look(), parse_spec(simulation.resource)) == "NotReady"


def test_a_login_that_may_change_history_is_reported_with_its_remedy(simulation: Simulation) -> None:
    """Nothing stalls for it; unknown where no worker answers."""
    assert conditions_of(simulation)["JournalProtected"] == ("True", "AppendOnly")
    observed = simulation.look().ownership
    assert observed is not None
    excess = observed._replace(excess_privileges={"chat-1": ("DELETE", "UPDATE"), "chat-0": ("DELETE",)})
    seen = simulation.look()._replace(ownership=excess)
    status = status_of(seen, parse_spec(seen.resource), simulation.last, None)
    assert conditions(status)["JournalProtected"] == ("False", "ExcessPrivileges")
    assert conditions(status)["Ready"][0] == "True"
    message = next(each["message"] for each in status["conditions"] if each["type"] == "JournalProtected")
    assert message.startswith("The login of chat-0, chat-1 may DELETE, UPDATE the journal. Remedy: ")
    assert conditions_of(simulation, ownership=None)["JournalProtected"] == ("Unknown", "OwnershipUnknown")
