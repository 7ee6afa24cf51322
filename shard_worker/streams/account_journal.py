"""Reads for the streams of accounts: what is new in the journal, and which threads an account could read.

All reads go to the primary.  Each is bounded in rows, and what carries payloads in bytes.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from shard_worker.database.connection import ReadPool, Session
from shard_worker.domain.ids import AccountId, ThreadId, ulid_text, ulid_uuid
from shard_worker.journal.codec import decode
from shard_worker.journal.settled import Mark, first_unprojected, read_mark
from shard_worker.streams.access import DESTROYED_TYPE, NO_ROLES, PLAIN_TYPES, Roles, roles_after

SHARD_ROWS: Final = 256
"""Rows of one shard in one read of what is new."""
_SWEEP_ROWS: Final = 4_096
_PAYLOAD_BYTES: Final = 1 << 20
"""Bytes of payloads in one read, but for the first."""
_ACCOUNT_ROWS: Final = 1_000
_SPAN: Final = 20_000
"""Events of a shard that one statement passes over where the read model is behind."""
_READ_S: Final = 5.0

_HEADS_SQL: Final = """
SELECT s.id AS shard_id, coalesce((SELECT max(j.shard_seq) FROM journal j WHERE j.shard_id = s.id), 0) AS head FROM shard s
"""
_NEW_SQL: Final = """
SELECT (SELECT coalesce(generation, '') FROM meta) AS generation, j.*
  FROM unnest($1::int[], $2::bigint[]) AS w (shard_id, head)
 CROSS JOIN LATERAL (
       SELECT shard_id, shard_seq, thread_id, seq_nr, epoch, event_type, event_version, octet_length(payload) AS size
         FROM journal WHERE journal.shard_id = w.shard_id AND journal.shard_seq > w.head
        ORDER BY shard_seq LIMIT $3) AS j
 LIMIT $4
"""
_PAYLOADS_SQL: Final = """
SELECT w.ord, j.payload
  FROM unnest($1::int[], $2::bigint[]) WITH ORDINALITY AS w (shard_id, shard_seq, ord)
  JOIN journal j ON j.shard_id = w.shard_id AND j.shard_seq = w.shard_seq
"""
_LIVE_SQL: Final = "SELECT generation FROM readmodel_generation WHERE live"
_OFFSETS_SQL: Final = """
SELECT s.id AS shard_id, coalesce(o.seq, 0) AS seq
  FROM shard s LEFT JOIN projection_offset o ON o.shard_id = s.id AND o.generation = $1
"""
_THREADS_SQL: Final = """
SELECT t.thread_id, t.shard_id, t.sequence_nr, a.administrator, a.member, a.until_nr,
       t.destroyed_at IS NOT NULL AS destroyed, t.newest_xid::text AS xid, d.thread_id IS NOT NULL AS poisoned
  FROM {place}.thread_account a JOIN {place}.thread t USING (thread_id)
  LEFT JOIN dead_letter d ON d.generation = {generation} AND d.thread_id = a.thread_id
 WHERE a.account_id = $1 AND ($2::uuid IS NULL OR a.thread_id > $2)
 ORDER BY a.thread_id LIMIT $3
"""
_BEHIND_SQL: Final = """
SELECT thread_id, max(seq_nr) AS seq_nr, max(coalesce(xid::text::bigint, 0)) AS xid, bool_or(event_type = $4) AS destroyed
  FROM journal WHERE shard_id = $1 AND shard_seq > $2 AND shard_seq <= $3 GROUP BY thread_id
"""
_BEHIND_JOINS_SQL: Final = """
SELECT thread_id, seq_nr, event_type, event_version, payload FROM journal
 WHERE shard_id = $1 AND shard_seq > $2 AND shard_seq <= $3
   AND event_type <> ALL($4::smallint[]) AND position($5::bytea IN payload) > 0
 ORDER BY shard_seq
"""
# A thread's transaction ids rise with its numbers, so its newest events are read until one is older.
_FIRST_SQL: Final = """
SELECT min(seq_nr) AS least, count(*) AS count, min(seq_nr) FILTER (WHERE xid >= $5 AND shard_seq > $6) AS first,
       bool_or(xid < $5 OR shard_seq <= $6) AS older
  FROM (SELECT seq_nr, coalesce(xid::text::bigint, 0) AS xid, shard_seq FROM journal
         WHERE shard_id = $1 AND thread_id = $2 AND seq_nr <= $3
         ORDER BY seq_nr DESC LIMIT $4) newest
