"""The status of a cluster, as a pure function of the snapshot and of the actions that follow from it.

``Ready`` is true only when the generation that is meant was acted on, everything of it has taken effect, every worker is
ready and serves its share.  Nothing here changes by itself: no clocks but the time of a transition, and no rates.  The
imbalance by load is computed when something else of the status changes, so that a cluster at rest is never written to,
however its load changes.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple

from shard_worker.contract import url_host
from shard_worker.contract_internal import NO_CAPABLE_WORKER
from threadcluster_operator.api import KubernetesSpec
from threadcluster_operator.controller.actions import Actions
from threadcluster_operator.controller.diagnosis import Diagnosis, outage_diagnosis, wait_of
from threadcluster_operator.controller.rollout import ROLLING, is_rolling_out
from threadcluster_operator.controller.snapshot import ClusterSnapshot, Object, Pod
from threadcluster_operator.planning.placement import Worker
from threadcluster_operator.planning.planner import PlanResult, ShardOwnership, count_moving
from threadcluster_operator.render import selector_of

Truth = Literal["True", "False", "Unknown"]

_MESSAGE_MOST: Final = 1024
_PROGRESS: Final[Mapping[str, str]] = {
    "CreatingWorkers": "Workers are created, or become ready.",
    "Migrating": "The database's schema is being migrated.",
    "RollingOut": "Workers are restarted, one by one.",
    "ScalingDown": "Surplus workers hand their shards over, and go.",
    "ScalingUp": "More workers are starting.",
    "MovingShards": "Shards are moving to other workers.",
}
"""By the reason of Progressing; Ready says more of what is waited for."""


class ConditionDraft(NamedTuple):
    """One condition, without its times."""

    type: str
    status: Truth
    reason: str
    message: str


def status_of(
    seen: ClusterSnapshot,
    spec: KubernetesSpec | None,
    steps: Actions,
    trouble: Diagnosis | None,
    wait: Diagnosis | None = None,
) -> dict[str, Any]:  # JSON
    """The whole status.  Without a ``spec`` only the conditions are new: the rest follows from the spec.

    A ``trouble`` makes the cluster Stalled; a ``wait``, which often ends by itself, only names why it is not Ready.
    """
    before: Mapping[str, Any] = seen.resource.get("status") or {}
    if spec is None:
        drafts = _conditions(seen, None, steps, trouble, wait)
        kept = {name: value for name, value in before.items() if name != "conditions"}
        return {
            **kept,
            "observedGeneration": seen.generation,
            "conditions": _with_timestamps(seen, drafts, before.get("conditions") or ()),
        }
    pods = seen.workers()
    live = seen.child("StatefulSet", seen.key.name) or {}
    newest = live.get("status", {}).get("updateRevision")
    observed, placed = seen.ownership, steps.next
    ready = sum(1 for pod in pods if pod.ready)
    status: dict[str, Any] = {
        "observedGeneration": seen.generation,
        "desiredReplicas": spec.replicas,
        "replicas": len(pods),
        "readyReplicas": ready,
        "readyWorkers": f"{ready}/{spec.replicas}",
        "updatedReplicas": sum(1 for pod in pods if newest is not None and pod.revision == newest),
        "selector": ",".join(f"{name}={value}" for name, value in selector_of(seen.key.name, "worker").items()),
        "image": spec.image,
        "endpoint": _endpoint(seen, spec),
        "workers": [_worker(pod, observed) for pod in pods],
    }
    if seen.secret_state is not None:
        values = [
            {"generation": each.generation, "operatorKey": each.operator_key} for each in seen.secret_state.values
        ]
        status["secret"] = {"values": values, "made": seen.secret_state.made}
    if observed is not None:
        assigned = sum(1 for owner in observed.owners.values() if owner is not None)
        status["shards"] = {
            "total": len(observed.owners),
            "assigned": assigned,
            "moving": count_moving(observed),
        }
    elif "shards" in before:
        status["shards"] = before["shards"]
    else:
        status["shards"] = {"total": spec.shards, "assigned": 0, "moving": 0, "imbalancePercent": 0}
    if placed is not None and placed.plan is not None:
        status["plan"] = {"hash": placed.plan.hash, "pendingMoves": placed.plan.moves}
    elif observed is not None:
        status["plan"] = {"hash": (before.get("plan") or {}).get("hash", ""), "pendingMoves": count_moving(observed)}
    drafts = _conditions(seen, spec, steps, trouble, wait)
    status["conditions"] = _with_timestamps(seen, drafts, before.get("conditions") or ())
    if observed is not None:  # last: by load it follows the changes of everything else
        status["shards"]["imbalancePercent"] = _imbalance_percent(spec, status, before, placed)
    return status


def patch_of(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> dict[str, Any]:  # JSON
    """A merge patch from one status to the other; empty when they are the same."""
    old = before or {}
    changed = {name: value for name, value in after.items() if old.get(name) != value}
    return changed | {name: None for name in old if name not in after}


def ranges(shards: Iterable[int]) -> str:
    """Numbers as ranges: ``0-3,7``."""
    parts: list[list[int]] = []
    for shard in sorted(shards):
        if parts and parts[-1][1] == shard - 1:
            parts[-1][1] = shard
        else:
            parts.append([shard, shard])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in parts)


# --- conditions


def _conditions(
    seen: ClusterSnapshot,
    spec: KubernetesSpec | None,
    steps: Actions,
    trouble: Diagnosis | None,
    wait: Diagnosis | None,
) -> list[ConditionDraft]:
    stalled = steps.blocked or trouble
    ready = _ready(seen, spec, steps, stalled, wait)
    return [
        ready,
        _available(seen, spec, steps),
        _protected(seen),
        _progressing(seen, spec, steps, ready),
        ConditionDraft("Stalled", "False", "NotStalled", "Nothing blocks the cluster.")
        if stalled is None
        else ConditionDraft("Stalled", "True", stalled.reason, stalled.message),
        _draining(seen, steps),
        _autoscaling(spec),
        _paused(spec),
    ]


def _ready(
    seen: ClusterSnapshot,
    spec: KubernetesSpec | None,
    steps: Actions,
    stalled: Diagnosis | None,
    wait: Diagnosis | None,
) -> ConditionDraft:
    outage = outage_diagnosis(seen)
    if outage is not None and (stalled is None or stalled.reason == outage.reason):
        return ConditionDraft(
            "Ready", "False", outage.reason, outage.message
        )  # in the same word from the first second on
    if stalled is not None:
        return ConditionDraft("Ready", "False", "Stalled", stalled.message)
    assert spec is not None  # a spec that is not understood stalls
    if spec.paused:
        return ConditionDraft("Ready", "False", "Paused", "spec.paused is true: nothing is changed.")
    if steps.settled:
        if spec.replicas == 0:
            return ConditionDraft("Ready", "True", "ScaledToZero", "No worker is wanted; the data stays.")
        return ConditionDraft("Ready", "True", "Reconciled", "Every worker is as wanted, and serves its share.")
    if wait is not None:
        return ConditionDraft("Ready", "False", wait.reason, wait.message)
    return _unsettled(seen, spec, steps)


def _unsettled(seen: ClusterSnapshot, spec: KubernetesSpec, steps: Actions) -> ConditionDraft:
    """Why a cluster that nothing hinders is not ready yet.

    A rollout is one reason from its first restart to its end, whatever the operator and the StatefulSet's controller write in
    between to let one ordinal go after the other.
    """
    pods = seen.workers()
    live = seen.child("StatefulSet", seen.key.name)
    pending = _pending(seen, steps, live)
    rolling = live is not None and not steps.migrating and is_rolling_out(seen, live, (body for body, _ in steps.apply))
    if pending and not rolling:
        return ConditionDraft("Ready", "False", "GenerationPending", pending)
    unreadable = _unreadable(steps)
    if unreadable:
        return ConditionDraft("Ready", "False", NO_CAPABLE_WORKER, unreadable)
    waiting = [_not_ready(seen, pod) for pod in pods if not pod.ready]
    not_ready = f"Not ready: {', '.join(waiting)}." if waiting else ""
    if rolling:
        waits = f" It waits: {steps.blocked_reason}." if steps.blocked_reason else ""
        message = f"Workers are restarted, one by one.{waits} {not_ready}".rstrip()
        return ConditionDraft("Ready", "False", ROLLING, message)
    if len(pods) != spec.replicas:
        waits = f" It waits: {steps.blocked_reason}." if steps.blocked_reason else ""
        return ConditionDraft(
            "Ready", "False", "ScaleInProgress", f"{len(pods)} workers, and {spec.replicas} are wanted.{waits}"
        )
    if waiting:
        return ConditionDraft("Ready", "False", "WorkersNotReady", not_ready)
    return ConditionDraft("Ready", "False", "ShardsUnserved", "Not every shard is served where it belongs.")


def _pending(seen: ClusterSnapshot, steps: Actions, live: Object | None) -> str:
    """The part of this generation that has not taken effect on the objects yet; empty where all of it has."""
    if live is None or steps.migrating or steps.create or steps.apply or steps.delete:
        return f"The objects of this generation are being applied.{_migration_waits(seen) if steps.migrating else ''}"
    if live.get("status", {}).get("observedGeneration", 0) < live["metadata"].get("generation", 1):
        return "The StatefulSet's controller has not acted yet."
    return ""


def _not_ready(seen: ClusterSnapshot, worker: Pod) -> str:
    """A worker that is not ready, with what it waits for."""
    waits = [wait for pod in seen.pods if pod["metadata"]["name"] == worker.name and (wait := wait_of(pod))]
    return f"{worker.name} ({waits[0]})" if waits else worker.name


def _migration_waits(seen: ClusterSnapshot) -> str:
    """The wait of the migration's pod, for a message."""
    labels = selector_of(seen.key.name, "migration")
    for pod in seen.pods:
        if pod["metadata"].get("labels", {}).items() >= labels.items() and (wait := wait_of(pod)):
            return f" Pod {pod['metadata']['name']}: {wait}."
    return ""


