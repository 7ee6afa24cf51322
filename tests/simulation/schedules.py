"""Schedules by their seeds, in chunks: each chunk is one test, so that the chunks run beside each other."""

from collections import Counter
from collections.abc import Iterable

import pytest

from tests.simulation.run import run
from tests.simulation.violation import Violation

CHUNK = 250
"""Schedules in a chunk."""
CHUNKS = 12
"""Chunks in `make test`; `make soak` goes on after them."""


def hold(seeds: Iterable[int]) -> Counter[str]:
    """Every one of these schedules keeps its promises; what happened in them."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        try:
            seen += run(seed).seen
        except Violation as violation:
            pytest.fail(f"seed {seed}: {violation}\nreplay it: python -m tests.simulation {seed}")
    return seen
