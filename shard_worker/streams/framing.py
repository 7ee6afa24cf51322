"""Framing: events as the bytes of ``text/event-stream``.

An event is framed once, whatever the number of followers.  The payload is already the JSON that clients get, but for three fields in
front, so it is not decoded: only an event of an older version is.
"""

from typing import Final

import msgspec

from shard_worker.contract import LiveEvent
from shard_worker.domain.ids import ThreadId
from shard_worker.journal.codec import EVENT_NAMES, EVENT_VERSIONS, decode, encode
from shard_worker.streams.position import position_text

HEART_BEAT: Final = b":\n\n"
"""A comment: it keeps proxies and clients from taking the stream for dead."""
# A client's JSON parser, or its display, may take these for the ends of lines.
_LINE_ENDS: Final = (
    ("\u0085".encode(), b"\\u0085"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)


def event_frame(thread_id: ThreadId, event: LiveEvent) -> bytes:
    """One event.  Raises `shard_worker.journal.codec.UndecodableEvent` for one that this release cannot read."""
    position = position_text(event.sequence_nr, event.epoch).encode()
    return b"id: %b\n%b" % (position, bare_frame(thread_id, event))


def bare_frame(thread_id: ThreadId, event: LiveEvent) -> bytes:
    """One event without an id, as in a stream of many threads.  Raises as `event_frame` does."""
    payload = event.payload
    newest = EVENT_VERSIONS.get(event.event_type) == event.event_version
    if not newest or payload[:2] != b'{"' or b"\n" in payload or b"\r" in payload:
        payload = encode(decode(event.event_type, event.event_version, payload))[2]
    return b'event: %b\ndata: {"threadId":"%b","sequenceNr":%d,"epoch":%d,%b\n\n' % (
        EVENT_NAMES[event.event_type].encode(),
        thread_id.encode(),
        event.sequence_nr,
        event.epoch,
        one_line(payload)[1:],
    )


def opening_frame(sequence_nr: int, epoch: int | None) -> bytes:
    """The position alone: a client that is cut off before the first event resumes at it."""
    return b"id: %b\n\n" % position_text(sequence_nr, epoch).encode()


def reset_frame(thread_id: ThreadId, sequence_nr: int, epoch: int) -> bytes:
    """The client's position is not in the history, whose newest event this is: read the thread again."""
    return b'id: %b\nevent: reset\ndata: {"threadId":"%b","sequenceNr":%d,"epoch":%d}\n\n' % (
        position_text(sequence_nr, epoch).encode(),
        thread_id.encode(),
        sequence_nr,
        epoch,
    )


def position_frame(position: bytes) -> bytes:
    """A position alone."""
    return b"id: %b\n\n" % position


def account_reset_frame(position: bytes) -> bytes:
    """Any thread of the account may have lost events: list the threads again."""
    return b'id: %b\nevent: reset\ndata: {"threadId":null}\n\n' % position


def thread_error_frame(thread_id: ThreadId, problem: bytes) -> bytes:
    """The last event of one thread in a stream of many; ``problem`` is the JSON of the problem."""
    return b'event: error\ndata: {"threadId":"%b",%b\n\n' % (thread_id.encode(), one_line(problem)[1:])


def error_frame(problem: bytes) -> bytes:
    """The last event of a stream that is refused; ``problem`` is the JSON of the problem."""
    return b"event: error\ndata: %b\n\n" % one_line(problem)


def retry_frame(milliseconds: int) -> bytes:
    """When the client may come back."""
    return b"retry: %d\n\n" % milliseconds


def one_line(payload: bytes) -> bytes:
    """JSON with the characters escaped that some readers take for the end of a line."""
    if b"\n" in payload or b"\r" in payload:
        payload = msgspec.json.format(payload, indent=-1)
    if not payload.isascii():
        for raw, escaped in _LINE_ENDS:
            payload = payload.replace(raw, escaped)
    return payload
