"""The diagnosis of a cluster that cannot reach its spec: a reason of a closed list, and a remedy.  Pure.

The diagnosis reads the cluster's own reports: the states of containers, the termination message of the last migration, and
Kubernetes' Events about objects that still exist.  The first finding in the order of `_FINDERS` is reported; later
findings usually follow from the first.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec

from shard_worker.contract_internal import DatabaseFault, MigrationFailure
from threadcluster_operator.controller.snapshot import ClusterSnapshot, Object, condition, waiting_reason
from threadcluster_operator.render import selector_of

_EVENT_MOST_S: Final = 600.0
"""Maximum age of an Event since its last occurrence; an older Event says nothing about the present."""
_MESSAGE_MOST: Final = 500


class Reason(StrEnum):
    """Why a cluster is stalled."""

    SPEC_INVALID = "SpecInvalid"
    NAME_CONFLICT = "NameConflict"
    AWAITING_GARBAGE_COLLECTION = "AwaitingGarbageCollection"
    CHILD_REJECTED = "ChildRejected"
    FORBIDDEN = "Forbidden"
    QUOTA_EXCEEDED = "QuotaExceeded"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    WORKER_UNSCHEDULABLE = "WorkerUnschedulable"
    WORKER_CRASH_LOOPING = "WorkerCrashLooping"
    WORKER_UNREACHABLE = "WorkerUnreachable"
    FOREIGN_WORKERS = "ForeignWorkers"
    INTERNAL_SECRET_MISMATCH = "InternalSecretMismatch"  # noqa: S105 - a reason, no secret
    DATABASE_SECRET_MISSING = "DatabaseSecretMissing"  # noqa: S105 - a reason, no secret
    DATABASE_UNREACHABLE = DatabaseFault.UNREACHABLE
    DATABASE_AUTH_FAILED = DatabaseFault.AUTH_FAILED
    DATABASE_TLS_FAILED = DatabaseFault.TLS_FAILED
    DATABASE_UNSUITABLE = DatabaseFault.UNSUITABLE
    DATABASE_SUPERSEDED = DatabaseFault.SUPERSEDED
    DATABASE_CLAIMED_BY_OTHER = DatabaseFault.CLAIMED_BY_OTHER
    SHARD_COUNT_MISMATCH = DatabaseFault.SHARD_COUNT_MISMATCH
    MIGRATION_FAILED = DatabaseFault.MIGRATION_FAILED
    SCHEMA_TOO_NEW = DatabaseFault.SCHEMA_TOO_NEW


_REMEDIES: Final[Mapping[Reason, str]] = {
    Reason.DATABASE_UNREACHABLE: "correct host and port in the Secret of spec.database, or let pods reach them (DNS,"
    " NetworkPolicies, security groups)",
    Reason.DATABASE_AUTH_FAILED: "correct user, password and database name in the Secret of spec.database, or let this"
    " login in",
    Reason.DATABASE_TLS_FAILED: "name the server's authority in spec.database.tls.caConfigMapKeyRef, or correct the host"
    " in the Secret or spec.database.tls.mode",
    Reason.DATABASE_UNSUITABLE: "change this at the database, or lead the Secret of spec.database to another one",
    Reason.DATABASE_SUPERSEDED: "point the Secret of spec.database to the server that was promoted, and take the one"
    " before it out of service",
    Reason.DATABASE_CLAIMED_BY_OTHER: "give this ThreadCluster a database of its own, or name the holder that it is to"
    " displace in spec.database.takeOver",
    Reason.SHARD_COUNT_MISMATCH: "give this ThreadCluster another database, or create it again with the shards of this one",
    Reason.MIGRATION_FAILED: "name a login that may make tables in spec.database.migrationURLSecretKeyRef",
    Reason.SCHEMA_TOO_NEW: "set spec.image to a release at least as new as the one that made the schema",
}
"""The remedy for each failure that a migration's termination message can name."""

_TRIED_AGAIN: Final = frozenset(_REMEDIES) | {
    Reason.DATABASE_SECRET_MISSING,
    Reason.IMAGE_PULL_FAILED,
    Reason.QUOTA_EXCEEDED,
    Reason.FORBIDDEN,
}
"""Reasons after which a new Job tries the migration again."""


