"""How long the updater of the read model waits between two looks.

A batch costs half a millisecond whatever it holds, and each offset and thread in it is written once: larger batches cost less an
event, and a command is visible some milliseconds later.  While the worker has time left, it is visible soon; while the worker
is at its limit, the time goes to commands.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

SHORT_S: Final = 0.015
"""Shortest time from the begin of one look to the begin of the next.  The first event after a pause does not wait."""
LONG_S: Final = 0.06
"""The same while the loop has no time left."""
_BUSY: Final = (0.6, 0.75)
"""Part of the time for which the loop's thread has work: up to the first the pace is `SHORT_S`, from the second on `LONG_S`.  A worker
never comes to 1, since it waits for the database too."""
_WEIGHT: Final = 0.25
"""Of the newest look in the mean over the last ones."""


class ThreadDemand:
    """Seconds for which the calling thread ran or waited for a core.

    The second part is the kernel's account of the thread, and 0 where there is none: without it, a worker whose core is shared
    with Postgres looks idle for as long as Postgres has it.
    """

    def __init__(self, account: str = "/proc/thread-self/schedstat") -> None:
        self._account: int | None = None
        with suppress(OSError):
            self._account = os.open(account, os.O_RDONLY | os.O_CLOEXEC)

    def __call__(self) -> float:
        """The same thread's as at the beginning, and of no other."""
        return time.thread_time() + self._waited_s()

    def close(self) -> None:
        """End the use of the kernel's account."""
        if self._account is not None:
            os.close(self._account)
            self._account = None

    def _waited_s(self) -> float:
        if self._account is None:
            return 0.0
        try:
            _, waited_ns, _ = os.pread(self._account, 128, 0).split()
            return int(waited_ns) / 1e9
        except (OSError, ValueError):
            self.close()
            return 0.0


class Pace:
    """The time between looks, by how busy the loop's thread was in the last ones; ``demand`` counts the seconds of its work."""

    def __init__(self, demand: Callable[[], float], clock: Callable[[], float] = time.perf_counter) -> None:
        self._demand, self._clock = demand, clock
        self._at, self._had = clock(), demand()
        self._busy = 0.0

    def next_s(self) -> float:
        """Seconds from the begin of the last look to the begin of the next; called once a look."""
        at, had = self._clock(), self._demand()
        if at > self._at:
            busy = min(1.0, max(0.0, (had - self._had) / (at - self._at)))
            self._busy += (busy - self._busy) * _WEIGHT
        self._at, self._had = at, had
        low, high = _BUSY
        return SHORT_S + (LONG_S - SHORT_S) * min(1.0, max(0.0, (self._busy - low) / (high - low)))
