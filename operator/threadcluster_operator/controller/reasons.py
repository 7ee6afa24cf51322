"""The reasons why a cluster is stalled, with their remedies, and what leads to them: the failures of a migration, the answers
of the API server, and the words of a kubelet.  Pure tables, which `diagnosis` reads.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from shard_worker.contract_internal import DatabaseFault
from threadcluster_operator.kube.answers import Answer


class Reason(StrEnum):
    """Why a cluster is stalled."""

    SPEC_INVALID = "SpecInvalid"
    NAME_CONFLICT = "NameConflict"
    AWAITING_GARBAGE_COLLECTION = "AwaitingGarbageCollection"
    CHILD_REJECTED = "ChildRejected"
    CHILD_REVERTED = "ChildReverted"
    ADMISSION_DENIED = "AdmissionDenied"
    ADMISSION_UNAVAILABLE = "AdmissionUnavailable"
    KIND_MISSING = "KindMissing"
    NAMESPACE_TERMINATING = "NamespaceTerminating"
    API_THROTTLED = "ApiThrottled"
    API_FAILING = "ApiFailing"
    FORBIDDEN = "Forbidden"
    QUOTA_EXCEEDED = "QuotaExceeded"
    MIGRATION_QUOTA_EXCEEDED = "MigrationQuotaExceeded"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    WORKER_UNSCHEDULABLE = "WorkerUnschedulable"
    WORKER_CRASH_LOOPING = "WorkerCrashLooping"
    CONTAINER_NOT_STARTED = "ContainerNotStarted"
    OUT_OF_MEMORY = "OutOfMemory"
    POD_SANDBOX_FAILED = "PodSandboxFailed"
    POD_NOT_STARTED = "PodNotStarted"
    POD_FAILED = "PodFailed"
    POD_NOT_ENDING = "PodNotEnding"
    NODE_LOST = "NodeLost"
    WORKER_UNREACHABLE = "WorkerUnreachable"
    WORKER_ANSWER_INVALID = "WorkerAnswerInvalid"
    FOREIGN_WORKERS = "ForeignWorkers"
    INTERNAL_SECRET_MISMATCH = "InternalSecretMismatch"  # noqa: S105 - a reason, no secret
    DATABASE_SECRET_MISSING = "DatabaseSecretMissing"  # noqa: S105 - a reason, no secret
    REFERENCE_MISSING = "ReferenceMissing"
    DATABASE_UNREACHABLE = DatabaseFault.UNREACHABLE
    DATABASE_AUTH_FAILED = DatabaseFault.AUTH_FAILED
    DATABASE_TLS_FAILED = DatabaseFault.TLS_FAILED
    DATABASE_UNSUITABLE = DatabaseFault.UNSUITABLE
    DATABASE_SUPERSEDED = DatabaseFault.SUPERSEDED
    DATABASE_CLAIMED_BY_OTHER = DatabaseFault.CLAIMED_BY_OTHER
    SHARD_COUNT_MISMATCH = DatabaseFault.SHARD_COUNT_MISMATCH
    MIGRATION_FAILED = DatabaseFault.MIGRATION_FAILED
    SCHEMA_TOO_NEW = DatabaseFault.SCHEMA_TOO_NEW


REMEDIES: Final[Mapping[Reason, str]] = {
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

AWAY: Final = frozenset({Reason.DATABASE_UNREACHABLE, Reason.DATABASE_AUTH_FAILED, Reason.DATABASE_TLS_FAILED})
"""Failures of a migration that the workers have too while the database is away."""

_FIELD_REMEDY: Final = "correct the field of the spec that this comes from"
_QUOTA_REMEDY: Final = (
    "raise the namespace's quota, or ask for less in spec.worker.resources, which must name what the quota counts"
)
REFUSALS: Final[Mapping[Answer, tuple[Reason, str]]] = {
    Answer.INVALID: (Reason.CHILD_REJECTED, _FIELD_REMEDY),
    Answer.TOO_LARGE: (Reason.CHILD_REJECTED, "make the spec smaller"),
    Answer.NOT_PERMITTED: (Reason.FORBIDDEN, "give the operator this right (manifests/base)"),
    Answer.QUOTA: (Reason.QUOTA_EXCEEDED, _QUOTA_REMEDY),
    Answer.DENIED: (
        Reason.ADMISSION_DENIED,
        "change the spec so that this admission rule allows it, or change the rule",
    ),
    Answer.NAMESPACE_ENDING: (Reason.NAMESPACE_TERMINATING, "nothing is to be done: the namespace is being deleted"),
    Answer.NAMESPACE_MISSING: (Reason.NAMESPACE_TERMINATING, "nothing is to be done: the namespace is gone"),
    Answer.KIND_MISSING: (
        Reason.KIND_MISSING,
        "install the CustomResourceDefinition of this kind, or take it out of the spec",
    ),
    Answer.MISSING: (Reason.CHILD_REJECTED, "see why the object is gone; it is made again"),
    Answer.EXISTS: (Reason.CHILD_REJECTED, "see who makes an object of this name again and again"),
    Answer.CONFLICT: (Reason.CHILD_REJECTED, "see who else changes this object all the time"),
    Answer.NO_DRY_RUN: (Reason.CHILD_REJECTED, _FIELD_REMEDY),
    Answer.ADMISSION_DOWN: (
        Reason.ADMISSION_UNAVAILABLE,
        "see why the admission webhook does not answer, or take its configuration away",
    ),
    Answer.THROTTLED: (Reason.API_THROTTLED, "nothing is to be done but to relieve the API server; it is tried again"),
    Answer.UNKNOWN_CLIENT: (Reason.FORBIDDEN, "see the operator's credentials (its service account)"),
    Answer.FAILING: (Reason.API_FAILING, "see the log of the API server; it is tried again"),
    Answer.AWAY: (Reason.API_FAILING, "see whether the API server runs; it is tried again"),
}
"""The reason and the remedy for each answer of the API server to a write."""


class Report(NamedTuple):
    """The meaning of a word of a kubelet: the reason that the status shows, and the remedy."""

    reason: Reason
    remedy: str


_IMAGE: Final = Report(Reason.IMAGE_PULL_FAILED, "correct spec.image, spec.imagePullSecrets or the registry")
NOT_STARTED: Final = Report(
    Reason.CONTAINER_NOT_STARTED, "see `kubectl describe pod`, and the container runtime of the pod's node"
)
_NO_PROGRAM: Final = Report(
    Reason.CONTAINER_NOT_STARTED, "set spec.image to an image whose program runs on the pod's node"
)
_HOOK: Final = Report(Reason.CONTAINER_NOT_STARTED, "see `kubectl describe pod` for what the hook answered")
_USER: Final = Report(
    Reason.CONTAINER_NOT_STARTED,
    "name a user by number that is not 0 in the securityContext of spec.podTemplate, or use an image that has one",
)
_SANDBOX: Final = Report(
    Reason.POD_SANDBOX_FAILED, "see the network plugin and the container runtime of the pod's node"
)
CRASH: Final = Report(Reason.WORKER_CRASH_LOOPING, "see `kubectl logs --previous`")
NODE: Final = Report(
    Reason.POD_FAILED, "see the node of the pod, and what spec.worker.resources and spec.podTemplate ask of it"
)

WAITING: Final[Mapping[str, Report]] = {
    **dict.fromkeys(
        (
            *("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "RegistryUnavailable"),
            *("ImageInspectError", "SignatureValidationFailed", "ImageVolumeMountFailed"),
        ),
        _IMAGE,
    ),
    "CreateContainerConfigError": _USER,
    "VerifyNonRootError": _USER,
    "CreateContainerError": NOT_STARTED,
    "RunContainerError": _NO_PROGRAM,
    "RunInitContainerError": _NO_PROGRAM,
    "KillContainerError": NOT_STARTED,
    **dict.fromkeys(("PreCreateHookError", "PreStartHookError", "PostStartHookError", "PreStopHookError"), _HOOK),
    **dict.fromkeys(
        (
            *("CreatePodSandboxError", "ConfigPodSandboxError", "KillPodSandboxError"),
            *("SetupNetworkError", "TeardownNetworkError"),
        ),
        _SANDBOX,
    ),
    "CrashLoopBackOff": CRASH,
}
"""Each word by which a kubelet says why a container waits, but those of a container that is being made.

