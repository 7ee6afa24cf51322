"""Causes of a migration's failure, on a real API server: reported until they are over, and tried again."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from datetime import UTC, datetime
from typing import Final

import pytest
from msgspec.structs import replace
from threadcluster_operator.controller import actions

from shard_worker.contract_internal import OwnershipResponse, RebuildProgress
from tests.e2e.cluster.admission_webhook import Patch, webhook
from tests.e2e.cluster.harness import KIND, Harness, condition, harness_on, is_ready, stalled_by
from tests.fakes.pod_life import Behaviour
from tests.support.kube_api import Api, Object

pytestmark = pytest.mark.cluster

NAMED_S: Final = 10.0
"""Time from the report of a kubelet within which the status names it."""


@pytest.fixture
async def harness(api: Api, namespace: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Harness]:
    """An operator that tries again soon, and a fake kubelet, in a namespace."""
    monkeypatch.setattr(actions, "_STUCK_MIGRATION_S", 3.0)
    async with harness_on(api, namespace) as made:
        yield made


def migrates(pod: Object) -> bool:
    """Whether it is a migration's pod."""
    return bool(pod["metadata"]["labels"].get("app.kubernetes.io/component") == "migration")


def owner(pod: Object) -> str:
    """The uid of its Job."""
    return str(pod["metadata"]["ownerReferences"][0]["uid"])


async def migration_pod(harness: Harness, besides: Collection[str] = ()) -> Object:
    """A pod of a Job of another uid than these, as soon as there is one."""
    async with asyncio.timeout(30):
        while True:
            for pod in await harness.api.list("v1", "Pod", harness.namespace):
                if migrates(pod) and owner(pod) not in besides:
                    return pod
            await asyncio.sleep(0.1)


async def events_of(harness: Harness) -> list[str]:
    """The reasons of the Events about the ThreadCluster."""
    found = await harness.api.list("v1", "Event", harness.namespace)
    return [each["reason"] for each in found if each["involvedObject"]["kind"] == KIND]


def not_mounted(pod: Object, harness: Harness) -> Object:
    """A kubelet's report of a pod whose Secret is missing."""
    message = 'MountVolume.SetUp failed for volume "database": secret "database" not found'
    return warning(pod, harness, "FailedMount", message)


def warning(pod: Object, harness: Harness, reason: str, message: str) -> Object:
    """A kubelet's Event about a pod."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    meta = pod["metadata"]
    about = {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": harness.namespace,
        "name": meta["name"],
        "uid": meta["uid"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.1"},
        "involvedObject": about,
        "type": "Warning",
        "reason": reason,
        "message": message,
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": {"component": "kubelet"},
    }


WAITS: Final[dict[str, tuple[Behaviour, str, str]]] = {
    "created": (
        Behaviour(waits="CreateContainerError", message="a name in use"),
        "ContainerNotStarted",
        "a name in use",
    ),
    "unheard": (Behaviour(waits="SomethingNew", message="no idea"), "ContainerNotStarted", "SomethingNew: no idea"),
    "memory": (Behaviour(starts="crashing", exit_code=137, ends="OOMKilled"), "OutOfMemory", "memory limit"),
    "first": (Behaviour(first_waits="CrashLoopBackOff"), "WorkerCrashLooping", "init container certificates of pod"),
    "pulled": (Behaviour(first_waits="ErrImagePull", message="no such tag"), "ImagePullFailed", "no such tag"),
    "registry": (Behaviour(waits="RegistryUnavailable", message="refused"), "ImagePullFailed", "refused"),
}
"""By the name of a cluster, how its workers' pods behave, the reason that is named, and a part of the message."""


@pytest.mark.timeout(240)
async def test_each_wait_of_a_pod_has_a_name_in_the_status(harness: Harness) -> None:
    """Of containers, and of those before them, which an admission rule adds; healed as soon as the pod goes on."""

    def with_init_container(body: Object) -> Patch:
        if migrates(body) or body["metadata"]["labels"]["app.kubernetes.io/instance"] not in ("first", "pulled"):
            return []
        return [{"op": "add", "path": "/spec/initContainers", "value": [{"name": "certificates", "image": "init:1"}]}]

    def of(name: str) -> Callable[[Object], bool]:
        return lambda pod: pod["metadata"]["labels"].get("app.kubernetes.io/instance") == name and not migrates(pod)

    async def named(name: str, reason: str, word: str) -> None:
        await harness.api.wait_for("v1", "Pod", f"{name}-0", _is_reported, harness.namespace, within_s=60)
        found = await harness.until(name, stalled_by(reason), within_s=NAMED_S)
        assert word in condition(found, "Stalled")["message"]

    async with webhook(harness.api, f"init-{harness.namespace}") as hook:
        hook.rewrites = with_init_container
        await hook.register(harness.namespace, "", ["pods"], kind="Mutating")
        for name, (behaviour, _, _) in WAITS.items():
            harness.kubelet.behave(of(name), behaviour)
            await harness.make(name)
        await asyncio.gather(*(named(name, reason, word) for name, (_, reason, word) in WAITS.items()))
        for name in WAITS:
            harness.kubelet.behave(of(name), Behaviour())
        await asyncio.gather(*(harness.until(name, is_ready, within_s=60) for name in WAITS))


def _is_reported(pod: Object) -> bool:
    return "containerStatuses" in pod.get("status", {})


