"""The operator's next actions on a cluster on Kubernetes: a pure function of the snapshot.

The function is level-triggered, like `planner`, which plans the shards: the actions follow from the present state alone,
so that a lost action is repeated, and a withdrawn change leaves nothing behind.  Three gates, in this order: a child with
another owner stops the actions on that child, and, where there are no workers yet, all of them; an unfinished migration stops
the actions that change the pods' template; and no worker is removed or restarted while the owners of the shards are unknown or
a shard has no owner.  The number of workers and the owners of shards wait for no other child.

Whether a worker owns nothing is asked by its name: the watch of pods may be behind, and a pod that it has not shown yet
may own shards.
"""

from collections.abc import Iterable
from datetime import datetime
from types import MappingProxyType
from typing import Final, NamedTuple

from threadcluster_operator.api import KubernetesSpec
from threadcluster_operator.controller.diagnosis import CLOCKS_S, Diagnosis, diagnose, failed_in_outage, own_end
from threadcluster_operator.controller.reasons import PODS_REFUSED, Reason
from threadcluster_operator.controller.rollout import next_partition, rolled_out, unknown_owners
from threadcluster_operator.controller.snapshot import (
    ClusterSnapshot,
    Object,
    condition,
    controller_of,
    is_ours,
    ordinal_of,
)
from threadcluster_operator.controller.tenant_policy import TenantPolicy
from threadcluster_operator.kube.preconditions import Preconditions
from threadcluster_operator.planning.planner import NewPlan, PlanResult, count_moving, next_steps
from threadcluster_operator.render import (
    APPLIED,
    KINDS,
    OperatorKeys,
    RenderInput,
    children,
    digest,
    is_applied,
    migrated,
    migration_job,
    stateful_set,
    to_prune,
)

_SOON_S: Final = 0.5
MOVING_S: Final = 0.1
"""How soon a cluster is looked at again whose shards move."""
_STEADY_S: Final = 10.0
_RETRY_MIGRATION_S: Final = 15.0
_STUCK_MIGRATION_S: Final = 30.0
_ASK_AGAIN_S: Final = 30.0

ASKED_AGAIN: Final = "threadcluster.io/asked-again"
"""An annotation of a StatefulSet whose pods are refused: any change has its controller try at once."""


class OperatorContext(NamedTuple):
    """Settings of the operator that apply to every cluster."""

    namespace: str
    service_monitors: bool = False
    """Whether the Kubernetes cluster knows ServiceMonitors."""
    keys: OperatorKeys = MappingProxyType({})
    """From which the secrets of clusters are derived."""
    site: str = ""
    """The uid of the Kubernetes cluster."""
    tenants: TenantPolicy = TenantPolicy()


class Actions(NamedTuple):
    """The actions to take now, each list in its order."""

    create: tuple[Object, ...] = ()
    apply: tuple[tuple[Object, Preconditions], ...] = ()
    """Objects, each with the state of the one that is there that this was decided on."""
    delete: tuple[Object, ...] = ()
    scale: tuple[Object, Preconditions] | None = None
    """The StatefulSet with nothing but its new number of workers, for a whole one that is not applied; and the state of the one that is
    there that this was decided on.
    """
    trial: tuple[Object, Preconditions | None] | None = None
    """The StatefulSet that is to follow a migration's Job, with the state of the one that is there, or None: it must pass a dry
    run before the Job is created.
    """
    targets: NewPlan | None = None
    blocked: Diagnosis | None = None
    """A child has another owner."""
    migrating: bool = False
    next: PlanResult | None = None
    """The result of the planner of shards; None when the planner did not run."""
    blocked_reason: str = ""
    """Why a worker that is to be removed or restarted still runs; empty when no worker is."""
    settled: bool = False
    """Nothing is to be done, and nothing that was done is still to take effect."""
    requeue_after_s: float = _STEADY_S
    """When to look again, if nothing happens before."""
    moving: bool = False
    """Shards are on their way, or are to be."""


