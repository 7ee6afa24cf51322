"""A Kubernetes of tiny controllers in memory, one cluster's worth, for properties of what the operator decides.

Time is turns.  In a turn each controller takes one step: the StatefulSet's, the Job's, the kubelet's, and the workers'
(`tests.fakes.worker_api`).  The operator's look is a step too: it sees the present, or an earlier moment, or the pods of an
earlier moment beside the present; what it does is done as the API server would, by name, uid and version.
"""

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from threadcluster_operator.api import KubernetesSpec, parse_spec
from threadcluster_operator.controller.actions import Actions, OperatorContext, plan_actions
from threadcluster_operator.controller.diagnosis import examine
from threadcluster_operator.controller.snapshot import ClusterSnapshot, Object, condition, members
from threadcluster_operator.controller.status import status_of
from threadcluster_operator.kube.preconditions import Preconditions
from threadcluster_operator.planning.freshness import Outage
from threadcluster_operator.planning.observation import build_observation
from threadcluster_operator.planning.planner import ShardOwnership
from threadcluster_operator.workers.client import NoWorkerAvailable, WorkerRefused

from shard_worker.contract_internal import OwnershipResponse, TargetsRequest
from tests.fakes.worker_api import MemoryWorkers

NAME: Final = "chat"
NAMESPACE: Final = "talk"
_OPERATOR: Final = OperatorContext("threadcluster-system")
_SPEC: Final = {
    "shards": 12,
    "replicas": 3,
    "image": "threadcluster:1",
    "database": {"urlSecretKeyRef": {"name": "database"}},
}


class Violation(AssertionError):
    """Something was done that must never be."""


