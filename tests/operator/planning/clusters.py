"""Clusters for the tests of placement: any that Hypothesis thinks of, and some made by hand."""

from collections import Counter
from collections.abc import Mapping, Sequence

from hypothesis import strategies as st
from threadcluster_operator.api import Mode, Strategy
from threadcluster_operator.planning.placement import (
    BASE_LOAD,
    Move,
    Placement,
    Policy,
    Shard,
    Worker,
)

from shard_worker.domain.ids import ShardId

NAMES = [f"w-{number}" for number in range(6)]
STRATEGIES: tuple[Strategy, ...] = ("Count", "Load")
MODES: tuple[Mode, ...] = ("Auto", "Manual", "Paused")

some_worker_name = st.sampled_from([None, *NAMES, "gone"])
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
        reads=st.just(1),
    ),
    max_size=6,
    unique_by=lambda worker: worker.name,
)
some_shards = st.lists(st.tuples(some_worker_name, some_worker_name, some_loads), max_size=40).map(
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
    """Shards that are at their targets, from 0."""
    return [
        Shard(ShardId(number), owner, owner, loads[number] if loads else 0.0) for number, owner in enumerate(owners)
    ]


def workers(count: int) -> list[Worker]:
    """A number of equal workers."""
    return [Worker(name) for name in NAMES[:count]]


def held(**counts: int) -> list[Shard]:
    """Settled shards: a number of each worker; ``w_0`` means w-0."""
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
