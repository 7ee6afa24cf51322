"""Reading the texts of many pages of messages by one statement, as the loader reads many threads.

Pages that are asked for while a statement runs join the next one: under load a page costs a part of a round trip, and no task,
future or time-out of its own.  Where a message is, its thread's state says.  A page with a place that turns out to be wrong, or
whose size is not known, and every page of a statement that failed are left to the reader of single pages
(`shard_worker.journal.message_reader`), which finds out why, and tries again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from shard_worker.database.connection import CONNECTION_ERRORS, ReadPool, Session
from shard_worker.domain.events import PostedMessage
from shard_worker.domain.ids import MessageId, ShardId
from shard_worker.domain.thread import LiveMessage
from shard_worker.journal.codec import EVENT_VERSIONS
from shard_worker.journal.message_reader import ADDED, messages_of
from shard_worker.tasks import BackgroundTasks

log = logging.getLogger(__name__)

_GROUP_MESSAGES: Final = 1_000
"""Maximum messages that one statement reads, but for its last page: a few milliseconds of the server."""
_GROUP_BYTES: Final = 1 << 20
"""The same of their bytes."""
_AT_ONCE: Final = 2
"""Maximum of statements at a time: one runs while the pages of another are made."""
_TURN_MESSAGES: Final = 200
"""Messages after which the making of pages lets the loop turn."""

# One array of slices in the order of the messages: rows of their own would cost this side most of the time.
_SLICES_SQL: Final = """
SELECT array_agg(j.part ORDER BY w.ord)
  FROM unnest($3::int[], $4::bigint[], $5::int[], $6::int[]) WITH ORDINALITY AS w (page, seq_nr, start, size, ord)
  LEFT JOIN LATERAL (
       SELECT substring(payload FROM w.start + 1 FOR w.size) AS part FROM journal
        WHERE shard_id = ($1::int[])[w.page] AND thread_id = ($2::uuid[])[w.page] AND seq_nr = w.seq_nr
          AND event_type = $7 AND event_version = $8) j ON true
"""


Listed = Sequence[tuple[MessageId, LiveMessage]]
"""Messages of a page, as the thread's state has them."""


class OnPage(Protocol):
    """Takes the messages of a page, in the order in which they were listed; None when the page is to be read by itself.  Must not raise."""

    def __call__(self, messages: list[PostedMessage] | None, /) -> None: ...


class ReadPage(Protocol):
    """Read a page with others; see `PageReader.read`."""

    def __call__(
        self,
        shard_id: ShardId,
        thread_uuid: UUID,
        listed: Listed,
        wanted: Callable[[], bool],
        on_page: OnPage,
    ) -> None: ...


class _Page(NamedTuple):
    shard_id: ShardId
    thread_uuid: UUID
    listed: Listed
    wanted: Callable[[], bool]
    on_page: OnPage


class PageReader:
    """Reads pages on the primary, in groups."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Page] = deque()
        self._groups = 0
        """Statements that run."""
        self._begins = False
        """Whether the next group is about to begin, in the next turn of the loop."""
        self._tasks = BackgroundTasks()
        self._closed = False
        self.pages = 0
        """Pages that were read, since the start."""
        self.statements = 0

    def read(
        self,
        shard_id: ShardId,
        thread_uuid: UUID,
        listed: Listed,
        wanted: Callable[[], bool],
        on_page: OnPage,
    ) -> None:
        """Read the texts of these messages, and call ``on_page`` once, unless the page is not ``wanted`` any more."""
        self._waiting.append(_Page(shard_id, thread_uuid, listed, wanted, on_page))
        if not self._begins:
            self._begins = True
            self._loop.call_soon(self._begin)

    async def close(self) -> None:
        """End what runs; the pages that wait are not read."""
        self._closed = True
        self._waiting.clear()
        await self._tasks.close()

    def _begin(self) -> None:
        self._begins = False
        while self._waiting and self._groups < _AT_ONCE and not self._closed:
            group = self._take()
            if group:
                self._groups += 1
                self._tasks.spawn(self._run(group), name="read-pages", on_end=partial(self._ended, group))

    def _take(self) -> list[_Page]:
        group: list[_Page] = []
        messages = size = 0
        while self._waiting and messages < _GROUP_MESSAGES and size < _GROUP_BYTES:
            page = self._waiting.popleft()
            if not page.wanted():
                continue
            sizes = [live.size for _, live in page.listed]
            if 0 in sizes:
                page.on_page(None)
                continue
            group.append(page)
            messages += len(sizes)
            size += sum(sizes)
        return group

    def _ended(self, group: list[_Page], task: "asyncio.Task[None]") -> None:
        self._groups -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("reader of pages failed; each is read by itself", exc_info=error)
            for page in group:
                page.on_page(None)
        self._begin()

    async def _run(self, group: list[_Page]) -> None:
        try:
            parts = await self._pool.run(partial(_read_slices, group))
        except CONNECTION_ERRORS as error:
            log.warning("pages not read together; each is read by itself", extra={"cause": repr(error)})
            for page in group:
                page.on_page(None)
            return
        self.statements += 1
        self.pages += len(group)
        first = turned_at = 0
        while group:
            page = group[0]
            end = first + len(page.listed)
            page.on_page(messages_of([message_id for message_id, _ in page.listed], parts[first:end]))
            del group[0]  # not before: one that fails is read by itself, like those behind it
            first = end
            if group and first - turned_at >= _TURN_MESSAGES:
                turned_at = first
                await asyncio.sleep(0)


async def _read_slices(group: Sequence[_Page], connection: Session) -> list[bytes | None]:
    found: list[bytes | None] = await connection.fetchval(
        _SLICES_SQL,
        [page.shard_id for page in group],
        [page.thread_uuid for page in group],
        [number for number, page in enumerate(group, start=1) for _ in page.listed],
        [live.sequence_nr for page in group for _, live in page.listed],
        [live.offset for page in group for _, live in page.listed],
        [live.size for page in group for _, live in page.listed],
        ADDED,
        EVENT_VERSIONS[ADDED],
    )
    return found
