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
    """What stands behind a row: the actor whose event it is.  Called on the event loop, never awaited."""

    uuid: UUID

    def stored(self, row: "Row") -> None:
        """The row is durable, and so is every earlier row of its shard."""

    def rejected(self, row: "Row", error: Exception) -> None:
        """The row is definitely not stored, and never will be: the database refused it."""


class StreamHost(Protocol):
    """What stands behind a stream: the shard.  Called on the event loop, never awaited."""

    def suspended(self) -> None:
        """Admit nothing and serve no memory read until `resumed`."""

    def resumed(self) -> None:
        """What was unknown is decided; go on."""

    def lost(self, in_flight: "list[Row]") -> None:
        """The shard has another owner.  ``in_flight`` and all that is queued are definitely not stored."""


class Row:
    """One event on its way into the journal; actors extend it with what they must answer."""

    __slots__ = (
        "body_hash",
        "event_type",
        "event_version",
        "key_hash",
        "metadata",
        "payload",
        "seq_nr",
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


class StreamState(Enum):
    """Whether a stream's rows may be sent."""

    OPEN = auto()
    UNKNOWN = auto()
    """A batch's outcome is not known; see `shard_worker.journal.outcome`."""
    CLOSED = auto()
    """Lost or released; takes nothing more."""


class Stream:
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
    )

    def __init__(
        self, shard_id: ShardId, epoch: int, head: int, host: StreamHost, schedule: "Callable[[Stream], None]"
    ) -> None:
        self.shard_id = shard_id
        self.epoch = epoch
        self.head = head
        self.host = host
        self.queue: deque[Row] = deque()
        self.in_flight = 0
        self.state = StreamState.OPEN
        self.scheduled = False
        self.back_off_s = 0.0
        self.batches = 0
        """How many batches carried events of this shard, and how long they took in all."""
        self.append_s = 0.0
        self._schedule = schedule
        self._on_drained: Callable[[], None] | None = None

    def submit(self, row: Row) -> None:
        """Queue one row behind all earlier ones of this shard.  The stream must not be closed."""
        if self.state is StreamState.CLOSED:
            raise RuntimeError(f"shard {self.shard_id}: submit on a closed stream")
        self.queue.append(row)
        if not self.scheduled:
            self._schedule(self)

    def wake(self) -> None:
        """Have what is queued sent, when something is queued and may be sent."""
        if self.queue and not self.scheduled and self.state is StreamState.OPEN:
            self._schedule(self)

    def return_rows(self, rows: list[Row]) -> None:
        """Put rows that are definitely not stored back in front, in their order."""
        self.queue.extendleft(reversed(rows))

    def withdraw(self, writer: Writer) -> list[Row]:
        """Take a writer's queued rows back, in their order; none of them was sent."""
        taken = [row for row in self.queue if row.writer is writer]
        if taken:
            self.queue = deque(row for row in self.queue if row.writer is not writer)
            self.settled()
        return taken

    def close(self) -> list[Row]:
        """Take nothing more, and give back what was queued: it was never sent."""
        self.state = StreamState.CLOSED
        queued = list(self.queue)
        self.queue.clear()
        self.settled()
        return queued

    @property
    def idle(self) -> bool:
        """Nothing is queued and nothing is at the server."""
        return not self.queue and not self.in_flight

    def settled(self) -> None:
        """Tell whoever waits for the stream to drain, when it has."""
        if self._on_drained is not None and self.idle:
            call, self._on_drained = self._on_drained, None
            call()

    def when_drained(self, call: Callable[[], None]) -> None:
        """Call once nothing is queued and nothing is at the server; at once when that is so now."""
        if self.idle:
            call()
        else:
            self._on_drained = call