def plan_actions(seen: ClusterSnapshot, spec: KubernetesSpec, operator: OperatorContext, *, balancing: bool) -> Actions:
    """The next steps; ``balancing`` is `PlanResult.balancing` of the steps before."""
    live_set = seen.child("StatefulSet", seen.key.name)
    shards = _shards(seen, spec, balancing=balancing)
    replicas, blocked_reason = _replicas(seen, spec, shards, live_set)
    wanted = render_input(seen, spec, operator)._replace(replicas=replicas, partition=replicas)
    objects = children(wanted)
    own_set = live_set if live_set is not None and is_ours(live_set, wanted) else None
    job = migration_job(wanted)
    live_job = seen.child("Job", job["metadata"]["name"])
    own_job = live_job if live_job is not None and is_ours(live_job, wanted) else None
    done = migrated(wanted, own_set, own_job) or (own_job is not None and _succeeded(seen, own_job))
    foreign = _foreign(seen, wanted, objects if done else [*objects, job])
    blocked = next(iter(foreign.values()), None)
    if blocked is not None and own_set is None:
        return Actions(blocked=blocked, next=shards)
    scale = trial = None
    delete = to_prune(wanted, seen.children, [*objects, job])
    if own_set is not None and own_set["spec"].get("replicas") != replicas:
        scale = (_scaled(own_set, replicas), Preconditions.of(own_set))
    if done:
        partition, waits = next_partition(seen, spec, wanted, objects, own_set)
        blocked_reason = blocked_reason or waits
        let_go = stateful_set(wanted._replace(partition=partition))
        if own_set is not None and _pods_refused(seen, own_set):
            let_go["metadata"]["annotations"][ASKED_AGAIN] = _asked_again(seen)
        objects = [let_go if each["kind"] == "StatefulSet" else each for each in objects]
        if own_job is not None and own_set is not None and _outlived(seen, wanted, own_set, own_job):
            delete.append(own_job)
    else:
        (workers,) = [each for each in objects if each["kind"] == "StatefulSet"]
        trial = (workers, None if own_set is None else Preconditions.of(own_set))
        objects = [each for each in objects if each["kind"] != "StatefulSet"]
        if live_job is None:
            objects.append(job)
        elif own_job is not None and _should_retry_migration(seen, own_job, job):
            delete.append(own_job)
    create, apply = _changes(seen, [each for each in objects if _place(each) not in foreign])
    quiet = not (create or apply or delete)
    targets = shards.plan if shards is not None else None
    under_way = seen.ownership is not None and count_moving(seen.ownership) > 0
    moving = shards is not None and (targets is not None or shards.balancing or under_way)
    settled = (
        quiet
        and done
        and blocked is None
        and targets is None
        and not blocked_reason
        and own_set is not None
        and rolled_out(seen, spec, own_set)
    )
    return Actions(
        tuple(create),
        tuple(apply),
        tuple(dict(each) for each in delete),
        scale,
        trial,
        targets,
        blocked,
        not done,
        shards,
        blocked_reason,
        settled and (spec.replicas == 0 or (shards is not None and shards.converged)),
        MOVING_S if moving else _STEADY_S if settled else _SOON_S,
        moving,
    )


def _scaled(live: Object, replicas: int) -> Object:
    """The patch of a StatefulSet that changes the number of workers alone."""
    head = {name: live[name] for name in ("apiVersion", "kind")}
    place = {name: live["metadata"][name] for name in ("name", "namespace")}
    return {**head, "metadata": place, "spec": {"replicas": replicas}}


def _place(subject: Object) -> tuple[str, str]:
    return subject["kind"], subject["metadata"]["name"]


def render_input(seen: ClusterSnapshot, spec: KubernetesSpec, operator: OperatorContext) -> RenderInput:
    """The cluster as its spec wants it."""
    return RenderInput(
        seen.key.name,
        seen.key.namespace,
        seen.resource["metadata"]["uid"],
        spec,
        spec.replicas,
        spec.replicas,
        operator.namespace,
        operator.service_monitors,
        operator.site,
        not operator.tenants.privileged,
    )


# --- shards, and how many workers


def _shards(seen: ClusterSnapshot, spec: KubernetesSpec, *, balancing: bool) -> PlanResult | None:
    running = frozenset(pod.name for pod in seen.workers())
    if (seen.ownership is None and spec.replicas > 0) or seen.foreign_workers:
        return None
    return next_steps(seen.key.name, spec, running, seen.ownership, rebalance_now=balancing)


