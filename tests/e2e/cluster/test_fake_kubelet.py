"""The fake kubelet's pods look to Kubernetes' own controllers as pods on a real node do."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import pytest

from tests.fakes.kubelet import FakeKubelet
from tests.fakes.pod_life import Behaviour
from tests.fakes.worker_api import MemoryWorkers
from tests.fakes.worker_pods import FakeWorkerPods
from tests.support.kube_api import Api, Object

pytestmark = pytest.mark.cluster


def stateful_set(name: str = "demo", replicas: int = 3) -> Object:
    """A StatefulSet of pods that keep running."""
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "serviceName": name,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": 20,
                    "containers": [{"name": "worker", "image": "threadcluster:1"}],
                },
            },
        },
    }


def job(name: str, image: str = "threadcluster:1") -> Object:
    """A Job that is tried once."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "backoffLimit": 0,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "migrate", "image": image}]}},
        },
    }


def has_ready(count: int) -> Callable[[Object], bool]:
    """Whether a StatefulSet has a number of ready pods."""
    return lambda found: found["status"].get("readyReplicas", 0) == count


def is_ready(pod: Object) -> bool:
    """Whether a pod's Ready condition holds."""
    conditions = pod["status"].get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


@pytest.fixture
async def kubelet(api: Api, namespace: str) -> AsyncIterator[FakeKubelet]:
    """Two nodes, on which all pods of the test's namespace run."""
    async with FakeKubelet(api, nodes=2, namespace=namespace) as played:
        yield played


async def test_a_stateful_set_becomes_ready(api: Api, namespace: str, kubelet: FakeKubelet) -> None:
    """In seconds, each pod with an address of its own, on a node that the real scheduler chose."""
    await api.apply(stateful_set(), namespace)
    await api.wait_for("apps/v1", "StatefulSet", "demo", has_ready(3), namespace, within_s=15)
    pods = await api.list("v1", "Pod", namespace)
    assert len({pod["status"]["podIP"] for pod in pods}) == 3
    assert {pod["spec"]["nodeName"] for pod in pods} <= set(kubelet.nodes)
    assert {each["image"] for pod in pods for each in pod["status"]["containerStatuses"]} == {"threadcluster:1"}


@pytest.mark.usefixtures("kubelet")
async def test_its_pods_stand_behind_a_service(api: Api, namespace: str) -> None:
    """The endpoints' controller takes their addresses."""
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "demo"}}
    await api.apply(service | {"spec": {"selector": {"app": "demo"}, "ports": [{"port": 80}]}}, namespace)
    await api.apply(stateful_set(), namespace)

    def reaches_all(found: Object) -> bool:
        return sum(len(subset.get("addresses", ())) for subset in found.get("subsets", ())) == 3

    await api.wait_for("v1", "Endpoints", "demo", reaches_all, namespace)


@pytest.mark.usefixtures("kubelet")
async def test_a_job_completes(api: Api, namespace: str) -> None:
    """Its pod ends well."""
    await api.apply(job("migrate"), namespace)
    await api.wait_for("batch/v1", "Job", "migrate", lambda found: found["status"].get("succeeded") == 1, namespace)


async def test_a_job_fails_with_its_message(api: Api, namespace: str, kubelet: FakeKubelet) -> None:
    """The program's message is in the pod's status."""
    kubelet.behave(lambda pod: True, Behaviour(exit_code=3, message='{"reason": "DatabaseUnreachable"}'))
    await api.apply(job("migrate"), namespace)
    await api.wait_for("batch/v1", "Job", "migrate", lambda found: found["status"].get("failed") == 1, namespace)
    (pod,) = await api.list("v1", "Pod", namespace, labels="batch.kubernetes.io/job-name=migrate")
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["message"]) == (3, '{"reason": "DatabaseUnreachable"}')


