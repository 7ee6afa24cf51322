"""Proving a journal from itself: `fsck` reads everything once or twice and names whatever cannot be.

It runs beside live workers: all it reads is one repeatable-read snapshot, it writes nothing and locks nothing.  Rows
come through server-side cursors and each thread's state is dropped when the thread ends, so memory follows the longest
thread, never the journal.  The rules are elsewhere and pure: `fsck_shard` for a shard's order, `fsck_thread` for a
thread's history.  Unlike a worker it also reads a standby, and a server with fsync off: looking does no harm.
"""

import time
from collections.abc import AsyncIterator, Callable
from itertools import groupby
from operator import itemgetter
from typing import Final

import asyncpg

from shard_worker.database.connection import DatabaseUnreachable, DatabaseUnsuitable, address_of, open_connection
from shard_worker.database.migration import SCHEMA_VERSION, SchemaTooNew
from shard_worker.database.tls import BY_DSN, Tls
from shard_worker.journal.fsck_report import Check, Finding, Report
from shard_worker.journal.fsck_shard import Claim, ShardCheck
from shard_worker.journal.fsck_thread import StoredRow, ThreadCheck

_SAY_EVERY_S: Final = 2.0
_FETCH_BYTES: Final = 4 << 20
_FETCH_ROWS: Final = 2_000

_SETTINGS_SQL: Final = """
SET LOCAL idle_in_transaction_session_timeout = '60s';
SET LOCAL cursor_tuple_fraction = 1.0;
SET LOCAL work_mem = '64MB';
SET LOCAL jit = off
"""
_META_SQL: Final = "SELECT cluster_id, shards, (SELECT max(version) FROM schema_migration) AS version FROM meta"
_ABOUT_SQL: Final = "SELECT reltuples::bigint FROM pg_class WHERE oid = 'journal'::regclass"
_SHARDS_SQL: Final = "SELECT id, epoch FROM shard ORDER BY id"
_CLAIMS_SQL: Final = "SELECT epoch, incarnation, from_seq FROM shard_epoch WHERE shard_id = $1 ORDER BY epoch"
_ORDER_SQL: Final = "SELECT shard_id, shard_seq, epoch FROM journal ORDER BY shard_id, shard_seq"
_HISTORY_SQL: Final = """
SELECT j.shard_id, j.thread_id, j.shard_seq, j.seq_nr, j.event_type, j.event_version, j.payload, j.metadata,
       j.key_hash, j.body_hash, s.state_version, s.state
  FROM journal j
  LEFT JOIN snapshot s ON s.shard_id = j.shard_id AND s.thread_id = j.thread_id AND s.seq_nr = j.seq_nr
        AND s.state_version = (SELECT max(v.state_version) FROM snapshot v
                                WHERE v.shard_id = s.shard_id AND v.thread_id = s.thread_id AND v.seq_nr = s.seq_nr)
 ORDER BY j.shard_id, j.thread_id, j.seq_nr, j.shard_seq
"""
_KEYS_TWICE_SQL: Final = """
SELECT shard_id, thread_id, array_agg(seq_nr ORDER BY seq_nr) AS seq_nrs FROM journal
 WHERE key_hash IS NOT NULL GROUP BY shard_id, thread_id, key_hash HAVING count(*) > 1
 ORDER BY shard_id, thread_id, 3
"""
# Escaped, not decoded: metadata that is damaged is a finding of its own, and must not end this statement.
_COMMANDS_TWICE_SQL: Final = """
SELECT shard_id, thread_id, array_agg(seq_nr ORDER BY seq_nr) AS seq_nrs
  FROM (SELECT shard_id, thread_id, seq_nr,
               substring(encode(metadata, 'escape') FROM '"commandId": *"([0-9a-f]+)"') AS command FROM journal) j
 WHERE command IS NOT NULL GROUP BY shard_id, thread_id, command HAVING count(*) > 1
 ORDER BY shard_id, thread_id, 3
"""
_ORPHANS_SQL: Final = """
SELECT s.shard_id, s.thread_id, s.seq_nr,
       (SELECT max(j.seq_nr) FROM journal j WHERE j.shard_id = s.shard_id AND j.thread_id = s.thread_id) AS last
  FROM snapshot s
 WHERE NOT EXISTS (SELECT FROM journal j
                    WHERE j.shard_id = s.shard_id AND j.thread_id = s.thread_id AND j.seq_nr = s.seq_nr)
 ORDER BY s.shard_id, s.thread_id
"""


async def fsck(dsn: str, *, progress: Callable[[str], None], tls: Tls = BY_DSN) -> Report:
    """Check the whole journal as of now; ``progress`` hears a sentence every two seconds, none when it is faster.

    Raises `shard_worker.database.connection.DatabaseError` when it cannot be read; what is wrong inside is never
    raised, it is in the report.
    """
    connection = await open_connection(dsn, "threadcluster-fsck", statement_s=None, tls=tls)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return await _Run(connection, progress).report()
    except asyncpg.InsufficientPrivilegeError as error:
        raise DatabaseUnsuitable(f"this login may not read the journal: {error}") from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise DatabaseUnreachable(f"Postgres at {address_of(dsn)} went away during the check: {error}") from error
    finally:
        connection.terminate()


