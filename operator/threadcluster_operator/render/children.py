"""All objects of a cluster, in order; and which of those that there are should go."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from threadcluster_operator.render import network, stateful_set
from threadcluster_operator.render.inputs import RenderInput
from threadcluster_operator.render.objects import Object
from threadcluster_operator.render.service_monitor import service_monitor


class Kind(NamedTuple):
    """A kind of object, as the API knows it."""

    api_version: str
    kind: str
    plural: str


KINDS: Final = (
    Kind("v1", "Secret", "secrets"),
    Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    Kind("batch/v1", "Job", "jobs"),
    Kind("v1", "Service", "services"),
    Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    Kind("apps/v1", "StatefulSet", "statefulsets"),
    Kind("networking.k8s.io/v1", "Ingress", "ingresses"),
    Kind("monitoring.coreos.com/v1", "ServiceMonitor", "servicemonitors"),
)
"""The kinds of the children, in the order in which they are applied: an object comes after those it refers to."""

_PRUNED: Final = frozenset({"NetworkPolicy", "Job", "Ingress", "ServiceMonitor"})
"""Kinds that may be pruned while the cluster exists; the others are deleted together with the cluster."""


def children(wanted: RenderInput) -> list[Object]:
    """Every object of the cluster but its migration's Job and its Secrets, in the order of `KINDS`."""
    made = (
        network.network_policy(wanted),
        network.headless_service(wanted),
        network.gateway_service(wanted),
        stateful_set.disruption_budget(wanted),
        stateful_set.stateful_set(wanted),
        network.ingress(wanted),
        service_monitor(wanted),
    )
    return [each for each in made if each is not None]


def to_prune(
    wanted: RenderInput, live: Iterable[Mapping[str, Any]], kept: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Those of the live objects that this cluster owns and that should be deleted: what is not among the ``kept``.

    An object that is already being deleted is never among them, nor an object with another owner.
    """
    names = {(each["kind"], each["metadata"]["name"]) for each in kept}
    return [
        each
        for each in live
        if each["kind"] in _PRUNED
        and (each["kind"], each["metadata"]["name"]) not in names
        and "deletionTimestamp" not in each["metadata"]
        and any(
            owner["uid"] == wanted.uid and owner.get("controller")
            for owner in each["metadata"].get("ownerReferences", ())
        )
    ]


def kind_of(given: Mapping[str, Any]) -> Kind:
    """The kind of a child."""
    return next(kind for kind in KINDS if (kind.api_version, kind.kind) == (given["apiVersion"], given["kind"]))
