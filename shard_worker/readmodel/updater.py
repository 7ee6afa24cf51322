"""The read-model updater: projects the journal of the shards that this worker owns, and of no others.

One task serves all shards of the worker and all generations of the read model.  An append wakes it; a timer looks after every interval
too, so that a lost wake-up costs an interval and not a projection.  Neither moves a position: what is projected is what the journal
holds behind the offset that the batch's own transaction has locked (`shard_worker.readmodel.feed`), so that a crash, a takeover or a
handoff between any two steps applies each event once.  A wake-up brings the rows that were stored, which spares their reading
(`shard_worker.readmodel.recent_rows`).
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

import asyncpg

from shard_worker.contract_internal import ReadModelOverview
from shard_worker.database.binary_arrays import use_binary_arrays
from shard_worker.database.connection import CONNECTION_ERRORS, OpenConnection
from shard_worker.database.planning import BY_INDEX, set_up_statements
from shard_worker.database.reconnecting import Backoff
from shard_worker.domain.ids import ShardId
from shard_worker.journal import codec
from shard_worker.journal.append_queue import Row
from shard_worker.readmodel.feed import Decode, GenerationFeed, UpdaterMetrics
from shard_worker.readmodel.overview import read_overview
from shard_worker.readmodel.pace import Left, Pace
from shard_worker.readmodel.recent_rows import RecentRows
from shard_worker.readmodel.rules import RULES, versions
from shard_worker.readmodel.tables import GenerationTables
from shard_worker.tasks import BackgroundTasks, OnFailure, log_only

log = logging.getLogger(__name__)

_POLL_S: Final = 0.5
"""Longest time for which a projection may lag because a wake-up was lost."""
_REFRESH_S: Final = 2.0
"""How often the generations that are to be fed are read again; a rebuild waits for every worker that long."""
_REFRESH_WITHIN_S: Final = 10.0
_AGAIN_S: Final = 1.0
"""Shortest time to the next session after one was lost."""
_SET_UP: Final = set_up_statements({**BY_INDEX, "plan_cache_mode": "force_generic_plan"})
_BATCHES_AT_ONCE: Final = 4
"""Batches of a generation in a row: one that is being rebuilt must not hold up the one that answers queries."""
_GENERATIONS: Final = (
    "SELECT generation, version, rate::float8 / (SELECT shards FROM meta) AS shard_rate FROM readmodel_generation"
    " WHERE version = ANY($1::int[]) ORDER BY generation"
)


class ReadModelUpdater:
    """Feeds the generations of the read model from the journal of this worker's shards.

    `open_shard` and `close_shard` follow the ownership of shards, `advance` follows their appends; all three are called on the event
    loop, and none of them waits.
    """

    def __init__(
        self, connect: OpenConnection, *, decode: Decode = codec.decode, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connect = connect
        self._decode = decode
        self._clock = clock
        self._heads: dict[int, int] = {}
        """By owned shard: the last event known to be durable."""
        self._appended = 0
        """Events that this worker appended since its start."""
        self._recent = RecentRows()
        self._following = False
        """Whether there is a session that takes ready-made arrays, so that rows are kept for it."""
        self._woken = False
        """Whether a shard may have events that were not looked for."""
        self._feeds: dict[int, GenerationFeed] = {}
        self._wake: asyncio.Future[None] | None = None
        self._binary = True
        """Whether arrays are encoded by this worker, as far as is known to work."""
        self._tasks = BackgroundTasks()
        self.metrics = UpdaterMetrics()
        self.overview = ReadModelOverview()
        """The read model over all shards of the cluster, as last read; while the database is away it stays as it was."""

    # --- what the worker owns

    def open_shard(self, shard_id: ShardId, head: int) -> None:
        """Project a shard from now on; its events up to ``head`` are durable."""
        self._heads[shard_id] = head
        self._recent.forget(shard_id)
        for feed in self._feeds.values():
            feed.add(shard_id)
        self._notify(shard_id)

    def close_shard(self, shard_id: ShardId) -> None:
        """Leave a shard to its next owner.  A batch that is under way may still be stored: the offset's lock orders the two."""
        self._heads.pop(shard_id, None)
        self._recent.forget(shard_id)
        for feed in self._feeds.values():
            feed.remove(shard_id)

    def advance(
        self, shard_id: ShardId, head: int, rows: Sequence[Row] = (), epoch: int = 0, xid: int | None = None
    ) -> None:
        """The events of a shard up to ``head`` are durable; ``rows`` are the last, stored at ``epoch`` by ``xid``.

        Where the transaction is not known the rows are read from the journal.
        """
        if shard_id in self._heads:
            self._heads[shard_id] = head
            self._appended += len(rows)
            if xid is not None and rows and self._following:
                self._recent.add(shard_id, head, rows, epoch, xid)
            self._notify(shard_id)

    def _notify(self, shard_id: int) -> None:
        for feed in self._feeds.values():
            feed.notify(shard_id)
        self._woken = True
        wake = self._wake
        if wake is not None:
            self._wake = None
            if not wake.done():
                wake.set_result(None)

    # --- what is known of it

    def lag(self) -> int:
        """Events of owned shards that the slowest generation has not projected."""
        return max((feed.lag(self._heads) for feed in self._feeds.values()), default=sum(self._heads.values()))

    def dead_threads(self) -> set[UUID]:
        """The threads of owned shards whose projection has stopped, as last seen."""
        return {
            thread_id
            for feed in self._feeds.values()
            for projection in feed.projections.values()
            for thread_id in projection.dead
        }

    # --- the task

    def start(self, on_failure: OnFailure = log_only) -> None:
        """Start the updater; it connects at once, and again however often the database goes away."""
        self._tasks.on_failure = on_failure
        self._tasks.start(self._run(), name="read-model")

    async def close(self) -> None:
        """Stop; a batch that is under way is given up with its connection, and the next owner projects it."""
        await self._tasks.close()

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            connection = await self._connect("read-model")
            try:
                await self._follow(connection, backoff)
            except CONNECTION_ERRORS as error:
                self.metrics.failures += 1
                log.warning("read model lost its connection", extra={"cause": repr(error)})
                # Its session may wait: those of the lease and the appends were lost at the same moment, and opening one costs
                # the loop and the server some milliseconds each.
                await asyncio.sleep(_AGAIN_S + backoff.next_s())
            finally:
                self._following = False
                self._recent.clear()
                connection.terminate()

    async def _follow(self, connection: asyncpg.Connection, backoff: Backoff) -> None:
        """Project until the connection fails."""
        if self._binary and not await use_binary_arrays(connection):
            self._binary = False
            log.warning("client library takes no ready-made arrays; the read model costs more")
            return
        await connection.execute(_SET_UP)
        # After the session was opened: it ended those of an older history, and nothing is appended to that any more.
        self._recent.clear()
        self._following = self._binary
        for feed in self._feeds.values():
            feed.forget_positions()
            feed.takes_arrays = self._following
        self._woken = True
        refreshed_at = missed_at = looked_at = self._clock() - _REFRESH_S
        pace, pause_s = Pace(lambda: self._appended), 0.0
        while True:
            if self._clock() - refreshed_at >= _REFRESH_S:
                async with asyncio.timeout(_REFRESH_WITHIN_S):
                    await self._refresh(connection)
                refreshed_at = self._clock()
            await self._wait()
            early_s = looked_at + pause_s - self._clock()
            if early_s > 0:
                await asyncio.sleep(early_s)
            looked_at = self._clock()
            if looked_at - missed_at >= _POLL_S:
                self._notify_missed()
                missed_at = looked_at
            # Before the look: an event that becomes durable during it wakes the updater again.
            self._woken = False
            turn, left = pace.next(), Left.NOTHING
            for feed in list(self._feeds.values()):
                # One that has more comes back when the other generations had their turn.
                batches = self.metrics.batches
                left = max(left, await feed.catch_up(connection, self._heads, _BATCHES_AT_ONCE, turn))
                if self.metrics.batches > batches:
                    turn = pace.after_batch(turn)
            self._woken |= left > Left.NOTHING
            pause_s = turn.pause_s(self._clock() - looked_at, left)
            backoff.reset()

    async def _wait(self) -> None:
        """Return when an append woke the updater, or when its interval is over."""
        if self._woken:
            return
        # No await between the check and the future: `_notify` cannot run in between.
        wake = self._wake = asyncio.get_running_loop().create_future()
        await asyncio.wait((wake,), timeout=_POLL_S)
        self._wake = None

    def _notify_missed(self) -> None:
        """Look at all shards: the interval of the timer is over."""
        missed = sum(feed.notify_missed(self._heads) for feed in self._feeds.values())
        if missed:
            self.metrics.found_by_timer += 1
            log.warning("read model found events of which no wake-up came", extra={"shards": missed})

    async def _refresh(self, connection: asyncpg.Connection) -> None:
        """Feed the generations that this release's rules fill, and no others; and read the overview again."""
        self.overview = await read_overview(connection)
        rows = await connection.fetch(_GENERATIONS, versions())
        wanted = {row["generation"]: row["version"] for row in rows}
        for generation in set(self._feeds) - set(wanted):
            del self._feeds[generation]
        for generation, version in wanted.items():
            if generation not in self._feeds:
                feed = self._feeds[generation] = GenerationFeed(
                    GenerationTables(generation, RULES[version]),
                    decode=self._decode,
                    clock=self._clock,
                    metrics=self.metrics,
                    recent=self._recent,
                )
                feed.takes_arrays = self._following
                for shard_id in self._heads:
                    feed.add(shard_id)
                self._woken = True
        for row in rows:
            rate = row["shard_rate"]
            self._feeds[row["generation"]].rate = math.inf if rate is None else rate * len(self._heads)
