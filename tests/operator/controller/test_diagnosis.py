"""The diagnosis of a blocked cluster, from Kubernetes' reports."""

from typing import Any, Final

import pytest
from threadcluster_operator.controller.diagnosis import (
    Diagnosis,
    diagnose,
    examine,
    failed_in_outage,
    joined,
    lasting_outage,
    outage_diagnosis,
    previous_diagnosis,
    refused,
    reverted,
    wait_of,
)
from threadcluster_operator.controller.reasons import ENDED, WAITING, Reason
from threadcluster_operator.controller.snapshot import ClusterSnapshot, Object
from threadcluster_operator.kube.answers import Answer
from threadcluster_operator.planning.freshness import Outage, Silence
from threadcluster_operator.planning.planner import ShardOwnership
from threadcluster_operator.render import MIGRATION_CONTAINER, selector_of

from shard_worker.contract_internal import DatabaseFault

NOW = 1_777_636_800.0  # 2026-05-01T12:00:00Z
DATABASE = {
    "urlSecretKeyRef": {"name": "db"},
    "migrationURLSecretKeyRef": {"name": "owner", "key": "dsn"},
    "replicaURLSecretKeyRef": {"name": "db-ro"},
    "tls": {"caConfigMapKeyRef": {"name": "authorities"}},
}


def passing_wait(what: ClusterSnapshot) -> Diagnosis | None:
    """The first wait of a snapshot that often ends by itself."""
    return examine(what).wait


def pod(component: str = "worker", **container: Any) -> Object:
    """A pod that is not ready, with one container."""
    return {
        "kind": "Pod",
        "metadata": {
            "name": f"chat-{component}",
            "uid": f"pod-{component}",
            "labels": {**selector_of("chat", component), "job-name": "chat-migrate-1"},  # type: ignore[arg-type]  # a component
        },
        "status": {"conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [container]},
    }


def in_phase(phase: str) -> Object:
    """A worker's pod that is not ready."""
    made = pod()
    made["status"]["phase"] = phase
    return made


def waiting(reason: str, message: str = "its own message") -> Object:
    """A container that waits."""
    return {"image": "threadcluster:1", "state": {"waiting": {"reason": reason, "message": message}}}


def ended(message: str, code: int = 1) -> Object:
    """A container that ended."""
    return {"name": MIGRATION_CONTAINER, "state": {"terminated": {"exitCode": code, "message": message}}}


def job(*conditions: str) -> Object:
    """The migration's Job."""
    return {
        "kind": "Job",
        "metadata": {"name": "chat-migrate-1", "uid": "job"},
        "status": {"conditions": [{"type": each, "status": "True"} for each in conditions]},
    }


def stateful_set(replicas: int, present: int) -> Object:
    """The workers' StatefulSet."""
    return {
        "kind": "StatefulSet",
        "metadata": {"name": "chat", "uid": "set"},
        "spec": {"replicas": replicas},
        "status": {"replicas": present},
    }


def event(reason: str, message: str, about: str, kind: str = "StatefulSet", **when: Any) -> Object:
    """A warning about an object."""
    when = when or {"lastTimestamp": "2026-05-01T11:59:50Z"}
    return {
        "reason": reason,
        "message": message,
        "involvedObject": {"uid": about, "name": "it", "kind": kind},
        "metadata": {},
        **when,
    }


def seen(
    *, pods: tuple[Object, ...] = (), children: tuple[Object, ...] = (), warnings: tuple[Object, ...] = ()
) -> ClusterSnapshot:
    """A cluster."""
    resource = {"metadata": {"name": "chat", "namespace": "talk", "uid": "1"}, "spec": {"database": DATABASE}}
    return ClusterSnapshot(resource, children, pods, warnings, None, None, NOW)


def crash_looping() -> Object:
    """A container that ends again and again."""
    return {
        **waiting("CrashLoopBackOff"),
        "restartCount": 4,
        "lastState": {"terminated": {"exitCode": 1, "message": "settings refused"}},
    }


@pytest.mark.parametrize(
    ("what", "reason", "says"),
    [
        (seen(), None, ""),
        (seen(pods=(pod(**waiting("ContainerCreating")),)), None, ""),
        (seen(pods=(pod(**waiting("ImagePullBackOff")),)), Reason.IMAGE_PULL_FAILED, "threadcluster:1"),
        (seen(pods=(pod(**waiting("CreateContainerConfigError")),)), Reason.REFERENCE_MISSING, "its own message"),
        (
            seen(pods=(pod(),), warnings=(event("FailedMount", 'secret "db" not found', "pod-worker"),)),
            Reason.DATABASE_SECRET_MISSING,
            "spec.database.urlSecretKeyRef",
        ),
        (
            seen(pods=(in_phase("Running"),), warnings=(event("FailedMount", 'secret "db" not found', "pod-worker"),)),
            None,
            "",
        ),
        (
            seen(
                pods=(in_phase("Succeeded"),), warnings=(event("FailedMount", 'secret "db" not found', "pod-worker"),)
            ),
            None,
            "",
        ),
        (seen(pods=(pod(),), warnings=(event("FailedMount", "timed out", "pod-worker"),)), None, ""),
        (seen(pods=(pod(),), warnings=(event("FailedMount", "secret not found", "another"),)), None, ""),
        (
            seen(
                pods=(pod(),),
                warnings=(event("FailedMount", "secret not found", "pod-worker", eventTime="2026-05-01T10:00:00Z"),),
            ),
            None,
            "",
        ),
        (
            seen(pods=(pod("migration", **ended('{"reason":"SchemaTooNew","message":"7 > 2"}')),), children=(job(),)),
            Reason.SCHEMA_TOO_NEW,
            "7 > 2",
        ),
        (
            seen(pods=(pod("migration", **ended("killed " * 200)),), children=(job(),)),
            Reason.MIGRATION_FAILED,
            "killed",
        ),
        (
            seen(pods=(pod("migration", **ended('{"reason":"Unheard"}')),), children=(job(),)),
            Reason.MIGRATION_FAILED,
            "Unheard",
        ),
        (seen(pods=(pod("migration", **ended("", 0)),), children=(job(),)), None, ""),
        (seen(pods=(pod("migration", **ended("no")),), children=(job("Complete"),)), None, ""),
        (seen(children=(job("Failed"),)), Reason.MIGRATION_FAILED, "chat-migrate-1"),
        (seen(pods=(pod(**crash_looping()),)), Reason.WORKER_CRASH_LOOPING, "settings refused"),
        (
            seen(pods=(pod(restartCount=2, ready=False, lastState={"terminated": {"exitCode": 137}}),)),
            Reason.WORKER_CRASH_LOOPING,
            "137",
        ),
        (
            seen(
                children=(stateful_set(2, 0),),
                warnings=(event("FailedCreate", "pods is forbidden: exceeded quota: small", "set"),),
            ),
            Reason.QUOTA_EXCEEDED,
            "small",
        ),
        (
            seen(
                children=(stateful_set(2, 0),),
                warnings=(event("FailedCreate", "pods is forbidden: violates PodSecurity", "set", series={}),),
            ),
            None,
            "",
        ),
        (
            seen(
                children=(stateful_set(2, 0),),
                warnings=(event("FailedCreate", "pods is forbidden: violates PodSecurity", "set"),),
            ),
            Reason.ADMISSION_DENIED,
            "PodSecurity",
        ),
        (
            seen(
                children=(stateful_set(2, 0),),
                warnings=(event("FailedCreate", 'error: Internal error occurred: failed calling webhook "x"', "set"),),
            ),
            Reason.ADMISSION_UNAVAILABLE,
            "webhook",
        ),
        (
            seen(
                children=(stateful_set(2, 0),),
                warnings=(event("FailedCreate", 'object is being deleted: pods "chat-0" already exists', "set"),),
            ),
            None,
            "",
        ),
        (
            seen(
                children=(job(),),
                warnings=(
                    event("FailedCreate", "forbidden: failed quota: small: must specify cpu", "job", kind="Job"),
                ),
            ),
            Reason.MIGRATION_QUOTA_EXCEEDED,
            "must specify cpu",
        ),
        (
            seen(
                pods=(
                    pod("migration", **ended("", 0)),
                    pod("migration", **{**ended("a sidecar was killed", 137), "name": "sidecar"}),
                ),
                children=(job("Failed"),),
            ),
            None,
            "",
        ),
        (
            seen(
                children=(stateful_set(2, 2),),
                warnings=(event("FailedCreate", "exceeded quota", "set"),),
            ),
            None,
            "",
        ),
        (
            seen(children=(job(),), warnings=(event("FailedCreate", "something else", "job"),)),
            None,
            "",
        ),
    ],
)
def test_what_is_reported_is_named(what: ClusterSnapshot, reason: Reason | None, says: str) -> None:
    """One word of the closed list, and the reporter's own message; a past cause is not reported."""
    trouble = diagnose(what)
    assert (trouble.reason if trouble is not None else None) == reason
    assert trouble is None or (says in trouble.message and len(trouble.message) < 700)


def lonely(**since: str) -> Object:
    """A pod that finds no node."""
    made = pod()
    unschedulable = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available",
    }
    made["status"]["conditions"].append(unschedulable | since)
    return made


