"""Protocol of the worker behind the management port, so that the gateway does not import ownership."""

from collections.abc import Sequence
from typing import Protocol

from shard_worker.contract_internal import (
    EncodedOwnership,
    HistoryEntry,
    OwnershipDigest,
    TargetsRequest,
    ThreadResponse,
    ThreadStateResponse,
)
from shard_worker.domain.ids import ThreadId

Document = dict[str, object]


class DatabaseUnavailable(Exception):
    """Postgres did not answer in time; a change that was asked for may hold or not."""


class DatabaseOfOther(Exception):
    """The database belongs to another cluster, so nothing was changed; the message says to which."""


class ClusterView(Protocol):
    """The worker's view of itself and of the cluster, and the changes that it can record there.

    Each coroutine may raise `DatabaseUnavailable`, and each that changes something `DatabaseOfOther`.  A change is visible in the next `ownership` of this worker.
    """

    def fault(self) -> str | None:
        """Why the process should be ended, or None."""
        ...

    def ready(self) -> str | None:
        """Why requests should not be sent here, not yet or no more; None when they should."""
        ...

    def cluster(self) -> Document:
        """``{"workers": […], "shards": […], "readModel": {…}}``, for people and for ``threadcluster status``."""
        ...

    async def ownership(self) -> EncodedOwnership:
        """Owners, targets, load and the plan's version, for planners."""
        ...

    def digest(self) -> OwnershipDigest:
        """Whether a planner that has read `ownership` needs to read it again; waits for nothing."""
        ...

    async def shard_count(self) -> int:
        """How many shards the cluster has: their ids are 0 to one less."""
        ...

    async def set_targets(self, plan: TargetsRequest) -> int | None:
        """Record a plan: its version, or None when another plan came first."""
        ...

    async def set_pin(self, shard: int, worker: str | None) -> bool:
        """Pin a shard that exists, or with None unpin it; whether it was otherwise before."""
        ...

    def plan_version(self) -> int:
        """The present plan's version, as far as this worker knows."""
        ...

    def worker_names(self) -> list[str]:
        """Every name that a worker has had, as far as this worker knows."""
        ...

    async def set_cordon(self, worker: str, *, cordoned: bool, draining: bool) -> bool:
        """Set whether a worker gets more shards and keeps its own; False for a name that no worker ever had."""
        ...

    def leave(self) -> int:
        """Begin to leave, if that has not begun; how many shards are still here or this worker's in the database."""
        ...

    async def history(self, limit: int, shard: int | None) -> Sequence[HistoryEntry]:
        """The last changes of owner, of one shard or of all, newest first."""
        ...

    async def thread(self, thread_id: ThreadId, before: int | None, limit: int) -> ThreadResponse:
        """A thread's shard and owner, and at most ``limit`` of its events before ``before``, or its last ones."""
        ...

    async def thread_state(self, thread_id: ThreadId, at: int | None) -> ThreadStateResponse:
        """A thread's state after the event ``at``, or now."""
        ...
