"""The contract between operator and workers: the wire format of every message, and what peers of other releases send."""

import json
from typing import Any, Final

import msgspec
import pytest

from shard_worker.contract_internal import (
    ENVIRONMENT_PREFIX,
    CordonResponse,
    CordonVerb,
    DatabaseFault,
    DatabaseReport,
    DatabaseState,
    DeadThread,
    EncodedOwnership,
    HealthCounters,
    HistoryEntry,
    HistoryResponse,
    InspectedMessage,
    InspectedThread,
    LeaveResponse,
    MigrationFailure,
    OwnershipDigest,
    OwnershipResponse,
    PinRequest,
    PinResponse,
    ProblemResponse,
    ReadModelOverview,
    RebuildProgress,
    ShardEntry,
    ShardLoad,
    ShardState,
    ShardTarget,
    TargetsRequest,
    TargetsResponse,
    ThreadEvent,
    ThreadResponse,
    ThreadStateResponse,
    Variable,
    WorkerEntry,
    WorkerState,
    ownership_digest,
    shard_hash,
    shard_state,
    worker_hash,
    worker_state,
)
from shard_worker.domain.ids import ShardId, ThreadId
from shard_worker.settings import WorkerSettings
from tests.support.paths import ROOT

GOLDEN: Final[dict[str, Any]] = json.loads((ROOT / "tests" / "golden" / "internal_v1.json").read_text())
"""By message, its JSON; the order of the fields is that of the wire."""

