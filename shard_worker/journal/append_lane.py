"""One lane of the appender: a connection with at most one batch at the server, and the queues of the shards fixed to it.

Group commit without linger: while one batch is at the server the next fills.  The statement locks those of the batch's
shard rows that still carry this incarnation and epoch (``FOR SHARE … SKIP LOCKED``), inserts only their events and
says whether these were all: then everything is durable, else the journal is asked which shards' rows are.  A failure is
handled in three ways:

* the server refused it (an ERROR): nothing was stored; the guilty row, which `isolation` finds, is dropped, only its
  writer hears of it, and the others are sent again as one batch;
* the link broke, the watchdog ran out or the server was shutting down: the outcome is unknown, and `outcome` decides
  it;
* a shard was not locked: its row is read again; ours still: in front of the queue again, else the shard is lost.

A row is sent before its deadline or never: one whose deadline passes in the queue is withdrawn with its writer's later
rows.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from shard_worker.database.binary_arrays import UNENCODABLE, use_binary_arrays
from shard_worker.database.connection import CONNECTION_ERRORS, OpenConnection
from shard_worker.journal.append_queue import AppendQueue, AppendQueueState, Row
from shard_worker.journal.append_sql import (
    APPEND_SESSION_SQL,
    APPEND_SQL,
    FIRST_ROWS_SQL,
    OWNERS_SQL,
    ShardBatch,
    binary_parameters,
    first_rows_parameters,
    is_stored,
    parameters,
)
from shard_worker.journal.isolation import Suspects, find_guilty, find_used_keys, is_key_violation
from shard_worker.journal.outcome import Backend, OutcomeResolver, is_about_a_row, is_definite, jittered
from shard_worker.tasks import BackgroundTasks

log = logging.getLogger(__name__)

_BACKEND_SQL: Final = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
_FIRST_PAUSE_S: Final = 0.05
_LAST_PAUSE_S: Final = 1.0
"""Pause of a lane whose server refuses everything; also the time within which the lane notices that the server is well."""
_FIRST_BACK_OFF_S: Final = 0.005
_LAST_BACK_OFF_S: Final = 0.1


class AppendMetrics:
    """Counters of the appender since its start."""

    __slots__ = ("batches", "events", "expired", "refused", "rejected", "seconds", "skipped", "unknown")

    def __init__(self) -> None:
        self.batches = 0
        self.events = 0
        self.expired = 0
        """Rows withdrawn because a deadline passed while they were queued."""
        self.refused = 0
        """Statements that the server refused because of a row."""
        self.rejected = 0
        """Rows for which a statement was refused."""
        self.skipped = 0
        self.unknown = 0
        self.seconds = 0.0


class BatchBounds(NamedTuple):
    """Maximum contents of one batch; a batch has at least one event."""

    events: int = 512
    size: int = 1 << 20
    """Bytes of the events' payloads and metadata."""


DEFAULT_BOUNDS: Final = BatchBounds()


