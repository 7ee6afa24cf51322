"""A ThreadCluster of two workers in which several tests take place, one after the other; the first of them makes it."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import pytest

from tests.e2e.cluster.harness import KIND, VERSION, is_ready
from tests.e2e.node.chat import Chat, apply, cluster, install, secret
from tests.e2e.node.conftest import Cluster
from tests.e2e.node.postgres import NodePostgres
from tests.support.kube_api import Api, Object

NAME: Final = "chat"
SHARDS: Final = 24
REPLICAS: Final = 2
_CHATS: Final = 4
_READY_S: Final = 180.0


class SharedCluster:
    """The cluster ``chat`` of a namespace, with a database of its own."""

    def __init__(self, node: Cluster) -> None:
        if node.postgres is None:
            pytest.fail("the test needs a database that it can freeze and give to others: unset KUBECONFIG")
        self.namespace = f"shared-{secrets.token_hex(4)}"
        self.postgres: NodePostgres = node.postgres
        self.dsn = self.postgres.dsn_of(self.namespace)
        self._node = node

    async def begin(self, api: Api) -> Object:
        """Make it unless it is there, with its operator; the ThreadCluster, when it is Ready with its two workers."""
        found = await api.find("v1", "Namespace", self.namespace)
        if found is None:
            await install(self._node)
            await self.postgres.make_database(self.namespace)
            await make_namespace(api, self.namespace)
            await apply(self._node, self.namespace, secret(self.dsn), self.manifest(self._node.image))
        else:
            await self.edit(api, {"replicas": REPLICAS})
        return await self.ready(api)

    def manifest(self, image: str, **spec: object) -> Object:
        """The ThreadCluster as its user writes it."""
        drain = {"loadBalancerSeconds": 2, "timeoutSeconds": 20}
        return cluster(image, shards=SHARDS, drain=drain, **{"replicas": REPLICAS, **spec})

    async def edit(self, api: Api, spec: Object) -> int:
        """Merge an edit into its spec; the generation that this makes."""
        changed = await api.patch(VERSION, KIND, NAME, {"spec": spec}, self.namespace)
        return int(changed["metadata"]["generation"])

    async def ready(self, api: Api, *, within_s: float = _READY_S) -> Object:
        """The ThreadCluster, as soon as its present spec has taken effect."""
        return await api.wait_for(VERSION, KIND, NAME, is_ready, self.namespace, within_s=within_s)

    async def url(self, api: Api) -> str:
        """Where clients reach it."""
        service = await api.get("v1", "Service", NAME, self.namespace)
        return f"http://{service['spec']['clusterIP']}"

    @asynccontextmanager
    async def chatting(self, api: Api) -> AsyncIterator[list[Chat]]:
        """Clients that chat for as long as the block runs; everything that was acknowledged is there afterwards, in order."""
        url = await self.url(api)
        chats = [Chat(url) for _ in range(_CHATS)]
        for chat in chats:
            await chat.begin()
        yield chats
        for chat in chats:
            await chat.end()
        for chat in chats:
            assert await chat.heard() == chat.acknowledged


@contextmanager
def shared_cluster(node: Cluster) -> Iterator[SharedCluster]:
    """For the tests of a module; its namespace is deleted at the end."""
    shared = SharedCluster(node)
    yield shared
    asyncio.run(node.kubectl("delete", "namespace", shared.namespace, "--ignore-not-found", "--wait=false"))


async def make_namespace(api: Api, name: str) -> None:
    """A namespace in which pods may be made."""
    await api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    await api.wait_for("v1", "ServiceAccount", "default", lambda _: True, name)
