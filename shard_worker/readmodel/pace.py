"""How long the updater of the read model waits between two looks.

A batch costs half a millisecond whatever it holds, and each offset and thread in it is written once: larger batches cost less an
event, and a command is visible some milliseconds later.  While the worker has time left, it is visible soon; while the worker
is at its limit, the time goes to commands.
"""

import time
from collections.abc import Callable
from typing import Final

SHORT_S: Final = 0.015
"""Shortest time from the begin of one look to the begin of the next.  The first event after a pause does not wait."""
LONG_S: Final = 0.06
"""The same while the loop has no time left."""
_BUSY: Final = (0.82, 0.9)
"""Part of the time for which the loop's thread runs: up to the first the pace is `SHORT_S`, from the second on `LONG_S`.  It is
0.7 to 0.8 at half of the commands that a worker can take, when batches are small, and 0.85 to 0.9 at its limit.
"""
_WEIGHT: Final = 0.25
"""Of the newest look in the mean over the last ones."""


class Pace:
    """The time between looks, by how busy the loop's thread was in the last ones."""

    def __init__(
        self, worked: Callable[[], float] = time.thread_time, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._worked, self._clock = worked, clock
        self._at, self._ran = clock(), worked()
        self._busy = 0.0

    def next_s(self) -> float:
        """Seconds from the begin of the last look to the begin of the next; called once a look."""
        at, ran = self._clock(), self._worked()
        if at > self._at:
            busy = min(1.0, max(0.0, (ran - self._ran) / (at - self._at)))
            self._busy += (busy - self._busy) * _WEIGHT
        self._at, self._ran = at, ran
        low, high = _BUSY
        return SHORT_S + (LONG_S - SHORT_S) * min(1.0, max(0.0, (self._busy - low) / (high - low)))
