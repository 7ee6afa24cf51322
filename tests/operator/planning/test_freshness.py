"""The worth of the workers' answers, with the age that they have."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadcluster_operator.planning.freshness import (
    ACT_WITHIN_S,
    AGE_MOST_S,
    EVIDENCE_S,
    SILENCE_S,
    Outage,
    Reading,
    counts,
    judge,
    reading_of_digest,
    reading_of_ownership,
    serving_of,
    supersedes,
)
from threadcluster_operator.workers.pacing import Pace

from shard_worker.contract_internal import (
    DATABASE_SILENCE_S,
    DatabaseReport,
    DatabaseState,
    HealthCounters,
    OwnershipDigest,
    OwnershipResponse,
    RebuildProgress,
    ShardEntry,
    ShardLoad,
    ShardState,
    WorkerEntry,
    WorkerState,
)
from shard_worker.domain.ids import ShardId

CONNECTED = DatabaseReport(state=DatabaseState.CONNECTED, since="2026-05-01T12:00:00.000Z")
AWAY = DatabaseReport(
    state=DatabaseState.DISCONNECTED, since=None, reason="DatabaseUnreachable", message="no Postgres answers"
)
REFUSED = msgspec.structs.replace(AWAY, reason="DatabaseAuthFailed", message="the login is refused")
REBUILD = RebuildProgress(generation=2, version=1, shards_done=1, shards=2)
DIGEST = OwnershipDigest(
    answered_by="chat-0",
    plan_version=3,
    epochs=7,
    beats=100,
    digest="d",
    member=True,
    serving=(ShardId(1), ShardId(2)),
    excess_privileges=("DELETE",),
    database=CONNECTED,
    rebuild=REBUILD,
    health=HealthCounters(fencings=1),
)


def digest(beats: int = 100, database: DatabaseReport | None = CONNECTED, *, member: bool = True) -> OwnershipDigest:
    """The answer of a worker; of an earlier release without a ``database``."""
    return msgspec.structs.replace(DIGEST, beats=beats, database=database, member=member)


def first(answer: OwnershipDigest, at: float = 0.0) -> Reading:
    """The first answer of a worker."""
    return reading_of_digest(answer, at, None)


def test_a_reading_has_what_the_answer_has() -> None:
    """The digest's fields, and the time of the question."""
    expected = Reading(
        5.0, 3, 7, 100, "d", True, frozenset({ShardId(1), ShardId(2)}), ("DELETE",), CONNECTED, 5.0, None, REBUILD
    )
    assert first(DIGEST, 5.0) == expected._replace(health=HealthCounters(fencings=1))


def ownership(state: WorkerState = WorkerState.READY) -> OwnershipResponse:
    """The whole answer of one of two workers, with the same sums as `DIGEST`."""
    one = WorkerEntry(
        name="chat-0",
        incarnation="i",
        state=state,
        host="h",
        public_port=1,
        management_port=2,
        beat=60,
        leaving=False,
        cordoned=False,
        draining=False,
    )
    shards = [
        ShardEntry(
            id=ShardId(number),
            owner="chat-0",
            incarnation="i",
            epoch=epoch,
            state=ShardState.SERVING,
            target=None,
            reason=None,
            since=None,
            load=ShardLoad(),
        )
        for number, epoch in enumerate((3, 4))
    ]
    return OwnershipResponse(
        answered_by="chat-0",
        plan_version=3,
        plan_hash="",
        workers=(one, msgspec.structs.replace(one, name="chat-1", beat=40)),
        shards=tuple(shards),
        serving=(ShardId(1), ShardId(2)),
        excess_privileges=("DELETE",),
        database=CONNECTED,
        digest="d",
        rebuild=REBUILD,
        health=DIGEST.health,
    )


def test_a_whole_answer_gives_the_same_reading_as_its_digest() -> None:
    """So that workers of both kinds may be mixed; whether it is a member shows its own row."""
    assert reading_of_ownership("chat-0", ownership(), 5.0, None) == first(DIGEST, 5.0)
    assert not reading_of_ownership("chat-0", ownership(WorkerState.FENCED), 5.0, None).member
    assert not reading_of_ownership("chat-7", ownership(), 5.0, None).member


