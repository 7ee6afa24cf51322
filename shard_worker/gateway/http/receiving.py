"""Receiving: the half of a connection that takes bytes in, and knows which request is the last.

A connection has a last request when nothing may follow it: its client asked for that or for another protocol, the
request was refused unread, its body did not come whole before the answer, or the client closed its half.  Bytes that
arrive after it are discarded.  Until then every byte is bounded in time (from the accept on), in number (`Capacity`)
and in what one turn of the loop parses (`Intake`).
"""

import asyncio
from typing import Any, Final, Protocol, cast

from aiohttp.http_exceptions import TransferEncodingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from shard_worker.gateway.http import framing
from shard_worker.gateway.http.capacity import Capacity, Client
from shard_worker.gateway.http.framing import Arrival
from shard_worker.gateway.http.intake import SLICE_BYTES, Intake
from shard_worker.gateway.http.problems import Problem, ProblemCode, ProblemRaised
from shard_worker.gateway.http.response import RawResponse

_UNCOUNTED_BYTES: Final = 4 * 1024
"""Segment size up to which a complete request is not counted: nearly all are this small, and counting costs time."""
LINGER_BYTES: Final = 4 << 20
"""How many bytes behind the last request are read before the transport is paused."""


class LaneConnection(Protocol):
    """A connection as the lane sees it; see `GatewayConnection`."""

    def enter_lane(self) -> None:
        """A request of this connection is under way in the lane."""
        ...

    def leave_lane(self, reply: RawResponse) -> None:
        """Send the answer to that request, and go on with what came meanwhile."""
        ...

    def force_close(self) -> None: ...


class TakeRequest(Protocol):
    """The short way of a request; see `shard_worker.gateway.public.lane`."""

    def __call__(self, data: bytes, connection: LaneConnection) -> bool:
        """Take the request that ``data`` is; False when it passes on the request, and nothing has happened."""
        ...


