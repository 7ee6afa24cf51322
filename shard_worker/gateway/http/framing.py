"""Framing: where one request ends, and which requests end their connection.

aiohttp's parser does not say whether it holds the beginning of a head, and it accepts transfer encodings that this
gateway does not decode.  Both are judged here, from the bytes and from the messages the parser made of them.  Nothing
here does I/O.
"""

from collections.abc import Iterator
from typing import Final

from aiohttp import HttpVersion10, HttpVersion11, hdrs
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from shard_worker.gateway.http.problems import Problem, ProblemCode, ProblemRaised

MAX_LINE_BYTES: Final = 8_192
MAX_FIELD_BYTES: Final = 8_190
"""Different from the line's on purpose: a `LineTooLong` tells its limit, not what was too long."""
MAX_FIELDS: Final = 128
MAX_HEAD_BYTES: Final = 64 * 1024
"""Bounds what a connection holds before its request begins: `MAX_FIELDS` fields of `MAX_FIELD_BYTES` would be 1 MiB."""

_BLANK_LINE: Final = b"\r\n\r\n"
_BAD_TRANSFER_ENCODING: Final = ("Request has invalid `Transfer-Encoding`", "Invalid `Transfer-Encoding` header value")

_UNKNOWN_ENCODING: Final = Problem(
    code=ProblemCode.TRANSFER_ENCODING_UNKNOWN, detail="Transfer-Encoding: must be chunked alone", close=True
)
_CHUNKED_IN_1_0: Final = Problem(
    code=ProblemCode.MALFORMED_HTTP, detail="Transfer-Encoding: does not exist in HTTP/1.0", close=True
)
_AFTER_1_0: Final = Problem(
    code=ProblemCode.MALFORMED_HTTP, detail="a connection that began with HTTP/1.0 goes on with HTTP/1.0", close=True
)
HEAD_TOO_LARGE: Final = Problem(
    code=ProblemCode.HEADERS_TOO_LARGE, detail=f"the head has more than {MAX_HEAD_BYTES} bytes", close=True
)


def problem_of_http(error: BaseException | None) -> Problem:
    """Reason why bytes are no request."""
    if isinstance(error, ProblemRaised):
        return error.problem
    code, detail = ProblemCode.MALFORMED_HTTP, "the request is not HTTP/1.1"
    if isinstance(error, LineTooLong):
        if error.args[1] == MAX_LINE_BYTES:
            code, detail = ProblemCode.TARGET_TOO_LONG, f"the request target has more than {MAX_LINE_BYTES} bytes"
        else:
            code, detail = ProblemCode.HEADERS_TOO_LARGE, f"a header field has more than {MAX_FIELD_BYTES} bytes"
    elif isinstance(error, BadHttpMessage):
        if error.message.startswith("Too many headers"):
            code, detail = ProblemCode.HEADERS_TOO_LARGE, f"there are more than {MAX_FIELDS} header fields"
        elif error.message.startswith(_BAD_TRANSFER_ENCODING):
            return _UNKNOWN_ENCODING
    return Problem(code=code, detail=detail, close=True)


def problem_of_head(message: RawRequestMessage, *, after_1_0: bool) -> Problem | None:
    """Why a request whose head was parsed is refused all the same; ``after_1_0``: an earlier one was HTTP/1.0."""
    encoded = message.chunked or hdrs.TRANSFER_ENCODING in message.headers
    if message.version == HttpVersion10:
        return _CHUNKED_IN_1_0 if encoded else None
    if after_1_0:
        return _AFTER_1_0
    if encoded:
        given = message.headers.getall(hdrs.TRANSFER_ENCODING)
        if len(given) != 1 or given[0].lower() != "chunked":
            return _UNKNOWN_ENCODING
    return None


def ends_connection(message: RawRequestMessage) -> bool:
    """Whether nothing may follow this request: its client closes, or wants another protocol, which is not spoken."""
    return message.should_close or message.upgrade or message.method == hdrs.METH_CONNECT


