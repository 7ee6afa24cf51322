"""Figure 8: how long the planner takes over a cluster as large as they get."""

from typing import Final

from threadcluster_operator.api import Strategy

from tests.benchmarks.moves.figures import Bar, Figure, distribution
from tests.benchmarks.moves.settings import Settings
from tests.benchmarks.placement import settled, timed

_STRATEGIES: Final[tuple[Strategy, ...]] = ("Count", "Load")


def plan(settings: Settings) -> Figure:
    """Time whole plans, for both strategies, when nothing, one worker more, and one less is to be planned for."""
    times = []
    for strategy in _STRATEGIES:
        shards = settled(strategy, settings.plan_shards, settings.plan_workers)
        for case, more in (("steady", 0), ("one worker more", 1), ("one less", -1)):
            spent = [timed(strategy, shards, settings.plan_workers + more)[0] for _ in range(settings.plan_runs)]
            times.append(distribution(f"{strategy}, {case}", "s", spent))
    slowest = max(each.at("max") for each in times)
    size = f"{settings.plan_shards:,} shards, {settings.plan_workers:,} workers"
    return Figure(
        8, f"A plan for {size}", tuple(times), (Bar("plan_max", "the slowest plan of any kind", "s", slowest, 1.0),)
    )
