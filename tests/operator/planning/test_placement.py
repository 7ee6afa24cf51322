"""Placement by each strategy: every rule, for generated clusters; limits; reasons."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from threadcluster_operator.planning.placement import (
    Move,
    Policy,
    Shard,
    Worker,
    compute_placement,
    next_moves,
)

from shard_worker.contract_internal import plan_hash
from shard_worker.domain.ids import ShardId
from tests.operator.planning.clusters import (
    NAMES,
    applied,
    held,
    ordered,
    reasons,
    settled,
    some_policies,
    some_shards,
    some_workers,
    workers,
)
from tests.support.examples import examples

# --- whatever the cluster


@given(some_shards, some_workers, some_policies)
def test_every_shard_has_a_target_that_may_have_it(shards: list[Shard], there: list[Worker], policy: Policy) -> None:
    """An open worker, its pin, or its live owner; no target only without any of these."""
    placement = compute_placement(shards, there, policy)
    assert set(placement.targets) == {shard.id for shard in shards}
    by_name = {worker.name: worker for worker in there}
    live = {worker.name for worker in there if worker.live}
    receivers = {worker.name for worker in there if worker.may_keep and not worker.cordoned}
    for shard in shards:
        target = placement.targets[shard.id]
        if target is None:
            assert not receivers
            assert shard.owner not in live
        elif target not in receivers:
            pinned = policy.pins.get(shard.id) == target and by_name[target].may_keep
            stays = shard.owner == target and target in live
            assert pinned or stays
            if stays and not pinned and not by_name[target].may_keep:
                assert policy.mode == "Paused" or not receivers


@given(some_shards, some_workers, some_policies, st.randoms(use_true_random=False))
def test_the_order_of_the_inputs_does_not_matter(
    shards: list[Shard], there: list[Worker], policy: Policy, rng: random.Random
) -> None:
    """The same plan, to the last reason."""
    placement = compute_placement(shards, there, policy)
    assert placement.hash == plan_hash(placement.targets)
    assert compute_placement(rng.sample(shards, len(shards)), rng.sample(there, len(there)), policy) == placement


@given(some_shards, some_workers, some_policies)
def test_the_moves_are_what_is_not_there_yet(shards: list[Shard], there: list[Worker], policy: Policy) -> None:
    """One for each, with a reason; unserved shards come first."""
    placement = compute_placement(shards, there, policy)
    live = {worker.name for worker in there if worker.live}
    source = {shard.id: shard.owner if shard.owner in live else None for shard in shards}
    assert {move.shard: (move.source, move.target) for move in placement.moves} == {
        shard_id: (source[shard_id], target)
        for shard_id, target in placement.targets.items()
        if target not in (None, source[shard_id])
    }
    assert len({move.shard for move in placement.moves}) == len(placement.moves)
    assert all(move.reason for move in placement.moves)
    unserved = [move.source is None for move in placement.moves]
    assert unserved == sorted(unserved, reverse=True)


@given(some_shards, some_workers, some_policies)
def test_a_plan_that_was_carried_out_is_the_end(shards: list[Shard], there: list[Worker], policy: Policy) -> None:
    """Nothing moves again, however often one asks."""
    placement = compute_placement(shards, there, policy)
    again = compute_placement(applied(shards, placement), there, policy)
    assert again.targets == placement.targets
    assert [move for move in again.moves if move.source is not None or policy.mode == "Paused"] == []


@given(some_shards, some_workers, some_policies)
def test_what_is_on_its_way_stays_on_its_way(shards: list[Shard], there: list[Worker], policy: Policy) -> None:
    """A plan that is ordered and not yet carried out is the same plan."""
    placement = compute_placement(shards, there, policy)
    again = compute_placement(
        [shard._replace(target=placement.targets[shard.id] or shard.target) for shard in shards], there, policy
    )
    assert again.targets == placement.targets
    assert not again.balancing


@given(some_shards, some_workers, some_policies)
def test_a_cordoned_worker_keeps_what_it_has_and_gets_no_more(
    shards: list[Shard], there: list[Worker], policy: Policy
) -> None:
    """Except what is pinned, here or elsewhere, and what is on its way to another already."""
    targets = compute_placement(shards, there, policy).targets
    cordoned = {worker.name for worker in there if worker.may_keep and worker.cordoned}
    receivers = {worker.name for worker in there if worker.may_keep and not worker.cordoned}
    for shard in shards:
        if policy.pins.get(shard.id) is None:
            if targets[shard.id] in cordoned:
                assert shard.owner == targets[shard.id]
            if shard.owner in cordoned and shard.target not in receivers:
                assert targets[shard.id] == shard.owner


@given(some_shards, some_workers, some_policies)
def test_who_drains_or_leaves_is_emptied_unless_paused(
    shards: list[Shard], there: list[Worker], policy: Policy
) -> None:
    """While another worker may receive its shards; and pins do not stop it."""
    assume(policy.mode != "Paused")
    assume(any(worker.may_keep and not worker.cordoned for worker in there))
    keepers = {worker.name for worker in there if worker.may_keep}
    assert set(compute_placement(shards, there, policy).targets.values()) <= keepers


@given(some_shards, some_workers, some_policies)
def test_pins_win(shards: list[Shard], there: list[Worker], policy: Policy) -> None:
    """Over balance, orders under way and cordons; only a pause stops them where the owner lives."""
    targets = compute_placement(shards, there, policy).targets
    keepers = {worker.name for worker in there if worker.may_keep}
    live = {worker.name for worker in there if worker.live}
    for shard in shards:
        pin = policy.pins.get(shard.id)
        if pin in keepers and not (policy.mode == "Paused" and shard.owner in live):
            assert targets[shard.id] == pin


@given(some_shards, some_workers, some_policies)
def test_a_pause_orders_no_move_of_what_is_served(shards: list[Shard], there: list[Worker], policy: Policy) -> None:
    """Moves under way may end; unserved shards are placed."""
    policy = policy._replace(mode="Paused")
    live = {worker.name for worker in there if worker.live}
    before = {shard.id: shard for shard in shards}
    placement = compute_placement(shards, there, policy)
    assert not placement.balancing
    for shard in shards:
        if shard.owner in live:
            assert placement.targets[shard.id] in (shard.owner, shard.target)
    for move in next_moves(placement, *_maps(shards), 256):
        assert before[move.shard].owner not in live


@given(some_shards, some_workers, some_policies)
def test_manual_moves_nothing_for_balance_without_an_order(
    shards: list[Shard], there: list[Worker], policy: Policy
) -> None:
    """An owner that may keep an unpinned shard keeps it, or its move goes on."""
    policy = policy._replace(mode="Manual", rebalance_now=False)
    keepers = {worker.name for worker in there if worker.may_keep}
    placement = compute_placement(shards, there, policy)
    assert not placement.balancing
    for shard in shards:
        if shard.owner in keepers and policy.pins.get(shard.id) not in keepers:
            assert placement.targets[shard.id] in (shard.owner, shard.target)


@given(some_shards, some_workers, some_policies)
def test_manual_with_an_order_to_balance_equals_auto(shards: list[Shard], there: list[Worker], policy: Policy) -> None:
    """It is one rule."""
    ordered = policy._replace(rebalance_now=True)
    assert compute_placement(shards, there, ordered._replace(mode="Manual")) == compute_placement(
        shards, there, ordered._replace(mode="Auto")
    )


def _maps(shards: Sequence[Shard]) -> tuple[dict[ShardId, str | None], dict[ShardId, str | None]]:
    return {shard.id: shard.owner for shard in shards}, {shard.id: shard.target for shard in shards}


# --- places


def test_a_shard_without_an_owner_gets_its_place_before_one_that_is_served() -> None:
    """Whatever the numbers of the shards and the names of the workers."""
    shards = [Shard(ShardId(0), "a-0", "a-0"), Shard(ShardId(1), None, None)]
    there = [Worker("a-0", leaving=True), *workers(2)]
    assert compute_placement(shards, there, Policy()).targets == {0: "w-1", 1: "w-0"}


def test_a_place_is_given_by_the_level_with_the_shard() -> None:
    """A big worker with two shards has more to spare for a third than a small one with none."""
    shards = [*settled("w-1", "w-1"), Shard(ShardId(2), None, None)]
    there = [Worker("w-0"), Worker("w-1", capacity=4.0)]
    assert compute_placement(shards, there, Policy(mode="Manual")).targets[ShardId(2)] == "w-1"


def test_a_shard_that_was_just_given_a_place_is_sent_elsewhere_first() -> None:
    """It has no owner yet, so that it costs no move: only one worker reads the shards that come after it."""
    shards = [
        Shard(ShardId(0), None, None),
        *[Shard(ShardId(number), "w-1", "w-1") for number in (1, 2)],
        Shard(ShardId(3), "w-0", "w-0"),
        *[Shard(ShardId(number), "w-2", "w-2", format=2) for number in (4, 5)],
    ]
    there = [Worker("w-0", reads=2), Worker("w-1"), Worker("w-2", leaving=True, reads=2)]
    assert compute_placement(shards, there, Policy()).targets == {
        0: "w-1",
        1: "w-1",
        2: "w-1",
        3: "w-0",
        4: "w-0",
        5: "w-0",
    }


# --- limits


@examples(60)
@given(some_shards, some_workers, some_policies, st.integers(1, 5), st.randoms(use_true_random=False))
def test_never_more_moves_are_under_way_than_allowed_and_all_get_done(
    shards: list[Shard], there: list[Worker], policy: Policy, limit: int, rng: random.Random
) -> None:
    """From a quiet cluster, in any order of moves; an unserved shard does not wait."""
    there = [worker._replace(live=True) for worker in there]
    names = {worker.name for worker in there}
    shards = [shard._replace(target=shard.owner) for shard in shards]
    balancing = False
    for _ in range(200):
        placement = compute_placement(shards, there, policy._replace(rebalance_now=policy.rebalance_now or balancing))
        balancing = placement.balancing
        now = next_moves(placement, *_maps(shards), limit)
        unserved = {move for move in placement.moves if move.source is None}
        assert unserved - set(now) <= {move for move in unserved if _maps(shards)[1][move.shard] == move.target}
        if not now and not any(shard.target not in (None, shard.owner) for shard in shards):
            break
        shards = ordered(shards, now)
        under_way = [shard for shard in shards if shard.owner in names and shard.target not in (None, shard.owner)]
        assert len(under_way) <= limit
        shards = [
            shard._replace(owner=shard.target)
            if shard.target is not None and (shard.owner not in names or rng.random() < 0.5)
            else shard
            for shard in shards
        ]
    if policy.mode == "Auto" and policy.strategy == "Count":
        assert compute_placement(shards, there, policy).moves == ()


@given(
    st.lists(st.sampled_from([*NAMES, None]), min_size=1, max_size=40),
    some_workers,
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_repeated_plans_by_count_complete_the_first_moves(
    owners: list[str | None], there: list[Worker], orders: int, done: int
) -> None:
    """So what a preview showed is what happens, little by little."""
    there = [worker._replace(capacity=1.0) for worker in there]
    shards = [Shard(ShardId(number), owner, owner) for number, owner in enumerate(owners)]
    policy = Policy(rebalance_now=True)
    placement = compute_placement(shards, there, policy)
    first = placement.moves[:orders]
    arrived = {move.shard for move in first[:done]}
    now = [shard._replace(owner=shard.target) if shard.id in arrived else shard for shard in ordered(shards, first)]
    again = compute_placement(now, there, policy)
    assert again.hash == placement.hash
    assert {move.shard for move in again.moves} == {move.shard for move in placement.moves} - arrived


def test_orders_under_way_count_against_the_limit() -> None:
    """Of four allowed, two are on their way."""
    shards = held(w_0=12)
    placement = compute_placement(shards, workers(2), Policy())
    assert len(placement.moves) == 6
    now = next_moves(placement, *_maps(shards), 4)
    assert now == list(placement.moves[:4])
    shards = ordered(shards, now[:2])
    again = compute_placement(shards, workers(2), Policy(rebalance_now=True))
    assert [move[:3] for move in next_moves(again, *_maps(shards), 4)] == [move[:3] for move in placement.moves[2:4]]
    assert next_moves(again, *_maps(shards), 2) == []
    assert next_moves(again, *_maps(shards), 1) == []


def test_a_shard_on_its_way_is_sent_elsewhere_at_once() -> None:
    """It takes no more shards than its limit."""
    shards = [Shard(ShardId(0), "w-0", "w-1"), Shard(ShardId(1), "w-0", "w-0"), Shard(ShardId(2), "w-0", "w-0")]
    placement = compute_placement(shards, workers(3), Policy(pins={0: "w-2", 1: "w-1"}))
    assert next_moves(placement, *_maps(shards), 1) == [Move(ShardId(0), "w-0", "w-2", "pinned to w-2")]


def test_a_move_that_waits_holds_up_none_that_is_under_way() -> None:
    """The more urgent move waits for its turn; the other one goes elsewhere at once."""
    shards = [Shard(ShardId(0), "w-0", "w-0", 50.0), Shard(ShardId(1), "w-0", "w-1", 1.0)]
    placement = compute_placement(shards, workers(3), Policy("Load", pins={0: "w-2", 1: "w-2"}))
    assert [move.shard for move in placement.moves] == [0, 1]
    assert [move.shard for move in next_moves(placement, *_maps(shards), 1)] == [1]


def test_of_orders_beyond_the_limit_some_are_taken_back() -> None:
    """A worker that left by itself leaves uncounted orders; with new targets, they would all move at once."""
    shards = [Shard(ShardId(number), "w-0", "w-1") for number in range(4)]
    there = [Worker("w-0", draining=True), Worker("w-1", leaving=True), Worker("w-2")]
    now = next_moves(compute_placement(shards, there, Policy()), *_maps(shards), 1)
    assert [(move.shard, move.target) for move in now] == [(0, "w-2"), (1, "w-0"), (2, "w-0"), (3, "w-0")]
    assert {move.reason for move in now[1:]} == {"waits for its turn"}
    shards = ordered(shards, now)
    assert next_moves(compute_placement(shards, there, Policy()), *_maps(shards), 1) == []


def test_of_orders_beyond_the_limit_those_that_stand_stay() -> None:
    """They are under way: all others wait, and are taken back before they are sent elsewhere."""
    shards = [Shard(ShardId(number), "w-0", "w-1" if number < 3 else "w-3") for number in range(4)]
    there = [Worker("w-0", draining=True), Worker("w-1"), Worker("w-2")]
    assert next_moves(compute_placement(shards, there, Policy(mode="Manual")), *_maps(shards), 2) == [
        Move(ShardId(3), "w-0", "w-0", "waits for its turn")
    ]


@given(some_shards, some_workers, some_policies, st.integers(1, 5))
def test_what_is_ordered_is_never_more_than_allowed(
    shards: list[Shard], there: list[Worker], policy: Policy, limit: int
) -> None:
    """Whatever orders there were: those that stand, and those that are given, are within the limit, or none is given."""
    live = {worker.name for worker in there if worker.live}
    now = next_moves(compute_placement(shards, there, policy), *_maps(shards), limit)
    after = ordered(shards, now)
    moving = [shard.id for shard in after if shard.owner in live and shard.target not in (None, shard.owner)]
    assert len(moving) <= limit or not {move.shard for move in now} & set(moving)


def test_a_takeover_is_not_held_up_by_moves() -> None:
    """Even one whose dead owner is still on record counts for nothing."""
    shards = [Shard(ShardId(0), "w-1", "w-0"), Shard(ShardId(1), "w-1", "w-1"), *settled(*["w-0"] * 4)[2:]]
    there = [Worker("w-0"), Worker("w-1", live=False), Worker("w-2")]
    placement = compute_placement(shards, there, Policy(mode="Manual", pins={3: "w-2"}))
    now = next_moves(placement, *_maps(shards), 1)
    assert [(move.shard, move.source) for move in now] == [(1, None), (3, "w-0")]


def test_what_is_on_its_way_comes_first_and_balance_in_its_own_order() -> None:
    """The first moves of a plan are those that even the workers out most."""
    shards = [*settled(*["w-0"] * 6), Shard(ShardId(6), "w-0", "w-1")]
    placement = compute_placement(shards, workers(3), Policy())
    assert [(move.shard, move.target) for move in placement.moves] == [(6, "w-1"), (5, "w-2"), (4, "w-1"), (3, "w-2")]


def test_of_equal_urgency_the_heaviest_is_first() -> None:
    """Its worker may have no time for all of them."""
    shards = settled("w-2", "w-2", "w-2", loads=[5, 50, 20])
    there = [*workers(2), Worker("w-2", leaving=True)]
    placement = compute_placement(shards, there, Policy("Load"))
    assert [move.shard for move in placement.moves] == [1, 2, 0]


def test_by_count_the_loads_do_not_matter() -> None:
    """A worker with the one busy shard has as many as the other."""
    shards = settled("w-0", "w-0", "w-1", "w-1", loads=[500, 1, 1, 1])
    placement = compute_placement(shards, workers(2), Policy(imbalance_threshold_percent=0, rebalance_now=True))
    assert (placement.moves, placement.imbalance_percent) == ((), 0.0)


# --- reasons


def test_reasons_say_what_a_person_would() -> None:
    """Each with the worker that it is about; the most urgent first."""
    shards = [
        Shard(ShardId(0), "w-1", "w-1"),
        Shard(ShardId(1), "w-3", "w-3"),
        Shard(ShardId(2), "w-0", "w-0"),
        Shard(ShardId(3), None, None),
        Shard(ShardId(4), "w-4", None),
        Shard(ShardId(5), "gone", None),
        Shard(ShardId(6), "w-0", "w-2"),
        Shard(ShardId(7), None, None),
        Shard(ShardId(8), "w-1", "w-1"),
    ]
    there = [
        *(Worker("w-0"), Worker("w-1", draining=True), Worker("w-2"), Worker("w-3", leaving=True)),
        Worker("w-4", live=False),
    ]
    pins = {2: "w-2", 7: "w-0", 8: "w-0", 3: "w-9", 0: "w-1", 1: "w-3", 5: "w-4"}
    placement = compute_placement(shards, there, Policy(mode="Manual", pins=pins))
    assert [(move.shard, move.reason) for move in placement.moves] == [
        (3, "no owner (pinned, but w-9 has left)"),
        (4, "w-4 has left"),
        (5, "gone has left (pinned, but w-4 has left)"),
        (7, "no owner; pinned to w-0"),
        (1, "w-3 is leaving (pinned, but w-3 is leaving)"),
        (0, "w-1 is draining (pinned, but w-1 is draining)"),
        (8, "w-1 is draining; pinned to w-0"),
        (2, "pinned to w-2"),
        (6, "on its way to w-2"),
    ]


def test_a_pin_that_waits_for_the_end_of_a_pause_is_no_fault_of_its_worker() -> None:
    """The worker reads the shard; a move that was ordered before goes on."""
    placement = compute_placement([Shard(ShardId(0), "w-0", "w-1")], workers(3), Policy(mode="Paused", pins={0: "w-2"}))
    assert placement.moves == (Move(ShardId(0), "w-0", "w-1", "on its way to w-1"),)


def test_reasons_for_balance_say_how_much_is_too_much() -> None:
    """By count, and by a shard that is hot."""
    assert set(reasons(compute_placement(held(w_0=60, w_1=36), workers(2), Policy())).values()) == {
        "w-0 holds 60 of 48 shards"
    }
    there = [Worker("w-0", capacity=2.0), Worker("w-1")]
    assert set(reasons(compute_placement(held(w_0=9), there, Policy())).values()) == {"w-0 holds 9 of 6 shards"}
    placement = compute_placement(settled("w-1", "w-1", loads=[100, 1]), workers(3), Policy("Load"))
    assert reasons(placement) == {1: "leaves shard 0 alone on w-1: hotter than a fair share"}


# --- who is wrong


@pytest.mark.parametrize(
    ("shards", "there", "message"),
    [
        pytest.param([], [Worker("w-0"), Worker("w-0")], "two workers have one name", id="workers"),
        pytest.param([*held(w_0=1), *held(w_0=1)], workers(1), "two shards have one id", id="shards"),
        pytest.param([], [Worker("w-0", capacity=0.0)], "w-0: capacity 0.0 is not above 0", id="capacity"),
    ],
)
def test_nonsense_is_refused(shards: list[Shard], there: list[Worker], message: str) -> None:
    """The error names the caller's mistake."""
    with pytest.raises(ValueError, match=message):
        compute_placement(shards, there, Policy())
