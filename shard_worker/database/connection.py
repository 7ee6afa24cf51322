"""The connections of one worker to the database that carries its journal.

A fact learnt on one connection binds all: once a connection, or a peer, shows a newer history of the system (see
`shard_worker.database.generation`), every session that was opened on an older one is terminated, and an older one is
refused from then on.  While the database is away the worker makes one attempt at a time (see
`shard_worker.database.reconnecting`).  The DSN is read again at each connection when it is given as a file, so that a
rotated password needs no restart.
"""

import asyncio
import logging
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import asyncpg

from shard_worker.contract_internal import DatabaseFault
from shard_worker.database.generation import ServerIdentity, read_generation
from shard_worker.database.reconnecting import Backoff, ConnectGate
from shard_worker.database.session import (
    CONNECT_S,
    CONNECTION_ERRORS,
    PASSING,
    DatabaseAuthFailed,
    DatabaseError,
    DatabaseSuperseded,
    DatabaseTLSFailed,
    DatabaseUnreachable,
    DatabaseUnsuitable,
    OpenConnection,
    Session,
    address_of,
    check,
    connect_to,
    most_telling,
    open_connection,
    parsed,
)
from shard_worker.database.tls import BY_DSN, Tls
from shard_worker.dsn import Dsn, Host, parse_dsn
from shard_worker.tasks import BackgroundTasks

__all__ = [
    "CONNECTION_ERRORS",
    "Database",
    "DatabaseAuthFailed",
    "DatabaseError",
    "DatabaseSuperseded",
    "DatabaseTLSFailed",
    "DatabaseUnreachable",
    "DatabaseUnsuitable",
    "OpenConnection",
    "ReadPool",
    "ServerIdentity",
    "Session",
    "address_of",
    "check",
    "open_connection",
]

log = logging.getLogger(__name__)

T = TypeVar("T")
_Opened = tuple[asyncpg.Connection, ServerIdentity]

_READ_S: Final = 2.0
_OPEN_S: Final = 2.0
"""How long one attempt may take: an address may have moved while a frozen server keeps the attempt waiting."""
_NEXT_HOST_S: Final = 0.25
"""After how long without an outcome the next host of a DSN is tried beside the first: a frozen server accepts and says
nothing.  Longer than a session takes to open, much shorter than the lease's patience."""
_TRY_BESIDE_S: Final = 0.5
"""After how long without an outcome every host is tried once more, beside the attempts that wait: an address may have
moved away from a frozen server, or a standby have been promoted.  Longer than a session takes to open on a busy server."""
_ALL_HOSTS_S: Final = 2.0
"""How long the first connection waits for the hosts that did not answer yet, once one did: which of two primaries is the
newer can only be seen when both are asked."""
_STEADY_S: Final = 5.0
"""A long-lived session that ends sooner than this is opened again only after a pause."""
_FIRST: Final = "lease"
"""The session that is opened before the others when all are lost at once: without its lock the worker is soon fenced."""
_FIRST_S: Final = 0.25
"""How long the others wait for it; longer than a session takes to open, much shorter than a statement may take."""
_LONG_LIVED: Final = (_FIRST, "reconciler", "append-")
_SHORT_LIVED: Final = "append-outcome"
_SAY_AGAIN_S: Final = 5.0


def read_dsn(source: "str | Path") -> Dsn:
    """The DSN as it is now.  A file that is missing or holds no DSN may be a Secret that is being replaced."""
    if not isinstance(source, Path):
        return parsed(source)
    try:
        return parse_dsn(source.read_text())
    except OSError as error:
        raise DatabaseUnreachable(f"the DSN file {source} cannot be read: {error.strerror or error!r}") from error
    except ValueError as error:
        cause = "it is no text" if isinstance(error, UnicodeDecodeError) else error
        raise DatabaseUnreachable(f"the DSN file {source} cannot be used: {cause}") from error


