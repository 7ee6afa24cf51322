"""Decides the outcome of a batch whose answer never came.

The statement may have been stored, may never have arrived, or may still commit.  Reading the journal alone decides
nothing: it can be empty now and hold the rows half a second later.  So, on a new connection:

1. terminate the old backend, known by its pid and start, so that what has not begun never will;
2. raise the epoch of every shard of the batch by one committed compare-and-set.  The old statement holds its shard rows ``FOR SHARE``
   until it ends, so the update waits it out; and a statement that comes later no longer matches the fence;
3. in a *later* statement look for the first of the rows.  A shard's rows are stored all or none.

Present means stored; absent means definitely not stored.  When step 2 finds another owner, its own raise of the epoch
did the same work, and step 3 is just as final.

Each step is one statement for all shards of the batch, so that the time does not grow with their number.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Mapping
from datetime import datetime
from typing import Final, NamedTuple, Protocol

import asyncpg

from shard_worker.database.connection import CONNECTION_ERRORS, OpenConnection
from shard_worker.domain.ids import ShardId
from shard_worker.journal.append_queue import AppendQueue, AppendQueueState, Row
from shard_worker.journal.append_sql import FIRST_ROWS_SQL, OWNERS_SQL, ShardBatch, first_rows_parameters, is_stored
from shard_worker.tasks import BackgroundTasks

log = logging.getLogger(__name__)

_TERMINATE_SQL: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2
"""
_FIRST_PAUSE_S: Final = 0.02
_LAST_PAUSE_S: Final = 1.0
"""Pause between two tries; short enough that shards wait for hardly more than the database does."""

_NOT_DEFINITE: Final = ("08", "57P", "58", "XX")
"""SQLSTATE classes that say nothing about whether the statement was committed."""


class Backend(NamedTuple):
    """One server process, so named that a reused pid is not mistaken for it."""

    pid: int
    started: datetime


class BumpEpochs(Protocol):
    """Raise shards of ``incarnation``, each from its epoch to the next, in one commit; the new epoch of each one raised."""

    def __call__(
        self, connection: asyncpg.Connection, incarnation: str, held: Mapping[ShardId, int]
    ) -> Awaitable[Mapping[ShardId, int]]: ...


def jittered(pause_s: float) -> float:
    """A pause of half to all of ``pause_s``, so that the workers of a cluster do not come back in step."""
    return pause_s * random.uniform(0.5, 1.0)  # noqa: S311  # spreads load, guards nothing


def is_definite(error: Exception) -> bool:
    """Whether the server itself reported the statement's failure, and so rolled it back whole.

    A FATAL (shutdown, termination) ends the session, and may come after the commit: not definite.
    """
    if not isinstance(error, asyncpg.PostgresError) or isinstance(error, asyncpg.PostgresConnectionError):
        return False
    if isinstance(error, asyncpg.DataError) and error.severity is None:
        return True  # asyncpg's own: a value could not be encoded, and nothing was sent
    severity = getattr(error, "severity_en", None) or getattr(error, "severity", None)
    code = error.sqlstate or ""
    return severity == "ERROR" and not code.startswith(_NOT_DEFINITE)


def is_about_a_row(error: Exception) -> bool:
    """Whether a definite refusal is one row's fault (its data, size or a constraint it breaks), not the server's state."""
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "")[:2] in ("22", "23", "54")


