"""How often a shard is projected into the read model, and how much in one look.

A batch costs half a millisecond whatever it holds, and each offset and thread in it is written once: larger batches cost less an
event, and a command is visible some milliseconds later.  While the worker has time left, every shard is projected in every look; while
the worker is at its limit, looks are further apart, a shard is projected in every fourth, and each takes a quarter of the events: one
batch of all would be many milliseconds of the server and the loop, which commands would wait for.
"""

import time
from collections.abc import Callable
from typing import Final, NamedTuple

LOOK_S: Final = 0.02
"""Shortest time from the begin of one look to the begin of the next.  The first event after a pause does not wait."""
LONG_S: Final = 0.12
"""Shortest time between two batches of a shard while the loop has no time left."""
PARTS: Final = 4
"""Looks by which the shards are projected once, while looks are so far apart."""
_LOOKS: Final = 4.0
"""Time for each second of looks, while none has more than it projects."""
_BUSY: Final = (0.82, 0.9)
"""Part of the time for which the loop's thread runs: up to the first a shard waits for `LOOK_S`, from the second on for `LONG_S`.  It is
0.7 to 0.8 at half of the commands that a worker can take, when batches are small, and 0.85 to 0.9 at its limit.
"""
_WEIGHT: Final = 0.1
"""Of the newest look in the mean over the last ones."""


class Turn(NamedTuple):
    """A look: the next begins ``look_s`` seconds after it at the earliest; it takes shards that were projected ``every_s`` seconds
    ago or before, and of their events a part of ``share``.
    """

    look_s: float
    every_s: float
    share: float

    def pause_s(self, took_s: float, *, more: bool) -> float:
        """Seconds from this look's begin to the next; it took ``took_s``, and found ``more`` than it could project.

        Looks that take long, as where the server or the processor is slow, are further apart.
        """
        return self.look_s if more else max(self.look_s, min(LONG_S / PARTS, took_s * _LOOKS))


AT_ONCE: Final = Turn(LOOK_S, 0.0, 1.0)


class Pace:
    """The turns of the looks, by how busy the loop's thread was in the last ones."""

    def __init__(
        self, worked: Callable[[], float] = time.thread_time, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._worked, self._clock = worked, clock
        self._at, self._ran = clock(), worked()
        self._busy = 0.0

    def next(self) -> Turn:
        """The turn of the next look; called once a look."""
        at, ran = self._clock(), self._worked()
        if at > self._at:
            busy = min(1.0, max(0.0, (ran - self._ran) / (at - self._at)))
            self._busy += (busy - self._busy) * _WEIGHT
        self._at, self._ran = at, ran
        low, high = _BUSY
        every_s = LOOK_S + (LONG_S - LOOK_S) * min(1.0, max(0.0, (self._busy - low) / (high - low)))
        if every_s == LOOK_S:
            return AT_ONCE
        look_s = max(LOOK_S, every_s / PARTS)
        return Turn(look_s, every_s - look_s / 2, look_s / every_s)
