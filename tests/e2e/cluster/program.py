"""One program of a test's cluster as a child process: its log is kept, it is ended by its process id, with the test at
the latest.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


class ProgramFailed(Exception):
    """A program of the test's cluster did not start, or ended by itself; the message carries the end of its log."""


class Program:
    """A program that can be started and ended again and again; all its starts write to one log."""

    def __init__(
        self, name: str, command: Sequence[str | Path], *, logs: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.command = [str(part) for part in command]
        self.log = logs / f"{name}.log"
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self, ready: Callable[[], bool], *, within_s: float = 60.0) -> None:
        """Start it and return when ``ready`` says so, which may raise `OSError` while no server listens yet.

        Raises `ProgramFailed`.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # a Ctrl-C at the terminal is for the tests, which then end this in order
                env=None if self._environ is None else os.environ | self._environ,
                preexec_fn=end_with_parent if sys.platform == "linux" else None,
            )
        self.wait_until(ready, within_s=within_s)

    def wait_until(self, ready: Callable[[], bool], *, within_s: float = 60.0) -> None:
        """Return when ``ready`` says so.  Raises `ProgramFailed` when that takes too long, or the program ended."""
        deadline = time.monotonic() + within_s
        while True:
            with contextlib.suppress(OSError):
                if ready():
                    return
            if self.pid is None:
                raise ProgramFailed(f"{self.name} ended by itself; {self.log_tail()}")
            if time.monotonic() > deadline:
                raise ProgramFailed(f"{self.name} was not ready within {within_s:.0f} s; {self.log_tail()}")
            time.sleep(0.05)

    def stop(self, *, within_s: float = 10.0) -> None:
        """End it in order, past the deadline by force; nothing to do when it does not run."""
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(within_s)
                return

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def log_tail(self, lines: int = 15) -> str:
        """The end of its log, with where the whole is."""
        text = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join([f"the end of {self.log}:", *text[-lines:]])


def end_with_parent() -> None:
    """A run of tests that is killed leaves nothing behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
