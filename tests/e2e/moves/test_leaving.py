"""Workers leave by SIGTERM while 64 clients chat."""

import random

import pytest

from tests.e2e.moves.cluster import Cluster
from tests.e2e.moves.graceful_shutdowns import DEPARTURES
from tests.e2e.moves.scenario import play

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest.mark.parametrize("kind", ["leave-one", "leave-two", "leave-one-by-one", "leave-beside-frozen"])
async def test_a_leaving_worker_hands_over_and_ends_in_order(cluster: Cluster, kind: str) -> None:
    """No leaving worker is taken over, and while one worker stays, no request fails."""
    await play(cluster, kind, DEPARTURES[kind], seed=random.randrange(2**32))
    await cluster.fsck()
