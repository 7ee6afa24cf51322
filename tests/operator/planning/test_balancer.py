"""The parts of the balancer, each by itself: levels, fair shares, receivers, and the best step."""

from collections.abc import Mapping

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from threadcluster_operator.api import Strategy
from threadcluster_operator.planning.balancer import Balancer, Bin, HeldShard

from shard_worker.domain.ids import ShardId
from tests.operator.planning.clusters import STRATEGIES

GAINS: Mapping[Strategy, float] = {"Count": 1e-9, "Load": 0.02}
"""A balance that has begun goes on for these."""


def site(name: str, *loads: float, capacity: float = 1.0, pinned: float = 0.0, reads: int = 1) -> Bin:
    """A worker with shards of these loads, numbered from 0."""
    made = Bin(name, capacity, reads)
    made.bound = pinned
    made.queue = [HeldShard(load, coming=False, id=ShardId(number)) for number, load in enumerate(loads)]
    made.load = pinned + sum(loads)
    return made


def balancer(*sites: Bin) -> Balancer:
    """A balancer that knows the fair level."""
    made = Balancer({each.name: each for each in sites})
    made.settle_fair()
    return made


@pytest.mark.parametrize(
    ("sites", "fair"),
    [
        ([site("a", 1, 1, 1), site("b", 1)], 2.0),
        ([site("a", 1, 1, 1, capacity=3.0), site("b", 1)], 1.0),
        ([site("a", pinned=30), site("b", *[1] * 8), site("c", *[1] * 10)], 9.0),
        ([site("a", pinned=30), site("b", pinned=20), site("c", *[1] * 4)], 4.0),
        ([site("a", pinned=60, capacity=2.0), site("b", *[1] * 5)], 5.0),
        ([site("a", 60, 1, capacity=2.0), site("b", *[1] * 5)], 6.0),
        ([site("a", 2, pinned=1), site("b", 1), site("c")], 1.0),
        ([site("a", 1), site("b"), site("c"), site("d")], 0.0),
        ([site("a", 3)], 3.0),
        ([], 0.0),
    ],
    ids=[
        "equal",
        "by capacity",
        "one with pins",
        "two with pins",
        "pins by capacity",
        "a hot shard",
        "the heavier of both",
        "one shard",
        "one worker",
        "no worker",
    ],
)
def test_the_fair_level_is_that_of_what_can_move(sites: list[Bin], fair: float) -> None:
    """A worker with more than that in one piece is left out, and the others share the rest."""
    assert balancer(*sites).fair == pytest.approx(fair)


@pytest.mark.parametrize(
    ("source", "hot"),
    [
        (site("a", 1, 50), True),
        (site("a", 1, 50, capacity=50.0), False),
        (site("a", 1, 10), False),
        (site("a", 50, pinned=1), False),
        (site("a"), False),
    ],
    ids=["above", "by capacity", "just fair", "beside a pin", "empty"],
)
def test_a_shard_is_hot_that_is_more_than_a_fair_share(source: Bin, hot: bool) -> None:
    """On its own."""
    made = balancer(source)
    made.fair = 10.0
    assert made.has_hot(source) is hot


def test_the_roomiest_is_the_lowest_with_the_shard_of_those_that_read_it() -> None:
    """By the level; the first of equals by name."""
    made = balancer(
        site("a", 1, 1),
        site("b", 1, 1, reads=2),
        site("c", *[1] * 9, capacity=4.0, reads=2),
        site("d", 1, 1),
    )
    for weight, journal_format, name in ((1.0, 1, "c"), (7.0, 1, "c"), (0.1, 1, "a"), (0.1, 2, "b"), (1.0, 2, "c")):
        found = made.roomiest(weight, journal_format)
        assert found is not None
        assert found.name == name
    assert made.roomiest(1.0, 3) is None


def test_a_site_that_has_changed_is_found_by_its_new_load() -> None:
    """And not by an older one."""
    first, second = site("a"), site("b", 1)
    made = balancer(first, second)
    for held, name in ((HeldShard(2.0, True, ShardId(7)), "b"), (HeldShard(0.5, True, ShardId(8)), "b")):
        first.take(held)
        made.changed(first)
        found = made.roomiest(1.0, 1)
        assert found is not None
        assert found.name == name
    assert [held.id for held in first.queue] == [8, 7]
    assert (first.give(1).id, first.load) == (7, 0.5)
    made.changed(first)
    assert made.roomiest(1.0, 1) is first


