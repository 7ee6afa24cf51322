"""The election, on a Lease in memory and a clock of the test's own."""

import asyncio
import copy
import itertools
import time

import pytest
from threadcluster_operator.controller import leader_election
from threadcluster_operator.controller.leader_election import (
    DURATION_S,
    GIVE_UP_S,
    RENEW_S,
    LeaderElector,
    LeaderGuardedKube,
    LeaseRef,
)
from threadcluster_operator.kube.client import LEASE, SERVICE, Forbidden, Unreachable
from threadcluster_operator.kube.preconditions import Preconditions

from tests.fakes.kube import InMemoryKube
from tests.support.polling import eventually

PLACE = LeaseRef("system", "operator")


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """As `time.monotonic`."""
        return self.now


def holder(kube: InMemoryKube) -> str:
    """Whose the Lease is."""
    lease = kube.objects.get((LEASE.kind, PLACE.name))
    return "" if lease is None else str(lease["spec"]["holderIdentity"])


@pytest.fixture
def clock() -> Clock:
    """The replicas'."""
    return Clock()


def replica(kube: InMemoryKube, identity: str, clock: Clock) -> LeaderElector:
    """One candidate; it sleeps until the test wakes it."""

    async def sleep(_: float) -> None:
        await asyncio.Event().wait()

    return LeaderElector(kube, PLACE, identity, clock=clock.monotonic, sleep=sleep)


async def turn(one: LeaderElector, clock: Clock, after_s: float = 0.0) -> bool:
    """One turn of the election, a number of seconds later."""
    clock.now += after_s
    return await one._turn(clock.now)


async def test_the_first_who_comes_makes_the_lease(clock: Clock) -> None:
    """And the next candidate finds it taken."""
    kube = InMemoryKube()
    a, b = replica(kube, "a", clock), replica(kube, "b", clock)
    assert await turn(a, clock)
    assert not await turn(b, clock)
    assert holder(kube) == "a"


async def test_of_two_who_make_it_at_once_one_is_refused(clock: Clock) -> None:
    """The server says who was first."""
    kube = InMemoryKube()
    a, b = replica(kube, "a", clock), replica(kube, "b", clock)
    results = await asyncio.gather(turn(a, clock), turn(b, clock))
    assert sorted(results) == [False, True]


async def test_a_lease_that_is_renewed_is_never_taken(clock: Clock) -> None:
    """However long it goes on, and whatever the clocks of the machines say."""
    kube = InMemoryKube()
    a, b = replica(kube, "a", clock), replica(kube, "b", clock)
    assert await turn(a, clock)
    for _ in range(100):
        assert await turn(a, clock, RENEW_S)
        assert not await turn(b, clock)


async def test_a_lease_that_was_not_renewed_for_its_time_is_free(clock: Clock) -> None:
    """Measured by the follower's own clock, from when it last saw it change."""
    kube = InMemoryKube()
    a, b = replica(kube, "a", clock), replica(kube, "b", clock)
    assert await turn(a, clock)
    assert not await turn(b, clock, 1000.0), "seen for the first time"
    assert not await turn(b, clock, DURATION_S - 0.1)
    assert await turn(b, clock, 0.2)
    assert not await turn(a, clock), "it has been deposed, and sees it"
    assert kube.objects[LEASE.kind, PLACE.name]["spec"]["leaseTransitions"] == 1


async def test_a_leader_stops_by_its_clock_before_anyone_else_may_begin(clock: Clock) -> None:
    """Also without a notice, because its whole process was suspended."""
    kube = InMemoryKube()
    a = replica(kube, "a", clock)
    running = asyncio.create_task(a.run())
    await a.leading.wait()
    guarded = LeaderGuardedKube(kube, a)
    await guarded.create(SERVICE, {"kind": SERVICE.kind, "metadata": {"name": "while-leading"}})
    clock.now += GIVE_UP_S
    assert a.leading.is_set(), "its loop has not turned yet"
    for write in (
        guarded.delete(SERVICE, "x", "while-leading", "1"),
        guarded.create(SERVICE, {}),
        guarded.apply(SERVICE, {}, Preconditions("1", "1")),
        guarded.merge(SERVICE, "x", "while-leading", {}),
    ):
        with pytest.raises(Unreachable, match="does not lead"):
            await write
    assert GIVE_UP_S + RENEW_S < DURATION_S
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert [(verb, name) for verb, _, name in kube.writes()] == [
        ("create", PLACE.name),
        ("create", "while-leading"),
        ("merge", PLACE.name),
    ]
    assert holder(kube) == ""


