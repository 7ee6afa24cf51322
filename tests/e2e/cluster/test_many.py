"""Many clusters at rest: the operator writes nothing, needs little time for a look, and little memory.

The operator is a process of its own here; what it writes is read from the API server's log.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.cluster.control_plane import Write, writes_in
from tests.e2e.cluster.harness import KIND, VERSION, is_ready, stalled_by, thread_cluster
from tests.e2e.cluster.operator_process import SHARDS
from tests.e2e.cluster.program import Program
from tests.fakes.kubelet import FakeKubelet
from tests.support.kube_api import Api
from tests.support.ports import free_ports

pytestmark = pytest.mark.cluster

LOOK_S = 0.02
MEMORY_BYTES = 250 * 2**20
MEMORY_BESIDE_OTHERS_BYTES = 300 * 2**20


class Looks(NamedTuple):
    """Number of reconciliations, and of those up to each duration in seconds."""

    total: float
    within: dict[float, float]

    def since(self, before: "Looks") -> "Looks":
        """Those after ``before``."""
        return Looks(self.total - before.total, {le: n - before.within[le] for le, n in self.within.items()})

    def at_most_s(self, share: float) -> float:
        """The least bound within which this share of all looks was."""
        return min(le for le, count in self.within.items() if count >= share * self.total)


class Process:
    """The operator, beside the test."""

    def __init__(self, api: Api, namespace: str, resync_s: float, silent: int, folder: Path) -> None:
        """``silent``: of how many clusters the workers swallow every question."""
        self.silent = silent
        [self.port] = free_ports("127.0.0.1", 1)
        self._program = Program(
            "operator",
            [
                *(sys.executable, "-m", "tests.e2e.cluster.operator_process"),
                *(str(api.kubeconfig), namespace, str(self.port), str(resync_s), str(silent)),
            ],
            logs=folder,
        )

    def start(self) -> None:
        """Start it."""
        self._program.start(lambda: True)

    def restart(self) -> None:
        """Have it forget everything, as a new one would."""
        assert self._program.pid is not None, self._program.log_tail()
        os.kill(self._program.pid, signal.SIGHUP)

    def stop(self) -> None:
        """In order."""
        self._program.stop()

    @property
    def memory_bytes(self) -> int:
        """Its resident memory now."""
        assert self._program.pid is not None, self._program.log_tail()
        return int(psutil.Process(self._program.pid).memory_info().rss)

    @property
    def most_memory_bytes(self) -> int:
        """The most it has had in memory since it was started: what a limit would have ended it for."""
        status = Path(f"/proc/{self._program.pid}/status").read_text()
        [kibibytes] = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(kibibytes) * 1024

    async def looks(self) -> Looks:
        """From its metrics."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port}/metrics") as answer,
        ):
            page = await answer.text()
        count, within = 0.0, {}
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if sample.name == "threadcluster_operator_reconcile_seconds_count":
                    count = sample.value
                elif sample.name == "threadcluster_operator_reconcile_seconds_bucket":
                    within[float(sample.labels["le"])] = sample.value
        return Looks(count, within)


@asynccontextmanager
async def many(api: Api, namespace: str, count: int, replicas: int, process: Process) -> AsyncIterator[None]:
    """A number of clusters that are Ready."""
    labels = "app.kubernetes.io/managed-by=threadcluster-operator"
    async with FakeKubelet(api, namespace=namespace, labels=labels):
        process.start()
        try:
            for number in range(count):
                await api.create(thread_cluster(f"many-{number:03}", replicas=replicas, shards=SHARDS), namespace)
            await all_settled(api, namespace, count, process.silent, within_s=60 + 3 * count)
            yield
        finally:
            process.stop()


async def all_settled(api: Api, namespace: str, count: int, silent: int, *, within_s: float) -> None:
    """Return when all are Ready but the silent ones, whose status says what they are."""
    printed = 0.0
    async with asyncio.timeout(within_s):
        while True:
            found = await api.list(VERSION, KIND, namespace)
            ready, unreachable = sum(map(is_ready, found)), sum(map(stalled_by("WorkerUnreachable"), found))
            if (ready, unreachable) == (count - silent, silent):
                return
            if time.monotonic() - printed > 10:
                printed = time.monotonic()
                print(f"{ready} of {count} clusters are Ready, {unreachable} are unreachable")
            await asyncio.sleep(0.5)


async def make_pods_of_others(api: Api, namespace: str, count: int) -> None:
    """Pods with other labels, which no scheduler looks after."""
    hands = asyncio.Semaphore(16)

    async def make(number: int) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"other-{number}", "labels": {"app.kubernetes.io/name": "other"}},
            "spec": {"containers": [{"name": "other", "image": "other:1"}], "schedulerName": "none"},
        }
        async with hands:
            await api.create(body, namespace)

    await asyncio.gather(*(make(number) for number in range(count)))


