"""Inspecting one thread: its events as the journal has them, and its state at any of them.

For people who look into a thread; no actor is asked, so that a thread whose actor does not answer can be looked at too.
A state of long ago is folded from the first event.  Only one thread is folded at a time, and not longer than `FOLD_S`, so
that looking at threads takes little from those that serve.
"""

import asyncio
import contextlib
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from shard_worker.database.connection import ReadPool, Session
from shard_worker.domain.ids import ShardId
from shard_worker.domain.thread import Thread
from shard_worker.journal.codec import decode_state
from shard_worker.journal.fold import Fold, Pace
from shard_worker.journal.history_page import FROM_SNAPSHOT, FROM_START, LONG_ROWS, ThreadPage, Wanted, read_page

FOLD_S: Final = 4.0
"""Maximum time of a fold, the wait for another one included; shorter than the time that a client waits."""
_GIVE_WAY_S: Final = 0.001
"""Time that a fold waits after each slice, so that requests find the loop free."""
_EVENTS_BYTES: Final = 1 << 20
"""Maximum bytes of events in a page, but for the newest of them: one event has up to 1 MiB."""

_LAST_SQL: Final = """
SELECT coalesce((SELECT seq_nr FROM journal WHERE shard_id = $1 AND thread_id = $2 ORDER BY seq_nr DESC LIMIT 1), 0)
"""
_EVENTS_SQL: Final = """
SELECT seq_nr, shard_seq, epoch, event_type, event_version, written_at, key_hash, body_hash, payload, metadata
  FROM (SELECT j.*, sum(size) OVER (ORDER BY seq_nr DESC) - size AS later
          FROM (SELECT *, octet_length(payload) + octet_length(metadata) AS size FROM journal
                 WHERE shard_id = $1 AND thread_id = $2 AND ($3::bigint IS NULL OR seq_nr < $3)
                 ORDER BY seq_nr DESC LIMIT $4) j) e
 WHERE later < $5 ORDER BY seq_nr
"""


class EventPage(NamedTuple):
    """Some events of a thread, oldest first, and the number of its last one."""

    last: int
    rows: list[asyncpg.Record]


class StateAt(NamedTuple):
    """The state after an event; ``fault`` says why the history was not folded any further."""

    sequence_nr: int
    state: Thread | None
    fault: str | None


class ThreadInspector:
    """Reads threads on the primary.  Every method raises what asyncpg raises when the link fails."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool
        self._turn = asyncio.Lock()

    async def events(self, shard_id: ShardId, uuid: UUID, before: int | None, limit: int) -> EventPage:
        """The last ``limit`` events, or the last before the event ``before``; fewer where they are large."""

        async def read(connection: Session) -> EventPage:
            last = await connection.fetchval(_LAST_SQL, shard_id, uuid)
            return EventPage(last, await connection.fetch(_EVENTS_SQL, shard_id, uuid, before, limit, _EVENTS_BYTES))

        return await self._pool.run(read)

    async def state_at(self, shard_id: ShardId, uuid: UUID, at: int | None) -> StateAt:
        """The state after the event ``at``, or after the last."""
        fold = Fold(None, 0, 0)
        try:
            async with asyncio.timeout(FOLD_S) as limit, self._turn:
                fold, wanted = await self._begin(shard_id, uuid, at)
                while fold.sequence_nr < wanted and fold.fault is None:
                    await self._go_on(shard_id, uuid, wanted, fold)
        except TimeoutError:
            if not limit.expired():  # a statement did not end in time
                raise
            fold.fault = f"folding took longer than {FOLD_S:g} s"
        return StateAt(fold.sequence_nr, fold.state, fold.fault)

    async def _begin(self, shard_id: ShardId, uuid: UUID, at: int | None) -> tuple[Fold, int]:
        """The fold up to the snapshot, where that helps, and the event to fold to."""
        page = await self._page(shard_id, uuid, FROM_SNAPSHOT)
        wanted = page.last if at is None else min(at, page.last)
        if page.state is not None and page.state_version is not None and page.start <= wanted:
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):  # a cache: the events say the same
                return Fold(decode_state(page.state, page.state_version), page.start, page.start), wanted
        return Fold(None, 0, 0), wanted

    async def _go_on(self, shard_id: ShardId, uuid: UUID, wanted: int, fold: Fold) -> None:
        page = await self._page(shard_id, uuid, fold.sequence_nr or FROM_START)
        rows = [row for row in page.rows if row["seq_nr"] <= wanted]
        if not rows:
            fold.fault = f"event {fold.sequence_nr + 1} is missing"
        await fold.run(rows, Pace(lambda: _GIVE_WAY_S))

    async def _page(self, shard_id: ShardId, uuid: UUID, after: int) -> ThreadPage:
        (page,) = await self._pool.run(
            lambda connection: read_page(connection, [Wanted(shard_id, uuid, after)], rows_each=LONG_ROWS)
        )
        return page
