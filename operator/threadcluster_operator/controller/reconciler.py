"""The reconciler: one reconcile of one cluster observes, decides, acts and reports.

`actions`, `diagnosis` and `status` decide, and are pure; the reconciler does the I/O.  Each child is written for itself: one
that the API server refuses stops no other child, no move of a shard and no status.  `child_writes` decides when it is tried
again.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from shard_worker.contract import url_host
from shard_worker.contract_tls import fingerprint, parse_secrets
from threadcluster_operator.api import InvalidSpec, KubernetesSpec, parse_spec
from threadcluster_operator.controller.actions import MOVING_S, Actions, OperatorContext, plan_actions, render_input
from threadcluster_operator.controller.cache import Cache, trim
from threadcluster_operator.controller.child_writes import ChildWrite, ChildWrites, Refusal, Step
from threadcluster_operator.controller.diagnosis import (
    Diagnosis,
    Reason,
    diagnose,
    joined,
    previous_diagnosis,
    refused,
    reverted,
)
from threadcluster_operator.controller.events import Recorder
from threadcluster_operator.controller.metrics import Telemetry
from threadcluster_operator.controller.secret_keeper import SecretKeeper
from threadcluster_operator.controller.snapshot import (
    ClusterSnapshot,
    Key,
    Object,
    Pod,
    Written,
    members,
    secret_state_of,
)
from threadcluster_operator.controller.status import patch_of, status_of
from threadcluster_operator.controller.tenant_policy import violations
from threadcluster_operator.controller.workqueue import TransientError
from threadcluster_operator.kube.answers import Answer
from threadcluster_operator.kube.client import (
    KINDS,
    SECRET,
    THREAD_CLUSTER,
    Conflict,
    Kind,
    Kube,
    KubeError,
    NotFound,
    Rejected,
)
from threadcluster_operator.kube.nesting import path_of_cut
from threadcluster_operator.kube.preconditions import Preconditions
from threadcluster_operator.planning.observation import Heartbeats, build_observation, newest
from threadcluster_operator.planning.planner import NewPlan
from threadcluster_operator.render import KINDS as RENDERED
from threadcluster_operator.render import MANAGEMENT_PORT, differences, digest, is_worker_of, secret_of, secret_text
from threadcluster_operator.workers.client import NoWorkerAvailable, WorkerRefused
from threadcluster_operator.workers.protocol import WorkersClient

log = logging.getLogger(__name__)

_UNREACHABLE_S: Final = 5.0
"""Time after which ready workers that do not answer are reported as unreachable."""
_BLOCKED_S: Final = 5.0
_ROTATING_S: Final = 2.0
"""Time between two looks while a secret is replaced: the kubelets need a minute or so for each step."""
_WORKERS_NEED: Final = frozenset({"Secret", "Job", "StatefulSet", "Service"})
"""Kinds without which no worker runs or is found: a refusal of one comes before what pods report."""
_INVALID: Final = 422
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
    writes: ChildWrites = field(default_factory=ChildWrites)
    written: dict[tuple[str, str], Written] = field(default_factory=dict)
    accepted: str | None = None
    """The StatefulSet that passed its dry run before a migration, as a hash."""
    secrets_refused: bool = False
    """Whether the last step with the Secrets was refused."""


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
        self.clock: Callable[[], float] = time.monotonic
        self.relist: Callable[[Kind], None] = lambda _: None
        """Has a kind listed again: called when a write shows that the cache is wrong."""
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
            except KubeError as error:
                raise TransientError(str(error)) from error

    async def _look(self, key: Key, resource: Object, memory: _Memory) -> float:
        try:
            spec = _spec_of(resource)
            if wrong := violations(spec, self._operator.tenants):
                raise InvalidSpec(wrong)
        except InvalidSpec as error:
            invalid = Diagnosis(Reason.SPEC_INVALID, f"{error}. Remedy: correct the fields that are named.")
            await self._say(await self._seen(key, resource, memory), None, _UNKNOWN_SPEC, invalid)
            return 60.0
        seen = await self._seen(key, resource, memory)
        memory.secrets.begin()
        steps = plan_actions(seen, spec, self._operator, balancing=memory.balancing)
        memory.balancing = steps.next.balancing if steps.next is not None else False
        away: KubeError | None = None
        if not spec.paused:
            seen, away = await self._keep_secrets(seen, spec, steps, memory)
            # Pods that mount another owner's Secret would take its content for the cluster's secret.
            if memory.secrets.trouble is None or memory.secrets.trouble.reason != Reason.NAME_CONFLICT:
                away = await self._act(key, seen, steps, memory, away)
        await self._say(seen, spec, steps, self._trouble(seen, steps, memory))
        if away is not None:
            raise away
        if spec.paused:
            return 60.0
        if steps.requeue_after_s == MOVING_S:
            return MOVING_S
        if steps.blocked is not None or memory.secrets.trouble is not None:
            return _BLOCKED_S
        if seen.secret_state is not None and len(seen.secret_state.values) > 1:
            return min(steps.requeue_after_s, _ROTATING_S)
        due_s = memory.writes.due_in_s(self.clock())
        writes = len(steps.create) + len(steps.apply) + len(steps.delete) + memory.secrets_refused
        if due_s is None or steps.migrating or steps.blocked_reason or writes > memory.writes.refused_count:
            return steps.requeue_after_s
        return max(due_s, steps.requeue_after_s)  # nothing but what is refused is still to be done

    def _trouble(self, seen: ClusterSnapshot, steps: Actions, memory: _Memory) -> Diagnosis | None:
        """The diagnosis to report: the most important one, with what is refused besides."""
        now = self.clock()
        refusals = memory.writes.refusals(now)
        order = [kind.kind for kind in RENDERED]
        refusals.sort(key=lambda each: (each.kind not in _WORKERS_NEED, order.index(each.kind)))
        found = [refused(*each) for each in refusals]
        needed = [each for each, refusal in zip(found, refusals, strict=True) if refusal.kind in _WORKERS_NEED]
        reported = diagnose(seen) or (previous_diagnosis(seen) if steps.migrating else self._out_of_reach(seen, memory))
        found += [reverted(place.kind, place.name) for place in memory.writes.often_reverted(now)]
        first = (
            steps.blocked or memory.secrets.trouble or next(iter(needed), None) or reported or next(iter(found), None)
        )
        if first is None:
            return None
        return joined(first, [each for each in found if each is not first])

    # --- observing

    async def _seen(self, key: Key, resource: Object, memory: _Memory) -> ClusterSnapshot:
        children = {(each["kind"], each["metadata"]["name"]): each for each in self._cache.children(key)}
        for (kind, name), _ in list(memory.foreign.items()):
            try:
                found = await self._kube.get(KINDS[kind], key.namespace, name)
            except KubeError as error:
                log.info("foreign object not read", extra={"key": str(key), "object": name, "cause": str(error)})
                children[kind, name] = memory.foreign[kind, name]
                continue
            if found is None:
                del memory.foreign[kind, name]
            else:
                children[kind, name] = memory.foreign[kind, name] = found
        state = secret_state_of(resource)
        seen = ClusterSnapshot(
            resource,
            tuple(children.values()),
            members(key.name, children.values(), self._cache.pods(key)),
            self._cache.warnings(key),
            None,
            None if state is None else secret_text(self._operator.keys, memory.uid, state.values),
            time.time(),
            memory.written,
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
            memory.unreachable_since = self.clock()
        # A worker whose cluster was displaced reads the other one's workers and shards: no basis for any action.
        refused = sorted(answer.claimed_by_other for answer in answers.values() if answer.claimed_by_other)
        answers = {name: answer for name, answer in answers.items() if not answer.claimed_by_other}
        beating = memory.beats.advancing(newest(answers.values()), self.clock())
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
        if seen.ownership is not None or since is None or self.clock() - since < _UNREACHABLE_S:
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

    async def _keep_secrets(
        self, seen: ClusterSnapshot, spec: KubernetesSpec, steps: Actions, memory: _Memory
    ) -> tuple[ClusterSnapshot, KubeError | None]:
        """The snapshot with the state of the Secrets that is to be recorded; the error of an API server that does not answer.

        A step that is refused stops no other child; it is repeated, and reported, as the write of a child is.
        """
        if steps.blocked is not None and seen.secret_state is None:
            return seen, None  # nothing is begun while another owner has the name of a child
        step, now = _secrets_step(seen.key), self.clock()
        due = memory.writes.step(step, now)
        if due is Step.WAIT:
            return seen, None
        try:
            wanted = render_input(seen, spec, self._operator)
            state = await memory.secrets.keep(self._kube, self._recorder, seen, wanted, self._operator.keys)
        except KubeError as error:
            if error.answer is Answer.AWAY:
                return seen, error
            log.info(
                "secrets not kept", extra={"key": str(seen.key), "cause": str(error), "answer": error.answer.value}
            )
            (memory.writes.failed if due is Step.TRY_OUT else memory.writes.refused)(step, _refusal(step, error), now)
            memory.secrets_refused = True
            return seen, None
        memory.writes.accepted(step)
        memory.secrets_refused = False
        return seen._replace(secret_state=state), None

    async def _act(
        self, key: Key, seen: ClusterSnapshot, steps: Actions, memory: _Memory, away: KubeError | None
    ) -> KubeError | None:
        """Write each child, and set the targets; the error of an API server that does not answer at all."""
        try:
            if away is None:
                await self._write_children(key, seen, steps, memory)
        except KubeError as error:
            away = error
        if steps.targets is not None:
            await self._set_targets(key, seen, steps.targets, memory)
        return away

    async def _write_children(self, key: Key, seen: ClusterSnapshot, steps: Actions, memory: _Memory) -> None:
        """Raises `KubeError` only when the API server does not answer: then each further request would wait as long."""
        writes = [
            *(ChildWrite("create", body) for body in steps.create),
            *(ChildWrite("apply", body, *judged) for body, judged in steps.apply),
            *(ChildWrite("delete", body, body["metadata"]["uid"]) for body in steps.delete),
        ]
        scale = None
        if steps.scale is not None:
            body, state = steps.scale
            scale = ChildWrite("scale", body, *state)
        trial = None
        if steps.trial is not None:
            body, there = steps.trial
            trial = ChildWrite("create", body) if there is None else ChildWrite("apply", body, *there)
        wanted = {each.place for each in (*writes, scale, trial, _secrets_step(key)) if each is not None}
        memory.writes.keep(wanted, self.clock())
        workers_written = False
        for write in writes:
            # A migration for workers that the API server would not take is one too many: it cannot be taken back.
            begins = trial if write.verb == "create" and write.place.kind == "Job" else None
            if begins is not None and not await self._is_accepted(seen, begins, memory):
                continue
            taken = await self._attempt(key, seen, write, memory)
            workers_written = workers_written or (taken and write.place.kind == "StatefulSet")
        if scale is not None and not workers_written:
            await self._attempt(key, seen, scale, memory)

    async def _is_accepted(self, seen: ClusterSnapshot, trial: ChildWrite, memory: _Memory) -> bool:
        """Whether the StatefulSet that is to follow the migration passes a dry run."""
        if memory.accepted == trial.content:
            return True
        now = self.clock()
        if memory.writes.step(trial, now) is Step.WAIT:
            return False
        result = await self._request(trial, dry_run=True)
        if isinstance(result, KubeError) and result.answer is not Answer.NO_DRY_RUN:
            await self._refuse(seen, trial, result, memory)
            memory.writes.failed(trial, _refusal(trial, result), now)
            return False
        memory.accepted = trial.content
        memory.writes.accepted(trial)
        return True

    async def _attempt(self, key: Key, seen: ClusterSnapshot, write: ChildWrite, memory: _Memory) -> bool:
        """Write a child, unless it is to wait; whether the API server took it."""
        writes, now = memory.writes, self.clock()
        step = writes.step(write, now)
        if step is Step.WAIT:
            return False
        if step is Step.TRY_OUT:
            tried = await self._request(write, dry_run=True)
            if isinstance(tried, KubeError):
                await self._refuse(seen, write, tried, memory)
                writes.failed(write, _refusal(write, tried), now)
                return False
            if not writes.passed(write, now):
                return False
        result = await self._request(write)
        if isinstance(result, KubeError):
            await self._refuse(seen, write, result, memory)
            writes.refused(write, _refusal(write, result), now)
            return False
        writes.taken(write, now)
        self._took(seen, write, result, memory)
        return True

    async def _request(self, write: ChildWrite, *, dry_run: bool = False) -> Object | KubeError | None:
        """The answer of the API server, or its error; raises `KubeError` when it does not answer at all."""
        kind, meta = KINDS[write.body["kind"]], write.body["metadata"]
        where = (kind, meta["namespace"], meta["name"])
        try:
            match write.verb:
                case "create":
                    return await self._kube.create(kind, write.body, dry_run=dry_run)
                case "apply":
                    return await self._change(write.body, write.judged, dry_run=dry_run)
                case "scale":
                    patch = {"metadata": write.judged.metadata, "spec": write.body["spec"]}
                    return await self._kube.merge(*where, patch, dry_run=dry_run)
                case "delete":
                    await self._kube.delete(*where, write.uid, dry_run=dry_run)
                    return None
        except KubeError as error:
            if error.answer is Answer.AWAY:
                raise
            return error

    async def _change(self, body: Object, seen: Preconditions, *, dry_run: bool) -> Object:
        """Apply; where the items of a list conflict with those of another writer, replace the list."""
        kind, meta = KINDS[body["kind"]], body["metadata"]
        try:
            try:
                return await self._kube.apply(kind, body, seen, dry_run=dry_run)
            except Rejected as error:
                if "spec" not in body or error.status != _INVALID:
                    raise
                log.info("not applied, merging", extra={"kind": kind.kind, "object": meta["name"], "cause": str(error)})
                patch = {"metadata": seen.metadata | {"annotations": meta["annotations"]}, "spec": body["spec"]}
                return await self._kube.merge(kind, meta["namespace"], meta["name"], patch, dry_run=dry_run)
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

    async def _meet(self, key: Key, write: ChildWrite, memory: _Memory) -> None:
        """Read the object that has the name already: another owner's, which is never taken over, or ours, which no watch has
        reported yet.
        """
        kind, name = KINDS[write.body["kind"]], write.body["metadata"]["name"]
        try:
            found = await self._kube.get(kind, key.namespace, name)
        except KubeError as error:
            log.info("existing object not read", extra={"key": str(key), "object": name, "cause": str(error)})
            return
        if found is not None and self._cache.put(found) != key:
            memory.foreign[kind.kind, name] = found

    def _took(self, seen: ClusterSnapshot, write: ChildWrite, answer: Object | None, memory: _Memory) -> None:
        """Keep what the API server made of a write."""
        kind, name = write.body["kind"], write.body["metadata"]["name"]
        what = {"create": "Created", "apply": "Changed", "scale": "Scaled", "delete": "Deleted"}[write.verb]
        self._recorder.event(seen.resource, "Normal", what, f"{kind} {name}")
        if answer is None:
            return
        self._cache.put(answer)
        if write.verb == "scale":
            return
        before = memory.written.pop((kind, name), None)
        fields = tuple(sorted(set(differences(write.body, answer))))
        if not fields:
            return
        kept = trim({part: value for part, value in answer.items() if part != "status"})
        memory.written[kind, name] = Written(answer["metadata"]["uid"], digest(write.body), kept, fields)
        if before is None or before.fields != fields:
            message = f"an admission rule changes {kind} {name}: {', '.join(fields)}"
            log.info("child changed by admission", extra={"key": str(seen.key), "object": name, "fields": list(fields)})
            self._recorder.event(seen.resource, "Normal", "ChangedByAdmission", message)

    async def _refuse(self, seen: ClusterSnapshot, write: ChildWrite, error: KubeError, memory: _Memory) -> None:
        """Log a refusal, which the status reports, and read an object that has the name already."""
        extra = {"key": str(seen.key), "kind": write.place.kind, "object": write.place.name, "cause": str(error)}
        log.info("child not written", extra={**extra, "answer": error.answer.value})
        if error.answer is Answer.EXISTS:
            await self._meet(seen.key, write, memory)

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


def _secrets_step(key: Key) -> ChildWrite:
    """The next step with the Secrets, whichever that is, for `ChildWrites`."""
    return ChildWrite("create", {"kind": SECRET.kind, "metadata": {"name": secret_of(key.name)}})


def _address(host: str) -> str:
    return f"https://{url_host(host)}:{MANAGEMENT_PORT}"


def _dead(pod: Pod) -> bool:
    """Nothing can answer there: it has not begun to run, or fails again and again."""
    return not pod.ready and not pod.ending and not pod.starting


def _refusal(write: ChildWrite, error: KubeError) -> Refusal:
    return Refusal(write.place.kind, write.place.name, error.answer, str(error))