async def test_what_often_passes_is_named_at_once_and_stalls_nothing(harness: Harness) -> None:
    """A sandbox that cannot be made, by an Event; and a pod whose container is just being made."""
    harness.kubelet.behave(lambda pod: not migrates(pod), Behaviour(starts="never"))
    await harness.make("chat", replicas=1)
    found = await harness.until("chat", lambda it: condition(it, "Ready").get("reason") == "WorkersNotReady")
    found = await harness.until("chat", lambda it: "ContainerCreating" in condition(it, "Ready")["message"])
    pod = await harness.api.get("v1", "Pod", "chat-0", harness.namespace)
    event = warning(pod, harness, "FailedCreatePodSandBox", "network plugin is not ready: cni config uninitialized")
    await harness.api.create(event, harness.namespace)
    found = await harness.until(
        "chat", lambda it: condition(it, "Ready").get("reason") == "PodSandboxFailed", within_s=NAMED_S
    )
    assert "cni config uninitialized" in condition(found, "Ready")["message"]
    assert condition(found, "Stalled")["status"] == "False"
    harness.kubelet.behave(lambda pod: not migrates(pod), Behaviour())
    await harness.until("chat", is_ready)


async def test_a_lost_node_is_named(api: Api, namespace: str) -> None:
    """As soon as Kubernetes knows that it is; no worker is restarted or removed for it."""
    async with harness_on(api, namespace, nodes=2) as harness:
        await harness.make("chat", replicas=4)
        await harness.until("chat", is_ready)
        before = {pod["metadata"]["uid"] for pod in await api.list("v1", "Pod", namespace) if not migrates(pod)}
        lost = (await api.get("v1", "Pod", "chat-0", namespace))["spec"]["nodeName"]
        harness.kubelet.lose(lost)
        await api.wait_for("v1", "Pod", "chat-0", lambda pod: not _is_ready_pod(pod), namespace, within_s=60)
        found = await harness.until(
            "chat", lambda it: condition(it, "Ready").get("reason") == "NodeLost", within_s=NAMED_S
        )
        assert lost in condition(found, "Ready")["message"]
        await harness.kubelet.recover(lost)
        await harness.until("chat", is_ready, within_s=60)
        after = {pod["metadata"]["uid"] for pod in await api.list("v1", "Pod", namespace) if not migrates(pod)}
        assert after == before


def _is_ready_pod(pod: Object) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", ()))


async def test_a_missing_secret_is_reported_and_checked_at_a_constant_rate(harness: Harness) -> None:
    """A kubelet asks for it less and less often; another pod asks at once, and meanwhile nothing is reported as
    mended.
    """
    harness.kubelet.behave(migrates, Behaviour(starts="never"))
    await harness.make("chat")
    first = await migration_pod(harness)
    await harness.api.create(not_mounted(first, harness), harness.namespace)
    found = await harness.until("chat", stalled_by("DatabaseSecretMissing"))
    assert "make the Secret" in condition(found, "Stalled")["message"]
    await migration_pod(harness, besides=(owner(first),))
    assert condition(await harness.look("chat"), "Stalled")["reason"] == "DatabaseSecretMissing"
    assert "Mended" not in await events_of(harness)
    harness.kubelet.behave(migrates, Behaviour())
    await harness.until("chat", is_ready)
    assert (await events_of(harness)).count("DatabaseSecretMissing") == 1


async def test_a_failed_migration_is_tried_again_and_stays_reported(harness: Harness) -> None:
    """Sooner than its Job would; Mended is reported once, after the try that succeeded."""
    message = '{"reason": "DatabaseAuthFailed", "message": "Postgres at db:5432/chat refuses the login"}'
    harness.kubelet.behave(migrates, Behaviour(exit_code=1, message=message))
    await harness.make("chat")
    first = await migration_pod(harness)
    found = await harness.until("chat", stalled_by("DatabaseAuthFailed"))
    assert "correct user, password" in condition(found, "Stalled")["message"]
    second = await migration_pod(harness, besides=(owner(first),))
    await migration_pod(harness, besides=(owner(first), owner(second)))
    assert condition(await harness.look("chat"), "Stalled")["reason"] == "DatabaseAuthFailed"
    assert "Mended" not in await events_of(harness)
    harness.kubelet.behave(migrates, Behaviour())
    found = await harness.until("chat", is_ready)
    assert condition(found, "Stalled")["reason"] == "NotStalled"
    assert (await events_of(harness)).count("DatabaseAuthFailed") == 1


async def test_a_rebuild_of_the_read_model_is_progress_and_not_unready(harness: Harness) -> None:
    """As the workers report it, with how far it is; and no longer than that."""
    workers = await harness.make("chat")
    await harness.until("chat", is_ready)

    def rebuilding(done: int) -> Callable[[OwnershipResponse], OwnershipResponse]:
        progress = RebuildProgress(generation=2, version=1, shards_done=done, shards=12)
        return lambda answer: replace(answer, rebuild=progress)

    for done in (3, 12):
        workers.knobs.distort = rebuilding(done)
        found = await harness.until("chat", _progress_is("RebuildingReadModel", f"{done} of 12 shards"))
        assert is_ready(found)
    workers.knobs.distort = lambda answer: answer
    assert is_ready(await harness.until("chat", _progress_is("Stable", "")))


def _progress_is(reason: str, words: str) -> Callable[[Object], bool]:
    def holds(found: Object) -> bool:
        progressing = condition(found, "Progressing")
        return bool(progressing["reason"] == reason and words in progressing["message"])

    return holds
