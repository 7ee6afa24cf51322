"""The StatefulSet: workers with stable names, all started at once, changed one by one behind the partition."""

from typing import Final

from threadcluster_operator.render.inputs import RenderInput
from threadcluster_operator.render.migration_job import MIGRATION, migration_name
from threadcluster_operator.render.objects import Object, child, digest, selector_of
from threadcluster_operator.render.pod import worker_template

TEMPLATE: Final = "threadcluster.io/template"
"""An annotation of the StatefulSet: the hash of the pod template that was applied last, which admission rules may have
changed on the way.  It arrives in one write with the template, and outlives the operator's memory.
"""

_MAX_UNAVAILABLE: Final = 1000
"""More than there can be workers.  The partition alone lets workers go, one ordinal at a time.  Where Kubernetes counts
unavailable pods (feature gate MaxUnavailableStatefulSet), a smaller number, or 100 % while no worker is available, would
keep the pods of a broken template: they are what is unavailable.
"""


def stateful_set(wanted: RenderInput) -> Object:
    """The workers.  Service name, selector and pod management can never be changed, and never are."""
    spec: Object = {
        "replicas": wanted.replicas,
        "serviceName": wanted.headless_service,
        "podManagementPolicy": "Parallel",
        "updateStrategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"partition": wanted.partition, "maxUnavailable": _MAX_UNAVAILABLE},
        },
        "minReadySeconds": wanted.spec.rollout.min_ready_seconds,
        "selector": {"matchLabels": selector_of(wanted.name, "worker")},
        "template": worker_template(wanted),
    }
    annotations = {MIGRATION: migration_name(wanted), TEMPLATE: digest(spec["template"])}
    return child(wanted, "apps/v1", "StatefulSet", wanted.name, "worker", {"spec": spec}, annotations=annotations)


def disruption_budget(wanted: RenderInput) -> Object:
    """A node drain evicts one worker at a time; a worker that is not ready may always be evicted."""
    spec: Object = {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": selector_of(wanted.name, "worker")},
    }
    return child(wanted, "policy/v1", "PodDisruptionBudget", wanted.name, "worker", {"spec": spec})
