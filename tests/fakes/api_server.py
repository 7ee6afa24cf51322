"""An API server that answers some of what it is asked, and forwards ports of its pods to ports of this machine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web
from threadcluster_operator.kube.client import Kind

SPEC = {"image": "threadcluster:1", "database": {"urlSecretKeyRef": {"name": "db"}}, "replicas": 2}
CLUSTER: dict[str, Any] = {
    "apiVersion": "threadcluster.io/v1alpha1",
    "kind": "ThreadCluster",
    "metadata": {"name": "chat", "namespace": "here", "generation": 3, "uid": "u"},
    "spec": SPEC,
    "status": {
        "observedGeneration": 3,
        "endpoint": "http://chat.here.svc",
        "conditions": [
            {"type": "Ready", "status": "True", "reason": "Reconciled", "message": "Every worker is as wanted."},
            {"type": "Stalled", "status": "False", "reason": "NotStalled", "message": "Nothing blocks the cluster."},
        ],
    },
}


def pod(name: str, **status: Any) -> dict[str, Any]:
    """A worker's pod."""
    labels = {"apps.kubernetes.io/pod-index": name.rpartition("-")[2]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "status": status}


READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
PULLING = {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]}


class ApiServer:
    """Objects by path; an answer may be a refusal, or never come."""

    def __init__(self) -> None:
        self.answers: dict[str, dict[str, Any] | int | None] = {}
        """By path; a number is a status, None is silence."""
        self.ports: dict[tuple[str, int], int] = {}
        """Where the ports of pods are on this machine; nothing listens at any other."""
        self.kubeconfig = Path()

    def set(self, kind: Kind, name: str | None, answer: dict[str, Any] | int | None) -> None:
        """The answer to a question."""
        self.answers[kind.path("here", name)] = answer

    def put(self, kind: Kind, *items: dict[str, Any]) -> None:
        """Objects, one by one and as a list."""
        for each in items:
            self.set(kind, each["metadata"]["name"], each)
        head = {"kind": f"{kind.kind}List", "apiVersion": kind.group_version, "metadata": {"resourceVersion": "1"}}
        self.set(kind, None, head | {"items": list(items)})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        first = {
            "/version": {"major": "1", "minor": "34"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "groups": []},
        }
        if request.path.endswith("/portforward"):
            return await self._forward(request)
        answer = {**first, **self.answers}.get(request.path, 404)
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, int):
            resource = request.path.split("/")[-1]
            reason, message = {
                401: ("Unauthorized", "Unauthorized"),
                403: (
                    "Forbidden",
                    f'User "jane" cannot list resource "{resource}" in API group "" in the namespace "here"',
                ),
                404: ("NotFound", f'"{resource}" not found'),
            }[answer]
            return web.json_response(
                {"kind": "Status", "code": answer, "reason": reason, "message": message}, status=answer
            )
        return web.json_response(answer)

    async def _forward(self, request: web.Request) -> web.WebSocketResponse:
        """Carry one connection, as a kubelet does."""
        pod_name, port = request.path.split("/")[-2], int(request.query["ports"])
        repeated = port.to_bytes(2, "little")
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        await socket.send_bytes(b"\0" + repeated)
        await socket.send_bytes(b"\1" + repeated)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[pod_name, port])
        except (KeyError, OSError):
            await socket.send_bytes(b"\1connection refused")
            await socket.close()
            return socket

        async def back() -> None:
            with suppress(ConnectionError):
                while data := await reader.read(1 << 16):
                    await socket.send_bytes(b"\0" + data)
            await socket.close()

        answering = asyncio.create_task(back())
        with suppress(ConnectionError):
            async for message in socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    writer.write(message.data[1:])
        writer.close()
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
        return socket


@asynccontextmanager
async def api_server(kubeconfig: Path) -> AsyncIterator[ApiServer]:
    """A server without objects, and a kubeconfig whose current context leads to it, in namespace ``here``."""
    server = ApiServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "kind", "context": {"cluster": "c", "user": "u", "namespace": "here"}}],
        "current-context": "kind",
    }
    server.kubeconfig = kubeconfig
    kubeconfig.write_text(yaml.safe_dump(config))
    try:
        yield server
    finally:
        await runner.cleanup()
