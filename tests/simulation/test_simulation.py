"""Ownership under everything that may go wrong, in simulated time: thousands of schedules, each from its seed alone.

`simulation.invariants` and `simulation.run` have the invariants.  The command that a failure names prints the seed as a
story.  `make soak` runs as many more seeds as ``SIMULATION_SEEDS`` says.
"""

import os

import pytest

from tests.simulation.invariants import INVARIANTS
from tests.simulation.mutants import MUTANTS, STATEMENTS, Mutant, patched
from tests.simulation.run import grow, run
from tests.simulation.schedules import CHUNK, CHUNKS, hold
from tests.simulation.violation import Violation

SOAK_SEEDS = int(os.environ.get("SIMULATION_SEEDS", "200000"))
MUTANT_SEEDS = 1500
"""Number of schedules within which a planted bug must show; most take fewer than 100."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_promise_holds_in_every_schedule(chunk: int) -> None:
    """And much does happen: a simulation in which nothing goes wrong proves nothing."""
    seen = hold(range(chunk * CHUNK, (chunk + 1) * CHUNK))
    for kind in ("claim", "handoff", "takeover", "restart", "release", "adopt", "fence", "unknown", "ended", "plan"):
        assert seen[kind] > CHUNK // 20, kind


@pytest.mark.soak
@pytest.mark.parametrize("chunk", range(CHUNKS, CHUNKS + -(-SOAK_SEEDS // CHUNK)))
def test_every_promise_holds_in_many_more_schedules(chunk: int) -> None:
    """The seeds after those of every day."""
    hold(range(chunk * CHUNK, (chunk + 1) * CHUNK))


def _search(bug: Mutant) -> None:
    for seed in range(bug.first, bug.first + MUTANT_SEEDS):
        run(seed, faults=bug.faults, steps=bug.steps)


@pytest.mark.parametrize("bug", MUTANTS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_is_caught(bug: Mutant) -> None:
    """By the invariant that is about it, and soon."""
    with patched(bug), pytest.raises(Violation) as caught:
        _search(bug)
    assert caught.value.invariant in bug.breaks


def test_every_invariant_catches_some_planted_bug() -> None:
    """An invariant that catches nothing may check nothing."""
    assert {name for bug in MUTANTS for name in bug.breaks} == set(INVARIANTS)


def test_most_planted_bugs_are_in_the_product_or_its_statements() -> None:
    """A bug in the rest of the model proves nothing about the product."""
    assert sum(bug.in_product for bug in MUTANTS) + len(STATEMENTS) >= 35


def test_database_restarts_take_nothing_over() -> None:
    """All sessions and all locks are lost at once, again and again, and no worker is fenced for it."""
    for seed in range(200):
        outcome = run(seed, faults=("restart_database",), steps=0.0)
        assert outcome.fences == 0, f"seed {seed}"
        assert outcome.seen["takeover"] == 0, f"seed {seed}"


def test_one_worker_more_moves_no_more_than_its_share() -> None:
    """From n to n + 1 workers at least ⌊S / (n + 1)⌋ and at most ⌈S / (n + 1)⌉ shards move, and then nothing does."""
    for seed in range(200):
        least, moves, most = grow(seed)
        assert least <= moves <= most, f"seed {seed}"


def test_a_schedule_follows_from_its_seed_alone() -> None:
    """Two runs give the same story; else no failure could be replayed."""
    for seed in range(5):
        stories: list[list[str]] = [[], []]
        for story in stories:
            run(seed, tell=story.append)
        assert stories[0] == stories[1]
