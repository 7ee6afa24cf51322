"""What all actors of a worker share: the bounds they keep, the clock, and the rooms below them as they see them."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol
from uuid import UUID

from shard_worker.domain.events import PostedMessage
from shard_worker.domain.ids import ShardId, ThreadId
from shard_worker.domain.limits import Limits
from shard_worker.journal.keys import StoredKey
from shard_worker.journal.message_reader import MessagePlace
from shard_worker.journal.replay import Poisoned, Recovered
from shard_worker.journal.snapshots import SaveSnapshot
from shard_worker.memory import MemoryBudget


class Load(Protocol):
    """Read a thread's history; see `shard_worker.journal.replay.Loader`."""

    def __call__(self, shard_id: ShardId, thread_id: ThreadId) -> Awaitable[Recovered | Poisoned]: ...


class LookUpKey(Protocol):
    """Find the event that was stored with an idempotency key; see `shard_worker.journal.keys`."""

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
    """Read a shard's last sequence number; see `shard_worker.journal.replay`."""

    def __call__(self, shard_id: ShardId) -> Awaitable[int]: ...


SNAPSHOT_ALLOWANCE: Final = 8 << 20
"""Maximum bytes of states that are encoded between two sweeps (0.1 s), about; 10 ms of the loop.  A snapshot that finds
none left is taken with a later event."""


class Environment:
    """Shared by all shards and actors of one worker.

    ``admitted`` counts the events on their way to the journal, ``snapshot_allowance`` the bytes of states that may
    still be encoded before the next sweep.
    """

    __slots__ = (
        "admitted",
        "limits",
        "load",
        "look_up_key",
        "max_pending_per_thread",
        "max_pending_total",
        "memory",
        "memory_reads_allowed",
        "read_head",
        "read_messages",
        "save_snapshot",
        "snapshot_allowance",
        "snapshot_every_bytes",
        "snapshot_every_events",
    )

    def __init__(
        self,
        *,
        load: Load,
        look_up_key: LookUpKey,
        read_messages: ReadMessages,
        read_head: ReadHead,
        save_snapshot: SaveSnapshot,
        memory_reads_allowed: Callable[[], bool],
        limits: Limits,
        max_pending_per_thread: int,
        max_pending_total: int,
        snapshot_every_events: int,
        snapshot_every_bytes: int,
        memory: MemoryBudget,
    ) -> None:
        self.load = load
        self.look_up_key = look_up_key
        self.read_messages = read_messages
        self.read_head = read_head
        self.save_snapshot = save_snapshot
        self.memory_reads_allowed = memory_reads_allowed
        self.limits = limits
        self.max_pending_per_thread = max_pending_per_thread
        self.max_pending_total = max_pending_total
        self.snapshot_every_events = snapshot_every_events
        self.snapshot_every_bytes = snapshot_every_bytes
        self.memory = memory
        self.snapshot_allowance = SNAPSHOT_ALLOWANCE
        self.admitted = 0

    def now_ms(self) -> int:
        """The server's clock, epoch milliseconds."""
        return time.time_ns() // 1_000_000

    def may_admit(self) -> bool:
        """Whether one more event may be on its way to the journal."""
        return self.admitted < self.max_pending_total