@pytest.mark.parametrize(
    ("since", "stalls"),
    [
        ("2026-05-01T11:57:00Z", True),
        ("2026-05-01T11:57:01Z", False),
        ("2026-05-01T12:00:00Z", False),
        (None, False),
    ],
    ids=["three minutes", "less", "now", "not known"],
)
def test_a_pod_without_a_node_stalls_after_three_minutes(since: str | None, stalls: bool) -> None:
    """An autoscaler may be making the node; the wait is reported at once, with the scheduler's own words."""
    what = seen(pods=(lonely(**({} if since is None else {"lastTransitionTime": since})),))
    trouble = passing_wait(what)
    assert trouble == Diagnosis(
        Reason.WORKER_UNSCHEDULABLE,
        "pod chat-worker finds no node: 0/3 nodes are available."
        " Remedy: add nodes, or ask for less in spec.worker.resources and spec.podTemplate.",
    )
    assert diagnose(what) == (trouble if stalls else None)
    assert passing_wait(seen(pods=(pod(),))) is None


def test_a_pod_without_a_node_counts_from_its_creation_where_nothing_else_is_known() -> None:
    """A scheduler that sets no time of transition."""
    made = lonely()
    made["metadata"]["creationTimestamp"] = "2026-05-01T11:00:00Z"
    assert diagnose(seen(pods=(made,))) is not None


MOUNTED: Final = 'MountVolume.SetUp failed for volume "{}" : references non-existent {} key: {}'


@pytest.mark.parametrize(
    ("name", "message", "says"),
    [
        ("chat-0", 'secret "db" not found', "spec.database.urlSecretKeyRef refers to: no Secret 'db'"),
        (
            "chat-0",
            "couldn't find key url in Secret talk/db",
            "spec.database.urlSecretKeyRef refers to: Secret 'db' has no",
        ),
        (
            "chat-0",
            MOUNTED.format("database", "secret", "url"),
            "spec.database.urlSecretKeyRef refers to: Secret 'db' has",
        ),
        ("chat-0", 'secret "db-ro" not found', "spec.database.replicaURLSecretKeyRef refers to: no Secret 'db-ro'"),
        ("chat-0", MOUNTED.format("database-replica", "secret", "url"), "spec.database.replicaURLSecretKeyRef refers"),
        ("chat-0", 'configmap "authorities" not found', "spec.database.tls.caConfigMapKeyRef refers to: no ConfigMap"),
        ("chat-0", MOUNTED.format("database-ca", "config", "ca.crt"), "spec.database.tls.caConfigMapKeyRef refers"),
        ("chat-migrate-1-x", 'secret "owner" not found', "spec.database.migrationURLSecretKeyRef refers to: no Secret"),
        (
            "chat-migrate-1-x",
            MOUNTED.format("database", "secret", "dsn"),
            "spec.database.migrationURLSecretKeyRef refers",
        ),
        ("chat-migrate-1-x", 'configmap "authorities" not found', "spec.database.tls.caConfigMapKeyRef refers"),
    ],
)
def test_a_missing_secret_of_the_database_is_named_with_its_field(name: str, message: str, says: str) -> None:
    """The migration's login, the workers' own, the replica's, and the authorities are different objects."""
    waits = pod(**waiting("CreateContainerConfigError", message))
    waits["metadata"]["name"] = name
    trouble = diagnose(seen(pods=(waits,)))
    assert trouble is not None
    assert trouble.reason == Reason.DATABASE_SECRET_MISSING
    assert says in trouble.message
    assert f"pod {name}" in trouble.message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chat-0", 'secret "smtp" not found'),
        ("chat-0", 'secret "chat-internal" not found'),
        ("chat-0", 'secret "owner" not found'),
        ("chat-0", 'configmap "db" not found'),
        ("chat-0", "couldn't find key password in Secret talk/db"),
        ("chat-0", MOUNTED.format("database", "secret", "password")),
        ("chat-migrate-1-x", 'secret "db" not found'),
        ("chat-migrate-1-x", 'secret "db-ro" not found'),
        ("chat-0", "something is not as it should be"),
    ],
)
def test_a_missing_object_of_another_kind_is_not_blamed_on_the_database(name: str, message: str) -> None:
    """The message of the kubelet is passed on."""
    waits = pod(**waiting("CreateContainerConfigError", message))
    waits["metadata"]["name"] = name
    trouble = diagnose(seen(pods=(waits,)))
    assert trouble is not None
    assert trouble.reason == Reason.REFERENCE_MISSING
    assert message in trouble.message


