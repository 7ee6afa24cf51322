"""The snapshot that every viewer sees, from the workers' last answers."""

from datetime import UTC, datetime
from typing import Any

import pytest
from threadcluster_operator.console.backend import ClusterFacts, WorkerFacts
from threadcluster_operator.console.snapshot import ages_of, epochs_of, snapshot_of

from shard_worker.contract_internal import (
    DatabaseReport,
    DatabaseState,
    OwnershipResponse,
    ShardEntry,
    ShardLoad,
    shard_state,
)
from shard_worker.domain.ids import ShardId

SINCE = "2026-05-01T12:00:00.000Z"
CONNECTED = DatabaseReport(state=DatabaseState.CONNECTED, since=SINCE)
AWAY = DatabaseReport(state=DatabaseState.DISCONNECTED, since=SINCE, reason="DatabaseUnreachable", message="no answer")


def shard(number: int, owner: str | None, target: str | None, load: float = 0.0) -> ShardEntry:
    """A shard of the second epoch."""
    return ShardEntry(
        id=ShardId(number),
        owner=owner,
        incarnation=None,
        epoch=2,
        state=shard_state(owner=owner, target=target),
        target=target,
        reason=None,
        since=SINCE,
        load=ShardLoad(commands_per_second=load, append_milliseconds=1.26),
    )


SHARDS = (
    shard(0, "a", "a", 1.04),
    shard(1, "a", "b"),
    shard(2, None, None),
    shard(3, "b", "b"),
    shard(4, "gone", "gone"),
)


def answer(
    name: str, serving: tuple[int, ...], database: DatabaseReport | None, as_of: str | None
) -> OwnershipResponse:
    """A worker's answer."""
    return OwnershipResponse(
        answered_by=name,
        plan_version=3,
        plan_hash=None,
        workers=(),
        shards=SHARDS,
        serving=tuple(map(ShardId, serving)),
        database=database,
        as_of=as_of,
        version="0.1.0",
    )


def facts(**answers: OwnershipResponse) -> ClusterFacts:
    """Two workers, of which one may answer."""
    workers = [WorkerFacts(name=name, state="ready", pid=7, address=None) for name in ("a", "b")]
    return ClusterFacts(
        name="demo",
        ready=True,
        url="http://127.0.0.1:1",
        workers=workers,
        answers=answers,
        claimed_by_other=None,
        rebalance_mode="Auto",
    )


def shown(**answers: OwnershipResponse) -> dict[str, Any]:
    """The snapshot of these answers."""
    return snapshot_of(facts(**answers), {"drain": "threadcluster drain {worker}"})


def test_each_shard_has_a_state_and_each_worker_its_share() -> None:
    """A shard is served when its owner says so itself."""
    found = shown(a=answer("a", (0, 1), CONNECTED, None))
    assert [each["state"] for each in found["shards"]] == ["serving", "moving", "unowned", "recovering", "recovering"]
    assert [(each["shards"], each["commandsPerSecond"], each["version"]) for each in found["workers"]] == [
        (2, 1.0, "0.1.0"),
        (1, 0.0, ""),
    ]
    assert [each["database"] for each in found["workers"]] == ["connected", None]
    assert (found["planVersion"], found["commands"]) == (3, {"drain": "threadcluster drain {worker}"})


def test_without_an_answer_nothing_is_known() -> None:
    """And nothing is made up."""
    found = shown()
    assert (found["planVersion"], found["shards"]) == (None, [])
    assert found["database"] == {"state": "unknown", "since": None, "reason": None, "message": "no worker answers"}
    assert epochs_of(facts()) == 0
    assert ages_of(facts(), datetime.now(UTC))["age"] is None


@pytest.mark.parametrize(
    ("reports", "state", "message"),
    [
        ((AWAY, CONNECTED), "connected", ""),
        ((AWAY, AWAY), "disconnected", "no answer"),
        ((None, AWAY), "disconnected", "no answer"),
    ],
)
def test_the_database_is_there_when_any_worker_has_it(
    reports: tuple[DatabaseReport | None, ...], state: str, message: str
) -> None:
    """Else a worker says what is wrong."""
    first, second = reports
    found = shown(a=answer("a", (), first, None), b=answer("b", (), second, None))
    assert (found["database"]["state"], found["database"]["message"]) == (state, message)
    assert found["workers"][1]["message"] == ("" if second is CONNECTED else "no answer")


def test_ages_are_by_the_clock_of_the_viewers_server() -> None:
    """The newest reading is the cluster's; a reading of the future is new."""
    now = datetime(2026, 5, 1, 12, 0, 2, tzinfo=UTC)
    cluster = facts(
        a=answer("a", (), None, "2026-05-01T12:00:00.500Z"), b=answer("b", (), None, "2026-05-01T12:00:09.000Z")
    )
    assert ages_of(cluster, now) == {"kind": "pulse", "ages": {"a": 1.5, "b": 0.0}, "age": 0.0}
    assert ages_of(facts(a=answer("a", (), None, None)), now) == {"kind": "pulse", "ages": {"a": None}, "age": None}
    assert epochs_of(cluster) == 10
