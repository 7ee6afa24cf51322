"""The client's end of a stream, as the streams see it, and the bounds on what waits there."""

from typing import Final, Protocol

SLOW_BYTES: Final = 256 << 10
"""Bytes of earlier events that a live client may have unread when the next comes; beyond, its stream ends."""


class Sink(Protocol):
    """A connection that carries one stream; see `shard_worker.gateway.http.event_stream`."""

    paused: bool
    """Whether the client leaves unread more than a little."""

    def write(self, data: bytes) -> None:
        """Send whole frames; never waits."""

    def unsent(self) -> int:
        """Bytes that wait for the client."""

    def may_hold(self, size: int) -> bool:
        """Whether the worker may keep ``size`` more bytes for this client."""

    def count_unsent(self) -> None:
        """Count the bytes that wait for a client that is paused: it was sent more."""

    async def drained(self, within_s: float) -> bool:
        """Wait until the client has read; False when it did not within ``within_s`` seconds."""

    def end(self, data: bytes) -> None:
        """Send the last frames, and close the connection once the client has read them, or after a time."""

    def abort(self) -> None:
        """Close the connection at once."""


class Listener(Protocol):
    """The writer of a sink."""

    def lost(self) -> None:
        """The connection is closed, by either side; called once."""
