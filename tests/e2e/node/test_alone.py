"""Workers without anybody to look after them: operator and API server are gone, and the chat goes on."""

import asyncio
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.cluster.control_plane import ControlPlane
from tests.e2e.node.chat import Chat, apply, cluster, install, kill_container, printed_on_failure, ready, secret
from tests.e2e.node.conftest import Cluster
from tests.support.kube_api import Api, Object

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

SHARDS = 96
MESSAGES = 20
"""Messages of each chat without operator and API server."""


def kill_operators() -> int:
    """SIGKILL to every operator on this node; how many there were."""
    found = 0
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with suppress(OSError):
                command = (process / "cmdline").read_bytes().split(b"\0")
                if b"operator" in command and b"run" in command and any(b"threadcluster" in part for part in command):
                    os.kill(int(process.name), signal.SIGKILL)
                    found += 1
    return found


async def started_beside(plane: ControlPlane) -> None:
    """Start the API server while the chats go on, in a thread that stays: a program here ends with what started it."""
    loop, started = asyncio.get_running_loop(), asyncio.Event()

    def start() -> None:
        plane.start_api_server()
        loop.call_soon_threadsafe(started.set)
        threading.Event().wait()

    threading.Thread(target=start, name="api-server", daemon=True).start()
    async with asyncio.timeout(60):
        await started.wait()


def is_moving(found: Object) -> bool:
    """The third worker has some of its shards, and not all of them."""
    names = {each["name"]: each["shards"] for each in found.get("status", {}).get("workers", ())}
    return bool(names.get("chat-2")) and found["status"]["shards"]["moving"] > 0


async def test_without_operator_and_api_server_the_chat_goes_on(node: Cluster, api: Api, namespace: str) -> None:
    """A worker dies in the middle of a plan, and its peers see to its shards; when the others are back the plan is resumed."""
    if node.own is None or node.postgres is None:
        pytest.fail("the test cannot stop the API server of a given cluster: unset KUBECONFIG")
    plane = node.own.control_plane
    async with printed_on_failure(node, namespace):
        await install(node)
        dsn = await node.postgres.make_database("alone")
        slowly = {"maxConcurrentMoves": 1}
        chat_cluster = cluster(node.image, shards=SHARDS, rebalance=slowly, drain={}, rollout={})
        await apply(node, namespace, secret(dsn), chat_cluster)
        await ready(node, namespace)
        service = await api.get("v1", "Service", "chat", namespace)
        chats = [Chat(f"http://{service['spec']['clusterIP']}") for _ in range(8)]
        for chat in chats:
            await chat.begin()
        await node.kubectl("scale", "threadcluster/chat", "--replicas=3", "-n", namespace)
        await api.wait_for("threadcluster.io/v1alpha1", "ThreadCluster", "chat", is_moving, namespace, within_s=90)

        plane.api_server.kill()
        assert kill_operators() > 0
        kill_container("chat-0")
        began, before = time.monotonic(), [len(chat.acknowledged) for chat in chats]
        async with asyncio.timeout(90):
            while any(len(chat.acknowledged) < so_far + MESSAGES for chat, so_far in zip(chats, before, strict=True)):
                await asyncio.sleep(0.1)
        alone_s = time.monotonic() - began

        await started_beside(plane)
        back = time.monotonic()
        await ready(node, namespace)
        resumed_s = time.monotonic() - back
        for chat in chats:
            await chat.end()
        found = await api.get("threadcluster.io/v1alpha1", "ThreadCluster", "chat", namespace)
        shards = found["status"]["shards"]
        assert (shards["assigned"], shards["moving"]) == (SHARDS, 0)
        assert shards["imbalancePercent"] <= 10
        for chat in chats:
            assert await chat.heard() == chat.acknowledged
        print(
            f"\nalone for {alone_s:.1f} s, of {sum(len(chat.acknowledged) for chat in chats)} messages the longest took"
            f" {max(chat.longest_s for chat in chats):.1f} s; Ready {resumed_s:.1f} s after the API server was back"
        )
