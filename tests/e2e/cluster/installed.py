"""The parts that tests install: the operator's account and rights, in each of its ways, and the Prometheus operator's kind."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from tests.e2e.cluster.harness import SERVICE_MONITORS
from tests.e2e.cluster.manifests import MANIFESTS, kustomized
from tests.support.kube_api import Api, Object, Refused
from tests.support.polling import eventually


class Way(NamedTuple):
    """How the operator is installed."""

    folder: str
    own_namespace: str
    watched: str | None
    """The one namespace that it looks after; None: all."""


WAYS: Final = (Way("base", "threadcluster-system", None), Way("overlays/namespaced", "chat", "chat"))


async def install(api: Api, way: Way) -> list[Object]:
    """The operator's account and rights, as `kubectl apply -k` creates them."""
    made = kustomized(MANIFESTS / way.folder)
    for namespace in {way.own_namespace, way.watched or "talk"}:
        await api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        await api.wait_for("v1", "ServiceAccount", "default", lambda _: True, namespace)
    for each in made:
        if each["kind"] in ("ServiceAccount", "ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding"):
            await api.apply(each)
    return made


@asynccontextmanager
async def service_monitors(api: Api) -> AsyncIterator[None]:
    """The cluster serves ServiceMonitors within this context; where it did before, it goes on.

    Other tests of the same cluster have operators that must not find this kind.
    """
    place = SERVICE_MONITORS["apiVersion"], SERVICE_MONITORS["kind"], SERVICE_MONITORS["metadata"]["name"]
    was_there = await api.find(*place) is not None

    async def served() -> bool:
        with contextlib.suppress(Refused):  # the API server serves a new kind some moments after it has taken it
            await api.request("GET", "/apis/monitoring.coreos.com/v1/namespaces/default/servicemonitors")
            return True
        return False

    if not was_there:
        await api.apply(SERVICE_MONITORS)
    await eventually(served, within_s=30)
    try:
        yield
    finally:
        if not was_there:
            await api.delete(*place)
            await api.wait_gone(*place)
