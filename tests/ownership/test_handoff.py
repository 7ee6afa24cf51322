"""The rules of claims, handoffs and takeovers: one case at a time, on the test's own clock."""

from collections.abc import Mapping, Set

import pytest

from shard_worker.domain.ids import ShardId
from shard_worker.ownership import handoff
from shard_worker.ownership.assignment import rendezvous
from shard_worker.ownership.failure_detector import RANK_S
from shard_worker.ownership.handoff import (
    AGAIN_S,
    DRAIN_S,
    HANDOFFS_AT_ONCE,
    LAST_RESORT_S,
    PREPARE_S,
    UNOWNED_S,
    Handoff,
    HandoffPhase,
    LocalShards,
    LocalState,
    OwnershipActions,
    Transfer,
    plan_actions,
    plan_transfers,
    takeover_targets,
)
from shard_worker.ownership.view import EMPTY, OwnershipView, WorkerRow
from tests.ownership.views import ALL, NAMES, S0, S1, shard, view_of, worker

NOTHING = OwnershipActions([], [], [], [], [], [], [])
HERE = frozenset({S0})
NOWHERE: frozenset[ShardId] = frozenset()


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
    """The actions of worker ``a`` at second 10."""
    held = LocalShards(present, present if serving is None else serving, drained)
    local = LocalState("a", "a1", held, handoffs or {}, failed_s or {}, leaving)
    return plan_actions(seen, local, live=live, unowned_s={S0: unowned_s}, now=10.0)


def under_way(phase: HandoffPhase, since: float = 9.9, *, to: str = "b", epoch: int = 5) -> dict[ShardId, Handoff]:
    """The handoff of the first shard to worker ``to``."""
    return {S0: Handoff(to, f"{to}1", epoch, phase, since)}


# --- what is served, claimed and dropped


def test_what_is_served_where_it_should_be_stays() -> None:
    """No step where database, target and memory agree, or where it is another's affair."""
    assert steps(view_of(shard("a", "a")), present=HERE) == NOTHING
    assert steps(view_of(shard("a")), present=HERE) == NOTHING
    assert steps(view_of(shard("b", "b"))) == NOTHING


def test_what_the_database_says_is_ours_is_served() -> None:
    """As after a lost answer to a claim, or a lost notification of a transfer."""
    assert steps(view_of(shard("a", "a"))) == NOTHING._replace(adopt=[S0])
    assert steps(view_of(shard("a")), present=HERE, serving=NOWHERE) == NOTHING._replace(adopt=[S0])


def test_what_an_older_incarnation_of_ours_has_is_not_ours() -> None:
    """It is not adopted, and what is here of it is dropped."""
    seen = view_of(shard("a", "a", incarnation="a0"))
    assert steps(seen) == NOTHING
    assert steps(seen, present=HERE) == NOTHING._replace(drop=[S0])


def test_what_another_has_is_dropped() -> None:
    """Also when it has no owner, and then it is claimed again where it is targeted at this worker."""
    assert steps(view_of(shard("b", "a")), present=HERE) == NOTHING._replace(drop=[S0])
    assert steps(view_of(shard(None, "b")), present=HERE) == NOTHING._replace(drop=[S0])
    assert steps(view_of(shard(None, "a")), present=HERE) == NOTHING._replace(drop=[S0], claim=[S0])


def test_a_free_shard_is_claimed_at_once_by_its_target() -> None:
    """Other workers do not matter, and a cordon does not undo a target."""
    assert steps(view_of(shard(None, "a"))).claim == [S0]
    assert steps(view_of(shard(None, "a"), worker("a", cordoned=True))).claim == [S0]


@pytest.mark.parametrize("target", [None, "b"])
def test_a_free_shard_without_a_target_waits_for_its_rank(target: str | None) -> None:
    """Half a second, and a fifth of a second more for each worker before us that could take it."""
    due = UNOWNED_S + rendezvous(S0, NAMES).index("a") * RANK_S
    assert steps(view_of(shard(None, target)), unowned_s=due - 0.01) == NOTHING
    assert steps(view_of(shard(None, target)), unowned_s=due).claim == [S0]


