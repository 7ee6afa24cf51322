"""Simulated time: one heap of events, and the clocks of processes that run a little faster or slower than it.

Deterministic: of events at one time, the one that was asked for first comes first.
"""

import heapq
from collections.abc import Callable
from typing import Final

DRIFT: Final = 0.02
"""By how much a process's clocks run fast or slow at most."""


class Timeline:
    """The events to come, in true time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call at a time."""
        self._count += 1
        heapq.heappush(self._events, (when, self._count, call))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call some true time from now."""
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, call))

    def run_until(self, end: float) -> None:
        """Let everything happen that is due by then."""
        events, pop = self._events, heapq.heappop
        while events and events[0][0] <= end:
            self.now, _, call = pop(events)
            call()
        self.now = end


class Clocks:
    """A process's clocks.  The monotonic one stops in a suspend, `boottime` never does."""

    __slots__ = ("_ahead", "_slept", "rate")

    def __init__(self, rate: float, ahead: float) -> None:
        self.rate = rate
        self._ahead = ahead
        self._slept = 0.0

    def monotonic(self, now: float) -> float:
        """Seconds on the clock that timers and observers go by."""
        return now * self.rate - self._slept

    def boottime(self, now: float) -> float:
        """Seconds on the clock that leases go by."""
        return now * self.rate + self._ahead

    def true_s(self, seconds: float) -> float:
        """How long a time on these clocks really takes."""
        return seconds / self.rate

    def suspended(self, seconds: float) -> None:
        """The machine slept: the monotonic clock did not count that."""
        self._slept += seconds * self.rate

    def leap(self, seconds: float) -> None:
        """The lease's clock leaps ahead, as when a virtual machine's clock is put right."""
        self._ahead += seconds
