"""One session with Postgres: how it is opened, what it pins, and whether its server may carry a journal.

Every session is checked and set up the same way: fsync on, a primary, commits that wait for the disk, and time-outs
that keep a dead peer or a forgotten transaction from holding a lock for long.  Every session pins what it rests on:
neither the server's configuration nor a setting of the database or of the role changes what a statement means.

Errors form one small tree::

    DatabaseError
    ├── DatabaseUnreachable   no server answers, or only a standby does: try again
    ├── DatabaseAuthFailed    it answers, and does not let us in
    ├── DatabaseTLSFailed     it answers, and the two do not agree on TLS
    ├── DatabaseSuperseded    an older history of the system: its primary was replaced by a fail-over
    └── DatabaseUnsuitable    it may not carry a journal; the message names the setting

Each carries, as ``fault``, the word by which the operator knows it.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ClassVar, Final, Protocol, TypeVar, cast

import asyncpg
from asyncpg.connect_utils import SessionAttribute
from asyncpg.pool import PoolConnectionProxy

from shard_worker.contract_internal import DatabaseFault
from shard_worker.database.generation import ServerIdentity
from shard_worker.database.tls import BY_DSN, Tls
from shard_worker.dsn import Dsn, Host, parse_dsn

CONNECT_S: Final = 5.0
_STATEMENT_S: Final = 4.0
"""Maximum time of a worker's statement; longer than `lock_timeout`, so only a silent connection reaches it."""
_NO_TLS: Final = "no encryption"
"""Part of the server's refusal of a login that it takes over TLS only."""
_TLS_REFUSED: Final = "rejected SSL upgrade"
_STARTUP_REFUSED: Final = "unsupported startup parameter"
"""PgBouncer's words for a setting that it does not know to keep."""
"""Part of asyncpg's words for a server without TLS: the error has no type of its own."""

_SETTINGS: Final = {
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "search_path": "public",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "2000",
    "lock_timeout": "2000",
    "jit": "off",
    "tcp_keepalives_idle": "2",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "5000",
    "timezone": "UTC",
}
"""Server settings that every session pins.  A statement is bounded by its client (`_STATEMENT_S`), so the server's own
bound is off: the ownership protocol waits for locks at ``read committed``, where a statement that waited sees what it
waited for."""
# The timeline is the WAL's: the last checkpoint's stays old for minutes after a promotion.  A standby has none of its own.
# The two time-outs are not in every supported release, so they cannot be in the start-up packet.
_CHECK_SQL: Final = """
SELECT current_setting('fsync') AS fsync, pg_is_in_recovery() AS in_recovery,
       current_setting('synchronous_commit') AS synchronous_commit,
       (pg_control_system()).system_identifier AS system,
       CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END AS timeline,
       (SELECT count(set_config(name, '0', false)) FROM pg_settings
         WHERE name IN ('idle_session_timeout', 'transaction_timeout')) AS pinned
"""


Session = asyncpg.Connection | PoolConnectionProxy
"""A connection of one's own, or one lent by a pool."""


class OpenConnection(Protocol):
    """Open a checked connection, waiting for Postgres for as long as it takes."""

    async def __call__(self, purpose: str) -> asyncpg.Connection: ...


Method = TypeVar("Method", bound=Callable[..., Any])  # Any: of whatever arguments and result


def _ends_with_session(method: Method) -> Method:
    """The method, whose caller gets a `ConnectionResetError` when another task terminates the session meanwhile.

    A terminated connection of asyncpg forgets its protocol, and a statement that is being prepared then asks nothing for it.
    """

    @wraps(method)
    async def called(connection: asyncpg.Connection, *args: object, **kwargs: object) -> object:
        try:
            return await method(connection, *args, **kwargs)
        except AttributeError as error:
            if not connection.is_closed():
                raise
            raise ConnectionResetError("session was terminated during a statement") from error

    return cast("Method", called)


class WorkerConnection(asyncpg.Connection):
    """A connection whose statements fail by one of `CONNECTION_ERRORS` when it is terminated at any moment."""

    __slots__ = ()
    execute = _ends_with_session(asyncpg.Connection.execute)
    executemany = _ends_with_session(asyncpg.Connection.executemany)
    fetch = _ends_with_session(asyncpg.Connection.fetch)
    fetchrow = _ends_with_session(asyncpg.Connection.fetchrow)
    fetchval = _ends_with_session(asyncpg.Connection.fetchval)
    prepare = _ends_with_session(asyncpg.Connection.prepare)


CONNECTION_ERRORS: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""Errors of any use of a connection when the link or the server fails: the connection is closed, and another opened.

