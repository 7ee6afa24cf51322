"""Kubernetes Events: written once, counted up when repeated, and lost without harm."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from threadcluster_operator.controller import events as events_module
from threadcluster_operator.controller.events import Recorder
from threadcluster_operator.kube.client import Forbidden, Object

from tests.fakes.kube import InMemoryKube

CHAT: Object = {
    "apiVersion": "threadcluster.io/v1alpha1",
    "kind": "ThreadCluster",
    "metadata": {"name": "chat", "namespace": "talk", "uid": "cluster-1"},
}


@asynccontextmanager
async def writing(shelf: InMemoryKube) -> AsyncIterator[Recorder]:
    """A recorder that writes; all its events are written at the end of the block."""
    made = Recorder(shelf, "operator-0")
    task = asyncio.create_task(made.run())
    try:
        yield made
        for _ in range(50):
            await asyncio.sleep(0)
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def condition(kind: str, status: str, reason: str, message: str = "") -> Object:
    """One."""
    return {"type": kind, "status": status, "reason": reason, "message": message}


async def test_an_event_says_what_and_about_whom() -> None:
    """In the namespace of what it is about, so that `kubectl describe` finds it."""
    shelf = InMemoryKube()
    async with writing(shelf) as events:
        events.event(CHAT, "Warning", "QuotaExceeded", "no more pods")
    [event] = shelf.objects.values()
    assert event["metadata"]["namespace"] == "talk"
    assert (event["type"], event["reason"], event["message"]) == ("Warning", "QuotaExceeded", "no more pods")
    assert event["involvedObject"]["uid"] == "cluster-1"


async def test_a_soon_repeated_event_is_not_written_again() -> None:
    """A fault that is seen a hundred times a second fills no etcd."""
    shelf = InMemoryKube()
    async with writing(shelf) as events:
        for _ in range(100):
            events.event(CHAT, "Warning", "QuotaExceeded", "no more pods")
    assert len(shelf.writes()) == 1


async def test_a_later_repeated_event_is_counted_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One Event, and how often."""
    monkeypatch.setattr(events_module, "_AGAIN_S", 0.0)
    shelf = InMemoryKube()
    async with writing(shelf) as events:
        for _ in range(3):
            events.event(CHAT, "Warning", "QuotaExceeded", "no more pods")
    [event] = shelf.objects.values()
    assert event["count"] == 3


@pytest.mark.parametrize("verb", ["create", "merge"])
async def test_an_event_that_cannot_be_written_is_lost_and_the_next_is_not(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A namespace that is going takes none."""
    monkeypatch.setattr(events_module, "_AGAIN_S", 0.0)
    shelf = InMemoryKube()
    async with writing(shelf) as events:
        events.event(CHAT, "Normal", "Ready", "yes")
    shelf.fault = lambda asked, _: Forbidden(403, "Forbidden", "it is going") if asked == verb else None
    async with writing(shelf) as events:
        events.event(CHAT, "Normal", "Ready", "yes")
        if verb == "create":
            events.event(CHAT, "Normal", "Created", "x")
    shelf.fault = lambda verb, kind: None
    async with writing(shelf) as events:
        events.event(CHAT, "Normal", "Created", "y")
    assert {event["message"] for event in shelf.objects.values()} == {"yes", "y"}


async def test_only_awaited_transitions_of_conditions_make_events() -> None:
    """A new trouble, its end, and Ready."""
    shelf = InMemoryKube()
    well = {"conditions": [condition("Ready", "True", "Reconciled"), condition("Stalled", "False", "NotStalled")]}
    ill = {"conditions": [condition("Ready", "False", "Stalled"), condition("Stalled", "True", "QuotaExceeded", "q")]}
    worse = {"conditions": [condition("Ready", "False", "Stalled"), condition("Stalled", "True", "Forbidden", "f")]}
    async with writing(shelf) as events:
        for before, after in ((None, well), (well, ill), (ill, ill), (ill, worse), (worse, well), (well, well)):
            events.transitions(CHAT, before, after)
    written = [(event["type"], event["reason"]) for event in shelf.objects.values()]
    assert written == [
        ("Normal", "Ready"),
        ("Warning", "QuotaExceeded"),
        ("Warning", "Forbidden"),
        ("Normal", "Mended"),
    ]
