"""The rules of claiming, handing over, leaving and fencing: one case at a time, with the test's own clock."""

from collections.abc import Mapping, Set

import pytest

from shard_worker.domain.ids import ShardId
from shard_worker.ownership import handoff
from shard_worker.ownership.assignment import rendezvous
from shard_worker.ownership.handoff import (
    AGAIN_S,
    DRAIN_S,
    LAST_RESORT_S,
    LIVE_S,
    LOCK_GONE_S,
    PREPARE_S,
    RANK_S,
    TTL_S,
    UNOWNED_S,
    FailureDetector,
    Handoff,
    HandoffPhase,
    LocalShards,
    OwnershipActions,
    Suspect,
    plan_actions,
    rendezvous_rank,
    takeover_targets,
)
from shard_worker.ownership.view import OwnershipView, ShardRow, WorkerRow

S0, S1 = ShardId(0), ShardId(1)
NAMES = ["a", "b", "c"]
ALL = frozenset(NAMES)
NOTHING = OwnershipActions([], [], [], [], [], [], [], [])
HERE = frozenset({S0})
NOWHERE: frozenset[ShardId] = frozenset()


def worker(
    name: str,
    beat: int = 0,
    *,
    incarnation: str | None = None,
    fenced: bool = False,
    leaving: bool = False,
    cordoned: bool = False,
    draining: bool = False,
    locked: bool = True,
) -> WorkerRow:
    """A worker's row; its incarnation is its name and a 1 by default."""
    life = f"{name}1" if incarnation is None else incarnation
    return WorkerRow(name, life, "h", 1, 2, beat, fenced, leaving, cordoned, draining, locked)


def shard(
    owner: str | None, target: str | None = None, *, id: ShardId = S0, incarnation: str | None = None
) -> ShardRow:
    """A shard's row, at epoch 5."""
    return ShardRow(id, 5, owner, (owner and f"{owner}1") if incarnation is None else incarnation, target, "")


def look(*rows: ShardRow | WorkerRow) -> OwnershipView:
    """A view of these shards and workers; of `NAMES`, where no worker is given."""
    workers = [row for row in rows if isinstance(row, WorkerRow)] or [worker(name) for name in NAMES]
    return OwnershipView(
        {row.id: row for row in workers}, {row.id: row for row in rows if isinstance(row, ShardRow)}, 1, ""
    )


def steps(
    seen: OwnershipView,
    *,
    present: Set[ShardId] = NOWHERE,
    serving: Set[ShardId] | None = None,
    drained: Set[ShardId] = NOWHERE,
    handoffs: Mapping[ShardId, Handoff] | None = None,
    failed_s: Mapping[ShardId, float] | None = None,
    unowned_s: float = 0.0,
    live: Set[str] = ALL,
    leaving: bool = False,
) -> OwnershipActions:
    """Actions of worker ``a`` at second 10."""
    return plan_actions(
        seen,
        worker="a",
        incarnation="a1",
        held=LocalShards(present, present if serving is None else serving, drained),
        handoffs=handoffs or {},
        failed_s=failed_s or {},
        unowned_s={S0: unowned_s},
        live=live,
        leaving=leaving,
        now=10.0,
    )


def under_way(phase: HandoffPhase, since: float = 9.9, *, to: str = "b", epoch: int = 5) -> dict[ShardId, Handoff]:
    """The handoff of the first shard to worker ``to``."""
    return {S0: Handoff(to, f"{to}1", epoch, phase, since)}


def watched(*looks: tuple[float, OwnershipView]) -> FailureDetector:
    """An observer that has seen all this."""
    observer = FailureDetector()
    for now, seen in looks:
        observer.note(seen, now)
    return observer


# --- what is served, claimed and dropped


def test_what_is_served_where_it_should_be_stays() -> None:
    """No step where database, target and memory agree, or where it is another's affair."""
    assert steps(look(shard("a", "a")), present=HERE) == NOTHING
    assert steps(look(shard("a")), present=HERE) == NOTHING
    assert steps(look(shard("b", "b"))) == NOTHING


def test_what_the_database_says_is_ours_is_served() -> None:
    """As after a lost answer to a claim, or a transfer whose notification was lost."""
    assert steps(look(shard("a", "a"))) == NOTHING._replace(adopt=[S0])
    assert steps(look(shard("a")), present=HERE, serving=NOWHERE) == NOTHING._replace(adopt=[S0])


