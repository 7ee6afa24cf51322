"""The reconciler: one reconcile of one cluster observes, decides, acts and reports.

`actions`, `diagnosis` and `status` decide, and are pure; the reconciler does the I/O.  Each child is written for itself: one
that the API server refuses stops no other child, no move of a shard and no status.  `child_writes` decides when it is tried
again.
"""

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from shard_worker.contract import url_host
from shard_worker.contract_tls import fingerprint, parse_secrets
from shard_worker.tasks import BackgroundTasks
from threadcluster_operator.api import InvalidSpec, KubernetesSpec, parse_spec
from threadcluster_operator.controller.actions import MOVING_S, Actions, OperatorContext, plan_actions, render_input
from threadcluster_operator.controller.cache import Cache
from threadcluster_operator.controller.child_writer import ChildWriter, refusal_of
from threadcluster_operator.controller.child_writes import ChildWrite, Step
from threadcluster_operator.controller.diagnosis import (
    UNREACHABLE_S,
    Diagnosis,
    Findings,
    examine,
    invalid_answer,
    joined,
    lasting_outage,
    previous_diagnosis,
    refused,
    reverted,
)
from threadcluster_operator.controller.events import Recorder
from threadcluster_operator.controller.installation import ANSWER_S, Claim, Rivalry, claim
from threadcluster_operator.controller.metrics import Telemetry
from threadcluster_operator.controller.quota_headroom import Headroom, has_grown, headroom_of, refused_by_quota
from threadcluster_operator.controller.reasons import Reason
from threadcluster_operator.controller.secret_keeper import SecretKeeper
from threadcluster_operator.controller.snapshot import (
    ClusterSnapshot,
    Key,
    Object,
    Pod,
    members,
    secret_state_of,
)
from threadcluster_operator.controller.status import patch_of, status_of
from threadcluster_operator.controller.tenant_policy import violations
from threadcluster_operator.controller.workqueue import TransientError
from threadcluster_operator.kube.answers import Answer
from threadcluster_operator.kube.client import (
    RESOURCE_QUOTA,
    SECRET,
    THREAD_CLUSTER,
    Conflict,
    Kind,
    Kube,
    KubeError,
    NotFound,
)
from threadcluster_operator.kube.nesting import path_of_cut
from threadcluster_operator.planning.freshness import counts, serving_of
from threadcluster_operator.planning.observation import Heartbeats, observe
from threadcluster_operator.planning.planner import NewPlan
from threadcluster_operator.render import KINDS as RENDERED
from threadcluster_operator.render import MANAGEMENT_PORT, is_worker_of, secret_of, secret_text
from threadcluster_operator.workers.client import NoWorkerAvailable, WorkerRefused
from threadcluster_operator.workers.pacing import Pace, plan_pause_s
from threadcluster_operator.workers.poller import ClusterPoll, Latest, Wake, Watched, WorkerPolls
from threadcluster_operator.workers.protocol import PolledWorkers

log = logging.getLogger(__name__)

_BLOCKED_S: Final = 5.0
_SILENT_S: Final = 5.0
"""Time until the next look at a cluster that waits for its workers or their database: there may be hundreds."""
_ROTATING_S: Final = 2.0
"""Time between two looks while a secret is replaced: the kubelets need a minute or so for each step."""
_WORKERS_NEED: Final = frozenset({"Secret", "Job", "StatefulSet", "Service"})
"""Kinds without which no worker runs or is found: a refusal of one comes before what pods report."""
_STATUS_S: Final = 1.0
"""Minimum time between two writes of one status; what changes in between is written at its end."""
_FIRST_ANSWERS_S: Final = 0.3
"""How long the first answers of a cluster's workers take, if they answer: then another look is due."""
_RECORDED_S: Final = 5.0
"""Time for which an answer that does not show the last plan is taken for an older one; longer than a worker takes to read what
it recorded.  After a restore of the database no answer ever shows the plan."""
_HEADROOM_S: Final = 3.0
"""Time between two readings of the quotas that refuse pods of a cluster."""
_GROWN_S: Final = 30.0
"""Minimum time between two growths of the quotas' headroom that are acted on: in a busy namespace it grows all the time."""
_UNKNOWN_SPEC: Final = Actions()


