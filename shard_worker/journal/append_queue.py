"""One owned shard's place in the journal: its epoch, its head, and the events that wait to become durable.

Invariant: at most one batch of a stream is at the server at a time, and a row gets its ``shard_seq`` only when that
batch is built, from a head that is known to be durable.  So within a shard allotment order, commit order and
visibility order are one, and a failed batch leaves no hole.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol
from uuid import UUID

from shard_worker.domain.ids import ShardId


class Writer(Protocol):
    """Listener of one row: the actor whose event it is.  Called on the event loop, never awaited."""

    uuid: UUID

    def stored(self, row: "Row") -> None:
        """The row is durable, and so is every earlier row of its shard."""

    def rejected(self, rows: "list[Row]", error: Exception) -> None:
        """The database refused the first of ``rows``.  The others are the writer's later rows, withdrawn with it.

        None of them is stored.  Earlier rows of the writer may still be on their way.
        """

    def expired(self, rows: "list[Row]", now: float) -> None:
        """The deadline of the first of ``rows`` passed before it was sent.  The others are the writer's later rows.

        None of them is stored.  Earlier rows of the writer may still be on their way.
        """


class AppendListener(Protocol):
    """Listener of a queue: the shard.  Called on the event loop, never awaited."""

    def suspended(self) -> None:
        """Admit nothing and serve no memory read until `resumed`."""

    def resumed(self) -> None:
        """Continue: the unknown outcome is decided."""

    def stored(self, rows: "list[Row]", xid: int | None) -> None:
        """These rows are durable, the head covers them, and their writers know it.

        ``xid`` is the id of the transaction that stored them, None where that is not known.
        """

    def on_ownership_lost(self, in_flight: "list[Row]") -> None:
        """The shard has another owner.  ``in_flight`` and all that is queued are definitely not stored."""


class Row:
    """One event on its way into the journal; actors extend it with what they must answer."""

    __slots__ = (
        "body_hash",
        "deadline",
        "event_type",
        "event_version",
        "key_hash",
        "metadata",
        "payload",
        "seq_nr",
        "size",
        "writer",
    )

    writer: Writer
    seq_nr: int
    event_type: int
    event_version: int
    payload: bytes
    metadata: bytes
    key_hash: bytes | None
    body_hash: bytes | None
    size: int
    """Bytes of payload and metadata."""
    deadline: float
    """Loop time, seconds: the appender does not send the row from then on."""


class AppendQueueState(Enum):
    """Whether a stream's rows may be sent."""

    OPEN = auto()
    UNKNOWN = auto()
    """A batch's outcome is not known; see `shard_worker.journal.outcome`."""
    CLOSED = auto()
    """Lost or released; takes nothing more."""


class AppendQueue:
    """One owned shard at the appender.

    ``head`` is the last ``shard_seq`` known to be durable.  `submit` queues a row; `drained` tells when nothing is
    queued and nothing is at the server.
    """

    __slots__ = (
        "_on_drained",
        "_schedule",
        "append_s",
        "back_off_s",
        "batches",
        "epoch",
        "head",
        "host",
        "in_flight",
        "queue",
        "scheduled",
        "shard_id",
        "state",
        "suspected",
    )

    def __init__(
        self, shard_id: ShardId, epoch: int, head: int, host: AppendListener, schedule: "Callable[[AppendQueue], None]"
    ) -> None:
        self.shard_id = shard_id
        self.epoch = epoch
        self.head = head
        self.host = host
        self.queue: deque[Row] = deque()
        self.in_flight = 0
        self.state = AppendQueueState.OPEN
        self.scheduled = False
        self.back_off_s = 0.0
        self.suspected = 0
        """How many groups of suspect rows (`shard_worker.journal.isolation`) hold rows of this stream."""
        self.batches = 0
        """How many batches carried events of this shard, and how long they took in all."""
        self.append_s = 0.0
        self._schedule = schedule
        self._on_drained: Callable[[], None] | None = None

    def submit(self, row: Row) -> None:
        """Queue one row behind all earlier ones of this shard.  The stream must not be closed."""
        if self.state is AppendQueueState.CLOSED:
            raise RuntimeError(f"shard {self.shard_id}: submit on a closed stream")
        self.queue.append(row)
        if not self.scheduled:
            self._schedule(self)

    def wake(self) -> None:
        """Have what is queued sent, when something is queued and may be sent."""
        if self.queue and not self.scheduled and not self.suspected and self.state is AppendQueueState.OPEN:
            self._schedule(self)

    def advance(self, rows: list[Row], xid: int | None = None) -> None:
        """These rows, all that are at the server, are durable: move the head, and tell their writers in order.

        ``xid`` is the id of the transaction that stored them, where it is known.
        """
        # The head first: a writer may wake a drain, which returns the head.
        self.head += len(rows)
        for row in rows:
            row.writer.stored(row)
        # Only now: a shard that closes with nothing at the server redirects what its writers have pending.
        self.in_flight = 0
        self.host.stored(rows, xid)

    def return_rows(self, rows: list[Row]) -> None:
        """Put rows that are definitely not stored back in front, in their order."""
        self.queue.extendleft(reversed(rows))

    def withdraw(self, row: Row) -> list[Row]:
        """Take a queued row and the later rows of its writer out of the queue, in their order; empty if it is not queued.

        The caller tells the writer, then calls `settled`.
        """
        taken: list[Row] = []
        kept: deque[Row] = deque()
        for queued in self.queue:
            if queued is row or (taken and queued.writer is row.writer):
                taken.append(queued)
            else:
                kept.append(queued)
        if taken:
            self.queue = kept
        return taken

    def expire(self, now: float) -> int:
        """Withdraw each queued row whose deadline has passed, with the later rows of its writer; how many rows.

        A queued row is not at the server: it was never sent, or what was sent is known not to be stored.
        """
        expired: dict[int, list[Row]] = {}
        kept: deque[Row] = deque()
        for row in self.queue:
            rows = expired.get(id(row.writer))
            if rows is not None:
                rows.append(row)
            elif row.deadline <= now:
                expired[id(row.writer)] = [row]
            else:
                kept.append(row)
        if not expired:
            return 0
        self.queue = kept
        for rows in expired.values():
            rows[0].writer.expired(rows, now)
        self.settled()
        return sum([len(rows) for rows in expired.values()])

    def close(self) -> list[Row]:
        """Take nothing more, and give back what was queued: it was never sent."""
        self.state = AppendQueueState.CLOSED
        queued = list(self.queue)
        self.queue.clear()
        self.settled()
        return queued

    @property
    def idle(self) -> bool:
        """Nothing is queued and nothing is at the server."""
        return not self.queue and not self.in_flight

    def settled(self) -> None:
        """Wake the waiters for an empty queue, once it is empty."""
        if self._on_drained is not None and self.idle:
            call, self._on_drained = self._on_drained, None
            call()

    def when_drained(self, call: Callable[[], None]) -> None:
        """Call once nothing is queued and nothing is at the server; at once when that is so now."""
        if self.idle:
            call()
        else:
            self._on_drained = call
