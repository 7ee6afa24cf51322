"""`threadcluster console` for a cluster on Kubernetes: real workers behind an API server that forwards their ports."""

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from threadcluster_operator.kube.client import POD, SECRET, THREAD_CLUSTER
from threadcluster_operator.render import MANAGEMENT_PORT, PUBLIC_PORT

from shard_worker.database.migration import migrate
from tests.fakes.api_server import CLUSTER, PULLING, READY, ApiServer, api_server, pod
from tests.support.polling import eventually
from tests.support.worker_processes import SECRET as CLUSTER_SECRET
from tests.support.worker_processes import Workers, workers_on

ADA = "01KB0000000000000000000008"
BEN = "01KB0000000000000000000009"
SHARDS = 8


class Page:
    """A page: the requests that it makes of the console."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._url, _, token = address.partition("#token=")
        self._fields = {"Authorization": f"Bearer {token}"}
        self.lines: list[dict[str, Any]] = []
        """The lines of the stream so far."""

    async def ask(self, path: str, body: object = None) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        method = "GET" if body is None else "POST"
        async with self._session.request(method, f"{self._url}api/{path}", json=body, headers=self._fields) as answer:
            return answer.status, await answer.json(content_type=None)

    async def watch(self, follow: list[dict[str, object]]) -> None:
        """Read the stream without end."""
        async with self._session.post(
            f"{self._url}api/stream",
            json={"follow": follow},
            headers=self._fields,
            timeout=aiohttp.ClientTimeout(total=None),
        ) as answer:
            assert answer.status == 200
            async for line in answer.content:
                self.lines.append(json.loads(line))

    def newest(self, kind: str) -> dict[str, Any]:
        """The last line of a kind; empty before there is one."""
        return next((line for line in reversed(self.lines) if line["kind"] == kind), {})

    def states(self) -> dict[str, str]:
        """The state of each worker in the last snapshot."""
        return {each["name"]: each["state"] for each in self.newest("snapshot").get("workers", [])}

    def shard_states(self) -> set[str]:
        """The states of all shards in the last snapshot."""
        return {each["state"] for each in self.newest("snapshot").get("shards", [])}

    def texts(self) -> list[str]:
        """The messages that the followed thread has shown."""
        shown = [line["data"] for line in self.lines if line["kind"] == "chat" and line["event"] == "MessagesAdded"]
        return [message["text"] for event in shown for message in event["messages"]]


@pytest.fixture
async def workers(dsn: str, tmp_path: Path) -> AsyncIterator[Workers]:
    """Two workers."""
    await migrate(dsn, cluster_id="test", shards=SHARDS, say=lambda _: None)
    async with workers_on(dsn, tmp_path / "workers", "chat-0", "chat-1", shards=SHARDS) as started:
        yield started


@pytest.fixture
async def api(workers: Workers, tmp_path: Path) -> AsyncIterator[ApiServer]:
    """Their pods, their ThreadCluster and the Secret of its users."""
    async with api_server(tmp_path / "config") as server:
        server.put(THREAD_CLUSTER, CLUSTER | {"spec": CLUSTER["spec"] | {"shards": SHARDS}})
        server.put(POD, pod("chat-0", **READY), pod("chat-1", **READY))
        name, data = "chat.client-internal", base64.b64encode(CLUSTER_SECRET.encode()).decode()
        server.put(
            SECRET, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": {"internal": data}}
        )
        for each in workers.by_name.values():
            server.ports[each.name, MANAGEMENT_PORT] = urlsplit(each.management).port or 0
            server.ports[each.name, PUBLIC_PORT] = urlsplit(each.url).port or 0
        yield server


@asynccontextmanager
async def console(api: ApiServer, folder: Path, *words: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The command as a process, and the first line that it printed; empty when it printed none."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "threadcluster_operator.main",
        "console",
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env=os.environ | {"KUBECONFIG": str(api.kubeconfig), "HOME": str(folder)},
    )
    assert process.stdout is not None  # a pipe
    try:
        async with asyncio.timeout(30):
            yield process, (await process.stdout.readline()).decode().strip()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_a_cluster_on_kubernetes_is_shown_and_chats_while_a_pod_dies(
    api: ApiServer, workers: Workers, tmp_path: Path
) -> None:
    """The map, a chat through another pod, a verb, the inspector, and an end by Ctrl-C."""
    async with console(api, tmp_path) as (process, address), aiohttp.ClientSession() as session:
        page = Page(session, address)
        _, created = await page.ask(
            "v1/threads/create",
            {"accountId": ADA, "title": "a", "administratorIds": [ADA], "memberIds": [BEN]},
        )
        thread = created["threadId"]
        watching = asyncio.create_task(page.watch([{"pane": 0, "threadId": thread, "accountId": BEN, "position": ""}]))
        await eventually(lambda: page.shard_states() == {"serving"})
        snapshot = page.newest("snapshot")
        assert (snapshot["name"], snapshot["ready"], page.states()) == (
            "chat",
            True,
            {"chat-0": "ready", "chat-1": "ready"},
        )
        assert snapshot["commands"]["drain"].startswith("threadcluster drain {worker} --name chat --context kind")
        assert snapshot["commands"]["kill"].startswith("kubectl delete pod {worker} --grace-period=1 --context kind")
        assert (await page.ask("verbs", {"verb": "pin", "shard": 3, "worker": "chat-1"}))[0] == 200
        await eventually(lambda: page.newest("snapshot")["shards"][3]["pin"] == "chat-1")
        assert await page.ask("verbs", {"verb": "kill", "worker": "chat-0"}) == (
            409,
            {"detail": "the console ends no pod; the command beside the button does"},
        )
        await workers.by_name["chat-0"].kill()
        api.put(POD, pod("chat-0", **PULLING), pod("chat-1", **READY))

        async def posted() -> bool:
            status, _ = await page.ask(
                f"v1/threads/{thread}/messages/add",
                {"accountId": BEN, "messages": [{"messageId": "01KB000000000000000000000A", "text": "still here"}]},
            )
            return status == 200

        await eventually(posted, within_s=20)
        await eventually(lambda: page.texts() == ["still here"], within_s=20)
        await eventually(lambda: page.shard_states() == {"serving"} and page.states()["chat-0"] == "ImagePullBackOff")
        api.put(THREAD_CLUSTER, CLUSTER | {"spec": CLUSTER["spec"] | {"shards": SHARDS, "replicas": -1}, "status": {}})
        await eventually(lambda: not page.newest("snapshot")["ready"])  # a spec that became wrong ends no page
        assert page.newest("snapshot")["mode"] == snapshot["mode"]
        status, shown = await page.ask(f"threads/{thread}")
        assert (status, shown["owner"]) == (200, "chat-1")
        watching.cancel()
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
        assert process.returncode == 0
        assert errors.decode().splitlines()[0] == "ThreadCluster chat, namespace here, context kind"
        assert address.partition("#token=")[2] not in errors.decode()


async def test_a_missing_right_or_cluster_ends_the_command(api: ApiServer, tmp_path: Path) -> None:
    """A right, or the cluster itself."""
    async with console(api, tmp_path, "--name", "caht") as (process, address):
        _, errors = await process.communicate()
        assert (address, process.returncode) == ("", 3)
        assert "no ThreadCluster caht in namespace here" in errors.decode()
    api.set(POD, None, 403)
    async with console(api, tmp_path) as (process, address):
        _, errors = await process.communicate()
        assert (address, process.returncode) == ("", 1)
        assert 'User "jane" cannot list resource "pods"' in errors.decode()


async def test_a_cluster_without_a_ready_pod_has_a_page_that_says_so(api: ApiServer, tmp_path: Path) -> None:
    """It may be starting: the page shows the pods, and the command why it sees no more."""
    api.put(POD, pod("chat-0", **PULLING))
    async with console(api, tmp_path) as (process, address), aiohttp.ClientSession() as session:
        page = Page(session, address)
        watching = asyncio.create_task(page.watch([]))
        await eventually(lambda: page.states() == {"chat-0": "ImagePullBackOff"})
        assert page.newest("snapshot")["database"]["state"] == "unknown"
        watching.cancel()
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
        assert process.returncode == 0
        assert "none of its 1 pods is ready" in errors.decode()
