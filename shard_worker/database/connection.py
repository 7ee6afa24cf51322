"""Connections to Postgres that may be trusted with a journal.

Every connection is checked and set up the same way: fsync on, a primary, the same system as before, commits that wait
for the disk, and time-outs that keep a dead peer or a forgotten transaction from holding a lock for long.  The DSN is
read again at each connection when it is given as a file, so that a rotated password needs no restart.

Errors form one small tree::

    DatabaseError
    ├── DatabaseUnreachable   nobody answers: try again
    ├── DatabaseAuthFailed    it answers, and does not let us in
    ├── DatabaseTLSFailed     it answers, and the two do not agree on TLS
    └── DatabaseUnsuitable    it may not carry a journal; the message names the setting

Each carries, as ``fault``, the word by which the operator knows it.
"""

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from shard_worker.contract import DatabaseFault, bracketed
from shard_worker.database.tls import BY_DSN, Tls

log = logging.getLogger(__name__)

T = TypeVar("T")

_PORT: Final = 5432
_CONNECT_S: Final = 5.0
_STATEMENT_S: Final = 4.0
"""No statement of a worker takes so long but on a link that has fallen silent; more than `lock_timeout`."""
_READ_S: Final = 2.0
_FIRST_PAUSE_S: Final = 0.05
_LAST_PAUSE_S: Final = 1.0
_SAY_AGAIN_S: Final = 5.0

_NO_TLS: Final = "no encryption"
"""Part of the server's refusal of a login that it takes over TLS only."""
_TLS_REFUSED: Final = "rejected SSL upgrade"
_STARTUP_REFUSED: Final = "unsupported startup parameter"
"""PgBouncer's words for a setting that it does not know to keep."""
"""Part of asyncpg's words for a server without TLS: the error has no type of its own."""

_SETTINGS: Final = {
    "synchronous_commit": "on",
    "idle_in_transaction_session_timeout": "2000",
    "lock_timeout": "2000",
    "tcp_keepalives_idle": "2",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "5000",
    "timezone": "UTC",
}
_CHECK_SQL: Final = """
SELECT current_setting('fsync') AS fsync, pg_is_in_recovery() AS in_recovery,
       current_setting('synchronous_commit') AS synchronous_commit,
       (pg_control_system()).system_identifier AS system, (pg_control_checkpoint()).timeline_id AS timeline
"""


Session = asyncpg.Connection | PoolConnectionProxy
"""A connection of one's own, or one lent by a pool."""


LINK_FAULTS: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What any use of a connection may raise when the link or the server fails: the connection is closed, and another opened.

`TimeoutError` is an `OSError`.  asyncpg's internal error comes when a cancelled operation and a late answer cross, as
after a pause of the whole process.
"""


class DatabaseError(Exception):
    """The database cannot be used; the message is for people, and holds no password."""

    fault: ClassVar[DatabaseFault]


class DatabaseUnreachable(DatabaseError):
    """Nobody answers at the address, or the server is starting or stopping: worth another try."""

    fault = DatabaseFault.UNREACHABLE


class DatabaseAuthFailed(DatabaseError):
    """The server answers, and refuses the user, the password or the database."""

    fault = DatabaseFault.AUTH_FAILED


class DatabaseTLSFailed(DatabaseError):
    """The server answers, and does not do the TLS that is asked for, or shows a certificate that is not believed."""

    fault = DatabaseFault.TLS_FAILED


class DatabaseUnsuitable(DatabaseError):
    """The server may not carry a journal."""

    fault = DatabaseFault.UNSUITABLE


class ServerIdentity(NamedTuple):
    """Which system this is, and how often it failed over."""

    system: int
    timeline: int


class Database:
    """Where the journal is.  Opens checked connections for named purposes, and notices another system or timeline.

    ``dsn`` is a literal, or a path that is read at each connection.  ``on_failover`` is called, once for each change,
    when the server shows a new timeline: what a fail-over lost is then unknown, and nothing in memory may be trusted.
    """

    def __init__(
        self,
        dsn: "str | Path",
        *,
        application_name: Callable[[], str],
        on_failover: Callable[[], None] = lambda: None,
        tls: Tls = BY_DSN,
    ) -> None:
        self._dsn = dsn
        self._tls = tls
        self._application_name = application_name
        self._on_failover = on_failover
        self._identity: ServerIdentity | None = None

    @property
    def dsn(self) -> str:
        """The DSN as it is now."""
        return self._dsn.read_text().strip() if isinstance(self._dsn, Path) else self._dsn

    async def connect(self, purpose: str) -> asyncpg.Connection:
        """A checked connection, however long it takes; says what it waits for.

        Raises `DatabaseUnsuitable` only: that does not heal by waiting.
        """
        pause_s, said = _FIRST_PAUSE_S, 0.0
        while True:
            try:
                return await self.connect_once(purpose)
            except (DatabaseUnreachable, DatabaseAuthFailed, DatabaseTLSFailed) as error:
                now = time.monotonic()
                if now - said > _SAY_AGAIN_S:
                    log.warning("waiting for Postgres", extra={"purpose": purpose, "cause": str(error)})
                    said = now
            await asyncio.sleep(pause_s)
            pause_s = min(_LAST_PAUSE_S, pause_s * 2)

    async def connect_once(self, purpose: str) -> asyncpg.Connection:
        """A checked connection now, or one of the errors of this module."""
        connection = await open_connection(self.dsn, self._application_name(), tls=self._tls)
        try:
            self._compare(await check(connection))
        except BaseException:
            connection.terminate()
            raise
        log.debug("connected to Postgres", extra={"purpose": purpose})
        return connection

    async def pool(self, *, most: int) -> "ReadPool":
        """A pool for reads; a pooled connection is checked when it is opened, and one that cannot be had is a link fault."""

        async def connect(*_: object, **__: object) -> asyncpg.Connection:
            try:
                return await self.connect_once("read")
            except DatabaseError as error:
                # Who reads knows one kind of fault only, the link's, and tries again.
                raise ConnectionError(str(error)) from error

        return ReadPool(await asyncpg.create_pool(min_size=0, max_size=most, connect=connect, reset=_nothing_to_reset))

    def _compare(self, identity: ServerIdentity) -> None:
        before = self._identity
        if before is None:
            self._identity = identity
        elif identity.system != before.system:
            raise DatabaseUnsuitable(
                f"the DSN now leads to another database system ({identity.system}, before {before.system})"
            )
        elif identity.timeline != before.timeline:
            log.critical("fail-over", extra={"timeline": identity.timeline, "before": before.timeline, "alarm": True})
            self._identity = identity
            self._on_failover()


class ReadPool:
    """Lends connections for short reads, each bounded in time.

    A connection on which a read failed or was given up is in a state that nobody knows: it is closed, never put back.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def run(self, work: Callable[[Session], Awaitable[T]], *, within_s: float = _READ_S) -> T:
        """The result of ``work`` on a lent connection.  Raises what it raises, and `TimeoutError`."""
        async with asyncio.timeout(within_s + _CONNECT_S), self._pool.acquire() as connection:
            try:
                async with asyncio.timeout(within_s):
                    return await work(connection)
            except BaseException as error:
                if not isinstance(error, asyncpg.PostgresError):
                    connection.terminate()
                raise

    def terminate(self) -> None:
        """Close every connection at once."""
        self._pool.terminate()