@pytest.mark.parametrize(
    ("threshold", "now", "begins"),
    [(49.0, False, True), (50.0, False, False), (51.0, False, False), (51.0, True, True)],
)
def test_balance_begins_above_the_threshold(threshold: float, now: bool, begins: bool) -> None:
    """Nine and three shards: half more than a fair share; an order begins at once."""
    made = balancer(site("a", *[1] * 9), site("b", *[1] * 3))
    assert made.imbalance_percent("Count") == pytest.approx(50.0)
    assert made.unbalanced("Count", threshold, rebalance_now=now) is begins


@pytest.mark.parametrize(("least", "begins"), [(3, False), (2, True), (0, True)])
def test_balance_begins_for_a_worker_with_less_than_half_of_its_share(least: int, begins: bool) -> None:
    """Whatever the threshold: 18 shards on three workers."""
    made = balancer(*(site(name, *[1.0] * count) for name, count in (("a", 8), ("b", 10 - least), ("c", least))))
    assert made.unbalanced("Count", 1000.0, rebalance_now=False) is begins


def test_a_fair_share_may_be_less_than_a_shard() -> None:
    """The imbalance is still that of the levels."""
    assert balancer(site("a", 1, 1), site("b")).imbalance_percent("Count") == 100.0
    assert balancer(site("a", 1, 1), site("b"), site("c", capacity=2.0)).imbalance_percent("Count") == pytest.approx(
        500.0
    )
    assert balancer(site("a"), site("b")).imbalance_percent("Count") == 0.0
    even = balancer(site("a", 1, capacity=4.0), site("b", 1, capacity=4.0))
    assert (even.fair, even.imbalance_percent("Count")) == (0.25, 0.0)


def test_nothing_begins_without_a_move_that_gains() -> None:
    """Five and four are even; by load a gain below 12 % begins nothing."""
    assert not balancer(site("a", *[1] * 5), site("b", *[1] * 4)).unbalanced("Count", 0.0, rebalance_now=True)
    for level, begins in ((88.0, False), (87.0, True)):
        made = balancer(site("a", 10, 90), site("b", level - 10))
        assert made.unbalanced("Load", 0.0, rebalance_now=True) is begins
        assert (made.imbalance_percent("Load") > 0) is begins


@pytest.mark.parametrize(
    ("source", "others", "step"),
    [
        (site("s", 1, 2, 4, 8), [site("a", 5)], (11.0, "a", 2)),
        (site("s", 1, 2, 4, 8), [site("a", 5), site("b", 4)], (11.0, "b", 2)),
        (site("s", 3, 3, 3), [site("a"), site("b")], (6.0, "a", 2)),
        (site("s", 3, 3, 3), [site("a", capacity=2.0)], (6.0, "a", 2)),
        (site("s", 3, 3), [site("a", 3)], None),
        (site("s", 3, 3), [site("a", 1)], (4.0, "a", 1)),
        (site("s", 1, 8), [site("a", 5)], (8.0, "a", 0)),
        (site("s", 1, 1), [site("a", 9), site("b", capacity=2.0)], (1.0, "b", 0)),
        (site("s", 1, 100), [site("a")], (100.0, "a", 0)),
        (site("s", 100), [site("a")], None),
        (site("s", 100), [site("a", capacity=4.0)], (25.0, "a", 0)),
        (site("s", 100), [site("a", 390, capacity=4.0)], None),
        (site("s"), [site("a")], None),
        (site("s", pinned=9), [site("a")], None),
    ],
    ids=[
        "levels both",
        "to the lowest",
        "the last of equals",
        "by capacity",
        "only changes places",
        "more than would level both",
        "the lightest alone",
        "only one has less",
        "beside a hot one",
        "a hot one alone",
        "a hot one to a greater",
        "a greater that is full",
        "empty",
        "pins alone",
    ],
)
def test_the_best_step_leaves_the_higher_of_both_lowest(
    source: Bin, others: list[Bin], step: tuple[float, str, int] | None
) -> None:
    """Of the moves off one worker."""
    assert balancer(source, *others).best_step(source, 0.0) == step


@pytest.mark.parametrize(
    ("source", "step"),
    [
        (site("s", 2, 10, 88), (98.0, "a", 0)),
        (site("s", 7, 10.5, 82.5), (93.0, "a", 0)),
    ],
    ids=["the better one gains just too little", "the better one gains too little"],
)
def test_a_step_that_gains_enough_is_found_beside_one_that_does_not(source: Bin, step: tuple[float, str, int]) -> None:
    """The receiver must end 12 % below where the source was, which has 100."""
    found = balancer(source, site("a", 78)).best_step(source, 0.12)
    assert found is not None
    assert tuple(found) == step


def test_a_hot_shard_does_not_move_between_equals_for_want_of_another() -> None:
    """The receiver does not read the lighter shard, and the hot one would only change places."""
    source = site("s", 1, 100, reads=2)
    source.queue[0] = source.queue[0]._replace(format=2)
    assert balancer(source, site("a")).best_step(source, 0.0) is None
    step = balancer(source, site("a", capacity=2.0)).best_step(source, 0.0)
    assert step == (50.0, "a", 1)


