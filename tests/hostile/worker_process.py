"""A real worker that measures the turns of its event loop: ``python -m tests.hostile.worker_process``.

A timer of 2 ms notes how much CPU time the loop's thread has used since it fired before.  libuv runs due timers once in
every turn, so what is used between two firings is one turn, or several that together took less than the timer's period.
Each use above a bound is a line of JSON in the file that ``HOSTILE_TURNS`` names, with the stack that was seen in it.
"""

import asyncio
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Final

from shard_worker import main as program
from shard_worker import worker
from shard_worker.settings import WorkerSettings
from shard_worker.worker import run_worker

TURNS: Final = "HOSTILE_TURNS"
REPORTED_S: Final = 0.015
_PERIOD_S: Final = 0.002
_SAMPLE_S: Final = 0.005


class TurnMeter:
    """Writes down the loop's long turns."""

    def __init__(self, path: Path) -> None:
        self._out = path.open("a", buffering=1)
        self._loop = asyncio.get_running_loop()
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        self._thread_id = threading.get_ident()
        self._cpu = time.clock_gettime(self._clock)
        self._wall = time.monotonic()
        self._stack = ""
        threading.Thread(target=self._sample, name="turn-sampler", daemon=True).start()
        self._fire()

    def _fire(self) -> None:
        cpu, wall = time.clock_gettime(self._clock), time.monotonic()
        used, passed = cpu - self._cpu, wall - self._wall
        if used > REPORTED_S:
            turn = {
                "began": self._wall,
                "ended": wall,
                "cpu_ms": round(used * 1e3, 1),
                "wall_ms": round(passed * 1e3, 1),
            }
            self._out.write(json.dumps({**turn, "stack": self._stack}) + "\n")
        self._stack = ""
        self._cpu, self._wall = time.clock_gettime(self._clock), wall
        self._loop.call_later(_PERIOD_S, self._fire)

    def _sample(self) -> None:
        while True:
            time.sleep(_SAMPLE_S)
            if time.clock_gettime(self._clock) - self._cpu > REPORTED_S and not self._stack:
                frame = sys._current_frames().get(self._thread_id)
                frames = traceback.extract_stack(frame)[-5:]
                self._stack = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))


async def run_measured(settings: WorkerSettings) -> None:
    """The worker, its turns measured."""
    meter = TurnMeter(Path(os.environ[TURNS]))
    await run_worker(settings)
    del meter


if __name__ == "__main__":
    vars(worker)["run_worker"] = run_measured
    program.main(["run"])