def test_only_who_could_take_a_free_shard_goes_before_us() -> None:
    """A worker that is silent, cordoned or draining does not delay the others."""
    assert steps(view_of(shard(None)), unowned_s=UNOWNED_S, live=frozenset()).claim == [S0]
    seen = view_of(shard(None), worker("a"), worker("b", cordoned=True), worker("c", draining=True))
    assert steps(seen, unowned_s=UNOWNED_S).claim == [S0]


def test_a_cordoned_worker_claims_only_its_targets() -> None:
    """And a leaving one not even that."""
    for idle in (worker("a", cordoned=True), worker("a", draining=True)):
        assert steps(view_of(shard(None), idle, worker("b")), unowned_s=60.0, live=frozenset("b")) == NOTHING
    assert steps(view_of(shard(None, "a")), unowned_s=60.0, leaving=True) == NOTHING


def test_a_cordoned_worker_claims_as_the_last_resort() -> None:
    """After a while, when no worker beats that may have it; another that is cordoned as well is no such worker."""
    for idle in (worker("a", cordoned=True), worker("a", draining=True)):
        for other in (worker("b", leaving=True), worker("b", cordoned=True)):
            seen = view_of(shard(None), idle, other)
            live = frozenset() if other.leaving else frozenset("b")
            assert steps(seen, unowned_s=LAST_RESORT_S - 0.01, live=live) == NOTHING
            assert steps(seen, unowned_s=LAST_RESORT_S, live=live).claim == [S0]


def test_a_worker_without_a_row_may_still_claim() -> None:
    """Its own row may be younger than the view."""
    assert steps(view_of(shard(None), worker("b")), unowned_s=60.0).claim == [S0]


# --- handing over


def test_a_shard_wanted_elsewhere_is_prepared_there_and_served_on() -> None:
    """Its target must be live; else it is better here than nowhere."""
    assert steps(view_of(shard("a", "b")), present=HERE) == NOTHING._replace(prepare=[(S0, "b")])
    assert steps(view_of(shard("a", "b")), present=HERE, live=frozenset({"c"})) == NOTHING


def test_a_handoff_waits_while_its_target_prepares() -> None:
    """And while what is on its way gets durable."""
    for phase in (HandoffPhase.PREPARING, HandoffPhase.DRAINING):
        assert steps(view_of(shard("a", "b")), present=HERE, handoffs=under_way(phase)) == NOTHING


def test_a_prepared_shard_is_drained_and_then_transferred() -> None:
    """First nothing more is admitted, then nothing is on its way, then the database is asked."""
    seen = view_of(shard("a", "b"))
    assert steps(seen, present=HERE, handoffs=under_way(HandoffPhase.PREPARED)) == NOTHING._replace(drain=[S0])
    drained = under_way(HandoffPhase.DRAINED)
    assert steps(seen, present=HERE, handoffs=drained) == NOTHING
    assert plan_transfers(seen, drained) == [Transfer(S0, 5, "b", "b1", "")]


@pytest.mark.parametrize("phase", [each for each in HandoffPhase if each is not HandoffPhase.DRAINED])
def test_only_a_drained_shard_is_transferred(phase: HandoffPhase) -> None:
    """In every other phase it is served, or appends are in flight."""
    assert plan_transfers(view_of(shard("a", "b")), under_way(phase)) == []


def test_no_shard_is_transferred_without_its_row_or_its_receiver() -> None:
    """The view is empty after a fail-over."""
    drained = under_way(HandoffPhase.DRAINED)
    assert plan_transfers(EMPTY, drained) == []
    assert plan_transfers(view_of(shard("a", "b"), worker("a")), drained) == []


@pytest.mark.parametrize(
    ("phase", "limit_s"),
    [(HandoffPhase.PREPARING, PREPARE_S), (HandoffPhase.PREPARED, PREPARE_S), (HandoffPhase.DRAINING, DRAIN_S)],
)
def test_a_phase_that_takes_too_long_ends_the_handoff(phase: HandoffPhase, limit_s: float) -> None:
    """The shard is served on."""
    late = under_way(phase, 10.0 - limit_s)
    assert steps(view_of(shard("a", "b")), present=HERE, handoffs=late) == NOTHING._replace(abort=[S0])
    in_time = under_way(phase, 10.01 - limit_s)
    assert steps(view_of(shard("a", "b")), present=HERE, handoffs=in_time).abort == []


