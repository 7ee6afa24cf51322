"""The reconciler: one reconcile of one cluster observes, decides, acts and reports.

`actions`, `diagnosis` and `status` decide, and are pure; the reconciler does the I/O.  The first write that the API server
refuses ends the writes of this reconcile: a later write may depend on it.
"""

import base64
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from shard_worker.contract import url_host
from shard_worker.tasks import BackgroundTasks
from threadcluster_operator.api import InvalidSpec, KubernetesSpec, parse_spec
from threadcluster_operator.controller.actions import Actions, OperatorContext, plan_actions
from threadcluster_operator.controller.cache import Cache
from threadcluster_operator.controller.diagnosis import Diagnosis, Reason, diagnose, previous_diagnosis
from threadcluster_operator.controller.events import Recorder
from threadcluster_operator.controller.metrics import Telemetry
from threadcluster_operator.controller.snapshot import ClusterSnapshot, Key, Object, Pod, controller_of, members
from threadcluster_operator.controller.status import patch_of, status_of
from threadcluster_operator.controller.workqueue import TransientError
from threadcluster_operator.kube.client import (
    KINDS,
    SECRET,
    THREAD_CLUSTER,
    Conflict,
    Forbidden,
    Kind,
    Kube,
    KubeError,
    NotFound,
    Rejected,
    Unreachable,
)
from threadcluster_operator.kube.nesting import path_of_cut
from threadcluster_operator.kube.preconditions import Preconditions
from threadcluster_operator.planning.observation import build_observation
from threadcluster_operator.planning.planner import NewPlan, ShardOwnership
from threadcluster_operator.render import MANAGEMENT_PORT, SECRET_KEY, secret_of
from threadcluster_operator.workers.client import NoWorkerAvailable, WorkerRefused, client_context
from threadcluster_operator.workers.protocol import WorkersClient

log = logging.getLogger(__name__)

_UNREACHABLE_S: Final = 5.0
"""Time after which ready workers that do not answer are reported as unreachable."""
_BLOCKED_S: Final = 5.0
_SECRET_S: Final = 60.0
"""How often the Secret is looked for again."""
_UNKNOWN_SPEC: Final = Actions()


Reach = Callable[[Key, Mapping[str, str], str], WorkersClient]
"""Makes the client of a cluster's workers, from their addresses by name and the cluster's secret."""


