"""The HTTP client, against bytes sent over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from tests.support.load.target import Target, TargetRefused, parse_target
from tests.support.load.wire import Connection, Lost, request_bytes


@asynccontextmanager
async def _answering(pieces: Sequence[bytes], *, then_close: bool = False) -> AsyncIterator[Target]:
    """A server that answers every request with these pieces, each written on its own."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                if then_close:
                    break
        except asyncio.IncompleteReadError:
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield parse_target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()


@pytest.mark.parametrize(
    ("pieces", "status", "body"),
    [
        pytest.param([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"], 200, b"hi", id="whole"),
        pytest.param([b"HTTP/1.1 404 No\r\ncontent-length:3\r\n\r\n", b"a", b"bc"], 404, b"abc", id="in pieces"),
        pytest.param([b"HTTP/1.1 2", b"00 OK\r\nContent-Le", b"ngth: 1\r\n\r\nx"], 200, b"x", id="cut in the head"),
        pytest.param([b"HTTP/1.1 204 No Content\r\n\r\n"], 204, b"", id="no body"),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"2;x=y\r\nde\r\n0\r\n\r\n"],
            200,
            b"abcde",
            id="chunked",
        ),
    ],
)
async def test_a_reply_is_read_whole(pieces: list[bytes], status: int, body: bytes) -> None:
    """However a reply is cut into pieces, status and body come out whole, twice over one connection."""
    async with _answering(pieces) as target:
        connection = await Connection.open(target)
        for _ in range(2):
            reply = await connection.ask(request_bytes("GET", "/", target.authority), 5)
            assert (reply.status, reply.body) == (status, body)
        connection.close()


async def test_a_connection_with_close_is_not_used_again() -> None:
    """After ``Connection: close`` the reply is given, and another request is refused as not sent."""
    async with _answering([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"]) as target:
        connection = await Connection.open(target)
        assert (await connection.ask(request_bytes("GET", "/", target.authority), 5)).status == 200
        assert not connection.usable
        with pytest.raises(Lost) as lost:
            await connection.ask(b"GET / HTTP/1.1\r\n\r\n", 5)
        assert not lost.value.sent


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"], id="ends in the body"),
        pytest.param([b"nonsense\r\n\r\n"], id="not HTTP"),
        pytest.param([], id="says nothing"),
    ],
)
async def test_an_end_without_a_reply_is_lost_after_sending(pieces: list[bytes]) -> None:
    """A request that was written and got no whole reply may have had its effect."""
    async with _answering(pieces, then_close=True) as target:
        connection = await Connection.open(target)
        with pytest.raises(Lost) as lost:
            await connection.ask(request_bytes("POST", "/", target.authority, b"{}"), 5)
        assert lost.value.sent


async def test_silence_is_lost_after_its_time() -> None:
    """A reply that does not come is given up, and the connection is not used again."""
    async with _answering([]) as target:
        connection = await Connection.open(target)
        with pytest.raises(Lost, match="in time") as lost:
            await connection.ask(request_bytes("GET", "/", target.authority), 0.05)
        assert lost.value.sent
        assert not connection.usable


async def test_a_port_without_a_listener_is_not_sent() -> None:
    """A failed connect sent nothing."""
    async with _answering([]) as target:
        pass
    with pytest.raises(Lost) as lost:
        await Connection.open(target)
    assert not lost.value.sent


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "http://localhost:1", "http://[::1]:9", "127.8.9.1:80"])
def test_loopback_is_accepted(url: str) -> None:
    """This machine is a target without being asked twice."""
    assert parse_target(url).port


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://192.0.2.7:8080", "not this machine"),
        ("ftp://127.0.0.1", "only http"),
        ("http://127.0.0.1/v1", "without a path"),
        ("http://127.0.0.1:99999", "out of range"),
        ("http://", "no host"),
    ],
)
def test_other_targets_are_refused_by_name(url: str, reason: str) -> None:
    """A remote host or a malformed URL is refused with the reason."""
    with pytest.raises(TargetRefused, match=reason):
        parse_target(url)


def test_a_remote_host_is_allowed_on_demand() -> None:
    """An option allows other targets."""
    assert parse_target("http://192.0.2.7:8080", allow_remote=True).host == "192.0.2.7"
