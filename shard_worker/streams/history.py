"""Reads the journal for streams: pages of a thread's events, its newest event, and an account's roles in the past.

A page begins with the event that the reader already has, so that each read proves that the history still holds it.
Whatever the length of a history, a read is bounded in rows and in bytes.  All reads go to the primary.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import asyncpg

from shard_worker.contract import LiveEvent
from shard_worker.database.connection import ReadPool, Session
from shard_worker.domain.ids import AccountId, ShardId, ThreadId, ulid_uuid
from shard_worker.journal.codec import decode
from shard_worker.streams.access import (
    DESTROYED_TYPE,
    NO_ROLES,
    PLAIN_TYPES,
    PastAccess,
    Roles,
    rewind,
    roles_after,
)
from shard_worker.tasks import BackgroundTasks

PAGE_BYTES: Final = 64 << 10
"""Bytes of payloads in a page, but for the first event: what one client may have unread while it catches up."""
_PAGE_ROWS: Final = 256
_AT_ONCE: Final = 2
"""Connections of the pool that streams use at once: threads that wake need the others."""
_HEADS_MOST: Final = 500
_SPAN: Final = 20_000
_SPAN_LEAST: Final = 100
"""Events that one statement passes over in search of an account's joins and leaves, and how few where that takes long."""
_JOINS_ROWS: Final = 64
_JOINS_BYTES: Final = 256 << 10
"""Events that one statement returns, and bytes of them, but for the first."""

_PAGE_SQL: Final = """
SELECT seq_nr, epoch, event_type, event_version, payload
  FROM (SELECT *, sum(size) OVER (ORDER BY seq_nr) - size AS before
          FROM (SELECT seq_nr, epoch, event_type, event_version,
                       CASE WHEN seq_nr > $3 THEN payload END AS payload,
                       CASE WHEN seq_nr > $3 THEN octet_length(payload) ELSE 0 END AS size
                  FROM journal WHERE shard_id = $1 AND thread_id = $2 AND seq_nr >= $3
                 ORDER BY seq_nr LIMIT $4) j) p
 WHERE before < $5 ORDER BY seq_nr
"""
# LATERAL: each thread's newest event by the primary key.
_HEADS_SQL: Final = """
SELECT w.ord, coalesce(j.seq_nr, 0) AS seq_nr, coalesce(j.epoch, 0) AS epoch
  FROM unnest($1::int[], $2::uuid[]) WITH ORDINALITY AS w (shard_id, thread_id, ord)
  LEFT JOIN LATERAL (SELECT seq_nr, epoch FROM journal
                      WHERE shard_id = w.shard_id AND thread_id = w.thread_id ORDER BY seq_nr DESC LIMIT 1) j ON true
 ORDER BY w.ord
"""
_EPOCH_SQL: Final = "SELECT epoch FROM journal WHERE shard_id = $1 AND thread_id = $2 AND seq_nr = $3"
_TYPE_SQL: Final = "SELECT event_type FROM journal WHERE shard_id = $1 AND thread_id = $2 AND seq_nr = $3"
_JOINS_SQL: Final = """
SELECT seq_nr, event_type, event_version, payload
  FROM (SELECT *, sum(octet_length(payload)) OVER (ORDER BY seq_nr {order}) - octet_length(payload) AS before
          FROM (SELECT seq_nr, event_type, event_version, payload FROM journal
                 WHERE shard_id = $1 AND thread_id = $2 AND seq_nr > $3 AND seq_nr <= $4
                   AND event_type <> ALL($5::smallint[]) AND position($6::bytea IN payload) > 0
                 ORDER BY seq_nr {order} LIMIT $7) j) p
 WHERE before < $8 ORDER BY seq_nr {order}
"""
_NEWEST_FIRST_SQL: Final = _JOINS_SQL.format(order="DESC")
_OLDEST_FIRST_SQL: Final = _JOINS_SQL.format(order="ASC")


class Head(NamedTuple):
    """The newest event of a thread: its number and its epoch; zeros for a thread that was never created."""

    sequence_nr: int
    epoch: int


class _Wanted(NamedTuple):
    shard_id: ShardId
    thread_id: ThreadId
    future: "asyncio.Future[Head]"


