"""The operator as a process: what it says of its own health."""

import asyncio
import time

import pytest
from aiohttp.test_utils import TestClient, TestServer
from threadcluster_operator.controller import runtime
from threadcluster_operator.controller.runtime import LeadOver, Operator, OperatorFailed, Options, application
from threadcluster_operator.controller.snapshot import Key
from threadcluster_operator.controller.watcher import KopfWatcher
from threadcluster_operator.kube.client import (
    POD,
    SERVICE_MONITOR,
    THREAD_CLUSTER,
    Forbidden,
    KubeAccess,
    KubeError,
    NotFound,
)

from tests.fakes.kube import InMemoryKube
from tests.support.polling import eventually

CHAT = Key("talk", "chat")


def operator() -> Operator:
    """One that does not run."""

    def reach(*_: object) -> object:
        raise AssertionError("no worker is asked")

    return Operator(InMemoryKube(), reach, Options("talk", "talk", "operator-0", 0))  # type: ignore[arg-type]  # never called


async def page(of: Operator, path: str) -> tuple[int, str]:
    """Status and text of a page."""
    async with TestClient(TestServer(application(of))) as client, client.get(path) as answer:
        return answer.status, await answer.text()


async def test_a_quiet_operator_is_well() -> None:
    """A follower has nothing to do, and a leader may have nothing to do for hours."""
    made = operator()
    assert await page(made, "/livez") == (200, "ok\n")
    assert await page(made, "/readyz") == (200, "following\n")
    made.leadership.leading.set()
    assert await page(made, "/readyz") == (200, "leading\n")
    status, metrics = await page(made, "/metrics")
    assert status == 200
    assert "threadcluster_operator_leading" in metrics
    assert "threadcluster_operator_work_queue_depth 0.0" in metrics


async def test_a_reconciliation_that_does_not_end_is_reported() -> None:
    """Which cluster it is; it ends by the kubelet's hand."""
    made = operator()
    with made.telemetry.reconciling(CHAT):
        made.telemetry.running[CHAT] = time.monotonic() - runtime._STUCK_S - 1
        status, text = await page(made, "/livez")
    assert status == 503
    assert "reconciling talk/chat" in text
    assert (await page(made, "/livez"))[0] == 200


async def test_a_repeatedly_refused_list_is_reported() -> None:
    """A leader that may not list a kind reconciles nothing, and must not look well."""
    made = operator()
    made._lists_since = time.monotonic() - runtime._STUCK_S - 1
    status, text = await page(made, "/livez")
    assert status == 503
    assert "cannot be listed" in text


async def test_a_blocked_watching_loop_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked every few seconds to answer; while it does, all is well."""
    monkeypatch.setattr(runtime, "_PING_EVERY_S", 0.01)
    made = operator()
    blocked = False

    class Loop(KopfWatcher):
        def alive(self, answer: object) -> None:
            if not blocked:
                asyncio.get_running_loop().call_soon(answer)  # type: ignore[arg-type]  # what the ping gives

    watches = made._watches = Loop(lambda *_: None, lambda _: None, (), "talk", KubeAccess())
    pinging = asyncio.create_task(made._ping(watches))
    made._answered_at = time.monotonic() - runtime._STUCK_S - 1
    async with asyncio.timeout(5):
        while made.stuck() is not None:
            await asyncio.sleep(0.01)
    blocked = True
    await asyncio.sleep(0.05)
    made._answered_at = time.monotonic() - runtime._STUCK_S - 1
    await asyncio.sleep(0.05)
    assert (await page(made, "/livez"))[0] == 503
    pinging.cancel()
    await asyncio.gather(pinging, return_exceptions=True)


async def test_a_silent_watch_is_reported_by_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that hears nothing of pods decides on what was."""
    made = operator()
    watches = made._watches = KopfWatcher(lambda *_: None, lambda _: None, (POD,), "talk", KubeAccess())
    made._answered_at = time.monotonic()
    monkeypatch.setattr(watches, "silent", lambda: POD)
    assert await page(made, "/livez") == (503, "the watch of pods is silent\n")


