"""Placement for balance, by count and by load: the rules, and the cases that people will meet."""

from collections import Counter
from math import ceil

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from threadcluster_operator.api import Strategy
from threadcluster_operator.planning.placement import (
    BASE_LOAD,
    Move,
    Policy,
    Shard,
    Worker,
    compute_placement,
)

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.assignment import Candidate, assign_shards
from tests.operator.planning.clusters import (
    NAMES,
    applied,
    counts,
    equal_workers,
    held,
    levels,
    ordered,
    reasons,
    settled,
    some_loads,
    strategy_names,
    workers,
)
from tests.support.examples import examples

# --- by count


@given(st.lists(st.sampled_from([*NAMES, None, "gone"]), max_size=60), equal_workers)
def test_equal_workers_get_as_much_as_the_share_rule_gives_with_as_few_moves(
    owners: list[str | None], there: list[Worker]
) -> None:
    """Both rules agree on how many go where, and on how many move."""
    shards = [Shard(ShardId(number), owner, owner) for number, owner in enumerate(owners)]
    placement = compute_placement(shards, there, Policy(rebalance_now=True))
    before = {shard.id: shard.owner for shard in shards}
    shared = assign_shards(before, [Candidate(worker.name) for worker in there])
    assert sorted(Counter(placement.targets.values()).values()) == sorted(Counter(shared.values()).values())
    assert len(placement.moves) == sum(before[shard_id] != target for shard_id, target in shared.items())


@given(st.integers(1, 60), st.integers(1, 5), strategy_names)
def test_one_more_worker_costs_no_more_than_its_share(shards: int, count: int, strategy: Strategy) -> None:
    """And one less costs what it had."""
    policy = Policy(strategy)
    unowned = [Shard(ShardId(number), None, None) for number in range(shards)]
    before = applied(unowned, compute_placement(unowned, workers(count), policy))
    more = compute_placement(before, workers(count + 1), policy)
    assert len(more.moves) <= ceil(shards / (count + 1))
    if count > 1:
        lost = sum(shard.owner == NAMES[count - 1] for shard in before)
        assert len(compute_placement(before, workers(count - 1), policy).moves) == lost


def test_shares_follow_capacity() -> None:
    """Twice the capacity is twice the shards, at first and later."""
    there = [Worker("w-0"), Worker("w-1", capacity=2.0), Worker("w-2", capacity=0.5)]
    unowned = [Shard(ShardId(number), None, None) for number in range(35)]
    assert counts(compute_placement(unowned, there, Policy())) == {"w-0": 10, "w-1": 20, "w-2": 5}
    assert counts(compute_placement(held(w_0=35), there, Policy())) == {"w-0": 10, "w-1": 20, "w-2": 5}
    assert compute_placement(held(w_0=10, w_1=20, w_2=5), there, Policy(imbalance_threshold_percent=0)).moves == ()


@pytest.mark.parametrize(
    ("shards", "threshold", "moves"),
    [
        pytest.param(held(w_0=11, w_1=11, w_2=8), 10, 0, id="within the threshold"),
        pytest.param(held(w_0=12, w_1=10, w_2=8), 10, 2, id="above it, and then fully"),
        pytest.param(held(w_0=12, w_1=12, w_2=6), 20, 0, id="one has too little, and none too much"),
        pytest.param(held(w_0=13, w_1=13, w_2=4), 30, 6, id="one has hardly anything"),
        pytest.param(held(w_0=11, w_1=10, w_2=10), 0, 0, id="one shard is no imbalance"),
        pytest.param(held(w_0=1, w_1=1), 0, 0, id="nothing, and nothing to have"),
        pytest.param(held(w_0=2, w_1=1), 100, 1, id="nothing, and something to have"),
        pytest.param([], 0, 0, id="no shards"),
    ],
)
def test_patience(shards: list[Shard], threshold: int, moves: int) -> None:
    """Shards move for balance only where it is worth it."""
    assert len(compute_placement(shards, workers(3), Policy(imbalance_threshold_percent=threshold)).moves) == moves


