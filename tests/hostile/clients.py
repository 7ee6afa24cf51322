"""Hostile clients: slow and silent ones, those that do not read, and those that come in numbers."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final

from tests.hostile.inputs import HostileInput, Port

_THREAD: Final = "01BX5ZZKBKACTAV9WEVGEMMVRZ"
_GET: Final = b"GET /nothing HTTP/1.1\r\nHost: test\r\n\r\n"
_DOCUMENT: Final = b"GET /openapi.json HTTP/1.1\r\nHost: test\r\n\r\n"
_METRICS: Final = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n"
_POST: Final = (
    b"POST /v1/threads/%b/messages/add HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n%%b\r\n"
    % _THREAD.encode()
)
_PATIENCE_S: Final = 6.0
"""Longer than the worker of the corpus waits for a request, so that its end is seen."""


@asynccontextmanager
async def _connected(host: str, port: int, count: int) -> AsyncIterator[list[asyncio.StreamWriter]]:
    """A number of connections whose client does not read."""
    made: list[asyncio.StreamWriter] = []

    async def connect() -> None:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(host, port, limit=1024)
            made.append(writer)

    await asyncio.gather(*(connect() for _ in range(count)))
    try:
        yield made
    finally:
        for writer in made:
            writer.transport.abort()


async def _ended(writers: list[asyncio.StreamWriter], within_s: float = _PATIENCE_S) -> None:
    """Return when the server has closed them all, or when the time is over."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while not all(writer.transport.is_closing() for writer in writers):
                await asyncio.sleep(0.02)


async def _hold(host: str, port: int, *, first: bytes, count: int, for_s: float = _PATIENCE_S) -> None:
    """Send something and nothing more, on a number of connections, until the server ends them."""
    async with _connected(host, port, count) as writers:
        for writer in writers:
            writer.write(first)
        await _ended(writers, for_s)


async def _drip(host: str, port: int, *, first: bytes, drop: bytes, count: int = 4) -> None:
    """Send a few bytes again and again."""
    async with _connected(host, port, count) as writers:
        for writer in writers:
            writer.write(first)
        for _ in range(150):
            open_ones = [writer for writer in writers if not writer.transport.is_closing()]
            for writer in open_ones:
                writer.write(drop)
            if not open_ones:
                return
            await asyncio.sleep(0.02)


async def _flood(host: str, port: int, *, first: bytes, megabytes: int, count: int = 1) -> None:
    """Send as many bytes as the server takes, up to a limit a connection."""
    piece = b"\x81" * (1 << 18)

    async def pour() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_PATIENCE_S):
                    writer.write(first)
                    for _ in range(megabytes * 4):
                        writer.write(piece)
                        await writer.drain()
                    await reader.read()
        finally:
            writer.transport.abort()

    await asyncio.gather(*(pour() for _ in range(count)))


async def _never_read(host: str, port: int, *, asked: bytes, times: int, count: int, for_s: float = 3.0) -> None:
    """Ask for much, and read nothing."""
    loop = asyncio.get_running_loop()
    mute: list[socket.socket] = []
    try:
        for _ in range(count):
            one = socket.socket()
            mute.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.setblocking(False)
            with suppress(OSError):
                await loop.sock_connect(one, (host, port))
        for one in mute:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(0.5):
                    await loop.sock_sendall(one, asked * times)
        await asyncio.sleep(for_s)
    finally:
        for one in mute:
            one.close()


async def _read_slowly(host: str, port: int, *, asked: bytes, times: int, count: int) -> None:
    """Ask for much, and read a little at a time."""

    async def read() -> None:
        reader, writer = await asyncio.open_connection(host, port, limit=4096)
        try:
            with suppress(OSError):
                writer.write(asked * times)
                for _ in range(60):
                    if not await reader.read(1024):
                        return
                    await asyncio.sleep(0.03)
        finally:
            writer.transport.abort()

    await asyncio.gather(*(read() for _ in range(count)))


