"""The share rule: balanced, minimal, deterministic, whatever the input."""

import random
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_worker.contract_internal import plan_hash
from shard_worker.domain.ids import ShardId
from shard_worker.ownership.assignment import Candidate, assign_shards, rendezvous

Owners = dict[ShardId, str | None]

names = [f"w{number}" for number in range(8)]
candidates = st.lists(
    st.builds(Candidate, st.sampled_from(names), leaving=st.booleans(), cordoned=st.booleans(), reads=st.just(1)),
    max_size=8,
    unique_by=lambda worker: worker.name,
)
owners = st.dictionaries(
    st.integers(0, 200).map(ShardId), st.one_of(st.none(), st.sampled_from([*names, "gone"])), max_size=60
)


def moved(before: Mapping[ShardId, str | None], after: Mapping[ShardId, str | None]) -> int:
    """How many shards have another target than owner."""
    return sum(before[shard_id] != after[shard_id] for shard_id in before)


def plain(count: int) -> list[Candidate]:
    """Workers that neither leave nor are cordoned."""
    return [Candidate(f"w{number}") for number in range(count)]


@given(owners, candidates)
def test_every_shard_has_one_target_that_may_have_it(before: Owners, workers: list[Candidate]) -> None:
    """A target is a worker that stays; a cordoned one keeps its own shards only; no target only without a receiver."""
    after = assign_shards(before, workers)
    by_name = {worker.name: worker for worker in workers}
    receivers = [worker for worker in workers if not worker.leaving and not worker.cordoned]
    assert set(after) == set(before)
    for shard_id, target in after.items():
        if target is None:
            assert not receivers
            continue
        assert not by_name[target].leaving
        assert not by_name[target].cordoned or before[shard_id] == target


@given(owners, candidates)
def test_receivers_differ_by_at_most_one(before: Owners, workers: list[Candidate]) -> None:
    """Balanced by count among those that may get more."""
    after = Counter(assign_shards(before, workers).values())
    counts = [after[worker.name] for worker in workers if not worker.leaving and not worker.cordoned]
    assert not counts or max(counts) - min(counts) <= 1


@given(owners, candidates, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(
    before: Owners, workers: list[Candidate], shuffle: random.Random
) -> None:
    """Two planners with the same knowledge make the same plan."""
    shards, mixed = list(before.items()), list(workers)
    shuffle.shuffle(shards)
    shuffle.shuffle(mixed)
    after = assign_shards(before, workers)
    assert assign_shards(dict(shards), mixed) == after
    assert plan_hash(assign_shards(dict(shards), mixed)) == plan_hash(after)


@given(owners, candidates)
def test_sharing_again_moves_nothing(before: Owners, workers: list[Candidate]) -> None:
    """A plan that was carried out is its own successor."""
    after = assign_shards(before, workers)
    assert assign_shards(after, workers) == after


@given(owners, candidates)
def test_no_plan_of_the_same_balance_moves_less(before: Owners, workers: list[Candidate]) -> None:
    """As many shards stay as any balanced placement can leave in place."""
    after = assign_shards(before, workers)
    receivers = [worker.name for worker in workers if not worker.leaving and not worker.cordoned]
    if not receivers:
        return
    parked = {worker.name for worker in workers if worker.cordoned and not worker.leaving}
    held = Counter(owner for owner in before.values() if owner in receivers)
    shards = sum(owner not in parked for owner in before.values())
    least, odd = divmod(shards, len(receivers))
    most_kept = sum(min(held[name], least) for name in receivers)
    most_kept += min(odd, sum(held[name] > least for name in receivers))
    kept = sum(before[shard_id] == target for shard_id, target in after.items() if target in receivers)
    assert kept == most_kept


@given(st.integers(0, 300), st.integers(1, 12))
def test_one_more_worker_moves_no_more_than_its_share(shards: int, workers: int) -> None:
    """From n to n + 1: at most ⌈S / (n + 1)⌉ moves, all of them to the new one."""
    before = assign_shards({ShardId(number): None for number in range(shards)}, plain(workers))
    after = assign_shards(before, plain(workers + 1))
    assert moved(before, after) <= -(-shards // (workers + 1))
    assert {target for shard_id, target in after.items() if before[shard_id] != target} <= {f"w{workers}"}


@given(st.integers(0, 300), st.integers(2, 12))
def test_a_worker_that_leaves_moves_only_its_own(shards: int, workers: int) -> None:
    """The shards of other workers stay with them."""
    before = assign_shards({ShardId(number): None for number in range(shards)}, plain(workers))
    after = assign_shards(before, [Candidate("w0", leaving=True), *plain(workers)[1:]])
    assert {shard_id for shard_id in before if before[shard_id] != after[shard_id]} == {
        shard_id for shard_id, owner in before.items() if owner == "w0"
    }


def test_shards_that_change_their_worker_go_out_in_ascending_order() -> None:
    """Those that had none and those that were too many, to the receivers in the order of their names."""
    before: Owners = {ShardId(number): "w0" if number < 5 else "gone" for number in range(6)}
    after = assign_shards(dict(reversed(before.items())), plain(3))
    assert after == {0: "w0", 1: "w0", 2: "w1", 3: "w1", 4: "w2", 5: "w2"}


def test_two_workers_of_one_name_are_refused() -> None:
    """Which of the two was meant cannot be known."""
    with pytest.raises(ValueError, match="one name"):
        assign_shards({}, [Candidate("w0"), Candidate("w0", leaving=True)])


@given(st.integers(0, 4095).map(ShardId), st.sets(st.sampled_from(names), min_size=1))
def test_a_claim_order_names_everyone_once_and_survives_a_leaver(shard_id: ShardId, workers: set[str]) -> None:
    """The departure of a worker keeps the order of the others."""
    order = rendezvous(shard_id, workers)
    assert sorted(order) == sorted(workers)
    assert rendezvous(shard_id, workers - {order[0]}) == order[1:]


def test_a_claim_order_spreads_the_shards() -> None:
    """No worker is the first for most shards."""
    first = Counter(rendezvous(ShardId(number), names)[0] for number in range(4096))
    assert min(first.values()) > 4096 / len(names) * 0.8


def test_a_large_cluster_is_shared() -> None:
    """100,000 shards on 1,000 workers, one of them new."""
    before = assign_shards({ShardId(number): None for number in range(100_000)}, plain(999))
    after = assign_shards(before, plain(1000))
    assert moved(before, after) <= 100
