"""Proving a journal from itself: `fsck` reads everything once or twice and names whatever cannot be.

It runs beside live workers, writes nothing and locks nothing.  It goes shard by shard, in pages that are transactions of
their own (`fsck_pages`), and checks each shard up to the head that it had when its turn came.  Each thread's state is
dropped when the thread ends, so memory follows the longest thread, never the journal.  The rules are elsewhere and pure:
`fsck_shard` for a shard's order, `fsck_thread` for a thread's history.  Unlike a worker it also reads a standby, and a
server with fsync off: looking does no harm.
"""

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final
from uuid import UUID

import asyncpg

from shard_worker.database.connection import DatabaseUnreachable, DatabaseUnsuitable, address_of, open_connection
from shard_worker.database.migration import SchemaTooNew
from shard_worker.database.migration_files import SCHEMA_VERSION
from shard_worker.database.tls import BY_DSN, Tls
from shard_worker.journal.fsck.pages import Frame, Pages
from shard_worker.journal.fsck.position import NOTHING, Position, Proved
from shard_worker.journal.fsck.report import Check, Finding, Report
from shard_worker.journal.fsck.shard import ShardCheck
from shard_worker.journal.fsck.thread import StoredRow, ThreadCheck

_SAY_EVERY_S: Final = 2.0

_META_SQL: Final = "SELECT cluster_id, shards, (SELECT max(version) FROM schema_migration) AS version FROM meta"
_ABOUT_SQL: Final = "SELECT reltuples::bigint FROM pg_class WHERE oid = 'journal'::regclass"


async def fsck(dsn: str, *, progress: Callable[[str], None], tls: Tls = BY_DSN, since: Path | None = None) -> Report:
    """Check the whole journal as of now; ``progress`` hears a sentence every two seconds, none when it is faster.

    With ``since``, a file that earlier checks have written, go on from what those proved, and keep there what is proved
    now (`fsck_position`).  Raises `shard_worker.database.connection.DatabaseError` when it cannot be read; what is wrong
    inside is never raised, it is in the report.
    """
    connection = await open_connection(dsn, "threadcluster-fsck", statement_s=None, tls=tls)
    try:
        return await _Run(Pages(connection), progress).report(since)
    except asyncpg.InsufficientPrivilegeError as error:
        raise DatabaseUnsuitable(f"this login may not read the journal: {error}") from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise DatabaseUnreachable(f"Postgres at {address_of(dsn)} went away during the check: {error}") from error
    finally:
        connection.terminate()