async def _half_close(host: str, port: int, *, sent: bytes, count: int = 20) -> None:
    """Send, close one's half, and read what comes."""

    async def ask() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            with suppress(OSError, TimeoutError):
                writer.write(sent)
                writer.write_eof()
                async with asyncio.timeout(_PATIENCE_S):
                    await reader.read()
        finally:
            writer.transport.abort()

    await asyncio.gather(*(ask() for _ in range(count)))


async def _come_and_go(host: str, port: int, *, sent: bytes, times: int) -> None:
    """Connect, send, and reset the connection, again and again."""
    for _ in range(times // 20):
        async with _connected(host, port, 20) as writers:
            for writer in writers:
                writer.write(sent)
            await asyncio.sleep(0)


_WAITING: Final = _POST % b"Content-Length: 100000\r\n"
_LARGE: Final = (_POST % b"Content-Length: 1000000\r\n") + b" " * 900_000
_CHUNKED: Final = _POST % b"Transfer-Encoding: chunked\r\n"
_UPGRADE: Final = b"GET /nothing HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
_CONNECT: Final = b"CONNECT test:80 HTTP/1.1\r\nHost: test\r\n\r\n"
_LAST: Final = b"GET /openapi.json HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
_HEAD_64_KB: Final = b"GET /nothing HTTP/1.1\r\nHost: test\r\n" + b"".join(
    b"X%d: %b\r\n" % (i, b"a" * 8_000) for i in range(7)
)

ACTS: Final[dict[str, Callable[[str, int], Awaitable[None]]]] = {
    "nothing-is-sent": partial(_hold, first=b"", count=20),
    "half-a-head-at-once": partial(_hold, first=b"GET /docs HTTP/1.1\r\nHost:", count=20),
    "half-a-head-behind-a-request": partial(_hold, first=_GET + b"GET /docs HTT", count=20),
    "half-a-head-behind-a-post": partial(
        _hold, first=(_POST % b"Content-Length: 2\r\n") + b"[]GET /docs HTT", count=20
    ),
    "half-a-line-end": partial(_hold, first=b"GET /docs HTTP/1.1\r\nHost: test\r\n\r", count=20),
    "body-that-does-not-begin": partial(_hold, first=_WAITING, count=20),
    "body-that-stops": partial(_hold, first=_WAITING + b"{" * 500, count=20),
    "body-that-stops-behind-a-request": partial(_hold, first=_GET + _WAITING + b"{", count=20),
    "body-that-waits-for-a-go-ahead": partial(
        _hold, first=_POST % b"Content-Length: 9\r\nExpect: 100-continue\r\n", count=20
    ),
    "chunk-that-stops": partial(_hold, first=_CHUNKED + b"ff\r\n{", count=20),
    "chunk-size-that-stops": partial(_hold, first=_CHUNKED + b"2\r\n[]\r\n0", count=20),
    "trailer-that-stops": partial(_hold, first=_CHUNKED + b"2\r\n[]\r\n0\r\nX: ", count=20),
    "upgrade-that-stops": partial(_hold, first=_UPGRADE, count=20),
    "keep-alive-and-nothing-more": partial(_hold, first=_GET, count=200, for_s=1.0),
    "head-that-drips": partial(_drip, first=b"GET /docs HTTP/1.1\r\nHost: test\r\nX: ", drop=b"y"),
    "fields-that-drip": partial(_drip, first=b"GET /docs HTTP/1.1\r\nHost: test\r\n", drop=b"X: y\r\n"),
    "line-ends-that-drip": partial(_drip, first=b"", drop=b"\r\n"),
    "body-that-drips": partial(_drip, first=_WAITING, drop=b" "),
    "chunks-that-drip": partial(_drip, first=_CHUNKED, drop=b"1\r\n \r\n"),
    "chunk-extension-that-drips": partial(_drip, first=_CHUNKED + b"1;", drop=b"a"),
    "trailers-that-drip": partial(_drip, first=_CHUNKED + b"0\r\n", drop=b"X: y\r\n"),
    "requests-that-drip": partial(_drip, first=b"", drop=_GET[:7]),
    "bytes-behind-an-upgrade": partial(_flood, first=_UPGRADE, megabytes=32, count=4),
    "bytes-behind-a-connect": partial(_flood, first=_CONNECT, megabytes=32, count=4),
    "bytes-behind-the-last-request": partial(_flood, first=_LAST, megabytes=32, count=4),
    "bytes-behind-nonsense": partial(_flood, first=b"nonsense\r\n\r\n", megabytes=32, count=4),
    "bytes-of-a-refused-body": partial(_flood, first=_POST % b"Content-Length: 999999999\r\n", megabytes=32, count=4),
    "bytes-of-an-unknown-path": partial(
        _flood, first=b"POST /nothing HTTP/1.1\r\nHost: test\r\nContent-Length: 99999999\r\n\r\n", megabytes=32, count=4
    ),
    "withheld-bodies-200": partial(_hold, first=_LARGE, count=200),
    "withheld-heads-200": partial(_hold, first=_HEAD_64_KB, count=200),
    "documents-never-read": partial(_never_read, asked=_DOCUMENT, times=500, count=24),
    "last-documents-never-read": partial(_never_read, asked=_LAST, times=1, count=100, for_s=1.0),
    "documents-read-slowly": partial(_read_slowly, asked=_DOCUMENT, times=100, count=24),
    "half-closed-behind-a-get": partial(_half_close, sent=_GET),
    "half-closed-behind-ten-gets": partial(_half_close, sent=_GET * 10),
    "half-closed-behind-a-post": partial(_half_close, sent=(_POST % b"Content-Length: 2\r\n") + b"[]"),
    "half-closed-within-a-head": partial(_half_close, sent=_GET[:20]),
    "half-closed-within-a-body": partial(_half_close, sent=_WAITING + b"{"),
    "half-closed-within-a-chunk": partial(_half_close, sent=_CHUNKED + b"ff\r\n{"),
    "half-closed-behind-an-upgrade": partial(_half_close, sent=_UPGRADE + b"x" * 1_000),
    "half-closed-and-nothing-sent": partial(_half_close, sent=b""),
    "come-and-go-without-a-byte": partial(_come_and_go, sent=b"", times=400),
    "come-and-go-within-a-head": partial(_come_and_go, sent=_GET[:20], times=400),
    "come-and-go-within-a-body": partial(_come_and_go, sent=_LARGE[:70_000], times=200),
    "come-and-go-behind-a-request": partial(_come_and_go, sent=_DOCUMENT, times=400),
    "more-connections-than-allowed": partial(_hold, first=b"", count=700, for_s=1.5),
    "more-half-heads-than-allowed": partial(_hold, first=b"GET /docs HTT", count=700, for_s=1.5),
}
"""By name, on the public port."""

_ON_MANAGEMENT: Final = (
    *("nothing-is-sent", "half-a-head-at-once", "half-a-head-behind-a-request", "body-that-stops", "head-that-drips"),
    *("bytes-behind-an-upgrade", "bytes-behind-a-connect", "half-closed-behind-a-get", "come-and-go-without-a-byte"),
    *("come-and-go-within-a-head", "half-closed-and-nothing-sent", "withheld-heads-200"),
)
"""These are played on the management port too."""

INPUTS: Final = (
    *(HostileInput(name=name, act=act) for name, act in ACTS.items()),
    *(HostileInput(name=f"management-{name}", port=Port.MANAGEMENT, act=ACTS[name]) for name in _ON_MANAGEMENT),
    HostileInput(
        name="management-metrics-never-read",
        port=Port.MANAGEMENT,
        act=partial(_never_read, asked=_METRICS, times=200, count=24),
    ),
)
