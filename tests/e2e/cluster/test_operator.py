"""The operator on a real API server: from `kubectl apply` to Ready, through every change, to nothing left behind."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

import pytest
from threadcluster_operator.controller.status import ranges

from tests.e2e.cluster.harness import Harness, condition, harness_on, is_ready, stalled_by
from tests.fakes.pod_life import Behaviour
from tests.support.kube_api import Api, Object
from tests.support.polling import eventually

pytestmark = pytest.mark.cluster

HEALED_S: Final = 10.0
"""Time within which a cluster is Ready after a quota leaves enough headroom."""


@pytest.fixture
async def harness(api: Api, namespace: str) -> AsyncIterator[Harness]:
    """An operator and a fake kubelet in a namespace."""
    async with harness_on(api, namespace) as made:
        yield made


async def test_a_cluster_becomes_ready_and_says_what_it_is(harness: Harness) -> None:
    """Its migration first, then its workers; every shard has an owner, and status tells it."""
    workers = await harness.make("chat")
    found = await harness.until("chat", is_ready)
    status = found["status"]
    assert status["readyReplicas"] == status["replicas"] == status["updatedReplicas"] == 2
    assert status["shards"] == {"total": 16, "assigned": 16, "moving": 0, "imbalancePercent": 0}
    assert [(each["name"], each["state"]) for each in status["workers"]] == [("chat-0", "Ready"), ("chat-1", "Ready")]
    shown = {each["name"]: each["shards"] for each in status["workers"]}
    assert shown == {name: ranges(workers.owned_by(name)) for name in ("chat-0", "chat-1")}
    assert {len(workers.owned_by(name)) for name in shown} == {8}
    assert condition(found, "Available")["status"] == "True"
    assert {each["observedGeneration"] for each in status["conditions"]} == {1}
    [job] = await harness.api.list("batch/v1", "Job", harness.namespace)
    # Its controller counts the pod a second after the container's end, which is what the workers waited for.
    await harness.api.wait_for(
        "batch/v1", "Job", job["metadata"]["name"], lambda it: it["status"].get("succeeded") == 1, harness.namespace
    )


async def test_it_grows_and_shrinks_by_replicas(harness: Harness) -> None:
    """A worker that goes owns nothing any more when its pod is taken away."""
    workers = await harness.make("chat")
    await harness.until("chat", is_ready)
    await harness.edit("chat", {"replicas": 4})
    found = await harness.until("chat", is_ready)
    assert {len(workers.owned_by(f"chat-{number}")) for number in range(4)} == {4}
    assert found["status"]["replicas"] == 4
    await harness.edit("chat", {"replicas": 1})
    await harness.until("chat", is_ready)
    assert len(workers.owned_by("chat-0")) == 16
    history = await workers.history(1000, None)
    assert {each.kind for each in history} <= {"claim", "handoff"}


async def test_an_edit_restarts_the_workers_one_after_the_other(harness: Harness) -> None:
    """Never two at a time, and Ready is not reported before all of them have the new template."""
    await harness.make("chat", replicas=3)
    await harness.until("chat", is_ready)
    least = 3
    generation = await harness.edit("chat", {"worker": {"snapshotEveryEvents": 7}})

    def done(found: Object) -> bool:
        nonlocal least
        least = min(least, found["status"]["readyReplicas"])
        return is_ready(found) and found["metadata"]["generation"] == generation

    await harness.until("chat", done, within_s=60)
    assert least >= 2
    for pod in await harness.api.list("v1", "Pod", harness.namespace, labels="app.kubernetes.io/component=worker"):
        env = {each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]}
        assert env["SHARD_WORKER_SNAPSHOT_EVERY_EVENTS"] == "7"


async def test_what_an_edit_takes_out_is_gone(harness: Harness) -> None:
    """Also for objects that existed before the cluster; Ready is not reported before."""
    annotations = {"example.org/first": "1", "example.org/second": "2"}
    await harness.make(
        "chat",
        worker={"env": [{"name": "GONE", "value": "1"}, {"name": "STAYS", "value": "1"}]},
        gateway={"service": {"annotations": annotations}},
    )
    await harness.until("chat", is_ready)
    await harness.api.patch(
        "v1", "Service", "chat", {"metadata": {"annotations": {"example.org/theirs": "3"}}}, harness.namespace
    )
    await harness.edit("chat", {"worker": {"env": [{"name": "STAYS", "value": "1"}]}})
    await harness.edit("chat", {"gateway": {"service": {"annotations": {"example.org/first": None}}}})
    await harness.until("chat", is_ready, within_s=60)
    for pod in await harness.api.list("v1", "Pod", harness.namespace, labels="app.kubernetes.io/component=worker"):
        names = {each["name"] for each in pod["spec"]["containers"][0]["env"]}
        assert "STAYS" in names
        assert "GONE" not in names
    service = await harness.api.get("v1", "Service", "chat", harness.namespace)
    found = {name for name in service["metadata"]["annotations"] if name.startswith("example.org/")}
    assert found == {"example.org/second", "example.org/theirs"}


async def test_a_withdrawn_edit_ends_where_it_began(harness: Harness) -> None:
    """A to B to A: workers that had B already restart."""
    await harness.make("chat", replicas=3)
    await harness.until("chat", is_ready)
    await harness.edit("chat", {"worker": {"snapshotEveryEvents": 7}})

    async def settings() -> set[str]:
        pods = await harness.api.list("v1", "Pod", harness.namespace, labels="app.kubernetes.io/component=worker")
        env = (each for pod in pods for each in pod["spec"]["containers"][0]["env"])
        return {each["value"] for each in env if each["name"] == "SHARD_WORKER_SNAPSHOT_EVERY_EVENTS"}

    async def restarted() -> bool:
        return "7" in await settings()

    await eventually(restarted, within_s=30)
    await harness.edit("chat", {"worker": {"snapshotEveryEvents": 100}})
    await harness.until("chat", is_ready, within_s=60)
    assert await settings() == {"100"}


async def test_nothing_is_left_of_a_deleted_cluster(harness: Harness) -> None:
    """Its children go with it, whether an operator runs or not; nothing holds the object back."""
    await harness.make("chat")
    await harness.until("chat", is_ready)
    found = await harness.look("chat")
    assert "finalizers" not in found["metadata"]
    assert "annotations" not in found["metadata"]
    await harness.api.delete("threadcluster.io/v1alpha1", "ThreadCluster", "chat", harness.namespace)
    for version, kind, name in (
        ("apps/v1", "StatefulSet", "chat"),
        ("v1", "Service", "chat"),
        ("v1", "Secret", "chat-internal"),
        ("policy/v1", "PodDisruptionBudget", "chat"),
        ("networking.k8s.io/v1", "NetworkPolicy", "chat"),
    ):
        await harness.api.wait_gone(version, kind, name, harness.namespace)


async def test_foreign_changes_are_reverted(harness: Harness) -> None:
    """Also deletions."""
    await harness.make("chat")
    await harness.until("chat", is_ready)
    where = harness.namespace
    await harness.api.patch("v1", "Service", "chat", {"spec": {"ports": [{"port": 81, "targetPort": 1}]}}, where)
    await harness.api.wait_for(
        "v1", "Service", "chat", lambda it: {each["port"] for each in it["spec"]["ports"]} >= {80}, where
    )
    await harness.api.delete("policy/v1", "PodDisruptionBudget", "chat", where)
    await harness.api.wait_for("policy/v1", "PodDisruptionBudget", "chat", lambda it: True, where)
    await harness.until("chat", is_ready)


async def test_an_object_of_another_owner_is_left_alone(harness: Harness) -> None:
    """The status names the object, and the operator goes on by itself when the object is gone."""
    foreign = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chat"}, "spec": {"ports": [{"port": 5}]}}
    await harness.api.create(foreign, harness.namespace)
    await harness.make("chat")
    found = await harness.until("chat", stalled_by("NameConflict"))
    assert "Service chat" in condition(found, "Stalled")["message"]
    assert (await harness.api.get("v1", "Service", "chat", harness.namespace))["spec"]["ports"][0]["port"] == 5
    await harness.api.delete("v1", "Service", "chat", harness.namespace)
    await harness.until("chat", is_ready)


async def test_an_image_that_cannot_be_pulled_is_reported_and_mended(harness: Harness) -> None:
    """Ready says Stalled, Stalled says why; with another image it goes on by itself."""

    def is_missing(pod: Object) -> bool:
        return bool(pod["spec"]["containers"][0]["image"] == "missing:1")

    harness.kubelet.behave(is_missing, Behaviour(starts="image missing"))
    await harness.make("chat", image="missing:1")
    found = await harness.until("chat", stalled_by("ImagePullFailed"))
    assert condition(found, "Ready")["reason"] == "Stalled"
    assert "missing:1" in condition(found, "Stalled")["message"]
    await harness.edit("chat", {"image": "threadcluster:1"})
    await harness.until("chat", is_ready, within_s=60)


async def test_a_quota_is_reported_and_heals_when_it_is_raised(harness: Harness) -> None:
    """By the controller's own Event; the migration, which comes first, has a reason of its own."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    await harness.api.create(quota, harness.namespace)
    await harness.api.wait_for("v1", "ResourceQuota", "none", lambda it: it["status"].get("hard"), harness.namespace)
    await harness.make("chat")
    found = await harness.until("chat", stalled_by("MigrationQuotaExceeded"))
    assert "raise the namespace's quota" in condition(found, "Stalled")["message"]
    await asyncio.sleep(20)  # in which its controller asks less and less often
    began = time.monotonic()
    await harness.api.delete("v1", "ResourceQuota", "none", harness.namespace)
    await harness.until("chat", is_ready, within_s=HEALED_S)
    print(f"Ready {time.monotonic() - began:.1f} s after the quota was gone")


