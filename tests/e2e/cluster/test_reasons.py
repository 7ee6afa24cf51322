"""Causes of a migration's failure, on a real API server: reported until they are over, and tried again."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace
from threadcluster_operator.controller import actions

from shard_worker.contract_internal import OwnershipResponse, RebuildProgress
from tests.e2e.cluster.harness import KIND, Harness, condition, harness_on, is_ready, stalled_by
from tests.fakes.pod_life import Behaviour
from tests.support.kube_api import Api, Object

pytestmark = pytest.mark.cluster


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
        "reason": "FailedMount",
        "message": 'MountVolume.SetUp failed for volume "database": secret "database" not found',
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": {"component": "kubelet"},
    }


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
