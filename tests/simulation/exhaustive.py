"""Every interleaving of a small cluster: breadth first over the product's reconciler core on the model's statements.

Two workers, two shards, one handoff (by a plan, by a planner, or because a worker leaves), and a budget of faults:
`small_cluster.FAULTS`.  Time passes only when every running worker waits: within a tick the order of steps is free, and a
slow worker is one that is paused.  States that were reached before are not explored again: a state is the database, the
cores with their positions, and the messages in flight, with times, epochs and beats renamed (`state_key`).

Each step checks the invariants of `Watch`.  From each state after a tick the cluster runs on without faults, in one order,
and must serve every shard where it is wanted (`served`), and move none back (`moves`).

The effect of an event on a worker, and of an operation on the database, is computed once for each of their states: a state
of the cluster is a combination of those.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from shard_worker.ownership import failure_detector, handoff, reconciler_core
from tests.simulation import invariants
from tests.simulation.small_cluster import HANDOFFS_AT_ONCE, Bounds, Cluster
from tests.simulation.violation import Violation


class Found(NamedTuple):
    """The end of a search."""

    states: int
    depth: int
    """Every state within this number of steps was explored."""
    complete: bool
    """Whether the frontier is empty."""


@contextmanager
def small_waits() -> Iterator[None]:
    """Waits of few ticks, in the same order as the product's."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (failure_detector, invariants):
            patch.setattr(module, "TTL_S", 1.0)
        patch.setattr(handoff, "HANDOFFS_AT_ONCE", HANDOFFS_AT_ONCE)
        patch.setattr(handoff, "PREPARE_S", 1.0)
        patch.setattr(handoff, "DRAIN_S", 1.0)
        patch.setattr(handoff, "LAST_RESORT_S", 1.0)
        patch.setattr(reconciler_core, "VIEWS_APART_S", 0.0)
        yield


def search(bounds: Bounds, most_states: int = 1_000_000) -> Found:
    """Explore every state within the bounds.  Raises `Violation`, with the steps that lead to it."""
    gc.disable()  # a state is in no cycle, and there are millions of objects to go through
    try:
        return _search(bounds, most_states)
    finally:
        gc.enable()


def _search(bounds: Bounds, most_states: int) -> Found:
    first = Cluster(bounds)
    frontier: list[tuple[Cluster, Any]] = [(first, ())]
    seen = {hash(first.key())}
    depth = 0
    while frontier:
        following: list[tuple[Cluster, Any]] = []
        for state, path in frontier:
            for step in state.steps():
                cluster = state.copy()
                try:
                    cluster.take(step)
                    key = hash(cluster.key())
                    if key in seen:
                        continue
                    seen.add(key)
                    following.append((cluster, (step, path)))
                    if step == ("tick",):
                        cluster.copy().prove_served()
                except Violation as violation:
                    violation.add_note("\n".join(" ".join(each) for each in _steps((step, path))))
                    raise
            if len(seen) >= most_states:
                return Found(len(seen), depth, complete=False)
        frontier = following
        depth += 1
    return Found(len(seen), depth, complete=True)


def _steps(path: Any) -> list[tuple[str, ...]]:
    steps = []
    while path:
        step, path = path
        steps.append(step)
    return steps[::-1]
