"""Connections: what aiohttp's own protocol leaves to be wished for at the edge of HTTP.

`GatewayConnection` answers what is not HTTP in the shape of every other problem, ends a request whose head or chunks
stop making sense or stop coming (aiohttp alone would wait for ever), and never repeats a client's bytes in the log.
It rests on a few parts of `RequestHandler` that aiohttp does not promise; `check_aiohttp` looks for them at start.
"""

import asyncio
import logging
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.web_protocol import RequestHandler, _ErrInfo, _RequestHandler

from shard_worker.gateway.problems import Problem, ProblemCode
from shard_worker.gateway.replies import problem_reply, raw

_LOG: Final = logging.getLogger(__name__)

MAX_LINE_BYTES: Final = 8_192
MAX_FIELD_BYTES: Final = 8_190
"""Different from the line's on purpose: a `LineTooLong` tells its limit, not what was too long."""
MAX_FIELDS: Final = 128

_NEEDED: Final = ("data_received", "handle_error", "_messages", "_waiter", "_request_in_progress", "_drain_helper")


class UnsuitableAiohttp(RuntimeError):
    """This release of aiohttp has not the parts that `GatewayConnection` rests on."""


def check_aiohttp() -> None:
    """Raise `UnsuitableAiohttp`, by name of what is missing, before the first socket is opened."""
    missing = [name for name in _NEEDED if not hasattr(RequestHandler, name)]
    if missing:
        raise UnsuitableAiohttp(f"aiohttp's RequestHandler has no {', '.join(missing)}")


def problem_of_http(error: BaseException | None) -> Problem:
    """What was wrong with bytes that are no request."""
    code, detail = ProblemCode.MALFORMED_HTTP, "the request is not HTTP/1.1"
    if isinstance(error, LineTooLong):
        if error.args[1] == MAX_LINE_BYTES:
            code, detail = ProblemCode.TARGET_TOO_LONG, f"the request target has more than {MAX_LINE_BYTES} bytes"
        else:
            code, detail = ProblemCode.HEADERS_TOO_LARGE, f"a header field has more than {MAX_FIELD_BYTES} bytes"
    elif isinstance(error, BadHttpMessage) and error.message.startswith("Too many headers"):
        code, detail = ProblemCode.HEADERS_TOO_LARGE, f"there are more than {MAX_FIELDS} header fields"
    return Problem(code=code, detail=detail, close=True)


class GatewayConnection(RequestHandler):
    """One client's connection."""

    __slots__ = ("_head_timeout_s", "_head_timer", "request_since")

    def __init__(self, *args: Any, head_timeout_s: float, **kwargs: Any) -> None:  # Any: RequestHandler's own
        super().__init__(*args, **kwargs)
        self._head_timeout_s = head_timeout_s
        self._head_timer: asyncio.TimerHandle | None = None
        self.request_since = 0.0
        """Loop time of the first byte of the request at hand, if its head came in pieces; else 0."""

    @property
    def idle(self) -> bool:
        """Whether nothing is under way on this connection, not even half a head."""
        return not self._request_in_progress and not self._messages and self._head_timer is None

    @property
    def pipelined(self) -> bool:
        """Whether a further request has arrived while one is answered."""
        return bool(self._messages)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and see whether a head is now begun, done or hopeless."""
        super().data_received(data)
        messages = self._messages
        if messages:
            if self._head_timer is not None:
                self.request_since = self._head_timer.when() - self._head_timeout_s
                self._head_timer.cancel()
                self._head_timer = None
            else:
                self.request_since = 0.0
            last = messages[-1][0]
            if isinstance(last, _ErrInfo):
                self._give_up_bodies(last.exc)
        elif data and self._head_timer is None and self._waiter is not None:
            self._head_timer = self._loop.call_later(self._head_timeout_s, self._head_overdue)

    def _give_up_bodies(self, error: BaseException) -> None:
        """What follows cannot be parsed: a body that is still awaited will never be complete."""
        waiting = [payload for _, payload in self._messages]
        if self._current_request is not None:
            waiting.append(self._current_request.content)
        for payload in waiting:
            if not payload.is_eof():
                payload.set_exception(error)

    def _head_overdue(self) -> None:
        self._head_timer = None
        if self.transport is None or self._waiter is None or self._messages:
            return
        detail = f"the request did not arrive within {self._head_timeout_s:g} s"
        problem = Problem(code=ProblemCode.REQUEST_TIMEOUT, detail=detail, close=True)
        self.transport.write(raw(problem_reply(problem)))
        self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection and its timer."""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().connection_lost(exc)

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
    """aiohttp's low-level server, making `GatewayConnection`s."""

    def __init__(
        self,
        handler: _RequestHandler,
        *,
        head_timeout_s: float,
        keepalive_timeout_s: float,
    ) -> None:
        super().__init__(handler)
        self._head_timeout_s = head_timeout_s
        self._keepalive_timeout_s = keepalive_timeout_s

    def __call__(self) -> GatewayConnection:
        """The protocol of one new connection."""
        return GatewayConnection(
            self,
            loop=self._loop,
            head_timeout_s=self._head_timeout_s,
            keepalive_timeout=self._keepalive_timeout_s,
            access_log=None,
            auto_decompress=False,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            max_headers=MAX_FIELDS,
        )
