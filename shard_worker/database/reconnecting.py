"""Back-off of one worker's connections: while the database is away, one attempt at a time, ever further apart.

A worker has about ten sessions, and each would be opened again by itself.  Through the gate a worker that cannot
connect makes one attempt a round: the others wait for its outcome.  The session of the lease has a gate of its own, because
an attempt of another that a cut link ended must not hold it up.  Pauses are random within a factor of two, so that
a fleet that lost its database does not come back in one moment.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

_FIRST_PAUSE_S: Final = 0.05
_LAST_PAUSE_S: Final = 1.0
"""Longest pause; it adds to every fail-over, and a worker that connects once a second harms nothing."""


class Backoff:
    """Pauses that double, by default from 50 ms to 1 s, each between half of itself and itself; `reset` after a success."""

    def __init__(
        self,
        *,
        first_s: float = _FIRST_PAUSE_S,
        last_s: float = _LAST_PAUSE_S,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._first_s = first_s
        self._last_s = last_s
        self._jitter = jitter
        self._pause_s = 0.0

    def next_s(self) -> float:
        """The next pause, in seconds."""
        self._pause_s = min(self._last_s, max(self._first_s, self._pause_s * 2))
        return self._pause_s * (0.5 + 0.5 * self._jitter())

    def reset(self) -> None:
        """Begin with the shortest pause again."""
        self._pause_s = 0.0


class ConnectGate:
    """Lets attempts through freely while they succeed, and one at a time, after a pause, once one has failed."""

    def __init__(self, backoff: Backoff | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._error: Exception | None = None
        self._again_at = 0.0
        self._probe = asyncio.Lock()
        self.attempts = 0
        self.failures = 0

    @property
    def wait_s(self) -> float:
        """How long until the next attempt is let through."""
        return max(0.0, self._again_at - self._clock()) if self._error is not None else 0.0

    async def run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The attempt's result.  Raises its error, or the last one when it is too early for another attempt."""
        if self._error is not None:
            async with self._probe:
                if self._error is not None:
                    if self.wait_s > 0:
                        raise type(self._error)(*self._error.args)
                    return await self._try(attempt)
        return await self._try(attempt)

    async def _try(self, attempt: Callable[[], Awaitable[T]]) -> T:
        self.attempts += 1
        try:
            found = await attempt()
        except Exception as error:
            self.failures += 1
            # Several sessions that are lost at once fail at once: that is one round, with one pause.
            if self._error is None or self.wait_s <= 0:
                self._again_at = self._clock() + self._backoff.next_s()
            self._error = error
            raise
        self._error = None
        self._backoff.reset()
        return found