def test_what_an_older_incarnation_of_ours_has_is_not_ours() -> None:
    """It is not adopted, and what is here of it is dropped."""
    seen = look(shard("a", "a", incarnation="a0"))
    assert steps(seen) == NOTHING
    assert steps(seen, present=HERE) == NOTHING._replace(drop=[S0])


def test_what_another_has_is_dropped() -> None:
    """Also when it has no owner, and then its target claims it again."""
    assert steps(look(shard("b", "a")), present=HERE) == NOTHING._replace(drop=[S0])
    assert steps(look(shard(None, "b")), present=HERE) == NOTHING._replace(drop=[S0])
    assert steps(look(shard(None, "a")), present=HERE) == NOTHING._replace(drop=[S0], claim=[S0])


def test_a_free_shard_is_claimed_at_once_by_its_target() -> None:
    """No other worker is asked, and a cordon does not undo an order."""
    assert steps(look(shard(None, "a"))).claim == [S0]
    assert steps(look(shard(None, "a"), worker("a", cordoned=True))).claim == [S0]


@pytest.mark.parametrize("target", [None, "b"])
def test_an_unassigned_free_shard_waits_for_the_workers_rank(target: str | None) -> None:
    """Half a second, and a fifth of a second more for each worker before us that could take it."""
    due = UNOWNED_S + rendezvous(S0, NAMES).index("a") * RANK_S
    assert steps(look(shard(None, target)), unowned_s=due - 0.01) == NOTHING
    assert steps(look(shard(None, target)), unowned_s=due).claim == [S0]


def test_only_who_could_take_a_free_shard_goes_before_us() -> None:
    """A silent, cordoned or draining worker delays no other."""
    assert steps(look(shard(None)), unowned_s=UNOWNED_S, live=frozenset()).claim == [S0]
    seen = look(shard(None), worker("a"), worker("b", cordoned=True), worker("c", draining=True))
    assert steps(seen, unowned_s=UNOWNED_S).claim == [S0]


def test_a_cordoned_worker_takes_no_shard_without_an_order() -> None:
    """And a leaving one not even that."""
    for idle in (worker("a", cordoned=True), worker("a", draining=True)):
        assert steps(look(shard(None), idle, worker("b")), unowned_s=60.0, live=frozenset("b")) == NOTHING
    assert steps(look(shard(None, "a")), unowned_s=60.0, leaving=True) == NOTHING


def test_a_cordoned_worker_takes_a_shard_that_would_have_no_owner() -> None:
    """After a while, when no worker beats that may have it; another that is cordoned as well is no such worker."""
    for idle in (worker("a", cordoned=True), worker("a", draining=True)):
        for other in (worker("b", leaving=True), worker("b", cordoned=True)):
            seen = look(shard(None), idle, other)
            live = frozenset() if other.leaving else frozenset("b")
            assert steps(seen, unowned_s=LAST_RESORT_S - 0.01, live=live) == NOTHING
            assert steps(seen, unowned_s=LAST_RESORT_S, live=live).claim == [S0]


def test_a_worker_without_a_row_may_still_claim() -> None:
    """Its own row may be younger than the view."""
    assert steps(look(shard(None), worker("b")), unowned_s=60.0).claim == [S0]


# --- handing over


def test_a_shard_wanted_elsewhere_is_prepared_there_and_served_on() -> None:
    """Its target must be live; else it is better here than nowhere."""
    assert steps(look(shard("a", "b")), present=HERE) == NOTHING._replace(prepare=[(S0, "b")])
    assert steps(look(shard("a", "b")), present=HERE, live=frozenset({"c"})) == NOTHING


def test_a_handoff_waits_while_its_target_prepares() -> None:
    """And while what is on its way gets durable."""
    for phase in (HandoffPhase.PREPARING, HandoffPhase.DRAINING):
        assert steps(look(shard("a", "b")), present=HERE, handoffs=under_way(phase)) == NOTHING


def test_a_target_that_is_ready_has_the_shard_drained_and_then_given() -> None:
    """First nothing more is admitted, then nothing is on its way, then the database is asked."""
    seen = look(shard("a", "b"))
    assert steps(seen, present=HERE, handoffs=under_way(HandoffPhase.PREPARED)) == NOTHING._replace(drain=[S0])
    assert steps(seen, present=HERE, handoffs=under_way(HandoffPhase.DRAINED)) == NOTHING._replace(transfer=[S0])


