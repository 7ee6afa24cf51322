"""Connections: what aiohttp's own protocol leaves to be wished for at the edge of HTTP.

`GatewayConnection` answers what is not HTTP in the shape of every other problem, never repeats a client's bytes in the
log, and bounds what it holds for its client.  Every exception between the bytes and the handler is answered 400.  After
the last answer (see `shard_worker.gateway.http.receiving`) it reads for a moment what still comes, so that closing does not
take the answer back.

A request that takes the lane (`shard_worker.gateway.public.lane`) is under way as any other is: aiohttp's task, which waits for
a request, gets its waiter back when the answer was sent.  Until then no request that comes behind can overtake it.

The connection rests on a few parts of `RequestHandler` that aiohttp does not promise; `check_aiohttp` looks for them at start.
"""

import asyncio
import logging
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import ERROR, RequestHandler, _RequestHandler
from msgspec.structs import replace

from shard_worker.gateway.http import framing
from shard_worker.gateway.http.capacity import Capacity, overloaded
from shard_worker.gateway.http.framing import problem_of_http
from shard_worker.gateway.http.intake import Intake
from shard_worker.gateway.http.problems import WORKER_FAILED, Problem
from shard_worker.gateway.http.receiving import LINGER_BYTES, ReceivingConnection, TakeRequest
from shard_worker.gateway.http.response import READER_PATIENCE_S, RawResponse, problem_reply

_LOG: Final = logging.getLogger(__name__)

WRITE_HIGH_BYTES: Final = 16 * 1024
"""Unread bytes of a client that are not counted; its next request is answered meanwhile."""
_UNSENT_BYTES: Final = 128 * 1024
"""Bytes of an answer that the kernel buffers before they can be sent; the rest waits here, where it is counted.  Left
alone, the kernel takes 4 MiB for each client that does not read, of the memory that the pod may have."""
_LINGER_S: Final = 2.0
"""How long a client is listened to after the last answer, so that it can read that answer."""
_EAGER_TASKS: Final = sys.version_info >= (3, 12)
"""Whether aiohttp starts its tasks eagerly: requests that never wait would then all be answered in one turn."""

_NEEDED: Final = (
    *("data_received", "eof_received", "handle_error", "start", "finish_response", "_handle_request"),
    *("_messages", "_waiter", "_request_in_progress", "_drain_helper", "_process_keepalive"),
    *("_pause_transport_reading", "_resume_transport_reading", "_next_keepalive_close_time", "_keepalive_timeout"),
    *("_buffer_paused", "_reading_paused", "_message_tail", "_lingering_time", "_request_count"),
)


_LANE_NEEDS: Final = ("_keepalive_handle",)
"""Parts of `RequestHandler` that the lane alone rests on."""


class UnsuitableAiohttp(RuntimeError):
    """This release of aiohttp has not the parts that `GatewayConnection` rests on."""


def check_aiohttp() -> None:
    """Raise `UnsuitableAiohttp`, by name of what is missing, before the first socket is opened."""
    missing = [name for name in _NEEDED if not hasattr(RequestHandler, name)]
    if missing:
        raise UnsuitableAiohttp(f"aiohttp's RequestHandler has no {', '.join(missing)}")


def missing_for_lane() -> list[str]:
    """Names of what this release of aiohttp lacks of what the lane rests on."""
    names = [name for name in _LANE_NEEDS if not hasattr(RequestHandler, name)]
    # Without its parser in C aiohttp keeps line ends between two requests, which the lane would not see.
    return names if HttpRequestParser is not HttpRequestParserPy else [*names, "its parser in C"]


