"""Connections: what aiohttp's own protocol leaves to be wished for at the edge of HTTP.

`GatewayConnection` answers what is not HTTP in the shape of every other problem, and never repeats a client's bytes in
the log.  It bounds every connection in time (from the moment it was accepted), in bytes (`Capacity`) and in what one
turn of the loop parses (`Intake`).  Every exception between the bytes and the handler is answered 400.

A connection has a last request when nothing may follow it: its client asked for that or for another protocol, the
request was refused unread, its body did not come whole before the answer, or the client closed its half.  What arrives
behind it is thrown away; it is read for a moment after the answer, so that closing does not take the answer back.

It rests on a few parts of `RequestHandler` that aiohttp does not promise; `check_aiohttp` looks for them at start.
"""

import asyncio
import logging
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import TransferEncodingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import ERROR, RequestHandler, _ErrInfo, _RequestHandler

from shard_worker.gateway import framing
from shard_worker.gateway.capacity import Capacity, overloaded
from shard_worker.gateway.framing import Arrival, problem_of_http
from shard_worker.gateway.intake import SLICE_BYTES, Intake
from shard_worker.gateway.problems import Problem, ProblemCode, ProblemRaised
from shard_worker.gateway.replies import READER_PATIENCE_S, Reply, problem_reply

_LOG: Final = logging.getLogger(__name__)

_UNCOUNTED_BYTES: Final = 4 * 1024
"""A request that comes whole in a segment of so many bytes is not counted: nearly all are, and the count costs time."""
WRITE_HIGH_BYTES: Final = 16 * 1024
"""What a client leaves unread up to here is not counted either, and its next request is answered meanwhile."""
_UNSENT_BYTES: Final = 128 * 1024
"""What the kernel takes of an answer before it can be sent; the rest waits here, where it is counted.  Left alone, the
kernel takes 4 MiB for each client that does not read, of the memory that the pod may have."""
_LINGER_S: Final = 2.0
_LINGER_BYTES: Final = 4 << 20
"""How long, and how far, a client is listened to after the last answer, so that it can read that answer."""
_EAGER_TASKS: Final = sys.version_info >= (3, 12)
"""aiohttp starts its tasks eagerly from there on: requests that never wait would all be answered in one turn."""

_NEEDED: Final = (
    *("data_received", "eof_received", "handle_error", "start", "finish_response", "_handle_request"),
    *("_messages", "_waiter", "_request_in_progress", "_drain_helper", "_process_keepalive"),
    *("_pause_transport_reading", "_resume_transport_reading", "_next_keepalive_close_time", "_keepalive_timeout"),
    *("_buffer_paused", "_reading_paused", "_message_tail", "_lingering_time"),
)


class UnsuitableAiohttp(RuntimeError):
    """This release of aiohttp has not the parts that `GatewayConnection` rests on."""


def check_aiohttp() -> None:
    """Raise `UnsuitableAiohttp`, by name of what is missing, before the first socket is opened."""
    missing = [name for name in _NEEDED if not hasattr(RequestHandler, name)]
    if missing:
        raise UnsuitableAiohttp(f"aiohttp's RequestHandler has no {', '.join(missing)}")


