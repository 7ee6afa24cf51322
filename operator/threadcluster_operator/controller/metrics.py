"""The operator's metrics: how reconciling goes (rate, errors, duration), and how the clusters are."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from shard_worker.contract_internal import HealthCounters
from threadcluster_operator.controller.snapshot import Key

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_HEALTH: Final[Mapping[str, str]] = {
    "fencings": "Incarnations of the worker that a peer ended.",
    "takeovers": "Incarnations of peers that the worker ended.",
    "lease_sessions_lost": "Database sessions of the worker's lease that ended unexpectedly.",
    "handoffs_aborted": "Handoffs of shards that the worker gave up.",
    "unknown_outcomes": "Batches of events of which the worker got no answer.",
    "acknowledged_lost_events": "Acknowledged events that were missing from the journal; an alarm above 0.",
    "database_connects_failed": "Connections to the database that the worker could not open.",
    "database_failovers": "Fail-overs of the database that the worker noticed.",
}
"""The counters that workers report with their answers, each with its text for people."""


class Telemetry(Collector):
    """One operator's numbers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.running: dict[Key, float] = {}
        """When each look that is under way began, by the monotonic clock."""
        self.leads: Callable[[], bool] = lambda: True
        """Whether this replica leads: another replica's clusters may have changed since, and are shown by that one."""
        self._statuses: dict[Key, Mapping[str, Any]] = {}
        self._gates: dict[Key, Mapping[str, bool]] = {}
        self._health: dict[Key, Mapping[str, HealthCounters]] = {}
        self._looks = Histogram(
            "threadcluster_operator_reconcile_seconds",
            "How long looks at a cluster took.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._errors = Counter(
            "threadcluster_operator_reconcile_errors", "Looks that failed, and are repeated.", registry=self.registry
        )
        self._moves = Counter(
            "threadcluster_operator_moves_ordered",
            "Moves of shards that the operator has ordered.",
            ("namespace", "name"),
            registry=self.registry,
        )
        self.leading = Gauge("threadcluster_operator_leading", "Whether this replica leads.", registry=self.registry)
        self.queue_depth = Gauge(
            "threadcluster_operator_work_queue_depth", "Clusters that wait for a look.", registry=self.registry
        )
        self.registry.register(self)

    @contextmanager
    def reconciling(self, key: Key) -> Iterator[None]:
        """One look."""
        began = self.running[key] = time.monotonic()
        try:
            yield
        except Exception:
            self._errors.inc()
            raise
        finally:
            del self.running[key]
            self._looks.observe(time.monotonic() - began)

    def moved(self, key: Key, count: int) -> None:
        """Count ``count`` ordered moves."""
        self._moves.labels(*key).inc(count)

    def set_cluster_status(self, key: Key, status: Mapping[str, Any], gates: Mapping[str, bool]) -> None:
        """Set a cluster's status, and the gates that block its actions."""
        self._statuses[key] = status
        self._gates[key] = gates

    def set_worker_health(self, key: Key, health: Mapping[str, HealthCounters]) -> None:
        """Set the last counters of a cluster's workers, by name: of those alone that the operator asks, a pod each."""
        self._health[key] = health

    def forget(self, key: Key) -> None:
        """A cluster is gone."""
        self._statuses.pop(key, None)
        self._gates.pop(key, None)
        self._health.pop(key, None)

    def clear(self) -> None:
        """The clusters are another replica's from now on."""
        self._statuses.clear()
        self._gates.clear()
        self._health.clear()

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """How the clusters are, for Prometheus."""
        conditions = GaugeMetricFamily(
            "threadcluster_condition",
            "1 for the reason that each condition of a cluster has now.",
            labels=("namespace", "name", "type", "status", "reason"),
        )
        shards = GaugeMetricFamily("threadcluster_shards", "Shards by state.", labels=("namespace", "name", "state"))
        leads = self.leads()
        for key, status in self._statuses.items() if leads else ():
            for each in status.get("conditions", ()):
                conditions.add_metric([*key, each["type"], each["status"], each["reason"]], 1.0)
            for state, count in (status.get("shards") or {}).items():
                if state in ("total", "assigned", "moving"):
                    shards.add_metric([*key, state], float(count))
        blocked = GaugeMetricFamily(
            "threadcluster_gate_blocked",
            "1 while a gate blocks the operator: a child with another owner, a migration, a worker that must not stop yet.",
            labels=("namespace", "name", "gate"),
        )
        for key, gates in self._gates.items() if leads else ():
            for gate, closed in gates.items():
                blocked.add_metric([*key, gate], float(closed))
        yield conditions
        yield shards
        yield blocked
        for name, text in _HEALTH.items():
            counter = CounterMetricFamily(
                f"threadcluster_worker_{name}",
                f"{text} Since the worker's process started, as it reported last.",
                labels=("namespace", "name", "worker"),
            )
            for key, workers in self._health.items() if leads else ():
                for worker, counters in workers.items():
                    counter.add_metric([*key, worker], float(getattr(counters, name)))
            yield counter

    def page(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)
