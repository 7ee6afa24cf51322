"""Placement: every rule, for whatever cluster Hypothesis thinks of; and the cases that people will meet."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from threadcluster_operator.placement import (
    BASE_LOAD,
    Mode,
    Move,
    Placement,
    Policy,
    Shard,
    Strategy,
    Worker,
    due,
    place,
)

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.share import Candidate, plan_hash, share

NAMES = [f"w-{number}" for number in range(6)]
STRATEGIES: tuple[Strategy, ...] = ("Count", "Load")
MODES: tuple[Mode, ...] = ("Auto", "Manual", "Paused")

somebody = st.sampled_from([None, *NAMES, "gone"])
strategy_names = st.sampled_from(STRATEGIES)
some_loads = st.one_of(st.just(0.0), st.floats(0.0, 20.0), st.floats(0.0, 500.0))
some_workers = st.lists(
    st.builds(
        Worker,
        st.sampled_from(NAMES),
        capacity=st.sampled_from([1.0, 1.0, 1.0, 0.5, 2.0, 3.7]),
        live=st.sampled_from([True, True, True, False]),
        leaving=st.sampled_from([False, False, False, True]),
        cordoned=st.sampled_from([False, False, False, True]),
        draining=st.sampled_from([False, False, False, True]),
    ),
    max_size=6,
    unique_by=lambda worker: worker.name,
)
some_shards = st.lists(st.tuples(somebody, somebody, some_loads), max_size=40).map(
    lambda rows: [Shard(ShardId(number), *row) for number, row in enumerate(rows)]
)
some_policies = st.builds(
    Policy,
    strategy=strategy_names,
    mode=st.sampled_from(MODES),
    imbalance_threshold_percent=st.integers(0, 100),
    pins=st.dictionaries(st.integers(0, 40), st.sampled_from([*NAMES, "gone"]), max_size=6),
    rebalance_now=st.booleans(),
)
equal_workers = st.integers(1, 6).map(lambda count: [Worker(name) for name in NAMES[:count]])


def settled(*owners: str, loads: Sequence[float] = ()) -> list[Shard]:
    """Shards that are where they were told to go, from 0."""
    return [
        Shard(ShardId(number), owner, owner, loads[number] if loads else 0.0) for number, owner in enumerate(owners)
    ]


def workers(count: int) -> list[Worker]:
    """So many equal workers."""
    return [Worker(name) for name in NAMES[:count]]


def held(**counts: int) -> list[Shard]:
    """Settled shards: so many of each worker; ``w_0`` means w-0."""
    return settled(*[name.replace("_", "-") for name, count in counts.items() for _ in range(count)])


def applied(shards: Sequence[Shard], placement: Placement) -> list[Shard]:
    """The shards once the whole plan is carried out."""
    targets = placement.targets
    return [shard._replace(owner=targets[shard.id], target=targets[shard.id]) for shard in shards]


def ordered(shards: Sequence[Shard], moves: Sequence[Move]) -> list[Shard]:
    """The shards once these moves are ordered."""
    targets = {move.shard: move.target for move in moves}
    return [shard._replace(target=targets.get(shard.id, shard.target)) for shard in shards]


def counts(placement: Placement) -> dict[str | None, int]:
    """How many shards each is to have."""
    return dict(Counter(placement.targets.values()))


def reasons(placement: Placement) -> dict[int, str]:
    """Why each shard moves."""
    return {int(move.shard): move.reason for move in placement.moves}


def levels(shards: Sequence[Shard], targets: Mapping[ShardId, str | None], there: Sequence[Worker]) -> dict[str, float]:
    """Load by capacity of each worker, every shard counting at least the base load."""
    result = dict.fromkeys((worker.name for worker in there), 0.0)
    capacity = {worker.name: worker.capacity for worker in there}
    for shard in shards:
        name = targets[shard.id]
        if name in result:
            result[name] += max(shard.load, BASE_LOAD) / capacity[name]
    return result


# --- whatever the cluster


@given(some_shards, some_workers, some_policies)
def test_every_shard_has_a_target_that_may_have_it(shards: list[Shard], there: list[Worker], policy: Policy) -> None:
    """Somebody open, or its pin, or its live owner; nobody only without either."""
    placement = place(shards, there, policy)
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
    placement = place(shards, there, policy)
    assert placement.hash == plan_hash(placement.targets)
    assert place(rng.sample(shards, len(shards)), rng.sample(there, len(there)), policy) == placement


@given(some_shards, some_workers, some_policies)
def test_the_moves_are_what_is_not_there_yet(shards: list[Shard], there: list[Worker], policy: Policy) -> None:
    """One for each, with a reason; those that nobody serves come first."""
    placement = place(shards, there, policy)
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
    placement = place(shards, there, policy)
    again = place(applied(shards, placement), there, policy)
    assert again.targets == placement.targets
    assert [move for move in again.moves if move.source is not None or policy.mode == "Paused"] == []


@given(some_shards, some_workers, some_policies)
def test_what_is_on_its_way_stays_on_its_way(shards: list[Shard], there: list[Worker], policy: Policy) -> None:
    """A plan that is ordered and not yet carried out is the same plan."""
    placement = place(shards, there, policy)
    again = place(
        [shard._replace(target=placement.targets[shard.id] or shard.target) for shard in shards], there, policy
    )
    assert again.targets == placement.targets
    assert not again.balancing


@given(some_shards, some_workers, some_policies)
def test_a_cordoned_worker_keeps_what_it_has_and_gets_no_more(
    shards: list[Shard], there: list[Worker], policy: Policy
) -> None:
    """Except what is pinned, here or elsewhere, and what is on its way to another already."""
    targets = place(shards, there, policy).targets
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
    """As long as somebody may receive its shards; and pins do not stop it."""
    assume(policy.mode != "Paused")
    assume(any(worker.may_keep and not worker.cordoned for worker in there))
    keepers = {worker.name for worker in there if worker.may_keep}
    assert set(place(shards, there, policy).targets.values()) <= keepers


@given(some_shards, some_workers, some_policies)
def test_pins_win(shards: list[Shard], there: list[Worker], policy: Policy) -> None:
    """Over balance, orders under way and cordons; only a pause stops them where the owner lives."""
    targets = place(shards, there, policy).targets
    keepers = {worker.name for worker in there if worker.may_keep}
    live = {worker.name for worker in there if worker.live}
    for shard in shards:
        pin = policy.pins.get(shard.id)
        if pin in keepers and not (policy.mode == "Paused" and shard.owner in live):
            assert targets[shard.id] == pin


@given(some_shards, some_workers, some_policies)
def test_a_pause_orders_no_move_of_what_is_served(shards: list[Shard], there: list[Worker], policy: Policy) -> None:
    """What is under way already may end; what nobody serves is placed."""
    policy = policy._replace(mode="Paused")
    live = {worker.name for worker in there if worker.live}
    before = {shard.id: shard for shard in shards}
    placement = place(shards, there, policy)
    assert not placement.balancing
    for shard in shards:
        if shard.owner in live:
            assert placement.targets[shard.id] in (shard.owner, shard.target)
    for move in due(placement, *_maps(shards), 256):
        assert before[move.shard].owner not in live


@given(some_shards, some_workers, some_policies)
def test_without_being_told_to_manual_moves_nothing_for_balance(
    shards: list[Shard], there: list[Worker], policy: Policy
) -> None:
    """Who may keep a shard that is not pinned keeps it, or it goes on where it was going."""
    policy = policy._replace(mode="Manual", rebalance_now=False)
    keepers = {worker.name for worker in there if worker.may_keep}
    placement = place(shards, there, policy)
    assert not placement.balancing
    for shard in shards:
        if shard.owner in keepers and policy.pins.get(shard.id) not in keepers:
            assert placement.targets[shard.id] in (shard.owner, shard.target)


@given(some_shards, some_workers, some_policies)
def test_manual_that_is_told_to_balance_does_what_auto_does(
    shards: list[Shard], there: list[Worker], policy: Policy
) -> None:
    """It is one rule."""
    told = policy._replace(rebalance_now=True)
    assert place(shards, there, told._replace(mode="Manual")) == place(shards, there, told._replace(mode="Auto"))


def _maps(shards: Sequence[Shard]) -> tuple[dict[ShardId, str | None], dict[ShardId, str | None]]:
    return {shard.id: shard.owner for shard in shards}, {shard.id: shard.target for shard in shards}


# --- limits


@settings(max_examples=60)
@given(some_shards, some_workers, some_policies, st.integers(1, 5), st.randoms(use_true_random=False))
def test_never_more_moves_are_under_way_than_allowed_and_all_get_done(
    shards: list[Shard], there: list[Worker], policy: Policy, limit: int, rng: random.Random
) -> None:
    """From a quiet cluster, whatever gets done first; whoever nobody serves waits for nothing."""
    there = [worker._replace(live=True) for worker in there]
    names = {worker.name for worker in there}
    shards = [shard._replace(target=shard.owner) for shard in shards]
    balancing = False
    for _ in range(200):
        placement = place(shards, there, policy._replace(rebalance_now=policy.rebalance_now or balancing))
        balancing = placement.balancing
        now = due(placement, *_maps(shards), limit)
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
        assert place(shards, there, policy).moves == ()


@given(
    st.lists(st.sampled_from([*NAMES, None]), min_size=1, max_size=40),
    some_workers,
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_whoever_orders_the_first_moves_by_count_and_asks_again_gets_the_rest(
    owners: list[str | None], there: list[Worker], orders: int, done: int
) -> None:
    """So what a preview showed is what happens, little by little."""
    there = [worker._replace(capacity=1.0) for worker in there]
    shards = [Shard(ShardId(number), owner, owner) for number, owner in enumerate(owners)]
    policy = Policy(rebalance_now=True)
    placement = place(shards, there, policy)
    first = placement.moves[:orders]
    arrived = {move.shard for move in first[:done]}
    now = [shard._replace(owner=shard.target) if shard.id in arrived else shard for shard in ordered(shards, first)]
    again = place(now, there, policy)
    assert again.hash == placement.hash
    assert {move.shard for move in again.moves} == {move.shard for move in placement.moves} - arrived


def test_orders_that_are_under_way_take_up_room() -> None:
    """Of four allowed, two are on their way."""
    shards = held(w_0=12)
    placement = place(shards, workers(2), Policy())
    assert len(placement.moves) == 6
    now = due(placement, *_maps(shards), 4)
    assert now == list(placement.moves[:4])
    shards = ordered(shards, now[:2])
    again = place(shards, workers(2), Policy(rebalance_now=True))
    assert [move[:3] for move in due(again, *_maps(shards), 4)] == [move[:3] for move in placement.moves[2:4]]
    assert due(again, *_maps(shards), 2) == []
    assert due(again, *_maps(shards), 1) == []


def test_a_shard_on_its_way_is_sent_elsewhere_at_once() -> None:
    """That takes no more room than it has."""
    shards = [Shard(ShardId(0), "w-0", "w-1"), Shard(ShardId(1), "w-0", "w-0"), Shard(ShardId(2), "w-0", "w-0")]
    placement = place(shards, workers(3), Policy(pins={0: "w-2", 1: "w-1"}))
    assert due(placement, *_maps(shards), 1) == [Move(ShardId(0), "w-0", "w-2", "pinned to w-2")]


def test_of_orders_beyond_the_limit_some_are_taken_back() -> None:
    """A worker that left by itself left orders behind that nobody counted; sent elsewhere, they would all move at once."""
    shards = [Shard(ShardId(number), "w-0", "w-1") for number in range(4)]
    there = [Worker("w-0", draining=True), Worker("w-1", leaving=True), Worker("w-2")]
    now = due(place(shards, there, Policy()), *_maps(shards), 1)
    assert [(move.shard, move.target) for move in now] == [(0, "w-2"), (1, "w-0"), (2, "w-0"), (3, "w-0")]
    assert {move.reason for move in now[1:]} == {"waits for its turn"}
    shards = ordered(shards, now)
    assert due(place(shards, there, Policy()), *_maps(shards), 1) == []


def test_of_orders_beyond_the_limit_those_that_stand_stay() -> None:
    """They are under way: all others wait, and are taken back before they are sent elsewhere."""
    shards = [Shard(ShardId(number), "w-0", "w-1" if number < 3 else "w-3") for number in range(4)]
    there = [Worker("w-0", draining=True), Worker("w-1"), Worker("w-2")]
    assert due(place(shards, there, Policy(mode="Manual")), *_maps(shards), 2) == [
        Move(ShardId(3), "w-0", "w-0", "waits for its turn")
    ]


@given(some_shards, some_workers, some_policies, st.integers(1, 5))
def test_what_is_ordered_is_never_more_than_allowed(
    shards: list[Shard], there: list[Worker], policy: Policy, limit: int
) -> None:
    """Whatever orders there were: those that stand, and those that are given, are within the limit, or none is given."""
    live = {worker.name for worker in there if worker.live}
    now = due(place(shards, there, policy), *_maps(shards), limit)
    after = ordered(shards, now)
    moving = [shard.id for shard in after if shard.owner in live and shard.target not in (None, shard.owner)]
    assert len(moving) <= limit or not {move.shard for move in now} & set(moving)


def test_a_takeover_is_not_held_up_by_moves() -> None:
    """Even one whose dead owner is still on record counts for nothing."""
    shards = [Shard(ShardId(0), "w-1", "w-0"), Shard(ShardId(1), "w-1", "w-1"), *settled(*["w-0"] * 4)[2:]]
    there = [Worker("w-0"), Worker("w-1", live=False), Worker("w-2")]
    placement = place(shards, there, Policy(mode="Manual", pins={3: "w-2"}))
    now = due(placement, *_maps(shards), 1)
    assert [(move.shard, move.source) for move in now] == [(1, None), (3, "w-0")]


# --- by count


@given(st.lists(st.sampled_from([*NAMES, None, "gone"]), max_size=60), equal_workers)
def test_equal_workers_get_as_much_as_the_share_rule_gives_with_as_few_moves(
    owners: list[str | None], there: list[Worker]
) -> None:
    """Both rules agree on how many go where, and on how many move."""
    shards = [Shard(ShardId(number), owner, owner) for number, owner in enumerate(owners)]
    placement = place(shards, there, Policy(rebalance_now=True))
    before = {shard.id: shard.owner for shard in shards}
    shared = share(before, [Candidate(worker.name) for worker in there])
    assert sorted(Counter(placement.targets.values()).values()) == sorted(Counter(shared.values()).values())
    assert len(placement.moves) == sum(before[shard_id] != target for shard_id, target in shared.items())


@given(st.integers(1, 60), st.integers(1, 5), strategy_names)
def test_one_more_worker_costs_no_more_than_its_share(shards: int, count: int, strategy: Strategy) -> None:
    """And one less costs what it had."""
    policy = Policy(strategy)
    unowned = [Shard(ShardId(number), None, None) for number in range(shards)]
    before = applied(unowned, place(unowned, workers(count), policy))
    more = place(before, workers(count + 1), policy)
    assert len(more.moves) <= ceil(shards / (count + 1))
    if count > 1:
        lost = sum(shard.owner == NAMES[count - 1] for shard in before)
        assert len(place(before, workers(count - 1), policy).moves) == lost


def test_shares_follow_capacity() -> None:
    """Twice the capacity is twice the shards, at first and later."""
    there = [Worker("w-0"), Worker("w-1", capacity=2.0), Worker("w-2", capacity=0.5)]
    unowned = [Shard(ShardId(number), None, None) for number in range(35)]
    assert counts(place(unowned, there, Policy())) == {"w-0": 10, "w-1": 20, "w-2": 5}
    assert counts(place(held(w_0=35), there, Policy())) == {"w-0": 10, "w-1": 20, "w-2": 5}
    assert place(held(w_0=10, w_1=20, w_2=5), there, Policy(imbalance_threshold_percent=0)).moves == ()


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
    assert len(place(shards, workers(3), Policy(imbalance_threshold_percent=threshold)).moves) == moves


def test_imbalance_is_told_whether_anything_moves_or_not() -> None:
    """How far the first is above its share."""
    placement = place(held(w_0=60, w_1=48, w_2=36), workers(3), Policy(mode="Paused"))
    assert placement.imbalance_percent == pytest.approx(25.0)
    assert placement.moves == ()
    assert place([], [], Policy()).imbalance_percent == 0.0


def test_a_threshold_is_not_raised_by_what_no_move_can_lower() -> None:
    """Pins that are more than a share count for nothing, and the others share the rest."""
    shards = held(w_0=30, w_1=8, w_2=10)
    pins = dict.fromkeys(range(30), "w-0")
    placement = place(shards, workers(3), Policy(pins=pins, imbalance_threshold_percent=20))
    assert placement.moves == ()
    assert placement.imbalance_percent == pytest.approx(100 / 9)
    assert len(place(shards, workers(3), Policy(pins=pins)).moves) == 1


def test_what_is_still_on_its_way_is_sent_elsewhere_first() -> None:
    """That saves a move."""
    shards = [*settled(*["w-0"] * 4, *["w-1"] * 3), *[Shard(ShardId(7 + n), "w-0", "w-1") for n in range(2)]]
    shards = [shard._replace(id=ShardId(8 - shard.id)) for shard in shards]
    placement = place(shards, workers(3), Policy())
    assert {move.shard for move in placement.moves if move.target == "w-2"} >= {0, 1}


def test_a_worker_that_comes_and_goes_costs_nothing() -> None:
    """What was on its way to it stays where it is."""
    shards = held(w_0=6, w_1=6)
    shards = ordered(shards, place(shards, workers(3), Policy()).moves)
    assert Counter(shard.target for shard in shards) == {"w-0": 4, "w-1": 4, "w-2": 4}
    placement = place(shards, [*workers(2), Worker("w-2", draining=True)], Policy())
    assert placement.moves == ()
    assert counts(placement) == {"w-0": 6, "w-1": 6}


# --- by load


@given(st.lists(st.tuples(st.sampled_from(NAMES), some_loads), max_size=40), equal_workers)
def test_no_move_for_load_raises_the_maximum(rows: list[tuple[str, float]], there: list[Worker]) -> None:
    """And who receives ends below where the source was."""
    names = [worker.name for worker in there]
    shards = settled(*[names[int(name[2:]) % len(names)] for name, _ in rows], loads=[load for _, load in rows])
    placement = place(shards, there, Policy("Load", rebalance_now=True))
    before = levels(shards, {shard.id: shard.owner for shard in shards}, there)
    after = levels(shards, placement.targets, there)
    assert max(after.values()) <= max(before.values()) * (1 + 1e-9)
    for move in placement.moves:
        assert after[move.target] < max(before.values())


@settings(max_examples=300)
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
    """What was balanced by load stays while every load wanders by 5 %, even when told to balance."""
    shards = [Shard(ShardId(number), owner, owner, load) for number, (owner, load) in enumerate(rows)]
    there = [Worker(name, capacity) for name, capacity in zip(NAMES, capacities, strict=False)]
    policy = Policy("Load", imbalance_threshold_percent=threshold, pins=pins)
    placement = place(shards, there, policy)
    assume(placement.balancing)
    now = [shard._replace(load=shard.load * wobble[shard.id]) for shard in applied(shards, placement)]
    assert not place(now, there, policy).balancing
    assert not place(now, there, policy._replace(rebalance_now=True)).balancing


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
    placement = place(shards, workers(count), Policy("Load"))
    assert placement.targets[ShardId(0)] == "w-0"
    assert Counter(placement.targets.values())["w-0"] == 1


def test_idle_shards_spread_by_count() -> None:
    """Nothing to do is still something to have."""
    placement = place(held(w_0=12), workers(3), Policy("Load"))
    assert counts(placement) == {"w-0": 4, "w-1": 4, "w-2": 4}


def test_the_heaviest_goes_first_from_the_most_to_the_least() -> None:
    """One move that evens out is better than many small ones."""
    shards = settled(*["w-0"] * 3, "w-1", "w-2", loads=[40, 30, 30, 50, 10])
    placement = place(shards, workers(3), Policy("Load"))
    assert placement.moves == (Move(ShardId(0), "w-0", "w-2", "w-0 carries 100 commands/s, w-2 10"),)  # 60, 50, 50


def test_a_shard_that_would_only_change_the_places_stays() -> None:
    """Lighter ones go instead."""
    shards = settled(*["w-0"] * 4, "w-1", loads=[50, 50, 8, 6, 70])
    assert set(reasons(place(shards, workers(2), Policy("Load")))) == {2, 3}


def test_a_hot_shard_moves_to_a_greater_worker_only() -> None:
    """Between equals it would only change places."""
    shards = settled("w-0", "w-1", loads=[100, 1])
    assert place(shards, workers(3), Policy("Load", rebalance_now=True)).moves == ()
    there = [*workers(2), Worker("w-2", capacity=4.0)]
    placement = place(shards, there, Policy("Load"))
    assert reasons(placement)[0] == "w-0 carries 100 commands/s, w-2 0"
    assert placement.targets[ShardId(0)] == "w-2"


def test_a_greater_worker_that_is_full_is_no_better() -> None:
    """The hot shard stays."""
    shards = settled("w-0", "w-2", loads=[100, 390])
    there = [*workers(2), Worker("w-2", capacity=4.0)]
    assert place(shards, there, Policy("Load", rebalance_now=True)).moves == ()


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
    placement = place(shards, there, Policy(mode="Manual", pins=pins))
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


def test_reasons_for_balance_say_how_much_is_too_much() -> None:
    """By count, and by a shard that is hot."""
    assert set(reasons(place(held(w_0=60, w_1=36), workers(2), Policy())).values()) == {"w-0 holds 60 of 48 shards"}
    placement = place(settled("w-1", "w-1", loads=[100, 1]), workers(3), Policy("Load"))
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
    """The caller has made a mistake, and is told which."""
    with pytest.raises(ValueError, match=message):
        place(shards, there, Policy())
