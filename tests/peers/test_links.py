"""Client and server of frames over real sockets, on asyncio's loop and on uvloop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from shard_worker.contract import Done
from shard_worker.peers import client as client_module
from shard_worker.peers import listener as listener_module
from shard_worker.peers.client import PeerClient
from shard_worker.peers.errors import PeerOverloaded, PeerUnreachable
from shard_worker.peers.frames import Hello
from shard_worker.peers.server import PeerServer
from tests.peers.harness import ASKING, Owner, ask, port_of
from tests.support.polling import eventually
from tests.support.tcp_proxy import TcpProxy
from tests.support.tls import hello, identity


@asynccontextmanager
async def listening(owner: Owner) -> AsyncIterator[tuple[int, PeerServer]]:
    """A port that carries frames and HTTP."""
    async with port_of(owner) as port:
        yield port.number, port.peers


def client(*secrets: bytes) -> PeerClient:
    """Another worker."""
    return PeerClient(identity(*secrets, incarnation=ASKING), hello)


async def test_a_thousand_requests_share_one_connection() -> None:
    """Answered out of order, each caller gets its own answer."""
    owner, peer = Owner(), client()
    async with listening(owner) as (port, _):
        await ask(peer, port)  # the connection is there
        owner.hold = True
        asks = [asyncio.create_task(ask(peer, port, number, budget_s=60.0)) for number in range(1000)]
        await eventually(lambda: len(owner.held) == 1000)
        for number, future in reversed(owner.held):
            future.set_result(Done(number))
        assert await asyncio.gather(*asks) == [Done(number) for number in range(1000)]
        await peer.close()


async def test_a_greeting_reaches_whichever_incarnation_is_at_an_address() -> None:
    """Each side has the other's first frame, a stranger learns nothing, and an address that is gone is no error."""
    owner, heard = Owner(), list[Hello]()
    peer = PeerClient(identity(incarnation=ASKING), hello, heard=heard.append)
    stranger = PeerClient(identity(b"another secret entirely", incarnation=ASKING), hello, heard=heard.append)
    async with listening(owner) as (port, server):
        greeted: list[Hello] = []
        server.heard = greeted.append
        await peer.greet([("127.0.0.1", port)])
        await eventually(lambda: len(greeted) == 1)
        assert heard == [server.hello()]
        await stranger.greet([("127.0.0.1", port)])
        assert len(heard) == 1
        assert owner.served == 0
    await peer.greet([("127.0.0.1", port)])
    await peer.close()
    await stranger.close()


async def test_http_and_frames_share_one_port() -> None:
    """The first bytes decide."""
    owner, peer = Owner(), client()
    async with listening(owner) as (port, _):
        assert await ask(peer, port, 5) == Done(5)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"http")
        writer.close()
        await peer.close()


async def test_a_wrong_secret_gets_nothing_and_says_nothing_was_sent() -> None:
    """Neither side trusts the other."""
    owner, peer = Owner(), client(b"another secret entirely")
    async with listening(owner) as (port, _):
        with pytest.raises(PeerUnreachable) as caught:
            await ask(peer, port)
        assert not caught.value.sent
        assert owner.served == 0
        await peer.close()