def test_the_order_of_readings_is_that_of_the_database() -> None:
    """Version, then epochs, then beats."""
    orders = [
        first(msgspec.structs.replace(DIGEST, **each)).order
        for each in ({"beats": 99}, {}, {"epochs": 8}, {"plan_version": 4})
    ]
    assert orders == sorted(orders)
    assert len(set(orders)) == 4


def test_a_newer_reading_takes_the_place_of_the_kept_one() -> None:
    """One of a lower order only when no answer has shown the kept one for a while: after a restore."""
    kept, lower = first(DIGEST, 10.0), first(msgspec.structs.replace(DIGEST, plan_version=1), 11.0)
    assert supersedes(first(digest(101), 10.0), kept, 10.0)
    assert not supersedes(first(digest(), 10.5), kept, 10.0), "of one order neither is newer"
    assert not supersedes(lower, kept, 11.0 - DATABASE_SILENCE_S)
    assert supersedes(lower, kept, 10.9 - DATABASE_SILENCE_S)


def test_the_first_answer_of_a_worker_counts_by_its_own_report() -> None:
    """A worker of an earlier release reports nothing: the next answer shows whether beats advance."""
    assert counts(first(digest()), 0.0)
    assert not counts(first(digest(database=AWAY)), 0.0)
    older = first(digest(database=None))
    assert not counts(older, 0.0)
    assert not counts(reading_of_digest(digest(100, None), 1.0, older), 1.0)
    assert counts(reading_of_digest(digest(101, None), 1.0, older), 1.0)


@pytest.mark.parametrize("database", [CONNECTED, None], ids=["reports", "earlier release"])
def test_an_answer_counts_while_beats_advance(database: DatabaseReport | None) -> None:
    """Not after two seconds without one, whatever the worker reports; the first new beat is enough."""
    reading = reading_of_digest(digest(101, database), 1.0, first(digest(100, database)))
    for at, known in ((2.0, True), (1.0 + DATABASE_SILENCE_S, True), (1.1 + DATABASE_SILENCE_S, False), (9.0, False)):
        reading = reading_of_digest(digest(101, database), at, reading)
        assert counts(reading, at) is known, at
    assert counts(reading_of_digest(digest(102, database), 9.5, reading), 9.5)


def test_the_last_answer_of_a_silent_worker_counts_for_a_while() -> None:
    """From the first question without an answer; and one that was never asked again has an end too."""
    reading = first(digest(), 10.0)
    failing = reading._replace(failing_since=12.0)
    assert counts(failing, 11.9 + SILENCE_S)
    assert not counts(failing, 12.0 + SILENCE_S)
    assert counts(reading, 10.0 + AGE_MOST_S)
    assert not counts(reading, 10.1 + AGE_MOST_S)


def test_an_answer_counts_until_its_worker_is_asked_again() -> None:
    """Once, at rest; not for two pauses, when it should have been asked."""
    pause_s = max(pace.value[1] for pace in Pace)
    assert counts(first(digest()), pause_s + SILENCE_S)
    assert not counts(first(digest()), 2 * pause_s)


def test_one_worker_with_its_database_is_enough() -> None:
    """The others have lost their way to it; the newest answer that counts has the age."""
    found = judge([first(digest(database=AWAY), 3.0), first(digest(), 1.0), first(digest(), 2.0)], 3.0, None)
    assert (found.known, found.outage, found.read_at) == (True, None, 2.0)


def test_the_owners_are_known_by_a_recent_answer_alone() -> None:
    """A worker that is asked rarely has reported nothing of the database since."""
    reading = first(digest(), 10.0)
    assert judge([reading], 10.0 + EVIDENCE_S, None).known
    found = judge([reading], 10.1 + EVIDENCE_S, None)
    assert (found.known, found.outage) == (False, None)
    assert serving_of({"a": reading}, 10.1 + EVIDENCE_S)
    assert not judge([reading, first(digest(database=AWAY), 18.0)], 18.0, None).known


