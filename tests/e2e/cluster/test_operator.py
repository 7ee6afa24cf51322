"""The operator on a real API server: from `kubectl apply` to Ready, through every change, to nothing left behind."""

from collections.abc import AsyncIterator

import pytest
from threadcluster_operator.controller.status import ranges

from tests.e2e.cluster.api import Api, Object
from tests.e2e.cluster.harness import Stage, condition, is_ready, stage_on, stalled_by
from tests.e2e.cluster.pod_life import Behaviour

pytestmark = pytest.mark.cluster


@pytest.fixture
async def stage(api: Api, namespace: str) -> AsyncIterator[Stage]:
    """An operator and a puppet in a namespace."""
    async with stage_on(api, namespace) as made:
        yield made


async def test_a_cluster_becomes_ready_and_says_what_it_is(stage: Stage) -> None:
    """Its migration first, then its workers; every shard has an owner, and status tells it."""
    workers = await stage.make("chat")
    found = await stage.until("chat", is_ready)
    status = found["status"]
    assert status["readyReplicas"] == status["replicas"] == status["updatedReplicas"] == 2
    assert status["shards"] == {"total": 16, "assigned": 16, "moving": 0, "imbalancePercent": 0}
    assert [(each["name"], each["state"]) for each in status["workers"]] == [("chat-0", "Ready"), ("chat-1", "Ready")]
    shown = {each["name"]: each["shards"] for each in status["workers"]}
    assert shown == {name: ranges(workers.owned_by(name)) for name in ("chat-0", "chat-1")}
    assert {len(workers.owned_by(name)) for name in shown} == {8}
    assert condition(found, "Available")["status"] == "True"
    assert {each["observedGeneration"] for each in status["conditions"]} == {1}
    jobs = await stage.api.list("batch/v1", "Job", stage.namespace)
    assert [each["status"].get("succeeded") for each in jobs] == [1]


async def test_it_grows_and_shrinks_as_it_is_told(stage: Stage) -> None:
    """A worker that goes owns nothing any more when its pod is taken away."""
    workers = await stage.make("chat")
    await stage.until("chat", is_ready)
    await stage.edit("chat", {"replicas": 4})
    found = await stage.until("chat", is_ready)
    assert {len(workers.owned_by(f"chat-{number}")) for number in range(4)} == {4}
    assert found["status"]["replicas"] == 4
    await stage.edit("chat", {"replicas": 1})
    await stage.until("chat", is_ready)
    assert len(workers.owned_by("chat-0")) == 16
    history = await workers.history(1000, None)
    assert {each.kind for each in history} <= {"claim", "handoff"}


async def test_an_edit_starts_the_workers_anew_one_after_the_other(stage: Stage) -> None:
    """Never two at a time, and Ready is not said before all of them have the new template."""
    await stage.make("chat", replicas=3)
    await stage.until("chat", is_ready)
    least = 3
    generation = await stage.edit("chat", {"worker": {"snapshotEveryEvents": 7}})

    def done(found: Object) -> bool:
        nonlocal least
        least = min(least, found["status"]["readyReplicas"])
        return is_ready(found) and found["metadata"]["generation"] == generation

    await stage.until("chat", done, within_s=60)
    assert least >= 2
    for pod in await stage.api.list("v1", "Pod", stage.namespace, labels="app.kubernetes.io/component=worker"):
        env = {each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]}
        assert env["SHARD_WORKER_SNAPSHOT_EVERY_EVENTS"] == "7"


async def test_what_an_edit_takes_out_is_gone(stage: Stage) -> None:
    """Also of what was there when the cluster was made; Ready is not said before."""
    annotations = {"example.org/first": "1", "example.org/second": "2"}
    await stage.make(
        "chat",
        worker={"env": [{"name": "GONE", "value": "1"}, {"name": "STAYS", "value": "1"}]},
        gateway={"service": {"annotations": annotations}},
    )
    await stage.until("chat", is_ready)
    await stage.api.patch(
        "v1", "Service", "chat", {"metadata": {"annotations": {"example.org/theirs": "3"}}}, stage.namespace
    )
    await stage.edit("chat", {"worker": {"env": [{"name": "STAYS", "value": "1"}]}})
    await stage.edit("chat", {"gateway": {"service": {"annotations": {"example.org/first": None}}}})
    await stage.until("chat", is_ready, within_s=60)
    for pod in await stage.api.list("v1", "Pod", stage.namespace, labels="app.kubernetes.io/component=worker"):
        names = {each["name"] for each in pod["spec"]["containers"][0]["env"]}
        assert "STAYS" in names
        assert "GONE" not in names
    service = await stage.api.get("v1", "Service", "chat", stage.namespace)
    found = {name for name in service["metadata"]["annotations"] if name.startswith("example.org/")}
    assert found == {"example.org/second", "example.org/theirs"}


async def test_a_withdrawn_edit_ends_where_it_began(stage: Stage) -> None:
    """A to B to A: workers that had B already are started anew."""
    await stage.make("chat", replicas=3)
    await stage.until("chat", is_ready)
    await stage.edit("chat", {"worker": {"snapshotEveryEvents": 7}})
    await stage.until("chat", lambda found: condition(found, "Ready").get("reason") == "RolloutInProgress")
    await stage.edit("chat", {"worker": {"snapshotEveryEvents": 100}})
    await stage.until("chat", is_ready, within_s=60)
    for pod in await stage.api.list("v1", "Pod", stage.namespace, labels="app.kubernetes.io/component=worker"):
        env = {each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]}
        assert env["SHARD_WORKER_SNAPSHOT_EVERY_EVENTS"] == "100"


