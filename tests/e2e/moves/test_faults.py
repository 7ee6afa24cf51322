"""One round of each fault of a process, a link or the server, under 64 clients."""

import random

import pytest

from tests.e2e.moves.cluster import Cluster
from tests.e2e.moves.faults import FAULTS
from tests.e2e.moves.scenario import play

pytestmark = pytest.mark.asyncio(loop_scope="package")


ONE_OF_EACH = (
    "kill-one",
    "kill-and-restart",
    "freeze-shortly",
    "freeze-one",
    "reset-link",
    "cut-link",
    "silence-link",
    "restart-postgres",
    "kill-postgres",
)
"""Their variants are for the soak."""


@pytest.mark.parametrize("kind", ONE_OF_EACH)
async def test_nothing_is_lost_doubled_or_reordered(cluster: Cluster, kind: str) -> None:
    """After each fault every client got a correct answer, and each shard has its expected owner."""
    await play(cluster, kind, FAULTS[kind], seed=random.randrange(2**32))
    await cluster.fsck()