"""
_FIRST_ROWS: Final = 5_000


class TailEvent:
    """A durable event; ``payload`` is None until it is needed, ``frame`` until a stream shows it."""

    __slots__ = (
        "epoch",
        "event_type",
        "event_version",
        "frame",
        "payload",
        "sequence_nr",
        "shard_id",
        "shard_seq",
        "size",
        "uuid",
    )

    def __init__(self, row: asyncpg.Record) -> None:
        self.shard_id: int = row["shard_id"]
        self.shard_seq: int = row["shard_seq"]
        self.uuid: UUID = row["thread_id"]
        self.sequence_nr: int = row["seq_nr"]
        self.epoch: int = row["epoch"]
        self.event_type: int = row["event_type"]
        self.event_version: int = row["event_version"]
        self.size: int = row["size"]
        self.payload: bytes | None = None
        self.frame: bytes | None = None

    @property
    def thread_id(self) -> ThreadId:
        """The thread."""
        return ThreadId(ulid_text(self.uuid.bytes))

    @property
    def plain(self) -> bool:
        """Whether it changes no access."""
        return self.event_type in PLAIN_TYPES


class NewEvents(NamedTuple):
    """The outcome of a read of the journal behind some heads."""

    generation: str | None
    """The history of the database that it was read from; None where nothing was found."""
    events: list[TailEvent]
    """Each shard's in their order."""
    more: bool


class ReadThread(NamedTuple):
    """A thread that an account can read, or could, as of the event ``sequence_nr``."""

    uuid: UUID
    shard_id: int
    sequence_nr: int
    """The newest event that the account may see; the event that ended its access, where it has ended."""
    roles: Roles
    """After that event."""
    xid: int
    """Of the thread's newest event, which may be later; 0 for one from before transaction ids were kept."""
    destroyed: bool
    poisoned: bool
    """Whether the read model could not read one of its events."""

    @property
    def thread_id(self) -> ThreadId:
        """The thread."""
        return ThreadId(ulid_text(self.uuid.bytes))


