"""The diagnosis of a blocked cluster, from Kubernetes' reports."""

from typing import Any

import pytest
from threadcluster_operator.controller.diagnosis import Diagnosis, Reason, diagnose, previous_diagnosis
from threadcluster_operator.controller.snapshot import ClusterSnapshot, Object
from threadcluster_operator.render import selector_of

from shard_worker.contract_internal import DatabaseFault

NOW = 1_777_636_800.0  # 2026-05-01T12:00:00Z


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
    return {"state": {"terminated": {"exitCode": code, "message": message}}}


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


def event(reason: str, message: str, about: str, **when: Any) -> Object:
    """A warning about an object."""
    when = when or {"lastTimestamp": "2026-05-01T11:59:50Z"}
    return {
        "reason": reason,
        "message": message,
        "involvedObject": {"uid": about, "name": "it"},
        "metadata": {},
        **when,
    }


def seen(
    *, pods: tuple[Object, ...] = (), children: tuple[Object, ...] = (), warnings: tuple[Object, ...] = ()
) -> ClusterSnapshot:
    """A cluster."""
    resource = {"metadata": {"name": "chat", "namespace": "talk", "uid": "1"}}
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
        (seen(pods=(pod(**waiting("CreateContainerConfigError")),)), Reason.DATABASE_SECRET_MISSING, "its own message"),
        (
            seen(pods=(pod(),), warnings=(event("FailedMount", 'secret "db" not found', "pod-worker"),)),
            Reason.DATABASE_SECRET_MISSING,
            '"db"',
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
            Reason.FORBIDDEN,
            "PodSecurity",
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


def test_an_unschedulable_pod_is_reported() -> None:
    """With the scheduler's own words."""
    lonely = pod()
    lonely["status"]["conditions"].append(
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}
    )
    trouble = diagnose(seen(pods=(lonely,)))
    assert trouble is not None
    assert trouble.reason == Reason.WORKER_UNSCHEDULABLE
    assert "0/3 nodes" in trouble.message


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


def stalled(reason: str, *, status: str = "True", generation: int = 1) -> ClusterSnapshot:
    """A cluster of generation 1 with a condition Stalled."""
    stalled = {
        "type": "Stalled",
        "status": status,
        "reason": reason,
        "message": "why",
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
    assert "elsewhere-0, elsewhere-1; no shard is moved" in foreign.message
