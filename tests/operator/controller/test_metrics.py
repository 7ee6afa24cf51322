"""The operator's metrics: what people watch and set alarms on."""

import pytest
from prometheus_client.parser import text_string_to_metric_families
from threadcluster_operator.controller.metrics import Telemetry
from threadcluster_operator.controller.snapshot import Key

from shard_worker.contract_internal import HealthCounters

CHAT = Key("talk", "chat")
STATUS = {
    "shards": {"total": 16, "assigned": 15, "moving": 2, "imbalancePercent": 3},
    "conditions": [{"type": "Ready", "status": "False", "reason": "Stalled"}],
}


def values(telemetry: Telemetry) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the values of its labels, in the order of the labels' names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(telemetry.page().decode())
        for sample in family.samples
    }


def test_rate_errors_and_duration_of_looks() -> None:
    """A look that failed counts among both; while it goes on it can be seen."""
    telemetry = Telemetry()
    with telemetry.reconciling(CHAT):
        assert CHAT in telemetry.running
    with pytest.raises(ValueError, match="a bug"), telemetry.reconciling(CHAT):
        raise ValueError("a bug")
    assert telemetry.running == {}
    found = values(telemetry)
    assert found[("threadcluster_operator_reconcile_seconds_count",)] == 2
    assert found[("threadcluster_operator_reconcile_errors_total",)] == 1


def test_how_a_cluster_is_can_be_read() -> None:
    """Conditions, shards, gates and moves, by namespace and name; nothing of one that is gone."""
    telemetry = Telemetry()
    telemetry.moved(CHAT, 3)
    telemetry.set_cluster_status(CHAT, STATUS, {"migration": True, "worker": False})
    found = values(telemetry)
    assert found[("threadcluster_condition", "chat", "talk", "Stalled", "False", "Ready")] == 1
    assert found[("threadcluster_shards", "chat", "talk", "assigned")] == 15
    assert found[("threadcluster_gate_blocked", "migration", "chat", "talk")] == 1
    assert found[("threadcluster_gate_blocked", "worker", "chat", "talk")] == 0
    assert found[("threadcluster_operator_moves_ordered_total", "chat", "talk")] == 3
    telemetry.forget(CHAT)
    assert not [name for name, *labels in values(telemetry) if name.startswith("threadcluster_gate") and labels]


def test_a_deposed_leader_exports_no_conditions() -> None:
    """Two replicas would contradict each other, and an alarm on the old one's would never end."""
    telemetry = Telemetry()
    telemetry.set_cluster_status(CHAT, STATUS, {"migration": True})
    telemetry.set_worker_health(CHAT, {"chat-0": HealthCounters()})
    telemetry.leads = lambda: False
    of_clusters = ("threadcluster_condition", "threadcluster_shards", "threadcluster_gate", "threadcluster_worker")
    assert not [name for name, *labels in values(telemetry) if name.startswith(of_clusters)]
    telemetry.leads = lambda: True
    assert [name for name, *labels in values(telemetry) if name.startswith(of_clusters)]
    telemetry.clear()
    assert not [name for name, *labels in values(telemetry) if name.startswith(of_clusters)]


def test_what_went_wrong_in_workers_can_be_read() -> None:
    """Each counter that a worker reports, by cluster and worker; nothing of a worker, or of a cluster, that is gone."""
    telemetry = Telemetry()
    counters = {name: number for number, name in enumerate(HealthCounters.__struct_fields__, 1)}
    telemetry.set_worker_health(CHAT, {"chat-0": HealthCounters(**counters), "chat-1": HealthCounters()})
    found = values(telemetry)
    for name, number in counters.items():
        assert found[(f"threadcluster_worker_{name}_total", "chat", "talk", "chat-0")] == number
        assert found[(f"threadcluster_worker_{name}_total", "chat", "talk", "chat-1")] == 0
    telemetry.set_worker_health(CHAT, {"chat-1": HealthCounters(fencings=2)})
    found = values(telemetry)
    assert found[("threadcluster_worker_fencings_total", "chat", "talk", "chat-1")] == 2
    assert ("threadcluster_worker_fencings_total", "chat", "talk", "chat-0") not in found
    telemetry.forget(CHAT)
    assert not [name for name, *labels in values(telemetry) if name.startswith("threadcluster_worker")]