def test_imbalance_is_reported_whether_anything_moves_or_not() -> None:
    """How far the first is above its share."""
    placement = compute_placement(held(w_0=60, w_1=48, w_2=36), workers(3), Policy(mode="Paused"))
    assert placement.imbalance_percent == pytest.approx(25.0)
    assert placement.moves == ()
    assert compute_placement([], [], Policy()).imbalance_percent == 0.0


@pytest.mark.parametrize(
    ("shards", "percent"),
    [
        pytest.param(held(w_0=6, w_1=4, w_2=3), 100 * (6 / (13 / 3) - 1), id="6, 4 and 3"),
        pytest.param(held(w_0=5, w_1=4, w_2=4), 0.0, id="no move would help"),
        pytest.param(held(w_0=13), 200.0, id="all on one"),
    ],
)
def test_imbalance_is_the_figure_that_the_threshold_is_compared_with(shards: list[Shard], percent: float) -> None:
    """Balance begins for a threshold below the figure, and not for one above it."""
    found = compute_placement(shards, workers(3), Policy(mode="Paused")).imbalance_percent
    assert found == pytest.approx(percent)
    below = compute_placement(shards, workers(3), Policy(imbalance_threshold_percent=found - 1)).moves
    assert bool(below) is (percent > 0)
    if percent <= 100:  # beyond that a worker has hardly anything, which is reason enough
        assert not compute_placement(shards, workers(3), Policy(imbalance_threshold_percent=found + 1)).moves


def test_a_threshold_is_not_raised_by_what_no_move_can_lower() -> None:
    """Pins that are more than a share count for nothing, and the others share the rest."""
    shards = held(w_0=30, w_1=8, w_2=10)
    pins = dict.fromkeys(range(30), "w-0")
    placement = compute_placement(shards, workers(3), Policy(pins=pins, imbalance_threshold_percent=20))
    assert placement.moves == ()
    assert placement.imbalance_percent == pytest.approx(100 / 9)
    assert len(compute_placement(shards, workers(3), Policy(pins=pins)).moves) == 1


def test_what_is_still_on_its_way_is_sent_elsewhere_first() -> None:
    """That saves a move."""
    shards = [*settled(*["w-0"] * 4, *["w-1"] * 3), *[Shard(ShardId(7 + n), "w-0", "w-1") for n in range(2)]]
    shards = [shard._replace(id=ShardId(8 - shard.id)) for shard in shards]
    placement = compute_placement(shards, workers(3), Policy())
    assert {move.shard for move in placement.moves if move.target == "w-2"} >= {0, 1}


def test_a_worker_that_comes_and_goes_costs_nothing() -> None:
    """Shards on their way to it stay at their owners."""
    shards = held(w_0=6, w_1=6)
    shards = ordered(shards, compute_placement(shards, workers(3), Policy()).moves)
    assert Counter(shard.target for shard in shards) == {"w-0": 4, "w-1": 4, "w-2": 4}
    placement = compute_placement(shards, [*workers(2), Worker("w-2", draining=True)], Policy())
    assert placement.moves == ()
    assert counts(placement) == {"w-0": 6, "w-1": 6}


# --- by load


@given(st.lists(st.tuples(st.sampled_from(NAMES), some_loads), max_size=40), equal_workers)
def test_no_move_for_load_raises_the_maximum(rows: list[tuple[str, float]], there: list[Worker]) -> None:
    """And who receives ends below where the source was."""
    names = [worker.name for worker in there]
    shards = settled(*[names[int(name[2:]) % len(names)] for name, _ in rows], loads=[load for _, load in rows])
    placement = compute_placement(shards, there, Policy("Load", rebalance_now=True))
    before = levels(shards, {shard.id: shard.owner for shard in shards}, there)
    after = levels(shards, placement.targets, there)
    assert max(after.values()) <= max(before.values()) * (1 + 1e-9)
    for move in placement.moves:
        assert after[move.target] < max(before.values())


