"""Plain requests: recognised in the bytes of one segment, without a parser.

A request is plain when nothing of it needs judgement: a whole POST in HTTP/1.1 with a JSON body of a known length, or a GET without
a body, on a connection that goes on, whose further header fields mean nothing to this gateway.  Everything else is not plain, and
goes to aiohttp untouched; so a reader never says that a request is wrong.

Each line of a head is classified once and remembered.  Behind an ingress heads differ in every request (trace ids), their lines
hardly do.
"""

import re
from collections.abc import Callable
from enum import IntEnum
from typing import Final, NamedTuple

from shard_worker.gateway.http.request_body import is_json

_END_OF_HEAD: Final = b"\r\n\r\n"
_POST: Final = b"POST "
_GET: Final = b"GET "
_VERSION: Final = b" HTTP/1.1"

_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]++):[ \t]*+([\x20-\x7e\t]*+)")
"""A field of visible ASCII.  Possessive, so that no line takes longer than its bytes."""
_LENGTH: Final = re.compile(rb"0|[1-9][0-9]{0,5}")
_KEY: Final = re.compile(rb"[\x21-\x7e]{1,128}")

_FIELDS_MOST: Final = 64
"""Fields of a plain head; half of what aiohttp takes."""
_REMEMBERED_MOST: Final = 1_024
"""Lines that are remembered; then all are forgotten, so that a client cannot fill the memory with lines of its own."""
_REMEMBERED_BYTES: Final = 512
"""Maximum size of a remembered line."""


class _Kind(IntEnum):
    """Kinds of a line, as bits: each of these may come once."""

    HARMLESS = 0
    """Means nothing here, and may come again."""
    HOST = 1
    CONTENT_TYPE = 2
    CONTENT_LENGTH = 4
    USER_AGENT = 8
    CONNECTION = 16
    KEY = 32
    NOT_PLAIN = -1


_HARMLESS: Final = int(_Kind.HARMLESS)
_KEY_LINE: Final = int(_Kind.KEY)
_ONCE: Final = 63
"""All bits of a kind; a length's line has the length above them."""
_LENGTH_SHIFT: Final = 6
_NEEDED: Final = int(_Kind.HOST | _Kind.CONTENT_TYPE | _Kind.CONTENT_LENGTH)
_NEEDED_TO_GET: Final = int(_Kind.HOST)

_JUDGED: Final = frozenset(
    (
        *(b"transfer-encoding", b"upgrade", b"expect", b"te", b"trailer", b"proxy-connection", b"keep-alive"),
        *(
            b"content-encoding",
            b"http2-settings",
            b"sec-websocket-key1",
            b"sec-websocket-key",
            b"sec-websocket-version",
        ),
        # aiohttp refuses a second one of these.
        *(b"content-location", b"content-range", b"etag", b"max-forwards", b"server"),
    )
)
"""Fields that are judged by the parser or by this gateway: a head with one of them is not plain."""


class PlainRequest(NamedTuple):
    """A request that needs no judgement: its target, its Idempotency-Key or None, and its body, which is None of a GET."""

    path: bytes
    key: str | None
    body: bytes | None


class PlainRequestReader:
    """Recognises plain requests.

    ``admits_host`` says whether a value of ``Host`` is one of this server's names; ``cors`` whether ``Origin`` matters.
    """

    def __init__(self, admits_host: Callable[[str], bool], *, cors: bool) -> None:
        self._admits_host = admits_host
        self._judged = _JUDGED | {b"origin"} if cors else _JUDGED
        self._known: dict[bytes, int] = {}

    def read(self, data: bytes) -> PlainRequest | None:
        """The request that ``data`` is, or None when that is not one plain request, whole and nothing else."""
        end = data.find(_END_OF_HEAD)
        if end < 0:
            return None
        gets = data[:4] == _GET
        if not gets and data[:5] != _POST:
            return None
        first, *lines = data[:end].split(b"\r\n")
        if first[-9:] != _VERSION or len(lines) > _FIELDS_MOST:
            return None
        known = self._known
        key: str | None = None
        seen = 0
        for line in lines:
            kind = known.get(line)
            if kind is None:
                kind = self._classify(line)
            if kind != _HARMLESS:
                if kind < 0 or seen & kind & _ONCE:
                    return None
                seen |= kind
                if kind == _KEY_LINE:
                    key = line.partition(b":")[2].strip(b" \t").decode("ascii")
        body = data[end + 4 :]
        needed = _NEEDED_TO_GET if gets else _NEEDED
        if seen & needed != needed or seen >> _LENGTH_SHIFT != len(body):
            return None
        if gets:
            return None if body else PlainRequest(first[4:-9], key, None)
        return PlainRequest(first[5:-9], key, body)

    def _classify(self, line: bytes) -> int:
        """The line's kind; remembered, unless each request has such a line of its own."""
        kind = self._kind(line)
        if kind != _KEY_LINE and len(line) <= _REMEMBERED_BYTES:
            if len(self._known) >= _REMEMBERED_MOST:
                self._known.clear()
            self._known[line] = kind
        return kind

    def _kind(self, line: bytes) -> int:
        field = _FIELD.fullmatch(line)
        if field is None:
            return _Kind.NOT_PLAIN
        name, value = field[1].lower(), field[2].rstrip(b" \t")
        match name:
            case b"host":
                return _Kind.HOST if self._admits_host(value.decode("ascii")) else _Kind.NOT_PLAIN
            case b"content-type":
                return _Kind.CONTENT_TYPE if is_json(value.decode("ascii")) else _Kind.NOT_PLAIN
            case b"content-length":
                if not _LENGTH.fullmatch(value):
                    return _Kind.NOT_PLAIN
                return _Kind.CONTENT_LENGTH | int(value) << _LENGTH_SHIFT
            case b"user-agent":
                return _Kind.USER_AGENT
            case b"connection":
                return _Kind.CONNECTION if value.lower() == b"keep-alive" else _Kind.NOT_PLAIN
            case b"idempotency-key":
                return _Kind.KEY if _KEY.fullmatch(value) else _Kind.NOT_PLAIN
            case _:
                return _Kind.NOT_PLAIN if name in self._judged else _Kind.HARMLESS
