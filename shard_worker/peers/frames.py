"""The wire between two workers: a handshake that proves the cluster's secret both ways, then frames.

A connection begins with ``TCF1``, a version and the client's nonce; the server answers with its nonce and its proof, the
client with its own proof.  After that each side sends frames: length, kind, stream id, body.  A request's body starts
with what the sender has left and what it knows: budget in milliseconds, shard, epoch, hops.
"""

import asyncio
import hmac
import struct
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from shard_worker.contract import PeerAnswer, PeerRequest

MAGIC: Final = b"TCF1"
VERSION: Final = 1
NONCE: Final = 16
PROOF: Final = 32
HELLO: Final = len(MAGIC) + 1 + NONCE
FRAME_MOST: Final = 8 << 20
"""A frame's body at most, in bytes; more is no frame of ours."""

REQUEST: Final = 1
ANSWER: Final = 2
PING: Final = 3
PONG: Final = 4
BYE: Final = 5
"""The server will take no further connection, and closes this one once the client has its answers and asks no more."""

_HEADER: Final = struct.Struct(">IBI")
_ENVELOPE: Final = struct.Struct(">IIQB")

_encode: Final = msgspec.msgpack.Encoder().encode
_decode_request: Final = msgspec.msgpack.Decoder(PeerRequest).decode
_decode_answer: Final = msgspec.msgpack.Decoder(PeerAnswer).decode


class BadFrame(Exception):
    """The other side does not speak this protocol; the connection must end."""


class Envelope(NamedTuple):
    """A request and what its sender has left and knows."""

    request: PeerRequest
    budget_s: float
    shard_id: int
    epoch: int
    hops: int


def proof(secret: bytes, role: bytes, first: bytes, second: bytes) -> bytes:
    """What only a holder of the cluster's secret can answer to these nonces."""
    return hmac.new(secret, role + first + second, sha256).digest()


def frame(kind: int, stream: int, body: bytes = b"") -> bytes:
    """One frame."""
    return _HEADER.pack(len(body), kind, stream) + body


def request_frame(stream: int, envelope: Envelope) -> bytes:
    """A request as a frame."""
    head = _ENVELOPE.pack(max(0, int(envelope.budget_s * 1000)), envelope.shard_id, envelope.epoch, envelope.hops)
    return frame(REQUEST, stream, head + _encode(envelope.request))


def answer_frame(stream: int, answer: PeerAnswer) -> bytes:
    """An answer as a frame."""
    return frame(ANSWER, stream, _encode(answer))


def read_request(body: bytes) -> Envelope:
    """The request in a frame's body.  Raises `BadFrame`."""
    try:
        budget_ms, shard_id, epoch, hops = _ENVELOPE.unpack_from(body)
        return Envelope(_decode_request(body[_ENVELOPE.size :]), budget_ms / 1000, shard_id, epoch, hops)
    except (msgspec.DecodeError, struct.error, UnicodeDecodeError) as error:
        raise BadFrame(str(error)) from error


def read_answer(body: bytes) -> PeerAnswer:
    """The answer in a frame's body.  Raises `BadFrame`."""
    try:
        answer: PeerAnswer = _decode_answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadFrame(str(error)) from error
    return answer


class FrameReader:
    """Cuts a stream of bytes into frames, however the bytes arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """The frames (kind, stream id, body) that are whole now.  Raises `BadFrame`."""
        buffer = self._buffer
        buffer += data
        frames = []
        at = 0
        while len(buffer) - at >= _HEADER.size:
            length, kind, stream = _HEADER.unpack_from(buffer, at)
            if length > FRAME_MOST or not REQUEST <= kind <= BYE:
                raise BadFrame(f"kind {kind}, {length} bytes")
            end = at + _HEADER.size + length
            if len(buffer) < end:
                break
            frames.append((kind, stream, bytes(buffer[at + _HEADER.size : end])))
            at = end
        del buffer[:at]
        return frames


class Outbox:
    """Gathers what one turn of the loop writes to a transport into one write."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._frames: list[bytes] = []

    def put(self, data: bytes) -> None:
        """Have bytes written at the end of this turn."""
        if not self._frames:
            asyncio.get_running_loop().call_soon(self.flush)
        self._frames.append(data)

    def flush(self) -> None:
        """Write what was gathered."""
        frames, self._frames = self._frames, []
        if frames and not self._transport.is_closing():
            self._transport.write(b"".join(frames))
