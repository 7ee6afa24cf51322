"""The operator's next actions on a cluster on Kubernetes: a pure function of the snapshot.

The function is level-triggered, like `planner`, which plans the shards: the actions follow from the present state alone,
so that a lost action is repeated, and a withdrawn change leaves nothing behind.  Three gates, in this order: a child with
another owner stops every action; an unfinished migration stops the actions that change pods; and no worker is removed or
restarted while the owners of the shards are unknown or a shard has no owner.
"""

from collections.abc import Iterable
from datetime import datetime
from types import MappingProxyType
from typing import Final, NamedTuple

from threadcluster_operator.api import KubernetesSpec
from threadcluster_operator.controller.diagnosis import Diagnosis, Reason, diagnose
from threadcluster_operator.controller.rollout import next_partition, rolled_out
from threadcluster_operator.controller.snapshot import ClusterSnapshot, Object, condition, controller_of, is_ours
from threadcluster_operator.controller.tenant_policy import TenantPolicy
from threadcluster_operator.planning.planner import NewPlan, PlanResult, count_moving, next_steps
from threadcluster_operator.render import (
    KINDS,
    OperatorKeys,
    RenderInput,
    children,
    is_applied,
    migrated,
    migration_job,
    stateful_set,
    to_prune,
)

_SOON_S: Final = 0.5
_MOVING_S: Final = 0.1
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
    apply: tuple[tuple[Object, str], ...] = ()
    """Objects, each with the uid of the one that is there."""
    delete: tuple[Object, ...] = ()
    targets: NewPlan | None = None
    blocked: Diagnosis | None = None
    """The reason that stops every action."""
    migrating: bool = False
    next: PlanResult | None = None
    """The result of the planner of shards; None when the planner did not run."""
    blocked_reason: str = ""
    """Why a worker that is to be removed or restarted still runs; empty when no worker is."""
    settled: bool = False
    """Nothing is to be done, and nothing that was done is still to take effect."""
    requeue_after_s: float = _STEADY_S
    """When to look again, if nothing happens before."""


