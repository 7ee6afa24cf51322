"""Port-forward over WebSockets, against a server that speaks the kubelet's protocol."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration
from threadcluster_operator.cli.kubernetes.port_forward import PortForwarder, tunnels

PORT = 8081
_PORT = PORT.to_bytes(2, "little")
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def ways(handler: Handler) -> AsyncIterator[PortForwarder]:
    """A tunnel through an API server that does this with a port-forward."""
    app = web.Application()
    app.router.add_get("/api/v1/namespaces/here/pods/chat-0/portforward", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    settings = Configuration()
    settings.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
    settings.api_key = {"BearerToken": "Bearer me"}
    try:
        async with ApiClient(settings) as api, tunnels(api, "here", PORT) as made:
            yield made
    finally:
        await runner.cleanup()


async def forwarded(request: web.Request) -> web.WebSocketResponse:
    """A pod that answers every request with the same."""
    assert request.headers["Authorization"] == "Bearer me"
    assert request.query["ports"] == str(PORT)
    socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
    await socket.prepare(request)
    await socket.send_bytes(b"\0" + _PORT)
    await socket.send_bytes(b"\1" + _PORT)
    asked = b""
    async for message in socket:
        assert message.data[0] == 0
        asked += message.data[1:]
        if asked.endswith(b"\r\n\r\n"):
            asked = b""
            for begin in range(0, len(ANSWER), 30_000):
                await socket.send_bytes(b"\0" + ANSWER[begin : begin + 30_000])
    return socket


async def failing(request: web.Request) -> web.WebSocketResponse:
    """A pod where nothing listens at the port."""
    socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
    await socket.prepare(request)
    await socket.send_bytes(b"\0" + _PORT)
    await socket.send_bytes(b"\1" + _PORT + b"error forwarding port 8081: connection refused")
    await socket.close()
    return socket


async def get(tunnel: PortForwarder) -> bytes:
    """One request through it."""
    async with (
        aiohttp.ClientSession() as session,
        session.get((await tunnel.to("chat-0")).replace("https", "http")) as response,
    ):
        return await response.read()


async def test_what_is_asked_comes_to_the_pod_and_its_answer_back() -> None:
    """Longer ones in pieces, several at a time, and one after the other over one connection."""
    async with ways(forwarded) as tunnel, aiohttp.ClientSession() as session:
        address = (await tunnel.to("chat-0")).replace("https", "http")

        async def ask() -> int:
            async with session.get(address) as response:
                return len(await response.read())

        assert await asyncio.gather(*(ask() for _ in range(4))) == [200_000] * 4
        assert await ask() == 200_000
        assert (await tunnel.to("chat-0")).replace("https", "http") == address
        assert tunnel.failure is None


async def test_a_port_without_a_listener_is_reported() -> None:
    """In the kubelet's words."""
    async with ways(failing) as tunnel:
        with pytest.raises(aiohttp.ClientError):
            await get(tunnel)
        assert tunnel.failure == "no port-forward to pod chat-0: error forwarding port 8081: connection refused"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (403, "needs get and create of pods/portforward in namespace here"),
        (404, "no port-forward to pod chat-0: it is gone, or its node is"),
        (502, "no port-forward to pod chat-0: the API server answers 502"),
    ],
)
async def test_a_port_forward_that_is_refused_says_which_right_is_missing(status: int, expected: str) -> None:
    """Or what else it is."""

    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=status)

    async with ways(refuse) as tunnel:
        with pytest.raises(aiohttp.ClientError):
            await get(tunnel)
        assert expected in str(tunnel.failure)
