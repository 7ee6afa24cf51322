"""Sessions on a replica of the database, of which queries of the read model may be asked.

A replica is believed for as long as it continues the history that this worker is on.  It shows that by rows: ``meta``, which the
first worker on a new timeline changes, is replicated as everything else.  A server that was promoted by itself holds the rows of
before; its timeline gives it away.
"""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg

from shard_worker.database.connection import Database, ReadPool, Session, read_dsn, set_up
from shard_worker.database.generation import ServerIdentity
from shard_worker.database.session import DatabaseError, connect_to, most_telling
from shard_worker.database.tls import BY_DSN, Tls

_OPEN_S: Final = 1.0
"""How long an attempt to open a session at one host may take: queries go to the primary meanwhile."""
_ATTEMPTS: Final = 4
"""How often a session is opened until it is of the server that the others are of."""
_SERVER_SQL: Final = "SELECT pg_postmaster_start_time()"
_STATUS_SQL: Final = """
SELECT (pg_control_system()).system_identifier AS system, meta.timeline, meta.generation,
       CASE WHEN pg_is_in_recovery()
            THEN greatest((pg_control_checkpoint()).timeline_id, (pg_control_recovery()).min_recovery_end_timeline)
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END AS wal_timeline,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - '0/0'::pg_lsn AS lsn
  FROM meta
"""


class ReplicaStatus(NamedTuple):
    """The history that a replica holds, by its rows and by its WAL, and how far it has replayed, in bytes of WAL."""

    identity: ServerIdentity
    wal_timeline: int
    lsn: int

    def continues(self, newest: ServerIdentity | None) -> bool:
        """Whether the replica is on the newest history that this worker knows."""
        return newest == self.identity and self.wal_timeline <= self.identity.timeline


class Replica:
    """Where the replica is.  ``dsn`` is a literal, or a path that is read at each connection.

    All sessions are of one server, also where the address leads to several, as that of a load balancer does: a look at one
    session tells of the others.  A server is known by the moment at which it was started.
    """

    def __init__(
        self, dsn: "str | Path", primary: Database, *, application_name: Callable[[], str], tls: Tls = BY_DSN
    ) -> None:
        self._dsn = dsn
        self._primary = primary
        self._application_name = application_name
        self._tls = tls
        self._server: datetime | None = None

    def forget_server(self) -> None:
        """The next session may be of any server; those of before must not be used any more."""
        self._server = None

    @property
    def history(self) -> ServerIdentity | None:
        """The history that a replica must be on."""
        return self._primary.newest

    async def pool(self, *, most: int, statements: str) -> ReadPool:
        """A pool of sessions that execute ``statements`` when they are opened."""

        async def connect() -> asyncpg.Connection:
            try:
                return await self._open(statements)
            except DatabaseError as error:
                raise ConnectionError(str(error)) from error

        return await ReadPool.of(connect, most=most)

    async def _open(self, statements: str) -> asyncpg.Connection:
        dsn = read_dsn(self._dsn)
        errors: list[BaseException | None] = []
        for host in dsn.hosts * _ATTEMPTS:
            try:
                connection = await connect_to(dsn, host, self._application_name(), within_s=_OPEN_S, tls=self._tls)
            except DatabaseError as error:
                errors.append(error)
                if len(errors) >= len(dsn.hosts):
                    break
                continue
            try:
                server = await connection.fetchval(_SERVER_SQL)
            except BaseException:
                connection.terminate()
                raise
            # No await between the look and the note: two sessions may be opened at the same time.
            self._server = self._server or server
            if server == self._server:
                return await set_up(connection, statements)
            connection.terminate()
        if not errors:
            raise ConnectionError("the replica's address leads to another server than before")
        raise most_telling(errors)


async def read_status(connection: Session) -> ReplicaStatus:
    """Read what a server holds.  Raises what asyncpg raises."""
    row = await connection.fetchrow(_STATUS_SQL)
    if row is None:
        raise ConnectionError("the replica's database is not migrated")
    if row["lsn"] is None or row["wal_timeline"] is None:
        raise ConnectionError("the replica does not show how far it has replayed: it is no streaming replica")
    identity = ServerIdentity(row["system"], row["timeline"] or 0, row["generation"] or "")
    return ReplicaStatus(identity, row["wal_timeline"], int(row["lsn"]))