def _unreadable(steps: Actions) -> str:
    """The remedy for shards whose journal format no eligible worker reads; empty where there are none."""
    shards = steps.next.unreadable if steps.next is not None else ()
    if not shards:
        return ""
    return (
        f"No worker that may get them reads the journal format of shards {ranges(shards)}: set spec.image to the release"
        " that wrote it, or a newer one."
    )


def _available(seen: ClusterSnapshot, spec: KubernetesSpec | None, steps: Actions) -> ConditionDraft:
    observed = seen.ownership
    if spec is not None and spec.replicas == 0 and not seen.workers():
        return ConditionDraft("Available", "False", "ScaledToZero", "No worker is wanted.")
    outage = outage_diagnosis(seen)
    if outage is not None:
        return ConditionDraft("Available", "False", outage.reason, outage.message)
    if observed is None:
        return ConditionDraft("Available", "Unknown", "OwnershipUnknown", "No worker says who owns what.")
    unowned = [shard for shard, owner in observed.owners.items() if owner is None]
    if unowned:
        unreadable = _unreadable(steps)
        if unreadable:
            return ConditionDraft("Available", "False", NO_CAPABLE_WORKER, unreadable)
        return ConditionDraft("Available", "False", "ShardsUnassigned", f"Shards without an owner: {ranges(unowned)}.")
    recovering = [
        shard for shard, owner in observed.owners.items() if shard not in observed.serving.get(owner or "", frozenset())
    ]
    if recovering:
        return ConditionDraft(
            "Available", "False", "ShardsRecovering", f"Not served yet by their owners: {ranges(recovering)}."
        )
    return ConditionDraft("Available", "True", "AllShardsServed", "Every shard is served by its owner.")


