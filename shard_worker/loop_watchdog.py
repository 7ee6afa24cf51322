"""Loop watchdog: always measures whether the event loop turns, and names what held it.

A timer on the loop ticks every `TICK_S`.  How late a tick comes is the loop's lag; how much CPU the loop's thread has
used since the tick before is the share of that lag which this program, not a busy machine, has to answer for.  A
thread of its own looks at the time of the last tick.  When the loop has not turned for `HELD_S`, the thread takes the
stack of the loop's thread; the tick that comes at last logs it.  A loop that does not turn at all is logged by the
thread.  At rest all of this is fifty timers and twenty looks a second.

The worker's heart-beat stays on the loop on purpose.  In a thread of its own it would go on while the loop is held by
Python code, but not while one call holds the interpreter's lock, as decoding and normalising do; it would show a
worker alive whose clients wait, and the check of the lease must be in one turn with the read that it allows.  So
what may hold the loop is bounded at its source, and measured here.
"""

import asyncio
import logging
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from traceback import StackSummary, walk_stack
from typing import Final

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

TICK_S: Final = 0.02
HELD_S: Final = 0.1
"""A lag that is logged; a fifth of the lease."""
_LOOK_S: Final = 0.05
_STILL_HELD_S: Final = 2.0
"""Lag of the loop from which on the thread logs it, and again each time the lag has doubled."""
_FRAMES: Final = 12
"""Frames of a logged stack, from the innermost on."""
BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class _Histogram:
    """Counts seconds by bucket; only the loop's thread counts."""

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.total_s = 0.0

    def observe(self, seconds: float) -> None:
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self.total_s += seconds

    def family(self, name: str, text: str) -> HistogramMetricFamily:
        family = HistogramMetricFamily(name, text)
        total = 0
        counts: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), self.buckets, strict=True):
            total += count
            counts.append((bound, total))
        family.add_metric([], counts, self.total_s)
        return family


class LoopWatchdog(Collector):
    """Watches the loop in which it is started; register it in the worker's registry."""

    def __init__(self) -> None:
        self._lag = _Histogram()
        self._cpu = _Histogram()
        self.held = 0
        """How often the loop did not turn for `HELD_S`."""
        self.longest_lag_s = 0.0
        self._ticked_at = 0.0
        self._cpu_at_tick_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._stack = ""

    def start(self) -> None:
        """Begin to watch the running loop; called in its thread."""
        if self._thread is not None:
            raise RuntimeError("the watchdog was started before")
        loop = asyncio.get_running_loop()
        self._ticked_at = time.monotonic()
        self._cpu_at_tick_s = time.thread_time()
        self._timer = loop.call_later(TICK_S, self._tick, loop)
        self._thread = threading.Thread(
            target=self._watch, args=(threading.get_ident(),), name="loop-watchdog", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._closing.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now, cpu_s = time.monotonic(), time.thread_time()
        lag_s = max(0.0, now - self._ticked_at - TICK_S)
        turn_cpu_s = cpu_s - self._cpu_at_tick_s
        self._ticked_at, self._cpu_at_tick_s = now, cpu_s
        self._lag.observe(lag_s)
        self._cpu.observe(turn_cpu_s)
        self.longest_lag_s = max(self.longest_lag_s, lag_s)
        if lag_s > HELD_S:
            self.held += 1
            stack, self._stack = self._stack, ""
            log.warning(
                "event loop was held",
                extra={"lag_s": round(lag_s, 3), "cpu_s": round(turn_cpu_s, 3), "stack": stack or "not seen"},
            )
        self._timer = loop.call_later(TICK_S, self._tick, loop)

    def _watch(self, loop_thread: int) -> None:
        """The thread: take the stack once in each time that the loop is held."""
        seen_at, log_at_s = 0.0, _STILL_HELD_S
        while not self._closing.wait(_LOOK_S):
            ticked_at = self._ticked_at
            late_s = time.monotonic() - ticked_at - TICK_S
            if late_s < HELD_S:
                log_at_s = _STILL_HELD_S
                continue
            if seen_at != ticked_at:
                seen_at = ticked_at
                self._stack = _stack_of(loop_thread)
            if late_s >= log_at_s:
                log_at_s = late_s * 2
                log.error(
                    "event loop does not turn", extra={"lag_s": round(late_s, 3), "stack": _stack_of(loop_thread)}
                )

    def collect(self) -> Iterator[Metric]:
        """The families, as of now."""
        yield self._lag.family("threadcluster_loop_lag_seconds", "How late the event loop runs a timer, in seconds.")
        yield self._cpu.family(
            "threadcluster_loop_cpu_seconds",
            f"CPU of the event loop's thread between two timers that are {TICK_S} s apart, in seconds.",
        )


def _stack_of(thread: int) -> str:
    """Where a thread is: file:line function of each frame, the innermost first."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - documented, for this purpose
    if frame is None:
        return ""
    summary = StackSummary.extract(walk_stack(frame), limit=_FRAMES, lookup_lines=False)
    return " < ".join(f"{each.filename.rpartition('/')[2]}:{each.lineno} {each.name}" for each in summary)
