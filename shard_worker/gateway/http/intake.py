"""Intake: how many received bytes all connections of a port may hand to the parser in one turn of the loop.

The client chooses the cost of a byte (a chunk of one byte costs as much as one of a kilobyte, and a segment may hold
thousands of requests), so the bound is on the bytes.  Up to the bound a segment is parsed as it comes.  The rest waits
in its connection, which reads no more meanwhile, and is parsed a slice a turn, one connection after the other.
"""

import asyncio
import logging
from collections import deque
from typing import Final, Protocol

_LOG: Final = logging.getLogger(__name__)

SLICE_BYTES: Final = 16 * 1024
"""Maximum that one connection parses at once: 2,700 chunks of one byte, about 5 ms."""
TURN_BYTES: Final = 32 * 1024
"""Maximum parsed in one turn of what has just come, and again of what has waited."""
_SMALL_BYTES: Final = 4 * 1024
"""Inputs up to this size are parsed before larger ones: a plain request does not wait for uploads."""


class Waiting(Protocol):
    """A connection with bytes that are not parsed yet."""

    def parse_some(self) -> int:
        """Parse one slice; returns its bytes.  Enlists again when more is left and may be parsed."""
        ...

    def force_close(self) -> None:
        """End the connection."""
        ...


class Intake:
    """Shares one port's turns among its connections."""

    __slots__ = ("_large", "_left", "_loop", "_small", "_turning")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._left = TURN_BYTES
        self._turning = False
        self._small: deque[Waiting] = deque()
        self._large: deque[Waiting] = deque()

    def admits(self, size: int) -> bool:
        """Whether a segment of ``size`` bytes may be parsed at once; it then counts."""
        if size > self._left or size > SLICE_BYTES:
            return False
        self._left -= size
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)
        return True

    def enlist(self, connection: Waiting, size: int) -> None:
        """Parse a slice of this connection, which has ``size`` bytes waiting, in a later turn."""
        (self._small if size <= _SMALL_BYTES else self._large).append(connection)
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._left = left = TURN_BYTES
        for waiting in (self._small, self._large):
            for _ in range(len(waiting)):
                if left <= 0:
                    break
                connection = waiting.popleft()
                try:
                    left -= connection.parse_some()
                except Exception as error:  # noqa: BLE001 - one connection's fault must not stop the others' intake
                    _LOG.error("parser failed; connection closed", exc_info=error)
                    connection.force_close()
        self._turning = bool(self._small or self._large)
        if self._turning:
            self._loop.call_soon(self._turn)