some_sites = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from([1.0, 2.0, 3.5, 8.0, 40.0]), st.sampled_from([1, 1, 2])), max_size=8),
        st.sampled_from([1.0, 1.0, 2.0, 0.5]),
        st.sampled_from([1, 2]),
        st.sampled_from([0.0, 0.0, 6.0]),
    ),
    min_size=2,
    max_size=5,
)


@given(some_sites, st.sampled_from([1e-9, 0.02, 0.12]))
def test_the_best_step_is_the_best_of_all(
    rows: list[tuple[list[tuple[float, int]], float, int, float]], gain: float
) -> None:
    """Of every shard that may leave, to every worker that has the least of its kind: all of them tried."""
    sites = []
    for number, (shards, capacity, reads, pinned) in enumerate(rows):
        one = site(f"w-{number}", *[load for load, _ in shards], capacity=capacity, reads=reads, pinned=pinned)
        one.queue = [
            held._replace(format=min(version, reads)) for held, (_, version) in zip(one.queue, shards, strict=True)
        ]
        sites.append(one)
    made = balancer(*sites)
    least = {
        (each.capacity, each.reads): each for each in sorted(sites, key=lambda found: (found.load, found.name))[::-1]
    }
    for source in sites:
        limit, hot = source.level * (1.0 - gain), made.has_hot(source)

        def levels(begin: int, end: int, greater: bool, source: Bin = source, limit: float = limit) -> list[float]:
            found = []
            for receiver in least.values():
                for held in source.queue[begin:end]:
                    after = (receiver.load + held.load) / receiver.capacity
                    assume(abs(after - limit) > 1e-6)
                    if held.format > receiver.reads or (greater and receiver.capacity <= source.capacity):
                        continue
                    if after < limit:
                        found.append(max((source.load - held.load) / source.capacity, after))
            return found

        free = len(source.queue) - hot
        expected = levels(0, free, False) or levels(free, len(source.queue), True)
        step = made.best_step(source, gain)
        assert (None if step is None else pytest.approx(step.level)) == min(expected, default=None)


def _numbered(rows: list[list[float]]) -> dict[str, Bin]:
    """Equal workers, whose shards have numbers of their own."""
    numbers = iter(range(1000))
    found = {}
    for position, loads in enumerate(rows):
        one = site(f"w-{position}", *loads)
        one.queue = [held._replace(id=ShardId(next(numbers))) for held in one.queue]
        found[one.name] = one
    return found


@given(
    st.lists(st.lists(st.sampled_from([1.0, 1.0, 2.0, 5.0, 30.0]), max_size=12), min_size=2, max_size=5),
    st.sampled_from(STRATEGIES),
)
def test_balance_always_moves_off_the_highest_that_can_be_lowered(rows: list[list[float]], strategy: Strategy) -> None:
    """The same moves in the same order as one at a time, with all workers looked at each time."""
    expected: dict[ShardId, str] = {}
    sites = _numbered(rows)
    made = balancer(*sites.values())
    moving = True
    while moving:
        moving = False
        for source in sorted(sites.values(), key=lambda one: (-one.level, one.name)):
            step = made.best_step(source, GAINS[strategy])
            if step is not None:
                held = source.give(step.place)
                sites[step.receiver].take(held._replace(coming=True))
                made.changed(source)
                made.changed(sites[step.receiver])
                expected[held.id] = step.receiver
                moving = True
                break
    again = balancer(*_numbered(rows).values())
    assert list(again.balance(strategy).items()) == list(expected.items())


def test_balance_goes_on_while_a_late_receiver_lets_another_worker_gain() -> None:
    """The heavy shard goes only when the light one is gone; then its receiver has too much."""
    first, second, third = site("a", 5, 2, capacity=2.0), site("b", 2, capacity=3.0), site("c", capacity=2.0)
    second.queue = [second.queue[0]._replace(id=ShardId(2))]
    assert list(balancer(first, second, third).balance("Count").items()) == [(1, "c"), (0, "b"), (2, "a")]


def test_a_shard_that_is_on_its_way_is_sent_on_before_one_that_is_there() -> None:
    """That costs no further move: "b" gets both shards of "s", as the first of two by name, and has too much then."""
    source, first, second = site("s", 1, 1, pinned=100), site("b", 1), site("c", capacity=2.0)
    first.queue = [first.queue[0]._replace(id=ShardId(9))]
    assert balancer(source, first, second).balance("Count") == {ShardId(0): "c", ShardId(1): "c"}
