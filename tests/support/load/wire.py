"""One keep-alive HTTP/1.1 connection, spoken by hand.

A load generator must cost less than what it measures: aiohttp's ``ClientSession`` takes longer for a request than the
worker takes to store a message.  This client writes ready bytes, reads a status, a length and a body, and does nothing
else: no pipelining, no redirects, no compression.  One request is in flight on a connection at a time.

`Exchange` is the protocol with a hook, for generators that live in callbacks; `Connection` is the awaitable form.  A
reply that cannot be parsed closes the connection: the boundaries of later replies are unknown.
"""

import asyncio
import ssl
from typing import Final, NamedTuple, cast

from tests.support.load.target import Target

_HEAD_END: Final = b"\r\n\r\n"
_BODILESS: Final = frozenset({204, 304})


class Reply(NamedTuple):
    """A reply: the status and the whole body."""

    status: int
    body: bytes


class Lost(Exception):
    """The connection ended without a reply.  ``sent`` is False only when no byte of the request can have left."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


def request_bytes(
    method: str, path: str, host: str, body: bytes | None = None, idempotency_key: str | None = None
) -> bytes:
    """A whole request, ready to be written."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    if idempotency_key is not None:
        lines.append(f"Idempotency-Key: {idempotency_key}")
    return "\r\n".join([*lines, "", ""]).encode("ascii") + (body or b"")


def _header(head: bytes, name: bytes) -> bytes | None:
    """The value of a header in a response head, lower-cased; None when it is not there."""
    lowered = head.lower()
    start = lowered.find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    end = lowered.find(b"\r\n", start)
    return lowered[start : end if end >= 0 else len(lowered)].strip()


def _unchunk(raw: bytes) -> bytes | None:
    """The body of a complete chunked message, or None while it is incomplete."""
    parts: list[bytes] = []
    position = 0
    while True:
        line_end = raw.find(b"\r\n", position)
        if line_end < 0:
            return None
        size = int(raw[position:line_end].split(b";")[0], 16)
        start = line_end + 2
        if len(raw) < start + size + 2:
            return None
        if size == 0:
            return b"".join(parts)
        parts.append(raw[start : start + size])
        position = start + size + 2


class Exchange(asyncio.Protocol):
    """The parsing half: turns received bytes into calls of `replied`, and the end of a connection into `ended`."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._need = 0

    def replied(self, status: int, body: bytes) -> None:
        """A whole reply was read."""
        raise NotImplementedError

    def ended(self, reason: str) -> None:
        """The connection is gone; nothing more will be called."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to write to."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's transports are no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the heir once."""
        self.transport = None
        self.ended(str(exc) if exc is not None else "closed by the server")

    def data_received(self, data: bytes) -> None:
        """Parse; the usual case is a whole reply in one piece."""
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._need:
                return
            data = bytes(self._buffer)
        try:
            self._parse(data)
        except (ValueError, IndexError):
            if self.transport is not None:
                self.transport.abort()

    def _parse(self, data: bytes) -> None:
        head_end = data.find(_HEAD_END)
        if head_end < 0:
            self._wait_for(data, len(data) + 1)
            return
        status = int(data[9:12])
        start = head_end + 4
        head = data[:head_end]
        at = head.find(b"\r\nContent-Length: ")
        if at >= 0:
            value_end = head.find(b"\r\n", at + 18)
            length = int(head[at + 18 : value_end if value_end >= 0 else head_end])
        elif (value := _header(head, b"content-length")) is not None:
            length = int(value)
        elif _header(head, b"transfer-encoding") == b"chunked":
            body = _unchunk(data[start:])
            if body is None:
                self._wait_for(data, len(data) + 1)
                return
            self._finish(head, status, body)
            return
        elif status in _BODILESS:
            length = 0
        else:
            raise ValueError("a reply without a length")
        if len(data) < start + length:
            self._wait_for(data, start + length)
            return
        self._finish(head, status, data[start : start + length])

    def _wait_for(self, data: bytes, need: int) -> None:
        if not self._buffer:
            self._buffer += data
        self._need = need

    def _finish(self, head: bytes, status: int, body: bytes) -> None:
        if self._buffer:
            self._buffer.clear()
        if b"close" in head[12:] and _header(head, b"connection") == b"close" and self.transport is not None:
            self.transport.close()
            self.transport = None
        self.replied(status, body)


class Connection(Exchange):
    """The awaitable half: `ask` one request at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._waiter: asyncio.Future[Reply] | None = None

    @classmethod
    async def open(cls, target: Target, timeout_s: float = 5.0) -> "Connection":
        """Connect; raises `Lost` with ``sent=False`` when that fails or takes longer than ``timeout_s``."""
        loop = asyncio.get_running_loop()
        tls = ssl.create_default_context() if target.tls else None
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await loop.create_connection(cls, target.host, target.port, ssl=tls)
        except (OSError, TimeoutError) as error:
            raise Lost(f"cannot connect to {target.url}: {error or 'timed out'}", sent=False) from error
        return connection

    @property
    def usable(self) -> bool:
        """Whether another request may be written."""
        return self.transport is not None and not self.transport.is_closing()

    async def ask(self, request: bytes, timeout_s: float = 10.0) -> Reply:
        """Write one request and wait for its reply; raises `Lost`.  After a time-out the connection is useless."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise Lost("the connection was closed while idle", sent=False)
        if self._waiter is not None:
            raise RuntimeError("a request is already in flight on this connection")
        waiter: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiter = waiter
        timer = asyncio.get_running_loop().call_later(timeout_s, self._expire, waiter)
        transport.write(request)
        try:
            return await waiter
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            timer.cancel()
            self._waiter = None

    def close(self) -> None:
        """Drop the connection now."""
        if self.transport is not None:
            self.transport.abort()
            self.transport = None

    def replied(self, status: int, body: bytes) -> None:
        """Wake the asker; an unexpected reply ends the connection."""
        if self._waiter is None or self._waiter.done():
            self.close()
            return
        self._waiter.set_result(Reply(status, body))

    def ended(self, reason: str) -> None:
        """Fail the asker: its request may have had its effect."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(Lost(reason, sent=True))

    def _expire(self, waiter: asyncio.Future[Reply]) -> None:
        if not waiter.done():
            waiter.set_exception(Lost("no reply in time", sent=True))
        self.close()
