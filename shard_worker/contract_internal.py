"""The contract between the operator and the workers: every message of ``/internal/v1``, and the names both sides share.

docs/internal-api.md describes the messages, and ``tests/golden/internal_v1.json`` holds their wire format.  Version 1 only
gains fields and routes: a decoder ignores the fields that it does not know, and a field that an older peer does not send has
a default here.  The order of a struct's fields is their order on the wire.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Generic, TypeVar

import msgspec
from msgspec import Struct

from shard_worker.domain.ids import ShardId, ThreadId

INTERNAL_PREFIX: Final = "/internal/v1"
"""The path under which a worker's management port serves the messages."""

NO_CAPABLE_WORKER: Final = "NoCapableWorker"
"""The reason of a shard without an owner, while no live worker reads the format of the shard's journal."""

DATABASE_SILENCE_S: Final = 2.0
"""Time without an acknowledged heartbeat, or without a reading of the database, after which a worker reports that it has no
database: longer than a lost session takes to be replaced, and shorter than the 3 s after which peers fence."""
DATABASE_CLAIMED_BY_OTHER: Final = "database-claimed-by-other"
"""The code of the refusal of every change, when the database belongs to another cluster than the worker's."""

PLAN_STALE: Final = "plan-stale"
"""The code of the refusal of `TargetsRequest`, when the plan was made from an older one than is in force."""


# --- states


class WorkerState(StrEnum):
    """Whether a worker may own shards."""

    READY = "ready"
    LEAVING = "leaving"
    """The worker hands its shards over by itself, and ends."""
    FENCED = "fenced"
    """The worker ended, or its peers fenced it."""


class DatabaseState(StrEnum):
    """Whether a worker's heartbeats and readings reach the database."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"


class ShardState(StrEnum):
    """Where a shard is on its way from owner to target."""

    SERVING = "serving"
    MOVING = "moving"
    """The target is another worker than the owner."""
    UNOWNED = "unowned"


def worker_state(*, fenced: bool, leaving: bool) -> WorkerState:
    """The state of a worker, from the two marks of its row in the database.  A fenced worker is fenced above all."""
    if fenced:
        return WorkerState.FENCED
    return WorkerState.LEAVING if leaving else WorkerState.READY


def shard_state(*, owner: str | None, target: str | None) -> ShardState:
    """The state of a shard, from its owner and its target.  A shard without a target stays with its owner."""
    if owner is None:
        return ShardState.UNOWNED
    return ShardState.MOVING if target is not None and target != owner else ShardState.SERVING


# --- GET ownership


class WorkerEntry(Struct, frozen=True, kw_only=True, rename="camel"):
    """One worker in an `OwnershipResponse`."""

    name: str
    incarnation: str
    state: WorkerState
    host: str
    public_port: int
    management_port: int
    beat: int
    """A number that grows with every heartbeat, and once when the worker's session ends."""
    leaving: bool
    cordoned: bool
    """The worker gets no more shards."""
    draining: bool
    """The worker must own nothing: the planner moves its shards away."""
    reads_format: int = 1
    """The newest journal format that the worker reads."""


class ShardLoad(Struct, frozen=True, kw_only=True, rename="camel"):
    """How busy a shard is, averaged by its owner."""

    commands_per_second: float = 0.0
    append_milliseconds: float = 0.0


class ShardEntry(Struct, frozen=True, kw_only=True, rename="camel"):
    """One shard in an `OwnershipResponse`."""

    id: ShardId
    owner: str | None
    """The worker that may append; None for a shard that no worker owns."""
    incarnation: str | None
    epoch: int
    """The number of changes of owner."""
    state: ShardState
    target: str | None
    """The worker that the plan wants as owner; None while no worker may have the shard."""
    reason: str | None
    """Why the plan wants that target."""
    since: str | None
    """When the owner last changed, in ISO 8601."""
    load: ShardLoad
    format: int = 1
    """The newest journal format that the shard's events may be written in."""
    pin: str | None = None
    """The worker that the shard was pinned to through ``PUT pins``; a pin in the resource wins."""


# --- the read model, in GET ownership and in /cluster

DEAD_THREADS_MOST: Final = 100
"""The number of threads that a `ReadModelOverview` names at most: with their reasons some tens of kilobytes."""


