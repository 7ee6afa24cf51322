"""Lets the requests in that waited for an owner, a few at a time.

When a worker dies, everybody who asks for one of its shards waits, and all of them are woken by the same event.  Served
at once they would take the processors from the shards that were never in doubt; so they come in line, in the order in
which they lined up, as fast as their number asks for: a line of any length is gone within some tenths of a second.
"""

import asyncio
from collections import deque
from typing import Final

_APART_S: Final = 0.005
_PART: Final = 20
"""A twentieth of the line, and at least one, goes in at a time."""


class Readmission:
    """The line.  A place in it is a future that is done when its holder may go in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._line: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def line_up(self) -> "asyncio.Future[None]":
        """A place at the end; who gives up cancels it."""
        place: asyncio.Future[None] = self._loop.create_future()
        self._line.append(place)
        if self._timer is None:
            self._timer = self._loop.call_later(0.0, self._let_in)
        return place

    def _let_in(self) -> None:
        if not self._line:
            self._timer = None
            return
        self._admit(max(1, len(self._line) // _PART))
        # Also after the last: who lines up next keeps the distance, else many who come one by one all go in at once.
        self._timer = self._loop.call_later(_APART_S, self._let_in)

    def close(self) -> None:
        """Let everybody in, to whatever they find."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._admit(len(self._line))

    def _admit(self, most: int) -> None:
        while self._line and most > 0:
            place = self._line.popleft()
            if not place.done():
                place.set_result(None)
                most -= 1