def test_a_reference_that_is_left_out_is_none() -> None:
    """The spec of a cluster that names one login alone."""
    what = seen(pods=(pod(**waiting("CreateContainerConfigError", 'secret "db" not found')),))
    what.resource["spec"]["database"] = {"urlSecretKeyRef": {"name": "db", "key": "dsn"}}
    trouble = diagnose(what)
    assert trouble is not None
    assert "key 'dsn'" in trouble.message
    what.pods[0]["status"]["containerStatuses"][0]["state"]["waiting"]["message"] = 'secret "db-ro" not found'
    trouble = diagnose(what)
    assert trouble is not None
    assert trouble.reason == Reason.REFERENCE_MISSING
    what.resource["spec"]["database"] = {"urlSecretKeyRef": {"key": "dsn"}}  # a spec that is refused besides
    report = MOUNTED.format("database", "secret", "dsn")
    what.pods[0]["status"]["containerStatuses"][0]["state"]["waiting"]["message"] = report
    trouble = diagnose(what)
    assert trouble is not None
    assert "Secret '' has no key 'dsn'" in trouble.message


def outage(reason: str, since: float = NOW) -> ClusterSnapshot:
    """A cluster whose workers report that they have no database."""
    return seen()._replace(outage=Outage(reason, "no answer", since))


@pytest.mark.parametrize(
    ("reported", "reason"),
    [
        ("DatabaseUnreachable", Reason.DATABASE_UNREACHABLE),
        ("DatabaseAuthFailed", Reason.DATABASE_AUTH_FAILED),
        ("DatabaseTLSFailed", Reason.DATABASE_TLS_FAILED),
        ("DatabaseOfAnotherKind", Reason.DATABASE_UNREACHABLE),
    ],
)
def test_an_outage_has_the_reason_that_the_workers_report(reported: str, reason: Reason) -> None:
    """With the remedy; a word that this release does not know is none that a user waits for."""
    trouble = outage_diagnosis(outage(reported))
    assert trouble is not None
    assert trouble.reason is reason
    assert "no answer" in trouble.message
    assert "Remedy" in trouble.message
    assert outage_diagnosis(seen()) is None


def test_an_outage_stalls_a_cluster_after_a_minute() -> None:
    """A restart of Postgres is no failure of the cluster."""
    assert lasting_outage(seen()) is None
    assert lasting_outage(outage("DatabaseUnreachable", NOW - 59)) is None
    assert lasting_outage(outage("DatabaseUnreachable", NOW - 60)) == outage_diagnosis(outage("DatabaseUnreachable"))


def without_database(reason: str, finished_at: str | None = "2026-05-01T11:59:40Z") -> Object:
    """A pod of a migration that found no database, or another one than it may use."""
    end = ended(f'{{"reason": "{reason}", "message": "no answer"}}')
    if finished_at is not None:
        end["state"]["terminated"]["finishedAt"] = finished_at
    return pod("migration", **end)


def available(status: str, reason: str, since: str) -> Object:
    """A status with this condition."""
    return {
        "conditions": [
            {"type": "Ready", "status": "False", "reason": "GenerationPending", "lastTransitionTime": since},
            {"type": "Available", "status": status, "reason": reason, "lastTransitionTime": since},
        ]
    }


OWNERS = ShardOwnership(1, {}, {}, {}, {}, {})
UNREACHABLE = Outage("DatabaseUnreachable", "no answer", NOW - 30)


@pytest.mark.parametrize(
    ("outage", "status", "migration", "part"),
    [
        (UNREACHABLE, None, without_database("DatabaseUnreachable"), True),
        (UNREACHABLE, None, without_database("DatabaseAuthFailed"), False),
        (UNREACHABLE, None, without_database("MigrationFailed"), False),
        (None, ("False", "DatabaseUnreachable", "11:58:00"), without_database("DatabaseUnreachable"), True),
        (None, ("True", "AllShardsServed", "11:59:50"), without_database("DatabaseUnreachable"), True),
        (None, ("True", "AllShardsServed", "11:59:50"), without_database("DatabaseTLSFailed"), True),
        (None, ("True", "AllShardsServed", "11:59:50"), without_database("SchemaTooNew"), False),
        (None, ("True", "AllShardsServed", "11:59:50"), without_database("DatabaseUnreachable", None), False),
        (None, ("True", "AllShardsServed", "11:59:35"), without_database("DatabaseUnreachable"), True),
        (None, ("True", "AllShardsServed", "11:59:34"), without_database("DatabaseUnreachable"), False),
        (None, ("False", "ShardsUnassigned", "11:59:50"), without_database("DatabaseUnreachable"), False),
        (None, None, without_database("DatabaseUnreachable"), False),
    ],
    ids=[
        "the-same", "another-reason", "another-fault", "over-just-now", "over-since", "over-since-for-tls", "over-and-another-fault",
        "ended-some-time", "ended-with-its-end", "ended-after-it", "never-known", "no-status",
    ],
)  # fmt: skip
def test_a_migration_that_fails_in_an_outage_is_a_part_of_it(
    outage: Outage | None, status: tuple[str, str, str] | None, migration: Object, part: bool
) -> None:
    """It is reported as a failure only when the workers have the database, or another fault."""
    what = seen(pods=(migration,), children=(job("Failed"),))._replace(outage=outage)
    if outage is None:
        what = what._replace(ownership=OWNERS)
    if status is not None:
        truth, reason, since = status
        what.resource["status"] = available(truth, reason, f"2026-05-01T{since}Z")
    assert (diagnose(what) is None) == part
    assert failed_in_outage(what, migration["status"]["containerStatuses"][0]["state"]["terminated"]) == part


