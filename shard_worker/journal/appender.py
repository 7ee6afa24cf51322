"""The appender: one fenced statement for what all actors of a worker want stored at once.

A worker has one to four lanes (`append_lane`), each a connection of its own; a shard is fixed to one lane, so its batches
never overtake each other.  The appender never interprets an event and never decides who owns a shard.
"""

from collections.abc import Callable

from shard_worker.database.connection import OpenConnection
from shard_worker.domain.ids import ShardId
from shard_worker.journal.append_lane import DEFAULT_BOUNDS, AppendLane, AppendMetrics, BatchBounds
from shard_worker.journal.append_queue import AppendListener, AppendQueue
from shard_worker.journal.outcome import BumpEpochs, OutcomeResolver
from shard_worker.tasks import BackgroundTasks, OnFailure, log_only


class Appender:
    """All append lanes of one worker.  `open` a stream for each shard adopted; rows come in through the stream."""

    def __init__(
        self,
        *,
        connect: OpenConnection,
        bump_epochs: BumpEpochs,
        incarnation: Callable[[], str],
        lanes: int = 1,
        batch: BatchBounds = DEFAULT_BOUNDS,
        watchdog_s: float = 2.0,
        watch: Callable[[AppendQueue], None] = lambda _: None,
    ) -> None:
        self.metrics = AppendMetrics()
        self._watch = watch
        self._tasks = BackgroundTasks()
        self._lanes = [
            AppendLane(
                number,
                connect=connect,
                resolver=OutcomeResolver(connect=connect, bump_epochs=bump_epochs, tasks=self._tasks),
                incarnation=incarnation,
                batch=batch,
                watchdog_s=watchdog_s,
                metrics=self.metrics,
            )
            for number in range(lanes)
        ]

    def open(self, shard_id: ShardId, epoch: int, head: int, host: AppendListener) -> AppendQueue:
        """A stream for a shard whose claim is acknowledged and whose head was read in a later statement."""
        lane = self._lanes[shard_id % len(self._lanes)]
        stream = AppendQueue(shard_id, epoch, head, host, lane.schedule)
        self._watch(stream)
        return stream

    def start(self, on_failure: OnFailure = log_only) -> None:
        """Start the lanes; each connects when it first has something to do."""
        self._tasks.on_failure = on_failure
        for lane in self._lanes:
            lane.start(self._tasks)

    async def close(self) -> None:
        """Stop the lanes and the resolvers.  Queued rows are not sent; drain the queues first."""
        try:
            await self._tasks.close()
        finally:
            for lane in self._lanes:
                lane.terminate()