class ReceivingConnection(RequestHandler):
    """Feeds the parser, and refuses what does not arrive as it should."""

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
        "_lane",
        "_last",
        "_lingering",
        "_quiet",
        "_request_timeout_s",
        "_served_1_0",
        "held",
        "reading",
        "request_since",
        "unread",
    )

    def __init__(
        self,
        *args: Any,  # Any: RequestHandler's own
        request_timeout_s: float,
        intake: Intake,
        capacity: Capacity,
        lane: TakeRequest | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, lingering_time=0.0, **kwargs)
        self._lane = lane
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
        self._quiet = True
        """Whether nothing of an earlier request is left that the next one would have to be judged by."""
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
        """Set while the client may still read the last answer; done when it has ended."""
        self.reading: tuple[StreamReader, bytearray] | None = None
        """The body that a handler reads, and what the handler has read of the body."""
        self.held = 0
        self.unread = 0

    @property
    def _awaits_request(self) -> bool:
        return self._waiter is not None and not self._waiter.done() and not self._messages

    @property
    def _paused_by_aiohttp(self) -> bool:
        return self._reading_paused or self._buffer_paused

    def data_received(self, data: bytes) -> None:
        """Parse what has come, or as much of it as this turn allows."""
        if self._quiet and self._may_be_whole(data) and not self._paused_by_aiohttp and self._intake.admits(len(data)):
            self._take_whole(data)
            return
        self._quiet = False
        self._receive(data)
        self._quiet = self._is_quiet()

    def _is_quiet(self) -> bool:
        return not (
            self._last
            or self._deaf
            or self._served_1_0
            or self.held
            or self._head_since
            or self._backlog is not None
            or self._arrival.within
        )

    def _may_be_whole(self, data: bytes) -> bool:
        """Whether ``data``, on a quiet connection, looks like one small request and nothing else."""
        return not self._messages and len(data) <= _UNCOUNTED_BYTES and framing.holds_one_head(data)

    def _take_whole(self, data: bytes) -> None:
        """Take what is nearly always one request and nothing else.

        A way around all that the other requests need: what is judged, timed or counted of them is nothing here.
        """
        if self._lane is not None and self._awaits_request:
            accepted_at, self._accepted_at = self._accepted_at, 0.0
            if self._lane(data, cast("LaneConnection", self)):
                return
            self._accepted_at = accepted_at
        self._parse(data)
        messages = self._messages
        if len(messages) == 1:
            message, payload = messages[0]
            if not isinstance(message, _ErrInfo) and framing.is_whole_and_plain(message, payload, data):
                self._accepted_at = 0.0
                return
        self._quiet = False
        self._judge(data, queued=0, was_last=False)
        self._count(data)

    def _receive(self, data: bytes) -> None:
        """Take bytes in whatever state the connection is."""
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
        self._count(data)

    def _count(self, data: bytes) -> None:
        """Count received bytes of a request that did not come whole in one small segment."""
        if len(data) > _UNCOUNTED_BYTES or self.held or self._head_since or self._arrival.body is not None:
            client = cast("Client", self)  # what it lacks of one is in `GatewayConnection`
            self._capacity.hold(client, self.held + len(data))
            self._capacity.relieve_bodies(client, self._loop.time())

    def parse_some(self) -> int:
        """Parse one slice of the backlog; the rest in later turns, or once aiohttp takes more."""
        self._enlisted = False
        backlog = self._backlog
        if backlog is None or self._paused_by_aiohttp or self.transport is None:
            return 0
        data, self._backlog = backlog[:SLICE_BYTES], backlog[SLICE_BYTES:] or None  # at most 16 copies of 256 KiB
        self._quiet = self._is_quiet()
        if self._quiet and self._may_be_whole(data):
            self._take_whole(data)
        else:
            self._feed_pieces(data)
            self._quiet = self._is_quiet()
        if self._backlog is not None:
            if not self._paused_by_aiohttp:
                self._enlist()
        elif self._client_ended:
            if not self._end_of_client():
                self.force_close()
        elif not self._paused_by_aiohttp:
            super()._resume_transport_reading()
        return len(data)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on reading, if it was paused: aiohttp asks for it after each read of a body."""
        if self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)

    def _enlist(self) -> None:
        if not self._enlisted and self._backlog is not None:
            self._enlisted = True
            self._intake.enlist(self, len(self._backlog))

    def _resume_transport_reading(self) -> None:
        """Parse the bytes that wait here, before bytes that wait in the socket."""
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
        self._parse(data)
        self._judge(data, queued=queued, was_last=was_last)

    def _parse(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except Exception as error:  # noqa: BLE001 - the parser's own fault at some bytes is answered like any other
            self._queue_error(error)

    def _judge(self, data: bytes, *, queued: int, was_last: bool) -> None:
        """Judge the messages that the parser made of a piece, and follow where the newest request ends."""
        arrival, messages = self._arrival, self._messages
        message: RawRequestMessage | _ErrInfo | None = None
        payload: StreamReader | None = None
        begun = len(messages) > queued
        if begun:
            if was_last:  # the rest follows the last request, in the segment that ends that one's body
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
            error = cast("Exception", message.exc)
            # The traceback holds the parser's frame, which holds the error: a cycle with the bytes in it.
            error.__traceback__ = None
            self._stop_listening(error)
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

    def _stop_listening(self, error: Exception | None = None) -> None:
        """Discard all further input, and the received part of an unread body; with an error, the body fails with it."""
        self._deaf = True
        self._quiet = False
        if self._backlog is not None:
            self._discarded += len(self._backlog)
            self._backlog = None
        self._head_since = 0.0
        self._message_tail = b""
        # Only the newest request can lack a part of its body: the parser begins no other before it is whole.
        body = self._arrival.body
        if body is None or body.is_eof() or body.exception() is not None:
            return
        # The connection may linger until its client has read the answer, and no bound counts these bytes any more.
        framing.forget_received(body)
        if error is None:
            return
        if self.reading is not None and self.reading[0] is body:
            # Now, not when the handler has seen the error: one turn may receive from thousands of connections.
            self.reading[1].clear()
        body.set_exception(error)

    def _discard(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > LINGER_BYTES:
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
        if self._head_since:  # half a head has a time of its own; the timer goes on, for what comes after it
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    def _end_lingering(self) -> None:
        if self._lingering is not None and not self._lingering.done():
            self._lingering.set_result(None)
