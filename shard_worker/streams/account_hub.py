"""The account streams of a worker: their followers, and what all of them share."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Final, Protocol

from shard_worker.contract import Unavailable, UnavailableCode
from shard_worker.database.connection import ReadPool
from shard_worker.domain.ids import AccountId
from shard_worker.domain.refusals import Refusal
from shard_worker.journal.settled import Mark
from shard_worker.memory import MemoryBudget
from shard_worker.streams.account_catching_up import open_account, start_over
from shard_worker.streams.account_follower import AccountFollower
from shard_worker.streams.account_journal import AccountJournal
from shard_worker.streams.account_position import AccountPosition, PositionCodec
from shard_worker.streams.account_tail import JournalTail
from shard_worker.streams.framing import error_frame
from shard_worker.streams.history import StreamHistory
from shard_worker.streams.metrics import StreamMetrics
from shard_worker.streams.opening import POISONED
from shard_worker.streams.sink import Sink
from shard_worker.tasks import BackgroundTasks

log = logging.getLogger(__name__)

_THREAD_BYTES: Final = 400
"""Memory of one thread in one stream, about."""
_THREADS_MOST: Final = 250_000
"""Threads that all account streams keep, together: 100 MB."""
_OVERLOADED: Final = Unavailable(
    UnavailableCode.OVERLOADED, "the streams of this worker have as many threads as it may keep; try again", 5.0
)


class Streams(Protocol):
    """All streams of the worker, as the account streams see them."""

    history: StreamHistory
    metrics: StreamMetrics
    budget: MemoryBudget
    tasks: BackgroundTasks

    def admit(self, stream: AccountFollower) -> bool:
        """Count a stream that begins, and have it beat; False when it ends at once, because the worker leaves."""
        ...

    def release(self, stream: AccountFollower) -> bool:
        """Count a stream no more; False when it was not counted."""
        ...


class AccountStreams:
    """Belongs to the running loop.  ``key`` makes positions; ``problem`` gives the JSON of a refusal."""

    def __init__(
        self, streams: Streams, pool: ReadPool, *, key: bytes, problem: Callable[[Refusal | Unavailable], bytes]
    ) -> None:
        self._streams = streams
        self._problem = problem
        self.metrics = streams.metrics
        self.history = streams.history
        self.journal = AccountJournal(pool)
        self.positions = PositionCodec(key)
        self.tail = JournalTail(self.journal, streams.metrics, self.poison)
        streams.budget.include(lambda: self.tail.followed * _THREAD_BYTES)

    @property
    def confirmed(self) -> tuple[Mark, int]:
        """The newest mark up to which every live stream has everything, and when it was taken, in epoch seconds."""
        return self.tail.mark, self.tail.made_at

    def start(self) -> None:
        """Start the journal's tail; the tasks' owner ends it."""
        self.tail.start(self._streams.tasks)

    def poison(self) -> bytes:
        """The JSON of the problem of a thread that cannot be read."""
        return self._problem(POISONED)

    def may_keep(self, threads: int) -> bool:
        """Whether the worker may keep this number of threads more for its streams."""
        return self.tail.followed + threads <= _THREADS_MOST and not self._streams.budget.exceeded

    def overloaded(self) -> bytes:
        """The ``error`` event of a stream for which there is no place."""
        return error_frame(self._problem(_OVERLOADED))

    def begin(self, sink: Sink, account_id: AccountId, position: AccountPosition | None) -> AccountFollower:
        """Send a stream to a client whose answer has begun; the sink calls the follower's `lost` when it is closed."""
        follower = AccountFollower(self, sink, account_id)
        if self._streams.admit(follower):
            self._spawn(follower, open_account(self, follower, position))
        return follower

    def start_over(self, follower: AccountFollower) -> None:
        """Have a follower that was live begin again, with a reset: the history of the database has changed."""
        if not follower.over:
            self._spawn(follower, start_over(self, follower))

    def forget(self, follower: AccountFollower) -> None:
        """Forget a follower whose connection is closed."""
        self.tail.remove(follower)
        self._streams.release(follower)

    def _spawn(self, follower: AccountFollower, work: Coroutine[object, object, None]) -> None:
        def ended(task: "asyncio.Task[None]") -> None:
            if follower.task is task:
                follower.task = None
            if not task.cancelled() and (error := task.exception()) is not None:
                # A bug: the client resumes, and may have more luck with another worker.
                log.error("account's stream failed", exc_info=error)
                follower.end()

        follower.task = self._streams.tasks.spawn(work, name="account-stream", on_end=ended)
