"""Replies: an HTTP answer that is whole when it is made, and leaves in one write.

aiohttp's own `Response` builds a multi-dict of headers and serialises it for every answer; nearly all answers here have
the same three.  A `RawResponse` is a `StreamResponse` for aiohttp's purposes (``prepare``, ``write_eof``, ``keep_alive``) and
nothing more: no cookies, no compression, no chunks.  Every reply has a ``Content-Length``, so a connection always
knows where the next answer begins.
"""

import asyncio
import time
from email.utils import formatdate
from http import HTTPStatus
from math import ceil
from typing import Final

from aiohttp import ClientConnectionResetError, web
from aiohttp.abc import AbstractStreamWriter

from shard_worker.gateway.http.problems import Problem, ProblemCode, body_of

_OF_ALL_JSON: Final = b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
JSON: Final = b"Content-Type: application/json\r\n" + _OF_ALL_JSON
PROBLEM: Final = b"Content-Type: application/problem+json\r\n" + _OF_ALL_JSON
REPLAYED: Final = JSON + b"Idempotent-Replayed: true\r\n"
"""The fields of a success that answers a recognised retry."""
NO_CONTENT: Final = b""
READER_PATIENCE_S: Final = 30.0
"""How long a client may take to read what is beyond the transport's buffer; then the connection is cut."""

_CLOSE: Final = b"Connection: close\r\n"
_KEEP_ALIVE: Final = b"Connection: keep-alive\r\n"
_PHRASE: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


class _Clock:
    """The start of an answer, up to and with the ``Date`` field, made once a second for each status."""

    def __init__(self) -> None:
        self.second = 0
        self.starts: dict[int, bytes] = {}

    def start(self, status: int) -> bytes:
        second = int(time.time())
        if second != self.second:
            self.second = second
            self.starts = {}
        start = self.starts.get(status)
        if start is None:
            date = formatdate(second, usegmt=True).encode()
            start = self.starts[status] = b"HTTP/1.1 %d %b\r\nDate: %b\r\n" % (status, _PHRASE[status], date)
        return start


_CLOCK: Final = _Clock()


class RawResponse(web.StreamResponse):
    """One answer.  ``fields`` are ready-made header lines, each with its line end."""

    def __init__(self, body: bytes, status: int = 200, fields: bytes = JSON, *, close: bool = False) -> None:
        # StreamResponse.__init__ is left out on purpose: it would build the multi-dict this class exists to avoid.
        self._status = status
        self.content = body
        self.fields = fields
        self._keep_alive: bool | None = False if close else None

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send it all: once, and without waiting unless the client reads too slowly."""
        if self._eof_sent:
            return None
        self._eof_sent = True
        protocol = request.protocol
        transport = protocol.transport
        if transport is None or transport.is_closing():
            raise ClientConnectionResetError("the client has gone")
        keep_alive = self._keep_alive
        if keep_alive is None:
            keep_alive = self._keep_alive = request.keep_alive
        head = _CLOCK.start(self._status) + self.fields
        if not keep_alive:
            head += _CLOSE
        elif request.version.minor == 0:
            head += _KEEP_ALIVE
        transport.write(
            head + end_of(self._status, self.content)
            if request.method != "HEAD"
            else head + b"Content-Length: %d\r\n\r\n" % len(self.content)
        )
        if protocol.writing_paused:
            try:
                async with asyncio.timeout(READER_PATIENCE_S):
                    await protocol._drain_helper()  # noqa: SLF001 - the only way to wait for a slow reader
            except TimeoutError:
                transport.abort()
                raise ClientConnectionResetError("the client does not read its answer") from None
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to send."""

    @property
    def closes(self) -> bool:
        """Whether the connection ends with this answer."""
        return self._keep_alive is False

    def whole(self) -> bytes:
        """The answer as bytes, to a request in HTTP/1.1 that is no HEAD."""
        head = _CLOCK.start(self._status) + self.fields
        return (head + _CLOSE if self.closes else head) + end_of(self._status, self.content)


def head_of(status: int, fields: bytes) -> bytes:
    """The start of an answer and its fields, without the blank line."""
    return _CLOCK.start(status) + fields


def end_of(status: int, body: bytes) -> bytes:
    """The last header field, the blank line and the body; 204 has neither length nor body."""
    return b"\r\n" if status == HTTPStatus.NO_CONTENT else b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def problem_reply(problem: Problem) -> RawResponse:
    """A problem as an answer, with the header fields that its code asks for."""
    fields = PROBLEM
    if problem.retry_after_s is not None:
        fields += b"Retry-After: %d\r\n" % max(1, ceil(problem.retry_after_s))
    if problem.allow is not None:
        fields += b"Allow: %b\r\n" % problem.allow.encode()
    if problem.code is ProblemCode.UNAUTHORIZED:
        fields += b"WWW-Authenticate: Certificate\r\n"
    return RawResponse(body_of(problem), problem.status, fields, close=problem.close)