@examples(300)
@given(
    st.lists(st.tuples(st.sampled_from(["w-0", "w-0", "w-1", None]), some_loads), min_size=6, max_size=40),
    st.lists(st.sampled_from([1.0, 1.0, 0.5, 3.7]), min_size=3, max_size=6),
    st.integers(0, 30),
    st.lists(st.floats(0.95, 1.05), min_size=40, max_size=40),
    st.dictionaries(st.integers(0, 40), st.sampled_from(NAMES), max_size=4),
)
def test_loads_that_wobble_move_nothing(
    rows: list[tuple[str | None, float]],
    capacities: list[float],
    threshold: int,
    wobble: list[float],
    pins: dict[int, str],
) -> None:
    """Shards balanced by load stay while every load wanders by 5 %, even when a rebalance is ordered."""
    shards = [Shard(ShardId(number), owner, owner, load) for number, (owner, load) in enumerate(rows)]
    there = [Worker(name, capacity) for name, capacity in zip(NAMES, capacities, strict=False)]
    policy = Policy("Load", imbalance_threshold_percent=threshold, pins=pins)
    placement = compute_placement(shards, there, policy)
    assume(placement.balancing)
    now = [shard._replace(load=shard.load * wobble[shard.id]) for shard in applied(shards, placement)]
    assert not compute_placement(now, there, policy).balancing
    assert not compute_placement(now, there, policy._replace(rebalance_now=True)).balancing


@given(
    st.lists(st.floats(0.0, 10.0), min_size=1, max_size=30),
    st.integers(3, 6),
    st.floats(2.0, 20.0),
    st.data(),
)
def test_a_hot_shard_is_left_alone_where_it_is(
    others: list[float], count: int, times: float, data: st.DataObject
) -> None:
    """Twice a fair share or more: whatever else is on its worker goes, and it stays."""
    rest = sum(max(load, BASE_LOAD) for load in others)
    hot = max(25.0, times * 2 * rest / (count - 2))
    owners = ["w-0", *[data.draw(st.sampled_from(NAMES[:count])) for _ in others]]
    shards = settled(*owners, loads=[hot, *others])
    placement = compute_placement(shards, workers(count), Policy("Load"))
    assert placement.targets[ShardId(0)] == "w-0"
    assert Counter(placement.targets.values())["w-0"] == 1


def test_idle_shards_spread_by_count() -> None:
    """Nothing to do is still something to have."""
    placement = compute_placement(held(w_0=12), workers(3), Policy("Load"))
    assert counts(placement) == {"w-0": 4, "w-1": 4, "w-2": 4}


def test_the_heaviest_goes_first_from_the_most_to_the_least() -> None:
    """One move that evens out is better than many small ones."""
    shards = settled(*["w-0"] * 3, "w-1", "w-2", loads=[40, 30, 30, 50, 10])
    placement = compute_placement(shards, workers(3), Policy("Load"))
    assert placement.moves == (Move(ShardId(0), "w-0", "w-2", "w-0 carries 100 commands/s, w-2 10"),)  # 60, 50, 50


def test_a_shard_that_would_only_change_the_places_stays() -> None:
    """Lighter ones go instead."""
    shards = settled(*["w-0"] * 4, "w-1", loads=[50, 50, 8, 6, 70])
    assert set(reasons(compute_placement(shards, workers(2), Policy("Load")))) == {2, 3}


def test_a_hot_shard_moves_to_a_greater_worker_only() -> None:
    """Between equals it would only change places."""
    shards = settled("w-0", "w-1", loads=[100, 1])
    assert compute_placement(shards, workers(3), Policy("Load", rebalance_now=True)).moves == ()
    there = [*workers(2), Worker("w-2", capacity=4.0)]
    placement = compute_placement(shards, there, Policy("Load"))
    assert reasons(placement)[0] == "w-0 carries 100 commands/s, w-2 0"
    assert placement.targets[ShardId(0)] == "w-2"


def test_a_greater_worker_that_is_full_is_no_better() -> None:
    """The hot shard stays."""
    shards = settled("w-0", "w-2", loads=[100, 390])
    there = [*workers(2), Worker("w-2", capacity=4.0)]
    assert compute_placement(shards, there, Policy("Load", rebalance_now=True)).moves == ()
