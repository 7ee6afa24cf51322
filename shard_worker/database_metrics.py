"""Metrics of a worker's sessions with Postgres, of fail-overs, and of what they lost."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shard_worker.contract import DatabaseFault
from shard_worker.database.connection import Database
from shard_worker.journal.heads import AcknowledgedHeads


class DatabaseMetrics(Collector):
    """Reads what the parts count; nothing is counted here."""

    def __init__(self, database: Database, heads: AcknowledgedHeads) -> None:
        self._database = database
        self._heads = heads

    def collect(self) -> Iterator[Metric]:
        """The families, as of now."""
        database = self._database
        yield CounterMetricFamily(
            "threadcluster_acknowledged_lost_events",
            "Acknowledged events that were missing from the journal when a session was opened; alarm above 0.",
            self._heads.lost_events,
        )
        yield CounterMetricFamily(
            "threadcluster_database_failovers",
            "Fail-overs of Postgres that this worker went through.",
            database.failovers,
        )
        yield GaugeMetricFamily(
            "threadcluster_database_timeline",
            "The newest timeline of Postgres that this worker knows; 0 before it knows one.",
            database.newest.timeline if database.newest is not None else 0,
        )
        yield GaugeMetricFamily(
            "threadcluster_database_sessions", "Sessions of this worker that are open.", database.open_sessions
        )
        yield CounterMetricFamily(
            "threadcluster_database_connects", "Attempts to open a session, failed ones too.", database.gate.attempts
        )
        refusals = CounterMetricFamily(
            "threadcluster_database_connects_failed", "Sessions that were not had, by why.", labels=["fault"]
        )
        for fault in DatabaseFault:
            if fault in database.refusals:
                refusals.add_metric([fault.value], database.refusals[fault])
        yield refusals
