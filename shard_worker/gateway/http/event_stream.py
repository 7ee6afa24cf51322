"""Event streams: the answer that does not end, and the protocol of its connection.

Once the head of a stream is sent, its connection leaves aiohttp: a small protocol takes the transport over, so that an
open stream costs no task and no parser, counts as no request, and is judged by none of the rules of requests.  It keeps
its place in `Capacity`, with the bytes that its client leaves unread.  The body ends with the connection.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final, Protocol, cast

from aiohttp import ClientConnectionResetError, web
from aiohttp.abc import AbstractStreamWriter

from shard_worker.gateway.http.capacity import Capacity
from shard_worker.gateway.http.connection import WRITE_HIGH_BYTES, GatewayConnection
from shard_worker.gateway.http.problems import Problem
from shard_worker.gateway.http.response import READER_PATIENCE_S, RawResponse, head_of

EVENT_STREAM: Final = (
    b"Content-Type: text/event-stream\r\nCache-Control: no-store, no-transform\r\nX-Accel-Buffering: no\r\n"
    b"X-Content-Type-Options: nosniff\r\n"
)
_GONE_MS: Final = 60_000
"""A client whose host acknowledges nothing for this time is gone; heart-beats are what it would acknowledge."""
_PATIENCE_S: Final = 5.0
"""A reader is dropped to make place for an event when it has waited for this time: many streams may get one large event at
once, and a client needs some time to read it."""
_IGNORED_BYTES: Final = 64 << 10
"""Bytes behind a stream's request that are thrown away; a client that sends more is cut off."""
_USER_TIMEOUT: Final = getattr(socket, "TCP_USER_TIMEOUT", None)


class Closed(Protocol):
    """The writer of a stream."""

    def lost(self) -> None: ...


class EventStream(asyncio.Protocol):
    """The connection of one open stream.  Implements `shard_worker.streams.sink.Sink` and `capacity.Client`."""

    __slots__ = (
        "_capacity",
        "_drained",
        "_ignored",
        "_listener",
        "_loop",
        "_transport",
        "held",
        "paused",
        "unread",
        "waits_since",
        "write",
    )

    answered = True
    """As `Capacity` sees it: other connections are dropped first."""

    def __init__(self, transport: asyncio.Transport, capacity: Capacity, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._capacity = capacity
        self._loop = loop
        self._listener: Closed | None = None
        self._drained: asyncio.Future[None] | None = None
        self._ignored = 0
        self.write: Callable[[bytes], None] = transport.write
        self.paused = False
        self.held = 0
        self.unread = 0
        self.waits_since: float | None = None

    def begin(self, listener: Closed) -> None:
        """Tell ``listener`` when the connection is closed."""
        self._listener = listener

    # --- the sink

    def unsent(self) -> int:
        """Bytes that wait in this process for the client."""
        return self._transport.get_write_buffer_size() if not self._transport.is_closing() else 0

    def may_hold(self, size: int) -> bool:
        """Whether ``size`` more bytes may wait for this client; readers that have waited long are dropped to make place."""
        if self.paused:
            self.count_unsent()
        capacity = self._capacity
        if not capacity.answer_bytes:  # an event may be larger than the bound
            return True
        return capacity.has_place_for_answer(size, self._loop.time(), patience_s=_PATIENCE_S)

    def count_unsent(self) -> None:
        """Count what waits for the client: `pause_writing` is called for the first bytes only."""
        self._capacity.leave_unread(self, self.unsent())

    async def drained(self, within_s: float) -> bool:
        """Wait until the client has read; False when it did not within ``within_s`` seconds."""
        if not self.paused:
            return True
        if self._drained is None:
            self._drained = self._loop.create_future()
        try:
            async with asyncio.timeout(within_s):
                await self._drained
        except TimeoutError:
            return False
        return True

    def end(self, data: bytes) -> None:
        """Send the last frames, and close once the client has read them, or after `READER_PATIENCE_S`."""
        transport = self._transport
        if transport.is_closing():
            return
        if data:
            transport.write(data)
        unsent = transport.get_write_buffer_size()
        transport.close()
        if unsent:
            self._loop.call_later(READER_PATIENCE_S, transport.abort)

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    # --- capacity's client

    def drop(self, problem: Problem) -> None:
        """Close at once: nothing can be answered any more."""
        del problem
        self._transport.abort()
        self._tell()

    # --- the protocol

    def data_received(self, data: bytes) -> None:
        """Throw it away: nothing may follow a stream's request."""
        self._ignored += len(data)
        if self._ignored > _IGNORED_BYTES:
            self._transport.abort()

    def eof_received(self) -> bool:
        """A client that ends its half has gone."""
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self.paused = False
        self._capacity.forget(self)
        self._wake()
        self._tell()

    def _tell(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.lost()

    def pause_writing(self) -> None:
        """The client leaves unread what it was sent."""
        self.paused = True
        self.waits_since = self._loop.time()
        self._capacity.leave_unread(self, self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The client has read."""
        self.paused = False
        self.waits_since = None
        self._capacity.leave_unread(self, 0)
        self._wake()

    def _wake(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)


class StreamReply(RawResponse):
    """The head of a stream; ``begin`` gets the connection once it is sent, ``abandon`` is called when it cannot be."""

    def __init__(self, begin: Callable[[EventStream], Closed], abandon: Callable[[], None]) -> None:
        super().__init__(b"", 200, EVENT_STREAM, close=True)
        self._begin = begin
        self._abandon = abandon

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the head, and take the transport over."""
        if self._eof_sent:
            return None
        self._eof_sent = True
        protocol = cast("GatewayConnection", request.protocol)
        transport = protocol.transport
        if transport is None or transport.is_closing() or protocol.client_ended:
            self._abandon()
            if transport is not None:
                transport.abort()
            raise ClientConnectionResetError("the client has gone")
        capacity = protocol.capacity
        stream = EventStream(transport, capacity, asyncio.get_running_loop())
        raw = transport.get_extra_info("socket")
        if raw is not None and _USER_TIMEOUT is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, _GONE_MS)
        paused = protocol.writing_paused
        transport.set_protocol(stream)
        protocol.detach()
        capacity.clients[stream] = None
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        if paused:
            stream.pause_writing()
        transport.write(head_of(self._status, self.fields) + b"Connection: close\r\n\r\n")
        stream.begin(self._begin(stream))
        if not transport.is_reading():
            transport.resume_reading()  # the end of the client is seen by reading
        return None
