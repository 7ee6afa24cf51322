"""The reconciler: one reconcile of one cluster observes, decides, acts and reports.

`actions`, `diagnosis` and `status` decide, and are pure; the reconciler does the I/O.  The first write that the API server
refuses ends the writes of this reconcile: a later write may depend on it.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from shard_worker.contract import url_host
from shard_worker.contract_tls import fingerprint, parse_secrets
from threadcluster_operator.api import InvalidSpec, KubernetesSpec, parse_spec
from threadcluster_operator.controller.actions import Actions, OperatorContext, plan_actions, render_input
from threadcluster_operator.controller.cache import Cache
from threadcluster_operator.controller.diagnosis import Diagnosis, Reason, diagnose, previous_diagnosis
from threadcluster_operator.controller.events import Recorder
from threadcluster_operator.controller.metrics import Telemetry
from threadcluster_operator.controller.secret_keeper import SecretKeeper
from threadcluster_operator.controller.snapshot import ClusterSnapshot, Key, Object, Pod, secret_state_of
from threadcluster_operator.controller.status import patch_of, status_of
from threadcluster_operator.controller.tenant_policy import violations
from threadcluster_operator.controller.workqueue import TransientError
from threadcluster_operator.kube.client import (
    KINDS,
    THREAD_CLUSTER,
    Conflict,
    Forbidden,
    Kube,
    KubeError,
    NotFound,
    Rejected,
    Unreachable,
)
from threadcluster_operator.planning.observation import Heartbeats, build_observation, newest
from threadcluster_operator.planning.planner import NewPlan
from threadcluster_operator.render import MANAGEMENT_PORT, is_worker_of, secret_of, secret_text
from threadcluster_operator.workers.client import NoWorkerAvailable, WorkerRefused
from threadcluster_operator.workers.protocol import WorkersClient

log = logging.getLogger(__name__)

_UNREACHABLE_S: Final = 5.0
"""Time after which ready workers that do not answer are reported as unreachable."""
_BLOCKED_S: Final = 5.0
_ROTATING_S: Final = 2.0
"""Time between two looks while a secret is replaced: the kubelets need a minute or so for each step."""
_UNKNOWN_SPEC: Final = Actions()


Reach = Callable[[Key, Mapping[str, str], str], WorkersClient]
"""Makes the client of a cluster's workers, from their addresses by name and the cluster's secret."""


@dataclass
class _Memory:
    """The state that is kept of a cluster from one reconcile to the next; all of it may be lost."""

    uid: str
    secrets: SecretKeeper = field(default_factory=SecretKeeper)
    balancing: bool = False
    unreachable_since: float | None = None
    mismatched: bool = False
    """Whether a worker answered by a certificate of another secret."""
    beats: Heartbeats = field(default_factory=Heartbeats)
    foreign: dict[tuple[str, str], Object] = field(default_factory=dict)
    """Objects that have the name of a child and not its labels, so that no watch tells of them."""
    refused: Diagnosis | None = None


class Reconciler:
    """Looks at clusters, whenever the queue says so."""

    def __init__(
        self,
        kube: Kube,
        cache: Cache,
        reach: Reach,
        recorder: Recorder,
        telemetry: Telemetry,
        operator: OperatorContext,
    ) -> None:
        self._operator = operator
        self._kube = kube
        self._cache = cache
        self._reach = reach
        self._recorder = recorder
        self._telemetry = telemetry
        self._memories: dict[Key, _Memory] = {}

    async def reconcile(self, key: Key) -> float | None:
        """Look at a cluster; in how many seconds to look again.  Raises `TransientError` when the API server is away."""
        with self._telemetry.reconciling(key):
            resource = self._cache.resources.get(key)
            if resource is None or "deletionTimestamp" in resource["metadata"]:
                self._memories.pop(key, None)
                self._telemetry.forget(key)
                if resource is None:
                    self._cache.forget(key)
                return None
            memory = self._memories.get(key)
            if memory is None or memory.uid != resource["metadata"]["uid"]:
                memory = self._memories[key] = _Memory(resource["metadata"]["uid"])
            try:
                return await self._look(key, resource, memory)
            except Unreachable as error:
                raise TransientError(str(error)) from error

    async def _look(self, key: Key, resource: Object, memory: _Memory) -> float:
        try:
            spec = parse_spec(resource)
            if wrong := violations(spec, self._operator.tenants):
                raise InvalidSpec(wrong)
        except InvalidSpec as error:
            refused = Diagnosis(Reason.SPEC_INVALID, f"{error}. Remedy: correct the fields that are named.")
            await self._say(await self._seen(key, resource, memory), None, _UNKNOWN_SPEC, refused)
            return 60.0
        seen = await self._seen(key, resource, memory)
        memory.secrets.begin()
        steps = plan_actions(seen, spec, self._operator, balancing=memory.balancing)
        memory.balancing = steps.next.balancing if steps.next is not None else False
        if not spec.paused and steps.blocked is None:
            seen = await self._keep_secrets(seen, spec, memory)
            # Pods that mount another owner's Secret would take its content for the cluster's secret.
            if memory.secrets.trouble is None or memory.secrets.trouble.reason != Reason.NAME_CONFLICT:
                await self._act(key, seen, steps, memory)
        trouble = steps.blocked or memory.secrets.trouble or memory.refused or diagnose(seen)
        if trouble is None:
            trouble = previous_diagnosis(seen) if steps.migrating else self._out_of_reach(seen, memory)
        await self._say(seen, spec, steps, trouble)
        if spec.paused:
            return 60.0
        if steps.blocked is not None or memory.refused is not None or memory.secrets.trouble is not None:
            return _BLOCKED_S
        rotating = seen.secret_state is not None and len(seen.secret_state.values) > 1
        return min(steps.requeue_after_s, _ROTATING_S) if rotating else steps.requeue_after_s

    # --- observing

    async def _seen(self, key: Key, resource: Object, memory: _Memory) -> ClusterSnapshot:
        children = {(each["kind"], each["metadata"]["name"]): each for each in self._cache.children(key)}
        for (kind, name), _ in list(memory.foreign.items()):
            found = await self._kube.get(KINDS[kind], key.namespace, name)
            if found is None:
                del memory.foreign[kind, name]
            else:
                children[kind, name] = memory.foreign[kind, name] = found
        state = secret_state_of(resource)
        seen = ClusterSnapshot(
            resource,
            tuple(children.values()),
            self._cache.pods(key),
            self._cache.warnings(key),
            None,
            None if state is None else secret_text(self._operator.keys, memory.uid, state.values),
            time.time(),
            state,
        )
        return await self._with_ownership(key, seen, memory)

    async def _with_ownership(self, key: Key, seen: ClusterSnapshot, memory: _Memory) -> ClusterSnapshot:
        """The snapshot with the workers' answers, as far as they are about this cluster."""
        pods = seen.workers()
        addresses = {pod.name: _address(pod.address) for pod in pods if pod.address is not None and not _dead(pod)}
        live = seen.child("StatefulSet", key.name)
        # The controller counts its pods too: one that the cache does not know yet may hold another value.
        known = live is None or len(pods) >= live.get("status", {}).get("replicas", 0)
        if not pods:
            return seen._replace(secret_confirmed=known)
        if not addresses or seen.secret is None:
            return seen
        workers = self._reach(key, addresses, seen.secret)
        answers = await workers.answers()
        memory.mismatched = workers.mismatched()
        if answers or not any(pod.ready for pod in pods):
            memory.unreachable_since = None
        elif memory.unreachable_since is None:
            memory.unreachable_since = time.monotonic()
        # A worker whose cluster was displaced reads the other one's workers and shards: no basis for any action.
        refused = sorted(answer.claimed_by_other for answer in answers.values() if answer.claimed_by_other)
        answers = {name: answer for name, answer in answers.items() if not answer.claimed_by_other}
        beating = memory.beats.advancing(newest(answers.values()), time.monotonic())
        observed = build_observation(
            answers,
            running={pod.name for pod in pods},
            starting={pod.name for pod in pods if pod.starting and not pod.ready},
            emptying=frozenset(),
            beating=beating,
        )
        held = tuple(fingerprint(value) for value in parse_secrets(seen.secret.encode()))
        confirmed = known and all(pod.name in answers and answers[pod.name].secrets == held for pod in pods)
        foreign = tuple(sorted(name for name in beating if not is_worker_of(key.name, name)))
        return seen._replace(
            ownership=observed,
            secret_confirmed=confirmed,
            claimed_by_other="".join(refused[:1]),
            foreign_workers=foreign,
        )

    def _out_of_reach(self, seen: ClusterSnapshot, memory: _Memory) -> Diagnosis | None:
        since = memory.unreachable_since
        if seen.ownership is not None or since is None or time.monotonic() - since < _UNREACHABLE_S:
            return None
        if memory.mismatched:
            return Diagnosis(
                Reason.INTERNAL_SECRET_MISMATCH,
                "workers show certificates of another secret than the operator derives. Remedy: delete Secret"
                f" {secret_of(seen.key.name)}: the operator makes it again as it was, and workers read it within two minutes.",
            )
        return Diagnosis(
            Reason.WORKER_UNREACHABLE,
            f"workers are ready, and none answers the operator at port {MANAGEMENT_PORT}. Remedy: let pods of namespace"
            f" {self._operator.namespace} reach that port (NetworkPolicies, security groups).",
        )

    # --- acting

    async def _keep_secrets(self, seen: ClusterSnapshot, spec: KubernetesSpec, memory: _Memory) -> ClusterSnapshot:
        """The snapshot with the state of the Secrets that is to be recorded."""
        wanted = render_input(seen, spec, self._operator)
        try:
            state = await memory.secrets.keep(self._kube, self._recorder, seen, wanted, self._operator.keys)
        except (Forbidden, Rejected) as error:
            memory.secrets.trouble = _refused(error)
            return seen
        return seen._replace(secret_state=state)

    async def _act(self, key: Key, seen: ClusterSnapshot, steps: Actions, memory: _Memory) -> None:
        memory.refused = None
        try:
            for body in steps.create:
                await self._create(key, seen, body, memory)
            for body, uid in steps.apply:
                self._cache.put(await self._change(body, uid))
                self._recorder.event(seen.resource, "Normal", "Changed", f"{body['kind']} {body['metadata']['name']}")
            for body in steps.delete:
                meta = body["metadata"]
                await self._kube.delete(KINDS[body["kind"]], key.namespace, meta["name"], meta["uid"])
                self._recorder.event(seen.resource, "Normal", "Deleted", f"{body['kind']} {meta['name']}")
        except (Forbidden, Rejected) as error:
            memory.refused = _refused(error)
            return
        except (Conflict, NotFound) as error:
            log.info("another look is needed", extra={"key": str(key), "cause": str(error)})
            return
        if steps.targets is not None:
            await self._set_targets(key, seen, steps.targets, memory)

    async def _change(self, body: Object, uid: str) -> Object:
        """Apply; where the items of a list conflict with those of another writer, replace the list."""
        kind, meta = KINDS[body["kind"]], body["metadata"]
        try:
            return await self._kube.apply(kind, body, uid)
        except Rejected as error:
            if "spec" not in body:
                raise
            log.info("not applied, merging", extra={"kind": kind.kind, "object": meta["name"], "cause": str(error)})
            patch = {"metadata": {"uid": uid, "annotations": meta["annotations"]}, "spec": body["spec"]}
            return await self._kube.merge(kind, meta["namespace"], meta["name"], patch)

    async def _create(self, key: Key, seen: ClusterSnapshot, body: Object, memory: _Memory) -> None:
        kind, name = KINDS[body["kind"]], body["metadata"]["name"]
        try:
            made = await self._kube.create(kind, body)
        except Conflict:
            # Another owner's object, or ours before the watch has reported it: read the object, never take it over.
            found = await self._kube.get(kind, key.namespace, name)
            if found is not None and self._cache.put(found) != key:
                memory.foreign[kind.kind, name] = found
            raise
        self._cache.put(made)
        self._recorder.event(seen.resource, "Normal", "Created", f"{kind.kind} {name}")

    async def _set_targets(self, key: Key, seen: ClusterSnapshot, plan: NewPlan, memory: _Memory) -> None:
        if seen.secret is None:
            return
        addresses = {pod.name: _address(pod.address) for pod in seen.workers() if pod.address is not None and pod.ready}
        try:
            await self._reach(key, addresses, seen.secret).set_targets(plan.request())
        except (NoWorkerAvailable, WorkerRefused) as error:
            log.info("plan not taken", extra={"key": str(key), "plan": plan.hash, "cause": str(error)})
            return
        if plan.moves:
            self._telemetry.moved(key, plan.moves)
            self._recorder.event(seen.resource, "Normal", "MovingShards", f"plan {plan.hash}: {plan.moves} shards")

    # --- saying so

    async def _say(
        self, seen: ClusterSnapshot, spec: KubernetesSpec | None, steps: Actions, trouble: Diagnosis | None
    ) -> None:
        before = seen.resource.get("status")
        after = status_of(seen, spec, steps, trouble)
        gates = {
            "foreign-child": steps.blocked is not None,
            "migration": steps.migrating,
            "worker": bool(steps.blocked_reason),
        }
        self._telemetry.set_cluster_status(seen.key, after, gates)
        patch = patch_of(before, after)
        if not patch:
            return
        self._recorder.transitions(seen.resource, before, after)
        body = {"metadata": {"uid": seen.resource["metadata"]["uid"]}, "status": patch}
        try:
            changed = await self._kube.merge(THREAD_CLUSTER, seen.key.namespace, seen.key.name, body, "status")
        except (NotFound, Conflict):
            return  # it is gone, or another one has its name
        self._cache.put(changed)


def _address(host: str) -> str:
    return f"https://{url_host(host)}:{MANAGEMENT_PORT}"


def _dead(pod: Pod) -> bool:
    """Nothing can answer there: it has not begun to run, or fails again and again."""
    return not pod.ready and not pod.ending and not pod.starting


def _refused(error: KubeError) -> Diagnosis:
    message = str(error)
    if "exceeded quota" in message:
        return Diagnosis(Reason.QUOTA_EXCEEDED, f"{message}. Remedy: raise the namespace's quota.")
    if isinstance(error, Forbidden):
        return Diagnosis(Reason.FORBIDDEN, f"{message}. Remedy: give the operator this right, or see who refuses it.")
    return Diagnosis(Reason.CHILD_REJECTED, f"{message}. Remedy: correct the field of the spec that this comes from.")
