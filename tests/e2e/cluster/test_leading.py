"""Two operators as processes: one leads, and the other goes on when it cannot."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from threadcluster_operator.controller.leader_election import RENEW_S

from tests.e2e.cluster.conftest import KubeconfigFor
from tests.e2e.cluster.control_plane import Write, read_writes
from tests.e2e.cluster.harness import KIND, VERSION, thread_cluster
from tests.e2e.cluster.program import Program
from tests.support.kube_api import Api
from tests.support.ports import free_ports

pytestmark = pytest.mark.cluster

FAIL_OVER_S = 20.0
HAND_OVER_S = 5.0
LEASE = ("coordination.k8s.io/v1", "Lease", "threadcluster-operator")


class Replica:
    """One operator."""

    def __init__(self, name: str, kubeconfig: Path, namespace: str, folder: Path) -> None:
        self.name = name
        [self.port] = free_ports("127.0.0.1", 1)
        self.program = Program(
            name,
            [
                *(sys.executable, "-m", "threadcluster_operator.main", "operator", "run"),
                *("--namespace", namespace, "--identity-namespace", namespace, "--port", str(self.port)),
            ],
            logs=folder,
            environ={"KUBECONFIG": str(kubeconfig), "POD_NAMESPACE": namespace, "POD_NAME": name},
        )

    def start(self) -> None:
        """Start it; that it is up is asked by `says`."""
        self.program.start(lambda: True)

    async def says(self) -> str:
        """Its answer at ``/readyz``; empty while it does not answer."""
        timeout = aiohttp.ClientTimeout(total=1)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"http://127.0.0.1:{self.port}/readyz") as answer,
            ):
                return (await answer.text()).strip()
        except (aiohttp.ClientError, TimeoutError):
            return ""

    async def until(self, word: str, *, within_s: float) -> float:
        """Seconds until it gave that answer."""
        began = time.monotonic()
        async with asyncio.timeout(within_s):
            while await self.says() != word:
                await asyncio.sleep(0.05)
        return time.monotonic() - began

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.program.pid is not None, self.program.log_tail()
        os.kill(self.program.pid, number)


@pytest.fixture
async def replicas(
    api: Api, namespace: str, kubeconfig_for: KubeconfigFor, tmp_path: Path
) -> AsyncIterator[list[Replica]]:
    """Three, none of them started; each is an account of its own, so that the API server's log tells them apart."""
    made = []
    for name in ("operator-a", "operator-b", "operator-c"):
        await api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}, namespace)
        await api.create(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": {"name": name},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": "cluster-admin",
                },
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
            },
            namespace,
        )
        made.append(Replica(name, await kubeconfig_for(namespace, name), namespace, tmp_path))
    yield made
    for each in made:
        if each.program.pid is not None:
            each.signal(signal.SIGCONT)
        each.program.stop()


async def holder(api: Api, namespace: str) -> str:
    """Whose the Lease is."""
    lease = await api.get(*LEASE, namespace)
    return str(lease["spec"]["holderIdentity"]).partition("_")[0]


def writes(api: Api, namespace: str, replica: Replica) -> list[Write]:
    """A replica's writes so far, in order."""
    if api.audit_log is None:
        pytest.fail("this is judged by the API server's log: unset KUBECONFIG")
    return read_writes(api.audit_log, user=f"system:serviceaccount:{namespace}:{replica.name}")


async def test_a_frozen_leader_that_goes_on_writes_nothing(api: Api, namespace: str, replicas: list[Replica]) -> None:
    """Though everything that it has missed reaches it at once: an edit, and a child that is to go."""
    first, second, _ = replicas
    first.start()
    await first.until("leading", within_s=30)
    await api.create(thread_cluster("chat"), namespace)
    await api.wait_for("networking.k8s.io/v1", "NetworkPolicy", "chat", lambda _: True, namespace)
    second.start()
    await second.until("following", within_s=30)

    first.signal(signal.SIGSTOP)
    await api.patch(VERSION, KIND, "chat", {"spec": {"networkPolicy": {"mode": "Off"}}}, namespace)
    await second.until("leading", within_s=FAIL_OVER_S)
    await api.wait_gone("networking.k8s.io/v1", "NetworkPolicy", "chat", namespace)
    await api.patch(VERSION, KIND, "chat", {"spec": {"replicas": 3, "networkPolicy": {"mode": "Ingress"}}}, namespace)
    before = writes(api, namespace, first)
    assert before
    first.signal(signal.SIGCONT)
    await first.until("following", within_s=10)
    await api.wait_for("networking.k8s.io/v1", "NetworkPolicy", "chat", lambda _: True, namespace)
    await asyncio.sleep(2 * RENEW_S)  # that nothing happens has no end to wait for
    assert await first.says() == "following"
    assert writes(api, namespace, first) == before


async def test_another_leads_when_the_leader_is_gone(api: Api, namespace: str, replicas: list[Replica]) -> None:
    """Killed, frozen, or ended in order; the frozen one follows when it goes on."""
    first, second, third = replicas
    first.start()
    await first.until("leading", within_s=30)
    second.start()
    await second.until("following", within_s=30)
    assert await holder(api, namespace) == first.name

    first.program.kill()
    killed_s = await second.until("leading", within_s=FAIL_OVER_S)

    third.start()
    await third.until("following", within_s=30)
    second.signal(signal.SIGSTOP)
    frozen_s = await third.until("leading", within_s=FAIL_OVER_S)
    second.signal(signal.SIGCONT)
    await second.until("following", within_s=10)
    assert await holder(api, namespace) == third.name
    assert await third.says() == "leading"

    third.signal(signal.SIGTERM)
    ended_s = await second.until("leading", within_s=HAND_OVER_S)
    print(f"\nleads after: killed {killed_s:.1f} s, frozen {frozen_s:.1f} s, ended in order {ended_s:.1f} s")
