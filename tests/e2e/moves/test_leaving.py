"""Workers leave by SIGTERM while 64 clients chat."""

import random

import pytest

from tests.e2e.moves.cluster import Cluster
from tests.e2e.moves.graceful_shutdowns import DEPARTURES
from tests.e2e.moves.scenario import play

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest.mark.parametrize("kind", ["leave-one", "leave-two", "leave-one-by-one", "leave-beside-frozen"])
async def test_who_leaves_hands_over_and_ends_in_order(cluster: Cluster, kind: str) -> None:
    """Nobody has to be taken over but who was gone before, and where one stays, no request fails."""
    await play(cluster, kind, DEPARTURES[kind], seed=random.randrange(2**32))
    await cluster.fsck()
