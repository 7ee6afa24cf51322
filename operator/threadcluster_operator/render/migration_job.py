"""The Job that brings the database's schema to the image's release, once, before any pod changes."""

from collections.abc import Mapping
from typing import Any, Final

from threadcluster_operator.render.inputs import RenderInput
from threadcluster_operator.render.objects import Object, child, digest
from threadcluster_operator.render.pod import migration_template

MIGRATION: Final = "threadcluster.io/migration"
"""An annotation of the StatefulSet: the migration that its pods were made after.  It outlives the Job."""

_RETRIES: Final = 3
_MOST_S: Final = 3600
_KEPT_S: Final = 86_400


def migration_job(wanted: RenderInput) -> Object:
    """The Job; its name carries a hash of what it does: of the image, and of the database and the settings for it.

    Where and how its pod runs is no part of the name: an edit of that begins no new migration.

    A pod of it that failed stays until the Job goes: its termination message says why.  A Job that failed for good is
    deleted by the reconciler before another try, and made again.
    """
    template = migration_template(wanted)
    spec: Object = {
        "backoffLimit": _RETRIES,
        "activeDeadlineSeconds": _MOST_S,
        "ttlSecondsAfterFinished": _KEPT_S,
        "completions": 1,
        "parallelism": 1,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": template,
    }
    container = template["spec"]["containers"][0]
    does = digest([container["image"], container["env"], template["spec"]["volumes"]])
    return child(wanted, "batch/v1", "Job", f"{wanted.name}-migrate-{does[:10]}", "migration", {"spec": spec})


def migration_name(wanted: RenderInput) -> str:
    """The Job's name."""
    return str(migration_job(wanted)["metadata"]["name"])


def migrated(wanted: RenderInput, stateful_set: Mapping[str, Any] | None, job: Mapping[str, Any] | None) -> bool:
    """Whether the migration is done: the live Job says so, or the live StatefulSet was made after it."""
    name = migration_name(wanted)
    if stateful_set is not None and stateful_set["metadata"].get("annotations", {}).get(MIGRATION) == name:
        return True
    if job is None or job["metadata"]["name"] != name:
        return False
    conditions = job.get("status", {}).get("conditions", [])
    return any(each["type"] == "Complete" and each["status"] == "True" for each in conditions)
