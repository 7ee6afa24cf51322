"""The requests to the workers of one cluster, by whatever way the workers are reached."""

from typing import Protocol

from shard_worker.contract_internal import (
    CordonVerb,
    HistoryEntry,
    OwnershipDigest,
    OwnershipResponse,
    TargetsRequest,
    ThreadResponse,
    ThreadStateResponse,
)
from threadcluster_operator.planning.observation import Answers


class WorkersClient(Protocol):
    """The workers of one cluster; `threadcluster_operator.workers.client.WorkerApiClient` says what the methods raise."""

    async def ownership(self) -> OwnershipResponse:
        """The newest answer of the workers."""
        ...

    async def answers(self) -> Answers:
        """The answer of each worker that answers, by the worker's name."""
        ...

    def mismatched(self) -> bool:
        """Whether a worker that was asked last proved itself by another secret than ours."""
        ...

    async def set_targets(self, plan: TargetsRequest) -> int:
        """Record a plan; its version."""
        ...

    async def cordon(self, worker: str, verb: CordonVerb) -> None:
        """Cordon, uncordon or drain a worker."""
        ...

    async def pin(self, shard: int, worker: str | None) -> bool:
        """Pin a shard to a worker, or with None to none; whether it was otherwise before."""
        ...

    async def history(self, limit: int, shard: int | None) -> tuple[HistoryEntry, ...]:
        """The last changes of owner, newest first."""
        ...

    async def thread(self, thread_id: str, before: int | None) -> ThreadResponse:
        """A thread's owner and its last events, or the last ones before the event ``before``."""
        ...

    async def thread_state(self, thread_id: str, at: int | None) -> ThreadStateResponse:
        """A thread's state after the event ``at``, or now."""
        ...


class PolledWorkers(Protocol):
    """The workers of one cluster, each asked by its name: `threadcluster_operator.workers.client.NamedWorkers`."""

    async def probe(self, worker: str) -> OwnershipDigest | OwnershipResponse | None:
        """A worker's digest, or the whole answer of a worker whose release has none; None without an answer.

        Raises `threadcluster_operator.workers.client.SecretMismatch` when the worker has another secret, and `InvalidAnswer` of that
        module for an answer that is none of a worker's, as does `ownership_of`.
        """
        ...

    async def ownership_of(self, worker: str) -> OwnershipResponse | None:
        """A worker's whole answer; None without one."""
        ...

    async def set_targets(self, plan: TargetsRequest) -> int:
        """Record a plan; its version."""
        ...