async def test_a_server_that_is_away_ends_the_lead_only_after_a_while(clock: Clock) -> None:
    """A restart of the API server is no reason to stop; longer than that is."""

    async def sleep(after_s: float) -> None:
        await asyncio.sleep(0)
        clock.now += after_s

    kube = InMemoryKube()
    a = LeaderElector(kube, PLACE, "a", clock=clock.monotonic, sleep=sleep)
    running = asyncio.create_task(a.run())
    await a.leading.wait()
    kube.fault = lambda verb, kind: Unreachable(0, "", "no answer")
    began = clock.now
    await a.lost.wait()
    assert GIVE_UP_S - RENEW_S <= clock.now - began <= GIVE_UP_S + RENEW_S
    assert not a.leading.is_set()
    kube.fault = lambda verb, kind: None
    await a.leading.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert holder(kube) == ""


async def test_a_leader_that_ends_releases_the_lease(clock: Clock) -> None:
    """The next one does not wait for its time to pass; one that cannot be given back ends by itself."""
    kube = InMemoryKube()
    a, b = replica(kube, "a", clock), replica(kube, "b", clock)
    running = asyncio.create_task(a.run())
    await a.leading.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert a.lost.is_set()
    assert await turn(b, clock)


async def test_another_leaders_lease_is_not_released(clock: Clock) -> None:
    """It was lost without our knowing."""
    kube = InMemoryKube()
    a = replica(kube, "a", clock)
    running = asyncio.create_task(a.run())
    await a.leading.wait()
    await kube.merge(LEASE, *PLACE, {"spec": {"holderIdentity": "b"}})
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert holder(kube) == "b"


async def test_the_time_that_the_machine_slept_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own clock may have stood still meanwhile; the other machines' did not."""
    slept_s = 0.0
    awake = time.monotonic
    monkeypatch.setattr(time, "clock_gettime", lambda _: awake() + slept_s)
    leader = LeaderElector(InMemoryKube(), PLACE, "a")
    assert await leader._turn(time.clock_gettime(time.CLOCK_BOOTTIME))
    leader.leading.set()
    assert leader.holds()
    slept_s = GIVE_UP_S
    assert not leader.holds()


async def test_a_lease_whose_versions_go_back_ends_the_lead(clock: Clock) -> None:
    """The API server was restored from a backup: the lead begins again, at the next turn, with nothing remembered."""
    kube = InMemoryKube()
    a = replica(kube, "a", clock)
    assert await turn(a, clock)
    backup = copy.deepcopy(kube.objects[LEASE.kind, PLACE.name])
    for _ in range(3):
        assert await turn(a, clock, RENEW_S)
    kube.objects[LEASE.kind, PLACE.name] = backup
    kube._numbers = itertools.count(int(backup["metadata"]["resourceVersion"]) + 1)
    assert not await turn(a, clock, RENEW_S)
    assert await turn(a, clock, RENEW_S)
    assert await turn(a, clock, RENEW_S)
    kube.objects.clear()  # a backup from before the Lease was made
    kube._numbers = itertools.count(1)
    assert not await turn(a, clock, RENEW_S)
    assert await turn(a, clock, RENEW_S)


@pytest.mark.parametrize("verb", ["get", "create", "merge"])
async def test_a_replica_that_can_never_get_the_lease_is_unfit(clock: Clock, verb: str) -> None:
    """Whatever it lacks, and also while another one leads; it is fit again as soon as a turn goes through."""
    kube = InMemoryKube()
    if verb == "merge":
        assert await turn(replica(kube, "leader", clock), clock)
    refused = Forbidden(403, "Forbidden", "leases is forbidden: User cannot do that")
    kube.fault = lambda asked, kind: refused if (asked, kind) == (verb, LEASE.kind) else None
    woken = asyncio.Event()

    async def sleep(_: float) -> None:
        woken.clear()
        await woken.wait()

    powerless = LeaderElector(kube, PLACE, "b", clock=clock.monotonic, sleep=sleep)
    running = asyncio.create_task(powerless.run())
    await eventually(lambda: bool(powerless._failure))
    assert powerless.unfit() is None, "it may be for a moment"
    clock.now += leader_election._UNFIT_S + 1
    assert powerless.unfit() == str(refused)
    kube.fault = lambda asked, kind: None
    woken.set()
    await eventually(lambda: powerless.unfit() is None)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_follower_proves_once_that_it_could_lead(clock: Clock) -> None:
    """By a write that changes nothing; a replica that has led needs none."""
    kube = InMemoryKube()
    a, b = replica(kube, "a", clock), replica(kube, "b", clock)
    assert await turn(a, clock)
    kube.writes()
    version = kube.objects[LEASE.kind, PLACE.name]["metadata"]["resourceVersion"]
    for _ in range(3):
        assert not await turn(b, clock)
    assert kube.writes() == [("merge", LEASE.kind, PLACE.name)]
    assert kube.objects[LEASE.kind, PLACE.name]["metadata"]["resourceVersion"] == version