@dataclass
class _Memory:
    """The state that is kept of a cluster from one reconcile to the next; all of it may be lost."""

    uid: str
    secret: str | None = None
    secret_read_at: float = -math.inf
    balancing: bool = False
    unreachable_since: float | None = None
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
        *,
        namespace: str,
        service_monitors: bool = False,
    ) -> None:
        self.relist: Callable[[Kind], None] = lambda _: None
        """Has a kind listed again: called when a write shows that the cache is wrong."""
        self.service_monitors = service_monitors
        self._kube = kube
        self._cache = cache
        self._reach = reach
        self._recorder = recorder
        self._telemetry = telemetry
        self._namespace = namespace
        self._memories: dict[Key, _Memory] = {}
        self._tasks = BackgroundTasks()

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
            spec = _spec_of(resource)
        except InvalidSpec as error:
            refused = Diagnosis(Reason.SPEC_INVALID, f"{error}. Remedy: correct the fields that are named.")
            await self._say(await self._seen(key, resource, memory), None, _UNKNOWN_SPEC, refused)
            return 60.0
        seen = await self._seen(key, resource, memory)
        operator = OperatorContext(self._namespace, self.service_monitors, secrets.token_urlsafe(32))
        steps = plan_actions(seen, spec, operator, balancing=memory.balancing)
        memory.balancing = steps.next.balancing if steps.next is not None else False
        if not spec.paused and steps.blocked is None:
            await self._act(key, seen, steps, memory)
        trouble = steps.blocked or memory.refused or diagnose(seen)
        if trouble is None:
            trouble = previous_diagnosis(seen) if steps.migrating else self._out_of_reach(seen, memory)
        await self._say(seen, spec, steps, trouble)
        if spec.paused:
            return 60.0
        return _BLOCKED_S if steps.blocked is not None or memory.refused is not None else steps.requeue_after_s

    # --- observing

    async def _seen(self, key: Key, resource: Object, memory: _Memory) -> ClusterSnapshot:
        children = {(each["kind"], each["metadata"]["name"]): each for each in self._cache.children(key)}
        for (kind, name), _ in list(memory.foreign.items()):
            found = await self._kube.get(KINDS[kind], key.namespace, name)
            if found is None:
                del memory.foreign[kind, name]
            else:
                children[kind, name] = memory.foreign[kind, name] = found
        if memory.secret is None:
            children.update(await self._read_secret(key, memory))
        elif time.monotonic() - memory.secret_read_at > _SECRET_S:
            self._read_secret_beside(key, memory)
        seen = ClusterSnapshot(
            resource,
            tuple(children.values()),
            members(key.name, children.values(), self._cache.pods(key)),
            self._cache.warnings(key),
            None,
            memory.secret,
            time.time(),
        )
        return seen._replace(ownership=await self._ownership(key, seen, memory))

    async def _read_secret(self, key: Key, memory: _Memory) -> dict[tuple[str, str], Object]:
        """The Secret, if there is one.  The operator does not watch it: the right to watch one Secret is that to watch all."""
        name = secret_of(key.name)
        memory.secret_read_at = time.monotonic()
        found = await self._kube.get(SECRET, key.namespace, name)
        if found is None:
            for each in self._cache.children(key):
                if (each["kind"], each["metadata"]["name"]) == ("Secret", name):
                    self._cache.drop(each)
            return {}
        self._cache.put(found)
        if controller_of(found).get("uid") == memory.uid:
            try:
                given = base64.b64decode(found.get("data", {})[SECRET_KEY], validate=True).decode()
                client_context(given)
                memory.secret = given
            except (KeyError, ValueError) as error:  # also what is no base64, no UTF-8, or too short
                extra = {"namespace": key.namespace, "secret": name, "cause": str(error)}
                log.error("the cluster's secret cannot be used", extra=extra)
        return {("Secret", name): found}

    def _read_secret_beside(self, key: Key, memory: _Memory) -> None:
        """Read it again, for the next look: this one need not wait for it."""

        async def read() -> None:
            try:
                await self._read_secret(key, memory)
            except KubeError as error:
                log.info("secret not read", extra={"key": str(key), "cause": str(error)})

        memory.secret_read_at = time.monotonic()
        self._tasks.spawn(read(), name=f"read-secret-{key.namespace}/{key.name}")

    async def close(self) -> None:
        """End what goes on beside the looks."""
        await self._tasks.close()

    async def _ownership(self, key: Key, seen: ClusterSnapshot, memory: _Memory) -> ShardOwnership | None:
        pods = seen.workers()
        addresses = {pod.name: _address(pod.address) for pod in pods if pod.address is not None and not _dead(pod)}
        if not addresses or memory.secret is None:
            return None
        answers = await self._reach(key, addresses, memory.secret).answers()
        if answers or not any(pod.ready for pod in pods):
            memory.unreachable_since = None
        elif memory.unreachable_since is None:
            memory.unreachable_since = time.monotonic()
        return build_observation(
            answers,
            running={pod.name for pod in pods},
            starting={pod.name for pod in pods if pod.starting and not pod.ready},
            emptying=frozenset(),
        )

    def _out_of_reach(self, seen: ClusterSnapshot, memory: _Memory) -> Diagnosis | None:
        since = memory.unreachable_since
        if seen.ownership is not None or since is None or time.monotonic() - since < _UNREACHABLE_S:
            return None
        return Diagnosis(
            Reason.WORKER_UNREACHABLE,
            f"workers are ready, and none answers the operator at port {MANAGEMENT_PORT}. Remedy: let pods of namespace"
            f" {self._namespace} reach that port (NetworkPolicies, security groups).",
        )

    # --- acting

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

    async def _change(self, body: Object, seen: Preconditions) -> Object:
        """Apply; where the items of a list conflict with those of another writer, replace the list."""
        kind, meta = KINDS[body["kind"]], body["metadata"]
        try:
            try:
                return await self._kube.apply(kind, body, seen)
            except Rejected as error:
                if "spec" not in body:
                    raise
                log.info("not applied, merging", extra={"kind": kind.kind, "object": meta["name"], "cause": str(error)})
                patch = {"metadata": seen.metadata | {"annotations": meta["annotations"]}, "spec": body["spec"]}
                return await self._kube.merge(kind, meta["namespace"], meta["name"], patch)
        except (Conflict, NotFound):
            await self._correct(kind, meta["namespace"], meta["name"], seen)
            raise

    async def _correct(self, kind: Kind, namespace: str, name: str, seen: Preconditions) -> None:
        """An object is not as the cache has it: read it, instead of waiting for a watch that may have missed it."""
        found = await self._kube.get(kind, namespace, name)
        if found is None or Preconditions.of(found).uid != seen.uid:
            meta = {"namespace": namespace, "name": name, "uid": seen.uid, "resourceVersion": seen.version}
            self._cache.drop({"kind": kind.kind, "metadata": meta})
        if found is not None:
            self._cache.put(found)

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
        if memory.secret is None:
            return
        addresses = {pod.name: _address(pod.address) for pod in seen.workers() if pod.address is not None and pod.ready}
        try:
            await self._reach(key, addresses, memory.secret).set_targets(plan.request())
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
        except NotFound:
            self._cache.drop(seen.resource)
            return
        except Conflict:  # another one has its name; the operator may list ThreadClusters, and get none
            self.relist(THREAD_CLUSTER)
            return
        self._cache.put(changed)


def _spec_of(resource: Object) -> KubernetesSpec:
    """The spec.  Raises `InvalidSpec`, also for one of which a part was nested too deep to be read."""
    where = path_of_cut(resource.get("spec"), "spec")
    if where is not None:
        raise InvalidSpec([f"{where}: nested deeper than any field of a ThreadCluster"])
    return parse_spec(resource)


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
