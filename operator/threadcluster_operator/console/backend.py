"""Protocol of the cluster behind a console: the local supervisor, or a Kubernetes cluster by its workers."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from shard_worker.contract_internal import HistoryEntry, OwnershipResponse
from threadcluster_operator.workers.protocol import WorkersClient

Document = dict[str, Any]
"""A JSON object."""


class VerbName(StrEnum):
    """The changes that a console can ask for."""

    CORDON = "cordon"
    UNCORDON = "uncordon"
    DRAIN = "drain"
    KILL = "kill"
    REBALANCE = "rebalance"
    PIN = "pin"
    UNPIN = "unpin"


class Verb(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One change that a viewer asks for; ``worker`` and ``shard`` where the verb needs them."""

    verb: VerbName
    worker: str = ""
    shard: int = -1


class VerbRefused(Exception):
    """A change is not made; the message is the reason."""


class WorkerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One worker as the platform knows it."""

    name: str
    state: str
    pid: int | None
    address: str | None


class ClusterFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One cluster as the platform knows it, without asking anything."""

    name: str
    ready: bool
    url: str
    workers: Sequence[WorkerFacts]
    answers: Mapping[str, OwnershipResponse]
    """The last answer of each worker, by its name."""
    claimed_by_other: str | None
    rebalance_mode: str


class ConsoleBackend(Protocol):
    """The cluster behind a console."""

    def facts(self) -> ClusterFacts:
        """The cluster as it was last seen.  Asks nothing, so that viewers cost the cluster nothing."""
        ...

    def commands(self) -> Mapping[str, str]:
        """The command line of each verb, with ``{worker}``, ``{shard}``, ``{pid}`` and ``{thread}`` left open."""
        ...

    async def history(self, limit: int) -> Sequence[HistoryEntry]:
        """The last changes of owner, newest first.  Raises `NoWorkerAvailable` and `WorkerRefused`."""
        ...

    async def act(self, verb: Verb) -> str:
        """Make a change; a sentence about it.  Raises `VerbRefused`, `NoWorkerAvailable` and `WorkerRefused`."""
        ...

    def workers(self) -> WorkersClient:
        """The workers that answer.  Raises `NoWorkerAvailable`."""
        ...