async def test_a_replica_that_cannot_take_the_lease_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lives: no restart gives it a right."""
    made = operator()
    monkeypatch.setattr(made.leadership, "unfit", lambda: "leases is forbidden")
    assert await page(made, "/readyz") == (503, "cannot take the Lease: leases is forbidden\n")
    assert (await page(made, "/livez"))[0] == 200


async def test_a_kind_that_is_not_there_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as it takes, without a complaint; but what else refuses a list is reported before long."""
    monkeypatch.setattr(runtime, "_KIND_AGAIN_S", 0.01)
    made = operator()
    kube = made._kube
    assert isinstance(kube, InMemoryKube)
    missing: KubeError | None = NotFound(404, "NotFound", "no such kind")
    kube.fault = lambda _, kind: missing if kind == THREAD_CLUSTER.kind else None
    waiting = asyncio.create_task(made._wait_for((POD, THREAD_CLUSTER)))
    made.leadership.leading.set()
    await eventually(lambda: made.waits_for is not None)
    assert await page(made, "/readyz") == (200, "leading, waits for threadclusters\n")
    assert made._lists_since is None
    assert await page(made, "/livez") == (200, "ok\n")
    missing = Forbidden(403, "Forbidden", "threadclusters is forbidden")
    asked = len(kube.calls)
    await eventually(lambda: len(kube.calls) > asked + 2)
    assert not waiting.done()
    missing = None
    await asyncio.wait_for(waiting, 5)
    assert made.waits_for is made._lists_since is None


async def test_a_kind_that_comes_begins_the_lead_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, which holds the lead meanwhile; a lead that ends otherwise ends the process."""
    monkeypatch.setattr(runtime, "_NEW_KIND_S", 0.01)
    made = operator()
    kube = made._kube
    assert isinstance(kube, InMemoryKube)
    fault: KubeError | None = NotFound(404, "NotFound", "no such kind")
    kube.fault = lambda *_: fault
    began: list[int] = []

    async def lead() -> None:
        began.append(1)
        await made._notice(SERVICE_MONITOR) if len(began) == 1 else await asyncio.Event().wait()

    monkeypatch.setattr(made, "_lead", lead)
    running = asyncio.create_task(made._lead_when_elected())
    made.leadership.leading.set()
    await eventually(lambda: bool(kube.calls))
    fault = Forbidden(403, "Forbidden", "servicemonitors is forbidden")  # it may come with the rights for it
    asked = len(kube.calls)
    await eventually(lambda: len(kube.calls) > asked + 2)
    assert began == [1]
    fault = None
    await eventually(lambda: began == [1, 1])
    assert made.leadership.leading.is_set()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    ("fault", "ends"),
    [
        (NotFound(404, "NotFound", "no such kind"), LeadOver),
        (Forbidden(403, "Forbidden", "no"), OperatorFailed),
        (None, OperatorFailed),
    ],
    ids=["kind-gone", "forbidden", "all-there"],
)
async def test_watches_that_end_by_themselves_end_the_process_unless_a_kind_is_gone(
    fault: KubeError | None, ends: type[Exception]
) -> None:
    """For a kind that is gone, which no restart brings back, the lead begins again."""
    made = operator()
    kube = made._kube
    assert isinstance(kube, InMemoryKube)
    kube.fault = lambda *_: fault
    watches = KopfWatcher(lambda *_: None, lambda _: None, (POD,), "talk", KubeAccess())
    watches._ended.set()
    with pytest.raises(ends):
        await made._fail_when_ended(watches, (POD, THREAD_CLUSTER))


async def test_leading_that_ends_by_itself_ends_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes restarts it; to go on without watching would look like health."""
    made = operator()

    async def lead() -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(made, "_lead", lead)
    made.leadership.leading.set()
    with pytest.raises(OperatorFailed, match="a bug"):
        await made._lead_when_elected()


async def test_a_replica_that_loses_the_lead_stops_at_once_and_may_lead_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tasks are cancelled, and start again when it is elected again."""
    made = operator()
    began: list[int] = []
    ended: list[int] = []

    async def lead() -> None:
        began.append(1)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    monkeypatch.setattr(made, "_lead", lead)
    running = asyncio.create_task(made._lead_when_elected())

    for _ in range(2):
        made.leadership.lost.clear()
        made.leadership.leading.set()
        await eventually(lambda: len(began) > len(ended))
        made.leadership.leading.clear()
        made.leadership.lost.set()
        await eventually(lambda: len(ended) == len(began))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