def test_a_drained_shard_is_transferred_whatever_the_time() -> None:
    """It is not served meanwhile: the transfer is the quickest way to have it served."""
    seen, drained = view_of(shard("a", "b")), under_way(HandoffPhase.DRAINED, 0.0)
    assert steps(seen, present=HERE, handoffs=drained) == NOTHING
    assert [each.shard_id for each in plan_transfers(seen, drained)] == [S0]


@pytest.mark.parametrize(
    ("others", "live"),
    [([], ALL), ([worker("b", incarnation="b2")], ALL), ([worker("b")], frozenset({"a", "c"}))],
    ids=["gone", "another incarnation", "silent"],
)
@pytest.mark.parametrize("phase", list(HandoffPhase))
def test_a_handoff_ends_when_its_receiver_is_lost(phase: HandoffPhase, others: list[WorkerRow], live: Set[str]) -> None:
    """Whatever its phase."""
    seen = view_of(shard("a", "b"), worker("a"), *others)
    assert steps(seen, present=HERE, handoffs=under_way(phase), live=live) == NOTHING._replace(abort=[S0])


def test_a_handoff_that_failed_or_is_of_an_older_epoch_ends() -> None:
    """The database refused it, or would."""
    assert steps(view_of(shard("a", "b")), present=HERE, handoffs=under_way(HandoffPhase.FAILED)).abort == [S0]
    assert steps(view_of(shard("a", "b")), present=HERE, handoffs=under_way(HandoffPhase.DRAINED, epoch=4)).abort == [
        S0
    ]


@pytest.mark.parametrize("target", ["a", "c", None])
def test_a_handoff_that_is_wanted_no_more_ends_while_the_shard_is_served(target: str | None) -> None:
    """Once it is not, the quickest way to have it served is to give it."""
    seen = view_of(shard("a", target))
    for phase in (HandoffPhase.PREPARING, HandoffPhase.PREPARED):
        assert steps(seen, present=HERE, handoffs=under_way(phase)) == NOTHING._replace(abort=[S0])
    drained = under_way(HandoffPhase.DRAINED)
    assert steps(seen, present=HERE, handoffs=drained) == NOTHING
    assert [each.shard_id for each in plan_transfers(seen, drained)] == [S0]


def test_a_handoff_that_came_to_nothing_is_begun_again_after_a_while() -> None:
    """Not at once, or a target that is not to be had would be asked without end."""
    seen = view_of(shard("a", "b"))
    assert steps(seen, present=HERE, failed_s={S0: AGAIN_S - 0.01}) == NOTHING
    assert steps(seen, present=HERE, failed_s={S0: AGAIN_S}).prepare == [(S0, "b")]