class GatewayConnection(ReceivingConnection):
    """One client's connection."""

    __slots__ = ("_in_lane", "_paused_since", "_unread", "_unreadable")

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # Any: the base class has the arguments
        super().__init__(*args, **kwargs)
        self._paused_since = 0.0
        """Loop time since which the client leaves more unread than `WRITE_HIGH_BYTES`; 0 while it reads."""
        self._unreadable: Exception | None = None
        """Reason why a parsed head is not a request object."""
        self._in_lane: asyncio.Future[None] | None = None
        """aiohttp's waiter for the next request, while one is under way in the lane."""
        self._unread: tuple[asyncio.TimerHandle, bool] | None = None
        """The timer that cuts a client which does not read its answer from the lane, and whether that answer is the last."""

    @property
    def idle(self) -> bool:
        """Whether nothing is under way on this connection, not even half a head."""
        if self._lingering is not None:
            return True
        return not (self._request_in_progress or self._messages or self._head_since or self._backlog)

    @property
    def answered(self) -> bool:
        """Whether a request of this connection was answered."""
        return self._request_count > len(self._messages) + self._request_in_progress

    @property
    def waits_since(self) -> float | None:
        """Since when, in loop time, this connection waits for its client; None while the worker is at work for it."""
        if self._paused_since:
            return self._paused_since
        if self._backlog is not None:
            return None
        if self._arrival.body is not None:
            return self.request_since
        if not self._awaits_request:
            return None
        return self._head_since or self._accepted_at or self._next_keepalive_close_time - self._keepalive_timeout

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the connection's time."""
        self._accepted_at = now = self._loop.time()
        self._arrival_timer = self._loop.call_later(self._request_timeout_s, self._check_arrival)
        cast("asyncio.Transport", transport).set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        accepted = transport.get_extra_info("socket")
        if accepted is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        super().connection_made(transport)
        if not self._capacity.admit(self, now):
            self._refuse(overloaded())

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection, its timer and its bytes."""
        if self._arrival_timer is not None:
            self._arrival_timer.cancel()
            self._arrival_timer = None
        self._end_lingering()
        self._stop_listening(ConnectionResetError("the client has gone"))
        self._arrival.body = None  # the reader knows this connection: without the cycle both are freed at once
        self._capacity.forget(self)
        super().connection_lost(exc)
        self._messages.clear()

    @property
    def capacity(self) -> Capacity:
        """The bounds that this connection shares."""
        return self._capacity

    @property
    def client_ended(self) -> bool:
        """Whether the client has ended its half."""
        return self._client_ended

    def detach(self) -> None:
        """Let go of the transport, which another protocol has taken over; nothing more happens here."""
        self._last = True
        self.transport = None
        self.connection_lost(None)

    def drop(self, problem: Problem) -> None:
        """End the connection for what it holds; the problem is answered where an answer is awaited."""
        if self._paused_since:
            if self.transport is not None:
                self.transport.abort()
        elif self._arrival.body is not None or self._head_since or self._backlog is not None:
            self._refuse(problem)
        else:
            self.force_close()

    def enter_lane(self) -> None:
        """A request is under way in the lane: aiohttp waits for none, as while it handles one itself."""
        self._in_lane, self._waiter = self._waiter, None
        self._request_in_progress = True
        self._request_count += 1

    def leave_lane(self, reply: RawResponse) -> None:
        """Send the answer to that request, and have aiohttp go on with what came meanwhile."""
        transport = self.transport
        if transport is None or transport.is_closing():
            self._end_request()
            return
        if not self._messages and (self._last or self._client_ended):
            reply.force_close()
        transport.write(reply.whole())
        if self.writing_paused:
            self._unread = self._loop.call_later(READER_PATIENCE_S, transport.abort), reply.closes
        else:
            self._after_answer(closes=reply.closes)

    def _after_answer(self, *, closes: bool) -> None:
        if closes:
            self._end_request()
            self.force_close()
        else:
            self._await_next()

    def _await_next(self) -> None:
        """Wait for the next request as aiohttp does after one that it has answered."""
        waiter, self._in_lane = self._in_lane, None
        self._waiter = waiter
        close_at = self._loop.time() + self._keepalive_timeout
        self._next_keepalive_close_time = close_at
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(close_at, self._process_keepalive)
        if self._messages and waiter is not None and not waiter.done():
            waiter.set_result(None)
        self._end_request()

    def _end_request(self) -> None:
        self._request_in_progress = False
        self._request_ended()

    def _request_ended(self) -> None:
        """Hold no more than what the requests behind it need; leave when the client has ended."""
        if self.held:
            waiting = sum(payload.total_bytes for _, payload in self._messages)
            self._capacity.hold(self, waiting + len(self._backlog or b""))
        if self._client_ended:
            self._loop.call_soon(self._close_if_waiting)

    def cannot_read(self, error: Exception) -> None:
        """A head was parsed, but no request object can be made of it."""
        self._unreadable = error
        self._messages.clear()
        self._last = True
        self._stop_listening()

    async def _handle_request(
        self,
        request: web.BaseRequest,
        start_time: float | None,
        request_handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    ) -> tuple[web.StreamResponse, bool]:
        if _EAGER_TASKS and self._messages:
            await asyncio.sleep(0)
        if self._unreadable is not None:
            request_handler = self._answer_unreadable
        try:
            return await super()._handle_request(request, start_time, request_handler)
        finally:
            self._request_ended()

    async def _answer_unreadable(self, _: web.BaseRequest) -> web.StreamResponse:
        return problem_reply(problem_of_http(self._unreadable))

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer; the last one says so, and the client may read it before the connection closes."""
        whole = request.content.is_eof()
        if (
            whole
            and not (self._last or self._client_ended)
            and isinstance(resp, RawResponse)
            and len(resp.content) <= WRITE_HIGH_BYTES
        ):
            try:
                await resp.prepare(request)
            except ConnectionError:
                return resp, True
            return resp, False
        if not whole:
            self._last = True
            self._stop_listening()
        last = not self._messages and (self._last or self._client_ended)
        if last:
            resp.force_close()
        if isinstance(resp, RawResponse) and not self._has_place_for(resp.content):
            resp = problem_reply(overloaded())
        done, gone = await super().finish_response(request, resp, start_time)
        if last and not gone and (not whole or self._discarded or not request._message.should_close):  # noqa: SLF001
            await self._linger()
        return done, gone

    def _has_place_for(self, content: bytes) -> bool:
        """Whether an answer may wait here until its client reads it; those of commands are small, and always may."""
        return len(content) <= WRITE_HIGH_BYTES or self._capacity.has_place_for_answer(len(content), self._loop.time())

    async def _linger(self) -> None:
        """Send the end, and read what the client still sends until it has ended too: a reset would take the answer."""
        transport = self.transport
        if transport is None or transport.is_closing() or self._client_ended or self._discarded > LINGER_BYTES:
            return
        self._lingering = self._loop.create_future()
        try:
            if transport.can_write_eof():  # TLS ends both halves at once: there the client alone ends it, or the time
                transport.write_eof()
            super()._resume_transport_reading()
            async with asyncio.timeout(_LINGER_S):
                await self._lingering
        except TimeoutError:
            pass
        finally:
            self._lingering = None

    def pause_writing(self) -> None:
        """The client leaves unread what it was sent."""
        super().pause_writing()
        self._paused_since = self._loop.time()
        if self.transport is not None:
            self._capacity.leave_unread(self, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The client has read."""
        self._paused_since = 0.0
        self._capacity.leave_unread(self, 0)
        super().resume_writing()
        if self._unread is not None:
            (timer, closes), self._unread = self._unread, None
            timer.cancel()
            self._after_answer(closes=closes)

    async def start(self) -> None:
        """Answer the connection's requests; a fault outside of a handler ends it, with a line in the log."""
        try:
            await super().start()
        except Exception as error:  # noqa: BLE001 - the boundary of the connection's task
            _LOG.error("connection failed outside of its handler", exc_info=error)
            self.force_close()
        except asyncio.CancelledError:
            self.force_close()  # else a connection that was ended in the middle of a head would stay open
            raise
        else:
            if self.transport is not None:
                self._limit_flush(self.transport)

    def force_close(self) -> None:
        """Close without waiting for anything but the client to read what it was sent, and not for long."""
        transport = self.transport
        self._stop_listening(ConnectionResetError("the connection was closed"))
        if self._in_lane is not None:  # aiohttp ends its task by the waiter
            self._waiter, self._in_lane = self._in_lane, None
        if self._unread is not None:
            self._unread[0].cancel()
            self._unread = None
            self._end_request()
        super().force_close()
        if transport is not None:
            self._limit_flush(transport)

    def _limit_flush(self, transport: asyncio.Transport) -> None:
        try:
            unsent = transport.get_write_buffer_size()
        except AttributeError:  # asyncio's TLS transport, closed twice, has let go of its protocol and of what it held
            return
        if unsent:
            self._loop.call_later(READER_PATIENCE_S, transport.abort)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to bytes that are no request (``status`` 400), or to a fault of this program."""
        if status < 500:
            return problem_reply(problem_of_http(exc))
        _LOG.error("request failed outside of its handler", exc_info=exc)
        return problem_reply(replace(WORKER_FAILED, close=True))


class ConnectionFactory(web.Server):
    """aiohttp's low-level server, making `GatewayConnection`s that share turns and bounds."""

    def __init__(
        self,
        handler: _RequestHandler,
        *,
        request_timeout_s: float,
        keepalive_timeout_s: float,
        capacity: Capacity | None = None,
        lane: TakeRequest | None = None,
    ) -> None:
        super().__init__(handler, request_factory=self._make_readable_request)
        self._request_timeout_s = request_timeout_s
        self._keepalive_timeout_s = keepalive_timeout_s
        self._intake = Intake(self._loop)
        self.capacity = capacity or Capacity()
        self._lane = lane

    def __call__(self) -> GatewayConnection:
        """The protocol of one new connection."""
        return GatewayConnection(
            self,
            loop=self._loop,
            request_timeout_s=self._request_timeout_s,
            intake=self._intake,
            capacity=self.capacity,
            lane=self._lane,
            keepalive_timeout=self._keepalive_timeout_s,
            access_log=None,
            auto_decompress=False,
            max_line_size=framing.MAX_LINE_BYTES,
            max_field_size=framing.MAX_FIELD_BYTES,
            max_headers=framing.MAX_FIELDS,
        )

    def _make_readable_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        """A request; of a head that aiohttp cannot make one of, a request whose handler answers 400."""
        try:
            return self._make_request(message, payload, protocol, writer, task)
        except Exception as error:  # noqa: BLE001 - whatever a target's decoders raise is the client's fault
            cast("GatewayConnection", protocol).cannot_read(error)
            return self._make_request(ERROR, EMPTY_PAYLOAD, protocol, writer, task)
