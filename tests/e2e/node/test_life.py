"""A ThreadCluster's whole life on a real node, by the real kubectl, while a client chats."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.e2e.node.chat import Chat, apply, cluster, install, kill_container, printed_on_failure, ready, secret
from tests.e2e.node.commands import commands_work
from tests.e2e.node.conftest import Cluster
from tests.support.kube_api import Api

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

APPLY_TO_READY_S = 30.0
CHATS = 8
"""Threads at a time, so that every worker has some of them."""


CHILDREN = (
    ("v1", "Pod"),
    ("v1", "Secret"),
    ("v1", "Service"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    ("apps/v1", "StatefulSet"),
    ("batch/v1", "Job"),
    ("policy/v1", "PodDisruptionBudget"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
)


async def children(api: Api, namespace: str) -> set[str]:
    """The kinds of which something is there that a ThreadCluster has brought."""
    labels = "app.kubernetes.io/instance=chat"
    return {kind for version, kind in CHILDREN if await api.list(version, kind, namespace, labels=labels)}


async def test_from_apply_to_nothing_left_and_back(node: Cluster, api: Api, namespace: str, tmp_path: Path) -> None:
    """Nothing that was acknowledged is ever missing, doubled or out of order; the data outlives the cluster."""
    async with printed_on_failure(node, namespace):
        await _live(node, api, namespace, tmp_path)


async def _live(node: Cluster, api: Api, namespace: str, folder: Path) -> None:
    await install(node)
    await node.kubectl(
        *("rollout", "status", "deployment/threadcluster-operator", "-n", "threadcluster-system", "--timeout=120s")
    )
    drain = {"loadBalancerSeconds": 2, "timeoutSeconds": 20}
    objects = (secret(node.postgres_dsn), cluster(node.image, shards=24, drain=drain, rollout={}))
    began = time.monotonic()
    await apply(node, namespace, *objects)
    await ready(node, namespace)
    took = time.monotonic() - began
    print(f"apply to Ready: {took:.1f} s")
    service = await api.get("v1", "Service", "chat", namespace)
    chats = [Chat(f"http://{service['spec']['clusterIP']}") for _ in range(CHATS)]
    for chat in chats:
        await chat.begin()
    for replicas in (3, 2):
        await node.kubectl("scale", "threadcluster/chat", f"--replicas={replicas}", "-n", namespace)
        await ready(node, namespace)
    began = time.monotonic()
    await commands_work(api, namespace, folder)
    await ready(node, namespace)
    print(f"commands: {time.monotonic() - began:.1f} s")
    edit = '{"spec": {"worker": {"snapshotEveryEvents": 50}}}'
    await node.kubectl("patch", "threadcluster/chat", "--type=merge", "-p", edit, "-n", namespace)
    await ready(node, namespace)
    await node.kubectl("delete", "pod", "chat-1", "-n", namespace, "--wait=true")
    await ready(node, namespace)
    kill_container("chat-0")
    await api.wait_for(
        "v1",
        "Pod",
        "chat-0",
        lambda pod: pod["status"]["containerStatuses"][0]["restartCount"] > 0,
        namespace,
    )
    await ready(node, namespace)
    for chat in chats:
        await chat.end()
    count = sum(len(chat.acknowledged) for chat in chats)
    print(f"{count} messages, the longest took {max(chat.longest_s for chat in chats):.1f} s")
    for chat in chats:
        assert await chat.heard() == chat.acknowledged
    assert await children(api, namespace) >= {kind for _, kind in CHILDREN} - {"Job"}, "a Job that is done may be gone"
    await node.kubectl("delete", "threadcluster/chat", "-n", namespace, "--wait=true")
    async with asyncio.timeout(90):
        while await children(api, namespace):
            await asyncio.sleep(0.2)
    await apply(node, namespace, *objects)
    await ready(node, namespace)
    url = f"http://{(await api.get('v1', 'Service', 'chat', namespace))['spec']['clusterIP']}"
    for chat in chats:
        chat.url = url
        assert await chat.heard() == chat.acknowledged
    assert took <= APPLY_TO_READY_S