def test_handoffs_at_once_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those under way count; the others are served until their turn comes."""
    monkeypatch.setattr(handoff, "HANDOFFS_AT_ONCE", 2)
    both = view_of(shard("a", "b"), shard("a", "b", id=S1), shard("a", "b", id=ShardId(2)))
    here = frozenset(both.shards)
    assert steps(both, present=here).prepare == [(S0, "b"), (S1, "b")]
    assert steps(both, present=here, handoffs=under_way(HandoffPhase.PREPARING)).prepare == [(S1, "b")]


# --- leaving


def test_a_leaving_worker_has_its_shards_prepared_elsewhere() -> None:
    """By the plan, where it names another that lives, else by the rule of shares."""
    seen = view_of(shard("a", "c"), shard("a", "a", id=S1), shard("b", id=ShardId(2)))
    assert steps(seen, present=frozenset({S0, S1}), leaving=True).prepare == [(S0, "c"), (S1, "b")]


def test_a_leaving_worker_keeps_to_a_chosen_receiver() -> None:
    """The shares shift with every shard that arrives."""
    seen = view_of(shard("a", "c"))
    going = under_way(HandoffPhase.PREPARED)
    assert steps(seen, present=HERE, handoffs=going, leaving=True) == NOTHING._replace(drain=[S0])


def test_who_leaves_without_a_receiver_drains_and_then_releases() -> None:
    """A shard that is not in memory has no append in flight."""
    seen, alone = view_of(shard("a", "a")), frozenset({"a"})
    assert steps(seen, present=HERE, live=alone, leaving=True) == NOTHING._replace(drain=[S0])
    drained = steps(seen, present=HERE, serving=NOWHERE, drained=HERE, live=alone, leaving=True)
    assert drained == NOTHING._replace(release=[S0])
    assert steps(seen, live=alone, leaving=True) == NOTHING._replace(release=[S0])


def test_a_leaving_worker_serves_shards_that_wait_for_their_turn() -> None:
    """A shard that is to be handed over later, and is ours, is adopted meanwhile."""
    assert steps(view_of(shard("a", "b")), failed_s={S0: 0.0}, leaving=True) == NOTHING._replace(adopt=[S0])


def test_takeover_targets_share_the_shards_among_live_workers() -> None:
    """No other shard moves for it, and a live target counts as an owner."""
    rows = [
        shard("a"),
        shard("a", id=S1),
        shard("a", id=ShardId(2)),
        shard("b", "c", id=ShardId(3)),
        shard(None, id=ShardId(4)),
    ]
    assert takeover_targets(view_of(*rows), {("a", "a1")}, ALL) == {S0: "b", S1: "b", ShardId(2): "c"}


def test_takeover_targets_are_none_without_a_receiver() -> None:
    """A cordoned or draining worker inherits nothing, nor does another incarnation of the dead one's name."""
    seen = view_of(shard("a"), worker("a"), worker("b", cordoned=True), worker("c", draining=True))
    assert takeover_targets(seen, {("a", "a1")}, ALL) == {S0: None}
    assert takeover_targets(view_of(shard("a", incarnation="a0")), {("a", "a0")}, frozenset({"a"})) == {S0: None}


def test_takeover_targets_are_of_the_incarnation_that_is_gone() -> None:
    """The shards of its successor stay with the successor."""
    assert takeover_targets(view_of(shard("a", incarnation="a2")), {("a", "a1")}, ALL) == {}


def test_takeover_targets_count_a_shard_where_it_is_going() -> None:
    """A shard on its way to a live worker is that worker's load, and no longer its owner's."""
    going = [shard("b", "c", id=ShardId(number)) for number in range(4)]
    gone = [shard("a", id=ShardId(number)) for number in range(4, 8)]
    targets = takeover_targets(view_of(*going, *gone), {("a", "a1")}, {"b", "c"})
    assert targets == dict.fromkeys([ShardId(number) for number in range(4, 8)], "b")


# --- claims, once more


def test_a_shard_whose_owner_has_no_incarnation_is_free() -> None:
    """As a restored row may be."""
    row = shard("b", "a")._replace(incarnation=None)
    assert steps(view_of(row)) == NOTHING._replace(claim=[S0])


def test_a_shard_that_is_not_known_to_have_no_owner_is_not_claimed() -> None:
    """Only the wait that was seen counts."""
    assert steps(view_of(shard(None, id=S1)), unowned_s=60.0) == NOTHING


def test_a_shard_that_the_worker_cannot_read_hides_no_other() -> None:
    """The next one is claimed."""
    unreadable = shard(None, "a")._replace(format=2)
    assert steps(view_of(unreadable, shard(None, "a", id=S1))) == NOTHING._replace(claim=[S1])


def test_the_second_in_the_order_claims_a_rank_later() -> None:
    """The first one has had its time by then."""
    second = next(ShardId(n) for n in range(100) if rendezvous(ShardId(n), ALL).index("a") == 1)
    view = view_of(shard(None, id=second))
    for unowned_s, claimed in [(UNOWNED_S, []), (UNOWNED_S + RANK_S - 0.01, []), (UNOWNED_S + RANK_S, [second])]:
        local = LocalState("a", "a1", LocalShards(NOWHERE, NOWHERE, NOWHERE), {}, {}, leaving=False)
        found = plan_actions(view, local, live=ALL, unowned_s={second: unowned_s}, now=10.0)
        assert found.claim == claimed


def test_the_limits_are_what_a_move_may_take() -> None:
    """A drain that hangs ends before a client's request does, and few shards of a worker wait at the same time."""
    assert (UNOWNED_S, LAST_RESORT_S, PREPARE_S, DRAIN_S, AGAIN_S) == (0.5, 2.0, 2.0, 2.0, 1.0)
    assert HANDOFFS_AT_ONCE == 16