`TimeoutError` is an `OSError`.  asyncpg's internal error comes when a cancelled operation and a late answer cross, as
after a pause of the whole process.
"""


class DatabaseError(Exception):
    """The database cannot be used; the message is for people, and holds no password."""

    fault: ClassVar[DatabaseFault]


class DatabaseUnreachable(DatabaseError):
    """No server answers at the address, or the server is starting or stopping: another try may succeed."""

    fault = DatabaseFault.UNREACHABLE


class DatabaseAuthFailed(DatabaseError):
    """The server answers, and refuses the user, the password or the database."""

    fault = DatabaseFault.AUTH_FAILED


class DatabaseTLSFailed(DatabaseError):
    """The server answers, and does not do the TLS that is asked for, or shows a certificate that is not believed."""

    fault = DatabaseFault.TLS_FAILED


class DatabaseSuperseded(DatabaseError):
    """The server continues an older history of the system than this worker, or a peer, has seen: a primary that a
    fail-over replaced.  Waited out: the address may lead to the new primary soon.
    """

    fault = DatabaseFault.SUPERSEDED


class DatabaseUnsuitable(DatabaseError):
    """The server may not carry a journal."""

    fault = DatabaseFault.UNSUITABLE


PASSING: Final = (DatabaseUnreachable, DatabaseAuthFailed, DatabaseTLSFailed, DatabaseSuperseded)
"""Errors that another try may cure; the most specific one last, for a DSN whose hosts failed differently."""


async def open_connection(
    dsn: str, application_name: str, *, statement_s: float | None = _STATEMENT_S, tls: Tls = BY_DSN
) -> asyncpg.Connection:
    """Connect and set the session up; the errors are this module's.  Of several hosts the first primary is taken.

    A statement that takes longer than ``statement_s`` seconds raises `TimeoutError`; None: no bound.
    """
    known = parsed(dsn)
    if len(known.hosts) == 1:
        return await connect_to(known, known.hosts[0], application_name, statement_s=statement_s, tls=tls)
    errors: list[BaseException | None] = []
    for host in known.hosts:
        try:
            connection = await connect_to(known, host, application_name, statement_s=statement_s, tls=tls)
            try:
                await check(connection)
            except BaseException:
                connection.terminate()
                raise
            return connection
        except DatabaseError as error:
            errors.append(error)
    raise most_telling(errors)


async def connect_to(
    dsn: Dsn,
    host: Host,
    application_name: str,
    *,
    statement_s: float | None = _STATEMENT_S,
    within_s: float = CONNECT_S,
    tls: Tls,
) -> asyncpg.Connection:
    """A session at one host of a DSN, set up and not yet checked; the errors are this module's."""
    where = f"{host}/{dsn.database}" if dsn.database else str(host)
    try:
        context = await asyncio.to_thread(tls.context)  # reading the system's authorities takes a while
    except OSError as error:
        raise DatabaseTLSFailed(f"the CA file {tls.ca_file} cannot be used: {error}") from error
    try:
        connection = await asyncpg.connect(
            dsn.without_hosts,
            connection_class=WorkerConnection,
            host=host.name,
            port=host.port,
            timeout=within_s,
            command_timeout=statement_s,
            server_settings={**_SETTINGS, "application_name": application_name},
            ssl=context,
            target_session_attrs=SessionAttribute.any,  # the check asks for a primary, whatever the DSN says
        )
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        if _NO_TLS in str(error):
            raise DatabaseTLSFailed(f"Postgres at {where} wants TLS: {error}") from error
        raise DatabaseAuthFailed(f"Postgres at {where} refuses the login: {error}") from error
    except asyncpg.InvalidCatalogNameError as error:
        raise DatabaseAuthFailed(f"Postgres at {where}: {error}") from error
    except ssl.SSLError as error:
        raise DatabaseTLSFailed(f"no TLS with Postgres at {where}: {error}") from error
    except CONNECTION_ERRORS as error:
        if _TLS_REFUSED in str(error):
            raise DatabaseTLSFailed(f"Postgres at {where} does not offer TLS") from error
        if _STARTUP_REFUSED in str(error):
            raise DatabaseUnsuitable(
                f"a proxy before Postgres at {where} refuses a session's settings ({error}): connect to the server itself,"
                " or have the proxy pool sessions and ignore these"
            ) from error
        raise DatabaseUnreachable(f"no Postgres at {where}: {str(error) or repr(error)}") from error
    except (ValueError, LookupError) as error:  # an option of the DSN that the client library cannot read
        raise DatabaseUnreachable(f"the DSN of Postgres at {where} cannot be used: {type(error).__name__}") from error
    _keep_alive(connection)
    return connection


async def check(connection: asyncpg.Connection) -> ServerIdentity:
    """Whether the server may carry a journal.  Raises `DatabaseUnsuitable`, or `DatabaseUnreachable`."""
    try:
        row = await connection.fetchrow(_CHECK_SQL)
    except CONNECTION_ERRORS as error:
        raise DatabaseUnreachable(f"Postgres went away while it was checked: {error!r}") from error
    assert row is not None  # a select without a table gives one row
    if row["in_recovery"]:
        raise DatabaseUnreachable("this Postgres is a standby (pg_is_in_recovery): waiting for a primary")
    if row["fsync"] != "on":
        raise DatabaseUnsuitable("fsync is off: a crash would lose acknowledged messages; set fsync = on")
    if row["synchronous_commit"] != "on":
        raise DatabaseUnsuitable("synchronous_commit cannot be set to on for this session")
    return ServerIdentity(row["system"], int(row["timeline"], 16))


def address_of(dsn: str) -> str:
    """Hosts, ports and database of a DSN, without user and password: what a message may show."""
    return parsed(dsn).address


def parsed(dsn: str) -> Dsn:
    """A DSN that was understood.  Raises `DatabaseUnsuitable`: waiting does not mend it."""
    try:
        return parse_dsn(dsn)
    except ValueError as error:
        raise DatabaseUnsuitable(str(error)) from error


def most_telling(errors: Sequence[BaseException | None]) -> BaseException:
    """Combine the errors of several hosts; an error other than a `DatabaseError` is a bug and returned as it is."""
    found: list[DatabaseError] = []
    for error in errors:
        if not isinstance(error, DatabaseError):
            return error or DatabaseUnreachable("no host of the DSN was tried")
        found.append(error)
    kinds: list[type[DatabaseError]] = [type(each) for each in found]
    kind = max(kinds, key=lambda each: PASSING.index(each) if each in PASSING else -1)
    return kind("; ".join(dict.fromkeys(map(str, found))))


def _keep_alive(connection: asyncpg.Connection) -> None:
    """Have the kernel notice a dead server, as the server notices a dead client."""
    transport: asyncio.BaseTransport = getattr(connection, "_transport")  # noqa: B009  # no public name
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 2), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 5000)):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