WORKERS: Final = (
    WorkerEntry(
        name="demo-0",
        incarnation="01KB0000000000000000000000",
        state=WorkerState.READY,
        host="127.0.0.1",
        public_port=40001,
        management_port=40002,
        beat=4294975417,
        leaving=False,
        cordoned=False,
        draining=False,
        reads_format=2,
    ),
    WorkerEntry(
        name="demo-1",
        incarnation="01KB0000000000000000000001",
        state=WorkerState.LEAVING,
        host="::1",
        public_port=40003,
        management_port=40004,
        beat=8589942713,
        leaving=True,
        cordoned=True,
        draining=True,
        reads_format=2,
    ),
    WorkerEntry(
        name="demo-2",
        incarnation="01KB0000000000000000000002",
        state=WorkerState.FENCED,
        host="127.0.0.1",
        public_port=40005,
        management_port=40006,
        beat=7,
        leaving=True,
        cordoned=False,
        draining=False,
        reads_format=1,
    ),
)
SHARDS: Final = (
    ShardEntry(
        id=ShardId(0),
        owner="demo-0",
        incarnation="01KB0000000000000000000000",
        epoch=3,
        state=ShardState.SERVING,
        target="demo-0",
        reason="no owner",
        since="2026-05-01T12:00:00.123Z",
        load=ShardLoad(commands_per_second=81.5, append_milliseconds=1.9),
        format=2,
        pin="demo-0",
    ),
    ShardEntry(
        id=ShardId(1),
        owner="demo-1",
        incarnation="01KB0000000000000000000001",
        epoch=4,
        state=ShardState.MOVING,
        target="demo-0",
        reason="demo-1 is leaving",
        since="2026-05-01T12:00:00.124Z",
        load=ShardLoad(),
        format=1,
    ),
    ShardEntry(
        id=ShardId(2),
        owner=None,
        incarnation=None,
        epoch=5,
        state=ShardState.UNOWNED,
        target=None,
        reason="",
        since=None,
        load=ShardLoad(),
        format=3,
    ),
)
DATABASE: Final = DatabaseReport(
    state=DatabaseState.DISCONNECTED,
    since="2026-05-01T12:00:01.000Z",
    reason=DatabaseFault.UNREACHABLE.value,
    message="no Postgres answers at 127.0.0.1:5432",
)
HEALTH: Final = HealthCounters(
    fencings=1,
    takeovers=2,
    lease_sessions_lost=3,
    handoffs_aborted=4,
    unknown_outcomes=5,
    acknowledged_lost_events=6,
    database_connects_failed=7,
    database_failovers=8,
)
OWNERSHIP: Final = OwnershipResponse(
    answered_by="demo-0",
    plan_version=12,
    plan_hash="9f2c61d0a4be7733",
    workers=WORKERS,
    shards=SHARDS,
    serving=(ShardId(0),),
    secrets=("5f0c1a9be27d4433",),
    excess_privileges=("DELETE",),
    rebuild=RebuildProgress(generation=3, version=2, shards_done=1, shards=3),
    as_of="2026-05-01T12:00:01.250Z",
    answered_at="2026-05-01T12:00:04.000Z",
    database=DATABASE,
    health=HEALTH,
    claimed_by_other="the database belongs to cluster 'other'",
    version="0.1.0",
    digest=ownership_digest([*map(worker_hash, WORKERS), *map(shard_hash, SHARDS)]),
)
DIGEST: Final = OwnershipDigest(
    answered_by="demo-0",
    plan_version=12,
    epochs=12,
    beats=12884918137,
    digest=OWNERSHIP.digest,
    member=True,
    serving=(ShardId(0),),
    secrets=("5f0c1a9be27d4433",),
    excess_privileges=("DELETE",),
    as_of="2026-05-01T12:00:01.250Z",
    answered_at="2026-05-01T12:00:04.000Z",
    database=DATABASE,
    health=HEALTH,
    rebuild=RebuildProgress(generation=3, version=2, shards_done=1, shards=3),
    claimed_by_other="the database belongs to cluster 'other'",
)
MESSAGES: Final[dict[str, msgspec.Struct]] = {
    "GET ownership": OWNERSHIP,
    "readModel of /cluster": ReadModelOverview(
        dead_threads=(
            DeadThread(
                thread_id=ThreadId("01KB0000000000000000000009"),
                shard=ShardId(1),
                sequence_nr=12,
                event_type=6,
                event_version=9,
                reason="event type 6 of version 9 is unknown",
                generation=2,
            ),
        ),
        more_dead_threads=True,
    ),
    "GET ownership/digest": DIGEST,
    "PUT targets": TargetsRequest(
        12,
        "9f2c61d0a4be7733",
        [ShardTarget(3, "demo-1", "pinned to demo-1"), ShardTarget(4, None, "no worker may have it")],
    ),
    "PUT targets, answer": TargetsResponse(plan_version=13),
    "PUT pins": PinRequest(3, "demo-1"),
    "PUT pins, answer": PinResponse(shard=ShardId(3), worker="demo-1", changed=True),
    "POST workers/{name}/drain": CordonResponse(name="demo-1", cordoned=True, draining=True),
    "POST leave": LeaveResponse(owned=5),
    "GET history": HistoryResponse(
        changes=(
            HistoryEntry(
                at="2026-05-01T12:00:00.123Z",
                shard=ShardId(3),
                epoch=7,
                source="demo-0",
                to="demo-1",
                kind="handoff",
                reason="demo-0 is draining",
                pause_ms=4.2,
            ),
            HistoryEntry(
                at="2026-05-01T11:59:59.123Z",
                shard=ShardId(3),
                epoch=6,
                source=None,
                to="demo-0",
                kind="claim",
                reason="",
                pause_ms=None,
            ),
        )
    ),
    "GET threads/{threadId}": ThreadResponse(
        thread_id=ThreadId("01KB0000000000000000000007"),
        shard=ShardId(3),
        state=ShardState.SERVING,
        owner="demo-0",
        incarnation="01KB0000000000000000000000",
        epoch=7,
        sequence_nr=9,
        events=(
            ThreadEvent(
                sequence_nr=9,
                shard_seq=41,
                epoch=7,
                type="MessagesAdded",
                version=1,
                written_at="2026-05-01T12:00:00.123Z",
                key_hash="00ff00ff00ff00ff00ff00ff00ff00ff",
                body_hash="11ff00ff00ff00ff00ff00ff00ff00ff",
                payload=msgspec.Raw(b"[1]"),
                metadata=msgspec.Raw(b"[2]"),
            ),
        ),
        more=True,
    ),
    "GET threads/{threadId}/state": ThreadStateResponse(
        thread_id=ThreadId("01KB0000000000000000000007"),
        sequence_nr=9,
        fault=None,
        state=InspectedThread(
            creator_id="01KB0000000000000000000008",
            parent_thread_id=None,
            title="hello",
            remarks=None,
            created_at=1,
            updated_at=2,
            destroyed=False,
            administrator_ids=("01KB0000000000000000000008",),
            member_ids=("01KB0000000000000000000008",),
            messages=(
                InspectedMessage(
                    message_id="01KB0000000000000000000009",
                    sender_id="01KB0000000000000000000008",
                    reply_message_id=None,
                    sequence_nr=9,
                    index=0,
                    created_at=2,
                ),
            ),
            removed_message_ids=(),
        ),
    ),
    "a refusal": ProblemResponse(
        code="plan-stale",
        detail="made from plan 12, but plan 13 is in force",
        error_messages=("made from plan 12, but plan 13 is in force",),
    ),
    "a migration that failed": MigrationFailure(DatabaseFault.UNREACHABLE, "no Postgres answers at 127.0.0.1:5432"),
}
STRICT: Final = (TargetsRequest, PinRequest)
"""The messages whose unknown fields are refused: a worker records what is wanted whole or not at all."""
NEWER_FIELDS: Final = (
    *("secrets", "excessPrivileges", "readsFormat", "format", "rebuild", "pin", "claimedByOther"),
    *("asOf", "answeredAt", "database", "health", "digest", "version"),
)
"""The fields of ``GET ownership`` that workers of earlier releases do not send."""