class GatewayConnection(RequestHandler):
    """One client's connection."""

    __slots__ = (
        "_accepted_at",
        "_arrival",
        "_arrival_timer",
        "_backlog",
        "_capacity",
        "_client_ended",
        "_deaf",
        "_discarded",
        "_enlisted",
        "_head_since",
        "_intake",
        "_last",
        "_lingering",
        "_paused_since",
        "_request_timeout_s",
        "_served_1_0",
        "_unreadable",
        "held",
        "request_since",
        "unread",
    )

    def __init__(
        self,
        *args: Any,  # Any: RequestHandler's own
        request_timeout_s: float,
        intake: Intake,
        capacity: Capacity,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, lingering_time=0.0, **kwargs)
        self._request_timeout_s = request_timeout_s
        self._intake = intake
        self._capacity = capacity
        self._arrival = Arrival()
        self._arrival_timer: asyncio.TimerHandle | None = None
        self._accepted_at = 0.0
        """Loop time of the accept; 0 once a byte has come."""
        self._head_since = 0.0
        """Loop time of the first byte of a head that is not complete; 0 between requests."""
        self.request_since = 0.0
        """Loop time of the first byte of the request whose body is under way."""
        self._served_1_0 = False
        self._backlog: bytes | None = None
        """Bytes received that wait for a turn; meanwhile the transport is not read."""
        self._enlisted = False
        self._last = False
        """Whether the newest request is the last one."""
        self._deaf = False
        """Whether everything that still comes is thrown away."""
        self._discarded = 0
        self._client_ended = False
        """Whether the client has closed its half."""
        self._lingering: asyncio.Future[None] | None = None
        self._paused_since = 0.0
        """Loop time since which the client leaves more unread than `WRITE_HIGH_BYTES`; 0 while it reads."""
        self._unreadable: Exception | None = None
        """What kept a parsed head from becoming a request object."""
        self.held = 0
        self.unread = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is under way on this connection, not even half a head."""
        if self._lingering is not None:
            return True
        return not (self._request_in_progress or self._messages or self._head_since or self._backlog)

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

    @property
    def _awaits_request(self) -> bool:
        return self._waiter is not None and not self._waiter.done() and not self._messages

    @property
    def _paused_by_aiohttp(self) -> bool:
        return self._reading_paused or self._buffer_paused

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
        self._capacity.forget(self)
        super().connection_lost(exc)
        self._messages.clear()

    def data_received(self, data: bytes) -> None:
        """Parse what has come, or as much of it as this turn allows."""
        if self._deaf:
            self._discard(data)
            return
        if not data:
            self._feed(data)  # aiohttp goes on with what its parser had put aside
            return
        if self._backlog is not None:
            self._backlog += data  # was on its way when reading was paused
        elif self._paused_by_aiohttp:
            self._backlog = data
        elif self._intake.admits(len(data)):
            if framing.is_one_piece(data):
                self._feed(data)
            else:
                self._feed_pieces(data)
        else:
            self._backlog = data
            self._pause_transport_reading()
            self._enlist()
        if len(data) > _UNCOUNTED_BYTES or self.held or self._head_since or self._arrival.body is not None:
            self._capacity.hold(self, self.held + len(data))
            self._capacity.relieve_bodies(self, self._loop.time())

    def parse_some(self) -> int:
        """Parse one slice of the backlog; the rest in later turns, or once aiohttp takes more."""
        self._enlisted = False
        backlog = self._backlog
        if backlog is None or self._paused_by_aiohttp or self.transport is None:
            return 0
        data, self._backlog = backlog[:SLICE_BYTES], backlog[SLICE_BYTES:] or None  # at most 16 copies of 256 KiB
        self._feed_pieces(data)
        if self._backlog is not None:
            if not self._paused_by_aiohttp:
                self._enlist()
        elif self._client_ended:
            if not self._end_of_client():
                self.force_close()
        elif not self._paused_by_aiohttp:
            super()._resume_transport_reading()
        return len(data)

    def _enlist(self) -> None:
        if not self._enlisted and self._backlog is not None:
            self._enlisted = True
            self._intake.enlist(self, len(self._backlog))

    def _resume_transport_reading(self) -> None:
        """What waits here comes before what waits in the socket."""
        if self._backlog is not None:
            self._enlist()
        else:
            super()._resume_transport_reading()

    def _feed_pieces(self, data: bytes) -> None:
        fed = 0
        for piece in framing.pieces(data):
            if self._deaf:
                self._discard(data[fed:])
                return
            if self._paused_by_aiohttp:
                self._backlog = data[fed:] + (self._backlog or b"")
                return
            self._feed(piece)
            fed += len(piece)

    def _feed(self, data: bytes) -> None:
        arrival, messages = self._arrival, self._messages
        queued, was_last = len(messages), self._last
        arrival.begin()
        try:
            super().data_received(data)
        except Exception as error:  # noqa: BLE001 - the parser's own fault at some bytes is answered like any other
            self._queue_error(error)
        message: RawRequestMessage | _ErrInfo | None = None
        payload: StreamReader | None = None
        begun = len(messages) > queued
        if begun:
            if was_last:  # it stands behind the last request, in the segment that ends that one's body
                while len(messages) > queued:
                    messages.pop()
                self._stop_listening()
                return
            for at in range(queued, len(messages)):
                if not self._may_follow(at):
                    while len(messages) > at + 1:
                        messages.pop()
                    break
            message, payload = messages[-1]
        if isinstance(message, _ErrInfo):
            self._stop_listening(cast("Exception", message.exc))
            return
        if not data and not begun:
            return  # a reader has taken from its body, and the parser had nothing put aside
        if self._paused_by_aiohttp or not data:
            arrival.lost(message, payload)
        else:
            arrival.follow(data, message, payload)
        self._note_times(begun=begun)
        if self._last and arrival.body is None:
            self._stop_listening()

    def _may_follow(self, at: int) -> bool:
        """Judge a new message; False when nothing may follow it."""
        message = self._messages[at][0]
        if isinstance(message, _ErrInfo):
            self._last = True
            return False
        problem = framing.problem_of_head(message, after_1_0=self._served_1_0)
        if problem is not None:
            self._messages[at] = (_ErrInfo(400, ProblemRaised(problem), ""), EMPTY_PAYLOAD)
            self._last = True
        elif framing.ends_connection(message):
            self._last = True
        elif message.version.minor == 0:
            self._served_1_0 = True
        return not self._last

    def _note_times(self, *, begun: bool) -> None:
        arrival = self._arrival
        self._accepted_at = 0.0
        since = self._head_since
        if arrival.half_head:
            if begun or not since:
                self._head_since = self._loop.time()
            if arrival.head_bytes > framing.MAX_HEAD_BYTES:
                self._refuse(framing.HEAD_TOO_LARGE)
            return
        self._head_since = 0.0
        if begun and arrival.body is not None:
            self.request_since = since or self._loop.time()

    def _queue_error(self, error: Exception) -> None:
        """Have an error answered after what came before it, and end."""
        self._last = True
        self._messages.append((_ErrInfo(400, error, ""), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _refuse(self, problem: Problem) -> None:
        """Answer a problem, after what came before, as the last thing on this connection."""
        error = ProblemRaised(problem)
        if self._arrival.body is None:
            self._queue_error(error)
        self._last = True
        self._stop_listening(error)  # the handler of a request whose body is given up answers the problem

    def drop(self, problem: Problem) -> None:
        """End the connection for what it holds; the problem is answered where an answer is awaited."""
        if self._paused_since:
            if self.transport is not None:
                self.transport.abort()
        elif self._arrival.body is not None or self._head_since:
            self._refuse(problem)
        else:
            self.force_close()

    def _stop_listening(self, error: Exception | None = None) -> None:
        """Throw away what still comes; with an error, bodies that are not complete are given up."""
        self._deaf = True
        self._backlog = None
        self._head_since = 0.0
        self._message_tail = b""
        if error is None:
            return
        # Only the newest request can lack a part of its body: the parser begins no other before it is whole.
        body = self._arrival.body
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(error)

    def _discard(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > _LINGER_BYTES:
            self._pause_transport_reading()
            self._end_lingering()

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp's always says no; the base class allows a yes
        """Keep the connection until what the client asked before is answered; False closes it."""
        self._client_ended = True
        if self._lingering is not None:
            self._end_lingering()
            return False
        return self._backlog is not None or self._end_of_client()

    def _end_of_client(self) -> bool:
        self._stop_listening(TransferEncodingError("the client ended before its request did"))
        if self._awaits_request:
            return False
        if not self._messages and not self._request_in_progress:
            self._loop.call_soon(self._close_if_waiting)
        return True

    def _close_if_waiting(self) -> None:
        """Between two requests aiohttp would wait for one that cannot come."""
        if self.transport is None or self._messages or self._request_in_progress:
            return
        if self._awaits_request:
            self.force_close()
        else:
            self._loop.call_soon(self._close_if_waiting)

    def _check_arrival(self) -> None:
        """Refuse what has begun and does not come to its end; a body's end is awaited by its reader, not here."""
        self._arrival_timer = None
        if self.transport is None or self._deaf:
            return
        now = self._loop.time()
        begun = self._head_since or self._accepted_at
        if not begun or self._paused_by_aiohttp:
            begun = now
        if now - begun < self._request_timeout_s:
            self._arrival_timer = self._loop.call_at(begun + self._request_timeout_s, self._check_arrival)
        elif self._accepted_at:
            self.force_close()  # it has sent nothing: there is no request to answer
        else:
            detail = f"the request did not arrive within {self._request_timeout_s:g} s"
            self._refuse(Problem(code=ProblemCode.REQUEST_TIMEOUT, detail=detail, close=True))

    def _process_keepalive(self) -> None:
        if not self._head_since:  # half a head has a time of its own
            super()._process_keepalive()

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
            if self.held:
                waiting = sum(payload.total_bytes for _, payload in self._messages)
                self._capacity.hold(self, waiting + len(self._backlog or b""))
            if self._client_ended:
                self._loop.call_soon(self._close_if_waiting)

    async def _answer_unreadable(self, _: web.BaseRequest) -> web.StreamResponse:
        return problem_reply(problem_of_http(self._unreadable))

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer; the last one says so, and the client may read it before the connection closes."""
        whole = request.content.is_eof()
        if not whole:
            self._last = True
            self._stop_listening()
        last = not self._messages and (self._last or self._client_ended)
        if last:
            resp.force_close()
        if isinstance(resp, Reply) and not self._has_place_for(resp.content):
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
        if transport is None or transport.is_closing() or self._client_ended or self._discarded > _LINGER_BYTES:
            return
        self._lingering = self._loop.create_future()
        try:
            transport.write_eof()
            super()._resume_transport_reading()
            async with asyncio.timeout(_LINGER_S):
                await self._lingering
        except TimeoutError:
            pass
        finally:
            self._lingering = None

    def _end_lingering(self) -> None:
        if self._lingering is not None and not self._lingering.done():
            self._lingering.set_result(None)

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

    async def start(self) -> None:
        """Answer the connection's requests; a fault outside of a handler ends it, with a line in the log."""
        try:
            await super().start()
        except Exception as error:  # noqa: BLE001 - the boundary of the connection's task
            _LOG.error("connection failed outside of its handler", exc_info=error)
            self.force_close()
        else:
            if self.transport is not None:
                self._limit_flush(self.transport)

    def force_close(self) -> None:
        """Close without waiting for anything but the client to read what it was sent, and not for long."""
        transport = self.transport
        self._stop_listening(ConnectionResetError("the connection was closed"))
        super().force_close()
        if transport is not None:
            self._limit_flush(transport)

    def _limit_flush(self, transport: asyncio.Transport) -> None:
        if transport.get_write_buffer_size():
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
        detail = "the worker failed; see its log"
        return problem_reply(Problem(code=ProblemCode.INTERNAL_ERROR, detail=detail, close=True))


class ConnectionFactory(web.Server):
    """aiohttp's low-level server, making `GatewayConnection`s that share turns and bounds."""

    def __init__(
        self,
        handler: _RequestHandler,
        *,
        request_timeout_s: float,
        keepalive_timeout_s: float,
        capacity: Capacity | None = None,
    ) -> None:
        super().__init__(handler, request_factory=self._make_readable_request)
        self._request_timeout_s = request_timeout_s
        self._keepalive_timeout_s = keepalive_timeout_s
        self._intake = Intake(self._loop)
        self.capacity = capacity or Capacity()

    def __call__(self) -> GatewayConnection:
        """The protocol of one new connection."""
        return GatewayConnection(
            self,
            loop=self._loop,
            request_timeout_s=self._request_timeout_s,
            intake=self._intake,
            capacity=self.capacity,
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
