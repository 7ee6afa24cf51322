"""Context that all actors of a worker share: their bounds, the clock, and protocols of the packages below them."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol
from uuid import UUID

from shard_worker.domain.events import PostedMessage
from shard_worker.domain.ids import AccountId, ShardId, ThreadId
from shard_worker.domain.limits import Limits
from shard_worker.journal.append_queue import Row
from shard_worker.journal.codec import Encode, encode
from shard_worker.journal.idempotency import StoredKey
from shard_worker.journal.loader import Poisoned, Recovered
from shard_worker.journal.message_reader import MessagePlace
from shard_worker.journal.page_reader import ReadPage
from shard_worker.journal.snapshots import SaveSnapshot
from shard_worker.memory import MemoryBudget, MemoryPart
from shard_worker.tasks import BackgroundTasks

_REPEATERS_MOST: Final = 1_024
_TAPS_PART: Final = 16
"""All taps together keep at most this part of the memory budget."""
_REPEATER_S: Final = 60.0
"""How long an account that repeated a key is asked about every key; a client's retries come sooner."""


class Repeaters:
    """Accounts that lately sent an idempotency key that the journal had already: at most 1,024, for a minute each.

    A key of such an account is looked up before its command is decided.  A key that is found then costs a read, and not
    the append of a whole batch.
    """

    def __init__(self) -> None:
        self._until: OrderedDict[AccountId, float] = OrderedDict()

    def note(self, account_id: AccountId) -> None:
        """The account repeated a key."""
        self._until[account_id] = time.monotonic() + _REPEATER_S
        self._until.move_to_end(account_id)
        if len(self._until) > _REPEATERS_MOST:
            self._until.popitem(last=False)

    def includes(self, account_id: AccountId) -> bool:
        """Whether the account repeated a key within the last minute."""
        until = self._until.get(account_id)
        if until is None:
            return False
        if until <= time.monotonic():
            del self._until[account_id]
            return False
        return True


class Load(Protocol):
    """Read a thread's history; see `shard_worker.journal.loader.Loader`."""

    def __call__(self, shard_id: ShardId, thread_id: ThreadId) -> Awaitable[Recovered | Poisoned]: ...


class LookUpKey(Protocol):
    """Find the event that was stored with an idempotency key; see `shard_worker.journal.idempotency`."""

    def __call__(self, shard_id: ShardId, thread_uuid: UUID, key_hash: bytes) -> Awaitable[StoredKey | None]: ...


class ReadMessages(Protocol):
    """Read messages as they were posted; see `shard_worker.journal.message_reader.MessageReader`."""

    def __call__(
        self,
        shard_id: ShardId,
        thread_uuid: UUID,
        places: Sequence[MessagePlace],
        *,
        most_bytes: int,
        wanted: Callable[[], bool],
    ) -> Awaitable[list[PostedMessage]]: ...


class ReadHead(Protocol):
    """Read a shard's last sequence number; see `shard_worker.journal.loader`."""

    def __call__(self, shard_id: ShardId) -> Awaitable[int]: ...


class ReadEpoch(Protocol):
    """Read the epoch of a thread's event; see `shard_worker.journal.idempotency.epoch_of`."""

    def __call__(self, shard_id: ShardId, thread_uuid: UUID, seq_nr: int) -> Awaitable[int]: ...


class Projection(Protocol):
    """Feed the read model from the shards of this worker; see `shard_worker.readmodel.updater`.  None of the calls waits."""

    def open_shard(self, shard_id: ShardId, head: int) -> None:
        """This worker owns the shard, whose events up to ``head`` are durable."""

    def advance(self, shard_id: ShardId, head: int, rows: Sequence[Row], epoch: int, xid: int | None) -> None:
        """The shard's events up to ``head`` are durable.

        ``rows`` are the last of them, written at ``epoch`` by the transaction ``xid``, which is None where it is not known.
        """

    def close_shard(self, shard_id: ShardId) -> None:
        """This worker no longer owns the shard."""