async def test_workers_that_a_quota_refuses_come_when_it_is_raised(harness: Harness) -> None:
    """The StatefulSet's controller, which asks less and less often, is asked at once."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}}
    await harness.make("chat")
    await harness.until("chat", is_ready)
    await harness.api.create({**quota, "spec": {"hard": {"pods": "2"}}}, harness.namespace)
    await harness.api.wait_for("v1", "ResourceQuota", "few", lambda it: it["status"].get("used"), harness.namespace)
    for replicas in (3, 4):
        await harness.edit("chat", {"replicas": replicas})
        await harness.until("chat", stalled_by("QuotaExceeded"))
        await asyncio.sleep(20)
        began = time.monotonic()
        hard = {"hard": {"pods": str(replicas)}}
        await harness.api.patch("v1", "ResourceQuota", "few", {"spec": hard}, harness.namespace)
        await harness.until("chat", is_ready, within_s=HEALED_S)
        print(f"Ready with {replicas} workers {time.monotonic() - began:.1f} s after the quota was raised")


async def test_a_failed_migration_is_reported_with_its_own_reason(harness: Harness) -> None:
    """The termination message's reason is the condition's."""

    def migrates(pod: Object) -> bool:
        return bool(pod["metadata"]["labels"].get("app.kubernetes.io/component") == "migration")

    message = '{"reason": "DatabaseClaimedByOther", "message": "the database belongs to cluster other"}'
    harness.kubelet.behave(migrates, Behaviour(exit_code=1, message=message))
    await harness.make("chat")
    found = await harness.until("chat", stalled_by("DatabaseClaimedByOther"))
    assert "other" in condition(found, "Stalled")["message"]
    assert await harness.api.find("apps/v1", "StatefulSet", "chat", harness.namespace) is None


async def test_without_an_answer_no_worker_is_removed(harness: Harness) -> None:
    """Unknown ownership is a reason to wait, and it is reported."""
    workers = await harness.make("chat", replicas=3)
    await harness.until("chat", is_ready)
    workers.knobs.silent = True
    await harness.until("chat", lambda it: condition(it, "Available").get("reason") == "OwnershipUnknown")
    await harness.edit("chat", {"replicas": 1})
    found = await harness.until("chat", stalled_by("WorkerUnreachable"))
    assert found["status"]["replicas"] == 3
    workers.knobs.silent = False
    await harness.until("chat", is_ready)
