"""The data directory of one local cluster: what lies where, who holds it, and what a dead supervisor left.

::

    <data-dir>/lock            held (flock) by the supervisor while it lives
    <data-dir>/id              by which the database's claim tells this directory from others
    <data-dir>/cluster.yaml    the resource that was last accepted
    <data-dir>/secret          from which workers, supervisor and CLI make their certificates; may be rotated
    <data-dir>/control.json    where supervisor and console listen, and the tokens they ask for (mode 0600)
    <data-dir>/workers.json    the worker processes, by name
    <data-dir>/dsn             where Postgres is, with the login of the workers (mode 0600)
    <data-dir>/dsn-migrate     the same with the login that owns the schema (mode 0600)
    <data-dir>/postgres/       the embedded Postgres
    <data-dir>/logs/           one log a process, and older ones of it
    <data-dir>/run/            what each worker bound

A file that a power loss emptied or damaged is made again where that is possible: the secret, the logins' passwords, the
port of Postgres, the records of running processes.  The resource cannot be made again: `up` asks for it.
"""

import contextlib
import fcntl
import json
import logging
import os
import re
import secrets
import signal
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any, Final

from threadcluster_operator.local.durable_file import read_matching, read_text, write_durably

log = logging.getLogger(__name__)

ROOT = Path(".threadcluster")
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SECRET: Final = re.compile(r"[!-~]{16,}(\s+[!-~]{16,})?")
"""One value of at least 16 visible characters, or two while the secret is being rotated."""


class DataDirBusy(Exception):
    """A supervisor lives on this data directory."""


class DataDir:
    """Paths and small files of one local cluster."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock_fd: int | None = None
        self.id_is_new = False
        """Whether `make` made the id."""
        self._remembered: dict[str, int] | None = None

    @property
    def id(self) -> str:
        """The id of the directory, for the claim of the database; after `make`."""
        return (read_matching(self._id_file, _ID) or "").strip()

    @property
    def _id_file(self) -> Path:
        return self.path / "id"

    @property
    def logs(self) -> Path:
        """One log a process."""
        return self.path / "logs"

    @property
    def run(self) -> Path:
        """The folder of the files with the addresses that the workers bound."""
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
        """Where Postgres is, with the login of the workers."""
        return self.path / "dsn"

    @property
    def migration_dsn_file(self) -> Path:
        """Where Postgres is, with the login that owns the schema."""
        return self.path / "dsn-migrate"

    def cluster_name(self) -> str | None:
        """The name of the cluster that the directory belongs to; None while it belongs to none, or its resource is damaged."""
        from threadcluster_operator.api import InvalidResource, read_resources  # seldom needed, and slow to import

        try:
            return read_resources(self.cluster_yaml).cluster.name
        except InvalidResource:
            return None

    def is_data_dir(self) -> bool:
        """Whether the directory is one that `make` made: it, and nothing else, may be deleted as a whole."""
        return self.path.is_dir() and self.id != "" and self.secret_file.exists()

    def worker_ports(self) -> dict[str, int]:
        """The management ports of the worker processes that live, by worker, as their ready files have them."""
        found = {}
        for path in sorted(self.run.glob("*.json")):
            bound = read_object(path) or {}
            pid, port = bound.get("pid"), bound.get("managementPort")
            if isinstance(pid, int) and isinstance(port, int) and pid > 0 and _lives(pid):
                found[path.stem] = port
        return found

    def make(self) -> None:
        """Make what is missing, and what a power loss emptied."""
        for folder in (self.path, self.logs, self.run):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if read_matching(self._id_file, _ID) is None:
            if self._id_file.exists():
                log.warning(
                    "%s was damaged: a new id was made; a database outside of the directory has to be taken over",
                    self._id_file,
                )
            self.write_private(self._id_file, str(uuid.uuid4()))
            self.id_is_new = True
        if read_matching(self.secret_file, _SECRET) is None:
            if self.secret_file.exists():
                log.warning(
                    "%s was damaged: a new secret was made; cursors that clients hold are no longer valid",
                    self.secret_file,
                )
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
        """Write a file that only this user may read, in one step that survives a power loss."""
        write_durably(path, text)

    def write_control(self, url: str, token: str, console: str) -> None:
        """Say where the supervisor listens, and the address of the console, with its token."""
        control = {"url": url, "token": token, "console": console, "pid": os.getpid()}
        self.write_private(self.path / "control.json", json.dumps(control))

    def control(self) -> dict[str, Any] | None:  # a JSON object
        """Where the supervisor listens, when one lives and has written that down."""
        if not self.is_locked():
            return None
        found = read_object(self.path / "control.json") or {}
        return found if isinstance(found.get("url"), str) and isinstance(found.get("token"), str) else None

    def remember_workers(self, pids: dict[str, int]) -> None:
        """Keep the worker processes' ids, for a supervisor that comes after one that was killed."""
        if pids != self._remembered:  # written at each change alone: it is flushed to the disk
            self.write_private(self.path / "workers.json", json.dumps(pids))
            self._remembered = dict(pids)

    def end_orphans(self, *, within_s: float = 6.0) -> list[str]:
        """End the workers of a supervisor that was killed: they are leaving by themselves, and are killed if slow."""
        found = read_object(self.path / "workers.json") or {}
        pids = {name: pid for name, pid in found.items() if isinstance(pid, int) and pid > 0}
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


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None when there is none."""
    try:
        found = json.loads(read_text(path) or "")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError):  # it is gone, another user's, or no number of a process
        return False
    return True


def _is_worker(pid: int) -> bool:
    """Whether a process is a shard worker, and not another program under a reused id."""
    line = subprocess.run(
        ["ps", "-o", "stat=,args=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout
    return "shard_worker.main" in line and not line.lstrip().startswith("Z")