class Database:
    """Where the journal is.  Opens checked connections for named purposes, and notices another system or a fail-over.

    ``dsn`` is a literal, or a path that is read at each connection.  ``on_failover`` is called once for each newer
    history of the system, in the turn of the loop that learnt of it and after every older session was terminated: what
    a fail-over lost is then unknown, and nothing in memory may be trusted.
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
        self._newest: ServerIdentity | None = None
        self._heard: tuple[int, str] = (0, "")
        """The position of the newest history that a peer is on; counts where this worker has connected to none yet."""
        self._sessions: weakref.WeakSet[asyncpg.Connection] = weakref.WeakSet()
        self._last_host: Host | None = None
        self._opened_at: dict[str, float] = {}
        self._backoffs: dict[str, Backoff] = {}
        self._tries_beside = False
        """Whether one of the attempts of now tries its hosts again beside those that wait; no more than one does."""
        self._no_lease_attempt = asyncio.Event()
        """Cleared while the lease's session is opened; set otherwise."""
        self._no_lease_attempt.set()
        self._attempts = BackgroundTasks()
        """Attempts to open a session at one host each, also those that are given up for another host's session."""
        self.gate = ConnectGate()
        self._lease_gate = ConnectGate()
        self.fault: DatabaseError | None = None
        """Why the last attempt to open a session failed; None after one that succeeded."""
        self.failovers = 0
        self.refusals: Counter[DatabaseFault] = Counter()
        """Failed connections, by what they failed with."""

    @property
    def newest(self) -> ServerIdentity | None:
        """The newest history of the system that this worker has seen or heard of; None before the first connection."""
        return self._newest

    @property
    def open_sessions(self) -> int:
        """How many sessions of this worker are open, those of its pools too."""
        return sum(not session.is_closed() for session in self._sessions)

    @property
    def attempts(self) -> int:
        """How often a session was tried to be opened, failed attempts too."""
        return self.gate.attempts + self._lease_gate.attempts

    async def close(self) -> None:
        """Wait for the ends of attempts that were given up; no session is opened from now on."""
        await self._attempts.close()

    def learn(self, timeline: int, generation: str) -> None:
        """A peer of the same cluster is on this history; sessions on an older one end, and an older one is refused.

        A peer that knows none yet says 0 and "", which is older than any.
        """
        self._heard = max(self._heard, (timeline, generation))
        newest = self._newest
        if newest is not None and self._heard > newest.position:
            self._advance(ServerIdentity(newest.system, *self._heard), "a peer")

    async def connect(self, purpose: str) -> asyncpg.Connection:
        """A checked connection, however long it takes; says what it waits for.

        Raises `DatabaseUnsuitable` only, and only before the first connection: then the settings are wrong.  Later the
        same may be an address or a Secret that was changed by mistake, and heals when that is taken back.

        The session of the lease is opened before others that were lost with it.
        """
        if purpose != _FIRST:
            return await self._connect(purpose)
        self._no_lease_attempt.clear()
        try:
            return await self._connect(purpose)
        finally:
            self._no_lease_attempt.set()

    async def _connect(self, purpose: str) -> asyncpg.Connection:
        logged_at = 0.0
        await self._steady(purpose)
        while True:
            try:
                connection = await self.connect_once(purpose)
            except DatabaseError as error:
                if not isinstance(error, PASSING) and self._newest is None:
                    raise
                now = time.monotonic()
                if now - logged_at > _SAY_AGAIN_S:
                    log.warning(
                        "waiting for Postgres",
                        extra={"purpose": purpose, "fault": error.fault.value, "cause": str(error)},
                    )
                    logged_at = now
            else:
                self._opened_at[purpose] = time.monotonic()
                return connection
            await asyncio.sleep(max(self._gate_of(purpose).wait_s, 0.01))

    async def connect_once(self, purpose: str) -> asyncpg.Connection:
        """A checked connection now, or one of the errors of this module."""
        if purpose != _FIRST:
            await self._let_lease_go_first()
        try:
            connection = await self._gate_of(purpose).run(self._open)
        except DatabaseError as error:
            self.refusals[error.fault] += 1
            self.fault = error
            raise
        self.fault = None
        log.debug("worker connected to Postgres", extra={"purpose": purpose})
        return connection

    def _gate_of(self, purpose: str) -> ConnectGate:
        return self._lease_gate if purpose == _FIRST else self.gate

    async def _let_lease_go_first(self) -> None:
        """Wait while the lease's session is opened, within `_FIRST_S`."""
        await asyncio.sleep(0)  # sessions that are lost at once are noticed in one turn, in any order
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_S):
                await self._no_lease_attempt.wait()

    async def pool(self, *, most: int, statements: str = "") -> "ReadPool":
        """A pool for reads; a pooled connection is checked when it is opened, and one that cannot be had is a link fault.

        A session executes ``statements`` when it is opened.
        """

        async def connect() -> asyncpg.Connection:
            try:
                connection = await self.connect_once("read")
            except DatabaseError as error:
                # Readers handle one kind of fault only, the connection's, by another try.
                raise ConnectionError(str(error)) from error
            return await set_up(connection, statements)

        return await ReadPool.of(connect, most=most)

    async def _steady(self, purpose: str) -> None:
        """Pause before a long-lived session that broke as soon as it was opened is opened again."""
        if not purpose.startswith(_LONG_LIVED) or purpose == _SHORT_LIVED:
            return
        backoff = self._backoffs.setdefault(purpose, Backoff())
        opened_at = self._opened_at.get(purpose)
        if opened_at is None or time.monotonic() - opened_at > _STEADY_S:
            backoff.reset()
        else:
            await asyncio.sleep(backoff.next_s())

    async def _open(self) -> asyncpg.Connection:
        dsn = read_dsn(self._dsn)
        if self._newest is None and len(dsn.hosts) > 1:
            return await self._open_newest(dsn)
        return await self._open_first(dsn)

    async def _open_host(self, dsn: Dsn, host: Host) -> _Opened:
        """A checked session at one host, and which history it continues."""
        connection = await connect_to(dsn, host, self._application_name(), within_s=_OPEN_S, tls=self._tls)
        try:
            identity = await check(connection)
            newest = self._newest
            if newest is not None and identity.system == newest.system and identity.timeline < newest.timeline:
                raise self._superseded(identity, newest, host)
            try:
                return connection, await read_generation(connection, identity, newest.generation if newest else "")
            except CONNECTION_ERRORS as error:
                raise DatabaseUnreachable(f"Postgres at {host} went away while it was checked: {error!r}") from error
        except BaseException:
            connection.terminate()
            raise

    def _attempt(self, dsn: Dsn, host: Host) -> "asyncio.Task[_Opened]":
        return self._attempts.spawn(self._open_host(dsn, host), name=f"open-{host}", on_end=_succeeded)

    async def _open_newest(self, dsn: Dsn) -> asyncpg.Connection:
        """The first session: every host is asked, and of several primaries the newest counts."""
        tasks = [self._attempt(dsn, host) for host in dsn.hosts]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(tasks, timeout=_ALL_HOSTS_S if any(map(_succeeded, tasks)) else None)
            opened = [(task.result(), host) for task, host in zip(tasks, dsn.hosts, strict=True) if _succeeded(task)]
            if not opened:
                raise most_telling([task.exception() for task in tasks if task.done() and not task.cancelled()])
            (connection, identity), host = max(opened, key=lambda each: each[0][1].position)
            tasks = [task for task in tasks if not _succeeded(task) or task.result()[0] is not connection]
            return self._accept(connection, identity, host)
        finally:
            _discard(tasks)

    async def _open_first(self, dsn: Dsn) -> asyncpg.Connection:
        """A later session: the host of before first, the next beside it when that fails or says nothing.

        While nothing is heard every host is tried again beside the attempts that wait.  Ends with the first session,
        or when the first attempt at each host has failed: each is bounded by `_OPEN_S`.
        """
        hosts = sorted(dsn.hosts, key=lambda host: host != self._last_host)
        due, again = list(hosts), self._claim_tries_beside()
        tasks: dict[asyncio.Task[_Opened], Host] = {}
        first: set[asyncio.Task[_Opened]] = set()
        errors: list[BaseException | None] = []
        pending: set[asyncio.Task[_Opened]] = set()
        try:
            while due or pending & first:
                if due:
                    task = self._attempt(dsn, due[0])
                    tasks[task] = due.pop(0)
                    pending.add(task)
                    if len(first) < len(hosts):
                        first.add(task)
                done, pending = await asyncio.wait(
                    pending, timeout=_NEXT_HOST_S if due else _TRY_BESIDE_S, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    host = tasks[task]
                    if not _succeeded(task):
                        errors.append(task.exception())
                        continue
                    try:
                        accepted = self._accept(*task.result(), host)
                    except DatabaseError as error:
                        errors.append(error)
                        continue
                    del tasks[task]
                    return accepted
                if not done and not due and again:
                    due = list(hosts)
            raise most_telling(errors)
        finally:
            if again:
                self._tries_beside = False
            _discard(tasks)

    def _claim_tries_beside(self) -> bool:
        """Whether the caller is the one attempt that tries its hosts again: ten at a time would be a storm."""
        claimed = not self._tries_beside
        self._tries_beside = True
        return claimed

    def _accept(self, connection: asyncpg.Connection, identity: ServerIdentity, host: Host) -> asyncpg.Connection:
        """Compare what a session shows with what is known, in one turn of the loop; closes it when it is refused."""
        newest = self._newest
        try:
            if newest is None and identity.position < self._heard:
                newest = identity._replace(timeline=self._heard[0], generation=self._heard[1])
                raise self._superseded(identity, newest, host)
            if newest is None or (newest.generation == "" and newest[:2] == identity[:2]):
                self._newest = identity
            elif identity.system != newest.system:
                raise DatabaseUnsuitable(
                    f"the DSN now leads to another database system ({identity.system}, before {newest.system})"
                )
            elif identity.timeline > newest.timeline or (identity.generation and identity.position > newest.position):
                self._advance(identity, str(host))
            elif identity.timeline < newest.timeline or (identity.generation and identity.position < newest.position):
                raise self._superseded(identity, newest, host)
        except BaseException:
            connection.terminate()
            raise
        self._last_host = host
        self._sessions.add(connection)
        return connection

    @staticmethod
    def _superseded(identity: ServerIdentity, newest: ServerIdentity, host: Host) -> DatabaseSuperseded:
        return DatabaseSuperseded(
            f"the Postgres at {host} is on timeline {identity.timeline} ({identity.generation or 'no generation'}), but"
            f" this system has failed over to timeline {newest.timeline} ({newest.generation}): shut the old primary"
            " down, and lead the DSN to the new one"
        )

    def _advance(self, identity: ServerIdentity, source: str) -> None:
        """A newer history is known: end every session of an older one, then have everything in memory dropped."""
        before, self._newest = self._newest, identity
        sessions = [session for session in self._sessions if not session.is_closed()]
        for session in sessions:
            session.terminate()
        self._sessions.clear()
        self._opened_at.clear()  # those sessions did not break by themselves: the next are opened without a pause
        if before is None:
            return
        self.failovers += 1
        log.critical(
            "worker noticed a fail-over; older sessions ended",
            extra={
                "timeline": identity.timeline,
                "generation": identity.generation,
                "before": before.timeline,
                "source": source,
                "sessions": len(sessions),
                "alarm": True,
            },
        )
        self._on_failover()


def _succeeded(task: "asyncio.Task[_Opened]") -> bool:
    """Whether an attempt has opened a session; also reads the exception of one that failed, which may come too late."""
    return task.done() and not task.cancelled() and task.exception() is None


def _discard(tasks: "Iterable[asyncio.Task[_Opened]]") -> None:
    """End sessions that were opened beside the one that is used, and attempts that still run.

    Does not wait for the attempts: the session that is used must not wait for a host that says nothing.
    """
    for task in tasks:
        if _succeeded(task):
            task.result()[0].terminate()
        task.cancel()


class ReadPool:
    """Lends connections for short reads, each bounded in time.

    A connection on which a read failed or was given up is in an unknown state: it is closed, never put back.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @classmethod
    async def of(cls, connect: Callable[[], Awaitable[asyncpg.Connection]], *, most: int) -> "ReadPool":
        """A pool of at most ``most`` connections, which are opened as they are needed."""

        async def opened(*_: object, **__: object) -> asyncpg.Connection:
            return await connect()

        return cls(await asyncpg.create_pool(min_size=0, max_size=most, connect=opened, reset=_nothing_to_reset))

    async def run(self, work: Callable[[Session], Awaitable[T]], *, within_s: float = _READ_S) -> T:
        """The result of ``work`` on a lent connection.  Raises what it raises, and `TimeoutError`."""
        async with asyncio.timeout(within_s + CONNECT_S), self._pool.acquire() as connection:
            try:
                async with asyncio.timeout(within_s):
                    return await work(connection)
            except BaseException as error:
                if not isinstance(error, asyncpg.PostgresError):
                    connection.terminate()
                raise

    async def expire(self) -> None:
        """Replace every connection: one that is lent, when it is given back."""
        await self._pool.expire_connections()

    def terminate(self) -> None:
        """Close every connection at once."""
        self._pool.terminate()


async def _nothing_to_reset(_: object) -> None:
    """A read leaves nothing behind in its session; asyncpg's own reset would be a round trip after each."""


async def set_up(connection: asyncpg.Connection, statements: str) -> asyncpg.Connection:
    """Execute statements on a session; one on which they fail is closed."""
    if statements:
        try:
            await connection.execute(statements)
        except BaseException:
            connection.terminate()
            raise
    return connection
