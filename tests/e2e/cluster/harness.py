"""An operator as it runs in its pod, on the tests' cluster; around it a fake kubelet in whose pods workers in memory run."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from threadcluster_operator.controller.runtime import Operator, Options, application, identity
from threadcluster_operator.controller.snapshot import Key
from threadcluster_operator.controller.tenant_policy import TenantPolicy
from threadcluster_operator.kube.client import KubeAccess, connect

from tests.fakes.kubelet import FakeKubelet
from tests.fakes.worker_api import MemoryWorkers
from tests.fakes.worker_pods import FakeWorkerPods
from tests.support.kube_api import Api, Object

VERSION = "threadcluster.io/v1alpha1"
KIND = "ThreadCluster"

_RESYNC_S = 8.0

SERVICE_MONITORS: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "servicemonitors.monitoring.coreos.com"},
    "spec": {
        "group": "monitoring.coreos.com",
        "names": {"kind": "ServiceMonitor", "plural": "servicemonitors"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
"""As the Prometheus operator brings it, without its schema."""


def thread_cluster(name: str, **spec: Any) -> Object:  # as YAML would have it
    """A ThreadCluster, small and complete."""
    return {
        "apiVersion": VERSION,
        "kind": KIND,
        "metadata": {"name": name},
        "spec": {
            "shards": 16,
            "replicas": 2,
            "image": "threadcluster:1",
            "database": {"urlSecretKeyRef": {"name": "database"}, "tls": {"mode": "Disable"}},
            "drain": {"loadBalancerSeconds": 0, "timeoutSeconds": 5},
            "rollout": {"minReadySeconds": 0},
            **spec,
        },
    }


def condition(found: Object, name: str) -> Object:
    """A condition of an object; an empty one when it has none of that type."""
    for each in found.get("status", {}).get("conditions") or ():
        if each["type"] == name:
            return dict(each)
    return {}


def is_ready(found: Object) -> bool:
    """As `kubectl wait --for=condition=Ready` judges: of the present generation."""
    ready = condition(found, "Ready")
    return ready.get("status") == "True" and ready.get("observedGeneration") == found["metadata"]["generation"]


def stalled_by(reason: str) -> Callable[[Object], bool]:
    """Whether a cluster is Stalled by this reason."""
    return lambda found: condition(found, "Stalled").get("reason") == reason


class Harness:
    """Access of a test to the operator's surroundings."""

    def __init__(
        self, api: Api, namespace: str, kubelet: FakeKubelet, clusters: dict[tuple[str, str], MemoryWorkers]
    ) -> None:
        self.api = api
        self.namespace = namespace
        self.kubelet = kubelet
        self._clusters = clusters
        self._turns: set[asyncio.Task[None]] = set()

    async def make(
        self, name: str, workers: MemoryWorkers | None = None, **spec: Any
    ) -> MemoryWorkers:  # as YAML would have it
        """Make a ThreadCluster, with workers that live in its pods; with these, where they are given."""
        manifest = thread_cluster(name, **spec)
        workers = workers or MemoryWorkers(manifest["spec"]["shards"])
        self._clusters[self.namespace, name] = workers
        self._turns.add(asyncio.create_task(workers.run(), name=f"workers-{name}"))
        await self.api.create(manifest, self.namespace)
        return workers

    async def edit(self, name: str, spec: Mapping[str, Any]) -> int:
        """Merge an edit into its spec; the generation that this makes."""
        changed = await self.api.patch(VERSION, KIND, name, {"spec": dict(spec)}, self.namespace)
        return int(changed["metadata"]["generation"])

    async def look(self, name: str) -> Object:
        """The ThreadCluster as it is now."""
        return await self.api.get(VERSION, KIND, name, self.namespace)

    async def until(self, name: str, holds: Callable[[Object], bool], within_s: float = 30.0) -> Object:
        """Wait until something holds of it."""
        return await self.api.wait_for(VERSION, KIND, name, holds, self.namespace, within_s=within_s)

    def end(self) -> None:
        """No worker takes a turn any more."""
        for task in self._turns:
            task.cancel()


async def page(operator: Operator, path: str) -> tuple[int, str]:
    """The operator's own answer at ``/livez`` or ``/readyz``."""
    runner = web.AppRunner(application(operator), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status, await answer.text()
    finally:
        await runner.cleanup()


@asynccontextmanager
async def operator_on(
    api: Api,
    namespace: str | None,
    clusters: Mapping[tuple[str, str], MemoryWorkers],
    *,
    own_namespace: str | None = None,
    kubeconfig: Path | None = None,
    tenants: TenantPolicy = TenantPolicy(),  # noqa: B008 - a value, never changed
    resync_s: float = _RESYNC_S,
) -> AsyncIterator[Operator]:
    """An operator that looks after one namespace, or all; as the tests' own user, or whose ``kubeconfig`` that is."""
    own = own_namespace or namespace
    assert own is not None, "an operator lives somewhere"
    options = Options(namespace, own, identity(), 0, KubeAccess(str(kubeconfig or api.kubeconfig)), resync_s)
    options = options._replace(tenants=tenants)
    if namespace is not None:  # as the installation for one namespace has it
        options = options._replace(identity_namespace=namespace)

    def reach(key: Key, addresses: Mapping[str, str], secret: str) -> MemoryWorkers:
        del addresses, secret
        return clusters[key.namespace, key.name]

    async with connect(options.access) as kube:
        operator = Operator(kube, reach, options)
        running = asyncio.create_task(operator.run(), name="operator")
        try:
            yield operator
        finally:
            assert not running.done(), running.exception()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def harness_on(
    api: Api,
    namespace: str,
    *,
    own_namespace: str | None = None,
    kubeconfig: Path | None = None,
    everywhere: bool = False,
    tenants: TenantPolicy = TenantPolicy(),  # noqa: B008 - a value, never changed
    nodes: int = 1,
) -> AsyncIterator[Harness]:
    """A fake kubelet for one namespace, and an operator for it, or for all (``everywhere``); see `operator_on`."""
    clusters: dict[tuple[str, str], MemoryWorkers] = {}
    async with FakeKubelet(api, nodes=nodes, namespace=namespace, processes=FakeWorkerPods(clusters)) as kubelet:
        harness = Harness(api, namespace, kubelet, clusters)
        cared_for = None if everywhere else namespace
        try:
            async with operator_on(
                api, cared_for, clusters, own_namespace=own_namespace, kubeconfig=kubeconfig, tenants=tenants
            ):
                yield harness
        finally:
            harness.end()
