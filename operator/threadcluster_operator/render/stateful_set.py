"""The StatefulSet: workers with stable names, all started at once, changed one by one behind the partition."""

from threadcluster_operator.render.inputs import RenderInput
from threadcluster_operator.render.migration_job import MIGRATION, migration_name
from threadcluster_operator.render.objects import Object, child, selector_of
from threadcluster_operator.render.pod import worker_template


def stateful_set(wanted: RenderInput) -> Object:
    """The workers.  Service name, selector and pod management can never be changed, and never are."""
    spec: Object = {
        "replicas": wanted.replicas,
        "serviceName": wanted.headless_service,
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": wanted.partition}},
        "minReadySeconds": wanted.spec.rollout.min_ready_seconds,
        "selector": {"matchLabels": selector_of(wanted.name, "worker")},
        "template": worker_template(wanted),
    }
    annotations = {MIGRATION: migration_name(wanted)}
    return child(wanted, "apps/v1", "StatefulSet", wanted.name, "worker", {"spec": spec}, annotations=annotations)


def disruption_budget(wanted: RenderInput) -> Object:
    """A node drain evicts one worker at a time; a worker that is not ready may always be evicted."""
    spec: Object = {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": selector_of(wanted.name, "worker")},
    }
    return child(wanted, "policy/v1", "PodDisruptionBudget", wanted.name, "worker", {"spec": spec})
