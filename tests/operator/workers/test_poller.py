"""The questions to the workers in the background: who is asked when, and what is known meanwhile."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from functools import partial

import msgspec
import pytest
from threadcluster_operator.planning.freshness import SILENCE_S
from threadcluster_operator.workers.client import InvalidAnswer
from threadcluster_operator.workers.pacing import BACK_OFF_LAST_S, RARELY_AFTER_S, RARELY_S, Pace
from threadcluster_operator.workers.poller import ClusterPoll, Latest, Watched, WorkerPolls

from shard_worker.contract_internal import (
    DatabaseReport,
    DatabaseState,
    OwnershipDigest,
    OwnershipResponse,
    RebuildProgress,
    ShardTarget,
    TargetsRequest,
)
from shard_worker.domain.ids import ShardId
from tests.fakes.worker_api import MemoryWorkers

CHAT = ("talk", "chat")
AWAY = DatabaseReport(state=DatabaseState.DISCONNECTED, since=None, reason="DatabaseUnreachable", message="no answer")


class Recorded(MemoryWorkers):
    """Workers in memory, and the questions to them."""

    def __init__(self, shards: int = 8) -> None:
        super().__init__(shards)
        self.probes: Counter[str] = Counter()
        self.whole: Counter[str] = Counter()
        self.mute: set[str] = set()
        self.hanging: set[str] = set()
        self.invalid: dict[str, str] = {}
        """The fault of the answers of a worker."""
        self.invalid_whole = ""
        """The fault of the whole answers alone, of every worker."""
        self.older: set[str] = set()
        """Those of a release without digests."""

    async def probe(self, worker: str) -> OwnershipDigest | OwnershipResponse | None:
        self.probes[worker] += 1
        if worker in self.hanging:
            await asyncio.Event().wait()
        if worker in self.mute:
            return None
        if worker in self.invalid:
            raise InvalidAnswer(self.invalid[worker])
        if worker in self.older:
            found = await super().ownership_of(worker)
            return None if found is None else msgspec.structs.replace(found, database=None, digest="", health=None)
        return await super().probe(worker)

    async def ownership_of(self, worker: str) -> OwnershipResponse | None:
        # The digest in memory is made of the whole answer.
        return await super().ownership_of(worker)


class Counting(Recorded):
    """The same, with the whole answers counted that were asked for as such."""

    probing = False
    """A digest is being made of a whole answer."""

    async def probe(self, worker: str) -> OwnershipDigest | OwnershipResponse | None:
        before, self.probing = self.whole.copy(), True
        found = await super().probe(worker)
        self.whole, self.probing = before, False
        return found

    async def ownership_of(self, worker: str) -> OwnershipResponse | None:
        self.whole[worker] += 1
        if self.invalid_whole and not self.probing:
            raise InvalidAnswer(self.invalid_whole)
        return await super().ownership_of(worker)


class Asking:
    """The questions to one cluster, on a clock of the test's own."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.wakes = 0
        self.workers = Counting()
        self.polls = WorkerPolls(self._wake, lambda: self.now)
        self.poll: ClusterPoll | None = None
        self.ready: dict[str, bool] = {}

    def _wake(self, owner: tuple[str, str]) -> None:
        assert owner == CHAT
        self.wakes += 1

    async def run(self, *names: str) -> None:
        """Workers that run, and own all shards."""
        for name in names:
            self.workers.start(name)
            self.ready[name] = True
        for _ in range(4):
            self.workers.turn()
        await self.watch()

    async def watch(self, addresses: Mapping[str, str] | None = None) -> None:
        """A look at the cluster."""
        asked = {name: Watched((addresses or {}).get(name, name), ready) for name, ready in self.ready.items()}
        self.poll = self.polls.watch(CHAT, self.workers, asked)
        await self.turn()

    async def turn(self) -> None:
        """Everything that is due happens."""
        assert self.poll is not None
        self.poll._changed.set()
        for _ in range(40):
            await asyncio.sleep(0)

    async def after(self, seconds: float, *, step: float = 0.05) -> Latest:
        """Time passes."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(end, self.now + step)
            await self.turn()
        return self.latest

    @property
    def latest(self) -> Latest:
        """The knowledge of now."""
        assert self.poll is not None
        return self.poll.latest()

    def pace(self, pace: Pace) -> None:
        """The pace of the questions."""
        assert self.poll is not None
        self.poll.set_pace(pace)


@pytest.fixture
async def asking() -> AsyncIterator[Asking]:
    """No worker is asked yet."""
    made = Asking()
    yield made
    await made.polls.close()


async def test_the_first_answers_are_there_at_once(asking: Asking) -> None:
    """Workers and shards of one worker, the own state of all; and the cluster is looked at again."""
    await asking.run("chat-0", "chat-1", "chat-2")
    found = asking.latest
    assert found.begun
    assert found.verdict.known
    assert found.current
    assert found.answer is not None
    assert len(found.answer.shards) == 8
    assert set(found.readings) == {"chat-0", "chat-1", "chat-2"}
    assert asking.workers.whole.total() == 1
    assert asking.wakes


async def test_at_rest_one_worker_is_asked_often_and_nothing_wakes(asking: Asking) -> None:
    """Whole answers only for the loads."""
    await asking.run("chat-0", "chat-1", "chat-2")
    asking.pace(Pace.REST)
    await asyncio.sleep(0.1)  # the look at the first answers comes a little later, by the loop's own clock
    await asking.after(1.0)
    asking.workers.probes.clear()
    asking.workers.whole.clear()
    before = asking.wakes
    found = await asking.after(60.0)
    assert found.verdict.known
    assert asking.wakes == before
    assert 28 <= asking.workers.probes["chat-0"] <= 31
    assert 2 <= asking.workers.probes["chat-1"] <= 4
    assert asking.workers.whole.total() <= 6


async def test_a_change_is_seen_by_the_digest(asking: Asking) -> None:
    """And read from one worker; a plan is a change too."""
    await asking.run("chat-0", "chat-1")
    asking.pace(Pace.MOVING)
    await asking.after(1.0)
    before, wakes = asking.workers.whole.total(), asking.wakes
    await asking.workers.set_targets(
        TargetsRequest(asking.workers.plan_version, "h", [ShardTarget(0, "chat-1", "why")])
    )
    found = await asking.after(0.2)
    assert found.answer is not None
    assert found.answer.shards[0].target == "chat-1"
    assert found.answer.plan_version == asking.workers.plan_version
    assert found.current
    assert asking.wakes > wakes
    assert asking.workers.whole.total() == before + 1


async def test_the_new_owner_of_a_shard_is_asked_at_once(asking: Asking) -> None:
    """Else the shard would look as if it were not served, until the owner's turn comes."""
    await asking.run("chat-0", "chat-1")
    asking.pace(Pace.REST)
    await asking.after(1.0)
    shard = asking.workers.owned_by("chat-0")[0]
    asking.workers.probes.clear()
    await asking.workers.set_targets(
        TargetsRequest(asking.workers.plan_version, "h", [ShardTarget(shard, "chat-1", "why")])
    )
    for _ in range(6):
        asking.workers.turn()
    assert shard in asking.workers.owned_by("chat-1")
    found = await asking.after(2.1)
    assert found.answer is not None
    assert found.answer.shards[shard].owner == "chat-1"
    assert shard in found.readings["chat-1"].serving
    assert asking.workers.probes["chat-1"] == 1