@pytest.mark.parametrize(
    ("phase", "limit_s"),
    [(HandoffPhase.PREPARING, PREPARE_S), (HandoffPhase.PREPARED, PREPARE_S), (HandoffPhase.DRAINING, DRAIN_S)],
)
def test_a_phase_that_takes_too_long_ends_the_handoff(phase: HandoffPhase, limit_s: float) -> None:
    """The shard is served on."""
    late = under_way(phase, 10.0 - limit_s)
    assert steps(look(shard("a", "b")), present=HERE, handoffs=late) == NOTHING._replace(abort=[S0])
    in_time = under_way(phase, 10.01 - limit_s)
    assert steps(look(shard("a", "b")), present=HERE, handoffs=in_time).abort == []


def test_a_drained_shard_is_given_however_long_that_took() -> None:
    """No worker serves it, so the handoff goes on."""
    assert steps(look(shard("a", "b")), present=HERE, handoffs=under_way(HandoffPhase.DRAINED, 0.0)).transfer == [S0]


@pytest.mark.parametrize(
    ("others", "live"),
    [([], ALL), ([worker("b", incarnation="b2")], ALL), ([worker("b")], frozenset({"a", "c"}))],
    ids=["gone", "another incarnation", "silent"],
)
@pytest.mark.parametrize("phase", list(HandoffPhase))
def test_a_handoff_ends_when_its_receiver_is_lost(phase: HandoffPhase, others: list[WorkerRow], live: Set[str]) -> None:
    """Whatever its phase."""
    seen = look(shard("a", "b"), worker("a"), *others)
    assert steps(seen, present=HERE, handoffs=under_way(phase), live=live) == NOTHING._replace(abort=[S0])


def test_a_handoff_that_failed_or_is_of_an_older_epoch_ends() -> None:
    """The database refused it, or would."""
    assert steps(look(shard("a", "b")), present=HERE, handoffs=under_way(HandoffPhase.FAILED)).abort == [S0]
    assert steps(look(shard("a", "b")), present=HERE, handoffs=under_way(HandoffPhase.DRAINED, epoch=4)).abort == [S0]


@pytest.mark.parametrize("target", ["a", "c", None])
def test_a_handoff_that_is_wanted_no_more_ends_while_the_shard_is_served(target: str | None) -> None:
    """Once it is not, the quickest way to have it served is to give it."""
    seen = look(shard("a", target))
    for phase in (HandoffPhase.PREPARING, HandoffPhase.PREPARED):
        assert steps(seen, present=HERE, handoffs=under_way(phase)) == NOTHING._replace(abort=[S0])
    assert steps(seen, present=HERE, handoffs=under_way(HandoffPhase.DRAINED)) == NOTHING._replace(transfer=[S0])


def test_a_handoff_that_came_to_nothing_is_begun_again_after_a_while() -> None:
    """Not at once, or a target that is not to be had would be asked without end."""
    seen = look(shard("a", "b"))
    assert steps(seen, present=HERE, failed_s={S0: AGAIN_S - 0.01}) == NOTHING
    assert steps(seen, present=HERE, failed_s={S0: AGAIN_S}).prepare == [(S0, "b")]


def test_the_number_of_concurrent_handoffs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those under way count; the others are served until their turn comes."""
    monkeypatch.setattr(handoff, "HANDOFFS_AT_ONCE", 2)
    both = look(shard("a", "b"), shard("a", "b", id=S1), shard("a", "b", id=ShardId(2)))
    here = frozenset(both.shards)
    assert steps(both, present=here).prepare == [(S0, "b"), (S1, "b")]
    assert steps(both, present=here, handoffs=under_way(HandoffPhase.PREPARING)).prepare == [(S1, "b")]


# --- leaving


def test_a_leaving_worker_has_its_shards_prepared_elsewhere() -> None:
    """By the plan, where it names another that lives, else by the rule of shares."""
    seen = look(shard("a", "c"), shard("a", "a", id=S1), shard("b", id=ShardId(2)))
    assert steps(seen, present=frozenset({S0, S1}), leaving=True).prepare == [(S0, "c"), (S1, "b")]


def test_a_leaving_worker_keeps_to_a_chosen_receiver() -> None:
    """The shares shift with every shard that arrives."""
    seen = look(shard("a", "c"))
    going = under_way(HandoffPhase.PREPARED)
    assert steps(seen, present=HERE, handoffs=going, leaving=True) == NOTHING._replace(drain=[S0])


def test_a_leaving_worker_without_a_receiver_drains_and_then_releases() -> None:
    """A shard that is not here has nothing on its way."""
    seen, alone = look(shard("a", "a")), frozenset({"a"})
    assert steps(seen, present=HERE, live=alone, leaving=True) == NOTHING._replace(drain=[S0])
    drained = steps(seen, present=HERE, serving=NOWHERE, drained=HERE, live=alone, leaving=True)
    assert drained == NOTHING._replace(release=[S0])
    assert steps(seen, live=alone, leaving=True) == NOTHING._replace(release=[S0])


def test_a_leaving_worker_serves_shards_that_wait_for_their_turn() -> None:
    """A shard that is to be handed over later, and is ours, is adopted meanwhile."""
    assert steps(look(shard("a", "b")), failed_s={S0: 0.0}, leaving=True) == NOTHING._replace(adopt=[S0])


def test_takeover_targets_spread_a_dead_workers_shards_among_live_workers() -> None:
    """No other worker's shards move for it, and a live target counts as an owner."""
    rows = [
        shard("a"),
        shard("a", id=S1),
        shard("a", id=ShardId(2)),
        shard("b", "c", id=ShardId(3)),
        shard(None, id=ShardId(4)),
    ]
    assert takeover_targets(look(*rows), {("a", "a1")}, ALL) == {S0: "b", S1: "b", ShardId(2): "c"}