Reach = Callable[[Key, Mapping[str, str], str], PolledWorkers]
"""Makes the client of a cluster's workers, from their addresses by name and the cluster's secret."""


@dataclass
class _Memory:
    """The state that is kept of a cluster from one reconcile to the next; all of it may be lost."""

    uid: str
    children: ChildWriter
    secrets: SecretKeeper
    balancing: bool = False
    poll: ClusterPoll | None = None
    """The questions to the workers; None while none can be asked."""
    wanted_since: float | None = None
    """Since when the looks want another plan; it is made from an answer to a later question alone."""
    recorded: NewPlan | None = None
    """The last plan that was sent to the workers, and when: until an answer shows it, no other is sent."""
    recorded_at: float = -math.inf
    recording: bool = False
    plans_refused: int = 0
    """Plans in a row that the workers did not take, and when the last one was not."""
    plan_refused_at: float = -math.inf
    rivalry: Rivalry = field(default_factory=Rivalry)
    """With another installation of the operator."""
    status_written_at: float = -math.inf
    beats: Heartbeats = field(default_factory=Heartbeats)
    headroom: Headroom | None = None
    """The headroom that the quotas left when pods were refused, or when it grew; None while no quota refuses any."""
    headroom_read_at: float = -math.inf
    headroom_grew_at: float | None = None
    """By the clock of snapshots."""
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
        self._tasks = BackgroundTasks()
        self.wake: Wake = _look_later
        """Has a cluster looked at when its workers' answers changed; the work queue's `add`, once there is one."""
        self._polls = WorkerPolls(lambda owner: self.wake(owner), lambda: self.clock())

    async def reconcile(self, key: Key) -> float | None:
        """Look at a cluster; in how many seconds to look again.  Raises `TransientError` when the API server is away."""
        with self._telemetry.reconciling(key):
            resource = self._cache.resources.get(key)
            if resource is None or "deletionTimestamp" in resource["metadata"]:
                self._memories.pop(key, None)
                self._polls.forget(key)
                self._telemetry.forget(key)
                if resource is None:
                    self._cache.forget(key)
                return None
            memory = self._memories.get(key)
            if memory is None or memory.uid != resource["metadata"]["uid"]:
                children = ChildWriter(self._kube, self._cache, self._recorder, lambda: self.clock())
                secrets = SecretKeeper(self._kube, self._recorder, self.clock())
                memory = self._memories[key] = _Memory(resource["metadata"]["uid"], children, secrets)
            try:
                claimed = await self._claimed(key, resource, memory)
                if claimed is None:
                    memory.poll = None
                    self._polls.forget(key)
                    self._telemetry.forget(key)
                    return ANSWER_S
                return await self._look(key, claimed, memory)
            except KubeError as error:
                raise TransientError(str(error)) from error

    async def _claimed(self, key: Key, resource: Object, memory: _Memory) -> Object | None:
        """The ThreadCluster, if this installation looks after it; None while another one does."""
        status = resource.get("status") or {}
        what = claim(status, self._operator.namespace, memory.rivalry, self.clock())
        if what is Claim.OWN:
            return resource
        other = str(status.get("operator", ""))
        if what is Claim.TAKE:
            if other:
                log.warning("cluster taken over from another installation", extra={"key": str(key), "from": other})
            return await self._mark(key, resource, {"operator": self._operator.namespace, "operatorChallenge": None})
        if what is Claim.CHALLENGE:
            await self._mark(key, resource, {"operatorChallenge": self._operator.namespace})
        self._recorder.event(
            resource,
            "Warning",
            "AnotherOperator",
            f"the operator in namespace {self._operator.namespace} changes nothing: the operator in namespace {other} looks after this"
            " ThreadCluster. Remedy: remove one of the two, or have each watch namespaces of its own",
        )
        return None

    async def _mark(self, key: Key, resource: Object, fields: Object) -> Object | None:
        """Write fields of the status of just this version: of two that claim it at the same moment one is refused."""
        meta = {name: resource["metadata"][name] for name in ("uid", "resourceVersion")}
        try:
            body = {"metadata": meta, "status": fields}
            changed = await self._kube.merge(THREAD_CLUSTER, key.namespace, key.name, body, "status")
        except NotFound as error:
            self._cache.drop(resource)
            raise TransientError(f"not claimed: {error}") from error
        except Conflict as error:  # another version, whose event is on its way; or another one of its name
            self.relist(THREAD_CLUSTER)
            raise TransientError(f"not claimed: {error}") from error
        self._cache.put(changed)
        return changed

    async def _look(self, key: Key, resource: Object, memory: _Memory) -> float:
        try:
            spec = _spec_of(resource)
            if wrong := violations(spec, self._operator.tenants):
                raise InvalidSpec(wrong)
        except InvalidSpec as error:
            invalid = Diagnosis(Reason.SPEC_INVALID, f"{error}. Remedy: correct the fields that are named.")
            late_s = await self._say(
                await self._seen(key, resource, memory), None, _UNKNOWN_SPEC, Findings(invalid), memory
            )
            return 60.0 if late_s is None else late_s
        seen = await self._with_headroom(await self._seen(key, resource, memory), memory)
        memory.secrets.begin(self.clock(), mismatched=memory.poll is not None and memory.poll.latest().mismatched)
        steps = plan_actions(seen, spec, self._operator, balancing=memory.balancing)
        memory.balancing = steps.next.balancing if steps.next is not None else False
        if steps.targets is None:
            memory.wanted_since = None
        away: KubeError | None = None
        if not spec.paused:
            seen, away = await self._keep_secrets(seen, spec, steps, memory)
            # Pods that mount another owner's Secret would take its content for the cluster's secret.
            if memory.secrets.trouble is None or memory.secrets.trouble.reason != Reason.NAME_CONFLICT:
                away = await self._act(key, seen, steps, memory, away)
        self._set_pace(seen, steps, memory)
        late_s = await self._say(seen, spec, steps, self._findings(seen, steps, memory), memory)
        if away is not None:
            raise away
        again_s = 60.0 if spec.paused else self._again_s(seen, steps, memory)
        return again_s if late_s is None else min(again_s, late_s)

    def _again_s(self, seen: ClusterSnapshot, steps: Actions, memory: _Memory) -> float:
        """In how many seconds to look again at a cluster that is not paused, if nothing happens before."""
        if steps.requeue_after_s == MOVING_S:
            return MOVING_S
        if steps.blocked is not None or memory.secrets.trouble is not None:
            return _BLOCKED_S
        if _replaces_secret(seen):
            return min(steps.requeue_after_s, _ROTATING_S)
        due_s = memory.children.writes.due_in_s(self.clock())
        again_s = steps.requeue_after_s
        if seen.ownership is None and memory.poll is not None and self._waits_for_workers(seen, memory.poll):
            again_s = max(again_s, _SILENT_S)
            # A child that is refused is tried again meanwhile: its writes wait for no worker.
            return again_s if due_s is None else min(again_s, max(due_s, steps.requeue_after_s))
        writes = len(steps.create) + len(steps.apply) + len(steps.delete) + memory.secrets_refused
        if due_s is None or steps.migrating or steps.blocked_reason or writes > memory.children.writes.refused_count:
            return again_s
        return max(due_s, again_s)  # nothing but what is refused is still to be done

    def _findings(self, seen: ClusterSnapshot, steps: Actions, memory: _Memory) -> Findings:
        """The findings to report: the most important trouble, with what is refused besides, and the first wait."""
        now = self.clock()
        refusals = memory.children.writes.refusals(now)
        order = [kind.kind for kind in RENDERED]
        refusals.sort(key=lambda each: (each.kind not in _WORKERS_NEED, order.index(each.kind)))
        found = [refused(*each) for each in refusals]
        needed = [each for each, refusal in zip(found, refusals, strict=True) if refusal.kind in _WORKERS_NEED]
        reported, wait = examine(seen)
        reported = reported or lasting_outage(seen)
        if reported is None:
            reported = previous_diagnosis(seen) if steps.migrating else self._out_of_reach(seen, memory)
        found += [reverted(place.kind, place.name) for place in memory.children.writes.often_reverted(now)]
        first = (
            steps.blocked or memory.secrets.trouble or next(iter(needed), None) or reported or next(iter(found), None)
        )
        if first is not None:
            first = joined(first, [each for each in found if each is not first])
        return Findings(first, wait)

    def _waits_for_workers(self, seen: ClusterSnapshot, poll: ClusterPoll) -> bool:
        """Whether only an answer can change anything, which has the cluster looked at by itself."""
        silent_since = poll.latest().silent_since
        return seen.outage is not None or (silent_since is not None and self.clock() - silent_since > 2 * UNREACHABLE_S)

    def _set_pace(self, seen: ClusterSnapshot, steps: Actions, memory: _Memory) -> None:
        """Have the workers asked as often as the state of the cluster needs."""
        if memory.poll is None:
            return
        if seen.outage is not None:
            memory.poll.set_pace(Pace.AWAY)
        else:
            # While a secret is replaced each step waits for what every worker says that it holds.
            settled = steps.settled and not _replaces_secret(seen)
            memory.poll.set_pace(Pace.REST if settled else Pace.MOVING if steps.moving else Pace.WAITING)
        if steps.blocked_reason and not seen.fresh:
            memory.poll.hurry()

    # --- observing

    async def _seen(self, key: Key, resource: Object, memory: _Memory) -> ClusterSnapshot:
        children = {(each["kind"], each["metadata"]["name"]): each for each in self._cache.children(key)}
        children |= await memory.children.foreign(key)
        state = secret_state_of(resource)
        seen = ClusterSnapshot(
            resource,
            tuple(children.values()),
            members(key.name, children.values(), self._cache.pods(key)),
            self._cache.warnings(key),
            None,
            None if state is None else secret_text(self._operator.keys, memory.uid, state.values),
            time.time(),
            written=memory.children.written,
            secret_state=state,
        )
        return self._with_answers(key, seen, memory)

    async def _with_headroom(self, seen: ClusterSnapshot, memory: _Memory) -> ClusterSnapshot:
        """The snapshot with when the quotas that refuse pods of the cluster left more headroom."""
        if not refused_by_quota(seen):
            memory.headroom = memory.headroom_grew_at = None
            return seen
        now = self.clock()
        if now - memory.headroom_read_at >= _HEADROOM_S:
            memory.headroom_read_at = now
            try:
                listed = await self._kube.list(RESOURCE_QUOTA, seen.key.namespace)
            except KubeError as error:
                log.info("quotas not read", extra={"key": str(seen.key), "cause": str(error)})
                return seen._replace(headroom_grew_at=memory.headroom_grew_at)
            headroom = headroom_of(listed.items)
            if memory.headroom is None or not has_grown(memory.headroom, headroom):
                memory.headroom = headroom
            elif memory.headroom_grew_at is None or seen.now - memory.headroom_grew_at >= _GROWN_S:
                memory.headroom, memory.headroom_grew_at = headroom, seen.now
        return seen._replace(headroom_grew_at=memory.headroom_grew_at)

    async def close(self) -> None:
        """End what goes on beside the looks."""
        await self._polls.close()
        await self._tasks.close()

    def _with_answers(self, key: Key, seen: ClusterSnapshot, memory: _Memory) -> ClusterSnapshot:
        """The snapshot with what the workers answered last, as far as it is about this cluster; they are asked in the background."""
        pods = seen.workers()
        asked = {
            pod.name: Watched(_address(pod.address), pod.ready)
            for pod in pods
            if pod.address is not None and not _dead(pod)
        }
        live = seen.child("StatefulSet", key.name)
        # The controller counts its pods too: one that the cache does not know yet may hold another value.
        known = live is None or len(pods) >= live.get("status", {}).get("replicas", 0)
        if not asked or seen.secret is None:
            self._polls.forget(key)
            memory.poll = None
            self._telemetry.set_worker_health(key, {})
            return seen._replace(secret_confirmed=known and not pods)
        addresses = {name: each.address for name, each in asked.items()}
        memory.poll = self._polls.watch(key, self._reach(key, addresses, seen.secret), asked)
        latest, now = memory.poll.latest(), self.clock()
        health = {name: each.health for name, each in latest.readings.items() if each.health is not None}
        self._telemetry.set_worker_health(key, health)
        refused = sorted(each.claimed_by_other for each in latest.readings.values() if each.claimed_by_other)
        seen = seen._replace(
            secret_confirmed=known and _hold(latest, [pod.name for pod in pods], seen.secret, now),
            claimed_by_other="".join(refused[:1]),
            # From the clock of the questions to that of the snapshot, as the outage.
            silent={name: each._replace(since=seen.now - (now - each.since)) for name, each in latest.silent.items()},
        )
        outage = latest.verdict.outage
        if outage is not None:
            outage = outage._replace(since=seen.now - (now - outage.since))
        if latest.answer is None or not latest.verdict.known:
            return seen._replace(outage=outage)
        beating = memory.beats.advancing(latest.answer, now)
        ownership = observe(
            latest.answer,
            serving_of(latest.readings, now),
            {name: each.excess_privileges for name, each in latest.readings.items()},
            [each.rebuild for each in latest.readings.values()],
            running={pod.name for pod in pods} | beating,
            starting={pod.name for pod in pods if pod.starting and not pod.ready},
            emptying=frozenset(),
        )
        return seen._replace(
            ownership=ownership,
            fresh=latest.current and latest.verdict.may_act(now),
            foreign_workers=tuple(sorted(name for name in beating if not is_worker_of(key.name, name))),
        )

    def _out_of_reach(self, seen: ClusterSnapshot, memory: _Memory) -> Diagnosis | None:
        since = memory.poll.latest().silent_since if memory.poll is not None else None
        if seen.ownership is not None or since is None or self.clock() - since < UNREACHABLE_S:
            return None
        if memory.poll is not None and memory.poll.latest().mismatched:
            return Diagnosis(
                Reason.INTERNAL_SECRET_MISMATCH,
                "workers show certificates of another secret than the operator derives. Remedy: delete Secret"
                f" {secret_of(seen.key.name)}: the operator makes it again as it was, and workers read it within two minutes.",
            )
        for name, silence in seen.silent.items():
            if silence.fault:
                return invalid_answer(name, silence.fault)
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
        writes = memory.children.writes
        due = writes.step(step, now)
        if due is Step.WAIT:
            return seen, None
        wanted, tries_out = render_input(seen, spec, self._operator), due is Step.TRY_OUT
        try:
            if tries_out:
                await memory.secrets.keep(seen, wanted, self._operator.keys, dry_run=True)
                if not writes.passed(step, now):
                    return seen, None
                tries_out = False
            state = await memory.secrets.keep(seen, wanted, self._operator.keys)
        except KubeError as error:
            if error.answer is Answer.AWAY:
                return seen, error
            log.info(
                "secrets not kept", extra={"key": str(seen.key), "cause": str(error), "answer": error.answer.value}
            )
            (writes.failed if tries_out else writes.refused)(step, refusal_of(step, error), now)
            memory.secrets_refused = True
            return seen, None
        writes.accepted(step)
        memory.secrets_refused = False
        return seen._replace(secret_state=state), None

    async def _act(
        self, key: Key, seen: ClusterSnapshot, steps: Actions, memory: _Memory, away: KubeError | None
    ) -> KubeError | None:
        """Write each child, and set the targets; the error of an API server that does not answer at all."""
        try:
            if away is None:
                await memory.children.write(seen, steps, _secrets_step(key))
        except KubeError as error:
            away = error
        if steps.targets is not None:
            self._set_targets(key, seen, steps.targets, memory)
        return away

    def _set_targets(self, key: Key, seen: ClusterSnapshot, plan: NewPlan, memory: _Memory) -> None:
        """Record a plan in the background: a look does not wait for a worker."""
        if seen.secret is None or memory.poll is None or memory.recording:
            return
        if memory.wanted_since is None:
            memory.wanted_since = self.clock()
        if memory.poll.latest().verdict.read_at < memory.wanted_since:
            # At rest an answer may be older than a cordon that was made just before the edit.
            memory.poll.hurry()
            return
        shown = memory.recorded is None or plan.base_version > memory.recorded.base_version
        if not shown and self.clock() - memory.recorded_at < _RECORDED_S:
            return  # made from an answer of before the last plan: the workers would refuse it as stale
        if self.clock() - memory.plan_refused_at < plan_pause_s(memory.plans_refused):
            return
        answering = {name for name, each in memory.poll.latest().readings.items() if each.failing_since is None}
        ready = [pod for pod in seen.workers() if pod.address is not None and pod.ready]
        addresses = {
            pod.name: _address(pod.address)
            for pod in sorted(ready, key=lambda pod: pod.name not in answering)
            if pod.address is not None
        }
        if not addresses:
            return  # a pod that becomes ready has the cluster looked at
        memory.recording = True
        work = self._record(self._reach(key, addresses, seen.secret), seen, plan, memory)
        self._tasks.spawn(work, name=f"set-targets-{key.namespace}/{key.name}")

    async def _record(self, workers: PolledWorkers, seen: ClusterSnapshot, plan: NewPlan, memory: _Memory) -> None:
        try:
            await workers.set_targets(plan.request())
        except (NoWorkerAvailable, WorkerRefused) as error:
            memory.plans_refused, memory.plan_refused_at = memory.plans_refused + 1, self.clock()
            log.info("plan not taken", extra={"key": str(seen.key), "plan": plan.hash, "cause": str(error)})
            return
        finally:
            memory.recording = False
            if memory.poll is not None:
                memory.poll.hurry()
        memory.recorded, memory.recorded_at, memory.plans_refused = plan, self.clock(), 0
        if plan.moves:
            self._telemetry.moved(seen.key, plan.moves)
            self._recorder.event(seen.resource, "Normal", "MovingShards", f"plan {plan.hash}: {plan.moves} shards")

    # --- saying so

    async def _say(
        self,
        seen: ClusterSnapshot,
        spec: KubernetesSpec | None,
        steps: Actions,
        findings: Findings,
        memory: _Memory,
    ) -> float | None:
        """Write the status where it changed; in how many seconds to look again for a change that is not written yet."""
        before = seen.resource.get("status")
        if before is not None and memory.poll is not None and not memory.poll.latest().begun:
            return _FIRST_ANSWERS_S  # after a start of the operator what it does not know yet is no news
        after = {**status_of(seen, spec, steps, *findings), "operator": self._operator.namespace}
        challenger = after.pop("operatorChallenge", None) or (before or {}).get("operatorChallenge")
        if challenger:  # withdrawn by this status, which does not have it
            message = f"the operator in namespace {challenger} watches this ThreadCluster too, and changes nothing"
            self._recorder.event(seen.resource, "Warning", "AnotherOperator", message)
        gates = {
            "foreign-child": steps.blocked is not None,
            "migration": steps.migrating,
            "worker": bool(steps.blocked_reason),
        }
        self._telemetry.set_cluster_status(seen.key, after, gates)
        patch = patch_of(before, after)
        if not patch:
            return None
        late_s = memory.status_written_at + _STATUS_S - self.clock()
        if late_s > 0:
            return late_s
        memory.status_written_at = self.clock()
        self._recorder.transitions(seen.resource, before, after)
        body = {"metadata": {"uid": seen.resource["metadata"]["uid"]}, "status": patch}
        try:
            changed = await self._kube.merge(THREAD_CLUSTER, seen.key.namespace, seen.key.name, body, "status")
        except NotFound:
            self._cache.drop(seen.resource)
            return None
        except Conflict:  # another one has its name; the operator may list ThreadClusters, and get none
            self.relist(THREAD_CLUSTER)
            return None
        self._cache.put(changed)
        return None


def _look_later(_: tuple[str, str]) -> None:
    """Before there is a work queue the next look comes by itself."""


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


def _replaces_secret(seen: ClusterSnapshot) -> bool:
    """Whether the Secrets hold another value besides the one that is wanted in the end."""
    return seen.secret_state is not None and len(seen.secret_state.values) > 1


def _hold(latest: Latest, workers: Collection[str], secret: str, now: float) -> bool:
    """Whether each of these workers says that it holds just the values of a secret, in their order."""
    held = tuple(fingerprint(value) for value in parse_secrets(secret.encode()))
    readings = [latest.readings.get(name) for name in workers]
    return all(each is not None and counts(each, now) and each.secrets == held for each in readings)


def _dead(pod: Pod) -> bool:
    """Nothing can answer there: it has not begun to run, or fails again and again."""
    return not pod.ready and not pod.ending and not pod.starting
