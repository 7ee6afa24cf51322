"""Full lists of what is watched, on an API server in memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from threadcluster_operator.controller import resync
from threadcluster_operator.controller.cache import Cache
from threadcluster_operator.controller.resync import Lister
from threadcluster_operator.controller.snapshot import Key
from threadcluster_operator.kube.client import EVENT, POD, THREAD_CLUSTER, Forbidden, KubeError, Object
from threadcluster_operator.render import selector_of

from tests.fakes.kube import InMemoryKube
from tests.support.polling import eventually

KINDS = (THREAD_CLUSTER, POD, EVENT)
CHAT = Key("talk", "chat")


def cluster() -> Object:
    """A ThreadCluster."""
    meta = {"namespace": "talk", "name": "chat", "uid": "cluster-1", "resourceVersion": "1"}
    return {"kind": "ThreadCluster", "metadata": meta}


def pod() -> Object:
    """A pod of its."""
    meta = {"namespace": "talk", "name": "chat-0", "uid": "pod-1", "labels": selector_of("chat", "worker")}
    return {"kind": "Pod", "metadata": meta}


@asynccontextmanager
async def listing(lister: Lister, every_s: float = 300.0) -> AsyncIterator[None]:
    """A lister that runs."""
    running = asyncio.create_task(lister.run(every_s))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_everything_is_known_when_each_kind_was_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind that is refused is asked for again, and keeps no other from being listed; Events are not listed."""
    monkeypatch.setattr(resync, "_AGAIN_S", 0.01)
    kube, cache, marked = InMemoryKube(cluster(), pod()), Cache(), list[Key]()
    refused: KubeError | None = Forbidden(403, "Forbidden", "threadclusters is forbidden")
    kube.fault = lambda _, kind: refused if kind == THREAD_CLUSTER.kind else None
    lister = Lister(kube, cache, marked.append, KINDS, "talk")
    async with listing(lister):
        for kind in KINDS:
            lister.request(kind)
        await eventually(lambda: bool(cache.pods(CHAT)))
        await eventually(lambda: kube.calls.count(("list", THREAD_CLUSTER.kind, "")) > 2)
        assert not lister.complete.is_set()
        refused = None
        await asyncio.wait_for(lister.complete.wait(), 5)
    assert CHAT in cache.resources
    assert set(marked) == {CHAT}
    assert EVENT.kind not in {kind for _, kind, _ in kube.calls}


async def test_everything_is_listed_and_marked_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the list of one kind is refused without end."""
    monkeypatch.setattr(resync, "_AGAIN_S", 0.01)
    kube, cache, marked = InMemoryKube(), Cache(), list[Key]()
    cache.put(cluster())
    kube.fault = lambda _, kind: Forbidden(403, "Forbidden", "no") if kind == THREAD_CLUSTER.kind else None
    lister = Lister(kube, cache, marked.append, KINDS, "talk")
    async with listing(lister, every_s=0.1):
        lister.request(THREAD_CLUSTER)
        await eventually(lambda: kube.calls.count(("list", POD.kind, "")) > 2)
    assert marked.count(CHAT) > 2
