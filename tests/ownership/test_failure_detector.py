"""The rules of the failure detector: one case at a time, on the test's own clock."""

from collections.abc import Set

import pytest

from shard_worker.ownership.assignment import rendezvous
from shard_worker.ownership.failure_detector import (
    LIVE_S,
    LOCK_GONE_S,
    NAME_LOST_S,
    RANK_S,
    TTL_S,
    FailureDetector,
    NameWatch,
    Suspect,
    rendezvous_rank,
)
from shard_worker.ownership.view import OwnershipView, ShardRow, WorkerRow
from tests.ownership.views import ALL, NAMES, S0, S1, shard, view_of, worker


def watched(*views: tuple[float, OwnershipView]) -> FailureDetector:
    """A detector that noted these views."""
    detector = FailureDetector()
    for now, seen in views:
        detector.note(seen, now)
    return detector


# --- live workers


def test_a_worker_is_live_only_while_its_heartbeat_changes() -> None:
    """The first sight of a row proves nothing: it may be a dead worker's."""
    detector = FailureDetector()
    for now, beat, expected in [(0.0, 7, False), (0.2, 8, True), (0.2 + LIVE_S, 8, False), (5.0, 9, True)]:
        seen = view_of(worker("b", beat))
        detector.note(seen, now)
        assert ("b" in detector.live(seen, now)) is expected
    detector.restart()
    detector.note(seen, 5.1)
    assert detector.live(seen, 5.1) == frozenset(), "heartbeats between two sessions are not known"


def test_the_end_of_a_session_is_no_heartbeat() -> None:
    """But there may have been one more beat before it: the wait for a fence begins there."""
    me = first_for("c")
    early = view_of(*map(worker, ["a", "b"]), worker("c", 1))
    ended = view_of(worker("a", 1), worker("b", 1), worker("c", 9, locked=False))
    detector = watched((0.0, early), (1.0, ended))
    assert "c" not in detector.live(ended, 1.0)
    assert detector.suspects(ended, me, 1.0 + LOCK_GONE_S - 0.01) == []
    assert detector.suspects(ended, me, 1.0 + LOCK_GONE_S) == [Suspect("c", "c1", 9)]


def test_a_leaving_or_fenced_worker_is_not_live() -> None:
    """Nothing is given to it."""
    first, second = (
        view_of(worker("a", beat, fenced=True), worker("b", beat, leaving=True), worker("c", beat)) for beat in (1, 2)
    )
    assert watched((0.1, first), (0.2, second)).live(second, 0.2) == {"c"}


def test_the_time_without_an_owner_restarts_with_each_owner() -> None:
    """Seen by this detector, without a gap."""
    detector = watched((1.0, view_of(shard(None))), (1.2, view_of(shard(None))))
    assert detector.unowned_s(1.5) == {S0: 0.5}
    detector.note(view_of(shard("b")), 2.0)
    assert detector.unowned_s(2.0) == {}


def test_the_longest_silence_is_that_of_an_unfenced_peer() -> None:
    """Our own beat and those of the fenced do not count; without others there is no silence."""
    early = view_of(worker("a", 1), worker("b", 1), worker("c", 1, fenced=True))
    late = view_of(worker("a", 1), worker("b", 2), worker("c", 1, fenced=True))
    detector = watched((0.0, early), (1.0, late))
    assert detector.quiet_s(late, "a", 1.5) == 0.5
    alone = view_of(worker("a", 1))
    assert watched((0.0, alone)).quiet_s(alone, "a", 9.0) == 0.0


# --- suspects


def first_for(name: str, live: Set[str] = ALL) -> str:
    """The worker that is first to fence ``name``, among the other live ones."""
    return rendezvous(name, live - {name})[0]


def test_an_unchanged_heartbeat_is_suspect_after_the_ttl() -> None:
    """The others beat; the first in the rendezvous order fences, by the beat last seen."""
    detector, me = watched((0.0, view_of(*map(worker, NAMES)))), first_for("c")
    late = view_of(*(worker(name, 0 if name == "c" else 1) for name in NAMES))
    detector.note(late, TTL_S - 0.01)
    assert detector.suspects(late, me, TTL_S - 0.01) == []
    assert detector.suspects(late, me, TTL_S) == [Suspect("c", "c1", 0)]


