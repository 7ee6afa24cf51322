"""Schedules: what is chosen from a seed, and what is asked of its end.

Once faults stop, a schedule must settle within `SETTLES_S`: everything served, where the plan wants it.  That is what the
protocol may wait for one after another: two times the TTL when most workers look dead at once (6 s), a last resort's wait
for a shard that only cordoned workers may have (2 s), a handoff that ends at its deadline and is begun again (3 s), and a worker that
leaves until its own deadline (4 s).  Then nothing may move any more.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Final, NamedTuple

from shard_worker.domain.ids import ShardId
from shard_worker.ownership import handoff
from shard_worker.ownership.view import EMPTY
from tests.simulation import transactions
from tests.simulation.faults import FAULTS, at_step
from tests.simulation.host import Shard
from tests.simulation.invariants import Change
from tests.simulation.planner import CLUSTER
from tests.simulation.simulation import DAWDLES_S, HANDOFFS_AT_ONCE, Size, World
from tests.simulation.violation import Violation

SETTLES_S: Final = 15.0
STEPS: Final = 0.04
_FAULTS_BEGIN_S: Final = (0.15, 1.0, 1.0)
_FAULTS_END_S: Final = 4.5
_LOOK_S: Final = 0.25
_STILL_S: Final = 1.0


class Outcome(NamedTuple):
    """The end of a schedule."""

    seen: Counter[str]
    settled_s: float
    """How long after the last fault."""
    fences: int


@contextmanager
def small_limits() -> Iterator[None]:
    """Limit handoffs so that a schedule with few shards reaches the limit."""
    before = handoff.HANDOFFS_AT_ONCE
    handoff.HANDOFFS_AT_ONCE = HANDOFFS_AT_ONCE  # type: ignore[misc]  # final elsewhere
    try:
        yield
    finally:
        handoff.HANDOFFS_AT_ONCE = before  # type: ignore[misc]  # as above


def size_of(rng: Random) -> Size:
    """How large the schedule of a seed is."""
    return Size(rng.choice((2, 2, 3, 3, 3, 4, 4, 5)), rng.randint(4, 8), rng.randint(1, 3))


def run(
    seed: int,
    *,
    faults: Sequence[str] = tuple(FAULTS),
    steps: float = STEPS,
    tell: Callable[[str], None] | None = None,
) -> Outcome:
    """One schedule; ``steps`` is how often something goes wrong with a change of ownership.  Raises `Violation`."""
    rng = Random(seed)
    with small_limits():
        world = World(rng, size_of(rng), _stamped(tell, lambda: world.timeline.now))
        world.begin()
        ends = rng.choice(_FAULTS_BEGIN_S)
        world.timeline.run_until(ends)
        world.at_step, world.steps = partial(at_step, world, faults), steps
        while (now := world.timeline.now) < _FAULTS_END_S:
            ends = max(ends, now + FAULTS[rng.choice(faults)](world))
            world.timeline.run_until(now + rng.expovariate(2.0))
            if rng.random() < 0.5:
                _await_stir(world, now + 1.0)
        world.at_step = None
        while (end := max(ends, world.steps_end)) > world.timeline.now:
            world.timeline.run_until(end)
        return _settle(world)


def grow(seed: int) -> tuple[int, int, int]:
    """No faults, and one worker more: how many shards must move, how many do, and how many may."""
    rng = Random(seed)
    with small_limits():
        size = size_of(rng)
        world = World(rng, size, None)
        world.planned = True
        world.begin()
        world.timeline.run_until(1.0)
        _settle(world)
        before = len(world.watch.changes)
        world.replicas += 1
        world.timeline.run_until(world.timeline.now + 1.0)
        _settle(world)
        moves = sum(change.kind == "handoff" for change in world.watch.changes[before:])
        if len(world.watch.changes) - before != moves:
            raise Violation("moves", "something else than planned moves happened without a fault")
        return size.shards // (size.workers + 1), moves, math.ceil(size.shards / (size.workers + 1))


def _settle(world: World) -> Outcome:
    """Run until the cluster is settled; no fault happens any more."""
    watch, began = world.watch, world.timeline.now
    if watch.tell is not None:
        watch.tell("--- no more faults")
    world.lossy = 0.0
    world.dawdles_s = 0.0
    quiet_at: float | None = None
    while (why := _unsettled(world)) is not None or world.timeline.now < _last_change(world, began) + DAWDLES_S:
        if world.timeline.now - began > SETTLES_S:
            no_returns(watch.changes, (quiet_at or math.inf) + DAWDLES_S)
            raise Violation("served", f"not settled {SETTLES_S} s after the last fault: {why}")
        if quiet_at is None and _all_there(world):  # before that, workers that come or go make moves
            quiet_at = world.timeline.now
        world.mend()
        world.timeline.run_until(world.timeline.now + _LOOK_S)
    settled_s = world.timeline.now - began
    if watch.tell is not None:
        watch.tell("--- settled")
    if quiet_at is not None:
        no_returns(watch.changes, quiet_at + DAWDLES_S)
    before = (len(watch.changes), world.db.plan_version)
    world.timeline.run_until(world.timeline.now + _STILL_S)
    if (len(watch.changes), world.db.plan_version) != before:
        raise Violation("moves", f"a settled cluster moves again: {watch.changes[before[0] :]}, {before} plans")
    return Outcome(watch.seen, settled_s, watch.fences)


def _last_change(world: World, began: float) -> float:
    """Since when no planner can see another owner; plans made from older views are still recorded for `DAWDLES_S`."""
    changes = world.watch.changes
    return max(began, changes[-1].at) if changes else began


def _await_stir(world: World, until: float) -> None:
    """Go on to a moment at which a fault does more than at others."""
    while not world.astir() and world.timeline.now < until:
        world.timeline.run_until(world.timeline.now + 0.02)


def _served(shard: Shard | None, epoch: int) -> bool:
    return shard is not None and shard.admits and shard.epoch == epoch


def _unsettled(world: World) -> str | None:
    """Why the cluster is not settled, or None when it is."""
    return _missing(world) or _unserved(world) or _unplanned(world)


def _missing(world: World) -> str | None:
    """The worker that is not up, or not a member that stays."""
    for number in range(world.replicas):
        if not world.named(name := f"{CLUSTER}-{number}") and name not in world.lost:
            return f"{name} is not up"
    for process in world.processes:
        row_of = world.db.workers.get(process.name)
        if process.reconciler is None or row_of is None or row_of.incarnation != process.incarnation or row_of.fenced:
            return f"{process.name}/{process.number} is not a member"
        if process.leaving:
            return f"{process.name}/{process.number} is leaving"
    return None


def _unserved(world: World) -> str | None:
    """The shard that is not served by its owner alone, or not owned by its target."""
    for row in world.db.shards.values():
        host = world.watch.hosts.get(row.incarnation or "")
        if host is None or not host.may_read() or not _served(host.shards.get(row.id), row.epoch):
            return f"shard {row.id} of {row.incarnation} at epoch {row.epoch}, for {row.target}, is not served"
        if row.target != row.owner and (world.planned or world.named(row.target or "")):
            return f"shard {row.id} of {row.owner} is wanted on {row.target}"
    for process in world.processes:
        for shard_id in process.host.shards:
            if world.db.shards[shard_id].incarnation != process.incarnation:
                return f"shard {shard_id} is still in the memory of {process.name}"
    return None


def _unplanned(world: World) -> str | None:
    """Steps that a planner would still take."""
    for planner in world.planners if world.planned else ():
        if planner.balancing:
            return "the plan is not all ordered"
        view = transactions.read_view(EMPTY).run(world.db)
        steps = planner.decide(frozenset(world.running), view)
        if steps.plan is not None or steps.stop or set(steps.run) - set(world.running):
            return f"there is more to do: {steps}"
    return None


def _all_there(world: World) -> bool:
    """Every worker that should run has a reconciler, and every shard has an owner."""
    up = {each.name for each in world.processes if each.reconciler is not None and not each.leaving}
    rows = world.db.workers.values()
    dead = [row for row in rows if not row.fenced and row.id not in up]
    return set(world.running) <= up and not dead and all(row.owner is not None for row in world.db.shards.values())


def no_returns(changes: Iterable[Change], since: float) -> None:
    """No shard comes back to a worker that it left by an order given since."""
    left: dict[ShardId, list[str | None]] = {}
    for change in changes:
        if change.kind == "handoff" and change.ordered_at >= since:
            path = left.setdefault(change.shard_id, [change.source])
            if change.owner in path:
                raise Violation("moves", f"shard {change.shard_id} comes back to {change.owner}: {path}")
            path.append(change.owner)


def _stamped(tell: Callable[[str], None] | None, now: Callable[[], float]) -> Callable[[str], None] | None:
    if tell is None:
        return None
    return lambda line: tell(f"{now():8.3f}  {line}")