async def test_a_deleted_pod_goes_when_it_has_stopped_and_comes_again(
    api: Api, namespace: str, kubelet: FakeKubelet
) -> None:
    """Not before: the deletion is honoured as a kubelet does."""
    kubelet.behave(lambda pod: True, Behaviour(stop_s=1.0))
    await api.apply(stateful_set(), namespace)
    await api.wait_for("apps/v1", "StatefulSet", "demo", has_ready(3), namespace)
    before = await api.get("v1", "Pod", "demo-1", namespace)
    asked = time.monotonic()
    await api.delete("v1", "Pod", "demo-1", namespace)
    ending = await api.get("v1", "Pod", "demo-1", namespace)
    assert ending["metadata"]["deletionTimestamp"]

    def is_another(pod: Object) -> bool:
        return bool(pod["metadata"]["uid"] != before["metadata"]["uid"])

    await api.wait_for("v1", "Pod", "demo-1", is_another, namespace)
    assert time.monotonic() - asked >= 1.0


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (Behaviour(starts="image missing"), "ImagePullBackOff"),
        (Behaviour(starts="crashing", exit_code=1), "CrashLoopBackOff"),
        (Behaviour(starts="never"), "ContainerCreating"),
    ],
    ids=["image missing", "crash loop", "never starts"],
)
async def test_a_pod_in_trouble_says_why_and_heals(
    api: Api, namespace: str, kubelet: FakeKubelet, behaviour: Behaviour, reason: str
) -> None:
    """Its container waits with the reason that a kubelet gives, until the rule is another."""
    kubelet.behave(lambda pod: bool(pod["metadata"]["name"] == "demo-1"), behaviour)
    await api.apply(stateful_set(), namespace)
    await api.wait_for("apps/v1", "StatefulSet", "demo", has_ready(2), namespace)

    def waits(pod: Object) -> bool:
        state = pod["status"].get("containerStatuses", [{}])[0].get("state", {})
        return bool(state.get("waiting", {}).get("reason") == reason)

    await api.wait_for("v1", "Pod", "demo-1", waits, namespace)
    kubelet.behave(lambda pod: True, Behaviour())
    await api.wait_for("apps/v1", "StatefulSet", "demo", has_ready(3), namespace)


async def test_a_pod_that_never_becomes_ready_runs(api: Api, namespace: str, kubelet: FakeKubelet) -> None:
    """Its container has started, and that is all."""
    kubelet.behave(lambda pod: True, Behaviour(becomes_ready=False))
    await api.apply(stateful_set(replicas=1), namespace)
    pod = await api.wait_for("v1", "Pod", "demo-0", lambda pod: pod["status"]["phase"] == "Running", namespace)
    assert not is_ready(pod)
    assert pod["status"]["containerStatuses"][0]["started"] is True


async def test_full_nodes_leave_pods_unschedulable(api: Api, namespace: str, kubelet: FakeKubelet) -> None:
    """The real scheduler reports them, and schedules them when a node has capacity again."""
    await kubelet.close_nodes()
    await api.apply(stateful_set(replicas=1), namespace)

    def is_unschedulable(pod: Object) -> bool:
        return any(each.get("reason") == "Unschedulable" for each in pod["status"].get("conditions", ()))

    await api.wait_for("v1", "Pod", "demo-0", is_unschedulable, namespace)
    await kubelet.close_nodes(False)
    await api.wait_for("v1", "Pod", "demo-0", is_ready, namespace)


async def test_a_lost_nodes_pods_stay_unready_until_it_is_back(api: Api, namespace: str, kubelet: FakeKubelet) -> None:
    """The real node controller finds it silent; its pods are neither ready nor gone."""
    await api.apply(stateful_set(replicas=4), namespace)
    await api.wait_for("apps/v1", "StatefulSet", "demo", has_ready(4), namespace)
    pods = await api.list("v1", "Pod", namespace)
    lost = pods[0]["spec"]["nodeName"]
    away = sum(pod["spec"]["nodeName"] == lost for pod in pods)
    kubelet.lose(lost)
    await api.wait_for("apps/v1", "StatefulSet", "demo", has_ready(4 - away), namespace, within_s=40)
    assert len(await api.list("v1", "Pod", namespace)) == 4
    await kubelet.recover(lost)
    await api.wait_for("apps/v1", "StatefulSet", "demo", has_ready(4), namespace)


async def test_workers_live_in_its_pods(api: Api, namespace: str) -> None:
    """A ready pod is a worker; a pod that is scaled away has handed its shards over."""
    workers = MemoryWorkers(12)
    async with FakeKubelet(api, namespace=namespace, processes=FakeWorkerPods({(namespace, "demo"): workers})):
        living = asyncio.create_task(workers.run(), name="workers")
        await api.apply(stateful_set(), namespace)
        await api.wait_for("apps/v1", "StatefulSet", "demo", has_ready(3), namespace)
        await api.patch("apps/v1", "StatefulSet", "demo", {"spec": {"replicas": 2}}, namespace, sub="scale")
        await api.wait_gone("v1", "Pod", "demo-2", namespace)
        assert workers.owned_by("demo-2") == []
        assert len(workers.owned_by("demo-0")) + len(workers.owned_by("demo-1")) == 12
        living.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await living
