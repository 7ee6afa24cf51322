"""The ways to install the operator, as far as its account and its rights are concerned."""

from typing import Final, NamedTuple

from tests.e2e.cluster.manifests import MANIFESTS, kustomized
from tests.support.kube_api import Api, Object


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
