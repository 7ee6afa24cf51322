"""Memory: gives pages that were freed back to the system.

glibc keeps what a burst has freed, for the next one; a pod's limit does not know that.  Measured with 600 bodies that
never came whole: 56 MiB before, 164 at most, 131 after the clients had gone.  The collector found nothing in them (no
cycles); ``malloc_trim`` brought it to 60.  It runs in a thread, because it walks all free chunks.
"""

import asyncio
import ctypes
import logging
import os
from pathlib import Path
from typing import Final

from shard_worker.tasks import BackgroundTasks, OnFailure, log_only

_LOG: Final = logging.getLogger(__name__)
_LEAST_PAUSE_S: Final = 5.0
_MOST_PAUSE_S: Final = 60.0
"""How long between two looks; longer while trimming gives nothing back, because the memory is in use."""
_GROWTH_BYTES: Final = 32 << 20
"""Growth of the process that is worth a trim; less is noise of the daily work."""
_STATM: Final = Path("/proc/self/statm")


def resident_bytes() -> int:
    """The memory that this process occupies; 0 where the system does not say."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


class MemoryTrimmer:
    """Looks at the process's size, and trims after it has grown."""

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._floor = resident_bytes()
        """The least memory that the process had: memory that is freed while glibc keeps it shows in no other number."""
        self._tasks = BackgroundTasks()

    def start(self, on_failure: OnFailure = log_only) -> None:
        """Begin to look, where the C library can trim."""
        self._tasks.on_failure = on_failure
        if self._trim is not None and self._floor:
            self._tasks.start(self._run(), name="memory-trimmer")

    async def close(self) -> None:
        """Stop looking."""
        await self._tasks.close()

    async def _run(self) -> None:
        pause_s = _LEAST_PAUSE_S
        while True:
            await asyncio.sleep(pause_s)
            before = resident_bytes()
            if before - self._floor < _GROWTH_BYTES:
                self._floor = min(self._floor, before)
                pause_s = _LEAST_PAUSE_S
                continue
            await asyncio.to_thread(self._trim_now)
            after = resident_bytes()
            self._floor = min(self._floor, after)
            gave_back = before - after >= _GROWTH_BYTES // 2
            pause_s = _LEAST_PAUSE_S if gave_back else min(2 * pause_s, _MOST_PAUSE_S)
            if gave_back:
                _LOG.debug("freed memory given back", extra={"before": before, "after": after})

    def _trim_now(self) -> None:
        assert self._trim is not None  # the task runs only then
        self._trim(0)
