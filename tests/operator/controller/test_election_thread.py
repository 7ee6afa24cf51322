"""The election in a thread: the loop of the work may be slow, and must turn."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from threadcluster_operator.controller import election_thread, leader_election
from threadcluster_operator.controller.election_thread import ElectionThread
from threadcluster_operator.controller.leader_election import LeaseRef
from threadcluster_operator.kube.client import LEASE, KubeAccess, Unreachable

from tests.fakes.kube import InMemoryKube
from tests.support.polling import eventually

PLACE = LeaseRef("system", "operator")


@pytest.fixture
def kube(monkeypatch: pytest.MonkeyPatch) -> InMemoryKube:
    """A Lease in memory, and an election whose times are a tenth."""
    made = InMemoryKube()

    @asynccontextmanager
    async def connect(_: KubeAccess) -> AsyncIterator[InMemoryKube]:
        if next(refusals, None) is not None:
            raise Unreachable(0, "", "away")
        yield made

    refusals: Iterator[int] = iter([1])
    monkeypatch.setattr(election_thread, "connect", connect)
    monkeypatch.setattr(election_thread, "_AGAIN_S", 0.01)
    monkeypatch.setattr(election_thread, "_TURN_S", 0.02)
    monkeypatch.setattr(leader_election, "RENEW_S", 0.05)
    monkeypatch.setattr(leader_election, "GIVE_UP_S", 0.8)
    return made


def holder(kube: InMemoryKube) -> str:
    """Whose the Lease is."""
    return str(kube.objects[LEASE.kind, PLACE.name]["spec"]["holderIdentity"])


def hold_loop(seconds: float) -> None:
    """Keep the loop of the work from turning."""
    time.sleep(seconds)


async def test_a_loop_that_is_held_keeps_its_lead_until_it_is_held_for_too_long(
    kube: InMemoryKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins though the first connection fails, and gives the Lease back at its end."""
    election = ElectionThread(KubeAccess(), PLACE, "a")
    running = asyncio.create_task(election.run())
    assert not election.holds()
    await election.leading.wait()
    assert (election.holds(), holder(kube), election.unfit()) == (True, "a", None)
    hold_loop(2.0)  # longer than a renewal may be late
    assert election.holds()
    await asyncio.sleep(0.1)
    assert election.leading.is_set()
    changes: list[bool] = []
    note = election._note

    def record(mine: bool) -> None:
        changes.append(mine)
        note(mine)

    monkeypatch.setattr(election, "_note", record)
    monkeypatch.setattr(election_thread, "SILENT_S", 0.5)
    hold_loop(2.0)
    assert not election.holds()
    await eventually(lambda: changes[:2] == [False, True])  # it leads again as soon as the loop turns
    await election.leading.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (election.holds(), holder(kube)) == (False, "")


async def test_an_election_that_is_ended_at_once_ends() -> None:
    """Before its thread has begun, or while it connects."""
    election = ElectionThread(KubeAccess(kubeconfig="/nowhere"), PLACE, "a")
    running = asyncio.create_task(election.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()


async def test_a_fault_of_the_election_ends_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not silently without an election."""

    def broken(_: KubeAccess) -> object:
        raise LookupError("a bug")

    monkeypatch.setattr(election_thread, "connect", broken)
    with pytest.raises(LookupError):
        await ElectionThread(KubeAccess(), PLACE, "a").run()