def is_whole_and_plain(message: RawRequestMessage, payload: StreamReader, data: bytes) -> bool:
    """Whether ``data`` is this request and nothing else, whole, and others may follow it: as nearly every request is."""
    return (
        payload.is_eof()
        and message.version == HttpVersion11
        and not (message.should_close or message.upgrade or message.chunked)
        and data.find(_BLANK_LINE) + len(_BLANK_LINE) + payload.total_bytes == len(data)
        and hdrs.TRANSFER_ENCODING not in message.headers
        and message.method != hdrs.METH_CONNECT
    )


def pieces(data: bytes) -> Iterator[bytes]:
    """The data, cut behind each blank line, so that a piece holds the end of one head at most.

    Fed whole, the parser discards valid requests that come before a malformed one.
    """
    begin = 0
    while (end := data.find(_BLANK_LINE, begin)) >= 0:
        yield data[begin : end + len(_BLANK_LINE)]
        begin = end + len(_BLANK_LINE)
    if begin < len(data):
        yield data[begin:]


def holds_one_head(data: bytes) -> bool:
    """Whether ``data`` has just one blank line, as the end of one head has."""
    return data.count(_BLANK_LINE) == 1


def is_one_piece(data: bytes) -> bool:
    """Whether `pieces` would yield one alone, or one and what has no blank line: nearly always."""
    return data.count(_BLANK_LINE) <= 1


def forget_received(body: StreamReader) -> None:
    """Drop what was received of a body and not read.  A reader that is being woken still takes what it is woken for."""
    if body._waiter is None and body.total_bytes:  # noqa: SLF001 - without a reader nothing else empties the buffer
        body.read_nowait(-1)


class Arrival:
    """Follows what is fed to the parser: whether it ends within a head, within a body, or with a whole request."""

    __slots__ = ("_before", "_chunked", "_end", "body", "half_head", "head_bytes")

    def __init__(self) -> None:
        self.body: StreamReader | None = None
        """The body that is not complete, if one is."""
        self.half_head = False
        """Whether what was fed ends in the middle of a head."""
        self.head_bytes = 0
        """How long that head is by now."""
        self._chunked = False
        self._before = 0
        self._end = b""
        """The last bytes of half a head: the blank line that ends it may come in pieces."""

    @property
    def within(self) -> bool:
        """Whether what was fed ends within a request."""
        return self.half_head or self.body is not None

    def begin(self) -> None:
        """A piece is about to be fed."""
        if self.body is not None:
            self._before = self.body.total_bytes

    def lost(self, message: RawRequestMessage | None, payload: StreamReader | None) -> None:
        """The parser keeps bytes of its own, for aiohttp takes no more: where requests end is not known for now.

        ``message`` is the newest that the parser made, if it made one.  Nothing waits for the client meanwhile; once it
        does, the keep-alive time-out bounds what was not seen here.
        """
        self._end = b""
        self.half_head = False
        if message is not None:
            self._chunked = message.chunked
        body = payload or self.body
        self.body = None if body is None or body.is_eof() else body

    def follow(self, piece: bytes, message: RawRequestMessage | None, payload: StreamReader | None) -> None:
        """A piece was fed, and the parser made of it this message, or none."""
        seen, self._end = self._end + piece, b""
        begun, self.half_head = self.half_head, False
        if message is not None and payload is not None:
            self.body, self._chunked = (None if payload.is_eof() else payload), message.chunked
            if self.body is None:
                rest = seen[seen.find(_BLANK_LINE) + len(_BLANK_LINE) :]
                self.half_head = not message.chunked and bool(rest[payload.total_bytes :].strip(b"\r\n"))
        elif self.body is None:
            self.half_head = begun or bool(piece.strip(b"\r\n"))
        elif self.body.is_eof():
            if not self._chunked:
                self.half_head = bool(piece[self.body.total_bytes - self._before :].strip(b"\r\n"))
            self.body = None
        if self.half_head:
            self._end = seen[-3:]
            self.head_bytes = len(piece) + (self.head_bytes if begun and message is None else 0)
