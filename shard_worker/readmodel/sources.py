"""The databases that queries of the read model are asked of: a replica where there is one that is fit, else the primary.

Whether the replica is fit is found out beside the queries, once a second: it answers, it continues the history of this worker,
and its lag is small.  A query therefore pays for no look at the replica.  A query that the replica does not answer, for
whatever reason, is asked once of the primary; where the link failed, the replica is left alone until a look succeeds.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, TypeVar

import asyncpg

from shard_worker.database.connection import CONNECTION_ERRORS, ReadPool, Session
from shard_worker.database.planning import BY_INDEX, set_up_statements
from shard_worker.database.reconnecting import Backoff
from shard_worker.database.replica import Replica, ReplicaStatus, read_status
from shard_worker.readmodel.live_generation import LiveGeneration
from shard_worker.readmodel.replica_lag import LAG_MOST_S, LagTracker
from shard_worker.tasks import BackgroundTasks, OnFailure

log = logging.getLogger(__name__)

T = TypeVar("T")

SESSION_SETTINGS: Final = {
    **BY_INDEX,
    "default_transaction_read_only": "on",
    "enable_memoize": "off",
    "enable_sort": "off",
    "max_parallel_workers_per_gather": "0",
    "plan_cache_mode": "force_generic_plan",
}
"""Settings of a session that queries are asked of.  Every query is written to look its rows up by indexes, in the order of its
answer.  The planner does not know how large one thread is among many small ones, nor where a page ends: without these it reads
and sorts a thread's ten thousand members for a page of a hundred.  No query needs its parameters to be planned."""
SET_UP: Final = set_up_statements(SESSION_SETTINGS)

_LOOK_EVERY_S: Final = 1.0
_LOOK_S: Final = 1.5
"""How long a look at the replica or the primary may take."""
_REPLICA_S: Final = 1.5
"""How long a query waits for the replica, a connection included; then the primary is asked."""
_LOOKS_LAST_S: Final = 2.0 * _LOOK_EVERY_S + _LOOK_S
"""How long the outcome of a look counts: a look that hangs must not keep the replica in use."""
_REST_MOST_S: Final = 30.0
_PRIMARY_LSN: Final = "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"


class Reading(NamedTuple):
    """A session on one of the databases, and the names in a statement that depend on its live generation."""

    connection: Session
    names: dict[str, object]
    of_replica: bool


class ReplicaCounts:
    """Counts of queries by their outcome."""

    __slots__ = ("answered", "failed", "unfit")

    def __init__(self) -> None:
        self.answered = 0
        self.failed = 0
        """Queries that the replica did not answer, and the primary did."""
        self.unfit = 0
        """Queries that were not asked of the replica, since it was away, behind or of another history."""

    def by_outcome(self) -> dict[str, int]:
        """For metrics."""
        return {"answered": self.answered, "failed": self.failed, "unfit": self.unfit}


class QuerySources:
    """Asks queries of the replica or the primary.

    Raises `shard_worker.database.connection.CONNECTION_ERRORS` when the primary does not answer either.
    """

    def __init__(self, primary: ReadPool, replica: "WatchedReplica | None" = None) -> None:
        self._primary = primary
        self._live = LiveGeneration()
        self.replica = replica

    async def run(self, work: Callable[[Reading], Awaitable[T]], *, least_lsn: int = 0, primary: bool = False) -> T:
        """The result of ``work``; ``least_lsn`` is how far the replica must have replayed, ``primary`` rules it out."""
        replica = self.replica
        if replica is not None and not primary:
            if replica.is_fit(least_lsn):
                try:
                    return await replica.run(work)
                except CONNECTION_ERRORS as error:
                    replica.failed(error)
            else:
                replica.counts.unfit += 1

        async def read(connection: Session) -> T:
            return await work(Reading(connection, await self._live.names(connection), of_replica=False))

        return await self._primary.run(read)


class ReplicaBusy(TimeoutError):
    """No session on the replica was free in time."""


class WatchedReplica:
    """A replica, and what is known of it."""

    def __init__(
        self, replica: Replica, pool: ReadPool, primary: ReadPool, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._replica = replica
        self._pool = pool
        self._primary = primary
        self._clock = clock
        self._live = LiveGeneration()
        self._lag = LagTracker()
        self._status: ReplicaStatus | None = None
        """As the last look found it; None when that failed, or a query's link did since."""
        self._looked_at = 0.0
        self._backoff = Backoff(last_s=_REST_MOST_S, first_s=_LOOK_EVERY_S)
        self._tasks = BackgroundTasks()
        self.counts = ReplicaCounts()

    def start(self, on_failure: OnFailure | None = None) -> None:
        """Begin to look at the replica."""
        if on_failure is not None:
            self._tasks.on_failure = on_failure
        self._tasks.start(self._watch(), name="replica-watch")

    async def close(self) -> None:
        """Stop looking, and close its sessions."""
        await self._tasks.close()
        self._pool.terminate()

    @property
    def lag_s(self) -> float:
        """The replica's lag in seconds; infinite while it is away or of another history."""
        status = self._status
        now = self._clock()
        if status is None or now - self._looked_at > _LOOKS_LAST_S or not status.continues(self._replica.history):
            return float("inf")
        return self._lag.lag_s(now, status.lsn)

    def is_fit(self, least_lsn: int) -> bool:
        """Whether the replica may be asked, and had replayed up to ``least_lsn`` when it was last looked at."""
        status = self._status
        return status is not None and status.lsn >= least_lsn and self.lag_s <= LAG_MOST_S

    async def run(self, work: Callable[[Reading], Awaitable[T]]) -> T:
        """The result of ``work`` on the replica.  Raises `CONNECTION_ERRORS`."""
        lent = False

        async def read(connection: Session) -> T:
            nonlocal lent
            lent = True
            return await work(Reading(connection, await self._live.names(connection), of_replica=True))

        try:
            async with asyncio.timeout(_REPLICA_S):
                result = await self._pool.run(read)
        except TimeoutError as error:
            if lent:
                raise
            raise ReplicaBusy from error
        self.counts.answered += 1
        return result

    def failed(self, error: BaseException) -> None:
        """A query was not answered: cancelled by the replica's recovery, or the link failed."""
        self.counts.failed += 1
        broken = not isinstance(error, asyncpg.PostgresError) or isinstance(
            error, asyncpg.PostgresConnectionError | asyncpg.OperatorInterventionError
        )
        if isinstance(error, ReplicaBusy):
            return  # the looks find out whether it is only that
        if broken and self._status is None:
            return  # reported by the query that found it out
        if broken:
            self._status = None
        log.warning("replica did not answer a query", extra={"cause": repr(error), "left_alone": broken})

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(await self._look())

    async def _look(self) -> float:
        """Look at both databases; returns how long to rest."""
        try:
            began = self._clock()
            async with asyncio.timeout(_LOOK_S):
                lsn = await self._primary.run(lambda connection: connection.fetchval(_PRIMARY_LSN))
            self._lag.sample(began, int(lsn))
        except CONNECTION_ERRORS:
            pass  # the lag grows by itself, and the readers of the primary report it
        try:
            async with asyncio.timeout(_LOOK_S):
                status = await self._pool.run(read_status)
        except CONNECTION_ERRORS as error:
            if self._status is not None or self._looked_at == 0.0:
                log.warning("replica cannot be used", extra={"cause": repr(error)})
            self._status, self._looked_at = None, self._clock()
            self._replica.forget_server()
            await self._pool.expire()
            return self._backoff.next_s()
        self._status, self._looked_at = status, self._clock()
        self._backoff.reset()
        return _LOOK_EVERY_S