def test_an_attempt_in_an_outage_hides_no_other_failure() -> None:
    """An earlier failure of the migration is still to be mended."""
    before = pod("migration", **ended('{"reason": "MigrationFailed", "message": "refused"}'))
    pods = (without_database("DatabaseUnreachable"), before)
    trouble = diagnose(seen(pods=pods, children=(job(),))._replace(outage=UNREACHABLE))
    assert trouble is not None
    assert trouble.reason == Reason.MIGRATION_FAILED


def test_while_the_owners_are_unknown_a_failed_migration_is_reported() -> None:
    """Nothing says that the database is back."""
    what = seen(pods=(without_database("DatabaseUnreachable"),), children=(job(),))
    what.resource["status"] = available("True", "AllShardsServed", "2026-05-01T11:59:50Z")
    trouble = diagnose(what)
    assert trouble is not None
    assert trouble.reason == Reason.DATABASE_UNREACHABLE


def mount_failed(**when: Any) -> ClusterSnapshot:
    """A cluster with a pod whose Secret was not found, as an Event of that time says."""
    return seen(pods=(pod(),), warnings=(event("FailedMount", 'secret "db" not found', "pod-worker", **when),))


def create_failed(*children: Object, message: str = "exceeded quota: small", about: str = "set") -> ClusterSnapshot:
    """A cluster for one of whose children no pod could be created."""
    return seen(children=children, warnings=(event("FailedCreate", message, about),))


WITHOUT_MESSAGE: Object = {"state": {"waiting": {"reason": "ErrImagePull"}}}
SECRET_REMEDY = (
    "Remedy: make the Secret with the key 'url', or correct spec.database.urlSecretKeyRef; the pod goes on by itself."
)
REFERENCE_REMEDY = (
    "Remedy: make it, or correct what refers to it in spec.worker.env and spec.podTemplate; the pod goes on by itself."
)
IMAGE_REMEDY = "Remedy: correct spec.image, spec.imagePullSecrets or the registry."
CRASH_REMEDY = "Remedy: see `kubectl logs --previous`."
QUOTA_REMEDY = "Remedy: raise the namespace's quota, or ask for less in spec.worker.resources, which must name what the quota counts."


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            seen(pods=(pod(**waiting("ErrImagePull", "no such tag")),)),
            f"pod chat-worker: image 'threadcluster:1' cannot be pulled: no such tag. {IMAGE_REMEDY}",
        ),
        (
            seen(pods=(pod(**WITHOUT_MESSAGE),)),
            f"pod chat-worker: image '' cannot be pulled: ErrImagePull. {IMAGE_REMEDY}",
        ),
        (
            seen(pods=(pod(**waiting("CreateContainerConfigError")),)),
            f"pod chat-worker waits for something that is no part of spec.database: its own message. {REFERENCE_REMEDY}",
        ),
        (
            seen(pods=(pod(state={"waiting": {"reason": "CreateContainerConfigError"}}),)),
            f"pod chat-worker waits for something that is no part of spec.database:. {REFERENCE_REMEDY}",
        ),
        (
            mount_failed(),
            f"pod it waits for what spec.database.urlSecretKeyRef refers to: no Secret 'db'. {SECRET_REMEDY}",
        ),
        (
            seen(
                pods=(pod(),),
                warnings=(
                    {**event("FailedMount", "a not found", "pod-worker"), "involvedObject": {"uid": "pod-worker"}},
                ),
            ),
            f"pod waits for something that is no part of spec.database: a not found. {REFERENCE_REMEDY}",
        ),
        (
            seen(pods=(pod(**crash_looping()),)),
            f"chat-worker ends again and again: settings refused. {CRASH_REMEDY}",
        ),
        (
            seen(pods=(pod(**waiting("CrashLoopBackOff")),)),
            f"chat-worker ends again and again: exit code unknown. {CRASH_REMEDY}",
        ),
        (
            seen(children=(job("Failed"),)),
            "job chat-migrate-1 failed. Remedy: see its log; it is tried again.",
        ),
        (
            seen(pods=(pod("migration", **ended("killed")),), children=(job(),)),
            "the migration failed: killed. Remedy: see the log of its Job.",
        ),
        (
            seen(
                pods=(
                    pod(
                        "migration",
                        name=MIGRATION_CONTAINER,
                        state={"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
                    ),
                ),
                children=(job(),),
            ),
            "the migration failed: OOMKilled, exit code 137. Remedy: raise the memory limit of the container, for a worker in"
            " spec.worker.resources.",
        ),
        (
            seen(pods=(pod("migration", **ended("")),), children=(job(),)),
            "the migration failed: Error, exit code 1. Remedy: see the log of its Job.",
        ),
        (create_failed(stateful_set(2, 0)), f"exceeded quota: small. {QUOTA_REMEDY}"),
        (
            create_failed(stateful_set(2, 0), message="forbidden: violates PodSecurity"),
            "forbidden: violates PodSecurity. Remedy: change the spec so that this admission rule allows it, or change the rule.",
        ),
    ],
)
def test_a_diagnosis_has_object_cause_and_remedy(what: ClusterSnapshot, message: str) -> None:
    """Word by word, also where Kubernetes leaves the cause out."""
    trouble = diagnose(what)
    assert trouble is not None
    assert trouble.message == message


def test_a_long_cause_is_cut() -> None:
    """Beyond 500 characters; the remedy stays whole."""
    for length, shown in ((500, "exceeded quota " + "x" * 485), (501, "exceeded quota " + "x" * 484 + "…")):
        trouble = diagnose(create_failed(stateful_set(2, 0), message="exceeded quota ".ljust(length, "x")))
        assert trouble is not None
        assert trouble.message == f"{shown}. {QUOTA_REMEDY}"


