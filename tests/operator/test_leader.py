"""The election, on a Lease in memory and a clock of the test's own."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from threadcluster_operator.kube import LEASE, Conflict, Kind, Listed, Object, Unreachable
from threadcluster_operator.leader import DURATION_S, GIVE_UP_S, RENEW_S, Leadership, Place, WhileLeading

PLACE = Place("system", "operator")


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """As `time.monotonic`."""
        return self.now


class OneLease:
    """An API server that has one Lease, and refuses what was made from an older version of it."""

    def __init__(self) -> None:
        self.lease: Object | None = None
        self.away = False
        self.version = 0
        self.writes: list[str] = []

    @property
    def holder(self) -> str:
        """Whose it is."""
        return "" if self.lease is None else str(self.lease["spec"]["holderIdentity"])

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        self._check(kind, namespace, name)
        return self.lease

    async def list(
        self, kind: Kind, namespace: str | None, labels: str = "", keep: Callable[[Object], Object] = dict
    ) -> Listed:
        raise NotImplementedError

    async def create(self, kind: Kind, body: Object) -> Object:
        self._check(kind, body["metadata"]["namespace"], body["metadata"]["name"])
        if self.lease is not None:
            raise Conflict(409, "AlreadyExists", "it is there")
        return self._store(body)

    async def apply(self, kind: Kind, body: Object, uid: str) -> Object:
        raise NotImplementedError

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Object, subresource: str = "") -> Object:
        self._check(kind, namespace, name)
        assert self.lease is not None
        if patch["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", "it has changed")
        return self._store({**self.lease, "spec": {**self.lease["spec"], **patch["spec"]}})

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        self.writes.append(name)

    def _store(self, body: Object) -> Object:
        self.version += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        self.writes.append(self.holder)
        return self.lease

    def _check(self, kind: Kind, namespace: str, name: str) -> None:
        assert (kind, namespace, name) == (LEASE, *PLACE)
        if self.away:
            raise Unreachable(0, "", "nobody answers")


@pytest.fixture
def clock() -> Clock:
    """The replicas'."""
    return Clock()


def replica(kube: OneLease, identity: str, clock: Clock) -> Leadership:
    """One of them; it sleeps for as long as nobody wakes it."""

    async def sleep(_: float) -> None:
        await asyncio.Event().wait()

    return Leadership(kube, PLACE, identity, clock=clock.monotonic, sleep=sleep)


async def turn(one: Leadership, clock: Clock, after_s: float = 0.0) -> bool:
    """One turn of the election, so many seconds later."""
    clock.now += after_s
    return await one._turn(clock.now)


async def test_the_first_who_comes_makes_the_lease(clock: Clock) -> None:
    """And whoever comes next finds it taken."""
    kube = OneLease()
    a, b = replica(kube, "a", clock), replica(kube, "b", clock)
    assert await turn(a, clock)
    assert not await turn(b, clock)
    assert kube.holder == "a"


async def test_of_two_who_make_it_at_once_one_is_refused(clock: Clock) -> None:
    """The server says who was first."""
    kube = OneLease()
    a, b = replica(kube, "a", clock), replica(kube, "b", clock)
    results = await asyncio.gather(turn(a, clock), turn(b, clock))
    assert sorted(results) == [False, True]


async def test_a_lease_that_is_renewed_is_never_taken(clock: Clock) -> None:
    """However long it goes on, and whatever the clocks of the machines say."""
    kube = OneLease()
    a, b = replica(kube, "a", clock), replica(kube, "b", clock)
    assert await turn(a, clock)
    for _ in range(100):
        assert await turn(a, clock, RENEW_S)
        assert not await turn(b, clock)


async def test_a_lease_that_was_not_renewed_for_its_time_is_free(clock: Clock) -> None:
    """Measured by the follower's own clock, from when it last saw it change."""
    kube = OneLease()
    a, b = replica(kube, "a", clock), replica(kube, "b", clock)
    assert await turn(a, clock)
    assert not await turn(b, clock, 1000.0), "seen for the first time"
    assert not await turn(b, clock, DURATION_S - 0.1)
    assert await turn(b, clock, 0.2)
    assert not await turn(a, clock), "it has been deposed, and sees it"
    assert kube.lease is not None
    assert kube.lease["spec"]["leaseTransitions"] == 1


async def test_a_leader_stops_by_its_clock_before_anyone_else_may_begin(clock: Clock) -> None:
    """Also when nobody told it, because its whole process stood still."""
    kube = OneLease()
    a = replica(kube, "a", clock)
    running = asyncio.create_task(a.run())
    await a.leading.wait()
    guarded = WhileLeading(kube, a)
    await guarded.delete(LEASE, "x", "while-leading", "1")
    clock.now += GIVE_UP_S
    assert a.leading.is_set(), "its loop has not turned yet"
    for write in (
        guarded.delete(LEASE, "x", "too-late", "1"),
        guarded.create(LEASE, {}),
        guarded.apply(LEASE, {}, "1"),
        guarded.merge(LEASE, "x", "y", {}),
    ):
        with pytest.raises(Unreachable, match="does not lead"):
            await write
    assert GIVE_UP_S + RENEW_S < DURATION_S
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert kube.writes == ["a", "while-leading", ""]


async def test_a_server_that_is_away_ends_the_lead_only_after_a_while(clock: Clock) -> None:
    """A restart of the API server is no reason to stop; longer than that is."""

    async def sleep(after_s: float) -> None:
        await asyncio.sleep(0)
        clock.now += after_s

    kube = OneLease()
    a = Leadership(kube, PLACE, "a", clock=clock.monotonic, sleep=sleep)
    running = asyncio.create_task(a.run())
    await a.leading.wait()
    kube.away = True
    began = clock.now
    await a.lost.wait()
    assert GIVE_UP_S - RENEW_S <= clock.now - began <= GIVE_UP_S + RENEW_S
    assert not a.leading.is_set()
    kube.away = False
    await a.leading.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert kube.holder == ""


async def test_whoever_ends_gives_the_lease_back(clock: Clock) -> None:
    """The next one does not wait for its time to pass; one that cannot be given back ends by itself."""
    kube = OneLease()
    a, b = replica(kube, "a", clock), replica(kube, "b", clock)
    running = asyncio.create_task(a.run())
    await a.leading.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert a.lost.is_set()
    assert await turn(b, clock)


async def test_a_lease_that_somebody_else_has_is_not_given_back(clock: Clock) -> None:
    """It was lost without our knowing."""
    kube = OneLease()
    a = replica(kube, "a", clock)
    running = asyncio.create_task(a.run())
    await a.leading.wait()
    taken: dict[str, Any] = {"metadata": dict(kube.lease["metadata"] if kube.lease else {})}
    await kube.merge(LEASE, *PLACE, {**taken, "spec": {"holderIdentity": "b"}})
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert kube.holder == "b"


async def test_the_time_that_the_machine_slept_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own clock may have stood still meanwhile; the other machines' did not."""
    slept_s = 0.0
    awake = time.monotonic
    monkeypatch.setattr(time, "clock_gettime", lambda _: awake() + slept_s)
    leader = Leadership(OneLease(), PLACE, "a")
    assert await leader._turn(time.clock_gettime(time.CLOCK_BOOTTIME))
    leader.leading.set()
    assert leader.holds()
    slept_s = GIVE_UP_S
    assert not leader.holds()
