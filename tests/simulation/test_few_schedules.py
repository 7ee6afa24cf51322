"""A few schedules of the reconciler core, for where many would take too long: branch coverage and mutation."""

import pytest

from tests.simulation.exhaustive import search, small_waits
from tests.simulation.schedules import CHUNK, CHUNKS, hold
from tests.simulation.small_cluster import Bounds

FIRST = CHUNK * CHUNKS
"""After the seeds of `test_simulation`."""
EACH = 5


@pytest.mark.parametrize("part", range(12))
def test_every_promise_holds_in_a_few_schedules(part: int) -> None:
    """As in the many."""
    hold(range(FIRST + part * EACH, FIRST + (part + 1) * EACH))


def test_every_interleaving_of_the_first_steps_of_a_handoff_keeps_the_invariants() -> None:
    """The frontier empties."""
    with small_waits():
        assert search(Bounds(2)).complete
