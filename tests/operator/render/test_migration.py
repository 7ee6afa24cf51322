"""The migration: one Job for what it does, under a name that says so, and the record that outlives it."""

from typing import Any

import pytest
from threadcluster_operator.render import is_worker_of, migrated, migration_job
from threadcluster_operator.render.migration_job import migration_name
from threadcluster_operator.render.pod import migration_template, worker_template

from tests.support.rendered_clusters import EVERYTHING, LEAST, cluster, environment, find, least


def name_of(**changes: Any) -> str:
    """The Job's name for the least spec, changed."""
    return str(migration_job(least(**changes))["metadata"]["name"])


def test_it_connects_as_who_may_change_the_schema() -> None:
    """With the DSN that is given for that, else with the workers'."""
    volume = find(cluster(EVERYTHING), "Job")["spec"]["template"]["spec"]["volumes"][0]
    assert volume["secret"] == {"secretName": "chat-db", "items": [{"key": "owner", "path": "url"}]}
    volume = find(cluster(), "Job")["spec"]["template"]["spec"]["volumes"][0]
    assert volume["secret"] == {"secretName": "chat-db", "items": [{"key": "url", "path": "url"}]}


def test_it_tells_how_it_ended() -> None:
    """Where the kubelet reads it."""
    [container] = find(cluster(), "Job")["spec"]["template"]["spec"]["containers"]
    assert container["command"] == [
        "shard-worker",
        "migrate",
        "--termination-file",
        container["terminationMessagePath"],
    ]
    assert environment(container)["SHARD_WORKER_CLUSTER"] == "talk.chat"
    assert environment(container)["SHARD_WORKER_SHARDS"] == "144"


def test_it_ends() -> None:
    """It tries a few times, is stopped after an hour, and goes by itself a day later."""
    spec = find(cluster(), "Job")["spec"]
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (3, 3600, 86_400)
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize(
    "change",
    [
        {"image": "threadcluster:2"},
        {"shards": 8, "replicas": 3},
        {"database": {"urlSecretKeyRef": {"name": "other"}}},
        {"database": {**LEAST["database"], "clusterID": "other"}},
        {"database": {**LEAST["database"], "tls": {"mode": "Disable"}}},
    ],
    ids=["image", "shards", "Secret", "cluster id", "TLS"],
)
def test_what_it_does_is_in_its_name(change: dict[str, Any]) -> None:
    """A Job cannot be changed: another one takes its place."""
    assert name_of(**change) != name_of()
    assert name_of(**change) == name_of(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"podTemplate": {"spec": {"nodeSelector": {"disk": "fast"}}}},
        {"podTemplate": {"metadata": {"labels": {"team": "chat"}}}},
        {"imagePullSecrets": [{"name": "registry"}]},
        {"worker": {"resources": {"requests": {"cpu": "1"}}, "snapshotEveryEvents": 7}},
    ],
    ids=["where it runs", "labels", "pull secrets", "workers"],
)
def test_where_and_how_it_runs_is_not_in_its_name(change: dict[str, Any]) -> None:
    """An edit of that begins no migration; the mark of what was applied shows the change."""
    assert name_of(**change) == name_of()


def test_it_names_the_resources_that_a_quota_counts() -> None:
    """Those that the user names for the workers, as much as them and no more than it needs."""
    resources = {"requests": {"cpu": "4", "memory": "300Mi", "x/gpu": "1"}, "limits": {"memory": "8Gi"}}
    [container] = find(least(worker={"resources": resources}), "Job")["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {"requests": {"cpu": "500m", "memory": "300Mi"}, "limits": {"memory": "512Mi"}}
    [container] = find(cluster(), "Job")["spec"]["template"]["spec"]["containers"]
    assert "resources" not in container
    written = {"requests": {"cpu": "0.5", "memory": "524288Ki"}}  # as much as the migration gets at most
    [container] = find(least(worker={"resources": written}), "Job")["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == written


def test_it_is_done_when_its_job_says_so() -> None:
    """Not before, and not when another's does."""
    wanted = cluster()
    job = migration_job(wanted)
    assert not migrated(wanted, None, None)
    assert not migrated(wanted, None, job)
    for status, done in (("False", False), ("True", True)):
        condition = {"type": "Complete", "status": status}
        ended = {**job, "status": {"conditions": [{"type": "SuccessCriteriaMet", "status": "True"}, condition]}}
        assert migrated(wanted, None, ended) is done
        assert not migrated(least(image="threadcluster:2"), None, ended)
    failed = {**job, "status": {"conditions": [{"type": "Failed", "status": "True"}]}}
    assert not migrated(wanted, None, failed)


def test_it_stays_done_when_its_job_is_gone() -> None:
    """The StatefulSet that was made after it says so; one without that mark, or after another, does not."""
    wanted = cluster()
    workers = find(wanted, "StatefulSet")
    assert migrated(wanted, workers, None)
    assert not migrated(least(image="threadcluster:2"), workers, None)
    assert not migrated(wanted, {"metadata": {"name": "chat"}}, None)


def test_the_claim_is_by_what_no_other_cluster_has() -> None:
    """Of workers and migration alike; the id alone is a name that may be given twice."""
    for template in (migration_template(cluster()), worker_template(cluster())):
        found = environment(template["spec"]["containers"][0])
        assert found["SHARD_WORKER_CLUSTER"] == "talk.chat"
        assert found["SHARD_WORKER_CLUSTER_UID"] == cluster().uid
        assert found["SHARD_WORKER_CLUSTER_NAME"] == "talk/chat"
        assert found["SHARD_WORKER_CLUSTER_SITE"] == cluster().site


def test_a_take_over_is_the_migrations_alone() -> None:
    """Another Job runs for it, and no worker restarts."""
    displacing = cluster({**LEAST, "database": {**LEAST["database"], "takeOver": "uid-1"}})
    assert environment(migration_template(displacing)["spec"]["containers"][0])["SHARD_WORKER_TAKE_OVER"] == "uid-1"
    assert "SHARD_WORKER_TAKE_OVER" not in environment(migration_template(cluster())["spec"]["containers"][0])
    assert migration_name(displacing) != migration_name(cluster())
    assert worker_template(displacing) == worker_template(cluster())


@pytest.mark.parametrize(
    ("worker", "ours"),
    [("chat-0", True), ("chat-12", True), ("chat", False), ("chat-x", False), ("chat-2-0", False), ("other-0", False)],
)
def test_a_workers_name_tells_whose_it_is(worker: str, ours: bool) -> None:
    """As the StatefulSet gives it."""
    assert is_worker_of("chat", worker) is ours