class DeadThread(Struct, frozen=True, kw_only=True, rename="camel"):
    """A thread whose projection has stopped at an event that no worker could project so far."""

    thread_id: ThreadId
    shard: ShardId
    sequence_nr: int
    """The first event that the tables do not have."""
    event_type: int
    event_version: int
    reason: str
    generation: int
    """The generation of the tables; a thread may have stopped in one and not in another."""


class RebuildProgress(Struct, frozen=True, kw_only=True, rename="camel"):
    """A generation of the read model that is being filled to take the place of the live one."""

    generation: int
    version: int
    """Of the rules that fill it."""
    shards_done: int
    """Shards that have the events of the live generation, but for the last few."""
    shards: int


class ReadModelOverview(Struct, frozen=True, kw_only=True, rename="camel"):
    """The state of the read model over all shards, as a worker read it within the last seconds."""

    dead_threads: tuple[DeadThread, ...] = ()
    """By generation and thread id; at most `DEAD_THREADS_MOST`."""
    more_dead_threads: bool = False
    """Whether there are more than the list holds."""
    rebuild: RebuildProgress | None = None
    """None while no rebuild is under way."""


class DatabaseReport(Struct, frozen=True, kw_only=True, rename="camel"):
    """Whether the answering worker has its database."""

    state: DatabaseState
    since: str | None
    """When the state began, in ISO 8601 by the worker's clock; None before the worker's first heartbeat."""
    reason: str | None = None
    """A `DatabaseFault`, as text because a later release may know more of them; None while connected."""
    message: str = ""
    """The fault for people; holds no password."""


Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A number from 0 on that fits 64 bits: JSON has longer ones, which no float holds, and a sender may be a tenant's image."""


class HealthCounters(Struct, frozen=True, kw_only=True, rename="camel"):
    """How often something went wrong in the answering worker since its process started."""

    fencings: Count = 0
    """Peers ended an incarnation of the worker."""
    takeovers: Count = 0
    """The worker ended an incarnation of a peer."""
    lease_sessions_lost: Count = 0
    handoffs_aborted: Count = 0
    unknown_outcomes: Count = 0
    """Batches of events whose answer never came."""
    acknowledged_lost_events: Count = 0
    """Acknowledged events that were missing from the journal; an alarm above 0."""
    database_connects_failed: Count = 0
    database_failovers: Count = 0


EntryT = TypeVar("EntryT")


class OwnershipAnswer(Struct, Generic[EntryT], frozen=True, kw_only=True, rename="camel"):
    """The cluster as one worker last read it, with the shards as ``EntryT``: `ShardEntry`, or its JSON."""

    api_version: int = 1
    answered_by: str
    plan_version: int
    plan_hash: str | None
    workers: tuple[WorkerEntry, ...]
    """Every name that has ever been a worker, in order."""
    shards: tuple[EntryT, ...]
    """All shards, in order."""
    serving: tuple[ShardId, ...]
    """The shards that the answering worker serves at this moment."""
    secrets: tuple[str, ...] = ()
    """Fingerprints of the values of the cluster's secret that the answering worker holds; the first signs."""
    excess_privileges: tuple[str, ...] = ()
    """The rights to the journal's history that the answering worker's login has beyond appending."""
    rebuild: RebuildProgress | None = None
    """The rebuild of the read model that is under way; None where there is none, and of a worker that does not say."""
    as_of: str | None = None
    """When the worker began the reading of the database that the answer shows, in ISO 8601 by the worker's clock."""
    answered_at: str | None = None
    """When the worker answered, by the same clock."""
    database: DatabaseReport | None = None
    health: HealthCounters | None = None
    digest: str = ""
    """`ownership_digest` of workers and shards; empty in the answer of an older worker."""

    claimed_by_other: str | None = None
    """Why the database does not belong to the answering worker's cluster any more; the rest is then that of the other one."""
    version: str = ""
    """The release of the answering worker; empty of a worker that does not say."""

    @property
    def age_s(self) -> float | None:
        """How old the reading was when the worker answered; None where the worker does not say."""
        return _age_s(self.as_of, self.answered_at)

    def worker(self, name: str) -> WorkerEntry | None:
        """The entry of a worker, or None for a name that no worker has had."""
        return next((entry for entry in self.workers if entry.name == name), None)


OwnershipResponse = OwnershipAnswer[ShardEntry]
"""The answer to ``GET ownership``."""
EncodedOwnership = OwnershipAnswer[msgspec.Raw]
"""The same answer, as a worker makes it of shards that are encoded already."""