def test_takeover_targets_are_none_without_a_receiver() -> None:
    """A cordoned or draining worker takes nothing over, nor does another incarnation of the dead one's name."""
    seen = look(shard("a"), worker("a"), worker("b", cordoned=True), worker("c", draining=True))
    assert takeover_targets(seen, {("a", "a1")}, ALL) == {S0: None}
    assert takeover_targets(look(shard("a", incarnation="a0")), {("a", "a0")}, frozenset({"a"})) == {S0: None}


def test_takeover_targets_are_of_the_dead_incarnation_alone() -> None:
    """The shards of the next incarnation stay with it."""
    assert takeover_targets(look(shard("a", incarnation="a2")), {("a", "a1")}, ALL) == {}


# --- who lives


def test_a_worker_lives_only_while_its_beat_is_seen_to_move() -> None:
    """The first sight of a row proves nothing: it may be a dead worker's."""
    observer = FailureDetector()
    for now, beat, expected in [(0.0, 7, False), (0.2, 8, True), (0.2 + LIVE_S, 8, False), (5.0, 9, True)]:
        seen = look(worker("b", beat))
        observer.note(seen, now)
        assert ("b" in observer.live(seen, now)) is expected
    observer.restart()
    observer.note(seen, 5.1)
    assert observer.live(seen, 5.1) == frozenset(), "what went by between two sessions is not known"


def test_the_end_of_a_session_is_no_sign_of_life() -> None:
    """But there may have been one more beat before it: the wait for a fence begins there."""
    me = first_for("c")
    early = look(*map(worker, ["a", "b"]), worker("c", 1))
    ended = look(worker("a", 1), worker("b", 1), worker("c", 9, locked=False))
    observer = watched((0.0, early), (1.0, ended))
    assert "c" not in observer.live(ended, 1.0)
    assert observer.suspects(ended, me, 1.0 + LOCK_GONE_S - 0.01) == []
    assert observer.suspects(ended, me, 1.0 + LOCK_GONE_S) == [Suspect("c", "c1", 9)]


def test_who_leaves_or_was_fenced_does_not_live() -> None:
    """Nothing is given to it."""
    first, second = (
        look(worker("a", beat, fenced=True), worker("b", beat, leaving=True), worker("c", beat)) for beat in (1, 2)
    )
    assert watched((0.1, first), (0.2, second)).live(second, 0.2) == {"c"}


def test_the_time_without_an_owner_restarts_with_each_owner() -> None:
    """Seen by this observer, without a gap."""
    observer = watched((1.0, look(shard(None))), (1.2, look(shard(None))))
    assert observer.unowned_s(1.5) == {S0: 0.5}
    observer.note(look(shard("b")), 2.0)
    assert observer.unowned_s(2.0) == {}


def test_the_longest_silence_is_that_of_another_who_should_beat() -> None:
    """Our own beat and those of the fenced do not count; without others there is no silence."""
    early = look(worker("a", 1), worker("b", 1), worker("c", 1, fenced=True))
    late = look(worker("a", 1), worker("b", 2), worker("c", 1, fenced=True))
    observer = watched((0.0, early), (1.0, late))
    assert observer.quiet_s(late, "a", 1.5) == 0.5
    alone = look(worker("a", 1))
    assert watched((0.0, alone)).quiet_s(alone, "a", 9.0) == 0.0


# --- whom to fence


def first_for(name: str, live: Set[str] = ALL) -> str:
    """The first worker to fence ``name``, among the other live ones."""
    return rendezvous(name, live - {name})[0]