def _protected(seen: ClusterSnapshot) -> ConditionDraft:
    """Whether the workers' login may append to the journal and no more."""
    observed = seen.ownership
    if observed is None:
        return ConditionDraft(
            "JournalProtected", "Unknown", "OwnershipUnknown", "No worker says what its login may do."
        )
    if observed.excess_privileges:
        rights = sorted({right for each in observed.excess_privileges.values() for right in each})
        return ConditionDraft(
            "JournalProtected",
            "False",
            "ExcessPrivileges",
            f"The login of {', '.join(sorted(observed.excess_privileges))} may {', '.join(rights)} the journal. Remedy: give"
            " it the role threadcluster_worker alone, and name the login that owns the schema in"
            " spec.database.migrationURLSecretKeyRef.",
        )
    return ConditionDraft(
        "JournalProtected",
        "True",
        "AppendOnly",
        "The workers' login may append to the journal, and change nothing in it.",
    )


def _progressing(
    seen: ClusterSnapshot, spec: KubernetesSpec | None, steps: Actions, ready: ConditionDraft
) -> ConditionDraft:
    if spec is None or steps.settled or steps.blocked is not None or ready.reason == "Paused":
        return _rebuilding(seen)
    pods = seen.workers()
    live = seen.child("StatefulSet", seen.key.name)
    reason = "CreatingWorkers"
    if steps.migrating:
        reason = "Migrating"
    elif ready.reason == ROLLING:
        reason = "RollingOut"
    elif live is not None and len(pods) > spec.replicas:
        reason = "ScalingDown"
    elif live is not None and len(pods) < spec.replicas and any(pod.ready for pod in pods):
        reason = "ScalingUp"
    elif steps.targets is not None or (seen.ownership is not None and count_moving(seen.ownership)):
        reason = "MovingShards"
    return ConditionDraft("Progressing", "True", reason, _PROGRESS[reason])


def _rebuilding(seen: ClusterSnapshot) -> ConditionDraft:
    """Where nothing of the spec is being put into effect: whether the workers fill new tables of the read model.

    A rebuild is begun by a command, and queries are answered meanwhile: it makes nothing unready.
    """
    rebuild = seen.ownership.rebuild if seen.ownership is not None else None
    if rebuild is None:
        return ConditionDraft("Progressing", "False", "Stable", "Nothing is being changed.")
    return ConditionDraft(
        "Progressing",
        "True",
        "RebuildingReadModel",
        f"Generation {rebuild.generation} of the read model, of version {rebuild.version}: {rebuild.shards_done} of"
        f" {rebuild.shards} shards are filled.",
    )


