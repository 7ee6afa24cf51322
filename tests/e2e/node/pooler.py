"""A real PgBouncer that pools transactions, before the tests' Postgres."""

import socket
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tests.e2e.cluster.program import Program
from tests.support.ports import free_ports

_SETTINGS: Final = (
    "extra_float_digits,synchronous_commit,idle_in_transaction_session_timeout,lock_timeout,tcp_keepalives_idle,"
    "tcp_keepalives_interval,tcp_keepalives_count,tcp_user_timeout"
)
"""Startup parameters that it accepts and ignores, as in common configurations."""


class Pooler:
    """One PgBouncer; ends with `stop`."""

    def __init__(self, folder: Path, address: str, target: str) -> None:
        """Before the database that the DSN ``target`` names, at ``address``."""
        where = urlsplit(target)
        self._address = address
        [self._port] = free_ports(address, 1)
        self._folder = folder
        self._settings = f"""
[databases]
* = host={where.hostname} port={where.port} user={where.username} password={where.password}
[pgbouncer]
listen_addr = {address}
listen_port = {self._port}
auth_type = any
pool_mode = transaction
unix_socket_dir =
ignore_startup_parameters = {_SETTINGS}
"""
        # It does not run as root.
        self._program = Program("pgbouncer", ["pgbouncer", "-u", "nobody", folder / "pgbouncer.ini"], logs=folder)

    def start(self) -> None:
        """Return when it listens."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for each in (self._folder, *self._folder.parents):
            if each.stat().st_uid == 0 and each.name:
                each.chmod(each.stat().st_mode | 0o011)  # it goes through as nobody
        (self._folder / "pgbouncer.ini").write_text(self._settings)
        self._program.start(partial(_listens, self._address, self._port))

    def dsn_of(self, dsn: str) -> str:
        """The same database by way of the pooler."""
        where = urlsplit(dsn)
        return f"postgresql://{where.username}:{where.password}@{self._address}:{self._port}{where.path}"

    def stop(self) -> None:
        """End it."""
        self._program.stop()


def _listens(address: str, port: int) -> bool:
    socket.create_connection((address, port), timeout=1).close()
    return True