async def until(holds: Callable[[Looks], bool], process: Process, *, within_s: float) -> None:
    """Return when the operator has looked so often."""
    async with asyncio.timeout(within_s):
        while True:
            with contextlib.suppress(aiohttp.ClientError):  # it is just starting
                if holds(await process.looks()):
                    return
            await asyncio.sleep(0.2)


async def writes_once_quiet(api: Api, namespace: str, *, within_s: float) -> list[Write]:
    """All writes so far, once there was none for 5 s: Events wait in a line, and the last ones come after Ready."""
    async with asyncio.timeout(within_s):
        before: list[Write] = []
        while (now := writes_in(api, namespace)) != before:
            before = now
            await asyncio.sleep(5)
        return before


async def rest(
    api: Api, namespace: str, process: Process, *, count: int, replicas: int, resyncs: int, resync_s: float
) -> tuple[Looks, int]:
    """Reconciliations of a number of periods without a change, and the operator's peak of memory; checks writes.

    The peak of all: while the clusters came, at rest, and while it listed everything again after a restart.
    """
    async with many(api, namespace, count, replicas, process):
        before, looks = await writes_once_quiet(api, namespace, within_s=60 + count), await process.looks()
        await asyncio.sleep(resyncs * resync_s)  # that nothing happens has no end to wait for
        assert writes_in(api, namespace) == before
        found, memory = (await process.looks()).since(looks), process.memory_bytes
        began, looks_before = time.monotonic(), await process.looks()
        process.restart()
        await until(lambda now: now.total < looks_before.total, process, within_s=30)
        await until(lambda now: now.total >= 2 * count, process, within_s=60 + count)
        print(f"\nafter a restart each of {count} clusters was looked at twice within {time.monotonic() - began:.1f} s")
        assert writes_in(api, namespace) == before, "a restart is no reason to write"
        most = process.most_memory_bytes
    print(
        f"{found.total:.0f} looks at {count} clusters of {replicas} workers: half within"
        f" {found.at_most_s(0.5) * 1e3:.1f} ms, 99 % within {found.at_most_s(0.99) * 1e3:.1f} ms;"
        f" {memory / 2**20:.0f} MiB at rest, {most / 2**20:.0f} MiB at most"
    )
    return found, most


@pytest.fixture
def process_of(api: Api, namespace: str, tmp_path: Path) -> Callable[[float, int], Process]:
    """An operator, by the time between two of its lists of everything and the number of silent clusters."""
    if api.audit_log is None:
        pytest.fail("this is read from the API server's log: run it on a control plane of the tests (unset KUBECONFIG)")
    return lambda resync_s, silent: Process(api, namespace, resync_s, silent, tmp_path)


async def test_clusters_at_rest_are_not_written_to(
    api: Api, namespace: str, process_of: Callable[[float, int], Process]
) -> None:
    """Over three periods of listing, and over a restart of the operator; two of them are silent."""
    found, _ = await rest(api, namespace, process_of(4.0, 2), count=8, replicas=2, resyncs=3, resync_s=4.0)
    assert found.total >= 3 * 8


@pytest.mark.soak
@pytest.mark.timeout(1_800)
async def test_ten_minutes_at_rest(api: Api, namespace: str, process_of: Callable[[float, int], Process]) -> None:
    """Three periods as they are by default, and a little more."""
    found, _ = await rest(api, namespace, process_of(180.0, 0), count=20, replicas=3, resyncs=3, resync_s=200.0)
    assert found.total >= 3 * 20


@pytest.mark.soak
@pytest.mark.timeout(1_800)
async def test_two_hundred_clusters_of_ten_workers(
    api: Api, namespace: str, process_of: Callable[[float, int], Process]
) -> None:
    """A look in which nothing is to be done takes at most 20 ms, 99 times of 100; and 250 MiB are enough."""
    found, most = await rest(api, namespace, process_of(30.0, 0), count=200, replicas=10, resyncs=3, resync_s=30.0)
    assert found.at_most_s(0.99) <= LOOK_S
    assert most <= MEMORY_BYTES


@pytest.mark.soak
@pytest.mark.timeout(2_400)
async def test_two_hundred_clusters_forty_of_them_silent_beside_pods_of_others(
    api: Api, namespace: str, process_of: Callable[[float, int], Process]
) -> None:
    """20 ms for 99 of 100 looks, and 300 MiB, are enough there, too."""
    began = time.monotonic()
    await make_pods_of_others(api, namespace, 18_000)
    print(f"\n18,000 pods of others were made within {time.monotonic() - began:.0f} s")
    found, most = await rest(api, namespace, process_of(30.0, 40), count=200, replicas=10, resyncs=3, resync_s=30.0)
    assert found.at_most_s(0.99) <= LOOK_S
    assert most <= MEMORY_BESIDE_OTHERS_BYTES
