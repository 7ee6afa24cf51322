"""How long a turn of the event loop holds its thread, in CPU time: load on the machine does not show in it.

Nor does the heap of the test process, which every collection of the oldest generation walks: it is set aside.
"""

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Turns:
    """Every callback that the loop ran."""

    longest_s: float = 0.0
    longest: str = ""


@contextmanager
def measured_turns() -> Iterator[Turns]:
    """Measure each callback of the standard loop; a task's step is one."""
    turns = Turns()
    run = asyncio.Handle._run

    def timed(self: asyncio.Handle) -> None:
        began = time.thread_time()
        run(self)
        took = time.thread_time() - began
        if took > turns.longest_s:
            turns.longest_s, turns.longest = took, repr(self)

    gc.collect()
    gc.freeze()
    asyncio.Handle._run = timed  # type: ignore[method-assign]  # the loop looks it up for every callback
    try:
        yield turns
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]  # as before
        gc.unfreeze()