@pytest.mark.parametrize(
    ("when", "reported"),
    [
        ({"lastTimestamp": "2026-05-01T11:50:01Z"}, True),
        ({"lastTimestamp": "2026-05-01T11:50:00Z"}, False),
        ({"series": {"lastObservedTime": "2026-05-01T11:59:00Z"}, "eventTime": "2026-05-01T10:00:00Z"}, True),
        ({"eventTime": "2026-05-01T11:59:00Z"}, True),
        ({"metadata": {"creationTimestamp": "2026-05-01T11:59:00Z"}}, True),
        ({"metadata": {}}, False),
    ],
    ids=["younger than ten minutes", "ten minutes old", "of a series", "of the new API", "just made", "undated"],
)
def test_an_event_counts_for_ten_minutes_from_its_last_occurrence(when: dict[str, Any], reported: bool) -> None:
    """Each release of Kubernetes writes the time into another field."""
    assert (diagnose(mount_failed(**when)) is not None) is reported


def test_the_newest_event_is_reported() -> None:
    """Whatever the order in which the API server lists them."""
    warnings = tuple(
        event("FailedCreate", f"exceeded quota: {name}", "set", lastTimestamp=f"2026-05-01T11:5{minute}:00Z")
        for name, minute in (("first", 3), ("newest", 9), ("second", 5))
    )
    trouble = diagnose(seen(children=(stateful_set(2, 0),), warnings=warnings))
    assert trouble is not None
    assert trouble.message.startswith("exceeded quota: newest.")


def test_a_refusal_that_a_controller_mends_by_itself_hides_no_other() -> None:
    """Though it is the newer one."""
    warnings = (
        event("FailedCreate", 'pods "chat-0" already exists', "set", lastTimestamp="2026-05-01T11:59:00Z"),
        event("FailedCreate", "exceeded quota: pods", "set", lastTimestamp="2026-05-01T11:58:00Z"),
    )
    assert diagnose(seen(children=(stateful_set(2, 0),), warnings=warnings[:1])) is None
    trouble = diagnose(seen(children=(stateful_set(2, 0),), warnings=warnings))
    assert trouble is not None
    assert trouble.reason is Reason.QUOTA_EXCEEDED


def migrating(*conditions: str, **status: Any) -> Object:
    """The migration's Job with a status."""
    made = job(*conditions)
    made["status"].update(status)
    return made


def bare_set(spec: Object, **status: Any) -> Object:
    """The workers' StatefulSet with no more than this."""
    return {"kind": "StatefulSet", "metadata": {"name": "chat", "uid": "set"}, "spec": spec, "status": status}


@pytest.mark.parametrize(
    ("child", "reported"),
    [
        (job(), True),
        (migrating(active=1), False),
        (migrating("Complete"), False),
        (migrating("Complete", active=1), False),
        (bare_set({"replicas": 1}), True),
        (bare_set({}, replicas=1), False),
        (bare_set({}), True),
        ({**job(), "kind": "Service", "spec": {}}, False),
    ],
    ids=["no pod of a Job", "running", "done", "both", "no pod", "one by default", "none of one", "no maker of pods"],
)
def test_an_event_counts_only_about_a_child_that_lacks_pods(child: Object, reported: bool) -> None:
    """An earlier refusal is no trouble once the pods are there."""
    trouble = diagnose(create_failed(child, about=child["metadata"]["uid"]))
    assert (None if trouble is None else trouble.reason) == (Reason.QUOTA_EXCEEDED if reported else None)


def test_a_container_that_came_up_after_restarts_does_not_crash() -> None:
    """Only one that is not ready does."""
    restarted: Object = {"restartCount": 2, "lastState": {"terminated": {"exitCode": 1}}}
    assert diagnose(seen(pods=(pod(**restarted, ready=True),))) is None
    assert diagnose(seen(pods=(pod(**restarted, ready=False),))) is not None


def attempt(message: str, made_at: str | None) -> Object:
    """A pod of the migration that failed."""
    failed = pod("migration", **ended(message))
    if made_at is not None:
        failed["metadata"]["creationTimestamp"] = made_at
    return failed


def test_the_newest_attempt_of_a_migration_is_reported() -> None:
    """Its remedy is the present one."""
    old, new, undated = (
        attempt("old", "2026-05-01T11:00:00Z"),
        attempt("new", "2026-05-01T11:30:00Z"),
        attempt("?", None),
    )
    for pods in ((old, new, undated), (undated, new, old), (new, undated, old)):
        trouble = diagnose(seen(pods=pods, children=(job(),)))
        assert trouble is not None
        assert trouble.message.startswith("the migration failed: new.")


def test_a_pod_that_is_going_tells_nothing() -> None:
    """It is replaced already."""
    going = pod(**waiting("ImagePullBackOff"))
    going["metadata"]["deletionTimestamp"] = "2026-05-01T12:00:00Z"
    assert diagnose(seen(pods=(going,))) is None


@pytest.mark.parametrize("fault", DatabaseFault)
def test_every_end_of_a_migration_has_its_remedy(fault: DatabaseFault) -> None:
    """Beside the migration's own message."""
    message = f'{{"reason":"{fault}","message":"in its words"}}'
    trouble = diagnose(seen(pods=(pod("migration", **ended(message)),), children=(job(),)))
    assert trouble is not None
    assert trouble.reason == fault.value
    assert trouble.message.startswith("in its words. Remedy: ")
    assert "spec." in trouble.message or "database" in trouble.message


@pytest.mark.parametrize("answer", Answer)
@pytest.mark.parametrize("kind", ["Job", "Ingress"])
def test_every_answer_to_a_write_has_its_reason_and_remedy(answer: Answer, kind: str) -> None:
    """With the child's name and the API server's own words; a migration's quota has a reason of its own."""
    trouble = refused(kind, "chat", answer, "in its words")
    assert trouble.message.startswith(f"{kind} chat is not written: in its words. Remedy: ")
    quota = {"Job": Reason.MIGRATION_QUOTA_EXCEEDED, "Ingress": Reason.QUOTA_EXCEEDED}[kind]
    assert (trouble.reason is quota) == (answer is Answer.QUOTA)


def test_a_child_that_another_writer_takes_back_is_named() -> None:
    """And where its name is to be found."""
    assert reverted("Service", "chat") == Diagnosis(
        Reason.CHILD_REVERTED,
        "another writer changes Service chat again and again. Remedy: see its metadata.managedFields for who that is, and"
        " have one of the two leave it alone.",
    )


