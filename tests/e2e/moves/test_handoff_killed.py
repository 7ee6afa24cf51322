"""Both sides of a handoff fail in each of its phases, under 64 clients."""

import random

import pytest

from tests.e2e.moves.cluster import Cluster
from tests.e2e.moves.handoff_faults import KILLS, OTHER_BLOWS
from tests.e2e.moves.scenario import play

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest.mark.parametrize("kind", KILLS)
async def test_a_side_killed_in_a_phase_costs_nothing(cluster: Cluster, kind: str) -> None:
    """After a kill of either side in any phase every shard has one owner, and every client got a correct answer."""
    await play(cluster, kind, KILLS[kind], seed=random.randrange(2**32))
    await cluster.fsck()


async def test_a_side_that_is_gone_for_a_while_costs_nothing(cluster: Cluster) -> None:
    """Frozen or without Postgres, shortly or until it is fenced: one of the ways, drawn; the soak goes through all."""
    kind = random.choice(list(OTHER_BLOWS))
    await play(cluster, kind, OTHER_BLOWS[kind], seed=random.randrange(2**32))
    await cluster.fsck()