def with_unknown_fields(value: Any) -> Any:  # JSON
    """The same JSON with one more field in every object."""
    if isinstance(value, dict):
        return {name: with_unknown_fields(each) for name, each in value.items()} | {"laterField": {"a": [1]}}
    return [with_unknown_fields(each) for each in value] if isinstance(value, list) else value


def without(value: Any, names: tuple[str, ...]) -> Any:  # JSON
    """The same JSON without the fields of these names."""
    if isinstance(value, dict):
        return {name: without(each, names) for name, each in value.items() if name not in names}
    return [without(each, names) for each in value] if isinstance(value, list) else value


def form(
    message: msgspec.Struct,
) -> Any:  # the type that a decoder takes: a generic struct knows its own only as an alias
    """The type that decodes a message."""
    return OwnershipResponse if message is OWNERSHIP else type(message)


def test_every_message_has_its_wire_format() -> None:
    """The golden file names no other messages."""
    assert MESSAGES.keys() == GOLDEN.keys()


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_encoded_byte_for_byte(name: str) -> None:
    """The order of the fields belongs to the format."""
    expected = json.dumps(GOLDEN[name], separators=(",", ":"))
    assert msgspec.json.encode(MESSAGES[name]).decode() == expected


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_decoded(name: str) -> None:
    """To the values that were encoded."""
    assert msgspec.json.decode(json.dumps(GOLDEN[name]), type=form(MESSAGES[name])) == MESSAGES[name]


@pytest.mark.parametrize("name", [name for name, message in MESSAGES.items() if not isinstance(message, STRICT)])
def test_unknown_fields_of_a_newer_peer_are_ignored(name: str) -> None:
    """In every object of a message."""
    newer = json.dumps(with_unknown_fields(GOLDEN[name]))
    assert msgspec.json.decode(newer, type=form(MESSAGES[name])) == MESSAGES[name]


def test_a_plan_with_unknown_fields_is_refused() -> None:
    """Nothing of it is recorded."""
    with pytest.raises(msgspec.ValidationError, match="laterField"):
        msgspec.convert(with_unknown_fields(GOLDEN["PUT targets"]), TargetsRequest)


def test_fields_that_an_older_worker_lacks_have_defaults() -> None:
    """An answer of the first release decodes."""
    older = msgspec.json.decode(json.dumps(without(GOLDEN["GET ownership"], NEWER_FIELDS)), type=OwnershipResponse)
    assert (older.secrets, older.excess_privileges, older.rebuild) == ((), (), None)
    assert (older.age_s, older.database, older.health, older.digest) == (None, None, None, "")
    assert {worker.reads_format for worker in older.workers} == {1}
    assert {shard.format for shard in older.shards} == {1}
    assert {shard.pin for shard in older.shards} == {None}
    assert (older.claimed_by_other, older.version) == (None, "")
    assert older.worker("demo-1") is not None
    assert older.worker("demo-3") is None