class Simulation:
    """One ThreadCluster and everything that belongs to it."""

    def __init__(self) -> None:
        self.turn_number = 0
        self.workers = MemoryWorkers(12)
        self.resource: Object = {
            "apiVersion": "threadcluster.io/v1alpha1",
            "kind": "ThreadCluster",
            "metadata": {"name": NAME, "namespace": NAMESPACE, "uid": "cluster-1", "generation": 1},
            "spec": copy.deepcopy(_SPEC),
        }
        self.objects: dict[tuple[str, str], Object] = {}
        self.pods: dict[str, Object] = {}
        self.broken: set[str] = set()
        """Pods that do not become ready, by name."""
        self.lost: set[str] = set()
        """Pods on a node that is cut off: not ready, and never gone by themselves."""
        self.unanswered = False
        self.contradicting = False
        self.migrations_hang = False
        """No Job ends."""
        self.counts_unavailable = False
        """The StatefulSet's controller counts unavailable pods, as with the feature gate MaxUnavailableStatefulSet."""
        self.frozen = False
        """The database is: the workers answer from memory, and report it."""
        self.stale = False
        """The last answers are old."""
        self.balancing = False
        self.last = Actions()
        self._uids = 0
        self._versions = 0
        self._past: list[ClusterSnapshot] = []

    # --- what users and the world do

    def edit(self, **spec: Any) -> None:
        """The user changes the spec."""
        before = copy.deepcopy(self.resource["spec"])
        self.resource["spec"].update(spec)
        if self.resource["spec"] != before:
            self.resource["metadata"]["generation"] += 1

    def crash(self, name: str) -> None:
        """A worker's process dies; its pod restarts it."""
        if name in self.pods and _is_ready(self.pods[name]):
            self.workers.die(name)
            _set_ready(self.pods[name], ready=False)

    def restart_operator(self) -> None:
        """Its memory is lost."""
        self.balancing = False

    def heal(self) -> None:
        """No fault goes on."""
        self.broken.clear()
        for name in self.lost:
            self.pods.pop(name, None)
        self.lost.clear()
        self.unanswered = self.contradicting = self.migrations_hang = self.frozen = self.stale = False

    # --- turns

    def turn(self) -> None:
        """Every controller takes a step."""
        self.turn_number += 1
        self.workers.turn()
        self._kubelet()
        self._job_controller()
        self._stateful_set_controller()

    def look(self, *, ago: int = 0) -> ClusterSnapshot:
        """The operator's snapshot of an earlier reconciliation."""
        return self._past[max(0, len(self._past) - 1 - ago)] if ago and self._past else self._now()

    def operate(self, *, ago: int = 0, pods_ago: int = 0) -> Actions:
        """The operator looks at the cluster, and acts; ``pods_ago``: the watch of pods alone is behind."""
        current = self._now()
        self._past = [*self._past[-8:], current]
        seen = current if not ago else self.look(ago=ago)._replace(resource=copy.deepcopy(self.resource))
        if pods_ago:
            # Workers are asked where their pods are: those of a pod that was not seen give no answer.
            pods = self.look(ago=pods_ago).pods
            seen = seen._replace(pods=pods, ownership=self._ownership({pod["metadata"]["name"] for pod in pods}))
        spec = parse_spec(seen.resource)
        steps = self.last = plan_actions(seen, spec, _OPERATOR, balancing=self.balancing)
        self.balancing = steps.next.balancing if steps.next is not None else False
        if steps.blocked is None:
            self._act(steps, seen, spec)
        trouble, wait = examine(seen)
        status = status_of(seen, spec, steps, steps.blocked or trouble, wait)
        if not ago and not pods_ago:
            self._check_status(status)
        self.resource["status"] = status
        return steps

    @property
    def ready(self) -> bool:
        """As `kubectl wait` judges."""
        ready = _condition_of(self.resource.get("status", {}), "Ready")
        return ready.get("status") == "True" and ready["observedGeneration"] == self.resource["metadata"]["generation"]

    @property
    def stateful_set(self) -> Object | None:
        """The StatefulSet."""
        return self.objects.get(("StatefulSet", NAME))

    # --- the operator's hands

    def _ownership(self, running: set[str]) -> ShardOwnership | None:
        """As the workers of these pods report it."""
        if self.unanswered or self.frozen:
            return None
        starting = {
            name
            for name, pod in self.pods.items()
            if name in running and not _is_ready(pod) and name not in self.broken | self.lost
        }
        live = {
            name: answer for name, answer in self._answers().items() if name in running & set(self.pods) - self.lost
        }
        return build_observation(live, running=running, starting=starting, emptying=frozenset())

    def _now(self) -> ClusterSnapshot:
        ownership = self._ownership(set(self.pods))
        return ClusterSnapshot(
            copy.deepcopy(self.resource),
            tuple(copy.deepcopy(list(self.objects.values()))),
            members(NAME, self.objects.values(), copy.deepcopy(list(self.pods.values()))),
            (),
            ownership,
            "thirty-two-letters-of-randomness\n",
            float(self.turn_number),
            Outage("DatabaseUnreachable", "no answer", 0.0) if self.frozen and not self.unanswered else None,
            not self.stale,
        )

    def _answers(self) -> dict[str, OwnershipResponse]:
        answers = {}
        for name, worker in self.workers._live().items():
            answer = self.workers.knobs.distort(self.workers._answer(worker))
            if self.contradicting and name == min(self.workers._live()):
                unowned = tuple(msgspec.structs.replace(shard, owner=None) for shard in answer.shards)
                answer = msgspec.structs.replace(answer, shards=unowned, plan_version=answer.plan_version + 1)
            answers[name] = answer
        return answers

    def _act(self, steps: Actions, seen: ClusterSnapshot, spec: KubernetesSpec) -> None:
        for body in steps.create:
            place = (body["kind"], body["metadata"]["name"])
            if place not in self.objects:
                self._store(body, None)
        for body, judged in steps.apply:
            live = self.objects.get((body["kind"], body["metadata"]["name"]))
            if live is not None and Preconditions.of(live) == judged:
                self._check_apply(body, live, seen)
                self._store(body, live)
        if steps.scale is not None and not any(body["kind"] == "StatefulSet" for body, _ in steps.apply):
            body, judged = steps.scale
            live = self.objects.get(("StatefulSet", NAME))
            if live is not None and Preconditions.of(live) == judged:
                scaled = {**live, "spec": {**live["spec"], **body["spec"]}}
                self._check_apply(scaled, live, seen)
                self._store(scaled, live)
        for body in steps.delete:
            place = (body["kind"], body["metadata"]["name"])
            if body["kind"] in ("StatefulSet", "Service", "Pod"):
                raise Violation(f"{place} is deleted")
            if place in self.objects and self.objects[place]["metadata"]["uid"] == body["metadata"]["uid"]:
                del self.objects[place]
        if steps.targets is not None and not self.unanswered and not self.frozen:
            plan = steps.targets
            if plan.moves > spec.rebalance.max_concurrent_moves and not any(
                owner is not None
                and seen.ownership is not None
                and seen.ownership.targets.get(shard) not in (None, owner)
                for shard, owner in (seen.ownership.owners.items() if seen.ownership is not None else ())
            ):
                raise Violation(f"{plan.moves} moves at once")
            self._set_targets(plan.request())

    def _set_targets(self, plan: TargetsRequest) -> None:
        work = self.workers.set_targets(plan)
        try:
            work.send(None)
        except StopIteration:
            return
        except (NoWorkerAvailable, WorkerRefused):
            return

    def _store(self, body: Object, live: Object | None) -> None:
        made = copy.deepcopy(body)
        meta = made["metadata"]
        if live is None:
            self._uids += 1
            meta["uid"], meta["generation"] = f"uid-{self._uids}", 1
        else:
            meta["uid"] = live["metadata"]["uid"]
            changed = made.get("spec") != live.get("spec")
            meta["generation"] = live["metadata"]["generation"] + changed
            made["status"] = live.get("status", {})
        self._versions += 1
        meta["resourceVersion"] = str(self._versions)
        self.objects[made["kind"], meta["name"]] = made

    def _check_apply(self, body: Object, live: Object, seen: ClusterSnapshot) -> None:
        """A worker is taken away only when it is known to own nothing; one is let go only while all is served."""
        if body["kind"] != "StatefulSet":
            return
        fewer = range(body["spec"]["replicas"], live["spec"]["replicas"])
        for ordinal in fewer:
            name = f"{NAME}-{ordinal}"
            if self.resource["spec"]["replicas"] == 0:
                continue
            # By its name: whether its pod was seen says nothing of what it owns.
            if (seen.ownership is None or not seen.fresh) and name in self.pods:
                raise Violation(f"{name} is taken away, and its ownership is unknown")
            if seen.ownership is not None and name in (
                *seen.ownership.owners.values(),
                *seen.ownership.targets.values(),
            ):
                raise Violation(f"{name} is taken away with its shards")
        same_template = body["spec"]["template"] == live["spec"]["template"]
        before, after = _partition(live), _partition(body)
        let_go = [pod for pod in seen.workers() if after <= pod.ordinal < before]
        if same_template and (seen.ownership is None or not seen.fresh) and any(pod.ready for pod in seen.workers()):
            newest = live["status"].get("updateRevision")
            if any(pod.revision != newest for pod in let_go):
                raise Violation("a worker is let go, and the owners are unknown")
        if not same_template and after < body["spec"]["replicas"]:
            raise Violation("a new template comes with workers let go")
        if same_template and after < before and before - after > 1 and after < body["spec"]["replicas"] - 1:
            newest = live["status"].get("updateRevision")
            skipped = [self.pods.get(f"{NAME}-{ordinal}") for ordinal in range(after + 1, before)]
            if any(pod is not None and _revision(pod) != newest for pod in skipped):
                raise Violation(f"several workers are let go at once: {before} → {after}")

    def _check_status(self, status: Mapping[str, Any]) -> None:
        """Ready is the truth."""
        if _condition_of(status, "Ready").get("status") != "True":
            return
        replicas = self.resource["spec"]["replicas"]
        if replicas == 0:
            return
        live = self.stateful_set
        assert live is not None
        if not {f"{NAME}-{ordinal}" for ordinal in range(replicas)} == set(self.pods):
            raise Violation("Ready, with other pods than wanted")
        if not all(_is_ready(pod) and _revision(pod) == _template_hash(live) for pod in self.pods.values()):
            raise Violation("Ready, with pods that are not ready or old")
        env = live["spec"]["template"]["spec"]["containers"][0]["image"]
        if env != self.resource["spec"]["image"]:
            raise Violation("Ready, with another image than wanted")

    # --- controllers

    def _stateful_set_controller(self) -> None:
        live = self.stateful_set
        if live is None:
            return
        before = copy.deepcopy(live.get("status"))
        status = live.setdefault("status", {})
        status["observedGeneration"] = live["metadata"]["generation"]
        status["updateRevision"] = _template_hash(live)
        status.setdefault("currentRevision", status["updateRevision"])
        replicas, partition = live["spec"]["replicas"], _partition(live)
        for ordinal in range(replicas):
            name = f"{NAME}-{ordinal}"
            if name not in self.pods:
                revision = status["updateRevision"] if ordinal >= partition else status["currentRevision"]
                self._uids += 1
                self.pods[name] = _pod(name, f"uid-{self._uids}", revision, live)
        for name, pod in self.pods.items():
            if int(name.rpartition("-")[2]) >= replicas:
                self._delete_pod(name, pod)
        if self.counts_unavailable:
            self._restart_counting(replicas, partition, live)
        else:
            self._restart_in_order(replicas, partition, status["updateRevision"])
        pods = list(self.pods.values())
        status["replicas"] = len(pods)
        if len(pods) == replicas and all(_is_ready(pod) and _revision(pod) == status["updateRevision"] for pod in pods):
            status["currentRevision"] = status["updateRevision"]
        if status != before:
            self._versions += 1
            live["metadata"]["resourceVersion"] = str(self._versions)

    def _restart_in_order(self, replicas: int, partition: int, newest: str) -> None:
        for ordinal in range(replicas - 1, partition - 1, -1):
            pod = self.pods[f"{NAME}-{ordinal}"]
            if _revision(pod) != newest and "deletionTimestamp" not in pod["metadata"]:
                self._delete_pod(f"{NAME}-{ordinal}", pod)
                break
            if not _is_ready(pod):
                break

    def _restart_counting(self, replicas: int, partition: int, live: Object) -> None:
        """As many as `maxUnavailable` allows at once: several ready ones never, since only one is let go at a time."""
        most, newest = (
            live["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"],
            live["status"]["updateRevision"],
        )
        names = [f"{NAME}-{ordinal}" for ordinal in range(replicas - 1, -1, -1)]
        allowed = most - sum(not _is_ready(self.pods[name]) for name in names)
        old = [
            name
            for name in names[: replicas - partition]
            if _revision(self.pods[name]) != newest and "deletionTimestamp" not in self.pods[name]["metadata"]
        ]
        ready = [name for name in old[: max(0, allowed)] if _is_ready(self.pods[name])]
        if len(ready) > 1:
            raise Violation(f"{', '.join(ready)} restart at once")
        for name in old[: max(0, allowed)]:
            self._delete_pod(name, self.pods[name])

    def _delete_pod(self, name: str, pod: Object) -> None:
        if "deletionTimestamp" not in pod["metadata"]:
            pod["metadata"]["deletionTimestamp"] = "2026-05-01T12:00:00Z"
            if name in self.workers._live():
                self.workers.leave(name)

    def _kubelet(self) -> None:
        for name, pod in list(self.pods.items()):
            if name in self.lost:
                continue
            if "deletionTimestamp" in pod["metadata"]:
                alive = name in self.workers._live()
                if not alive or not self.workers.owned_by(name):
                    if alive:
                        self.workers.end(name)
                    del self.pods[name]
                    self.broken.discard(name)
            elif not _is_ready(pod) and name not in self.broken:
                self.workers.start(name)
                _set_ready(pod, ready=True)

    def _job_controller(self) -> None:
        for (kind, _), each in self.objects.items():
            if kind == "Job" and not self.migrations_hang:
                each["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}

    def lose(self, name: str) -> None:
        """A pod's node is cut off."""
        if name in self.pods:
            self.lost.add(name)
            if name in self.workers._live():
                self.workers.die(name)
            _set_ready(self.pods[name], ready=False)


def _pod(name: str, uid: str, revision: str, live: Object) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": uid,
            "labels": {**live["spec"]["template"]["metadata"]["labels"], "controller-revision-hash": revision},
            "ownerReferences": [
                {"kind": "StatefulSet", "name": NAME, "uid": live["metadata"]["uid"], "controller": True}
            ],
        },
        "spec": {
            "nodeName": "node",
            "containers": [{"image": live["spec"]["template"]["spec"]["containers"][0]["image"]}],
        },
        "status": {
            "podIP": "10.200.0.1",
            "conditions": [{"type": "Ready", "status": "False"}],
            "containerStatuses": [],
        },
    }