class Diagnosis(NamedTuple):
    """The reason why a cluster cannot reach its spec, and a message with the remedy."""

    reason: Reason
    message: str


def diagnose(seen: ClusterSnapshot) -> Diagnosis | None:
    """The first diagnosis that the cluster's own reports give, or None."""
    for finder in _FINDERS:
        for trouble in finder(seen):
            return trouble
    return None


def previous_diagnosis(seen: ClusterSnapshot) -> Diagnosis | None:
    """The diagnosis of the last attempt of the migration, which counts until another attempt has succeeded.

    Only for a cluster that is still to be migrated, and as long as the same spec is wanted: an edit may be the remedy.
    """
    for each in (seen.resource.get("status") or {}).get("conditions") or ():
        if each["type"] == "Stalled" and each["status"] == "True" and each["observedGeneration"] == seen.generation:
            return Diagnosis(Reason(each["reason"]), each["message"]) if each["reason"] in _TRIED_AGAIN else None
    return None


# --- what workers say


def _claimed_by_other(seen: ClusterSnapshot) -> Iterator[Diagnosis]:
    if seen.claimed_by_other:
        reason = Reason.DATABASE_CLAIMED_BY_OTHER
        yield _trouble(reason, seen.claimed_by_other, _REMEDIES[reason])


def _foreign_workers(seen: ClusterSnapshot) -> Iterator[Diagnosis]:
    if seen.foreign_workers:
        yield _trouble(
            Reason.FOREIGN_WORKERS,
            f"workers of another cluster live in this database: {', '.join(seen.foreign_workers)}; no shard is moved",
            "end them, or give one of the two clusters a database of its own",
        )


# --- what containers say


def _images(seen: ClusterSnapshot) -> Iterator[Diagnosis]:
    for pod, container in _containers(seen):
        if waiting_reason(container) in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"):
            message = container["state"]["waiting"].get("message", "")
            yield _trouble(
                Reason.IMAGE_PULL_FAILED,
                f"pod {_name(pod)}: image {container.get('image', '')!r} cannot be pulled: {message}",
                "correct spec.image, spec.imagePullSecrets or the registry",
            )


def _secrets(seen: ClusterSnapshot) -> Iterator[Diagnosis]:
    for pod, container in _containers(seen):
        if waiting_reason(container) == "CreateContainerConfigError":
            yield _missing(_name(pod), container["state"]["waiting"].get("message", ""))
    for event in _events(seen, "FailedMount"):
        message = str(event.get("message", ""))
        if "not found" in message or "references non-existent" in message:
            yield _missing(event["involvedObject"].get("name", ""), message)


def _missing(pod: str, message: str) -> Diagnosis:
    return _trouble(
        Reason.DATABASE_SECRET_MISSING,
        f"pod {pod} waits for something that spec.database refers to: {message}",
        "make the Secret, or correct spec.database; the pod goes on by itself",
    )


def _migration(seen: ClusterSnapshot) -> Iterator[Diagnosis]:
    """How the last migration ended that failed, as long as none has succeeded since."""
    labels = selector_of(seen.key.name, "migration")
    jobs = [each for each in seen.children if each["kind"] == "Job" and condition(each, "Complete") != "True"]
    names = {each["metadata"]["name"] for each in jobs}
    pods = [
        pod
        for pod in seen.pods
        if (pod["metadata"].get("labels") or {}).items() >= labels.items()
        and pod["metadata"].get("labels", {}).get("job-name") in names
    ]
    pods.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True)
    for pod in pods:
        for container in pod.get("status", {}).get("containerStatuses", ()):
            ended = container.get("state", {}).get("terminated", {})
            if ended and ended.get("exitCode") != 0:
                how = f"{ended.get('reason', 'Error')}, exit code {ended.get('exitCode')}"
                yield _migration_end(str(ended.get("message") or how))
    for job in jobs:
        if condition(job, "Failed") == "True":
            yield _trouble(Reason.MIGRATION_FAILED, f"job {_name(job)} failed", "see its log; it is tried again")