def plan_actions(seen: ClusterSnapshot, spec: KubernetesSpec, operator: OperatorContext, *, balancing: bool) -> Actions:
    """The next steps; ``balancing`` is `PlanResult.balancing` of the steps before."""
    live_set = seen.child("StatefulSet", seen.key.name)
    shards = _shards(seen, spec, balancing=balancing)
    replicas, blocked_reason = _replicas(seen, spec, shards, live_set)
    wanted = render_input(seen, spec, operator)._replace(replicas=replicas, partition=replicas)
    objects = children(wanted)
    blocked = _foreign(seen, wanted, objects)
    if blocked is not None:
        return Actions(blocked=blocked, next=shards)
    job = migration_job(wanted)
    live_job = seen.child("Job", job["metadata"]["name"])
    ours = live_job if live_job is not None and is_ours(live_job, wanted) else None
    done = migrated(wanted, live_set, ours)
    blocked = None if done else _foreign(seen, wanted, [job])
    if blocked is not None:
        return Actions(blocked=blocked, next=shards)
    if done:
        partition, waits = next_partition(seen, spec, wanted, objects, live_set)
        blocked_reason = blocked_reason or waits
        let_go = stateful_set(wanted._replace(partition=partition))
        if live_set is not None and _pods_refused(seen, live_set):
            let_go["metadata"]["annotations"][ASKED_AGAIN] = str(int(seen.now // _ASK_AGAIN_S))
        objects = [let_go if each["kind"] == "StatefulSet" else each for each in objects]
    else:
        objects = [each for each in objects if each["kind"] != "StatefulSet"]
        if live_job is None:
            objects.append(job)
    create, apply = _changes(seen, objects)
    delete = to_prune(wanted, seen.children, [*objects, job])
    if live_job is not None and not done and _should_retry_migration(seen, live_job):
        delete.append(live_job)
    quiet = not (create or apply or delete)
    targets = shards.plan if shards is not None else None
    under_way = seen.ownership is not None and count_moving(seen.ownership) > 0
    moving = shards is not None and (targets is not None or shards.balancing or under_way)
    settled = (
        quiet
        and done
        and targets is None
        and not blocked_reason
        and live_set is not None
        and rolled_out(seen, spec, live_set)
    )
    return Actions(
        tuple(create),
        tuple(apply),
        tuple(dict(each) for each in delete),
        targets,
        None,
        not done,
        shards,
        blocked_reason,
        settled and (spec.replicas == 0 or (shards is not None and shards.converged)),
        _MOVING_S if moving else _STEADY_S if settled else _SOON_S,
    )


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
    present = int(live["spec"].get("replicas", 1)) if live is not None else 0
    if present <= spec.replicas:
        return spec.replicas, ""
    surplus = [pod for pod in seen.workers() if spec.replicas <= pod.ordinal < present]
    if shards is None:
        if not surplus:
            return spec.replicas, ""
        return present, "no worker reports the owners of the shards, so no worker is removed"
    staying = [pod for pod in surplus if pod.name not in shards.stop]
    if not staying:
        return spec.replicas, ""
    return 1 + max(pod.ordinal for pod in staying), f"{staying[-1].name} still has shards"


# --- whose objects they are


def _foreign(seen: ClusterSnapshot, wanted: RenderInput, objects: Iterable[Object]) -> Diagnosis | None:
    """The diagnosis of an object that has a child's name and another owner; such an object is never changed."""
    for each in objects:
        live = seen.child(each["kind"], each["metadata"]["name"])
        if live is None or is_ours(live, wanted):
            continue
        what = f"{each['kind']} {each['metadata']['name']}"
        owner = controller_of(live)
        if owner.get("kind") == "ThreadCluster" and owner.get("name") == wanted.name:
            return Diagnosis(
                Reason.AWAITING_GARBAGE_COLLECTION,
                f"{what} belongs to an earlier ThreadCluster of this name, and is being collected. Nothing is to be done.",
            )
        whose = f"{owner['kind']} {owner['name']}" if owner else "no ThreadCluster"
        return Diagnosis(
            Reason.NAME_CONFLICT,
            f"{what} exists and belongs to {whose}. Remedy: rename this ThreadCluster, or delete that object.",
        )
    return None


def _changes(seen: ClusterSnapshot, objects: Iterable[Object]) -> tuple[list[Object], list[tuple[Object, str]]]:
    """The objects to create, and the objects to change; none that is being deleted."""
    create: list[Object] = []
    apply: list[tuple[Object, str]] = []
    order = [kind.kind for kind in KINDS]
    for each in sorted(objects, key=lambda each: order.index(each["kind"])):
        live = seen.child(each["kind"], each["metadata"]["name"])
        if live is None:
            create.append(each)
        elif "deletionTimestamp" not in live["metadata"] and not is_applied(each, live):
            apply.append((each, str(live["metadata"]["uid"])))
    return create, apply


# --- what a new try may mend, sooner than those would try who wait longer each time


def _should_retry_migration(seen: ClusterSnapshot, job: Object) -> bool:
    """Whether a migration came to nothing some time ago: another Job may end better."""
    if condition(job, "Failed") == "True":
        at = next(each for each in job["status"]["conditions"] if each["type"] == "Failed").get("lastTransitionTime")
        return _since(seen, at) > _RETRY_MIGRATION_S
    pods = _pods_of(seen, job)
    phases = {pod.get("status", {}).get("phase") for pod in pods}
    if not phases <= {"Pending", "Failed"}:
        return False
    if phases == {"Failed"}:  # its next pod waits, twice as long each time
        return min(_since(seen, at) for pod in pods for at in _ends(pod)) > _STUCK_MIGRATION_S
    waiting = tuple(pod for pod in pods if pod["status"]["phase"] == "Pending")
    trouble = diagnose(seen._replace(pods=waiting, children=(job,)))
    stuck = trouble is not None and trouble.reason != Reason.WORKER_UNSCHEDULABLE  # the scheduler waits for nothing
    return stuck and _since(seen, job["metadata"].get("creationTimestamp")) > _STUCK_MIGRATION_S


def _pods_refused(seen: ClusterSnapshot, live: Object) -> bool:
    """Whether a quota or a rule refuses workers' pods; the StatefulSet's controller asks less and less often."""
    trouble = diagnose(seen._replace(pods=(), children=(live,)))
    return trouble is not None and trouble.reason in (Reason.QUOTA_EXCEEDED, Reason.FORBIDDEN)


def _pods_of(seen: ClusterSnapshot, job: Object) -> tuple[Object, ...]:
    """Its pods, and not those of an earlier one of its name."""
    return tuple(pod for pod in seen.pods if controller_of(pod).get("uid") == job["metadata"]["uid"])


def _ends(pod: Object) -> list[str | None]:
    """When its containers ended; an unknown time is now."""
    containers = pod["status"].get("containerStatuses", ())
    return [each.get("state", {}).get("terminated", {}).get("finishedAt") for each in containers] or [None]


def _since(seen: ClusterSnapshot, at: str | None) -> float:
    """How many seconds ago that was; none at all when it is not known."""
    return seen.now - datetime.fromisoformat(at).timestamp() if at is not None else 0.0
