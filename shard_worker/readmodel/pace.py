"""How often a shard is projected into the read model, and how much in one look.

A batch costs half a millisecond whatever it holds, and each offset and thread in it is written once: larger batches cost less an
event, and a command is visible some milliseconds later.  While little is appended, every shard is projected in every look.  At the
limit of the worker, or of the server behind it, a shard is projected seldom, and a look takes a few of the shards: one batch of
all would be many milliseconds of the server and the loop, which commands would wait for.  For the same reason a backlog, as of a
rebuild, is worked off in small pieces while there are commands.
"""

import math
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Final, NamedTuple

LOOK_S: Final = 0.02
"""Shortest time from the begin of one look to the begin of the next.  The first event after a pause does not wait."""
LONG_S: Final = 0.36
"""Shortest time between two batches of a shard at the limit."""
_APART_S: Final = LOOK_S * 0.75
"""Shortest time between two batches of a shard while looks come more often because of a backlog: batches of what is new would be
small ones.
"""
PARTS: Final = 24
"""Looks by which the shards are projected once, at the limit."""
_LOOK_MOST_S: Final = 0.03
"""Time between looks that take long, as where the server or the processor is slow."""
_LOOKS: Final = 4.0
"""Time for each second of looks, while none has more than it projects."""
_BUSY: Final = (0.82, 0.9)
"""Part of the time for which the loop's thread runs: up to the first a shard waits for `LOOK_S`, from the second on for `LONG_S`.  It is
0.7 to 0.8 at half of the commands that a worker on a slow processor can take, when batches are small, and 0.85 to 0.9 at its limit.
"""
_RATE: Final = (10_000.0, 13_000.0)
"""The same in events a second: a worker on a fast processor waits for the server at its limit, and has time left."""
_QUIET: Final = 20.0
"""Events a second up to which a backlog is worked off as fast as it can be."""
_BACKLOG: Final = 100.0
"""Events of it that a look takes otherwise, and half as many more as were appended since the last one if these are more: so it
becomes less."""
_MORE_S: Final = 0.004
"""Shortest time from the begin of such a look to the next: small pieces often, since commands wait for each as long as it takes."""
_MORE: Final = 1.1
"""Time for each second of such a look."""
_MEMORY_S: Final = 0.2
"""How long the means remember."""


class Left(IntEnum):
    """The events that a look leaves to the next."""

    NOTHING = 0
    EVENTS = 1
    """Of shards whose turn comes later."""
    BACKLOG = 2
    """Of shards that are far behind."""


class Turn(NamedTuple):
    """A look: the next begins ``look_s`` seconds after it at the earliest; it takes shards that were projected ``every_s`` seconds
    ago or before, and of their events a part of ``share``; and about ``backlog`` events of shards that are far behind, further than
    by the events of two turns.  ``events`` is how many all shards get between two turns of one.
    """

    look_s: float
    every_s: float
    share: float
    backlog: float = math.inf
    events: float = 0.0

    def pause_s(self, took_s: float, left: Left) -> float:
        """Seconds from this look's begin to the next; it took ``took_s``, and this is ``left``."""
        if left is Left.BACKLOG and self.backlog < math.inf:
            return max(_MORE_S, min(LONG_S, took_s * _MORE))
        if left is Left.NOTHING:
            return max(self.look_s, min(_LOOK_MOST_S, took_s * _LOOKS))
        return self.look_s


AT_ONCE: Final = Turn(LOOK_S, 0.0, 1.0)


class Pace:
    """The turns of the looks, by how busy the loop's thread was in the last ones, and by what was ``appended`` since the begin."""

    def __init__(
        self,
        appended: Callable[[], int],
        worked: Callable[[], float] = time.thread_time,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._appended, self._worked, self._clock = appended, worked, clock
        self._at, self._ran, self._events = clock(), worked(), appended()
        self._busy = self._rate = 0.0
        self._looks = 0
        self._left_out = -1
        """The last look whose backlog was left out."""

    def next(self) -> Turn:
        """The turn of the next look; called once a look."""
        self._looks += 1
        at, ran, events = self._clock(), self._worked(), self._appended()
        passed_s, appended = at - self._at, events - self._events
        if passed_s > 0:
            weight = 1.0 - math.exp(-passed_s / _MEMORY_S)
            busy = min(1.0, max(0.0, (ran - self._ran) / passed_s))
            self._busy += (busy - self._busy) * weight
            self._rate += (appended / passed_s - self._rate) * weight
        self._at, self._ran, self._events = at, ran, events
        # Squared: the share of a busy moment is often above the first bound, and seldom near the second.
        strain = max(_part(self._busy, _BUSY) ** 2, _part(self._rate, _RATE))
        backlog = math.inf if self._rate <= _QUIET else max(_BACKLOG, 1.5 * appended)
        if strain == 0.0:
            return AT_ONCE if backlog == math.inf else AT_ONCE._replace(every_s=_APART_S, backlog=backlog)
        every_s = LOOK_S + (LONG_S - LOOK_S) * strain
        look_s = LOOK_S + (LONG_S / PARTS - LOOK_S) * strain
        return Turn(look_s, max(_APART_S, every_s - look_s / 2), look_s / every_s, backlog, self._rate * every_s)

    def after_batch(self, turn: Turn) -> Turn:
        """The rest of a look that had a batch: without its backlog, so that commands wait for one batch and not for two.

        Of two looks in a row one has its backlog, whatever else there is.
        """
        if turn.backlog == math.inf or self._left_out == self._looks - 1:
            return turn
        self._left_out = self._looks
        return turn._replace(backlog=0.0)


def _part(value: float, bounds: tuple[float, float]) -> float:
    """How far ``value`` is on the way between these bounds: from 0 to 1."""
    low, high = bounds
    return min(1.0, max(0.0, (value - low) / (high - low)))