def test_what_is_reported_besides_is_not_repeated() -> None:
    """The reason that a look remembers is the first alone, and never that of a child that was not written."""
    first, second = Diagnosis(Reason.DATABASE_AUTH_FAILED, "why"), reverted("Service", "chat")
    both = joined(first, [second])
    assert both.reason is first.reason
    assert both.message == f"why Also: {second.message}"
    assert previous_diagnosis(stalled("DatabaseAuthFailed", message=both.message)) == first
    not_written = refused("Job", "chat", Answer.QUOTA, "no")
    assert previous_diagnosis(stalled(not_written.reason, message=not_written.message)) is None


def stalled(reason: str, *, status: str = "True", generation: int = 1, message: str = "why") -> ClusterSnapshot:
    """A cluster of generation 1 with a condition Stalled."""
    stalled = {
        "type": "Stalled",
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
    }
    found = seen()
    conditions = [{"type": "Ready", "status": "False", "reason": "Stalled", "observedGeneration": 1}, stalled]
    return found._replace(resource={**found.resource, "status": {"conditions": conditions}})


@pytest.mark.parametrize(
    ("what", "trouble"),
    [
        (stalled("DatabaseAuthFailed"), Diagnosis(Reason.DATABASE_AUTH_FAILED, "why")),
        (stalled("DatabaseSecretMissing"), Diagnosis(Reason.DATABASE_SECRET_MISSING, "why")),
        (stalled("DatabaseAuthFailed", generation=0), None),
        (stalled("NameConflict"), None),
        (stalled("NotStalled", status="False"), None),
        (seen(), None),
    ],
    ids=["same-spec", "never-began", "edited", "another-kind", "well", "never-reported"],
)
def test_what_a_migration_failed_by_is_not_over_while_it_is_tried_again(
    what: ClusterSnapshot, trouble: Diagnosis | None
) -> None:
    """Otherwise it would be reported as mended at every try."""
    assert previous_diagnosis(what) == trouble


def test_a_database_of_another_cluster_comes_before_everything_else() -> None:
    """Whatever the pods report follows from it."""
    stuck = seen(pods=(pod(**crash_looping()),))
    found = diagnose(stuck._replace(claimed_by_other="the database belongs to cluster 'other'"))
    assert found is not None
    assert found.reason is Reason.DATABASE_CLAIMED_BY_OTHER
    assert "belongs to cluster 'other'" in found.message
    assert "spec.database.takeOver" in found.message
    foreign = diagnose(stuck._replace(foreign_workers=("elsewhere-0", "elsewhere-1")))
    assert foreign is not None
    assert foreign.reason is Reason.FOREIGN_WORKERS
    assert foreign.message == (
        "workers of another cluster live in this database: elsewhere-0, elsewhere-1; no shard is moved. Remedy: end them,"
        " or give one of the two clusters a database of its own."
    )


# --- every wait has a name


def worker(*containers: Object, first: tuple[Object, ...] = (), **status: Any) -> Object:
    """A worker's pod on a node, with the reports about its containers."""
    made = pod()
    made["spec"] = {"nodeName": "node-1"}
    made["status"] |= {"containerStatuses": list(containers), "initContainerStatuses": list(first), **status}
    return made


KUBELETS_WAITS: Final = (
    *("CrashLoopBackOff", "CreateContainerConfigError", "CreateContainerError", "ErrImagePull", "ImagePullBackOff"),
    *("ErrImageNeverPull", "InvalidImageName", "RegistryUnavailable", "ImageInspectError", "RunContainerError"),
    *("SignatureValidationFailed", "ImageVolumeMountFailed", "PreCreateHookError", "PreStartHookError"),
    *("PostStartHookError", "PreStopHookError", "KillContainerError", "VerifyNonRootError", "RunInitContainerError"),
    *("CreatePodSandboxError", "ConfigPodSandboxError", "KillPodSandboxError", "SetupNetworkError"),
    "TeardownNetworkError",
)
"""As pkg/kubelet has them, of Kubernetes 1.29 to 1.34."""
KUBELETS_ENDS: Final = (
    *("Completed", "Error", "OOMKilled", "StartError", "ContainerCannotRun", "ContainerStatusUnknown"),
    *("DeadlineExceeded", "PostStartHookError", "PreStopHookError"),
)


@pytest.mark.parametrize("first", [False, True], ids=["container", "init container"])
@pytest.mark.parametrize("word", [*KUBELETS_WAITS, "SomethingNew"])
def test_every_word_of_a_waiting_container_has_its_reason_and_remedy(word: str, first: bool) -> None:
    """Whichever container of the pod it is; the word that no release knows yet is shown as it is."""
    waits = waiting(word) | {"name": "it"}
    trouble = diagnose(seen(pods=(worker(first=(waits,)) if first else worker(waits),)))
    assert trouble is not None
    assert word in WAITING or (word == "SomethingNew" and trouble.reason is Reason.CONTAINER_NOT_STARTED)
    if word == "CreateContainerConfigError":
        assert trouble.reason is Reason.REFERENCE_MISSING  # its message says what the container lacks
    else:
        assert trouble.reason is WAITING.get(word, (Reason.CONTAINER_NOT_STARTED, ""))[0]
    if trouble.reason is Reason.CONTAINER_NOT_STARTED:
        what = "init container it" if first else "container it"
        assert f"pod chat-worker: {what} waits: {word}: its own message. Remedy: " in trouble.message
    assert "Remedy: " in trouble.message
    assert word in wait_of(worker(first=(waits,)) if first else worker(waits))


def test_a_user_that_the_image_must_not_have_is_no_missing_reference() -> None:
    """Both are a CreateContainerConfigError."""
    message = "container has runAsNonRoot and image will run as root"
    trouble = diagnose(seen(pods=(worker(waiting("CreateContainerConfigError", message)),)))
    assert trouble is not None
    assert trouble.reason is Reason.CONTAINER_NOT_STARTED
    assert message in trouble.message
    assert "securityContext" in trouble.message