class AppendLane:
    """One append connection and the streams fixed to it."""

    def __init__(
        self,
        number: int,
        *,
        connect: OpenConnection,
        resolver: OutcomeResolver,
        incarnation: Callable[[], str],
        batch: BatchBounds,
        watchdog_s: float,
        metrics: AppendMetrics,
    ) -> None:
        self._name = f"append-{number}"
        self._connect = connect
        self._resolver = resolver
        self._incarnation = incarnation
        self._bounds = batch
        self._watchdog_s = watchdog_s
        self._metrics = metrics
        self._ready: deque[AppendQueue] = deque()
        self._suspects = Suspects()
        self._suspects_next = False
        self._key_refused = False
        """Whether the last batch was refused because of a key."""
        self._pause_s = _FIRST_PAUSE_S
        self._wake: asyncio.Future[None] | None = None
        self._binary = True
        """Whether the connection takes ready-made arrays, as far as is known."""
        self._connection: asyncpg.Connection | None = None
        self._statement: PreparedStatement | None = None
        self._backend: Backend | None = None

    def start(self, tasks: BackgroundTasks) -> None:
        """Start the lane; it connects when it first has something to do."""
        tasks.start(self._run(), name=self._name)

    def terminate(self) -> None:
        """Close the connection at once; the lane's task has ended."""
        if self._connection is not None:
            self._connection.terminate()

    def schedule(self, stream: AppendQueue) -> None:
        """Take rows of a stream into one of the next batches."""
        stream.scheduled = True  # a stream is in `_ready` at most once
        self._ready.append(stream)
        wake = self._wake
        if wake is not None:
            self._wake = None
            if not wake.done():
                wake.set_result(None)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._ready and not self._suspects:
                # No await between the check and the future: `schedule` cannot run in between.
                self._wake = loop.create_future()
                await self._wake
            # No linger, but one turn of the loop: rows that come in the same turn join the batch.
            await asyncio.sleep(0)
            if self._connection is not None and self._connection.is_closed():
                # Noticed before anything is sent: what waits is queued, and not unknown.
                self._disconnect(ConnectionResetError("closed while idle"))
            statement = self._statement
            if statement is None:
                # Before anything is taken: while Postgres is away rows stay queued, and nothing is unknown.
                statement = await self._prepare()
            # In turn, so that neither waits for all of the other.
            self._suspects_next = bool(self._suspects) and (self._suspects_next or not self._ready)
            if self._suspects_next:
                batch, streams = self._suspects.take()
                if batch:
                    await self._commit(statement, batch)
                for stream in streams:
                    stream.wake()
            else:
                batch = self._take(loop.time())
                if batch:
                    await self._commit(statement, batch)
            self._suspects_next = not self._suspects_next

    async def _prepare(self) -> PreparedStatement:
        """A connection with the statement prepared, however long it takes."""
        pause_s = _FIRST_PAUSE_S
        while True:
            connection = await self._connect(self._name)
            try:
                row = await connection.fetchrow(_BACKEND_SQL)
                assert row is not None  # a backend always sees itself
                if self._binary and not await use_binary_arrays(connection):
                    self._binary = False
                    log.warning(
                        "client library takes no ready-made arrays; appends cost more", extra={"lane": self._name}
                    )
                    connection.terminate()
                    continue
                await connection.execute(APPEND_SESSION_SQL)
                statement = await connection.prepare(APPEND_SQL)
            except CONNECTION_ERRORS as error:
                log.warning(
                    "lane lost its connection during the preparation", extra={"lane": self._name, "cause": repr(error)}
                )
                connection.terminate()
                await asyncio.sleep(jittered(pause_s))
                pause_s = min(_LAST_PAUSE_S, pause_s * 2)
                continue
            self._connection = connection
            self._backend = Backend(pid=row["pid"], started=row["backend_start"])
            self._statement = statement
            return statement

    def _take(self, now: float) -> list[ShardBatch]:
        """The next batch: the streams that are ready, in the order they became so, up to the caps.

        A stream that has more than the batch can carry goes to the end of the line.
        """
        most_events, most_bytes = self._bounds
        batch: list[ShardBatch] = []
        events = 0
        size = 0
        while self._ready:
            stream = self._ready.popleft()
            stream.scheduled = False
            if stream.state is not AppendQueueState.OPEN or stream.suspected:
                continue
            queue = stream.queue
            rows: list[Row] = []
            full = False
            while queue:
                row = queue[0]
                if row.deadline <= now:
                    stream.in_flight = len(rows)  # what was taken is on its way: the stream is not drained
                    self._metrics.expired += stream.expire(now)
                    queue = stream.queue
                    continue
                if events >= most_events or (events and size + row.size > most_bytes):
                    full = True
                    break
                queue.popleft()
                rows.append(row)
                events += 1
                size += row.size
            if rows:
                stream.in_flight = len(rows)
                batch.append((stream, rows))
            if full:
                stream.scheduled = True
                self._ready.append(stream)
                break
        return batch

    async def _commit(self, statement: PreparedStatement, batch: list[ShardBatch]) -> None:
        """Send one batch and act on what came of it.  Never raises but for cancellation and bugs."""
        connection = self._connection
        assert connection is not None  # set together with the statement
        loop = asyncio.get_running_loop()
        # Read once: the incarnation may change while the batch is at the server; the outcome is decided for this value.
        incarnation = self._incarnation()
        # The watchdog ends the connection, not the task: `fetch` then fails, and the outcome is unknown.
        watchdog = loop.call_later(self._watchdog_s, connection.terminate)
        began = loop.time()
        try:
            whole = await statement.fetch(*self._parameters(batch, incarnation))
        except asyncio.CancelledError:  # the lane is closing; the connection is in the middle of a statement
            connection.terminate()
            raise
        except CONNECTION_ERRORS as error:
            watchdog.cancel()  # its outcome is being handled, which takes longer than the statement may
            # A connection that is closed after an ERROR counts as unknown: a wrong guess would send stored rows again.
            if not is_definite(error) or connection.is_closed():
                self._unknown(incarnation, batch, error)
            elif is_about_a_row(error):
                await self._refused(connection, batch, error)
            else:
                await self._pause(batch, error)
            return
        finally:
            watchdog.cancel()
        self._pause_s = _FIRST_PAUSE_S
        self._key_refused = False
        metrics = self._metrics
        took_s = loop.time() - began
        metrics.seconds += took_s
        metrics.batches += 1
        if not whole:
            await self._settle_some(connection, incarnation, batch, took_s)
            return
        xid = whole[0]["xid"]
        for stream, rows in batch:
            _settle(stream, rows, took_s, xid)
        metrics.events += sum([len(rows) for _, rows in batch])

    async def _settle_some(
        self, connection: asyncpg.Connection, incarnation: str, batch: list[ShardBatch], took_s: float
    ) -> None:
        """The statement was committed, without the shards that it could not lock: find out which."""
        try:
            found = await connection.fetch(FIRST_ROWS_SQL, *first_rows_parameters(batch), timeout=self._watchdog_s)
        except CONNECTION_ERRORS as error:
            self._unknown(incarnation, batch, error)
            return
        first_of = {first["shard_id"]: first for first in found}
        skipped: list[ShardBatch] = []
        for stream, rows in batch:
            first = first_of[stream.shard_id]
            if is_stored(first, stream, rows):
                _settle(stream, rows, took_s, first["xid"])
                self._metrics.events += len(rows)
            else:
                skipped.append((stream, rows))
        await self._ask_owner(skipped)

    def _parameters(self, batch: list[ShardBatch], incarnation: str) -> tuple[object, ...]:
        if self._binary:
            try:
                return binary_parameters(batch, incarnation)
            except UNENCODABLE:
                pass  # a list, of which asyncpg says what is wrong with it, as a refusal of the statement
        return parameters(batch, incarnation)

    async def _ask_owner(self, skipped: list[ShardBatch]) -> None:
        """Shards that were not locked: another transaction had the row for a moment, or another owner has the shard."""
        self._metrics.skipped += len(skipped)
        connection = self._connection
        assert connection is not None  # a batch was just answered on it
        incarnation = self._incarnation()
        try:
            records = await connection.fetch(
                OWNERS_SQL, [stream.shard_id for stream, _ in skipped], timeout=self._watchdog_s
            )
        except CONNECTION_ERRORS as error:
            # Nothing of these was stored, so nothing is unknown: on the next connection they are simply sent again.
            self._disconnect(error)
            for stream, rows in skipped:
                _return(stream, rows)
                stream.wake()
            return
        owners = {record["id"]: (record["epoch"], record["incarnation"]) for record in records}
        loop = asyncio.get_running_loop()
        for stream, rows in skipped:
            # Closed: the shard was dropped while the batch was at the server.
            if stream.state is AppendQueueState.CLOSED or owners.get(stream.shard_id) != (stream.epoch, incarnation):
                stream.in_flight = 0
                stream.host.on_ownership_lost(rows)
                continue
            _return(stream, rows)
            stream.back_off_s = min(_LAST_BACK_OFF_S, max(_FIRST_BACK_OFF_S, stream.back_off_s * 2))
            stream.scheduled = True  # until the pause is over
            loop.call_later(stream.back_off_s, self._reschedule, stream)

    def _reschedule(self, stream: AppendQueue) -> None:
        stream.scheduled = False
        stream.wake()

    async def _refused(self, connection: asyncpg.Connection, batch: list[ShardBatch], error: Exception) -> None:
        """The server refused a batch because of a row, and stored nothing: drop the row, and send the others again.

        When two batches in a row are refused because of a key, all keys of the second are looked up at once: however
        many were used before, the others wait for three statements.
        """
        self._metrics.refused += 1
        await asyncio.sleep(0)  # asyncpg refuses a value that it cannot encode without a turn of the loop
        key_refused, self._key_refused = self._key_refused, is_key_violation(error)
        guilty = find_guilty(batch, error)
        if guilty is None and not self._key_refused:
            for stream, rows in batch:
                _return(stream, rows)
            self._suspects.split(batch)
            return
        found = [] if guilty is None else [guilty]
        if self._key_refused and (key_refused or not found):
            try:
                found = await find_used_keys(connection, batch, self._watchdog_s) or found
            except CONNECTION_ERRORS as fault:
                self._disconnect(fault)
        # Returned before any row is rejected: `withdraw` looks in the queue.
        for stream, rows in batch:
            _return(stream, rows)
        if not found:  # a key's index was violated by two rows of the batch itself, or the link broke
            self._suspects.split(batch)
            return
        for stream, row in found:
            self._reject(stream, row, error)
        # In front and in the batch's order, so that one bad row does not cost the others their turn.
        for stream, _ in reversed(batch):
            if stream.queue and not stream.scheduled and not stream.suspected and stream.state is AppendQueueState.OPEN:
                stream.scheduled = True
                self._ready.appendleft(stream)

    def _reject(self, stream: AppendQueue, row: Row, error: Exception) -> None:
        """Drop a queued row that the database refuses, with the later rows of its writer."""
        withdrawn = stream.withdraw(row)
        if not withdrawn:
            return  # with an earlier row of the same writer
        self._metrics.rejected += 1
        if isinstance(error, asyncpg.UniqueViolationError) and not is_key_violation(error):
            # Our head or the actor's is behind the journal's: nothing in memory of this shard can be trusted.
            log.critical(
                "journal was ahead of the shard's owner; shard dropped", extra={"shard": stream.shard_id, "alarm": True}
            )
            stream.host.on_ownership_lost(withdrawn)
        else:
            row.writer.rejected(withdrawn, error)
        stream.settled()

    async def _pause(self, batch: list[ShardBatch], error: Exception) -> None:
        """The server refused for a reason of its own (disk full, read-only): nothing was stored; try again later."""
        self._disconnect(error)
        for stream, rows in batch:
            _return(stream, rows)
            stream.wake()
        await asyncio.sleep(jittered(self._pause_s))
        self._pause_s = min(_LAST_PAUSE_S, self._pause_s * 2)

    def _unknown(self, incarnation: str, batch: list[ShardBatch], error: Exception) -> None:
        """Suspend the shards of a batch with an unknown outcome until the resolver has decided it."""
        self._metrics.unknown += 1
        backend = self._backend
        assert backend is not None  # set together with the statement
        self._disconnect(error)
        # Suspended in this turn of the loop: no request sees a serving shard with an unknown batch.  A closed stream stays
        # closed, and the resolver still answers its writers.
        for stream, _ in batch:
            if stream.state is AppendQueueState.OPEN:
                stream.state = AppendQueueState.UNKNOWN
                stream.host.suspended()
        self._resolver.resolve(backend, incarnation, batch, error)

    def _disconnect(self, error: Exception) -> None:
        log.warning("lane lost its connection", extra={"lane": self._name, "cause": repr(error)})
        if self._connection is not None:
            self._connection.terminate()
        self._connection = self._statement = self._backend = None


def _settle(stream: AppendQueue, rows: list[Row], took_s: float, xid: int) -> None:
    """Durable: advance the head, then answer the writers in order."""
    stream.batches += 1
    stream.append_s += took_s
    stream.back_off_s = 0.0
    stream.advance(rows, xid)
    if stream.state is AppendQueueState.CLOSED:
        stream.host.on_ownership_lost([])  # what was queued behind these was not stored
    stream.settled()


def _return(stream: AppendQueue, rows: list[Row]) -> None:
    """Definitely not stored, and to be sent again: in front of what came since."""
    stream.in_flight = 0
    if stream.state is AppendQueueState.CLOSED:
        stream.host.on_ownership_lost(rows)
    else:
        stream.return_rows(rows)