def test_the_next_in_the_order_waits_for_the_first() -> None:
    """Longer by one rank, among those that live."""
    detector = watched((0.0, view_of(*map(worker, NAMES))))
    late = view_of(*(worker(name, 0 if name == "c" else 1) for name in NAMES))
    detector.note(late, TTL_S)
    second = rendezvous("c", {"a", "b"})[1]
    assert detector.suspects(late, second, TTL_S + RANK_S - 0.01) == []
    assert detector.suspects(late, second, TTL_S + RANK_S) == [Suspect("c", "c1", 0)]
    assert rendezvous_rank("c", second, {"a", "b"}) == 1


def test_a_lock_seen_held_and_then_gone_makes_the_wait_short() -> None:
    """One that was never seen held says nothing: the worker may not have got so far."""
    me = first_for("c")
    for seen_locked, expected in ((True, [Suspect("c", "c1", 0)]), (False, [])):
        detector = watched((0.0, view_of(*map(worker, ["a", "b"]), worker("c", locked=seen_locked))))
        late = view_of(worker("a", 1), worker("b", 1), worker("c", locked=False))
        detector.note(late, LOCK_GONE_S)
        assert detector.suspects(late, me, LOCK_GONE_S - 0.01) == []
        assert detector.suspects(late, me, LOCK_GONE_S) == expected


def test_a_new_session_restarts_every_wait() -> None:
    """Neither the silence nor the lock of the session before counts."""
    detector, me = watched((0.0, view_of(*map(worker, NAMES)))), first_for("c")
    detector.restart()
    gone = view_of(*(worker(name, locked=False) for name in NAMES))
    detector.note(gone, TTL_S)
    assert detector.suspects(gone, me, 2 * TTL_S - 0.01) == []


def test_the_detector_waits_one_more_ttl_when_most_look_dead() -> None:
    """It may itself be at fault; one of one is not most."""
    seen = view_of(*map(worker, NAMES))
    detector = watched((0.0, seen))
    assert detector.suspects(seen, "a", 2 * TTL_S - 0.01) == []
    assert detector.suspects(seen, "a", 2 * TTL_S) == [Suspect("b", "b1", 0), Suspect("c", "c1", 0)]
    pair = view_of(*map(worker, ["a", "b"]))
    assert watched((0.0, pair)).suspects(pair, "a", TTL_S) == [Suspect("b", "b1", 0)]


def test_a_worker_that_was_fenced_or_never_lived_and_owns_nothing_is_no_suspect() -> None:
    """There is nothing to end, and nothing to free."""
    seen = view_of(worker("a"), worker("b", fenced=True), worker("c", incarnation=""))
    assert watched((0.0, seen)).suspects(seen, "a", 60.0) == []


@pytest.mark.parametrize("others", [[worker("c", 1, incarnation="c2")], []], ids=["replaced", "without a row"])
def test_an_incarnation_that_was_replaced_is_suspect_while_it_owns_a_shard(others: list[WorkerRow]) -> None:
    """Whatever its beat, after a wait longer than its lease; its successor's name counts for the order too."""
    seen = view_of(shard("c"), worker("a", 1), *others)
    detector = watched((0.0, seen))
    assert detector.suspects(seen, "a", LOCK_GONE_S - 0.01) == []
    assert detector.suspects(seen, "a", LOCK_GONE_S) == [Suspect("c", "c1", None)]
    detector.note(view_of(shard(None), worker("a", 1), *others), LOCK_GONE_S)
    assert detector.suspects(seen, "a", LOCK_GONE_S) == []


@pytest.mark.parametrize(
    ("row", "others"),
    [
        (shard("a", incarnation="a0"), []),
        (shard("c"), [worker("c", fenced=True)]),
        (shard("c", incarnation=""), [worker("c", incarnation="")]),
    ],
    ids=["its own older one", "fenced", "none"],
)
def test_an_owner_that_does_not_live_by_its_row_is_suspect(row: ShardRow, others: list[WorkerRow]) -> None:
    """Also in states that no statement of `store` leaves: else no worker would ever serve the shard."""
    seen = view_of(row, worker("a", 1), *others)
    detector = watched((0.0, seen))
    assert detector.suspects(seen, "a", LOCK_GONE_S - 0.01) == []
    assert row.owner is not None
    assert row.incarnation is not None
    assert detector.suspects(seen, "a", LOCK_GONE_S) == [Suspect(row.owner, row.incarnation, None)]


# --- names