The message of a CreateContainerConfigError that is about a Secret or a ConfigMap is looked at before, and a CrashLoopBackOff
takes the meaning of the container's last end.
"""

ENDED: Final[Mapping[str, Report]] = {
    "Completed": CRASH,
    "Error": CRASH,
    "OOMKilled": Report(
        Reason.OUT_OF_MEMORY, "raise the memory limit of the container, for a worker in spec.worker.resources"
    ),
    "StartError": _NO_PROGRAM,
    "ContainerCannotRun": _NO_PROGRAM,
    "ContainerStatusUnknown": Report(
        Reason.WORKER_CRASH_LOOPING, "see whether the pod's node was restarted, and the log of its kubelet"
    ),
    "DeadlineExceeded": Report(
        Reason.WORKER_CRASH_LOOPING, "see `kubectl describe pod` for what sets activeDeadlineSeconds"
    ),
    "PostStartHookError": _HOOK,
    "PreStopHookError": _HOOK,
}
"""Each word by which a kubelet says how a container ended."""

EVENTS: Final[Mapping[str, Report]] = {
    **dict.fromkeys(("FailedCreatePodSandBox", "FailedPodSandBoxStatus", "NetworkNotReady"), _SANDBOX),
    **dict.fromkeys(
        ("FailedMount", "FailedAttachVolume", "FailedMapVolume"),
        Report(Reason.POD_NOT_STARTED, "see the volumes of the pod, and the volume driver of its node"),
    ),
}
"""The Events about a pod that has not started that say why."""
NEVER_THE_CAUSE: Final = frozenset(
    {"FailedScheduling", "Failed", "BackOff", "InspectFailed", "Unhealthy", "NodeNotReady"}
)
"""Events of what a pod reports in its own status, too."""

PODS_REFUSED: Final = frozenset(
    {
        Reason.QUOTA_EXCEEDED,
        Reason.FORBIDDEN,
        Reason.ADMISSION_DENIED,
        Reason.ADMISSION_UNAVAILABLE,
        Reason.CHILD_REJECTED,
    }
)
"""Reasons for which a controller's pods are not created; another one than the controller's own may be the remedy."""

TRIED_AGAIN: Final = (
    frozenset(REMEDIES)
    | PODS_REFUSED
    | {
        Reason.DATABASE_SECRET_MISSING,
        Reason.REFERENCE_MISSING,
        Reason.IMAGE_PULL_FAILED,
        Reason.MIGRATION_QUOTA_EXCEEDED,
        Reason.CONTAINER_NOT_STARTED,
        Reason.OUT_OF_MEMORY,
        Reason.POD_SANDBOX_FAILED,
        Reason.POD_NOT_STARTED,
    }
)
"""Reasons after which a new Job tries the migration again."""
