"""Both sides of a handoff fail in each of its phases, under 64 clients."""

import random

import pytest

from tests.moves.ground import Ground
from tests.moves.handoff_faults import KILLS, OTHER_BLOWS
from tests.moves.round import play

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("kind", KILLS)
async def test_a_side_killed_in_a_phase_costs_nothing(ground: Ground, kind: str) -> None:
    """Whoever dies, and whenever, every shard has one owner afterwards, and every client is told the truth."""
    await play(ground, kind, KILLS[kind], seed=random.randrange(2**32))
    await ground.fleet.fsck()


@pytest.mark.parametrize("blow", ["freeze-shortly", "freeze", "silence", "forget"])
async def test_a_side_that_is_gone_for_a_while_costs_nothing(ground: Ground, blow: str) -> None:
    """Frozen or without Postgres, shortly or until it is fenced, in one phase of four and on one side of two."""
    kind = random.choice([kind for kind in OTHER_BLOWS if kind.partition("-")[2].rpartition("-")[0] == blow])
    await play(ground, kind, OTHER_BLOWS[kind], seed=random.randrange(2**32))
    await ground.fleet.fsck()