# --- GET ownership/digest


class OwnershipDigest(Struct, frozen=True, kw_only=True, rename="camel"):
    """An `OwnershipAnswer` without workers and shards: whether a client that has these needs to ask for them again.

    The answer of any size of cluster is a few hundred bytes beside ``serving``.
    """

    api_version: int = 1
    answered_by: str
    plan_version: int
    epochs: int
    """The sum of all shards' epochs."""
    beats: int
    """The sum of all workers' beats.  Version, epochs and beats only grow: of two answers the greater is the newer."""
    digest: str
    """`ownership_digest` of workers and shards; empty while the worker has read none."""
    member: bool
    """Whether the answering process is registered, and not fenced."""
    serving: tuple[ShardId, ...]
    secrets: tuple[str, ...] = ()
    excess_privileges: tuple[str, ...] = ()
    as_of: str | None = None
    answered_at: str | None = None
    database: DatabaseReport | None = None
    health: HealthCounters | None = None
    rebuild: RebuildProgress | None = None
    """The rebuild of the read model that is under way; its progress changes no digest."""
    claimed_by_other: str | None = None
    """See `OwnershipAnswer.claimed_by_other`."""

    @property
    def age_s(self) -> float | None:
        """See `OwnershipAnswer.age_s`."""
        return _age_s(self.as_of, self.answered_at)


def worker_hash(entry: WorkerEntry) -> int:
    """The part of one worker in `ownership_digest`: all of the entry but its beat, which changes all the time."""
    place = (entry.name, entry.incarnation, entry.host, entry.management_port)
    return _hash((*place, entry.state, entry.leaving, entry.cordoned, entry.draining, entry.reads_format))


def shard_hash(entry: ShardEntry) -> int:
    """The part of one shard in `ownership_digest`: all of the entry but its load, which changes all the time."""
    return _hash((entry.id, entry.owner, entry.incarnation, entry.epoch, entry.target, entry.format, entry.pin))


def ownership_digest(hashes: Iterable[int]) -> str:
    """Tells one state of workers and shards from another, by the hashes of all of them in any order."""
    return f"{sum(hashes) % 2**64:016x}"


def _hash(fields: tuple[object, ...]) -> int:
    return int.from_bytes(hashlib.blake2b(msgspec.json.encode(fields), digest_size=8).digest(), "big")


def _age_s(as_of: str | None, answered_at: str | None) -> float | None:
    """The difference of two instants of one clock; None where one is missing or no instant."""
    try:
        read, answered = datetime.fromisoformat(as_of or ""), datetime.fromisoformat(answered_at or "")
        return max(0.0, (answered - read).total_seconds())
    except (ValueError, TypeError):  # TypeError: one of them has no time zone
        return None


# --- PUT targets


class ShardTarget(Struct, frozen=True, forbid_unknown_fields=True):
    """The target of one shard in a plan."""

    shard: int
    target: str | None
    """A worker's name, of one that need not have started yet; None leaves the shard with its owner."""
    reason: str


