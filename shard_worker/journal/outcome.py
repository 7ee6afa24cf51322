"""What became of a batch whose answer never came.

The statement may have been stored, may never have arrived, or may still commit.  Reading the journal alone decides
nothing: it can be empty now and hold the rows half a second later.  So, on a new connection:

1. terminate the old backend, known by its pid and start, so that what has not begun never will;
2. raise the epoch of each shard by a committed compare-and-set.  The old statement holds its shard rows ``FOR SHARE``
   until it ends, so the update waits it out; and a statement that comes later no longer matches the fence;
3. in a *later* statement look for the first of the rows.  A shard's rows are stored all or none.

Present means stored; absent means definitely not stored.  When step 2 finds another owner, its own raise of the epoch
did the same work, and step 3 is just as final.
"""

import asyncio
import logging
from collections.abc import Awaitable
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import asyncpg

from shard_worker.database.connection import LINK_FAULTS
from shard_worker.domain.ids import ShardId
from shard_worker.journal.stream import Row, Stream, StreamState

if TYPE_CHECKING:
    from shard_worker.journal.appender import Connect
    from shard_worker.journal.statement import Part

log = logging.getLogger(__name__)

_TERMINATE_SQL: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2
"""
_OWNER_SQL: Final = "SELECT epoch, incarnation FROM shard WHERE id = $1"
_ROW_SQL: Final = "SELECT thread_id, seq_nr, epoch FROM journal WHERE shard_id = $1 AND shard_seq = $2"
_HEAD_SQL: Final = "SELECT coalesce(max(shard_seq), 0) FROM journal WHERE shard_id = $1"

_NOT_DEFINITE: Final = ("08", "57P", "58", "XX")
"""SQLSTATE classes that say nothing about whether the statement was committed."""


class Backend(NamedTuple):
    """One server process, so named that a reused pid is not mistaken for it."""

    pid: int
    started: datetime


class BumpEpoch(Protocol):
    """Raise a shard of ``incarnation`` from ``epoch`` to the next, committed; the new one, or None if it is not so."""

    def __call__(
        self, connection: asyncpg.Connection, incarnation: str, shard_id: ShardId, epoch: int
    ) -> Awaitable[int | None]: ...


def is_definite(error: Exception) -> bool:
    """Whether the server itself said that the statement failed, and so rolled it back whole.

    A FATAL (shutdown, termination) ends the session, and may come after the commit: not definite.
    """
    if not isinstance(error, asyncpg.PostgresError) or isinstance(error, asyncpg.PostgresConnectionError):
        return False
    severity = getattr(error, "severity_en", None) or getattr(error, "severity", None)
    code = error.sqlstate or ""
    return severity == "ERROR" and not code.startswith(_NOT_DEFINITE)


def is_about_a_row(error: Exception) -> bool:
    """Whether a definite refusal is one row's fault (its data, or a constraint it breaks), not the server's state."""
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "")[:2] in ("22", "23")


class OutcomeResolver:
    """Decides unknown batches, each in a task of its own, on a connection of its own."""

    def __init__(self, *, connect: "Connect", bump_epoch: BumpEpoch) -> None:
        self._connect = connect
        self._bump_epoch = bump_epoch
        self._tasks: set[asyncio.Task[None]] = set()

    def resolve(self, backend: Backend, incarnation: str, batch: "list[Part]", error: Exception) -> None:
        """Find out what became of a batch that ``incarnation`` sent, and tell the streams; they are UNKNOWN until then."""
        shards = [stream.shard_id for stream, _ in batch]
        log.warning("append outcome unknown", extra={"shards": shards, "cause": repr(error)})
        task = asyncio.create_task(self._run(backend, incarnation, batch), name=f"append-outcome-{backend.pid}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("an append's outcome could not be resolved", exc_info=error)

    async def close(self) -> None:
        """Give up what is not decided; its callers were, or will be, told that the outcome is unknown."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, backend: Backend, incarnation: str, batch: "list[Part]") -> None:
        waiting = sorted(batch, key=lambda part: part[0].shard_id)  # ownership statements lock in ascending order
        pause_s = 0.02
        while waiting:
            connection: asyncpg.Connection | None = None
            try:
                connection = await self._connect("append-outcome")
                await connection.execute("SET synchronous_commit = on")
                await connection.fetch(_TERMINATE_SQL, backend.pid, backend.started)
                while waiting:
                    await self._decide(connection, incarnation, *waiting[0])
                    waiting.pop(0)
            except LINK_FAULTS as error:
                log.warning("append outcome still unknown", extra={"cause": repr(error), "shards_left": len(waiting)})
                await asyncio.sleep(pause_s)
                pause_s = min(0.5, pause_s * 2)
            finally:
                if connection is not None:
                    connection.terminate()

    async def _decide(self, connection: asyncpg.Connection, incarnation: str, stream: Stream, rows: list[Row]) -> None:
        """One shard of the batch; raises when the connection fails, and may then be called again.

        While the row is as the batch was sent with, the batch may still commit: also when the shard was dropped here
        since, or another process has our name and has not freed what we held.
        """
        epoch: int | None = None
        while epoch is None:
            owner = await connection.fetchrow(_OWNER_SQL, stream.shard_id)
            if owner is None or owner["incarnation"] != incarnation:
                break
            if stream.state is StreamState.CLOSED and owner["epoch"] != stream.epoch:
                break
            epoch = await self._bump_epoch(connection, incarnation, stream.shard_id, owner["epoch"])
        first = await connection.fetchrow(_ROW_SQL, stream.shard_id, stream.head + 1)
        stored = first is not None and (first["thread_id"], first["seq_nr"], first["epoch"]) == (
            rows[0].writer.uuid,
            rows[0].seq_nr,
            stream.epoch,
        )
        head = await connection.fetchval(_HEAD_SQL, stream.shard_id)
        _apply(stream, rows, epoch=epoch, stored=stored, head=head)


def _apply(stream: Stream, rows: list[Row], *, epoch: int | None, stored: bool, head: int) -> None:
    """Tell the stream what was found, in one turn of the loop."""
    log.info("append outcome decided", extra={"shard": stream.shard_id, "stored": stored, "epoch": epoch})
    expected = stream.head + (len(rows) if stored else 0)
    stream.in_flight = 0
    if stored:
        stream.head += len(rows)
        for row in rows:
            row.writer.stored(row)
    if epoch is None or stream.state is StreamState.CLOSED:
        stream.host.lost([] if stored else rows)
        return
    if head != expected:
        log.critical(
            "acknowledged-lost" if head < expected else "journal has rows nobody here wrote",
            extra={"shard": stream.shard_id, "head": head, "expected": expected, "alarm": True},
        )
        stream.host.lost([] if stored else rows)
        return
    stream.epoch = epoch
    stream.state = StreamState.OPEN
    if not stored:
        stream.return_rows(rows)
    stream.host.resumed()
    stream.settled()
    stream.wake()