def test_an_unchanged_beat_is_suspect_after_the_ttl() -> None:
    """The others beat; the first in the rendezvous order fences, by the beat last seen."""
    observer, me = watched((0.0, look(*map(worker, NAMES)))), first_for("c")
    late = look(*(worker(name, 0 if name == "c" else 1) for name in NAMES))
    observer.note(late, TTL_S - 0.01)
    assert observer.suspects(late, me, TTL_S - 0.01) == []
    assert observer.suspects(late, me, TTL_S) == [Suspect("c", "c1", 0)]


def test_the_next_in_the_order_waits_for_the_first() -> None:
    """Longer by one rank, among those that live."""
    observer = watched((0.0, look(*map(worker, NAMES))))
    late = look(*(worker(name, 0 if name == "c" else 1) for name in NAMES))
    observer.note(late, TTL_S)
    second = rendezvous("c", {"a", "b"})[1]
    assert observer.suspects(late, second, TTL_S + RANK_S - 0.01) == []
    assert observer.suspects(late, second, TTL_S + RANK_S) == [Suspect("c", "c1", 0)]
    assert rendezvous_rank("c", second, {"a", "b"}) == 1


def test_a_lock_seen_held_and_then_gone_makes_the_wait_short() -> None:
    """One that was never seen held says nothing: the worker may not have got so far."""
    me = first_for("c")
    for seen_locked, expected in ((True, [Suspect("c", "c1", 0)]), (False, [])):
        observer = watched((0.0, look(*map(worker, ["a", "b"]), worker("c", locked=seen_locked))))
        late = look(worker("a", 1), worker("b", 1), worker("c", locked=False))
        observer.note(late, LOCK_GONE_S)
        assert observer.suspects(late, me, LOCK_GONE_S - 0.01) == []
        assert observer.suspects(late, me, LOCK_GONE_S) == expected


def test_a_new_session_restarts_the_count() -> None:
    """Neither the silence nor the lock of before is held against anybody."""
    observer, me = watched((0.0, look(*map(worker, NAMES)))), first_for("c")
    observer.restart()
    gone = look(*(worker(name, locked=False) for name in NAMES))
    observer.note(gone, TTL_S)
    assert observer.suspects(gone, me, 2 * TTL_S - 0.01) == []


def test_when_most_look_dead_the_observer_waits_one_more_ttl() -> None:
    """It may itself be at fault; one of one is not most."""
    seen = look(*map(worker, NAMES))
    observer = watched((0.0, seen))
    assert observer.suspects(seen, "a", 2 * TTL_S - 0.01) == []
    assert observer.suspects(seen, "a", 2 * TTL_S) == [Suspect("b", "b1", 0), Suspect("c", "c1", 0)]
    pair = look(*map(worker, ["a", "b"]))
    assert watched((0.0, pair)).suspects(pair, "a", TTL_S) == [Suspect("b", "b1", 0)]


def test_a_worker_that_was_fenced_or_never_lived_and_owns_nothing_is_no_suspect() -> None:
    """There is nothing to end, and nothing to free."""
    seen = look(worker("a"), worker("b", fenced=True), worker("c", incarnation=""))
    assert watched((0.0, seen)).suspects(seen, "a", 60.0) == []


@pytest.mark.parametrize("others", [[worker("c", 1, incarnation="c2")], []], ids=["replaced", "without a row"])
def test_an_incarnation_that_was_replaced_is_suspect_while_it_owns_a_shard(others: list[WorkerRow]) -> None:
    """Whatever its beat, after a wait longer than its lease; its successor's name counts for the order too."""
    seen = look(shard("c"), worker("a", 1), *others)
    observer = watched((0.0, seen))
    assert observer.suspects(seen, "a", LOCK_GONE_S - 0.01) == []
    assert observer.suspects(seen, "a", LOCK_GONE_S) == [Suspect("c", "c1", None)]
    observer.note(look(shard(None), worker("a", 1), *others), LOCK_GONE_S)
    assert observer.suspects(seen, "a", LOCK_GONE_S) == []


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
    """Also in states that no statement of a worker leaves: otherwise no worker would ever serve the shard."""
    seen = look(row, worker("a", 1), *others)
    observer = watched((0.0, seen))
    assert observer.suspects(seen, "a", LOCK_GONE_S - 0.01) == []
    assert row.owner is not None
    assert row.incarnation is not None
    assert observer.suspects(seen, "a", LOCK_GONE_S) == [Suspect(row.owner, row.incarnation, None)]