class AccountJournal:
    """Every method raises `shard_worker.database.connection.CONNECTION_ERRORS` when the database does not answer."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool

    async def mark(self) -> Mark:
        """The mark of now."""
        return await self._pool.run(read_mark)

    async def heads(self) -> dict[int, int]:
        """The newest event of each shard."""
        rows = await self._fetch(_HEADS_SQL)
        return {row["shard_id"]: row["head"] for row in rows}

    async def new_events(self, heads: Mapping[int, int]) -> NewEvents:
        """The events behind these heads, without payloads; not all of them where they are many."""
        rows = await self._fetch(_NEW_SQL, list(heads), list(heads.values()), SHARD_ROWS, _SWEEP_ROWS)
        counts: dict[int, int] = {}
        for row in rows:
            counts[row["shard_id"]] = counts.get(row["shard_id"], 0) + 1
        more = len(rows) == _SWEEP_ROWS or SHARD_ROWS in counts.values()
        return NewEvents(rows[0]["generation"] if rows else None, [TailEvent(row) for row in rows], more)

    async def read_payloads(self, events: Sequence[TailEvent]) -> None:
        """Read the payloads of events that lack them."""
        lacking = [event for event in events if event.payload is None]
        at = 0
        while at < len(lacking):
            end, size = at, 0
            while end < len(lacking) and (end == at or size + lacking[end].size <= _PAYLOAD_BYTES):
                size += lacking[end].size
                end += 1
            part = lacking[at:end]
            for row in await self._fetch(
                _PAYLOADS_SQL, [each.shard_id for each in part], [each.shard_seq for each in part]
            ):
                part[row["ord"] - 1].payload = row["payload"]
            if any(each.payload is None for each in part):
                # The history changed between two statements: the next mark shows it.
                raise ConnectionError("events that were read are not in the journal any more")
            at = end

    async def offsets(self) -> dict[int, int]:
        """How far the read model is, by shard."""

        async def read(connection: Session) -> list[asyncpg.Record]:
            return await connection.fetch(_OFFSETS_SQL, await connection.fetchval(_LIVE_SQL))

        return {row["shard_id"]: row["seq"] for row in await self._pool.run(read)}

    async def unprojected(self) -> int | None:
        """The least transaction id of events that a list of threads may lack; None where it lacks none."""

        async def read(connection: Session) -> int | None:
            return await first_unprojected(connection, await connection.fetchval(_LIVE_SQL))

        return await self._pool.run(read, within_s=_READ_S)

    async def threads(self, account_id: AccountId, heads: Mapping[int, int]) -> list[ReadThread]:
        """The threads that an account can or could read, each at least as of ``heads``; see `ReadThread`.

        Where the read model is behind them, the journal is read.  Raises `shard_worker.journal.codec.UndecodableEvent`.
        """
        uuid = ulid_uuid(account_id)

        async def read(connection: Session) -> tuple[dict[int, int], list[ReadThread]]:
            found: list[ReadThread] = []
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                generation = await connection.fetchval(_LIVE_SQL)
                offsets = {row["shard_id"]: row["seq"] for row in await connection.fetch(_OFFSETS_SQL, generation)}
                sql = _THREADS_SQL.format(place=f"readmodel_{generation:d}", generation=generation)
                after: UUID | None = None
                while True:
                    rows = await connection.fetch(sql, uuid, after, _ACCOUNT_ROWS)
                    found += map(_read_thread, rows)
                    if len(rows) < _ACCOUNT_ROWS:
                        return offsets, found
                    after = rows[-1]["thread_id"]

        offsets, found = await self._pool.run(read, within_s=_READ_S)
        threads = {thread.uuid: thread for thread in found}
        for shard_id, head in heads.items():
            offset = offsets.get(shard_id, 0)
            if offset < head:
                await self._read_behind(account_id, threads, shard_id, offset, head)
        return list(threads.values())

    async def first_since(self, thread: ReadThread, xid: int, after_seq: int, up_to: int) -> int | None:
        """The first event of a thread with a transaction id not below ``xid``, behind ``after_seq`` of its shard; None without."""
        first: int | None = None
        last = up_to
        while last > 0:
            row = (await self._fetch(_FIRST_SQL, thread.shard_id, thread.uuid, last, _FIRST_ROWS, xid, after_seq))[0]
            first = row["first"] or first
            if row["older"] or row["count"] < _FIRST_ROWS:
                break
            last = row["least"] - 1
        return first

    async def _read_behind(
        self, account_id: AccountId, threads: dict[UUID, ReadThread], shard_id: int, offset: int, head: int
    ) -> None:
        """Bring the threads of one shard from the read model's offset to ``head``."""
        for begin in range(offset, head, _SPAN):
            end = min(head, begin + _SPAN)
            joins: dict[UUID, list[asyncpg.Record]] = {}
            for row in await self._fetch(
                _BEHIND_JOINS_SQL, shard_id, begin, end, sorted(PLAIN_TYPES), account_id.encode()
            ):
                joins.setdefault(row["thread_id"], []).append(row)
            for row in await self._fetch(_BEHIND_SQL, shard_id, begin, end, DESTROYED_TYPE):
                uuid = row["thread_id"]
                named = joins.get(uuid, [])
                known = threads.get(uuid)
                if known is None:
                    if not named:
                        continue
                    known = ReadThread(uuid, shard_id, 0, NO_ROLES, 0, False, False)
                threads[uuid] = await _advance(known, account_id, row, named)

    async def _fetch(self, sql: str, *parameters: object) -> list[asyncpg.Record]:
        async def fetch(connection: Session) -> list[asyncpg.Record]:
            return await connection.fetch(sql, *parameters)

        return await self._pool.run(fetch, within_s=_READ_S)


async def _advance(
    thread: ReadThread, account_id: AccountId, newest: asyncpg.Record, named: Sequence[asyncpg.Record]
) -> ReadThread:
    """A thread some events later: the newest of them, and those that name the account."""
    roles, last = thread.roles, thread.sequence_nr
    for row in named:
        roles = roles_after(roles, account_id, decode(row["event_type"], row["event_version"], row["payload"]))
        last = row["seq_nr"]
        await asyncio.sleep(0)  # an event may name ten thousand accounts
    if roles.reader:
        last = newest["seq_nr"]
    destroyed = roles.reader and (thread.destroyed or newest["destroyed"])
    return thread._replace(sequence_nr=last, roles=roles, xid=max(thread.xid, newest["xid"]), destroyed=destroyed)


def _read_thread(row: asyncpg.Record) -> ReadThread:
    until = row["until_nr"]
    roles = NO_ROLES if until is not None else Roles(row["administrator"], row["member"])
    return ReadThread(
        row["thread_id"],
        row["shard_id"],
        row["sequence_nr"] if until is None else until,
        roles,
        int(row["xid"] or 0),
        row["destroyed"] and until is None,
        row["poisoned"],
    )