@pytest.mark.parametrize(
    "raw",
    [b"TCF1\x01" + b"n" * 16 + b"p" * 32, b"\x16\x03\x01" + b"n" * 200, b"\x16", b"\x00" * 50],
    ids=["plain peer of before", "no ClientHello", "half a record", "zeros"],
)
async def test_a_stranger_is_disconnected(raw: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames in the clear reach HTTP, which has no such method; TLS that is none ends within the patience."""
    monkeypatch.setattr(listener_module, "PATIENCE_S", 0.3)
    owner = Owner()
    async with listening(owner) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw + b"\r\n\r\n" if raw[:1] != b"\x16" else raw)
        with suppress(ConnectionResetError):
            async with asyncio.timeout(5):
                while await reader.read(100):
                    pass
        assert owner.served == 0
        writer.close()


async def test_an_unreachable_peer_was_sent_nothing() -> None:
    """So the request may be asked elsewhere."""
    peer = client()
    async with listening(Owner()) as (port, _):
        pass
    with pytest.raises(PeerUnreachable) as caught:
        await ask(peer, port)
    assert not caught.value.sent
    await peer.close()


async def test_a_request_to_a_peer_that_dies_has_an_unknown_outcome() -> None:
    """So a command's outcome is unknown; and the next request finds a new connection."""
    owner, peer = Owner(hold=True), client()
    async with listening(owner) as (port, _), TcpProxy("127.0.0.1", port) as proxy:
        asking = asyncio.create_task(ask(peer, proxy.port))
        await eventually(lambda: bool(owner.held))
        proxy.cut()
        with pytest.raises(PeerUnreachable) as caught:
            await asking
        assert caught.value.sent
        owner.hold = False
        assert await ask(peer, proxy.port, 3) == Done(3)
        await peer.close()


async def test_a_budget_ends_a_wait() -> None:
    """A request that is not answered in time may have been done."""
    owner, peer = Owner(), client()
    async with listening(owner) as (port, _):
        await ask(peer, port)  # the connection is there
        owner.hold = True
        with pytest.raises(PeerUnreachable) as caught:
            await ask(peer, port, budget_s=0.1)
        assert caught.value.sent
        owner.held[0][1].set_result(Done(1))  # too late: no request waits, and nothing breaks
        owner.hold = False
        assert await ask(peer, port, 2) == Done(2)
        await peer.close()


async def test_a_silent_peer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is open and dead does not hold its callers until their budgets end."""
    monkeypatch.setattr(client_module, "_SILENT_S", 0.3)
    owner, peer = Owner(), client()
    async with listening(owner) as (port, _), TcpProxy("127.0.0.1", port) as proxy:
        assert await ask(peer, proxy.port) == Done(1)
        proxy.stall()
        began = asyncio.get_running_loop().time()
        with pytest.raises(PeerUnreachable):
            await ask(peer, proxy.port, budget_s=30.0)
        assert asyncio.get_running_loop().time() - began < 10
        await peer.close()


async def test_more_than_the_window_is_refused_unsent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-pressure instead of a queue without end."""
    monkeypatch.setattr(client_module, "_WINDOW", 3)
    owner, peer = Owner(hold=True), client()
    async with listening(owner) as (port, _):
        asks = [asyncio.create_task(ask(peer, port, number)) for number in range(3)]
        await eventually(lambda: len(owner.held) == 3)
        with pytest.raises(PeerOverloaded):
            await ask(peer, port)
        for number, future in owner.held:
            future.set_result(Done(number))
        await asyncio.gather(*asks)
        await peer.close()


async def test_a_server_that_closes_answers_first_what_it_took() -> None:
    """Requests of before the close are answered within its grace."""
    owner, peer = Owner(hold=True), client()
    async with listening(owner) as (port, server):
        asking = asyncio.create_task(ask(peer, port, 8))
        await eventually(lambda: bool(owner.held))
        closing = asyncio.create_task(server.close(5.0))
        owner.held[0][1].set_result(Done(8))
        assert await asking == Done(8)
        await closing
        await peer.close()


async def test_after_a_goodbye_nothing_more_is_sent_and_nothing_is_lost() -> None:
    """The client has its answers, hangs up, and finds no other way in: what comes next was never sent."""
    owner, peer = Owner(hold=True), client()
    async with listening(owner) as (port, server):
        asked = asyncio.create_task(ask(peer, port, 1))
        await eventually(lambda: len(owner.held) == 1)
        closing = asyncio.create_task(server.close(5.0))
        (link,) = [task.result() for task in peer._links.values()]
        await eventually(lambda: link.closed)
        with pytest.raises(PeerUnreachable) as refused:
            await ask(peer, port, 2)
        assert not refused.value.sent
        assert not closing.done(), "an answer is still owed"
        owner.held[0][1].set_result(Done(1))
        assert await asked == Done(1)
        async with asyncio.timeout(2):
            await closing
    await peer.close()