def _replicas(
    seen: ClusterSnapshot, spec: KubernetesSpec, shards: PlanResult | None, live: Object | None
) -> tuple[int, str]:
    """How many pods there should be now, and why they are more than wanted."""
    name = seen.key.name
    pods = {pod.ordinal for pod in seen.workers()}
    busy = _busy(seen, spec)
    # Without a StatefulSet there may be pods that it has left behind: the new one would take the surplus away at once.
    present = int(live["spec"].get("replicas", 1)) if live is not None else 1 + max(pods | busy, default=-1)
    if present <= spec.replicas:
        return spec.replicas, ""
    surplus = range(spec.replicas, present)
    if shards is None or (spec.replicas > 0 and not seen.fresh):
        unseen = live is not None and _unseen_pods(live, len(pods))
        if not (pods | busy) & set(surplus) and not unseen:
            return spec.replicas, ""
        return present, f"{unknown_owners(seen)}, so no worker is removed"
    staying = [each for each in surplus if each in busy or (each in pods and f"{name}-{each}" not in shards.stop)]
    if not staying:
        return spec.replicas, ""
    return 1 + staying[-1], f"{name}-{staying[-1]} still has shards"


def _busy(seen: ClusterSnapshot, spec: KubernetesSpec) -> set[int]:
    """The ordinals of the workers that own shards, or are to; none where no worker is wanted, which could take them over."""
    if seen.ownership is None or spec.replicas == 0:
        return set()
    named = {*seen.ownership.owners.values(), *seen.ownership.targets.values()}
    ordinals = {ordinal_of(seen.key.name, worker) for worker in named if worker is not None}
    return {ordinal for ordinal in ordinals if ordinal is not None}


def _unseen_pods(live: Object, seen: int) -> bool:
    """Whether the StatefulSet may have pods besides those that were seen: its controller says how many there are."""
    status = live.get("status", {})
    acted = status.get("observedGeneration", 0) >= live["metadata"].get("generation", 1)
    return not acted or int(status.get("replicas", 0)) > seen


# --- whose objects they are


def _foreign(seen: ClusterSnapshot, wanted: RenderInput, objects: Iterable[Object]) -> dict[tuple[str, str], Diagnosis]:
    """By kind and name, the objects that have a child's name and another owner; such an object is never changed."""
    found = {}
    for each in objects:
        live = seen.child(*_place(each))
        if live is None or is_ours(live, wanted):
            continue
        what = f"{each['kind']} {each['metadata']['name']}"
        owner = controller_of(live)
        if owner.get("kind") == "ThreadCluster" and owner.get("name") == wanted.name:
            found[_place(each)] = Diagnosis(
                Reason.AWAITING_GARBAGE_COLLECTION,
                f"{what} belongs to an earlier ThreadCluster of this name, and is being collected. Nothing is to be done.",
            )
            continue
        whose = f"{owner['kind']} {owner['name']}" if owner else "no ThreadCluster"
        found[_place(each)] = Diagnosis(
            Reason.NAME_CONFLICT,
            f"{what} exists and belongs to {whose}. Remedy: rename this ThreadCluster, or delete that object.",
        )
    return found


def _changes(
    seen: ClusterSnapshot, objects: Iterable[Object]
) -> tuple[list[Object], list[tuple[Object, Preconditions]]]:
    """The objects to create, and the objects to change; none that is being deleted."""
    create: list[Object] = []
    apply: list[tuple[Object, Preconditions]] = []
    order = [kind.kind for kind in KINDS]
    for each in sorted(objects, key=lambda each: order.index(each["kind"])):
        live = seen.child(*_place(each))
        if live is None:
            create.append(each)
        elif "deletionTimestamp" not in live["metadata"] and not is_applied(each, live, _answer(seen, each, live)):
            apply.append((each, Preconditions.of(live)))
    return create, apply


def _answer(seen: ClusterSnapshot, wanted: Object, live: Object) -> Object | None:
    """The answer of the API server to the last write of just this object to the one that is there, if an admission rule
    changed it.
    """
    written = seen.written.get(_place(wanted))
    if written is None or written.uid != live["metadata"]["uid"] or written.wanted != digest(wanted):
        return None
    return written.answer


