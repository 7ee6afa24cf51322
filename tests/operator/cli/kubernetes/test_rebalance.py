"""Moves by command without a control server: the workers get the plan."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from threadcluster_operator.cli.kubernetes.errors import ClusterNotFound, ClusterUnreachable
from threadcluster_operator.cli.kubernetes.rebalance import RebalanceClient
from threadcluster_operator.planning.rebalance import MovesRefused

from shard_worker.contract_internal import CordonVerb, ShardState, TargetsRequest
from tests.fakes.kube import InMemoryKube
from tests.fakes.worker_api import MemoryWorkers
from tests.operator.cli.kubernetes.objects import cluster

SHARDS = 12


async def running() -> frozenset[str]:
    """The pods of all three workers."""
    return frozenset(f"chat-{number}" for number in range(3))


def uneven() -> MemoryWorkers:
    """Three workers, of which the third has nothing."""
    workers = MemoryWorkers(SHARDS)
    for number in range(2):
        workers.start(f"chat-{number}")
    workers.turn()
    workers.start("chat-2")
    assert [len(workers.owned_by(f"chat-{number}")) for number in range(3)] == [6, 6, 0]
    return workers


def planner(workers: MemoryWorkers, **rebalance: Any) -> tuple[RebalanceClient, InMemoryKube]:  # as YAML would have it
    """Of a cluster with this policy."""
    shelf = InMemoryKube(cluster("chat", rebalance=rebalance))
    return RebalanceClient(shelf, workers, running, "here", "chat"), shelf


@pytest.fixture
async def workers() -> AsyncIterator[MemoryWorkers]:
    """The uneven three, at work."""
    workers = uneven()
    turns = asyncio.create_task(workers.run(0.001))
    yield workers
    turns.cancel()


async def test_a_cluster_that_is_deleted_meanwhile_is_reported() -> None:
    """As one that was never there."""
    hand, shelf = planner(uneven())
    shelf.objects.clear()
    with pytest.raises(ClusterNotFound, match="chat has just been deleted"):
        await hand.plan()


async def test_an_invalid_spec_is_reported() -> None:
    """By field, as the operator would."""
    hand, shelf = planner(uneven())
    shelf.objects["ThreadCluster", "chat"]["spec"]["replicas"] = -1
    with pytest.raises(ClusterUnreachable, match=r"ThreadCluster chat is wrong: spec\.replicas"):
        await hand.plan()


async def test_a_plan_is_shown_and_nothing_done() -> None:
    """By the policy of the resource."""
    workers = uneven()
    hand, _ = planner(workers, mode="Manual")
    found = await hand.plan()
    assert (found["mode"], len(found["moves"])) == ("Manual", 4)
    assert {move["target"] for move in found["moves"]} == {"chat-2"}
    assert not workers.calls


async def test_the_moves_are_ordered_a_few_at_a_time_and_come_to_an_end(workers: MemoryWorkers) -> None:
    """Also in mode Manual, and without another planner; never more under way than the resource allows."""
    hand, _ = planner(workers, mode="Manual", maxConcurrentMoves=1)
    begun = await hand.rebalance((await hand.plan())["hash"])
    assert begun["moves"] == 4
    async with asyncio.timeout(10):
        while (found := await hand.progress())["left"]:
            shards = (await workers.ownership()).shards
            assert sum(1 for shard in shards if shard.state is ShardState.MOVING) <= 1
            await asyncio.sleep(0.001)
    assert (found["moved"], found["givenUp"]) == (4, [])
    assert [len(workers.owned_by(f"chat-{number}")) for number in range(3)] == [4, 4, 4]


async def test_ordered_moves_go_on_without_the_command(workers: MemoryWorkers) -> None:
    """Every one of them is ordered."""
    hand, _ = planner(workers, mode="Manual")
    await hand.rebalance(None)
    await hand.hand_over()
    async with asyncio.timeout(10):
        while len(workers.owned_by("chat-2")) < 4:
            await asyncio.sleep(0.001)


async def test_only_what_was_agreed_to_is_ordered() -> None:
    """A drained worker's shards are the operator's to move, not this command's."""
    workers = uneven()
    hand, _ = planner(workers, mode="Manual", maxConcurrentMoves=64)
    begun = await hand.plan()
    await hand.rebalance(begun["hash"])
    await workers.cordon("chat-1", CordonVerb.DRAIN)
    workers.calls.clear()
    await hand.progress()
    [(_, ordered)] = workers.calls
    agreed = {(move["shard"], move["target"]) for move in begun["moves"]}
    assert {(each.shard, each.target) for each in ordered} <= agreed  # type: ignore[attr-defined]  # a list


async def test_a_plan_that_is_older_than_another_is_made_again(workers: MemoryWorkers) -> None:
    """The operator may have been first: then the next look has the newest."""
    hand, _ = planner(workers, mode="Manual")
    await hand.rebalance(None)
    real = workers.set_targets
    stale = [True]

    async def after_another_plan(plan: TargetsRequest) -> int:
        if stale.pop() if stale else False:
            await real(TargetsRequest(plan.plan_version, "other", []))
        return await real(plan)

    workers.set_targets = after_another_plan  # type: ignore[method-assign]  # just here
    async with asyncio.timeout(10):
        while (await hand.progress())["left"]:
            await asyncio.sleep(0.001)
    assert len(workers.owned_by("chat-2")) == 4


async def test_another_plan_than_the_one_of_now_is_refused() -> None:
    """And so is every one while moves are paused, or the whole cluster is."""
    hand, shelf = planner(uneven(), mode="Manual")
    with pytest.raises(MovesRefused, match="plan 0123 is not what would be done now"):
        await hand.rebalance("0123")
    spec = shelf.objects["ThreadCluster", "chat"]["spec"]
    spec["paused"] = True
    with pytest.raises(MovesRefused, match=r"spec\.paused is true"):
        await hand.rebalance(None)
    spec |= {"paused": False, "rebalance": {"mode": "Paused"}}
    with pytest.raises(MovesRefused, match=r"spec\.rebalance\.mode is Paused"):
        await hand.rebalance(None)