def test_without_any_the_outage_has_the_most_telling_fault() -> None:
    """A refused login says more than a time-out; the time of the beginning is kept."""
    readings = [first(digest(database=AWAY)), first(digest(database=REFUSED)), first(digest(database=AWAY))]
    found = judge(readings, 4.0, None)
    assert not found.known
    assert found.outage == Outage("DatabaseAuthFailed", "the login is refused", 4.0)
    assert judge(readings, 9.0, found.outage).outage == found.outage


def test_beats_that_stand_still_are_an_outage() -> None:
    """Also of workers that report nothing of it."""
    older = reading_of_digest(digest(101, None), 1.0, first(digest(100, None)))
    stuck = reading_of_digest(digest(101, None), 4.0, older)
    found = judge([stuck], 4.0, None)
    assert found.outage is not None
    assert found.outage.reason == "DatabaseUnreachable"
    assert "heartbeat" in found.outage.message


@pytest.mark.parametrize(
    "reading",
    [
        first(digest(database=AWAY, member=False)),
        first(digest(database=None)),
        first(digest(database=AWAY))._replace(failing_since=-SILENCE_S),
    ],
    ids=["no member yet", "first answer of an earlier release", "silent"],
)
def test_what_is_not_known_yet_is_no_outage(reading: Reading) -> None:
    """A process that is just starting, and a network that is gone."""
    found = judge([reading], 0.0, None)
    assert (found.known, found.outage) == (False, None)
    assert not found.may_act(0.0)
    assert judge([], 0.0, None) == found


def test_a_worker_is_removed_or_restarted_on_a_fresh_answer_alone() -> None:
    """An older one is enough for the status."""
    found = judge([first(digest(), 10.0)], 10.0 + ACT_WITHIN_S, None)
    assert found.may_act(10.0 + ACT_WITHIN_S)
    assert not found.may_act(10.1 + ACT_WITHIN_S)


def test_members_that_answer_say_what_they_serve() -> None:
    """A worker without its database too: it serves what it served, as far as it can."""
    readings = {
        "a": first(digest(database=AWAY)),
        "b": first(digest(member=False)),
        "c": first(digest())._replace(failing_since=0.0),
    }
    assert set(serving_of(readings, 1.0)) == {"a", "c"}
    assert set(serving_of(readings, SILENCE_S)) == {"a"}


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[float, int, DatabaseReport | None, bool]]:
    """Questions to one worker: the pause before each, how far the beats came, the report, and whether it answered."""
    reports = st.sampled_from([CONNECTED, AWAY, REFUSED]) if draw(st.booleans()) else st.none()
    return draw(
        st.lists(st.tuples(st.floats(0.1, 4.0), st.integers(0, 3), reports, st.booleans()), min_size=1, max_size=25)
    )


@given(histories())
def test_owners_are_known_only_with_a_beat_and_an_answer(
    history: list[tuple[float, int, DatabaseReport | None, bool]],
) -> None:
    """For any history of answers: known means a beat within the bound before an answer within the bound."""
    now, beats, reading = 0.0, 100, None
    advanced_at = answered_at = float("-inf")
    outage: Outage | None = None
    for pause_s, more, report, answers in history:
        now += pause_s
        if answers:
            beats += more
            if more or reading is None:
                advanced_at = now
            answered_at = now
            reading = reading_of_digest(digest(beats, report), now, reading)
        elif reading is not None and reading.failing_since is None:
            reading = reading._replace(failing_since=now)
        found = judge([] if reading is None else [reading], now, outage)
        if found.known:
            assert answered_at - advanced_at <= DATABASE_SILENCE_S
            assert now - answered_at <= EVIDENCE_S
            assert reading is not None
            assert reading.database is None or reading.database.state is DatabaseState.CONNECTED
            assert found.outage is None
        if found.outage is not None:
            assert found.outage.since <= now
            assert outage is None or found.outage.since == outage.since
        assert found.known or not found.may_act(now)
        outage = found.outage