@pytest.mark.parametrize("first", [False, True], ids=["container", "init container"])
@pytest.mark.parametrize("word", [*KUBELETS_ENDS, "SomethingNew"])
def test_every_word_of_an_ended_container_has_its_reason_and_remedy(word: str, first: bool) -> None:
    """A container that ends again and again for it."""
    loops = crash_looping() | {"name": "it", "lastState": {"terminated": {"exitCode": 7, "reason": word}}}
    trouble = diagnose(seen(pods=(worker(first=(loops,)) if first else worker(loops),)))
    assert trouble is not None
    assert (word in ENDED) is (word != "SomethingNew")
    assert trouble.reason is ENDED.get(word, (Reason.WORKER_CRASH_LOOPING, ""))[0]
    which = "init container it of pod chat-worker" if first else "chat-worker"
    how = "exit code 7" if word == "Error" else f"{word}: exit code 7"
    assert trouble.message.startswith(f"{which} ends again and again: {how}. Remedy: ")


def test_the_words_of_a_kubelet_are_all_in_the_tables() -> None:
    """No row is left out, and none is there that this test does not know."""
    assert set(WAITING) == set(KUBELETS_WAITS)
    assert set(ENDED) == set(KUBELETS_ENDS)


@pytest.mark.parametrize(
    ("made", "waits"),
    [
        (worker(), ""),
        (worker({"name": "worker", "ready": True, "state": {"running": {}}}), ""),
        (worker({"name": "worker", "state": {"running": {}}}), ""),
        (worker({"name": "worker", **waiting("ContainerCreating")}), "container worker waits: ContainerCreating"),
        (
            worker({"name": "worker", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}),
            "container worker ended: OOMKilled, exit code 137",
        ),
        (
            worker({"name": "worker", "state": {"terminated": {"exitCode": 3}}}),
            "container worker ended: Error, exit code 3",
        ),
        (
            worker(waiting("PodInitializing"), first=({"name": "first", "ready": False, "state": {"running": {}}},)),
            "init container first runs",
        ),
        (
            worker(
                {"name": "worker", **waiting("PodInitializing")},
                first=({"name": "first", "ready": True, "state": {"terminated": {"exitCode": 0}}},),
            ),
            "container worker waits: PodInitializing",
        ),
        (
            worker(
                conditions=[
                    {"type": "ContainersReady", "status": "True"},
                    {
                        "type": "Ready",
                        "status": "False",
                        "reason": "ReadinessGatesNotReady",
                        "message": "gate x is not",
                    },
                ]
            ),
            "gate x is not",
        ),
        ({"metadata": {"name": "chat-0", "deletionTimestamp": "2026-05-01T12:00:00Z"}}, "it is being deleted"),
        ({"metadata": {"name": "chat-0"}}, ""),
    ],
)
def test_a_pod_that_is_not_ready_says_what_it_waits_for(made: Object, waits: str) -> None:
    """In the words of its kubelet."""
    assert wait_of(made) == waits


LATE: Final = "2026-05-01T11:56:00Z"
"""Longer ago than what often passes by itself."""


def on_a_lost_node(since: str | None = LATE, **ready: Any) -> Object:
    """A pod as the controller of nodes leaves it when its node is silent."""
    condition = {"type": "Ready", "status": "False"} | ({} if since is None else {"lastTransitionTime": since}) | ready
    return worker(
        {"name": "worker", "ready": True, "state": {"running": {}}},
        conditions=[{"type": "ContainersReady", "status": "True"}, condition],
        phase="Running",
    )


def test_a_lost_node_is_named_at_once_and_stalls_later() -> None:
    """A node that is restarted is back within three minutes."""
    trouble = passing_wait(seen(pods=(on_a_lost_node(),)))
    assert trouble is not None
    assert trouble.reason is Reason.NODE_LOST
    assert trouble.message.startswith("node node-1 of pod chat-worker does not report any more. Remedy: ")
    assert diagnose(seen(pods=(on_a_lost_node(),))) == trouble
    for since in ("2026-05-01T11:57:01Z", None):
        assert passing_wait(seen(pods=(on_a_lost_node(since),))) == trouble
        assert diagnose(seen(pods=(on_a_lost_node(since),))) is None
    assert passing_wait(seen(pods=(on_a_lost_node(status="Unknown"),))) == trouble


def test_a_pod_that_is_not_ready_by_its_own_report_is_on_no_lost_node() -> None:
    """A kubelet that reports says that the containers are not ready, or names the gate."""
    gate = on_a_lost_node(reason="ReadinessGatesNotReady")
    probe = worker(conditions=[{"type": "ContainersReady", "status": "False"}, {"type": "Ready", "status": "False"}])
    ready = on_a_lost_node(status="True")
    assert passing_wait(seen(pods=(gate, probe, ready))) is None


def test_a_pod_that_should_be_gone_is_named_when_its_grace_is_over() -> None:
    """By the time that the API server has set for it."""
    made = worker()
    for due, named, stalls in (
        ("2026-05-01T11:59:55Z", False, False),
        ("2026-05-01T11:59:45Z", True, False),
        ("2026-05-01T11:56:50Z", True, True),
    ):
        made["metadata"]["deletionTimestamp"] = due
        trouble = passing_wait(seen(pods=(made,)))
        assert (trouble is not None) is named
        assert trouble is None or trouble.reason is Reason.POD_NOT_ENDING
        assert (diagnose(seen(pods=(made,))) is not None) is stalls


def test_a_pod_that_its_node_ended_or_refused_is_named() -> None:
    """By the node's word, whichever that is; its controller makes another, so that it often passes."""
    evicted = worker(
        phase="Failed",
        reason="Evicted",
        message="The node was low on resource: memory.",
        conditions=[{"type": "Ready", "status": "False", "lastTransitionTime": LATE}],
    )
    trouble = passing_wait(seen(pods=(evicted,)))
    assert trouble is not None
    assert trouble.reason is Reason.POD_FAILED
    assert trouble.message.startswith("pod chat-worker: Evicted: The node was low on resource: memory.. Remedy: ")
    assert diagnose(seen(pods=(evicted,))) == trouble
    refused = worker(phase="Failed", reason="OutOfcpu", conditions=[])
    trouble = passing_wait(seen(pods=(refused,)))
    assert trouble is not None
    assert trouble.message.startswith("pod chat-worker: OutOfcpu. Remedy: ")
    assert diagnose(seen(pods=(refused,))) is None
    silent = worker(phase="Failed", conditions=[])
    trouble = passing_wait(seen(pods=(silent,)))
    assert trouble is not None
    assert trouble.message.startswith("pod chat-worker: failed. Remedy: ")