async def test_a_worker_that_serves_other_shards_wakes(asking: Asking) -> None:
    """Its own state is in its digest, and needs no whole answer."""
    await asking.run("chat-0", "chat-1")
    asking.pace(Pace.WAITING)
    wakes = asking.wakes
    asking.workers.knobs.distort = lambda answer: msgspec.structs.replace(answer, serving=(ShardId(7),))
    found = await asking.after(1.1)
    assert found.readings["chat-1"].serving == {ShardId(7)}
    assert asking.wakes > wakes


async def test_the_progress_of_a_rebuild_wakes(asking: Asking) -> None:
    """It changes no digest, so each worker's own answer has it."""
    await asking.run("chat-0", "chat-1")
    asking.pace(Pace.WAITING)
    await asking.after(1.1)
    for done in (1, 2):
        wakes, whole = asking.wakes, asking.workers.whole.copy()
        progress = RebuildProgress(generation=2, version=1, shards_done=done, shards=8)
        asking.workers.knobs.distort = partial(msgspec.structs.replace, rebuild=progress)
        found = await asking.after(1.1)
        assert found.readings["chat-1"].rebuild == progress
        assert asking.wakes > wakes
        assert asking.workers.whole == whole


async def test_a_silent_worker_holds_up_no_other(asking: Asking) -> None:
    """It is asked again at growing pauses, and its last answer counts for a while."""
    await asking.run("chat-0", "chat-1")
    asking.pace(Pace.REST)
    await asking.after(21.0)
    asking.workers.mute.add("chat-0")
    asking.workers.probes.clear()
    found = await asking.after(SILENCE_S - 1)
    assert set(found.readings) == {"chat-0", "chat-1"}
    assert asking.now - found.verdict.read_at <= 2.0, "chat-1 is asked often now"
    await asking.after(60.0)
    assert 60 / BACK_OFF_LAST_S <= asking.workers.probes["chat-0"] <= 60 / BACK_OFF_LAST_S + 8
    assert asking.latest.verdict.known
    assert asking.latest.silent_since is None
    asking.workers.mute.clear()
    await asking.after(BACK_OFF_LAST_S + 0.1)
    assert asking.latest.readings["chat-0"].failing_since is None