async def _nothing_to_reset(_: object) -> None:
    """A read leaves nothing behind in its session; asyncpg's own reset would be a round trip after each."""


async def open_connection(
    dsn: str, application_name: str, *, statement_s: float | None = _STATEMENT_S, tls: Tls = BY_DSN
) -> asyncpg.Connection:
    """Connect and set the session up; the errors are this module's.

    A statement that takes longer than ``statement_s`` seconds raises `TimeoutError`; None: no bound.
    """
    where = address_of(dsn)
    try:
        context = await asyncio.to_thread(tls.context)  # reading the system's authorities takes a while
    except OSError as error:
        raise DatabaseTLSFailed(f"the CA file {tls.ca_file} cannot be used: {error}") from error
    try:
        connection = await asyncpg.connect(
            dsn,
            timeout=_CONNECT_S,
            command_timeout=statement_s,
            server_settings={**_SETTINGS, "application_name": application_name},
            ssl=context,
        )
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        if _NO_TLS in str(error):
            raise DatabaseTLSFailed(f"Postgres at {where} wants TLS: {error}") from error
        raise DatabaseAuthFailed(f"Postgres at {where} refuses the login: {error}") from error
    except asyncpg.InvalidCatalogNameError as error:
        raise DatabaseAuthFailed(f"Postgres at {where}: {error}") from error
    except ssl.SSLError as error:
        raise DatabaseTLSFailed(f"no TLS with Postgres at {where}: {error}") from error
    except LINK_FAULTS as error:
        if _TLS_REFUSED in str(error):
            raise DatabaseTLSFailed(f"Postgres at {where} does not offer TLS") from error
        if _STARTUP_REFUSED in str(error):
            raise DatabaseUnsuitable(
                f"a proxy before Postgres at {where} refuses a session's settings ({error}): connect to the server itself,"
                " or have the proxy pool sessions and ignore these"
            ) from error
        raise DatabaseUnreachable(f"no Postgres at {where}: {error or type(error).__name__}") from error
    _keep_alive(connection)
    return connection


async def check(connection: asyncpg.Connection) -> ServerIdentity:
    """Whether the server may carry a journal.  Raises `DatabaseUnsuitable`, or `DatabaseUnreachable`."""
    try:
        row = await connection.fetchrow(_CHECK_SQL)
    except LINK_FAULTS as error:
        raise DatabaseUnreachable(f"Postgres went away while it was checked: {error}") from error
    assert row is not None  # a select without a table gives one row
    if row["in_recovery"]:
        raise DatabaseUnreachable("this Postgres is a standby (pg_is_in_recovery): waiting for a primary")
    if row["fsync"] != "on":
        raise DatabaseUnsuitable("fsync is off: a crash would lose acknowledged messages; set fsync = on")
    if row["synchronous_commit"] != "on":
        raise DatabaseUnsuitable("synchronous_commit cannot be set to on for this session")
    return ServerIdentity(row["system"], row["timeline"])


def address_of(dsn: str) -> str:
    """Host, port and database of a DSN, without user and password: what a message may show."""
    try:
        parts = urlsplit(dsn)
        return f"{bracketed(parts.hostname or 'localhost')}:{parts.port or _PORT}{parts.path}"
    except ValueError as error:
        raise DatabaseUnreachable("the DSN is no URL of the form postgresql://user:password@host:port/name") from error


def _keep_alive(connection: asyncpg.Connection) -> None:
    """Have the kernel notice a dead server, as the server notices a dead client."""
    transport: asyncio.BaseTransport = getattr(connection, "_transport")  # noqa: B009  # asyncpg has no other door to it
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 2), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 5000)):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
