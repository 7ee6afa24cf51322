"""The cost of a hop between two workers, with and without TLS, beside aiohttp's: ``python -m tests.peers.hop_cost``.

Without TLS the same links run on a bare connection, whose ends are given certificates that were proved in memory.  Both ends of each run in this one process and on one loop, so that the processor time of the process is the cost of both
sides.  The kinds are measured in turns, and the median of the rounds is printed: a shared machine is never the same twice.
"""

import asyncio
import ssl
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, cast

import aiohttp
import uvloop
from aiohttp import web

from shard_worker.contract import CommandRequest, Done, PeerAnswer, PeerRequest
from shard_worker.contract_tls import peer_name
from shard_worker.domain.commands import AddMessages, NewMessage
from shard_worker.domain.ids import AccountId, MessageId, ThreadId
from shard_worker.gateway.public.server import listening_socket
from shard_worker.peers.client import PeerClient, _Peer, _PeerConnection
from shard_worker.peers.listener import ManagementListener
from shard_worker.peers.server import PeerServer
from tests.support.tls import INCARNATION, hello, identity

_IN_FLIGHT: Final = 64
_ASKS: Final = 20_000
_POSTS: Final = 4_000
_ROUNDS: Final = 5
_REQUEST: Final = CommandRequest(
    AddMessages(
        ThreadId("01HZZZZZZZZZZZZZZZZZZZZZZZ"),
        AccountId("01HYYYYYYYYYYYYYYYYYYYYYYY"),
        (NewMessage(MessageId("01HXXXXXXXXXXXXXXXXXXXXXXX"), "good morning, all", None, ()),),
        1_700_000_000_000,
    ),
    b"0123456789abcdef",
)
_ANSWER: Final = Done(12, (MessageId("01HXXXXXXXXXXXXXXXXXXXXXXX"),))


async def _cost_us(ask: Callable[[], Awaitable[object]], times: int) -> float:
    """Processor microseconds of one ``ask``, 64 of them always in flight."""

    async def caller() -> None:
        for _ in range(times // _IN_FLIGHT):
            await ask()

    began = time.process_time()
    await asyncio.gather(*(caller() for _ in range(_IN_FLIGHT)))
    return (time.process_time() - began) * 1e6 / (times // _IN_FLIGHT * _IN_FLIGHT)


class Figures(NamedTuple):
    """Microseconds of processor time of a hop, both ends together."""

    sealed_at_once: float
    """By frames in TLS, answered at once."""
    sealed: float
    """By frames in TLS, answered in a later turn, as a command is."""
    bare: float
    """By the same frames without TLS."""
    http: float
    """By aiohttp's client, without TLS."""


def _proved() -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a handshake in memory: client and server."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    worker = identity()
    client = worker.client_context().wrap_bio(to_client, to_server, server_hostname=peer_name(INCARNATION))
    server = worker.server_context.wrap_bio(to_server, to_client, server_side=True)
    for end in (client, server, client, server):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client, server


class _Bare(asyncio.Protocol):
    """Gives a link a transport without TLS that shows a proved end."""

    def __init__(self, link: asyncio.Protocol, proved: ssl.SSLObject) -> None:
        self._link = link
        self._proved = proved

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        bare = cast("asyncio.Transport", transport)
        bare.set_protocol(self._link)
        self._link.connection_made(cast("asyncio.Transport", _Shown(bare, self._proved)))


class _Shown:
    """A transport, but for what it says of TLS."""

    def __init__(self, transport: asyncio.Transport, proved: ssl.SSLObject) -> None:
        self._transport = transport
        self._proved = proved
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.get_write_buffer_size = transport.get_write_buffer_size

    def get_extra_info(self, name: str) -> object:
        return self._proved if name == "ssl_object" else self._transport.get_extra_info(name)

    def __getattr__(self, name: str) -> Any:  # whatever else a link does with its transport
        return getattr(self._transport, name)


class _BareClient(PeerClient):
    """A client that connects without TLS."""

    async def _connect(self, peer: _Peer) -> _PeerConnection:
        link = _PeerConnection(hello(), lambda _: None)
        await asyncio.get_running_loop().create_connection(lambda: _Bare(link, _proved()[0]), peer.host, peer.port)
        await link.ready
        return link


async def measure(rounds: int = _ROUNDS, asks: int = _ASKS, posts: int = _POSTS) -> Figures:
    """The median of each kind."""
    loop = asyncio.get_running_loop()
    later = False

    def handler(
        request: PeerRequest, budget_s: float, epoch_known: int, hops: int
    ) -> "PeerAnswer | asyncio.Future[PeerAnswer]":
        if not later:
            return _ANSWER
        future: asyncio.Future[PeerAnswer] = loop.create_future()
        loop.call_soon(future.set_result, _ANSWER)
        return future

    async def http_handler(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response(body=b'{"sequenceNr":12}', content_type="application/json")

    http = web.Server(http_handler, access_log=None)
    peers = PeerServer(handler, hello)
    listener = ManagementListener(identity(), plain=http, internal=http, peer=peers.protocol)
    with listening_socket("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        listener.start(bound)
    bare = await loop.create_server(lambda: _Bare(peers.protocol(), _proved()[1]), "127.0.0.1", 0)
    bare_port = bare.sockets[0].getsockname()[1]
    sealed_client, bare_client = PeerClient(identity(), hello), _BareClient(identity(), hello)
    figures: list[list[float]] = [[], [], [], []]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=_IN_FLIGHT)) as session:

        async def by_frames(client: PeerClient, to: int) -> object:
            return await client.ask(
                ("127.0.0.1", to), _REQUEST, incarnation=INCARNATION, budget_s=5.0, shard_id=7, epoch=3, hops=1
            )

        async def by_http() -> object:
            async with session.post(f"http://127.0.0.1:{port}/", data=b"x" * 200) as response:
                return await response.read()

        for _ in range(rounds):
            later = False
            figures[0].append(await _cost_us(lambda: by_frames(sealed_client, port), asks))
            later = True
            figures[1].append(await _cost_us(lambda: by_frames(sealed_client, port), asks))
            figures[2].append(await _cost_us(lambda: by_frames(bare_client, bare_port), asks))
            figures[3].append(await _cost_us(by_http, posts))
    await sealed_client.close()
    await bare_client.close()
    bare.close()
    listener.stop()
    await peers.close(0.1)
    await http.shutdown(0.1)
    return Figures(*map(statistics.median, figures))


def main() -> None:
    """Print the figures and their ratios."""
    found = uvloop.run(measure())
    print(f"frames in TLS, answered at once: {found.sealed_at_once:6.1f} µs a hop")
    print(
        f"frames in TLS, answered later:   {found.sealed:6.1f} µs a hop   {found.sealed / found.bare:5.2f} × without TLS"
    )
    print(
        f"frames without TLS:              {found.bare:6.1f} µs a hop   {found.bare / found.http:5.1%} of ClientSession"
    )
    print(f"aiohttp ClientSession:           {found.http:6.1f} µs a hop")


if __name__ == "__main__":
    main()
