"""Rounds of faults by the hundred, each drawn by a seed.

``THREADCLUSTER_ROUNDS`` says how many.  ``THREADCLUSTER_ROUND=kind:seed`` plays one alone, as a failing round asks for;
without a seed it is a pattern of the kinds to draw from, such as ``draining-*``.
"""

import fnmatch
import os
import random
import time

import pytest

from tests.e2e.moves.cluster import Cluster
from tests.e2e.moves.faults import FAULTS
from tests.e2e.moves.graceful_shutdowns import DEPARTURES
from tests.e2e.moves.handoff_faults import KILLS, OTHER_BLOWS
from tests.e2e.moves.scenario import ROUND_VARIABLE, Fault, play

KINDS: dict[str, Fault] = FAULTS | KILLS | OTHER_BLOWS | DEPARTURES

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.soak]


def _drawn() -> list[tuple[str, int]]:
    """Every kind as often as every other, in an order of its own each time."""
    pattern, _, seed = os.environ.get(ROUND_VARIABLE, "*").partition(":")
    kinds = fnmatch.filter(KINDS, pattern)
    assert kinds, f"{ROUND_VARIABLE}: no kind is called {pattern}; there are {', '.join(KINDS)}"
    if seed:
        return [(kinds[0], int(seed))]
    rounds = int(os.environ.get("THREADCLUSTER_ROUNDS", "200"))
    dice = random.SystemRandom()
    drawn: list[str] = []
    while len(drawn) < rounds:
        drawn += dice.sample(kinds, len(kinds))
    return [(kind, dice.randrange(2**32)) for kind in drawn[:rounds]]


@pytest.mark.timeout(3000)
async def test_rounds_of_all_kinds(cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is lost, doubled or reordered, whatever failed and whenever."""
    drawn, began = _drawn(), time.monotonic()
    with capfd.disabled():  # shows the progress of hundreds of rounds
        for number, (kind, seed) in enumerate(drawn, start=1):
            print(f"{number} of {len(drawn)}, {time.monotonic() - began:.0f} s", flush=True)
            await play(cluster, kind, KINDS[kind], seed)
            if number % 20 == 0:
                await cluster.fsck()
        await cluster.fsck()
