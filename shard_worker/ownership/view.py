"""The view that a worker has of ownership: immutable values, read from the database."""

from datetime import datetime
from typing import NamedTuple

from shard_worker.domain.ids import ShardId


class Capabilities(NamedTuple):
    """The capabilities of an incarnation, as in its row of ``worker``."""

    schema: int = 1
    """The newest schema version that it works with."""
    reads: int = 1
    """The newest journal format that it reads; it reads every one before too."""
    writes: int = 1
    """The journal format that it writes.  A shard that this incarnation owns has at least this format."""
    state: int = 1
    """The version of the thread states that it writes as snapshots."""
    readmodel: tuple[int, ...] = (1,)
    """The versions of the read model that it feeds, and answers from."""


class ShardOwner(NamedTuple):
    """The owner of a shard as of the last reading, with its addresses."""

    worker: str
    incarnation: str
    epoch: int
    host: str
    public_port: int
    management_port: int


class WorkerRow(NamedTuple):
    """One worker as the database has it."""

    id: str
    incarnation: str
    host: str
    public_port: int
    management_port: int
    beat: int
    """The session's attempt, and the number of its last beat, or that it ended: any change is a sign of life or of an end."""
    fenced: bool
    leaving: bool
    cordoned: bool
    draining: bool = False
    """It must own nothing, and gets no more."""
    locked: bool = True
    """Whether the session-level lock of its present incarnation is held."""
    reads: int = 1
    """The newest journal format that it reads."""


class ShardRow(NamedTuple):
    """One shard as the database has it, with the target that a plan gave it."""

    id: ShardId
    epoch: int
    owner: str | None
    incarnation: str | None
    target: str | None
    reason: str
    since: datetime | None = None
    """When it last changed its owner."""
    format: int = 1
    """The newest journal format that its events may be written in; it never falls."""
    pin: str | None = None
    """The worker that it was pinned to by command."""


class Load(NamedTuple):
    """How busy a shard is, averaged exponentially by its owner."""

    commands_s: float
    """Commands a second."""
    append_ms: float
    """How long an append takes that carries its events."""


class OwnershipView(NamedTuple):
    """One consistent look at all workers and shards; the loads may be some seconds older."""

    workers: dict[str, WorkerRow]
    shards: dict[ShardId, ShardRow]
    plan_version: int
    plan_hash: str
    loads: dict[ShardId, Load] = {}  # noqa: RUF012  # never changed, only replaced


EMPTY = OwnershipView({}, {}, 0, "")