@pytest.mark.parametrize(
    ("as_of", "answered_at", "age_s"),
    [
        ("2026-05-01T12:00:01.250Z", "2026-05-01T12:00:04.000Z", 2.75),
        ("2026-05-01T12:00:04.000Z", "2026-05-01T12:00:01.250Z", 0.0),
        (None, "2026-05-01T12:00:04.000Z", None),
        ("yesterday", "2026-05-01T12:00:04.000Z", None),
        ("2026-05-01T12:00:01.250", "2026-05-01T12:00:04.000Z", None),
    ],
    ids=["older", "a clock that was set back", "no reading", "no instant", "no time zone"],
)
def test_the_age_of_a_reading_is_by_one_clock(as_of: str | None, answered_at: str, age_s: float | None) -> None:
    """The worker's: the clock of the client does not matter."""
    for message in (OWNERSHIP, DIGEST):
        assert msgspec.structs.replace(message, as_of=as_of, answered_at=answered_at).age_s == age_s


def test_the_digest_is_of_all_that_a_plan_follows_from() -> None:
    """Neither the order nor a beat nor a load matters; each other field of a shard or a worker does."""
    before = [*map(worker_hash, WORKERS), *map(shard_hash, SHARDS)]
    assert ownership_digest(reversed(before)) == ownership_digest(before)
    worker, shard = WORKERS[0], SHARDS[0]
    assert worker_hash(msgspec.structs.replace(worker, beat=9)) == worker_hash(worker)
    assert shard_hash(msgspec.structs.replace(shard, load=ShardLoad())) == shard_hash(shard)
    for change in (
        {"incarnation": "x"},
        {"cordoned": True},
        {"draining": True},
        {"leaving": True},
        {"reads_format": 9},
    ):
        assert worker_hash(msgspec.structs.replace(worker, **change)) != worker_hash(worker), change
    for change in ({"owner": "x"}, {"incarnation": "x"}, {"epoch": 9}, {"target": "x"}, {"format": 9}):
        assert shard_hash(msgspec.structs.replace(shard, **change)) != shard_hash(shard), change


def test_shards_that_are_encoded_already_make_the_same_bytes() -> None:
    """A worker encodes a shard once, as long as nothing of it changes."""
    fields = {name: getattr(OWNERSHIP, name) for name in OWNERSHIP.__struct_fields__}
    raw = tuple(msgspec.Raw(msgspec.json.encode(shard)) for shard in SHARDS)
    assert msgspec.json.encode(EncodedOwnership(**fields | {"shards": raw})) == msgspec.json.encode(OWNERSHIP)


@pytest.mark.parametrize("worker", WORKERS, ids=lambda worker: worker.name)
def test_the_state_of_a_worker_follows_from_its_marks(worker: WorkerEntry) -> None:
    """A fenced worker is fenced, also when it was leaving."""
    assert worker_state(fenced=worker.state is WorkerState.FENCED, leaving=worker.leaving) is worker.state


@pytest.mark.parametrize(
    ("owner", "target", "state"),
    [
        ("a", "a", "serving"),
        ("a", None, "serving"),
        ("a", "b", "moving"),
        (None, "a", "unowned"),
        (None, None, "unowned"),
    ],
)
def test_the_state_of_a_shard_follows_from_owner_and_target(owner: str | None, target: str | None, state: str) -> None:
    """A shard without a target stays with its owner."""
    assert shard_state(owner=owner, target=target) == state


@pytest.mark.parametrize(
    ("verb", "cordoned", "draining"), [("cordon", True, False), ("uncordon", False, False), ("drain", True, True)]
)
def test_a_verb_says_what_holds_after_it(verb: str, *, cordoned: bool, draining: bool) -> None:
    """A draining worker is cordoned as well."""
    assert (CordonVerb(verb).cordoned, CordonVerb(verb).draining) == (cordoned, draining)


@pytest.mark.parametrize("variable", Variable)
def test_a_variable_that_the_operator_sets_is_a_setting_of_the_worker(variable: Variable) -> None:
    """The worker would ignore a variable of another name."""
    assert variable.value == f"{ENVIRONMENT_PREFIX}{variable.name}"
    assert variable.name.lower() in WorkerSettings.model_fields
