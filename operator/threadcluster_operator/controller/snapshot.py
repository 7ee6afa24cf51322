"""The snapshot of one cluster: values that the reconciler gathers, from which every decision follows.

A snapshot may be slightly stale, and parts of it may contradict each other.  A decision waits where a value is unknown,
and a write carries the uid of the object in the snapshot.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from threadcluster_operator.planning.freshness import Outage, Silence
from threadcluster_operator.planning.planner import ShardOwnership
from threadcluster_operator.render import RenderInput, SecretState, SecretValue, selector_of

Object = dict[str, Any]  # a Kubernetes object; JSON has no narrower type

NO_OBJECT: Object = {}


class Key(NamedTuple):
    """Which cluster."""

    namespace: str
    name: str


class Pod(NamedTuple):
    """A worker's pod, as far as it matters here."""

    name: str
    ordinal: int
    revision: str
    ready: bool
    ending: bool
    """It is being deleted."""
    starting: bool
    """It has a node, and nothing says that it will not become a worker."""
    address: str | None


class Written(NamedTuple):
    """The answer of the API server to the last write of a child, which an admission rule has changed."""

    uid: str
    wanted: str
    """The hash of what was written."""
    answer: Object
    fields: tuple[str, ...]
    """Where the two differ."""


NOTHING_WRITTEN: Final[Mapping[tuple[str, str], Written]] = MappingProxyType({})


class ClusterSnapshot(NamedTuple):
    """One cluster at a moment."""

    resource: Object
    children: tuple[Object, ...]
    """Every object with the cluster's labels, and every object with the name of a child, with any owner."""
    pods: tuple[Object, ...]
    """All pods of the cluster (`members`), the migration's as well."""
    warnings: tuple[Object, ...]
    """Kubernetes' own Events about the cluster's objects."""
    ownership: ShardOwnership | None
    """None while no worker reports the owners of the shards."""
    secret: str | None
    """The values in the Secret `<name>-internal`, a line each; None while they are not known."""
    now: float
    """In seconds since the epoch, by the operator's clock."""
    outage: Outage | None = None
    """Set while the owners are unknown because no worker has its database; its times are as ``now``."""
    fresh: bool = True
    """Whether ``ownership`` is new enough to remove or restart a worker."""
    written: Mapping[tuple[str, str], Written] = NOTHING_WRITTEN
    """By kind and name, the children that an admission rule changed when they were written."""
    secret_state: SecretState | None = None
    """The record of the Secrets in the status; None for a cluster that has none yet."""
    secret_confirmed: bool = False
    """Whether every worker holds just the values of ``secret``."""
    claimed_by_other: str = ""
    """Why the database belongs to another cluster, in a worker's words; empty while no worker says so."""
    foreign_workers: tuple[str, ...] = ()
    """Workers that live in the cluster's database, by their beats, and can be none of this cluster."""
    silent: Mapping[str, Silence] = MappingProxyType({})
    """Workers of ready pods of which no answer counts; the times are as ``now``."""
    headroom_grew_at: float | None = None
    """When the quotas that refuse pods of the cluster left more headroom, as ``now``; None while none refuses any."""

    @property
    def key(self) -> Key:
        """Which cluster it is."""
        return Key(self.resource["metadata"]["namespace"], self.resource["metadata"]["name"])

    @property
    def generation(self) -> int:
        """Which edition of the spec this is about."""
        return int(self.resource["metadata"].get("generation", 1))

    def child(self, kind: str, name: str) -> Object | None:
        """The object of this kind and name, with any owner."""
        for each in self.children:
            if each["kind"] == kind and each["metadata"]["name"] == name:
                return each
        return None

    def workers(self) -> tuple[Pod, ...]:
        """The workers' pods, in the order of their ordinals."""
        labels = selector_of(self.key.name, "worker")
        found = [pod_of(each) for each in self.pods if _has(each, labels)]
        return tuple(sorted((pod for pod in found if pod.ordinal >= 0), key=lambda pod: pod.ordinal))


def members(name: str, children: Iterable[Object], pods: Iterable[Object]) -> tuple[Object, ...]:
    """The pods that belong to the cluster ``name``, of those with its labels.

    Labels are anyone's to write.  A pod belongs to a cluster when one of the cluster's objects controls it; a worker is
    named by its StatefulSet, too.  While there is no StatefulSet, the workers that it has left behind, which the next
    one takes over, belong to the cluster by their names.
    """
    kinds = {each["metadata"].get("uid"): each["kind"] for each in children}
    orphans = "StatefulSet" not in kinds.values()

    def belongs(pod: Object) -> bool:
        controller = controller_of(pod)
        kind = kinds.get(controller.get("uid")) if controller else "StatefulSet" if orphans else None
        return kind == "Job" or (kind == "StatefulSet" and ordinal_of(name, pod["metadata"]["name"]) is not None)

    return tuple(pod for pod in pods if belongs(pod))


def ordinal_of(cluster: str, worker: str) -> int | None:
    """The number of a cluster's worker, from its name; None for a name that no worker of it has."""
    head, _, ordinal = worker.rpartition("-")
    return int(ordinal) if head == cluster and ordinal.isascii() and ordinal.isdecimal() else None


def secret_state_of(resource: Object) -> SecretState | None:
    """The record of the Secrets in the status of a ThreadCluster; None where there is none."""
    found = (resource.get("status") or {}).get("secret")
    if found is None:
        return None
    values = tuple(SecretValue(each["generation"], each["operatorKey"]) for each in found["values"])
    return SecretState(values, bool(found.get("made")))


def pod_of(pod: Object) -> Pod:
    """A worker's pod."""
    meta, status = pod["metadata"], pod.get("status", {})
    name = meta["name"]
    _, _, ordinal = name.rpartition("-")
    containers = status.get("containerStatuses", ())
    ending = "deletionTimestamp" in meta
    return Pod(
        name,
        int(ordinal) if ordinal.isdecimal() else -1,
        meta.get("labels", {}).get("controller-revision-hash", ""),
        not ending and condition(pod, "Ready") == "True",
        ending,
        not ending
        and "nodeName" in pod.get("spec", {})
        and not any(_fails(each) for each in containers)
        and not any(_fails(each) and not each.get("ready") for each in status.get("initContainerStatuses", ())),
        status.get("podIP"),
    )


def waiting_reason(container: Mapping[str, Any]) -> str:
    """Why a container does not run, in the kubelet's word; empty when it runs or is about to."""
    return str(container.get("state", {}).get("waiting", {}).get("reason", ""))


def _fails(container: Mapping[str, Any]) -> bool:
    return container.get("restartCount", 0) > 0 or waiting_reason(container) not in (
        "",
        "ContainerCreating",
        "PodInitializing",
    )


def condition(subject: Mapping[str, Any], name: str) -> str:
    """The status of one of an object's conditions: True, False, Unknown, or empty where there is none."""
    for each in subject.get("status", {}).get("conditions", ()):
        if each["type"] == name:
            return str(each["status"])
    return ""


def controller_of(subject: Mapping[str, Any]) -> Object:
    """The owner reference of an object's controller; empty where there is none."""
    for owner in subject["metadata"].get("ownerReferences", ()):
        if owner.get("controller"):
            return dict(owner)
    return NO_OBJECT


def is_ours(subject: Mapping[str, Any], wanted: RenderInput) -> bool:
    """Whether an object is a child of just this ThreadCluster."""
    return controller_of(subject).get("uid") == wanted.uid


def _has(subject: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    found = subject["metadata"].get("labels") or {}
    return all(found.get(name) == value for name, value in labels.items())
