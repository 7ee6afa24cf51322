"""Clients without the secret cannot hold the management port's connections for long."""

import asyncio
import logging
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from shard_worker.contract import Done
from shard_worker.contract_tls import INTERNAL_NAME
from shard_worker.gateway.management import server as management_module
from shard_worker.gateway.management.server import ManagementPort
from shard_worker.peers import listener as listener_module
from shard_worker.peers import refusals as refusals_module
from shard_worker.peers.errors import PeerUnreachable
from shard_worker.peers.refusals import Refusals, Refused
from tests.fakes.management_view import MemoryView
from tests.peers.harness import Owner, ask, client, port_of
from tests.support.management_port import serving
from tests.support.polling import eventually
from tests.support.tls import SECRET

GET = b"GET /cluster HTTP/1.1\r\nHost: x\r\n\r\n"


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def connections(port: int, count: int, sent: bytes = b"") -> list[socket.socket]:
    """Connections that say no more than this."""
    made = []
    for _ in range(count):
        made.append(socket.create_connection(("127.0.0.1", port)))
        made[-1].setblocking(False)
        if sent:
            made[-1].send(sent)
    return made


def ended(sock: socket.socket) -> bool:
    """Whether the other side has closed a connection."""
    try:
        while sock.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    return True


@asynccontextmanager
async def crowd(port: int, count: int, sent: bytes = b"") -> AsyncIterator[list[socket.socket]]:
    """Connections that are closed at the end, and then leave no descriptor behind."""
    made = connections(port, count, sent)
    try:
        yield made
    finally:
        for each in made:
            each.close()


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00"], ids=["nothing", "a byte", "half a hello"])
async def test_a_connection_that_chooses_nothing_is_closed(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """Timed from the accept; the descriptors come back."""
    monkeypatch.setattr(listener_module, "PATIENCE_S", 0.3)
    async with port_of(Owner()) as port:
        before = descriptors()
        async with crowd(port.number, 20, sent) as made:
            await eventually(lambda: all(map(ended, made)))
            assert port.listener.unproven == 0
            assert sum(port.listener.refusals.counts.values()) == 20
        await eventually(lambda: descriptors() <= before + 1, what="descriptors; libuv keeps one of /dev/null")


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00"], ids=["silent", "half a hello"])
async def test_a_crowd_keeps_no_peer_out(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """The oldest unproven one goes for a new one; the log has a line a second, with a count."""
    monkeypatch.setattr(listener_module, "_UNPROVEN_MOST", 8)
    lines: list[logging.LogRecord] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record)

    handler = Keeping()
    refusals_module.log.addHandler(handler)
    try:
        async with port_of(Owner()) as port, crowd(port.number, 60, sent) as made, client() as peer:
            await eventually(lambda: sum(map(ended, made)) >= 52)
            assert port.listener.unproven <= 8
            answers = [await ask(peer, port.number, number) for number in range(5)]
            assert answers == [Done(number) for number in range(5)]
            assert port.listener.refusals.counts[Refused.CROWDED] >= 52
            assert len(lines) < 10
            assert all(getattr(line, "count", 0) > 0 for line in lines)
    finally:
        refusals_module.log.removeHandler(handler)


async def test_handshakes_without_a_certificate_keep_no_peer_out() -> None:
    """A client may begin as many as it likes: they are begun a few at a time, and a peer's is among them."""
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.check_hostname = False
    anonymous.verify_mode = ssl.CERT_NONE

    async def knock(port: int) -> None:
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=anonymous, server_hostname=INTERNAL_NAME
            )
            await reader.read()
            writer.transport.abort()
        except OSError:
            return

    async with port_of(Owner()) as port, client() as peer:
        knocking = [asyncio.create_task(knock(port.number)) for _ in range(100)]
        async with asyncio.timeout(15):
            while True:
                try:
                    assert await ask(peer, port.number, 7) == Done(7)
                    break
                except PeerUnreachable:  # all of these ends share one loop
                    await asyncio.sleep(0.02)
        assert not all(task.done() for task in knocking)
        await asyncio.gather(*knocking)
        assert sum(port.listener.refusals.counts.values()) >= 100
        await eventually(lambda: port.listener.unproven == 0)


async def test_running_out_of_descriptors_is_logged_once_and_passes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Counted each time; what is accepted later is served."""
    monkeypatch.setattr(listener_module, "_FULL_S", 0.05)
    async with port_of(Owner()) as port:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        async with crowd(port.number, 3, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) as made:
            highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest, limits[1]))
            holes = []
            try:
                while True:  # take what is free below the limit
                    try:
                        holes.append(socket.socket())
                    except OSError:
                        break
                await eventually(lambda: port.listener.descriptors_exhausted >= 3)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                for each in holes:
                    each.close()
            await eventually(lambda: all(map(ended, made)), what="served")
        lines = [each for each in caplog.records if "ran out of file descriptors" in each.getMessage()]
        assert len(lines) == 1


async def test_a_first_frame_that_is_none_ends_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from a client with the secret; an unproven one never comes so far."""
    async with port_of(Owner()) as port:
        async with client() as peer:
            context = peer._identity.client_context()
        name = f"{port.identity._incarnation().lower()}.peer"
        for sent in (b"\x00" * 9, b"\xff" * 20, b"\x00\x00\x00\x00\x03\x00\x00\x00\x00"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port.number, ssl=context, server_hostname=name)
            writer.write(sent)
            async with asyncio.timeout(10):
                with suppress(ConnectionResetError):
                    await reader.read()
            writer.transport.abort()
        assert port.listener.refusals.counts[Refused.FRAME] == 0, "of another set"
        assert port.peers.refusals.counts[Refused.FRAME] == 3


class Large(MemoryView):
    """A cluster with much to say."""

    def cluster(self) -> dict[str, object]:
        return {"workers": ["x" * 8_000_000], "shards": []}


async def test_answers_that_are_not_read_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection with the most of them goes first, also when all requests come in one turn."""
    monkeypatch.setattr(management_module, "_UNREAD_MOST", 20_000_000)
    refusals = Refusals()
    port = ManagementPort(Large(), refusals=refusals)
    with serving(port, SECRET) as number:
        made = []
        for _ in range(12):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            sock.connect(("127.0.0.1", number))
            sock.setblocking(False)
            sock.send(GET[:5])
            made.append(sock)
        await eventually(lambda: port._plain is not None and len(port._plain.connections) == len(made))
        held = [0]
        has_place_for = port._has_place_for

        def note_unread(coming: int) -> bool:
            placed = has_place_for(coming)
            connections = [] if port._plain is None else port._plain.connections
            unread = sum(each.transport.get_write_buffer_size() for each in connections if each.transport)
            held.append(unread + coming * placed)
            return placed

        monkeypatch.setattr(port, "_has_place_for", note_unread)
        for sock in made:
            sock.send(GET[5:])
        await eventually(lambda: len(held) > len(made))
        assert refusals.counts[Refused.UNREAD] >= 3
        assert 15_000_000 <= max(held) <= 40_000_000
        for sock in made:
            sock.close()


async def test_plain_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """For one more the oldest idle one is closed: a probe is always answered."""
    monkeypatch.setattr(management_module, "_PLAIN_MOST", 8)
    port = ManagementPort(MemoryView())
    with serving(port, SECRET) as number:
        async with crowd(number, 30, GET) as made:
            await eventually(lambda: sum(map(ended, made)) >= 22)
            assert port._plain is not None
            await eventually(lambda: port._plain is not None and len(port._plain.connections) <= 8)
            assert not ended(made[-1])
