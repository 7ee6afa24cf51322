"""The operator and the sites of the fault matrix.

One operator looks after all sites, by an account of its own and through a proxy, so that it can lose a right, an answer or a
watch of one site alone.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from threadcluster_operator.controller.runtime import Operator

from tests.e2e.cluster.api_proxy import ApiProxy, api_proxy
from tests.e2e.cluster.fault_site import STUCK, WELL, Site
from tests.e2e.cluster.faults import NODE_SILENT, OPERATOR, POLICIES, Fault, binding
from tests.e2e.cluster.harness import Harness, is_ready, operator_on
from tests.e2e.cluster.installed import WAYS, install
from tests.e2e.cluster.kubeconfig import for_token
from tests.fakes.kubelet import FakeKubelet
from tests.fakes.worker_api import MemoryWorkers
from tests.fakes.worker_pods import FakeWorkerPods
from tests.support.kube_api import Api, Object


@dataclass(slots=True, kw_only=True)
class Place:
    """One operator, which looks after all sites, and its surroundings."""

    api: Api
    operator: Operator
    proxy: ApiProxy
    kubelet: FakeKubelet
    clusters: dict[tuple[str, str], MemoryWorkers]
    spare_nodes: list[str]

    @asynccontextmanager
    async def site(self, name: str, faults: Collection[Fault]) -> AsyncIterator[Site]:
        """A namespace with both clusters, Ready; prepared for these faults."""
        async with self.empty_site(name, nodes=2 if NODE_SILENT in faults else 0) as site:
            spec: Object = {}
            for fault in faults:
                await fault.prepare(site)
                spec |= fault.spec(site)
            await site.make(WELL, replicas=1)
            await site.make(STUCK, **spec)
            for cluster in (WELL, STUCK):
                await site.harness.until(cluster, is_ready, within_s=180)
            for fault in faults:
                await fault.settle(site)
            yield site

    @asynccontextmanager
    async def empty_site(self, name: str, *, nodes: int = 0) -> AsyncIterator[Site]:
        """A namespace without a cluster."""
        await self.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        await self.api.wait_for("v1", "ServiceAccount", "default", lambda _: True, name)
        await self.api.apply(binding(name))
        async with AsyncExitStack() as undo:
            harness = Harness(self.api, name, self.kubelet, self.clusters)
            undo.callback(harness.end)
            own = [self.spare_nodes.pop() for _ in range(nodes)]
            yield Site(harness=harness, proxy=self.proxy, nodes=own, undo=undo)


@asynccontextmanager
async def place(api: Api, folder: Path, *, spare_nodes: int) -> AsyncIterator[Place]:
    """An operator for all namespaces with the rights that it is installed with; ``spare_nodes`` may be lost."""
    made = await install(api, WAYS[0])
    for each in made:
        if each["kind"] == "ClusterRole":
            for rule in each.get("rules", ()):
                if "networkpolicies" in rule["resources"] and "patch" in rule["verbs"]:
                    rest = [verb for verb in rule["verbs"] if verb != "patch"]
                    rule["resources"] = [name for name in rule["resources"] if name != "networkpolicies"]
                    each["rules"].append({**rule, "resources": ["networkpolicies"], "verbs": rest})
                    await api.apply(each)
                    break
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": POLICIES},
        "rules": [{"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["patch"]}],
    }
    await api.apply(role)
    token = await api.token_of(*OPERATOR)
    kubeconfig = for_token(folder / "operator.kubeconfig", api.kubeconfig, token, namespace=OPERATOR[0])
    clusters: dict[tuple[str, str], MemoryWorkers] = {}
    labels = "app.kubernetes.io/managed-by=threadcluster-operator"
    processes = FakeWorkerPods(clusters)
    async with (
        api_proxy(kubeconfig, folder) as proxy,
        FakeKubelet(api, nodes=1 + spare_nodes, labels=labels, processes=processes) as kubelet,
        operator_on(
            api, None, clusters, own_namespace=OPERATOR[0], kubeconfig=proxy.kubeconfig, resync_s=180.0
        ) as operator,
    ):
        yield Place(
            api=api, operator=operator, proxy=proxy, kubelet=kubelet, clusters=clusters, spare_nodes=kubelet.nodes[1:]
        )