class _Run:
    """One check, in one transaction."""

    def __init__(self, connection: asyncpg.Connection, progress: Callable[[str], None]) -> None:
        self._connection = connection
        self._progress = progress
        self._began = self._said = time.monotonic()
        self._about = 0
        self._findings: list[Finding] = []
        self._compared = 0
        self._ignored = 0

    async def report(self) -> Report:
        await self._connection.execute(_SETTINGS_SQL)
        meta = await self._meta()
        shards: int = meta["shards"]
        self._about = await self._connection.fetchval(_ABOUT_SQL)
        events = await self._check_order(shards)
        threads = await self._check_histories(shards)
        await self._check_twice(_KEYS_TWICE_SQL, Check.KEY, "the same idempotency key stands at events")
        await self._check_twice(_COMMANDS_TWICE_SQL, Check.COMMAND, "the same command stored events")
        await self._check_orphans()
        return Report(
            cluster_id=meta["cluster_id"],
            shards=shards,
            events=events,
            threads=threads,
            snapshots_compared=self._compared,
            snapshots_ignored=self._ignored,
            seconds=time.monotonic() - self._began,
            findings=tuple(self._findings),
        )

    async def _meta(self) -> asyncpg.Record:
        try:
            meta = await self._connection.fetchrow(_META_SQL)
        except asyncpg.UndefinedTableError as error:
            raise DatabaseUnsuitable("the database has no schema of a ThreadCluster: nothing to check") from error
        if meta is None:
            raise DatabaseUnsuitable("no cluster has claimed the database: nothing to check")
        if meta["version"] > SCHEMA_VERSION + 1:
            raise SchemaTooNew(f"the schema is version {meta['version']}, this release reads {SCHEMA_VERSION + 1}")
        return meta

    async def _check_order(self, shards: int) -> int:
        """Every shard along ``shard_seq``; the count of events."""
        connection, found = self._connection, self._findings.append
        epochs = {row["id"]: row["epoch"] for row in await connection.fetch(_SHARDS_SQL)}
        waiting = sorted({*range(shards), *epochs}, reverse=True)
        events = 0
        current: ShardCheck | None = None
        shard_id = -1

        async def begin(number: int) -> ShardCheck:
            claims = [Claim(*row) for row in await connection.fetch(_CLAIMS_SQL, number)]
            return ShardCheck(number, epochs.get(number), claims, found)

        async for rows in self._batches(_ORDER_SQL, "order"):
            events += len(rows)
            for number, group in groupby(rows, key=itemgetter(0)):
                if number != shard_id or current is None:
                    if current is not None:
                        current.end()
                    while waiting and waiting[-1] < number:
                        (await begin(waiting.pop())).end()  # a shard without events
                    if waiting and waiting[-1] == number:
                        waiting.pop()
                    shard_id, current = number, await begin(number)
                for _, shard_seq, epoch in group:
                    current.row(shard_seq, epoch)
        if current is not None:
            current.end()
        while waiting:
            (await begin(waiting.pop())).end()
        return events

    async def _check_histories(self, shards: int) -> int:
        """Every thread along ``seq_nr``; the count of threads."""
        threads = 0
        current: ThreadCheck | None = None
        thread: tuple[object, object] | None = None
        async for rows in self._batches(_HISTORY_SQL, "histories"):
            for key, group in groupby(rows, key=itemgetter(0, 1)):
                if key != thread or current is None:
                    self._count(current)
                    threads += 1
                    thread, current = key, ThreadCheck(key[0], key[1], shards, self._findings.append)
                for row in group:
                    current.row(StoredRow(*row[2:]))
        self._count(current)
        return threads

    def _count(self, ended: ThreadCheck | None) -> None:
        if ended is not None:
            self._compared += ended.compared
            self._ignored += ended.ignored

    async def _check_twice(self, sql: str, check: Check, what: str) -> None:
        self._say(f"looking for each {check} that stands twice")
        for row in await self._connection.fetch(sql):
            seq_nrs = row["seq_nrs"]
            self._findings.append(
                Finding(
                    check=check,
                    detail=f"{what} {', '.join(map(str, seq_nrs))}",
                    shard_id=row["shard_id"],
                    thread_id=row["thread_id"],
                    seq_nr=seq_nrs[-1],
                )
            )

    async def _check_orphans(self) -> None:
        self._say("looking for snapshots of events that are not there")
        for row in await self._connection.fetch(_ORPHANS_SQL):
            last = row["last"]
            detail = (
                "of a thread without events" if last is None else f"of an event that is not there; the last is {last}"
            )
            self._findings.append(
                Finding(
                    check=Check.SNAPSHOT,
                    detail=detail,
                    shard_id=row["shard_id"],
                    thread_id=row["thread_id"],
                    seq_nr=row["seq_nr"],
                )
            )

    async def _batches(self, sql: str, what: str) -> AsyncIterator[list[asyncpg.Record]]:
        """A cursor's rows, as many at a time as stay near `_FETCH_BYTES`: an event may hold a megabyte."""
        cursor = await self._connection.cursor(sql)
        size, done = 100, 0
        while rows := await cursor.fetch(size):
            yield rows
            done += len(rows)
            weight = sum(len(value) for row in rows for value in row if isinstance(value, bytes))
            size = max(1, min(_FETCH_ROWS, size * 2, _FETCH_BYTES * len(rows) // max(1, weight)))
            of = f" of about {self._about:,}" if self._about >= done else ""
            self._say(f"{what}: {done:,}{of} events read")

    def _say(self, sentence: str) -> None:
        now = time.monotonic()
        if now - self._said >= _SAY_EVERY_S:
            self._said = now
            self._progress(f"{sentence}, {len(self._findings)} findings so far")