async def test_when_all_are_silent_the_owners_are_unknown_after_the_grace(asking: Asking) -> None:
    """The cluster is looked at then, without another event; and soon after one answers all are asked."""
    await asking.run("chat-0", "chat-1", "chat-2")
    asking.pace(Pace.REST)
    await asking.after(21.0)
    asking.workers.mute.update(asking.ready)
    began = asking.now
    found = await asking.after(SILENCE_S)
    assert found.verdict.known
    found = await asking.after(10.0)
    assert not found.verdict.known
    assert found.verdict.outage is None
    assert found.silent_since is not None
    assert began <= found.silent_since <= began + 10.0
    await asking.after(60.0)
    asking.workers.mute.clear()
    found = await asking.after(BACK_OFF_LAST_S + 0.2)
    assert found.verdict.known
    assert all(reading.failing_since is None for reading in found.readings.values())


async def test_an_outage_is_confirmed_by_the_others_at_once(asking: Asking) -> None:
    """One worker's way to the database is no outage; all of them are one, and it ends with the first that has it."""
    await asking.run("chat-0", "chat-1")
    asking.pace(Pace.REST)
    await asking.after(21.0)
    asking.workers.knobs.outage = AWAY
    found = await asking.after(2.1)
    assert found.verdict.outage is not None
    assert found.verdict.outage.reason == "DatabaseUnreachable"
    assert all(reading.database == AWAY for reading in found.readings.values())
    asking.pace(Pace.WAITING)
    wakes = asking.wakes
    asking.workers.knobs.outage = None
    found = await asking.after(0.6)
    assert found.verdict.known
    assert asking.wakes > wakes


async def test_an_outage_is_asked_about_at_the_pace_of_the_cluster(asking: Asking) -> None:
    """No question follows from an answer at once, or an outage would load the workers and the operator."""
    await asking.run("chat-0", "chat-1", "chat-2")
    asking.pace(Pace.WAITING)
    asking.workers.knobs.outage = AWAY
    await asking.after(2.0)
    asking.workers.probes.clear()
    await asking.after(20.0)
    assert asking.workers.probes.total() <= 20 / 0.5 + 2 * 20 + 3
    assert asking.workers.probes.total() >= 60


async def test_a_worker_at_another_address_is_another_process(asking: Asking) -> None:
    """The answers of the process before do not count, and the new one is asked at once."""
    await asking.run("chat-0", "chat-1")
    asking.workers.mute.add("chat-1")
    await asking.watch({"chat-1": "https://another"})
    assert set(asking.latest.readings) == {"chat-0"}
    del asking.ready["chat-1"]
    await asking.watch()
    assert set(asking.latest.readings) == {"chat-0"}


async def test_an_answer_that_comes_too_late_is_not_taken(asking: Asking) -> None:
    """The pod was replaced while it was asked."""
    await asking.run("chat-0")
    asking.workers.hanging.add("chat-1")
    asking.ready["chat-1"] = True
    await asking.watch()
    assert asking.latest.begun is False or "chat-1" not in asking.latest.readings
    asking.workers.hanging.clear()
    await asking.watch({"chat-1": "https://another"})
    assert asking.workers.probes["chat-1"] == 2


async def test_a_pod_that_is_long_not_ready_is_asked_rarely(asking: Asking) -> None:
    """It may be a lost node's; once it is ready it is asked at once."""
    await asking.run("chat-0")
    asking.ready["chat-1"] = False
    asking.workers.mute.add("chat-1")
    await asking.watch()
    await asking.after(RARELY_AFTER_S)
    asking.workers.probes.clear()
    await asking.after(60.0)
    assert asking.workers.probes["chat-1"] <= 60 / RARELY_S + 1
    asking.workers.probes.clear()
    asking.ready["chat-1"] = True
    await asking.watch()
    assert asking.workers.probes["chat-1"] == 1


async def test_workers_of_a_release_without_digests_are_asked_for_everything(asking: Asking) -> None:
    """Their beats show after the second answer that the database is there; they may be mixed with others."""
    asking.workers.older = {"chat-0", "chat-1"}
    await asking.run("chat-0", "chat-1")
    found = await asking.after(2.1)
    assert found.verdict.known
    assert found.answer is not None
    version = await asking.workers.set_targets(
        TargetsRequest(asking.workers.plan_version, "h", [ShardTarget(0, "chat-1", "why")])
    )
    found = await asking.after(1.1)
    assert found.answer is not None
    assert found.answer.plan_version == version
    asking.workers.older = {"chat-1"}
    found = await asking.after(2.1)
    assert found.verdict.known
    assert found.current


