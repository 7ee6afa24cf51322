"""Every interleaving of two workers, two shards, one handoff and the faults: see `exhaustive`."""

import pytest

from tests.simulation.exhaustive import Found, search, small_waits
from tests.simulation.mutants import MUTANTS, patched
from tests.simulation.small_cluster import Bounds
from tests.simulation.violation import Violation

HANDOFF = Bounds(3)
CRASH = Bounds(5, {"crashes": 1})
ALL_FAULTS = Bounds(6, {"crashes": 1, "pauses": 1, "appends": 1})
LEAVING = ALL_FAULTS._replace(leaving=True)
LOST_SESSION = Bounds(4, {"losses": 1, "appends": 1})
FINDS = {
    "an end is no change": Bounds(3, {"crashes": 1}),
    "transfer at the same epoch": Bounds(2, {"appends": 1}),
    "transfer while draining": Bounds(2, {"appends": 1}),
    "transfer while served": HANDOFF,
    "drop not executed": HANDOFF,
    "transferred shard adopted twice": Bounds(2, {"appends": 1}),
    "adopted epoch not marked as used": Bounds(2, {"appends": 1}),
    "head before the last append": Bounds(2, {"appends": 1}),
    "heads not read": Bounds(2, {"appends": 1}),
    "drain begins before the receiver is ready": HANDOFF,
    "every wait is short": Bounds(3, {"crashes": 1}),
    "a held lock does not count": Bounds(4, {"pauses": 1}),
    "the wait begins before the end of the session": Bounds(3, {"crashes": 1}),
    "no shard is dropped": Bounds(2, {"losses": 1}),
    "no shard is adopted from a view": Bounds(2, {"losses": 1}),
    "handoffs without limit": Bounds(3, moved=2),
    "handoffs under way do not count": Bounds(3, moved=2),
}
"""The planted bugs that the search finds by itself, each within these bounds."""


def explore(bounds: Bounds) -> Found:
    """The end of a search that finds nothing; a violation fails with the steps that lead to it."""
    with small_waits():
        try:
            return search(bounds)
        except Violation as violation:
            pytest.fail(f"{bounds}: {violation}\n" + "\n".join(violation.__notes__))


def test_every_interleaving_of_a_handoff_keeps_the_invariants() -> None:
    """Without faults: the frontier empties."""
    found = explore(HANDOFF)
    assert found.complete, found
    assert found.states > 500


@pytest.mark.soak
@pytest.mark.parametrize(
    "bounds", [CRASH, ALL_FAULTS, LEAVING, LOST_SESSION], ids=["crash", "all faults", "leaving", "lost session"]
)
def test_every_interleaving_with_faults_keeps_the_invariants(bounds: Bounds) -> None:
    """The frontier empties, or the bound of states is reached; prints the depth up to which nothing is left out."""
    found = explore(bounds)
    print(f"{bounds}: {found}")
    assert found.complete or found.states >= 1_000_000


@pytest.mark.soak
@pytest.mark.parametrize("name", FINDS)
def test_the_search_finds_a_planted_bug(name: str) -> None:
    """By an invariant that is about it."""
    bug = next(each for each in MUTANTS if each.name == name)
    with small_waits(), patched(bug), pytest.raises(Violation) as caught:
        search(FINDS[name])
    assert caught.value.invariant in bug.breaks