class TargetsRequest(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The body of ``PUT targets``: the targets that change; the others stay as they are.

    A worker refuses a request with fields that it does not know, because a plan is recorded whole or not at all.
    """

    plan_version: Count
    """The version of the plan that this plan was made from; Postgres keeps the version in 64 bits."""
    hash: str
    targets: list[ShardTarget]


class TargetsResponse(Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer to ``PUT targets``: the version of the recorded plan."""

    plan_version: int


# --- PUT pins


class PinRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``PUT pins``."""

    shard: int
    worker: str | None
    """A worker's name, of one that need not have started yet; None takes the pin away."""


class PinResponse(Struct, frozen=True, kw_only=True):
    """The answer to ``PUT pins``."""

    shard: ShardId
    worker: str | None
    changed: bool
    """Whether it was otherwise before."""


def plan_hash(targets: Mapping[ShardId, str | None]) -> str:
    """Tells one set of targets from another."""
    text = "\n".join(f"{shard_id}={targets[shard_id] or ''}" for shard_id in sorted(targets))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- POST workers/{name}/cordon, drain and uncordon; POST leave


class CordonVerb(StrEnum):
    """The last part of the path of a request that cordons a worker, or takes the cordon away."""

    CORDON = "cordon"
    UNCORDON = "uncordon"
    DRAIN = "drain"

    @property
    def cordoned(self) -> bool:
        """Whether the worker gets no more shards after the request."""
        return self is not CordonVerb.UNCORDON

    @property
    def draining(self) -> bool:
        """Whether the worker keeps no shard after the request."""
        return self is CordonVerb.DRAIN


class CordonResponse(Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer to a `CordonVerb`."""

    name: str
    cordoned: bool
    draining: bool


class LeaveResponse(Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer to ``POST leave``."""

    owned: int
    """The number of shards that the worker still owns, or still closes."""
    leaving: bool = True


# --- GET history

HISTORY_LIMIT: Final = 50
"""The number of changes in an answer to a request without ``limit``."""
HISTORY_MOST: Final = 1_000
"""The greatest ``limit``: an answer of this length takes Postgres and the worker some milliseconds."""


class HistoryEntry(Struct, frozen=True, kw_only=True, rename={"source": "from", "pause_ms": "pauseMilliseconds"}):
    """One change of a shard's owner."""

    at: str
    """In ISO 8601."""
    shard: ShardId
    epoch: int
    source: str | None
    to: str | None
    kind: str
    reason: str
    pause_ms: float | None
    """How long a handoff stopped the shard; None for other kinds, and where it is not known."""


class HistoryResponse(Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer to ``GET history``: the newest change first."""

    changes: tuple[HistoryEntry, ...]


# --- GET threads/{id} and GET threads/{id}/state

THREAD_EVENTS_LIMIT: Final = 100
"""The greatest number of events in one answer, and the number without ``limit``."""


class ThreadEvent(Struct, frozen=True, kw_only=True, rename="camel"):
    """One event of a thread, as the journal has it."""

    sequence_nr: int
    shard_seq: int
    """The event's number among those of its shard."""
    epoch: int
    """The epoch of the shard under which the event was appended."""
    type: str
    """The name of the event's type; ``type 99`` for one that the answering worker does not know."""
    version: int
    written_at: str
    """When Postgres stored the event, in ISO 8601."""
    key_hash: str | None
    """The hash of the idempotency key that the command came with, in hexadecimal; the key itself is not stored."""
    body_hash: str | None
    """The hash of that command's content: a repetition with another content is refused."""
    payload: msgspec.Raw
    metadata: msgspec.Raw


class ThreadResponse(Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer to ``GET threads/{id}``: the thread's shard with its owner, and some of its events, oldest first."""

    thread_id: ThreadId
    shard: ShardId
    state: ShardState
    """Of the shard."""
    owner: str | None
    incarnation: str | None
    epoch: int
    """The number of changes of the shard's owner."""
    sequence_nr: int
    """The number of the thread's last event; 0 for a thread that was never created."""
    events: tuple[ThreadEvent, ...]
    more: bool
    """Whether there are events before the first of ``events``."""


class InspectedMessage(Struct, frozen=True, kw_only=True, rename="camel"):
    """A live message in a thread's state, which holds no texts."""

    message_id: str
    sender_id: str
    reply_message_id: str | None
    sequence_nr: int
    index: int
    created_at: int


class InspectedThread(Struct, frozen=True, kw_only=True, rename="camel"):
    """The fold of a thread's events, as its actor has it.  Instants are epoch milliseconds."""

    creator_id: str
    parent_thread_id: str | None
    title: str | None
    remarks: str | None
    created_at: int
    updated_at: int
    destroyed: bool
    administrator_ids: tuple[str, ...]
    member_ids: tuple[str, ...]
    messages: tuple[InspectedMessage, ...]
    removed_message_ids: tuple[str, ...]
    """The last ids that were removed."""


class ThreadStateResponse(Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer to ``GET threads/{id}/state``: the state after the event ``sequence_nr``."""

    thread_id: ThreadId
    sequence_nr: int
    """The event that was asked for, or the thread's last one."""
    fault: str | None
    """Why the history cannot be folded to that event; ``state`` is then that before the fault."""
    state: InspectedThread | None
    """None for a thread that was never created."""


# --- refusals


class ProblemResponse(Struct, frozen=True, kw_only=True):
    """The part of an answer other than 200 that a client of ``/internal/v1`` reads."""

    code: str = ""
    detail: str = ""
    error_messages: tuple[str, ...] = ()


# --- the migration


class DatabaseFault(StrEnum):
    """Why a database cannot be used, as `shard-worker migrate` reports it in its termination message."""

    UNREACHABLE = "DatabaseUnreachable"
    AUTH_FAILED = "DatabaseAuthFailed"
    TLS_FAILED = "DatabaseTLSFailed"
    SUPERSEDED = "DatabaseSuperseded"
    UNSUITABLE = "DatabaseUnsuitable"
    CLAIMED_BY_OTHER = "DatabaseClaimedByOther"
    SHARD_COUNT_MISMATCH = "ShardCountMismatch"
    MIGRATION_FAILED = "MigrationFailed"
    SCHEMA_TOO_NEW = "SchemaTooNew"


class MigrationFailure(Struct, frozen=True):
    """A termination message of `shard-worker migrate`, as JSON; a migration that succeeded leaves none."""

    reason: DatabaseFault
    message: str


# --- the environment of a worker

ENVIRONMENT_PREFIX: Final = "SHARD_WORKER_"
"""Of every environment variable that is a worker's setting."""
DEFAULT_DRAIN_S: Final = 20.0
"""Time within which a worker hands its shards over, unless its settings say otherwise."""


TAKE_OVER_VARIABLE: Final = f"{ENVIRONMENT_PREFIX}TAKE_OVER"
"""The variable that tells a migration the uid of the cluster that it is to displace from the database."""


class Variable(StrEnum):
    """The worker's settings that the operator or the local platform gives, by the names of their environment variables."""

    NAME = f"{ENVIRONMENT_PREFIX}NAME"
    CLUSTER = f"{ENVIRONMENT_PREFIX}CLUSTER"
    CLUSTER_UID = f"{ENVIRONMENT_PREFIX}CLUSTER_UID"
    CLUSTER_NAME = f"{ENVIRONMENT_PREFIX}CLUSTER_NAME"
    CLUSTER_SITE = f"{ENVIRONMENT_PREFIX}CLUSTER_SITE"
    SHARDS = f"{ENVIRONMENT_PREFIX}SHARDS"
    DSN_FILE = f"{ENVIRONMENT_PREFIX}DSN_FILE"
    DATABASE_TLS = f"{ENVIRONMENT_PREFIX}DATABASE_TLS"
    DATABASE_CA_FILE = f"{ENVIRONMENT_PREFIX}DATABASE_CA_FILE"
    REPLICA_DSN_FILE = f"{ENVIRONMENT_PREFIX}REPLICA_DSN_FILE"
    READ_CONNECTIONS = f"{ENVIRONMENT_PREFIX}READ_CONNECTIONS"
    QUERY_CONNECTIONS = f"{ENVIRONMENT_PREFIX}QUERY_CONNECTIONS"
    SECRET_FILE = f"{ENVIRONMENT_PREFIX}SECRET_FILE"
    HOST = f"{ENVIRONMENT_PREFIX}HOST"
    BIND = f"{ENVIRONMENT_PREFIX}BIND"
    ALLOWED_HOSTS = f"{ENVIRONMENT_PREFIX}ALLOWED_HOSTS"
    PUBLIC_PORT = f"{ENVIRONMENT_PREFIX}PUBLIC_PORT"
    MANAGEMENT_PORT = f"{ENVIRONMENT_PREFIX}MANAGEMENT_PORT"
    PUBLIC_FD = f"{ENVIRONMENT_PREFIX}PUBLIC_FD"
    PARENT_FD = f"{ENVIRONMENT_PREFIX}PARENT_FD"
    CONSOLE_URL = f"{ENVIRONMENT_PREFIX}CONSOLE_URL"
    READY_FILE = f"{ENVIRONMENT_PREFIX}READY_FILE"
    DRAIN_SECONDS = f"{ENVIRONMENT_PREFIX}DRAIN_SECONDS"
    PASSIVATION_IDLE_SECONDS = f"{ENVIRONMENT_PREFIX}PASSIVATION_IDLE_SECONDS"
    MAX_RESIDENT_THREADS = f"{ENVIRONMENT_PREFIX}MAX_RESIDENT_THREADS"
    SNAPSHOT_EVERY_EVENTS = f"{ENVIRONMENT_PREFIX}SNAPSHOT_EVERY_EVENTS"
    WRITE_FORMAT = f"{ENVIRONMENT_PREFIX}WRITE_FORMAT"
    LOG_FORMAT = f"{ENVIRONMENT_PREFIX}LOG_FORMAT"