@pytest.mark.parametrize(
    "row", [worker("b"), worker("a", fenced=True), worker("a", incarnation="a0")], ids=["no row", "fenced", "own"]
)
def test_a_name_is_free_without_another_live_process(row: WorkerRow) -> None:
    """By its row."""
    assert NameWatch("a").is_free(view_of(row), {"a0"}, 1.0)


def test_a_name_is_free_once_the_heartbeat_of_its_process_does_not_change() -> None:
    """Each change begins the wait again."""
    watch = NameWatch("a")
    for beat, now, free in [
        (1, 1.0, False),
        (2, 2.0, False),
        (2, 2.0 + NAME_LOST_S, False),
        (2, 2.01 + NAME_LOST_S, True),
    ]:
        assert watch.is_free(view_of(worker("a", beat)), {"a0"}, now) is free


# --- sessions


def test_a_heartbeat_that_changed_between_two_sessions_proves_nothing() -> None:
    """It may be the last of a worker that died meanwhile."""
    detector = watched((0.0, view_of(worker("b", 7))))
    detector.restart()
    seen = view_of(worker("b", 8))
    detector.note(seen, 1.0)
    assert detector.live(seen, 1.0) == frozenset()


def test_a_lock_that_was_held_in_an_earlier_session_makes_no_wait_short() -> None:
    """The whole database may have been away."""
    held, gone = view_of(worker("a"), worker("c")), view_of(worker("a"), worker("c", locked=False))
    detector = watched((0.0, held))
    detector.restart()
    detector.note(gone, 1.0)
    assert detector.suspects(gone, "a", 1.0 + LOCK_GONE_S) == []
    assert detector.suspects(gone, "a", 1.0 + TTL_S) == [Suspect("c", "c1", 0)]


def test_no_time_counts_from_an_earlier_session() -> None:
    """Neither that of a shard without an owner nor that of a replaced incarnation."""
    seen = view_of(shard(None), shard("c", id=S1, incarnation="c0"), worker("a"), worker("c"))
    detector = watched((0.0, seen))
    assert detector.suspects(seen, "a", 1.0) == [Suspect("c", "c0", None)]
    detector.restart()
    detector.note(seen, 10.0)
    assert detector.unowned_s(10.5) == {S0: 0.5}
    assert detector.suspects(seen, "a", 10.5) == []


def test_a_shard_whose_owner_has_no_incarnation_has_no_owner() -> None:
    """It may be claimed some time later; the rows after it are looked at as well."""
    seen = view_of(shard("b")._replace(incarnation=None), shard("c", id=S1, incarnation="c0"), *map(worker, NAMES))
    detector = watched((0.0, seen))
    assert detector.unowned_s(2.0) == {S0: 2.0}
    assert [suspect.incarnation for suspect in detector.suspects(seen, first_for("c"), 1.0)] == ["c0"]


def test_the_longest_silence_counts() -> None:
    """One peer that is heard does not hide another."""
    detector = watched((0.0, view_of(*map(worker, NAMES))), (1.0, view_of(worker("a"), worker("b", 1), worker("c"))))
    assert detector.quiet_s(view_of(*map(worker, NAMES)), "a", 1.5) == 1.5


@pytest.mark.parametrize(
    ("others", "late", "patient"), [(4, 2, False), (5, 2, False), (5, 3, True)], ids=["half", "fewer", "more"]
)
def test_only_more_than_half_of_the_others_make_the_detector_wait(others: int, late: int, patient: bool) -> None:
    """Up to a half may well be dead."""
    names = [f"w{number}" for number in range(others)]
    first = view_of(worker("a"), *map(worker, names))
    seen = view_of(worker("a", 1), *(worker(name, int(number >= late)) for number, name in enumerate(names)))
    detector = watched((0.0, first), (TTL_S - 0.1, seen))
    found = {suspect.worker for suspect in detector.suspects(seen, "a", TTL_S + others * RANK_S)}
    assert found == (set() if patient else set(names[:late]))


def test_the_first_look_at_a_name_frees_it_never() -> None:
    """Not even that of a row whose process has not registered yet."""
    assert not NameWatch("a").is_free(view_of(worker("a", 1, incarnation="")), set(), 10.0)


def test_the_waits_are_what_a_takeover_may_take() -> None:
    """Longer than the lease of half a second, and short enough for a shard to be served again within seconds."""
    assert (LIVE_S, TTL_S, LOCK_GONE_S, NAME_LOST_S, RANK_S) == (0.7, 3.0, 0.7, 3.0, 0.2)