def _is_ready(pod: Object) -> bool:
    return condition(pod, "Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def _set_ready(pod: Object, *, ready: bool) -> None:
    pod["status"]["conditions"] = [{"type": "Ready", "status": str(ready)}]


def _revision(pod: Object) -> str:
    return str(pod["metadata"]["labels"]["controller-revision-hash"])


def _partition(stateful_set: Object) -> int:
    return int(stateful_set["spec"]["updateStrategy"]["rollingUpdate"]["partition"])


def _template_hash(stateful_set: Object) -> str:
    return hashlib.sha256(json.dumps(stateful_set["spec"]["template"], sort_keys=True).encode()).hexdigest()[:8]


def _condition_of(status: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next((each for each in status.get("conditions", ()) if each["type"] == name), {})


_ENOUGH = 400
"""Turns within which a cluster without faults is as wanted."""


def settle(simulation: Simulation) -> None:
    """Without further faults the cluster becomes what is wanted, and then nothing is written any more."""
    simulation.heal()
    for _ in range(_ENOUGH):
        simulation.turn()
        simulation.operate()
        if simulation.ready:
            break
    else:
        raise AssertionError(f"not ready: {simulation.resource['status']['conditions']}, {simulation.last}")
    for _ in range(3):
        simulation.turn()
        steps = simulation.operate()
        assert (steps.create, steps.apply, steps.delete, steps.targets) == ((), (), (), None)
        assert simulation.ready


OPERATOR = OperatorContext("threadcluster-system")
"""The operator of tests that plan actions on one snapshot."""


def wanted_replicas(steps: Actions) -> list[int]:
    """New replicas of the StatefulSet, if they change."""
    return [body["spec"]["replicas"] for body, _ in steps.apply if body["kind"] == "StatefulSet"]
