"""Every interleaving of two workers, two shards, one handoff and the faults: see `exhaustive`."""

import pytest

from tests.simulation.exhaustive import Bounds, Found, search, small_waits
from tests.simulation.violation import Violation

HANDOFF = Bounds(3)
CRASH = Bounds(5, {"crashes": 1})
ALL_FAULTS = Bounds(6, {"crashes": 1, "pauses": 1, "appends": 1})
LEAVING = ALL_FAULTS._replace(leaving=True)
LOST_SESSION = Bounds(4, {"losses": 1, "appends": 1})


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
