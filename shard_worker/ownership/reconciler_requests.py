"""The requests that `reconciler_core` yields, each with the type of its answer.

A statement is answered by the database; it may be lost with its session, which raises `SessionLost` in the core.  A local
request is answered at once, in the same turn of the loop: nothing else happens between two local requests.
"""

from collections.abc import Generator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar, cast

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.failure_detector import Suspect
from shard_worker.ownership.handoff import Handoff, Transfer
from shard_worker.ownership.view import OwnershipView, ShardOwner

T = TypeVar("T")
Steps = Generator["Request", object, T]
"""A part of the core: yields requests, receives their answers, returns a value."""


class SessionLost(Exception):
    """The database session ended: the effect of the statement in flight is unknown."""


class _Answered(Generic[T]):
    """A request whose answer has type ``T``: ``answer = yield from Request(...)``."""

    __slots__ = ()

    def __iter__(self) -> "Steps[T]":
        return cast("T", (yield cast("Request", self)))


class Observation(NamedTuple):
    """The local inputs of one decision."""

    now: float
    """Seconds on the monotonic clock of this process."""
    leaving: bool
    refresh_requested: bool
    """Whether another part of the worker has requested a new view since the last one was begun."""
    present: Set[ShardId]
    """The shards in memory, served or being drained."""
    serving: Set[ShardId]
    """The shards in memory that are not being drained."""


# --- local requests


@dataclass(frozen=True, slots=True)
class Observe(_Answered[Observation]):
    """Return the local inputs."""


@dataclass(frozen=True, slots=True)
class Adopt(_Answered[None]):
    """Serve these shards, each at its epoch and from its head."""

    epochs: Mapping[ShardId, int]
    heads: Mapping[ShardId, int]


@dataclass(frozen=True, slots=True)
class Drop(_Answered[None]):
    """Forget a shard, and redirect its requests to its owner, if known."""

    shard_id: ShardId
    owner: str | None = None
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Resume(_Answered[None]):
    """Admit commands again: the handoff was aborted."""

    shard_id: ShardId
    handoff: Handoff


@dataclass(frozen=True, slots=True)
class StartPrepare(_Answered[None]):
    """Start to prepare the receiver; the end is reported to `ReconcilerCore.prepare_ended`."""

    shard_id: ShardId
    handoff: Handoff
    receiver: ShardOwner


@dataclass(frozen=True, slots=True)
class StartDrain(_Answered[None]):
    """Stop admitting, and wait for the appends in flight; the end is reported to `ReconcilerCore.drain_ended`."""

    shard_id: ShardId


@dataclass(frozen=True, slots=True)
class CancelDrain(_Answered[None]):
    """Stop to wait for a drain: its end is no longer reported."""

    shard_id: ShardId


@dataclass(frozen=True, slots=True)
class NotifyTransferred(_Answered[None]):
    """Start to notify the receiver that it owns a shard, which was drained at ``head``."""

    shard_id: ShardId
    receiver: ShardOwner
    head: int | None
    stopped_at: float
    drained_at: float


@dataclass(frozen=True, slots=True)
class ReportUnreadable(_Answered[None]):
    """The shards without an owner that no live worker can read have changed."""

    shard_ids: Sequence[ShardId]


@dataclass(frozen=True, slots=True)
class CycleDone(_Answered[None]):
    """All actions that followed from the last view are done."""


# --- requests that take time


@dataclass(frozen=True, slots=True)
class OpenSession(_Answered[None]):
    """Open a database session that listens for changes of ownership."""


@dataclass(frozen=True, slots=True)
class Pause(_Answered[None]):
    """Wait for a time."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Wait(_Answered[None]):
    """Wait until ``latest``, or until ``earliest`` when a refresh is requested, or for the next event."""

    earliest: float
    latest: float


@dataclass(frozen=True, slots=True)
class CatchUp(_Answered[None]):
    """Bring prepared state up to these heads, on the database session."""

    heads: Mapping[ShardId, int]


# --- statements


@dataclass(frozen=True, slots=True)
class MarkLeaving(_Answered[None]):
    """Record that this incarnation leaves."""


@dataclass(frozen=True, slots=True)
class ReadView(_Answered[OwnershipView]):
    """Read all workers and shards; rows that cannot have changed are taken from ``known``."""

    known: OwnershipView


@dataclass(frozen=True, slots=True)
class Fence(_Answered["list[ShardId] | None"]):
    """Fence a suspect, and give its shards their targets; None when the suspect is alive after all."""

    suspect: Suspect
    targets: Mapping[ShardId, str | None]


@dataclass(frozen=True, slots=True)
class Claim(_Answered["dict[ShardId, int]"]):
    """Become the owner of shards without one; returns the epochs of those won."""

    shard_ids: Sequence[ShardId]


@dataclass(frozen=True, slots=True)
class Release(_Answered["set[ShardId]"]):
    """Free own shards, each at its epoch; returns those freed."""

    epochs: Mapping[ShardId, int]


@dataclass(frozen=True, slots=True)
class RaiseEpoch(_Answered["dict[ShardId, int]"]):
    """Raise the epochs of own shards; returns the new epochs of those raised."""

    epochs: Mapping[ShardId, int]


@dataclass(frozen=True, slots=True)
class ReadHeads(_Answered["dict[ShardId, int]"]):
    """Read the heads of the shards that this incarnation owns at these epochs."""

    epochs: Mapping[ShardId, int]


@dataclass(frozen=True, slots=True)
class RecordStartSeqs(_Answered[None]):
    """Record where each epoch begins."""

    epochs: Mapping[ShardId, int]
    heads: Mapping[ShardId, int]


@dataclass(frozen=True, slots=True)
class TransferShards(_Answered["dict[ShardId, int]"]):
    """Make other incarnations the owners of drained shards; returns the new epochs of those transferred."""

    transfers: Sequence[Transfer]


Local = (
    Observe
    | Adopt
    | Drop
    | Resume
    | StartPrepare
    | StartDrain
    | CancelDrain
    | NotifyTransferred
    | ReportUnreadable
    | CycleDone
)
Statement = MarkLeaving | ReadView | Fence | Claim | Release | RaiseEpoch | ReadHeads | RecordStartSeqs | TransferShards
Request = Local | OpenSession | Pause | Wait | CatchUp | Statement