class StreamHistory:
    """Reads for all streams of a worker.

    Every method raises `shard_worker.database.connection.CONNECTION_ERRORS` when the database does not answer.
    """

    def __init__(self, pool: ReadPool, shard_of: Callable[[ThreadId], ShardId]) -> None:
        self._pool = pool
        self._shard_of = shard_of
        self._reading = asyncio.Semaphore(_AT_ONCE)
        self._looking_back = asyncio.Semaphore(1)
        """One search at a time: the pages of streams that go on need the other connection."""
        self._wanted: list[_Wanted] = []
        self._tasks = BackgroundTasks()

    async def page(self, thread_id: ThreadId, after: int, epoch: int | None) -> list[LiveEvent] | None:
        """The events that follow ``after``, in order, as many as fit a page; None when the history does not hold it.

        With an epoch, the event ``after`` must have that one.
        """
        rows = await self._fetch(
            _PAGE_SQL, self._shard_of(thread_id), ulid_uuid(thread_id), after, _PAGE_ROWS + 1, PAGE_BYTES
        )
        if after:
            if not rows or rows[0]["seq_nr"] != after or (epoch is not None and rows[0]["epoch"] != epoch):
                return None
            rows = rows[1:]
        events = [
            LiveEvent(row["seq_nr"], row["epoch"], row["event_type"], row["event_version"], row["payload"])
            for row in rows
        ]
        return events if not events or events[0].sequence_nr == after + 1 else None

    async def epoch(self, thread_id: ThreadId, sequence_nr: int) -> int | None:
        """The epoch of an event; None when the history does not hold it."""
        rows = await self._fetch(_EPOCH_SQL, self._shard_of(thread_id), ulid_uuid(thread_id), sequence_nr)
        return rows[0]["epoch"] if rows else None

    async def head(self, thread_id: ThreadId) -> Head:
        """The newest event; the reads of many threads, as after a move of their shard, are one statement."""
        future: asyncio.Future[Head] = asyncio.get_running_loop().create_future()
        self._wanted.append(_Wanted(self._shard_of(thread_id), thread_id, future))
        if len(self._wanted) == 1:
            self._tasks.spawn(self._read_heads(), name="stream-heads")
        return await future

    async def past_access(
        self, thread_id: ThreadId, account_id: AccountId, present: PastAccess, span: tuple[int, int]
    ) -> PastAccess:
        """An account's access at the first number of ``span``, from its access at the second.

        Raises `shard_worker.journal.codec.UndecodableEvent`.
        """
        first, last = span
        past, span_most = present, _SPAN
        while last > first:
            begin = max(first, last - span_most)
            try:
                rows, whole = await self._joins(_NEWEST_FIRST_SQL, thread_id, account_id, (begin, last))
            except TimeoutError:
                if span_most <= _SPAN_LEAST:
                    raise
                span_most //= 2
                continue
            for row in rows:
                event = decode(row["event_type"], row["event_version"], row["payload"])
                past = rewind(past, account_id, (event,))
                await asyncio.sleep(0)  # an event may name 1,000 accounts (`IDS_A_LIST`)
            last = begin if whole else rows[-1]["seq_nr"] - 1
        return past

    async def present_access(self, thread_id: ThreadId, account_id: AccountId, last: int) -> tuple[Roles, bool]:
        """An account's roles at an event, and whether the thread is destroyed, from the whole history before.

        Raises `shard_worker.journal.codec.UndecodableEvent`.
        """
        shard_id, uuid = self._shard_of(thread_id), ulid_uuid(thread_id)
        roles = NO_ROLES
        begin, span_most = 0, _SPAN
        while begin < last:
            end = min(last, begin + span_most)
            try:
                rows, whole = await self._joins(_OLDEST_FIRST_SQL, thread_id, account_id, (begin, end))
            except TimeoutError:
                if span_most <= _SPAN_LEAST:
                    raise
                span_most //= 2
                continue
            for row in rows:
                roles = roles_after(roles, account_id, decode(row["event_type"], row["event_version"], row["payload"]))
                await asyncio.sleep(0)  # as above
            begin = end if whole else rows[-1]["seq_nr"]
        newest = await self._fetch(_TYPE_SQL, shard_id, uuid, last)
        return roles, bool(newest) and newest[0]["event_type"] == DESTROYED_TYPE

    async def _joins(
        self, sql: str, thread_id: ThreadId, account_id: AccountId, span: tuple[int, int]
    ) -> tuple[list[asyncpg.Record], bool]:
        """Joins and leaves that name an account, after the first number of ``span`` up to the second; whether all."""
        async with self._looking_back:
            rows = await self._fetch(
                sql,
                self._shard_of(thread_id),
                ulid_uuid(thread_id),
                *span,
                sorted(PLAIN_TYPES),
                account_id.encode(),
                _JOINS_ROWS,
                _JOINS_BYTES,
            )
        size = sum([len(row["payload"]) for row in rows])
        return rows, len(rows) < _JOINS_ROWS and size < _JOINS_BYTES

    async def close(self) -> None:
        """End the reads that are under way."""
        await self._tasks.close()
        for wanted in self._wanted:
            wanted.future.cancel()

    async def _read_heads(self) -> None:
        async with self._reading:
            wanted, self._wanted = self._wanted, []
            for at in range(0, len(wanted), _HEADS_MOST):
                await self._read_some(wanted[at : at + _HEADS_MOST])

    async def _read_some(self, wanted: Sequence[_Wanted]) -> None:
        try:
            rows = await self._pool.run(
                lambda connection: connection.fetch(
                    _HEADS_SQL, [each.shard_id for each in wanted], [ulid_uuid(each.thread_id) for each in wanted]
                )
            )
        except Exception as error:  # noqa: BLE001  # whatever it was, those who wait must hear of it
            for each in wanted:
                if not each.future.done():
                    each.future.set_exception(error)
            return
        except BaseException:
            for each in wanted:
                each.future.cancel()
            raise
        for each, row in zip(wanted, rows, strict=True):
            if not each.future.done():
                each.future.set_result(Head(row["seq_nr"], row["epoch"]))

    async def _fetch(self, sql: str, *parameters: object) -> list[asyncpg.Record]:
        async def fetch(connection: Session) -> list[asyncpg.Record]:
            return await connection.fetch(sql, *parameters)

        async with self._reading:
            return await self._pool.run(fetch)
