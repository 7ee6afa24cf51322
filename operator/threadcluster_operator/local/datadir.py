"""The data directory of one local cluster: what lies where, who holds it, and what a dead supervisor left.

::

    <data-dir>/lock            held (flock) by the supervisor while it lives
    <data-dir>/cluster.yaml    the resource that was last accepted
    <data-dir>/secret          from which workers, supervisor and CLI make their certificates; may be rotated
    <data-dir>/control.json    where the supervisor listens, and the token it asks for (mode 0600)
    <data-dir>/workers.json    the worker processes, by name
    <data-dir>/dsn             where Postgres is (mode 0600)
    <data-dir>/postgres/       the embedded Postgres
    <data-dir>/logs/           one log a process
    <data-dir>/run/            what each worker bound
"""

import contextlib
import fcntl
import json
import os
import secrets
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(".threadcluster")


class DataDirBusy(Exception):
    """A supervisor lives on this data directory."""


class DataDir:
    """Paths and small files of one local cluster."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock_fd: int | None = None

    @property
    def logs(self) -> Path:
        """One log a process."""
        return self.path / "logs"

    @property
    def run(self) -> Path:
        """What each worker bound."""
        return self.path / "run"

    @property
    def postgres(self) -> Path:
        """The embedded Postgres."""
        return self.path / "postgres"

    @property
    def cluster_yaml(self) -> Path:
        """The resource that was last accepted."""
        return self.path / "cluster.yaml"

    @property
    def secret_file(self) -> Path:
        """By which the workers know each other."""
        return self.path / "secret"

    @property
    def dsn_file(self) -> Path:
        """Where Postgres is."""
        return self.path / "dsn"

    def make(self) -> None:
        """Make what is missing."""
        for folder in (self.path, self.logs, self.run):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.secret_file.exists():
            self.write_private(self.secret_file, secrets.token_urlsafe(32))

    def lock(self) -> None:
        """Hold the directory until this process ends.  Raises `DataDirBusy`."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise DataDirBusy(f"{self.path} is in use by a running cluster") from error
        self._lock_fd = fd

    def is_locked(self) -> bool:
        """Whether a supervisor lives on it."""
        try:
            fd = os.open(self.path / "lock", os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        else:
            return False
        finally:
            os.close(fd)

    def write_private(self, path: Path, text: str) -> None:
        """Write a file that only this user may read, in one step."""
        fresh = path.with_name(path.name + ".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text)
        fresh.replace(path)

    def write_control(self, url: str, token: str) -> None:
        """Say where the supervisor listens."""
        self.write_private(self.path / "control.json", json.dumps({"url": url, "token": token, "pid": os.getpid()}))

    def control(self) -> dict[str, Any] | None:  # a JSON object
        """Where the supervisor listens, when one lives."""
        if not self.is_locked():
            return None
        try:
            found: dict[str, Any] = json.loads((self.path / "control.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return found

    def remember_workers(self, pids: dict[str, int]) -> None:
        """Keep the worker processes' ids, for whoever comes after a supervisor that was killed."""
        self.write_private(self.path / "workers.json", json.dumps(pids))

    def end_orphans(self, *, within_s: float = 6.0) -> list[str]:
        """End the workers of a supervisor that was killed: they are leaving by themselves, and are killed if slow."""
        try:
            pids: dict[str, int] = json.loads((self.path / "workers.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return []
        deadline = time.monotonic() + within_s
        orphans = {name: pid for name, pid in pids.items() if _is_worker(pid)}
        while any(_is_worker(pid) for pid in orphans.values()):
            if time.monotonic() > deadline:
                for pid in orphans.values():
                    if _is_worker(pid):
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        return sorted(orphans)


def _is_worker(pid: int) -> bool:
    """Whether a process is a shard worker, and not another program under a reused id."""
    line = subprocess.run(
        ["ps", "-o", "stat=,args=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout
    return "shard_worker.main" in line and not line.lstrip().startswith("Z")


def choose(data_dir: Path | None, name: str | None) -> Path:
    """The data directory that is meant: the one given, the named cluster's, or the only one there is."""
    if data_dir is not None:
        return data_dir
    if name is not None:
        return ROOT / name
    found = sorted(path for path in ROOT.glob("*") if path.is_dir()) if ROOT.is_dir() else []
    return found[0] if len(found) == 1 else ROOT / "demo"