def test_a_ready_worker_that_does_not_answer_is_named() -> None:
    """After 5 s, when a lost packet is no explanation any more; the message has the fault of an answer."""
    for age, fault, reason, says in (
        (4.9, "", None, ""),
        (5.0, "", Reason.WORKER_UNREACHABLE, "worker chat-1 is ready, and does not answer the operator at port 8081"),
        (
            5.0,
            "it is longer",
            Reason.WORKER_ANSWER_INVALID,
            "the answer of chat-1 is none that this operator takes: it is",
        ),
    ):
        what = seen()._replace(silent={"chat-1": Silence(NOW - age, fault)})
        trouble = passing_wait(what)
        assert (None if trouble is None else trouble.reason) == reason
        assert trouble is None or trouble.message.startswith(says)
        assert diagnose(what) is None
    lasting = seen()._replace(silent={"chat-1": Silence(NOW - 180, "")})
    assert diagnose(lasting) == passing_wait(lasting) is not None


def test_a_migration_that_never_ran_says_why() -> None:
    """Its own container has no report: the node has, or the container before it."""
    made = pod("migration")
    made["status"] |= {"phase": "Failed", "reason": "Evicted", "message": "low on memory"}
    trouble = diagnose(seen(pods=(made,), children=(job(),)))
    assert trouble is not None
    assert trouble.reason is Reason.MIGRATION_FAILED
    assert trouble.message.startswith("the migration did not run: pod chat-migration: Evicted: low on memory. Remedy: ")
    made["status"] |= {
        "reason": "",
        "message": "",
        "initContainerStatuses": [{"name": "first", "state": {"terminated": {"exitCode": 4, "reason": "Error"}}}],
    }
    trouble = diagnose(seen(pods=(made,), children=(job(),)))
    assert trouble is not None
    assert "pod chat-migration: init container first ended: Error, exit code 4. " in trouble.message


def test_a_migration_that_has_not_ended_is_no_failed_one() -> None:
    """Whatever the pod before it came to."""
    made = pod("migration")
    made["status"]["phase"] = "Pending"
    assert diagnose(seen(pods=(made,), children=(job(),))) is None


def test_a_job_that_failed_for_good_says_why() -> None:
    """In the words of its condition."""
    failed = job("FailureTarget", "Failed")
    failed["status"]["conditions"][1] |= {"reason": "DeadlineExceeded", "message": "Job was active too long"}
    trouble = diagnose(seen(children=(failed,)))
    assert trouble is not None
    assert trouble.message.startswith("job chat-migrate-1 failed: DeadlineExceeded: Job was active too long. Remedy: ")


def starting(*warnings: Object, made_at: str | None = LATE, **status: Any) -> ClusterSnapshot:
    """A pod on its node that has not started, with Events about it."""
    made = worker(waiting("ContainerCreating"), **status)
    if made_at is not None:
        made["metadata"]["creationTimestamp"] = made_at
    return seen(pods=(made,), warnings=warnings)


def about_pod(reason: str, message: str = "in its words", **when: Any) -> Object:
    """A warning about the worker's pod."""
    return event(reason, message, "pod-worker", kind="Pod", **when)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("FailedCreatePodSandBox", Reason.POD_SANDBOX_FAILED),
        ("FailedPodSandBoxStatus", Reason.POD_SANDBOX_FAILED),
        ("NetworkNotReady", Reason.POD_SANDBOX_FAILED),
        ("FailedMount", Reason.POD_NOT_STARTED),
        ("FailedAttachVolume", Reason.POD_NOT_STARTED),
        ("FailedMapVolume", Reason.POD_NOT_STARTED),
        ("SomethingNew", Reason.POD_NOT_STARTED),
    ],
)
def test_an_event_says_why_a_pod_does_not_start(word: str, reason: Reason) -> None:
    """At once in Ready, and after three minutes the cluster is Stalled: a node whose network is just coming needs a while."""
    trouble = passing_wait(starting(about_pod(word)))
    assert trouble is not None
    assert trouble.reason is reason
    assert trouble.message.startswith(f"pod chat-worker does not start: {word}: in its words. Remedy: ")
    assert diagnose(starting(about_pod(word))) == trouble
    for since in ("2026-05-01T11:58:00Z", None):
        assert diagnose(starting(about_pod(word), made_at=since)) is None


def test_the_cause_that_is_known_comes_before_the_newer_event_that_is_not() -> None:
    """And what a pod reports in its own status is not taken from Events."""
    known = about_pod("FailedCreatePodSandBox", lastTimestamp="2026-05-01T11:58:00Z")
    trouble = passing_wait(starting(about_pod("DNSConfigForming"), known))
    assert trouble is not None
    assert trouble.reason is Reason.POD_SANDBOX_FAILED
    assert passing_wait(starting(about_pod("FailedScheduling"), about_pod("BackOff"))) is None


@pytest.mark.parametrize(
    ("phase", "container", "counts"),
    [
        ("Pending", waiting("ContainerCreating"), True),
        ("Running", waiting("ContainerCreating"), True),
        ("Running", waiting("PodInitializing"), True),
        ("Running", {"state": {"running": {}}}, False),
        ("Failed", waiting("ContainerCreating"), False),
    ],
    ids=["new", "after a restart of its node", "again from its first container", "running", "over"],
)
def test_an_event_counts_while_its_pod_has_not_started(phase: str, container: Object, counts: bool) -> None:
    """A pod whose sandbox is made again waits as a new one does."""
    found = passing_wait(starting(about_pod("FailedCreatePodSandBox"), phase=phase, containerStatuses=[container]))
    assert (found is not None and found.reason is Reason.POD_SANDBOX_FAILED) is counts


def test_an_event_about_a_pod_without_a_node_is_no_cause() -> None:
    """The scheduler says what such a pod waits for."""
    what = starting(about_pod("FailedCreatePodSandBox"))
    what.pods[0]["spec"] = {}
    assert passing_wait(what) is None


@pytest.mark.parametrize("reason", [Reason.CONTAINER_NOT_STARTED, Reason.OUT_OF_MEMORY, Reason.POD_SANDBOX_FAILED])
def test_a_wait_of_a_migration_is_not_over_while_another_pod_tries(reason: Reason) -> None:
    """The next pod waits for the same."""
    assert previous_diagnosis(stalled(reason)) == Diagnosis(reason, "why")