class OutcomeResolver:
    """Decides unknown batches, each in a task of its own, on a connection of its own.

    When the owner of ``tasks`` closes, batches stay undecided: their callers were answered that the outcome is unknown, or
    will be.
    """

    def __init__(self, *, connect: OpenConnection, bump_epochs: BumpEpochs, tasks: BackgroundTasks) -> None:
        self._connect = connect
        self._bump_epochs = bump_epochs
        self._tasks = tasks

    def resolve(self, backend: Backend, incarnation: str, batch: list[ShardBatch], error: Exception) -> None:
        """Decide the outcome of a batch that ``incarnation`` sent, and apply it; its streams are UNKNOWN until then."""
        shards = [stream.shard_id for stream, _ in batch]
        log.warning("append ended with an unknown outcome", extra={"shards": shards, "cause": repr(error)})
        # Essential: the shards of a batch that is left undecided admit nothing until the process ends.
        self._tasks.spawn(self._run(backend, incarnation, batch), name=f"append-outcome-{backend.pid}", essential=True)

    async def _run(self, backend: Backend, incarnation: str, batch: list[ShardBatch]) -> None:
        pause_s = _FIRST_PAUSE_S
        undecided = {stream.shard_id: (stream, rows) for stream, rows in batch}
        while undecided:
            connection: asyncpg.Connection | None = None
            try:
                connection = await self._connect("append-outcome")
                # A raise of the epoch that a crash could undo would decide nothing.
                await connection.execute("SET synchronous_commit = on")
                # Before the raise of the epochs, which would otherwise wait for the old statement.
                await connection.fetch(_TERMINATE_SQL, backend.pid, backend.started)
                await self._decide(connection, incarnation, undecided)
            except CONNECTION_ERRORS as error:
                # Each step may be repeated: after a lost answer the next try raises from the epoch that it reads.
                log.warning(
                    "resolver failed to decide an outcome; trying again",
                    extra={"cause": repr(error), "shards_left": len(undecided)},
                )
                await asyncio.sleep(jittered(pause_s))
                pause_s = min(_LAST_PAUSE_S, pause_s * 2)
            finally:
                if connection is not None:
                    connection.terminate()

    async def _decide(
        self, connection: asyncpg.Connection, incarnation: str, undecided: dict[ShardId, ShardBatch]
    ) -> None:
        """Decide the shards of a batch, and remove them from ``undecided``; raises when the connection fails.

        While a shard's row is as the batch was sent with, the batch may still commit: also when the shard was dropped
        here since, or another process has our name and has not freed what we held.  A shard whose epoch could not be
        raised changed in between, and its row is read again.
        """
        raised: dict[ShardId, int | None] = {}
        while len(raised) < len(undecided):
            open_ids = [shard_id for shard_id in undecided if shard_id not in raised]
            owners = {row["id"]: row for row in await connection.fetch(OWNERS_SQL, open_ids)}
            held: dict[ShardId, int] = {}
            for shard_id in sorted(open_ids):  # ownership statements lock in ascending order
                stream, owner = undecided[shard_id][0], owners.get(shard_id)
                if (
                    owner is None
                    or owner["incarnation"] != incarnation
                    or (stream.state is AppendQueueState.CLOSED and owner["epoch"] != stream.epoch)
                ):
                    raised[shard_id] = None
                else:
                    held[shard_id] = owner["epoch"]
            if held:
                raised.update(await self._bump_epochs(connection, incarnation, held))
        found = await connection.fetch(FIRST_ROWS_SQL, *first_rows_parameters(undecided.values()))
        results = []
        for first in found:
            shard_id = ShardId(first["shard_id"])
            results.append((shard_id, is_stored(first, *undecided[shard_id]), first["head"]))
        log.info(
            "resolver decided the outcome of an append",
            extra={"shards": len(results), "stored": [shard_id for shard_id, stored, _ in results if stored]},
        )
        # Applied after all comparisons, because the callbacks may change streams; removed one by one, so that no shard is
        # applied twice after a failed callback.
        for shard_id, stored, head in results:
            stream, rows = undecided.pop(shard_id)
            _apply(stream, rows, epoch=raised[shard_id], stored=stored, head=head)


def _apply(stream: AppendQueue, rows: list[Row], *, epoch: int | None, stored: bool, head: int) -> None:
    """Apply the outcome to the stream, in one turn of the loop."""
    expected = stream.head + (len(rows) if stored else 0)
    if stored:  # answered before a loss is reported, which redirects the other requests
        stream.advance(rows)
    else:
        stream.in_flight = 0
    if epoch is None or stream.state is AppendQueueState.CLOSED:
        stream.host.on_ownership_lost([] if stored else rows)
        return
    if head != expected:
        log.critical(
            "acknowledged-lost" if head < expected else "journal has rows that this worker did not write",
            extra={"shard": stream.shard_id, "head": head, "expected": expected, "alarm": True},
        )
        stream.host.on_ownership_lost([] if stored else rows)
        return
    # Epoch and returned rows before `resumed`: new rows follow the returned ones, and are fenced by the new epoch.
    stream.epoch = epoch
    stream.state = AppendQueueState.OPEN
    if not stored:
        stream.return_rows(rows)
    stream.host.resumed()
    stream.settled()
    stream.wake()
