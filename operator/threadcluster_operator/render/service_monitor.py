"""The ServiceMonitor by which the Prometheus operator finds the workers."""

from threadcluster_operator.render.inputs import RenderInput
from threadcluster_operator.render.objects import Object, child, selector_of


def service_monitor(wanted: RenderInput) -> Object | None:
    """One for all workers, where it is wanted."""
    mode = wanted.spec.monitoring.service_monitor
    if mode == "Disabled" or (mode == "Auto" and not wanted.service_monitors):
        return None
    spec: Object = {
        "selector": {"matchLabels": selector_of(wanted.name, "worker")},
        "endpoints": [{"port": "management", "path": "/metrics"}],
    }
    return child(wanted, "monitoring.coreos.com/v1", "ServiceMonitor", wanted.name, "worker", {"spec": spec})