async def test_after_a_restore_what_is_older_counts(asking: Asking) -> None:
    """Plan version and epochs of before are never seen again."""
    await asking.run("chat-0", "chat-1")
    asking.workers.plan_version = 70
    await asking.after(2.1)
    asking.workers.plan_version = 3
    found = await asking.after(5.0)
    assert found.answer is not None
    assert found.answer.plan_version == 3
    assert found.current


async def test_what_an_answer_cannot_be_taken_for_is_silence(asking: Asking) -> None:
    """Whatever a worker sends, the questions go on."""
    await asking.run("chat-0")

    def broken(_: OwnershipResponse) -> OwnershipResponse:
        raise ValueError("what no worker sends")

    asking.workers.knobs.distort = broken
    await asking.after(SILENCE_S + 3)
    assert not asking.latest.verdict.known
    asking.workers.knobs.distort = lambda answer: answer
    await asking.after(BACK_OFF_LAST_S + 0.1)
    assert asking.latest.verdict.known


async def test_what_is_wrong_with_an_answer_is_known(asking: Asking) -> None:
    """Of just that worker, since when it has been so; another answer, and one that counts, end it."""
    await asking.run("chat-0", "chat-1")
    asking.pace(Pace.WAITING)
    began = asking.now
    asking.workers.invalid["chat-1"] = "it is longer"
    found = await asking.after(SILENCE_S)
    assert found.silent.keys() == {"chat-1"}
    assert found.silent["chat-1"].fault == "it is longer"
    assert began <= found.silent["chat-1"].since <= began + 1.1
    assert found.silent_since is None
    del asking.workers.invalid["chat-1"]
    asking.workers.mute.add("chat-1")
    found = await asking.after(BACK_OFF_LAST_S + 0.1)
    assert found.silent["chat-1"].fault == ""
    asking.workers.mute.clear()
    assert (await asking.after(BACK_OFF_LAST_S + 0.1)).silent == {}


async def test_a_whole_answer_that_is_not_taken_is_known_though_the_digest_is(asking: Asking) -> None:
    """The worker is not silent: it answers the short question."""
    asking.workers.invalid_whole = "it is longer"
    await asking.run("chat-0")
    found = await asking.after(SILENCE_S)
    assert found.answer is None
    assert found.silent["chat-0"].fault == "it is longer"
    assert asking.wakes > 0
    asking.workers.invalid_whole = ""
    found = await asking.after(2.0)
    assert found.answer is not None
    assert found.silent == {}


async def test_an_answer_to_a_later_question_is_waited_for(asking: Asking) -> None:
    """A question that is under way was sent before what it should show."""
    await asking.run("chat-0")
    asking.pace(Pace.REST)
    await asking.after(1.0)
    asking.workers.probes.clear()
    assert asking.poll is not None
    wakes = asking.wakes
    asking.poll.hurry()
    await asking.turn()
    assert asking.workers.probes["chat-0"] == 1
    assert asking.wakes == wakes + 1, "the look that waits for it"
    await asking.after(2.1)
    assert asking.wakes == wakes + 1


async def test_a_cluster_that_is_gone_is_asked_no_more(asking: Asking) -> None:
    """And what was known of it is gone too."""
    await asking.run("chat-0")
    asking.polls.forget(CHAT)
    await asking.turn()
    asking.workers.probes.clear()
    await asking.after(5.0)
    assert not asking.workers.probes
    asking.polls.forget(CHAT)
    await asking.watch()
    assert asking.workers.probes["chat-0"] == 1


async def test_many_workers_that_swallow_packets_hold_up_no_other_cluster() -> None:
    """Forty clusters of ten; the answer of the one that is well is there in some turns of the loop."""
    polls = WorkerPolls(lambda _: None)
    silent = Recorded()
    for number in range(40):
        names = [f"silent-{number}-{ordinal}" for ordinal in range(10)]
        silent.hanging.update(names)
        polls.watch(("talk", f"silent-{number}"), silent, {name: Watched(name, ready=True) for name in names})
    for _ in range(20):
        await asyncio.sleep(0)
    well = Recorded()
    well.start("well-0")
    for _ in range(4):
        well.turn()
    poll = polls.watch(("talk", "well"), well, {"well-0": Watched("well-0", ready=True)})
    for _ in range(40):
        await asyncio.sleep(0)
    assert poll.latest().verdict.known
    assert silent.probes.total() == 40 * 4
    await polls.close()
