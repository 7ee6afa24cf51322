"""The rolling update of the workers, one ordinal at a time: pure.

No worker is restarted while another one that has the new template is not ready, while the owners of the shards are
unknown, or while a shard has no owner.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from threadcluster_operator.api import KubernetesSpec
from threadcluster_operator.controller.diagnosis import CLOCKS_S, own_end
from threadcluster_operator.controller.snapshot import ClusterSnapshot, Object, Pod
from threadcluster_operator.render import TEMPLATE, RenderInput, is_applied

ROLLING: Final = "RolloutInProgress"
"""The reason of the condition Ready while a rollout goes on."""


def next_partition(
    seen: ClusterSnapshot, spec: KubernetesSpec, wanted: RenderInput, objects: Iterable[Object], live: Object | None
) -> tuple[int, str]:
    """From which ordinal on pods run the newest template, and why the next one does not yet.

    A new template comes with all ordinals held back; then one after the other, from the highest, is let go.  No more than one
    is ever let go beyond those that were: with `maxUnavailable` open, all of them would restart at once.
    """
    parked = wanted.replicas
    stateful_set = next(each for each in objects if each["kind"] == "StatefulSet")
    if live is None or not _template_arrived(stateful_set, live):
        return parked, ""
    status, present = live.get("status", {}), _present_partition(live)
    if status.get("observedGeneration", 0) < live["metadata"].get("generation", 1):
        return min(present, parked), "the StatefulSet's controller has not acted yet"
    newest = status.get("updateRevision", "")
    workers = [pod for pod in seen.workers() if pod.ordinal < wanted.replicas]
    old = [pod for pod in workers if pod.revision != newest]
    if not old:
        return (parked if status.get("currentRevision", newest) == newest else 0), ""
    if spec.rollout.paused:
        return min(present, parked), "spec.rollout.paused is true"
    waits = _rollout_blocker(seen, workers, newest)
    following = old[-1].ordinal
    if waits and following < present:
        return min(present, parked), waits
    return following, ""


def _template_arrived(stateful_set: Object, live: Object) -> bool:
    """Whether the live object was made from this template: the API server took it, whatever an admission rule made of it."""
    wanted, found = stateful_set["metadata"]["annotations"][TEMPLATE], live["metadata"].get("annotations") or {}
    return found.get(TEMPLATE) == wanted or is_applied({"spec": {"template": stateful_set["spec"]["template"]}}, live)


def _present_partition(live: Object) -> int:
    return int(live["spec"].get("updateStrategy", {}).get("rollingUpdate", {}).get("partition", 0))


def _rollout_blocker(seen: ClusterSnapshot, workers: Iterable[Pod], newest: str) -> str:
    """Why no further worker may be restarted now; empty when one may.

    A worker with the old template that is not ready blocks no restart: the new template may be the remedy.
    """
    for pod in workers:
        if pod.ending:
            return f"{pod.name} is being restarted"
        if pod.revision == newest and not pod.ready:
            return f"{pod.name} is not ready yet"
    if any(pod.ready for pod in workers) and not _migrated_during(seen):
        if seen.ownership is None or not seen.fresh:
            return f"{unknown_owners(seen)}, so no worker is restarted"
        unserved = sum(1 for owner in seen.ownership.owners.values() if owner is None)
        if unserved:
            return f"shards without an owner: {unserved}"
    return ""


def unknown_owners(seen: ClusterSnapshot) -> str:
    """Why the owners of the shards are unknown, for people."""
    if seen.outage is not None:
        return f"no worker has its database ({seen.outage.reason})"
    if seen.ownership is None:
        return "no worker reports the owners of the shards"
    return "the last report of the owners of the shards is too old"


def _migrated_during(seen: ClusterSnapshot) -> bool:
    """Whether a migration succeeded while no worker had its database: the new template leads to a database that is there.

    Such a template is the remedy, for which a rollout must not wait: the spec names another Secret, or an authority.
    """
    if seen.outage is None:
        return False
    ends = [job.get("status", {}).get("completionTime") for job in seen.children if job["kind"] == "Job"]
    # A container beside the migration's own keeps its Job from its end.
    own_ends = [own_end(pod) for pod in seen.pods]
    ends += [end.get("finishedAt") for end in own_ends if end.get("exitCode") == 0]
    return any(at and datetime.fromisoformat(at).timestamp() > seen.outage.since + CLOCKS_S for at in ends)


def is_rolling_out(seen: ClusterSnapshot, live: Object, apply: Iterable[Object]) -> bool:
    """Whether the rollout of the wanted template goes on; ``apply`` has the objects that are still to be applied.

    It begins when the StatefulSet's controller knows the template.  When every worker has it, the last write of the rollout
    holds all ordinals back again: that the rollout goes on until the controller has seen this write too, the status before
    shows.
    """
    sets = [each for each in apply if each["kind"] == "StatefulSet"]
    if not all(_template_arrived(each, live) for each in sets):
        return False
    status = live.get("status", {})
    newest = status.get("updateRevision")
    if status.get("currentRevision") != newest or any(pod.revision != newest for pod in seen.workers()):
        return newest is not None
    acted = status.get("observedGeneration", 0) >= live["metadata"].get("generation", 1)
    return _was_rolling_out(seen) and (bool(sets) or not acted)


def _was_rolling_out(seen: ClusterSnapshot) -> bool:
    """Whether the last status says that this generation was being rolled out."""
    conditions = (seen.resource.get("status") or {}).get("conditions", ())
    return any(
        each["type"] == "Ready" and (each["reason"], each.get("observedGeneration")) == (ROLLING, seen.generation)
        for each in conditions
    )


def rolled_out(seen: ClusterSnapshot, spec: KubernetesSpec, live: Object) -> bool:
    """Whether what was applied last has taken effect on every pod."""
    status = live.get("status", {})
    workers = seen.workers()
    return (
        status.get("observedGeneration", 0) >= live["metadata"].get("generation", 1)
        and status.get("currentRevision") == status.get("updateRevision")
        and len(workers) == spec.replicas
        and all(pod.ready and pod.revision == status.get("updateRevision") for pod in workers)
    )
