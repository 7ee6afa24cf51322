"""Start of every test on the real node: the operator, a cluster by `kubectl`, and clients that chat with it."""

import asyncio
import json
import os
import secrets
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
from ulid import ULID

from tests.e2e.cluster.harness import thread_cluster
from tests.e2e.node.conftest import Cluster
from tests.e2e.node.node import KubectlFailed
from tests.support.kube_api import Object
from tests.support.paths import ROOT


def cluster(image: str, **spec: Any) -> Object:  # as YAML would have it
    """A ThreadCluster with the image of this node, which no registry has."""
    return thread_cluster("chat", **{"image": image, "imagePullPolicy": "IfNotPresent", **spec})


def secret(dsn: str) -> Object:
    """The Secret with its DSN."""
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "database"}, "stringData": {"url": dsn}}


async def apply(node: Cluster, namespace: str, *objects: Object) -> None:
    """As a user does it."""
    documents = {"apiVersion": "v1", "kind": "List", "items": objects}
    await node.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(documents))


class Chat:
    """A client that sends one message after another through a Service, each until it is acknowledged."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.me = str(ULID())
        self.acknowledged: list[str] = []
        """Acknowledged messages, in order."""
        self.longest_s = 0.0
        self.failed: Counter[str] = Counter()
        """Requests that were not acknowledged, by their answer."""
        self._thread = ""
        self._ending = False
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Make a thread, and go on talking."""
        async with aiohttp.ClientSession() as session:
            body = {"accountId": self.me, "title": "life", "administratorIds": [self.me], "memberIds": []}
            async with session.post(f"{self.url}/v1/threads/create", json=body) as response:
                assert response.status == 200, await response.text()
                self._thread = (await response.json())["threadId"]
        self._task = asyncio.create_task(self._talk(), name="chat")

    async def end(self) -> None:
        """Stop when the present message is acknowledged: a cancelled one may be in the thread or not."""
        assert self._task is not None
        assert not self._task.done(), self._task.exception()
        self._ending = True
        await self._task

    async def heard(self) -> list[str]:
        """Everything that is in the thread, in order."""
        texts: list[str] = []
        async with aiohttp.ClientSession() as session:
            while True:
                where = f"{self.url}/v1/threads/{self._thread}/messages"
                query = {"account_id": self.me, "limit": "100", "offset": str(len(texts))}
                async with session.get(where, params=query) as response:
                    assert response.status == 200, await response.text()
                    page = (await response.json())["result"]
                if not page:
                    return texts
                texts += [each["body"] for each in page]

    async def _talk(self) -> None:
        number = 0
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=8)) as session:
            while not self._ending:
                text, key, began = f"message {number}", secrets.token_hex(8), time.monotonic()
                body = {"accountId": self.me, "messages": [{"text": text}]}
                while not await self._post(session, body, key):
                    assert time.monotonic() - began < 60, f"{text} was not acknowledged within a minute"
                    await asyncio.sleep(0.1)
                self.acknowledged.append(text)
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                number += 1
                await asyncio.sleep(0.1)

    async def _post(self, session: aiohttp.ClientSession, body: object, key: str) -> bool:
        where = f"{self.url}/v1/threads/{self._thread}/messages/add"
        try:
            async with session.post(where, json=body, headers={"Idempotency-Key": key}) as response:
                assert response.status in (200, 503, 502, 504), await response.text()
                if response.status != 200:
                    self.failed[f"{response.status} {await response.text()}"] += 1
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failed[repr(error)] += 1
            return False


async def ready(node: Cluster, namespace: str, within_s: float = 180.0) -> None:
    """As a user waits."""
    await node.kubectl(
        *("wait", "--for=condition=Ready", "threadcluster/chat", "-n", namespace, f"--timeout={within_s:.0f}s")
    )


@asynccontextmanager
async def printed_on_failure(node: Cluster, *namespaces: str) -> AsyncIterator[None]:
    """Shows how everything is when the test fails: what runs here is gone afterwards."""
    try:
        yield
    except BaseException:
        of_each = (
            "get threadcluster,statefulset,job,pod -o wide -n",
            "describe threadcluster,pod -n",
            "get events -n",
            "logs -l app.kubernetes.io/name=threadcluster --tail=60 --prefix -n",
        )
        for command in (
            *(f"{command} {namespace}" for namespace in namespaces for command in of_each),
            "describe pod -n threadcluster-system",
            "logs -n threadcluster-system -l app.kubernetes.io/name=threadcluster-operator --tail=80 --prefix",
        ):
            with suppress(KubectlFailed):
                print(f"--- kubectl {command}\n{await node.kubectl(*command.split())}")
        raise


async def install(node: Cluster) -> None:
    """The operator, from its manifests, with the image of this node."""
    manifests = await node.kubectl("kustomize", str(ROOT / "manifests" / "base"))
    assert "image: threadcluster:0.1.0" in manifests
    text = manifests.replace("image: threadcluster:0.1.0", f"image: {node.image}")
    await node.kubectl("apply", "--server-side", "-f", "-", stdin=text)


def kill_container(pod: str) -> None:
    """SIGKILL to a worker's process, as the kernel would when memory ends."""
    signal_container(pod, signal.SIGKILL)


def signal_container(pod: str, number: signal.Signals, uid: str = "") -> None:
    """A signal to a worker's process; ``uid`` of its ThreadCluster, where several have workers of that name."""
    wanted = {f"SHARD_WORKER_NAME={pod}".encode()} | ({f"SHARD_WORKER_CLUSTER_UID={uid}".encode()} if uid else set())
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        with suppress(OSError):
            variables = (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes()
            if wanted <= set(variables) and b"shard-worker" in command:
                os.kill(int(process.name), number)
                return
    raise AssertionError(f"no process of {pod}")