# --- what a new try may mend, sooner than those would try who wait longer each time


def _should_retry_migration(seen: ClusterSnapshot, job: Object, wanted: Object) -> bool:
    """Whether a migration came to nothing some time ago, or for want of a database that is back: another Job may end better."""
    ends = [own_end(pod) for pod in _pods_of(seen, job)]
    if seen.outage is None and ends and all(failed_in_outage(seen, end) for end in ends):
        return True
    if condition(job, "Failed") == "True":
        at = next(each for each in job["status"]["conditions"] if each["type"] == "Failed").get("lastTransitionTime")
        return _since(seen, at) > _RETRY_MIGRATION_S
    pods = _pods_of(seen, job)
    phases = {_phase(pod) for pod in pods}
    if not phases <= {"Pending", "Failed"}:
        return False
    if _is_outdated(job, wanted):  # where its pod runs, for example: the edit may be the remedy
        return True
    if phases == {"Failed"}:  # its next pod waits, twice as long each time
        return min(_since(seen, own_end(pod).get("finishedAt")) for pod in pods) > _STUCK_MIGRATION_S
    waiting = tuple(pod for pod in pods if _phase(pod) == "Pending")
    trouble = diagnose(seen._replace(pods=waiting, children=(job,)))
    stuck = trouble is not None and trouble.reason != Reason.WORKER_UNSCHEDULABLE  # the scheduler waits for nothing
    age_s = _since(seen, job["metadata"].get("creationTimestamp"))
    made_before = seen.headroom_grew_at is not None and age_s > seen.now - seen.headroom_grew_at + CLOCKS_S
    return stuck and (age_s > _STUCK_MIGRATION_S or made_before)


def _is_outdated(job: Object, wanted: Object) -> bool:
    """Whether a Job of the same name was made of another spec; a Job cannot be changed."""
    found = (job["metadata"].get("annotations") or {}).get(APPLIED)
    return found is not None and bool(found != wanted["metadata"]["annotations"][APPLIED])


def _succeeded(seen: ClusterSnapshot, job: Object) -> bool:
    """Whether the migration's own container has succeeded; one beside it may run on, and keep the Job from its end."""
    return any(own_end(pod).get("exitCode") == 0 for pod in _pods_of(seen, job))


def _outlived(seen: ClusterSnapshot, wanted: RenderInput, stateful_set: Object, job: Object) -> bool:
    """Whether a Job that never ends by itself has done its work: the StatefulSet records it, and its pod runs on."""
    if seen.outage is not None:  # the rollout that is the remedy needs to know that the migration succeeded meanwhile
        return False
    runs_on = any(
        own_end(pod).get("exitCode") == 0 and pod["status"].get("phase") == "Running" for pod in _pods_of(seen, job)
    )
    return runs_on and condition(job, "Complete") != "True" and migrated(wanted, stateful_set, None)


def _phase(pod: Object) -> str:
    """The phase of a migration's pod as its own container alone gives it."""
    if own_end(pod).get("exitCode", 0) != 0:
        return "Failed"
    return str(pod["status"]["phase"])


def _pods_refused(seen: ClusterSnapshot, live: Object) -> bool:
    """Whether something refuses workers' pods; the StatefulSet's controller asks less and less often."""
    trouble = diagnose(seen._replace(pods=(), children=(live,)))
    return trouble is not None and trouble.reason in PODS_REFUSED


def _asked_again(seen: ClusterSnapshot) -> str:
    """Another text each half a minute, and when the quotas leave more headroom."""
    turn = str(int(seen.now // _ASK_AGAIN_S))
    return turn if seen.headroom_grew_at is None else f"{turn}-{int(seen.headroom_grew_at)}"


def _pods_of(seen: ClusterSnapshot, job: Object) -> tuple[Object, ...]:
    """Its pods, and not those of an earlier one of its name."""
    return tuple(pod for pod in seen.pods if controller_of(pod).get("uid") == job["metadata"]["uid"])


def _since(seen: ClusterSnapshot, at: str | None) -> float:
    """How many seconds ago that was; none at all when it is not known."""
    return seen.now - datetime.fromisoformat(at).timestamp() if at is not None else 0.0