class NoProjection:
    """For a worker without a read model."""

    def open_shard(self, shard_id: ShardId, head: int) -> None:
        """Project nothing."""

    def advance(self, shard_id: ShardId, head: int, rows: Sequence[Row], epoch: int, xid: int | None) -> None:
        """Project nothing."""

    def close_shard(self, shard_id: ShardId) -> None:
        """Project nothing."""


class NotifyingProjection:
    """A projection that tells another part of the worker, too, when events are durable."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        self.on_stored: Callable[[], None] = _ignore
        """Called after each batch of a shard of this worker; must not wait and must not raise."""

    def open_shard(self, shard_id: ShardId, head: int) -> None:
        """This worker owns the shard."""
        self._projection.open_shard(shard_id, head)

    def advance(self, shard_id: ShardId, head: int, rows: Sequence[Row], epoch: int, xid: int | None) -> None:
        """The shard's events up to ``head`` are durable."""
        self._projection.advance(shard_id, head, rows, epoch, xid)
        self.on_stored()

    def close_shard(self, shard_id: ShardId) -> None:
        """This worker no longer owns the shard."""
        self._projection.close_shard(shard_id)


def _ignore() -> None:
    """For a worker whose appends interest no one else."""


SNAPSHOT_ALLOWANCE: Final = 8 << 20
"""Maximum bytes of states that are encoded between two sweeps (0.1 s), about; 10 ms of the loop.  A snapshot that finds
none left is taken with a later event."""


@dataclass(slots=True)
class JournalAccess:
    """Access of the actors to the journal and to what follows it, beside their appends."""

    load: Load
    look_up_key: LookUpKey
    read_messages: ReadMessages
    read_head: ReadHead
    save_snapshot: SaveSnapshot
    read_epoch: ReadEpoch
    read_page: ReadPage
    projection: Projection = field(default_factory=NoProjection)


@dataclass(frozen=True, slots=True)
class PendingBounds:
    """Maximum of events on their way to the journal, and of the bytes that they and waiting requests take."""

    per_thread: int
    total: int
    bytes_per_thread: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class SnapshotPolicy:
    """After how many events of a thread, or bytes of them, its state is kept as a snapshot."""

    every_events: int
    every_bytes: int


class ActorContext:
    """Shared by all shards and actors of one worker.

    ``admitted`` counts the events on their way to the journal.  ``pending_bytes`` counts what they and all requests
    that wait to be decided take, wherever they wait.  ``snapshot_allowance`` is how many bytes of states may still be
    encoded before the next sweep.
    """

    __slots__ = (
        "admitted",
        "bounds",
        "encode",
        "journal",
        "limits",
        "memory",
        "memory_reads_allowed",
        "pending_bytes",
        "projection",
        "repeaters",
        "snapshot_allowance",
        "snapshots",
        "tap_memory",
        "tasks",
    )

    def __init__(
        self,
        *,
        journal: JournalAccess,
        memory_reads_allowed: Callable[[], bool],
        limits: Limits,
        bounds: PendingBounds,
        snapshots: SnapshotPolicy,
        memory: MemoryBudget,
        encode: Encode = encode,
    ) -> None:
        self.encode = encode
        self.journal = journal
        self.memory_reads_allowed = memory_reads_allowed
        self.limits = limits
        self.bounds = bounds
        self.snapshots = snapshots
        self.memory = memory
        self.tap_memory = MemoryPart(memory, _TAPS_PART)
        """Bytes that the taps of all shards keep."""
        self.projection = journal.projection
        self.snapshot_allowance = SNAPSHOT_ALLOWANCE
        self.admitted = 0
        self.pending_bytes = 0
        self.repeaters = Repeaters()
        self.tasks = BackgroundTasks()
        """Owner of the tasks of all shards; the host of the shards closes it."""
        memory.include(lambda: self.pending_bytes)

    def now_ms(self) -> int:
        """The server's clock, epoch milliseconds."""
        return time.time_ns() // 1_000_000

    def may_admit(self) -> bool:
        """Whether one more event may be on its way to the journal."""
        return self.admitted < self.bounds.total and self.pending_bytes < self.bounds.total_bytes

    def may_hold(self) -> bool:
        """Whether one more request may wait to be decided."""
        return self.pending_bytes < self.bounds.total_bytes
