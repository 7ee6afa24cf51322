"""A worker's management port with a played owner behind it, and a peer that asks it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from shard_worker.contract import Done, PeerAnswer, PeerRequest, ReadThread
from shard_worker.domain.ids import AccountId, ThreadId
from shard_worker.gateway.public.server import listening_socket
from shard_worker.peers.client import PeerClient
from shard_worker.peers.identity import WorkerIdentity
from shard_worker.peers.listener import ManagementListener
from shard_worker.peers.server import PeerServer
from tests.support.tls import INCARNATION, hello, identity

READ = ReadThread(ThreadId("01HZZZZZZZZZZZZZZZZZZZZZZZ"), AccountId("01HYYYYYYYYYYYYYYYYYYYYYYY"), 0)
ASKING = "01HVVVVVVVVVVVVVVVVVVVVVVV"
"""The incarnation of the worker that asks."""


@dataclass
class Owner:
    """Answers with the request's own number, at once or when released."""

    held: list[tuple[int, "asyncio.Future[PeerAnswer]"]] = field(default_factory=list)
    hold: bool = False
    requests: list[PeerRequest] = field(default_factory=list)

    def __call__(
        self, request: PeerRequest, budget_s: float, epoch_known: int, hops: int
    ) -> "PeerAnswer | asyncio.Future[PeerAnswer]":
        self.requests.append(request)
        if not self.hold:
            return self.answer(epoch_known)
        future: asyncio.Future[PeerAnswer] = asyncio.get_running_loop().create_future()
        self.held.append((epoch_known, future))
        return future

    def answer(self, number: int) -> PeerAnswer:
        """Its answer."""
        return Done(number)

    @property
    def served(self) -> int:
        """How many requests came."""
        return len(self.requests)


@dataclass
class Port:
    """A port that carries frames and HTTP."""

    number: int
    peers: PeerServer
    listener: ManagementListener
    identity: WorkerIdentity


@asynccontextmanager
async def port_of(owner: Owner, *secrets: bytes) -> AsyncIterator[Port]:
    """The port of a worker that holds these values of the secret."""

    async def hello_http(_: web.BaseRequest) -> web.Response:
        return web.Response(text="http")

    http = web.Server(hello_http)
    peers, worker = PeerServer(owner, hello), identity(*secrets)
    listener = ManagementListener(worker, plain=http, internal=http, peer=peers.protocol)
    with listening_socket("127.0.0.1", 0) as bound:
        number: int = bound.getsockname()[1]
        listener.start(bound)
    try:
        yield Port(number, peers, listener, worker)
    finally:
        listener.stop()
        await peers.close(0.1)
        await http.shutdown(0.1)


@asynccontextmanager
async def client(*secrets: bytes) -> AsyncIterator[PeerClient]:
    """Another worker, which holds these values of the secret."""
    made = PeerClient(identity(*secrets, incarnation=ASKING), hello)
    try:
        yield made
    finally:
        await made.close()


async def ask(
    peer: PeerClient,
    port: int,
    number: int = 1,
    budget_s: float = 5.0,
    request: PeerRequest = READ,
    incarnation: str = INCARNATION,
) -> PeerAnswer:
    """One request that says its number as the epoch."""
    return await peer.ask(
        ("127.0.0.1", port), request, incarnation=incarnation, budget_s=budget_s, shard_id=0, epoch=number, hops=1
    )