def _draining(seen: ClusterSnapshot, steps: Actions) -> ConditionDraft:
    observed = seen.ownership
    workers = observed.workers.values() if observed is not None else ()
    owners = set(observed.owners.values()) if observed is not None else set()
    busy = [worker for worker in workers if worker.name in owners]
    leaving = [worker.name for worker in busy if worker.leaving]
    if leaving:
        return ConditionDraft("Draining", "True", "Leaving", f"Hand their shards over: {', '.join(leaving)}.")
    surplus = [worker.name for worker in busy if worker.draining]
    if surplus:
        return ConditionDraft("Draining", "True", "Cordoned", f"Are being drained: {', '.join(surplus)}.")
    if "still has shards" in steps.blocked_reason:
        return ConditionDraft("Draining", "True", "ScaleDown", f"{steps.blocked_reason}.")
    return ConditionDraft("Draining", "False", "Idle", "No worker is being drained.")


def _autoscaling(spec: KubernetesSpec | None) -> ConditionDraft:
    if spec is None or spec.autoscaling is None:
        return ConditionDraft("AutoscalingActive", "False", "Disabled", "spec.autoscaling is not set.")
    return ConditionDraft(
        "AutoscalingActive", "False", "Disabled", "This release does not scale by itself yet; spec.replicas counts."
    )


def _paused(spec: KubernetesSpec | None) -> ConditionDraft:
    if spec is not None and spec.paused:
        return ConditionDraft("Paused", "True", "ClusterPaused", "spec.paused is true: nothing is changed.")
    if spec is not None and spec.rollout.paused:
        return ConditionDraft("Paused", "True", "RolloutPaused", "spec.rollout.paused is true: no worker is restarted.")
    if spec is not None and spec.rebalance.mode == "Paused":
        return ConditionDraft("Paused", "True", "RebalancePaused", "spec.rebalance.mode is Paused: no shard is moved.")
    return ConditionDraft("Paused", "False", "NotPaused", "Nothing is paused.")


def _with_timestamps(
    seen: ClusterSnapshot, drafts: Iterable[ConditionDraft], before: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Conditions with their times: a transition is a change of status, not of reason."""
    known = {each["type"]: each for each in before}
    now = datetime.fromtimestamp(seen.now, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    dated = []
    for each in drafts:
        old = known.get(each.type)
        same = old is not None and old["status"] == each.status
        dated.append(
            {
                "type": each.type,
                "status": each.status,
                "reason": str(each.reason),
                "message": each.message[:_MESSAGE_MOST],
                "lastTransitionTime": old["lastTransitionTime"] if same and old is not None else now,
                "observedGeneration": seen.generation,
            }
        )
    return dated


# --- workers and shards


def _worker(pod: Pod, observed: ShardOwnership | None) -> dict[str, Any]:
    known = observed.workers.get(pod.name) if observed is not None else None
    owned = [shard for shard, owner in observed.owners.items() if owner == pod.name] if observed is not None else []
    return {
        "name": pod.name,
        "state": _state(pod, known),
        "revision": pod.revision,
        "shards": ranges(owned),
        "cordoned": known.cordoned if known is not None else False,
    }


def _state(pod: Pod, known: Worker | None) -> str:
    if pod.ending or (known is not None and known.leaving):
        return "Leaving"
    if not pod.ready:
        return "Starting" if pod.starting else "NotReady"
    if known is not None and known.draining:
        return "Draining"
    return "Ready"


def _imbalance_percent(
    spec: KubernetesSpec, status: Mapping[str, Any], before: Mapping[str, Any], placed: PlanResult | None
) -> int:
    """The imbalance, without decimals.  By load it is that of the last change of the rest of the status."""
    shown = before.get("shards") or {}
    if spec.rebalance.strategy == "Load" and "imbalancePercent" in shown:
        rest = {name: value for name, value in shown.items() if name != "imbalancePercent"}
        if status == {**{name: before.get(name) for name in status}, "shards": rest}:
            return int(shown["imbalancePercent"])
    return round(placed.imbalance_percent) if placed is not None else 0


def _endpoint(seen: ClusterSnapshot, spec: KubernetesSpec) -> str:
    given = spec.gateway.ingress
    if given is not None and given.host is not None:
        return f"{'https' if given.tls_secret_name else 'http'}://{given.host}"
    port = spec.gateway.service.port
    name, namespace = seen.key.name, seen.key.namespace
    service = seen.child("Service", name) or {}
    for each in service.get("status", {}).get("loadBalancer", {}).get("ingress", ()):
        host = each.get("hostname") or each.get("ip")
        if host:
            host = url_host(host)
            return f"http://{host}" if port == 80 else f"http://{host}:{port}"
    host = f"{name}.{namespace}.svc"
    return f"http://{host}" if port == 80 else f"http://{host}:{port}"
