"""Worker processes of a local cluster: started with their environment, started again when they die, stopped in order."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Final

from shard_worker.contract_internal import Variable
from shard_worker.tasks import BackgroundTasks, OnFailure, log_only
from threadcluster_operator.local.data_dir import DataDir, read_object
from threadcluster_operator.local.log_rotation import last_line

log = logging.getLogger(__name__)

_FIRST_PAUSE_S: Final = 0.2
_LAST_PAUSE_S: Final = 5.0
_STEADY_S: Final = 10.0
_STOP_S: Final = 27.0
_FROZEN_S: Final = 30.0
_STARTING_MOST_S: Final = 30.0


class WorkerProcess:
    """One worker of the cluster, through all its processes."""

    def __init__(self, name: str, data_dir: DataDir, environment: dict[str, str], public_fd: int) -> None:
        self.name = name
        self._data_dir = data_dir
        self._environment = environment
        self._started_with: dict[str, str] = environment
        self._public_fd = public_fd
        self._process: asyncio.subprocess.Process | None = None
        self._tasks = BackgroundTasks()
        self._stopping = False
        self.answered_at = time.monotonic()
        self.joined = False
        """Whether a process of this worker has been a member of the cluster."""
        self.failed_starts = 0
        """Processes of this worker that ended by a fault before they served."""
        self._first_start = time.monotonic()
        self._recycled: int | None = None
        """The process that leaves for another."""

    @property
    def pid(self) -> int | None:
        """The process that serves, while one does."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def log_path(self) -> Path:
        """Where it logs."""
        return self._data_dir.logs / f"{self.name}.log"

    def starting(self) -> bool:
        """Whether it is still to become a member for the first time, and may be hoped for."""
        return not self.joined and not self._stopping and time.monotonic() - self._first_start < _STARTING_MOST_S

    def stopping(self) -> bool:
        """Whether the worker is being stopped."""
        return self._stopping

    def bound(self) -> dict[str, int] | None:
        """The ports of the process that serves, once it has written them."""
        found = read_object(self._ready_file) or {}
        ports = {name: found.get(name) for name in ("pid", "publicPort", "managementPort")}
        complete = {name: value for name, value in ports.items() if isinstance(value, int)}
        return complete if len(complete) == len(ports) and complete["pid"] == self.pid else None

    def management_address(self) -> str | None:
        """The URL of the management port of the process that serves, once that is bound."""
        bound = self.bound()
        return None if bound is None else f"https://127.0.0.1:{bound['managementPort']}"

    @property
    def _ready_file(self) -> Path:
        return self._data_dir.run / f"{self.name}.json"

    def start(self, on_failure: OnFailure = log_only) -> None:
        """Keep one process running until `stop`; ``on_failure`` gets the cause when no process is kept running before."""
        self._tasks.on_failure = on_failure
        # No started task: `stop` lets it end by itself once the process has ended.
        self._tasks.spawn(self._keep(), name=f"keep-{self.name}", essential=True)

    async def stop(self) -> None:
        """Have the worker leave, and wait; a worker that takes too long is killed."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGCONT)
            try:
                async with asyncio.timeout(_STOP_S):
                    await process.wait()
            except TimeoutError:
                log.warning("worker does not leave; killed", extra={"worker": self.name})
                self.kill()
                await process.wait()
        await self._tasks.close()
        self._ready_file.unlink(missing_ok=True)

    def configure(self, environment: dict[str, str]) -> None:
        """Give it another environment, from its next process on."""
        self._environment = environment

    def outdated(self) -> bool:
        """Whether its process runs with an environment of before."""
        return self._started_with != self._environment

    def recycle(self) -> bool:
        """Have the process leave; another is started in its place.  False when the process is leaving already."""
        process = self._process
        if process is None or process.returncode is not None or process.pid == self._recycled:
            return False
        self._recycled = process.pid
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        return True

    def kill(self) -> None:
        """End the process at once."""
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    def kill_if_frozen(self) -> None:
        """End a process that has not answered for long: another will take its place under a new incarnation.

        For a worker that owns nothing, or while ownership is unknown: its peers have taken its shards long before, and
        without peers no other worker can serve them.
        """
        if self.pid is not None and time.monotonic() - self.answered_at > _FROZEN_S:
            log.warning("worker does not answer; killed", extra={"worker": self.name, "after_s": _FROZEN_S})
            self.kill()

    async def _keep(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self.stopping():
            began = time.monotonic()
            self.answered_at = began
            try:
                code = await self._run_once()
            except OSError as error:  # no process, descriptor or space to be had: this passes
                log.error(
                    "worker not started; starting it again",
                    extra={"worker": self.name, "cause": repr(error), "after_s": _LAST_PAUSE_S},
                )
                await asyncio.sleep(_LAST_PAUSE_S)
                continue
            if self.stopping():
                return
            lived_s = time.monotonic() - began
            pause_s = _FIRST_PAUSE_S if lived_s > _STEADY_S else min(_LAST_PAUSE_S, pause_s * 2)
            if code == 0:
                continue  # it left on request
            self.failed_starts += not self._ready_file.exists()
            log.warning(
                "%s ended (%s); starting it again in %.1f s; its last words: %s",
                self.name,
                signal.Signals(-code).name if code < 0 else f"exit code {code}",
                pause_s,
                last_line(self.log_path),
            )
            await asyncio.sleep(pause_s)

    async def _run_once(self) -> int:
        self._ready_file.unlink(missing_ok=True)
        read_end, write_end = os.pipe()  # its end tells the worker that the supervisor is gone, however it went
        with self.log_path.open("ab") as out:
            try:
                self._started_with = self._environment
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "shard_worker.main",
                    "run",
                    env={
                        **os.environ,
                        **self._environment,
                        Variable.NAME: self.name,
                        Variable.PUBLIC_FD: str(self._public_fd),
                        Variable.PARENT_FD: str(read_end),
                        Variable.READY_FILE: str(self._ready_file),
                    },
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    pass_fds=(self._public_fd, read_end),
                    start_new_session=True,  # a Ctrl-C at the terminal is for the supervisor
                )
            finally:
                os.close(read_end)
            try:
                return await self._process.wait()
            finally:
                os.close(write_end)