def _migration_end(message: str) -> Diagnosis:
    """The diagnosis of a termination message, also of one that is no `MigrationFailure`: the end of a log, for example."""
    try:
        failure = msgspec.json.decode(message, type=MigrationFailure)
    except msgspec.DecodeError:
        return _trouble(Reason.MIGRATION_FAILED, f"the migration failed: {message}", "see the log of its Job")
    reason = Reason(failure.reason)
    return _trouble(reason, failure.message, _REMEDIES[reason])


def _crashes(seen: ClusterSnapshot) -> Iterator[Diagnosis]:
    for pod, container in _containers(seen):
        if waiting_reason(container) == "CrashLoopBackOff" or (
            container.get("restartCount", 0) >= 2 and not container.get("ready")
        ):
            last = container.get("lastState", {}).get("terminated", {})
            ending = str(last.get("message", "")).strip() or f"exit code {last.get('exitCode', 'unknown')}"
            yield _trouble(
                Reason.WORKER_CRASH_LOOPING,
                f"{_name(pod)} ends again and again: {ending}",
                "see `kubectl logs --previous`",
            )


def _unschedulable(seen: ClusterSnapshot) -> Iterator[Diagnosis]:
    for pod in seen.pods:
        for each in pod.get("status", {}).get("conditions", ()):
            if each["type"] == "PodScheduled" and each["status"] == "False" and each.get("reason") == "Unschedulable":
                yield _trouble(
                    Reason.WORKER_UNSCHEDULABLE,
                    f"pod {_name(pod)} finds no node: {each.get('message', '')}",
                    "add nodes, or ask for less in spec.worker.resources and spec.podTemplate",
                )


# --- what Events say


def _quota(seen: ClusterSnapshot) -> Iterator[Diagnosis]:
    for event in _events(seen, "FailedCreate"):
        message = str(event.get("message", ""))
        if "exceeded quota" in message:
            yield _trouble(Reason.QUOTA_EXCEEDED, message, "raise the namespace's quota, or ask for less")
        elif "forbidden" in message:
            yield _trouble(Reason.FORBIDDEN, message, "an admission rule of the namespace refuses the pods")


def _containers(seen: ClusterSnapshot) -> Iterator[tuple[Object, Object]]:
    for pod in seen.pods:
        if "deletionTimestamp" not in pod["metadata"]:
            for container in pod.get("status", {}).get("containerStatuses", ()):
                yield pod, container


def _events(seen: ClusterSnapshot, reason: str) -> Iterator[Object]:
    """The Events with this reason about objects that exist and are not healthy, newest first."""
    # An Event about a pod that could not start is obsolete once the pod runs or has ended.
    unwell = {pod["metadata"]["uid"] for pod in seen.pods if pod.get("status", {}).get("phase", "Pending") == "Pending"}
    for each in seen.children:
        status = each.get("status", {})
        if each["kind"] == "StatefulSet" and status.get("replicas", 0) < each["spec"].get("replicas", 1):
            unwell.add(each["metadata"]["uid"])
        if each["kind"] == "Job" and not status.get("active") and condition(each, "Complete") != "True":
            unwell.add(each["metadata"]["uid"])
    found = [
        event
        for event in seen.warnings
        if event.get("reason") == reason
        and event.get("involvedObject", {}).get("uid") in unwell
        and seen.now - _last_seen_at(event) < _EVENT_MOST_S
    ]
    yield from sorted(found, key=_last_seen_at, reverse=True)


def _last_seen_at(event: Mapping[str, Any]) -> float:
    stamp = (
        event.get("lastTimestamp")
        or (event.get("series") or {}).get("lastObservedTime")
        or event.get("eventTime")
        or event["metadata"].get("creationTimestamp")
    )
    return datetime.fromisoformat(str(stamp)).timestamp() if stamp else 0.0


def _name(subject: Mapping[str, Any]) -> str:
    return str(subject["metadata"]["name"])


def _trouble(reason: Reason, what: str, remedy: str) -> Diagnosis:
    return Diagnosis(reason, f"{_short(what)}. Remedy: {remedy}.")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MESSAGE_MOST else text[: _MESSAGE_MOST - 1] + "…"


_FINDERS: Final[Iterable[Callable[[ClusterSnapshot], Iterator[Diagnosis]]]] = (
    _claimed_by_other,
    _foreign_workers,
    _images,
    _secrets,
    _migration,
    _crashes,
    _quota,
    _unschedulable,
)
