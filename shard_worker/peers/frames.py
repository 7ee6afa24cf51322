"""The wire between two workers: frames inside mutual TLS (`shard_worker.peers.identity`), which proves both ends.

Each side begins with a `Hello`.  The client awaits the server's before its first request: in TLS 1.3 a client whose
certificate the server refuses completes its own handshake all the same, and only then reads an end of stream.  A frame is
length, kind, stream id, body.  A request's body starts with what the sender has left and what it knows: budget in
milliseconds, shard, epoch, hops.
"""

import asyncio
import struct
from typing import Final, NamedTuple

import msgspec

from shard_worker.contract import (
    CommandRequest,
    PeerAnswer,
    PeerRequest,
    PrepareShard,
    ShardTransferred,
    Unavailable,
    UnavailableCode,
)
from shard_worker.domain.ids import ThreadId, canonical

VERSION: Final = 2
FRAME_MOST: Final = 8 << 20
"""A frame's body at most, in bytes; more is no frame of ours."""
HELLO_MOST: Final = 64 << 10
"""The first frame's body at most, in bytes."""

REQUEST: Final = 1
ANSWER: Final = 2
PING: Final = 3
PONG: Final = 4
GOAWAY: Final = 5
"""The server will take no further connection, and closes this one once the client has its answers and asks no more."""
HELLO: Final = 6
"""The first frame of each side, and only that."""
BAD: Final = 7
"""The request of this stream, or with stream 0 what the other side sent, cannot be read; the body says why, in UTF-8.

Nothing of the request was admitted."""
CANCEL: Final = 8
"""The client no longer waits for this stream's answer; only sent to a server whose hello names `STREAMS`."""

STREAMS: Final = 1
"""Bit of `Hello.features`: this side knows `shard_worker.contract.StreamRequest` and `CANCEL`."""

_HEADER: Final = struct.Struct(">IBI")
_ENVELOPE: Final = struct.Struct(">IIQB")
_REASON_MOST: Final = 500

_encode: Final = msgspec.msgpack.Encoder().encode
_decode_request: Final = msgspec.msgpack.Decoder(PeerRequest).decode
_decode_answer: Final = msgspec.msgpack.Decoder(PeerAnswer).decode
_UNDECODABLE: Final = (msgspec.DecodeError, struct.error, UnicodeDecodeError, RecursionError)


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """First frame of each side: its identity.

    Fields are added at the end, with a default: a release ignores those that it does not know.
    """

    version: int
    incarnation: str
    timeline: int = 0
    """The highest timeline of the database that the sender knows; 0 before it knows any."""
    generation: str = ""
    """The generation that belongs to ``timeline``; see `shard_worker.database.connection`."""
    features: int = 0
    """The kinds of messages that this side knows beside requests and answers, a bit each; 0 from a release before the first of them."""


_decode_hello: Final = msgspec.msgpack.Decoder(Hello).decode


class BadFrame(Exception):
    """The other side does not speak this protocol; the connection must end."""


class Envelope(NamedTuple):
    """A request and what its sender has left and knows."""

    request: PeerRequest
    budget_s: float
    shard_id: int
    epoch: int
    hops: int


def frame(kind: int, stream: int, body: bytes = b"") -> bytes:
    """One frame."""
    return _HEADER.pack(len(body), kind, stream) + body


def request_frame(stream: int, envelope: Envelope) -> bytes:
    """A request as a frame."""
    head = _ENVELOPE.pack(max(0, int(envelope.budget_s * 1000)), envelope.shard_id, envelope.epoch, envelope.hops)
    return frame(REQUEST, stream, head + _encode(envelope.request))


