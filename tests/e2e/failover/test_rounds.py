"""A fail-over is noticed, loses nothing silently, and is over within seconds."""

from pathlib import Path

import pytest

from tests.e2e.failover.rounds import ROUNDS, SERVED_S, Round, harness_on

SOAK_ROUNDS = 50
BUSY_SERVED_S = 10.0
"""The bound of `SERVED_S` on a machine that may be busy with the other tests of the gate."""


async def test_fail_overs_of_every_kind_lose_nothing_silently(tmp_path: Path) -> None:
    """One of each, one after the other on one pair, so that every timeline but the first follows another fail-over."""
    async with harness_on(tmp_path) as harness:
        for play in ROUNDS:
            await play(harness)
    slowest = max(took_s for _, took_s, _ in harness.figures)
    assert slowest < BUSY_SERVED_S, harness.figures


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("play", ROUNDS, ids=lambda play: play.__name__)
async def test_fifty_fail_overs_lose_nothing_silently(tmp_path: Path, play: Round) -> None:
    """The same, fifty times."""
    async with harness_on(tmp_path) as harness:
        for number in range(SOAK_ROUNDS):
            print(f"round {number + 1} of {SOAK_ROUNDS}")
            await play(harness)
    times = sorted(took_s for _, took_s, _ in harness.figures)
    print(f"served again: median {times[len(times) // 2]:.2f} s, most {times[-1]:.2f} s")
    assert times[-1] < SERVED_S