class _Run:
    """One check."""

    def __init__(self, pages: Pages, progress: Callable[[str], None]) -> None:
        self._pages = pages
        self._progress = progress
        self._began = self._reported = time.monotonic()
        self._about = 0
        self._findings: list[Finding] = []
        self._shards = 0
        self._events = 0
        self._read = 0
        self._threads = 0
        self._proved = 0
        self._compared = 0
        self._ignored = 0

    async def report(self, since: Path | None) -> Report:
        await self._pages.begin()
        meta = await self._meta()
        self._shards = meta["shards"]
        position = Position.read(meta["cluster_id"], since)
        ((self._about,),) = await self._pages.fetch(_ABOUT_SQL)
        for shard_id in sorted({*range(self._shards), *await self._pages.shard_ids()}):
            before = len(self._findings)
            proved = await self._check_shard(shard_id, position.proved(shard_id))
            if len(self._findings) == before:
                position.set(shard_id, proved)
        return Report(
            cluster_id=meta["cluster_id"],
            shards=self._shards,
            events=self._events,
            proved_before=self._proved,
            threads=self._threads,
            snapshots_compared=self._compared,
            snapshots_ignored=self._ignored,
            seconds=time.monotonic() - self._began,
            longest_transaction_s=self._pages.longest_s,
            findings=tuple(self._findings),
        )

    async def _meta(self) -> asyncpg.Record:
        try:
            metas = await self._pages.fetch(_META_SQL)
        except asyncpg.UndefinedTableError as error:
            raise DatabaseUnsuitable("the database has no schema of a ThreadCluster: nothing to check") from error
        if not metas:
            raise DatabaseUnsuitable("no cluster has claimed the database: nothing to check")
        if (metas[0]["version"] or 0) > SCHEMA_VERSION + 1:
            raise SchemaTooNew(f"the schema is version {metas[0]['version']}, this release reads {SCHEMA_VERSION + 1}")
        return metas[0]

    async def _check_shard(self, shard_id: int, since: Proved) -> Proved:
        """Everything about one shard; the last event that was read."""
        frame = await self._pages.frame(shard_id)
        since = await self._still_there(shard_id, frame, since)
        self._proved += since.shard_seq
        last, touched = await self._check_order(shard_id, frame, since)
        await self._check_histories(shard_id, frame, touched)
        await self._check_orphans(shard_id)
        return last

    async def _still_there(self, shard_id: int, frame: Frame, since: Proved) -> Proved:
        """``since``, or from the beginning when what was proved is no longer so."""
        if since == NOTHING:
            return since
        if await self._pages.event_at(shard_id, since.shard_seq) == [since[1:]]:
            return since
        ends = f"; the journal ends at {frame.head}" if frame.head < since.shard_seq else ""
        self._findings.append(
            Finding(
                check=Check.SHARD_SEQ,
                detail=f"the event that was proved here is gone, or is another{ends}",
                shard_id=shard_id,
                shard_seq=since.shard_seq,
                epoch=since.epoch,
            )
        )
        return NOTHING

    async def _check_order(self, shard_id: int, frame: Frame, since: Proved) -> tuple[Proved, set[UUID] | None]:
        """The shard along ``shard_seq``; the last event, and the threads to be read, where those are not all."""
        check = ShardCheck(shard_id, frame.epoch, frame.claims, self._findings.append, since.shard_seq, since.epoch)
        last, touched = since, None if since == NOTHING else set[UUID]()
        async for rows in self._pages.order(shard_id, since.shard_seq, frame.head):
            for row in rows:
                check.row(row.shard_seq, row.epoch)
            last = Proved(rows[-1].shard_seq, rows[-1].epoch, rows[-1].thread_id, rows[-1].seq_nr)
            if touched is not None:
                touched.update([row.thread_id for row in rows])
            self._events += len(rows)
            self._say("order", self._events)
        check.end()
        return last, touched

    async def _check_histories(self, shard_id: int, frame: Frame, touched: set[UUID] | None) -> None:
        """Threads along ``seq_nr``: all of the shard, or those that are given."""
        if touched is None:
            await self._check_threads(shard_id, self._pages.histories(shard_id, frame.head))
            return
        for thread_id in sorted(touched):
            await self._check_threads(shard_id, self._pages.histories(shard_id, frame.head, thread_id, thread_id))

    async def _check_threads(self, shard_id: int, pages: AsyncIterator[list[tuple[UUID, StoredRow]]]) -> None:
        current: ThreadCheck | None = None
        thread: UUID | None = None
        async for rows in pages:
            for thread_id, row in rows:
                if current is None or thread_id != thread:
                    self._end(current)
                    thread, current = thread_id, ThreadCheck(shard_id, thread_id, self._shards, self._findings.append)
                current.row(row)
            self._read += len(rows)
            self._say("histories", self._read)
        self._end(current)

    def _end(self, ended: ThreadCheck | None) -> None:
        if ended is not None:
            ended.end()
            self._threads += 1
            self._compared += ended.compared
            self._ignored += ended.ignored

    async def _check_orphans(self, shard_id: int) -> None:
        async for orphan in self._pages.orphans(shard_id):
            last = orphan.last
            detail = (
                "of a thread without events" if last is None else f"of an event that is not there; the last is {last}"
            )
            self._findings.append(
                Finding(
                    check=Check.SNAPSHOT,
                    detail=detail,
                    shard_id=shard_id,
                    thread_id=orphan.thread_id,
                    seq_nr=orphan.seq_nr,
                )
            )

    def _say(self, what: str, done: int) -> None:
        now = time.monotonic()
        if now - self._reported >= _SAY_EVERY_S:
            self._reported = now
            of = f" of about {self._about:,}" if self._about >= done else ""
            self._progress(f"{what}: {done:,}{of} events read, {len(self._findings)} findings so far")
