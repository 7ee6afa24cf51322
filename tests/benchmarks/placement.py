"""How long one plan takes: `python -m tests.benchmarks.placement` prints seconds, the best of three."""

from time import perf_counter

from threadcluster_operator.api import Strategy
from threadcluster_operator.planning.placement import Placement, Policy, Shard, Worker, compute_placement

from shard_worker.domain.ids import ShardId

SHARDS = 100_000
WORKERS = 1_000


def settled(strategy: Strategy, count: int = SHARDS, workers: int = WORKERS) -> list[Shard]:
    """Shards of unlike loads, placed by a plan for a number of workers."""
    shards = [Shard(ShardId(number), None, None, load=5.0 + number * 7919 % 1009 / 100.0) for number in range(count)]
    targets = compute_placement(shards, there(workers), Policy(strategy)).targets
    return [shard._replace(owner=targets[shard.id], target=targets[shard.id]) for shard in shards]


def there(count: int) -> list[Worker]:
    """A number of workers."""
    return [Worker(f"w-{number}") for number in range(count)]


def timed(strategy: Strategy, shards: list[Shard], workers: int) -> tuple[float, Placement]:
    """Seconds for one plan, and the plan."""
    began = perf_counter()
    placement = compute_placement(shards, there(workers), Policy(strategy))
    return perf_counter() - began, placement


def main() -> None:
    """Both strategies, in the three cases that matter."""
    strategies: tuple[Strategy, ...] = ("Count", "Load")
    for strategy in strategies:
        shards = settled(strategy)
        for case, workers in (("steady", WORKERS), ("one more worker", WORKERS + 1), ("one less", WORKERS - 1)):
            seconds, placement = min((timed(strategy, shards, workers) for _ in range(3)), key=lambda run: run[0])
            print(f"{strategy:5}  {case:16} {seconds:.3f} s  {len(placement.moves)} moves")


if __name__ == "__main__":
    main()
