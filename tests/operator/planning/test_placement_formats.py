"""Placement where workers read different journal formats: a shard goes to a worker that reads it, or nowhere."""

import random

from hypothesis import given
from hypothesis import strategies as st
from threadcluster_operator.api import ThreadClusterSpec
from threadcluster_operator.planning.placement import Move, Policy, Shard, Worker, compute_placement
from threadcluster_operator.planning.planner import ShardOwnership, next_steps

from shard_worker.domain.ids import ShardId
from tests.operator.planning.clusters import applied, some_loads, some_policies, some_worker_name, some_workers

formats = st.integers(1, 3)
mixed_workers = st.tuples(some_workers, st.lists(formats, min_size=6, max_size=6)).map(
    lambda both: [worker._replace(reads=reads) for worker, reads in zip(both[0], both[1], strict=False)]
)
mixed_shards = st.lists(st.tuples(some_worker_name, some_worker_name, some_loads, formats), max_size=30).map(
    lambda rows: [Shard(ShardId(number), *row) for number, row in enumerate(rows)]
)


def may_get(worker: Worker, shard: Shard) -> bool:
    """Whether a worker may get a shard."""
    return worker.may_keep and not worker.cordoned and worker.reads >= shard.format


@given(mixed_shards, mixed_workers, some_policies)
def test_no_shard_moves_to_a_worker_that_does_not_read_it(
    shards: list[Shard], there: list[Worker], policy: Policy
) -> None:
    """Its target reads it, or is its live owner of now; without either it has none."""
    placement = compute_placement(shards, there, policy)
    by_name = {worker.name: worker for worker in there}
    for shard in shards:
        target = placement.targets[shard.id]
        readers = [worker.name for worker in there if may_get(worker, shard)]
        if target is None:
            assert not readers
        elif target != shard.owner:
            assert by_name[target].reads >= shard.format
        if shard.id in placement.unreadable:
            assert not readers
            assert target in (None, shard.owner)
    assert all(by_name[move.target].reads >= shards[move.shard].format for move in placement.moves)


@given(mixed_shards, mixed_workers, some_policies, st.randoms(use_true_random=False))
def test_the_order_of_the_inputs_does_not_matter_with_formats(
    shards: list[Shard], there: list[Worker], policy: Policy, rng: random.Random
) -> None:
    """The same plan, whatever came first."""
    expected = compute_placement(shards, there, policy)
    assert compute_placement(rng.sample(shards, len(shards)), rng.sample(there, len(there)), policy) == expected


@given(mixed_shards, mixed_workers)
def test_a_plan_that_was_carried_out_holds(shards: list[Shard], there: list[Worker]) -> None:
    """No shard moves back, and none moves again."""
    policy = Policy()
    after = applied(shards, compute_placement(shards, there, policy))
    owned = [shard for shard in after if shard.owner is not None]
    assert compute_placement(owned, there, policy).moves == ()


def test_balance_moves_only_what_the_receiver_reads() -> None:
    """Of four shards on one worker, two of them of a newer format, the two others move to the older worker."""
    shards = [Shard(ShardId(number), "w-0", "w-0", 0.0, 2 if number < 2 else 1) for number in range(4)]
    placement = compute_placement(shards, [Worker("w-0", reads=2), Worker("w-1", reads=1)], Policy())
    assert dict(placement.targets) == {0: "w-0", 1: "w-0", 2: "w-1", 3: "w-1"}
    assert placement.unreadable == ()


def test_a_newer_shard_stays_where_it_is_read() -> None:
    """However uneven that is."""
    shards = [Shard(ShardId(number), "w-0", "w-0", 0.0, 2) for number in range(4)]
    placement = compute_placement(shards, [Worker("w-0", reads=2), Worker("w-1", reads=1)], Policy())
    assert set(placement.targets.values()) == {"w-0"}
    assert placement.moves == ()


def test_a_pin_to_a_worker_that_does_not_read_is_named() -> None:
    """The shard goes elsewhere, and the reason says why."""
    shards = [Shard(ShardId(0), None, None, 0.0, 2)]
    placement = compute_placement(shards, [Worker("w-0"), Worker("w-1", reads=2)], Policy(pins={0: "w-0"}))
    assert placement.moves == (
        Move(ShardId(0), None, "w-1", "no owner (pinned, but w-0 does not read journal format 2)"),
    )


def test_without_a_reader_the_reason_is_no_capable_worker() -> None:
    """In the plan, and beside it for the status."""
    steps = next_steps(
        "c",
        ThreadClusterSpec(replicas=2),
        frozenset(("c-0", "c-1")),
        ShardOwnership(
            1,
            {ShardId(0): None},
            {ShardId(0): "c-0"},
            {},
            {"c-0": Worker("c-0"), "c-1": Worker("c-1")},
            {},
            formats={ShardId(0): 2},
        ),
    )
    assert steps.unreadable == (0,)
    assert steps.plan is not None
    assert dict(steps.plan.reasons) == {0: "NoCapableWorker: none reads journal format 2"}
    assert not steps.converged


def test_a_worker_that_has_not_registered_is_expected_to_read() -> None:
    """Its share waits for it; its row says what it really reads."""
    steps = next_steps(
        "c",
        ThreadClusterSpec(replicas=1),
        frozenset(("c-0",)),
        ShardOwnership(1, {ShardId(0): None}, {ShardId(0): None}, {}, {}, {}, formats={ShardId(0): 2}),
    )
    assert steps.unreadable == ()
    assert steps.plan is not None
    assert dict(steps.plan.targets) == {0: "c-0"}


def test_an_agreed_move_to_a_worker_that_does_not_read_is_dropped() -> None:
    """As one to a worker that left."""
    shard = ShardId(0)
    move = Move(shard, "c-0", "c-1", "balance")
    there = {"c-0": Worker("c-0", reads=2), "c-1": Worker("c-1")}
    seen = ShardOwnership(1, {shard: "c-0"}, {shard: "c-0"}, {}, there, {}, formats={shard: 2})
    steps = next_steps("c", ThreadClusterSpec(replicas=2), frozenset(there), seen, agreed=(move,))
    assert steps.agreed == ()
