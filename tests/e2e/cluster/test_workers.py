"""The workers in memory answer as real ones do, so that what is tested on them holds for those."""

import msgspec
import pytest
from threadcluster_operator.planning.observation import newest
from threadcluster_operator.workers.client import NoWorkerAvailable, WorkerRefused

from shard_worker.contract_internal import CordonVerb, OwnershipResponse, ShardTarget, TargetsRequest
from tests.fakes.worker_api import Knobs, MemoryWorkers


def _running(*names: str, shards: int = 6, knobs: Knobs | None = None) -> MemoryWorkers:
    workers = MemoryWorkers(shards, knobs=knobs)
    for name in names:
        workers.start(name)
    workers.turn()
    return workers


def _settle(workers: MemoryWorkers, turns: int = 50) -> None:
    for _ in range(turns):
        workers.turn()
    assert workers.settled


def _plan(version: int, plan_hash: str, *shards: int, target: str | None = None) -> TargetsRequest:
    return TargetsRequest(version, plan_hash, [ShardTarget(shard, target, "wanted") for shard in shards])


async def test_the_first_workers_share_all_shards() -> None:
    """Without a plan they help themselves, by their own rule."""
    workers = _running("demo-0", "demo-1")
    found = newest([await workers.ownership()])
    assert found is not None
    assert [shard.state for shard in found.shards] == ["serving"] * 6
    assert len(workers.owned_by("demo-0")) == len(workers.owned_by("demo-1")) == 3


async def test_a_target_moves_its_shard_after_some_turns() -> None:
    """A handoff is seen as moving first; then owner and epoch are new, and the history has it."""
    workers = _running("demo-0", "demo-1")
    shard = workers.owned_by("demo-0")[0]
    version = await workers.set_targets(_plan(workers.plan_version, "hash", shard, target="demo-1"))
    row = (await workers.ownership()).shards[shard]
    assert (row.owner, row.target, row.state, row.epoch) == ("demo-0", "demo-1", "moving", 1)
    _settle(workers)
    answer = await workers.ownership()
    row = answer.shards[shard]
    assert (row.owner, row.state, row.epoch) == ("demo-1", "serving", 2)
    assert (answer.plan_version, answer.plan_hash) == (version, "hash")
    assert [change.kind for change in await workers.history(10, shard)] == ["handoff", "claim"]


async def test_a_plan_made_from_an_older_one_is_refused() -> None:
    """The plan version is a compare-and-set."""
    workers = _running("demo-0", "demo-1")
    version = workers.plan_version
    await workers.set_targets(_plan(version, "one", 0, target="demo-1"))
    with pytest.raises(WorkerRefused) as refusal:
        await workers.set_targets(_plan(version, "two", 0, target="demo-0"))
    assert refusal.value.code == "plan-stale"


@pytest.mark.parametrize("shards", [[6], [0, 0]], ids=["unknown", "twice"])
async def test_a_target_that_makes_no_sense_is_refused(shards: list[int]) -> None:
    """And nothing of it is recorded."""
    workers = _running("demo-0", "demo-1")
    with pytest.raises(WorkerRefused):
        await workers.set_targets(_plan(workers.plan_version, "", *shards, target="demo-1"))
    assert not workers.calls
    assert all(shard.target is None for shard in (await workers.ownership()).shards)


async def test_a_dead_workers_shards_are_taken_over() -> None:
    """It is fenced some turns later; a plan that was made before that is stale."""
    workers = _running("demo-0", "demo-1", knobs=Knobs(takeover_turns=3))
    version = workers.plan_version
    workers.die("demo-0")
    workers.turn()
    assert len(workers.owned_by("demo-0")) == 3
    _settle(workers)
    assert len(workers.owned_by("demo-1")) == 6
    assert workers.plan_version > version
    assert [worker.state for worker in (await workers.ownership()).workers] == ["fenced", "ready"]


async def test_a_leaving_worker_hands_all_over() -> None:
    """By itself, without a plan, while it lives."""
    workers = _running("demo-0", "demo-1", "demo-2")
    workers.leave("demo-2")
    _settle(workers)
    assert workers.owned_by("demo-2") == []
    assert {change.kind for change in await workers.history(2, None)} == {"handoff"}


async def test_the_last_worker_that_leaves_gives_its_shards_up() -> None:
    """Without a receiver they stay; the next worker takes them."""
    workers = _running("demo-0")
    workers.leave("demo-0")
    workers.turn()
    assert (await workers.history(1, None))[0].kind == "release"
    workers.end("demo-0")
    with pytest.raises(NoWorkerAvailable):
        await workers.ownership()
    workers.start("demo-0")
    _settle(workers)
    assert len(workers.owned_by("demo-0")) == 6


async def test_a_cordon_belongs_to_the_name() -> None:
    """It outlives the process, and a name that never was is refused."""
    workers = _running("demo-0", "demo-1")
    await workers.cordon("demo-1", CordonVerb.DRAIN)
    workers.start("demo-1")
    entry = (await workers.ownership()).workers[1]
    assert (entry.cordoned, entry.draining) == (True, True)
    with pytest.raises(WorkerRefused, match="demo-0, demo-1"):
        await workers.cordon("demo-7", CordonVerb.DRAIN)


async def test_knobs_make_it_silent_or_contradict_itself() -> None:
    """No worker answers, or the answers differ."""
    workers = _running("demo-0", "demo-1")
    workers.knobs.silent = True
    with pytest.raises(NoWorkerAvailable):
        await workers.set_targets(_plan(workers.plan_version, ""))
    workers.knobs.silent = False

    def without_owners(answer: OwnershipResponse) -> OwnershipResponse:
        unowned = tuple(msgspec.structs.replace(shard, owner=None) for shard in answer.shards)
        return msgspec.structs.replace(answer, shards=unowned)

    workers.knobs.distort = without_owners
    assert {shard.owner for shard in (await workers.ownership()).shards} == {None}
    assert len(workers.owned_by("demo-0")) == 3