async def test_nothing_is_left_of_a_deleted_cluster(stage: Stage) -> None:
    """Its children go with it, whether an operator runs or not; nothing holds the object back."""
    await stage.make("chat")
    await stage.until("chat", is_ready)
    found = await stage.look("chat")
    assert "finalizers" not in found["metadata"]
    assert "annotations" not in found["metadata"]
    await stage.api.delete("threadcluster.io/v1alpha1", "ThreadCluster", "chat", stage.namespace)
    for version, kind, name in (
        ("apps/v1", "StatefulSet", "chat"),
        ("v1", "Service", "chat"),
        ("v1", "Secret", "chat-internal"),
        ("policy/v1", "PodDisruptionBudget", "chat"),
        ("networking.k8s.io/v1", "NetworkPolicy", "chat"),
    ):
        await stage.api.wait_gone(version, kind, name, stage.namespace)


async def test_what_somebody_changes_is_put_right(stage: Stage) -> None:
    """Also what somebody deletes."""
    await stage.make("chat")
    await stage.until("chat", is_ready)
    where = stage.namespace
    await stage.api.patch("v1", "Service", "chat", {"spec": {"ports": [{"port": 81, "targetPort": 1}]}}, where)
    await stage.api.wait_for(
        "v1", "Service", "chat", lambda it: {each["port"] for each in it["spec"]["ports"]} >= {80}, where
    )
    await stage.api.delete("policy/v1", "PodDisruptionBudget", "chat", where)
    await stage.api.wait_for("policy/v1", "PodDisruptionBudget", "chat", lambda it: True, where)
    await stage.until("chat", is_ready)


async def test_a_name_that_is_somebody_elses_is_left_alone(stage: Stage) -> None:
    """It is told which, and it goes on by itself when the other one is gone."""
    foreign = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chat"}, "spec": {"ports": [{"port": 5}]}}
    await stage.api.create(foreign, stage.namespace)
    await stage.make("chat")
    found = await stage.until("chat", stalled_by("NameConflict"))
    assert "Service chat" in condition(found, "Stalled")["message"]
    assert (await stage.api.get("v1", "Service", "chat", stage.namespace))["spec"]["ports"][0]["port"] == 5
    await stage.api.delete("v1", "Service", "chat", stage.namespace)
    await stage.until("chat", is_ready)


async def test_an_image_that_cannot_be_pulled_is_told_and_mended(stage: Stage) -> None:
    """Ready says Stalled, Stalled says why; with another image it goes on by itself."""

    def is_missing(pod: Object) -> bool:
        return bool(pod["spec"]["containers"][0]["image"] == "missing:1")

    stage.puppet.behave(is_missing, Behaviour(starts="image missing"))
    await stage.make("chat", image="missing:1")
    found = await stage.until("chat", stalled_by("ImagePullFailed"))
    assert condition(found, "Ready")["reason"] == "Stalled"
    assert "missing:1" in condition(found, "Stalled")["message"]
    await stage.edit("chat", {"image": "threadcluster:1"})
    await stage.until("chat", is_ready, within_s=60)


async def test_a_quota_is_told_and_heals_when_it_is_raised(stage: Stage) -> None:
    """By the controller's own Event; whoever else is there goes on."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    await stage.api.create(quota, stage.namespace)
    await stage.api.wait_for("v1", "ResourceQuota", "none", lambda it: it["status"].get("hard"), stage.namespace)
    await stage.make("chat")
    found = await stage.until("chat", stalled_by("QuotaExceeded"))
    assert "raise the namespace's quota" in condition(found, "Stalled")["message"]
    await stage.api.delete("v1", "ResourceQuota", "none", stage.namespace)
    await stage.until("chat", is_ready, within_s=90)


async def test_why_a_migration_failed_is_told_in_its_own_word(stage: Stage) -> None:
    """The termination message's reason is the condition's."""

    def migrates(pod: Object) -> bool:
        return bool(pod["metadata"]["labels"].get("app.kubernetes.io/component") == "migration")

    said = '{"reason": "DatabaseClaimedByOther", "message": "the database belongs to cluster other"}'
    stage.puppet.behave(migrates, Behaviour(exit_code=1, message=said))
    await stage.make("chat")
    found = await stage.until("chat", stalled_by("DatabaseClaimedByOther"))
    assert "other" in condition(found, "Stalled")["message"]
    assert await stage.api.find("apps/v1", "StatefulSet", "chat", stage.namespace) is None


async def test_while_nobody_answers_no_worker_is_taken_away(stage: Stage) -> None:
    """Unknown ownership is a reason to wait, and it is said."""
    workers = await stage.make("chat", replicas=3)
    await stage.until("chat", is_ready)
    workers.knobs.silent = True
    await stage.until("chat", lambda it: condition(it, "Available").get("reason") == "OwnershipUnknown")
    await stage.edit("chat", {"replicas": 1})
    found = await stage.until("chat", stalled_by("WorkerUnreachable"))
    assert found["status"]["replicas"] == 3
    workers.knobs.silent = False
    await stage.until("chat", is_ready)
