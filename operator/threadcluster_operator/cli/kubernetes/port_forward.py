"""Ports here that lead to a port of a pod: what `kubectl port-forward` does, over WebSockets.

The protocol is `v4.channel.k8s.io`: each message begins with the number of its channel, of which the first two are the
data and the errors of the one port that is asked for; the first message of each channel only repeats the port.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Final

import aiohttp
from kubernetes.aio.client import ApiClient

from shard_worker.tasks import BackgroundTasks
from threadcluster_operator.kube.client import POD

_PROTOCOL: Final = "v4.channel.k8s.io"
_DATA: Final = 0
_ERRORS: Final = 1
_PORT_BYTES: Final = 2
_CHUNK: Final = 64 * 1024


class PortForwarder:
    """Ways to one port of pods in one namespace, each open to this machine alone; made by `tunnels`."""

    def __init__(self, session: aiohttp.ClientSession, api: ApiClient, namespace: str, port: int, scheme: str) -> None:
        self.failure: str | None = None
        """Why the last way that did not lead to the pod did not."""
        self._session = session
        self._api = api
        self._namespace = namespace
        self._port = port
        self._scheme = scheme
        self._servers: dict[str, tuple[asyncio.Server, str]] = {}

    async def to(self, pod: str) -> str:
        """``scheme://127.0.0.1:port``, at which the pod's port answers; whether it does is seen by asking."""
        if pod not in self._servers:

            async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                try:
                    await self._carry(pod, reader, writer)
                finally:
                    writer.close()

            server = await asyncio.start_server(take, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            self._servers[pod] = server, f"{self._scheme}://127.0.0.1:{address[1]}"
        return self._servers[pod][1]

    def close(self) -> None:
        """No way leads anywhere any more."""
        for server, _ in self._servers.values():
            server.close()

    async def _carry(self, pod: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with self._session.ws_connect(
                f"{self._api.configuration.host}{POD.path(self._namespace, pod)}/portforward",
                params={"ports": str(self._port)},
                headers=await self._credentials(),
                protocols=(_PROTOCOL,),
                proxy=self._api.configuration.proxy,
                max_msg_size=0,
            ) as socket:
                sending = BackgroundTasks()
                sending.spawn(_send(reader, socket), name=f"to-{pod}")
                try:
                    await self._receive(pod, socket, writer)
                finally:
                    await sending.close()
        except aiohttp.WSServerHandshakeError as error:
            self.failure = self._refused(pod, error.status)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.failure = f"no port-forward to pod {pod}: {str(error) or repr(error)}"

    async def _receive(self, pod: str, socket: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter) -> None:
        begun: set[int] = set()
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            channel, data = message.data[0], message.data[1:]
            if channel not in begun:
                begun.add(channel)
                data = data[_PORT_BYTES:]
            if channel == _ERRORS and data:
                self.failure = f"no port-forward to pod {pod}: {data.decode(errors='replace').strip()}"
                return
            if channel == _DATA and data:
                writer.write(data)
                await writer.drain()

    async def _credentials(self) -> dict[str, str]:
        """Asked for each time: a token may be one that expires."""
        ways = await self._api.configuration.auth_settings()
        return {way["key"]: way["value"] for way in ways.values() if way["in"] == "header"}

    def _refused(self, pod: str, status: int) -> str:
        if status == HTTPStatus.FORBIDDEN:
            return (
                f"you may not forward a port to pod {pod}: that needs get and create of pods/portforward in namespace"
                f" {self._namespace}; manifests/users has what the commands need"
            )
        if status == HTTPStatus.NOT_FOUND:
            return f"no port-forward to pod {pod}: it is gone, or its node is"
        return f"no port-forward to pod {pod}: the API server answers {status}"


async def _send(reader: asyncio.StreamReader, socket: aiohttp.ClientWebSocketResponse) -> None:
    """Forward the client's data to the pod until the client closes; then close the pod's side too."""
    with suppress(ConnectionError):
        while data := await reader.read(_CHUNK):
            await socket.send_bytes(bytes((_DATA,)) + data)
    await socket.close()


@asynccontextmanager
async def tunnels(api: ApiClient, namespace: str, port: int, *, scheme: str = "https") -> AsyncIterator[PortForwarder]:
    """Ways to the pods of a namespace, for as long as this lasts; ``scheme``: what the port speaks."""
    connector = aiohttp.TCPConnector(ssl=api.rest_client.ssl_context)
    async with aiohttp.ClientSession(connector=connector) as session:
        made = PortForwarder(session, api, namespace, port, scheme)
        try:
            yield made
        finally:
            made.close()