def answer_frame(stream: int, answer: PeerAnswer, *, command: bool) -> bytes:
    """An answer as a frame; ``command`` when it answers one.

    An answer that does not fit a frame fails its own request alone: a command may be stored, a query asked for too much.
    """
    body = _encode(answer)
    if len(body) > FRAME_MOST:
        code = UnavailableCode.OUTCOME_UNKNOWN if command else UnavailableCode.OVERLOADED
        detail = (
            f"the answer has {len(body)} bytes, more than the {FRAME_MOST} that fit a frame: ask for a smaller page"
        )
        body = _encode(Unavailable(code, detail))
    return frame(ANSWER, stream, body)


def hello_frame(hello: Hello) -> bytes:
    """The first frame."""
    return frame(HELLO, 0, _encode(hello))


def bad_frame(stream: int, reason: str) -> bytes:
    """The refusal of something that cannot be read."""
    return frame(BAD, stream, reason[:_REASON_MOST].encode("utf-8", "replace"))


def read_hello(body: bytes) -> Hello:
    """The other side's first frame.  Raises `BadFrame`, also for another version of the protocol."""
    try:
        hello = _decode_hello(body)
    except _UNDECODABLE as error:
        raise BadFrame(f"hello: {error}") from error
    if hello.version != VERSION:
        raise BadFrame(f"hello: version {hello.version}, not {VERSION}")
    return hello


def read_request(body: bytes) -> Envelope:
    """The request in a frame's body, with an id that is one.  Raises `BadFrame`."""
    try:
        budget_ms, shard_id, epoch, hops = _ENVELOPE.unpack_from(body)
        request = _decode_request(memoryview(body)[_ENVELOPE.size :])
    except _UNDECODABLE as error:
        raise BadFrame(f"request: {error}") from error
    if type(request) is CommandRequest:
        thread_ids: tuple[ThreadId, ...] = (request.command.thread_id,)
    elif type(request) is PrepareShard:
        thread_ids = request.thread_ids
    else:
        thread_ids = () if type(request) is ShardTransferred else (request.thread_id,)
    for thread_id in thread_ids:
        if canonical(thread_id) != thread_id:
            raise BadFrame(f"request: thread id {thread_id[:40]!r} is not a canonical ULID")
    return Envelope(request, budget_ms / 1000, shard_id, epoch, hops)


def read_answer(body: bytes) -> PeerAnswer:
    """The answer in a frame's body.  Raises `BadFrame`."""
    try:
        answer: PeerAnswer = _decode_answer(body)
    except _UNDECODABLE as error:
        raise BadFrame(f"answer: {error}") from error
    return answer


class FrameReader:
    """Cuts a stream of bytes into frames, however the bytes arrive; the first of them must be small."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._most = HELLO_MOST

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """The frames (kind, stream id, body) that are whole now.  Raises `BadFrame`."""
        buffer = self._buffer
        buffer += data
        frames = []
        at = 0
        while len(buffer) - at >= _HEADER.size:
            length, kind, stream = _HEADER.unpack_from(buffer, at)
            if length > self._most or not REQUEST <= kind <= CANCEL:
                raise BadFrame(f"kind {kind}, {length} bytes")
            end = at + _HEADER.size + length
            if len(buffer) < end:
                break
            with memoryview(buffer) as view:
                frames.append((kind, stream, bytes(view[at + _HEADER.size : end])))
            at = end
            self._most = FRAME_MOST
        del buffer[:at]
        return frames


class CorkedWriter:
    """Gathers what one turn of the loop writes to a transport into one write."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._frames: list[bytes] = []
        self._gathered = 0

    @property
    def unread(self) -> int:
        """Bytes that the other side has not taken yet, without those in the kernel's buffer."""
        return self._gathered + self._transport.get_write_buffer_size()

    def put(self, data: bytes) -> None:
        """Have bytes written at the end of this turn."""
        if not self._frames:
            self._loop.call_soon(self.flush)
        self._frames.append(data)
        self._gathered += len(data)

    def flush(self) -> None:
        """Write what was gathered."""
        frames, self._frames = self._frames, []
        self._gathered = 0
        if frames and not self._transport.is_closing():
            self._transport.write(b"".join(frames))
