"""Metrics of a worker's part in ownership and in the journal: what would page its operators first."""

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from shard_worker.actors.region import ShardRegion
from shard_worker.journal.appender import Appender
from shard_worker.ownership.handoff_metrics import PAUSES_MS
from shard_worker.ownership.membership import Ownership


class OwnershipMetrics(Collector):
    """Reads what the parts count; nothing is counted here."""

    def __init__(
        self, ownership: Ownership, region: ShardRegion, appender: Appender, excess: Sequence[str] = ()
    ) -> None:
        self._excess = excess
        self._ownership = ownership
        self._region = region
        self._appender = appender

    def collect(self) -> Iterator[Metric]:
        """The families, as of now."""
        ownership, moves, appends = self._ownership, self._ownership.moves, self._appender.metrics
        yield GaugeMetricFamily(
            "threadcluster_shards_serving", "Shards that this worker serves.", len(self._region.serving())
        )
        yield GaugeMetricFamily(
            "threadcluster_shards_unowned",
            "Shards of the whole cluster without an owner, as this worker sees it.",
            sum(row.owner is None for row in ownership.view.shards.values()),
        )
        yield GaugeMetricFamily(
            "threadcluster_memory_reads_allowed",
            "1 while this worker's lease is certain.",
            int(ownership.memory_reads_allowed()),
        )
        yield GaugeMetricFamily(
            "threadcluster_journal_excess_privileges",
            "How many of DELETE, TRUNCATE and UPDATE this worker's login may do to the journal; should be 0.",
            len(self._excess),
        )
        handoffs = CounterMetricFamily("threadcluster_handoffs", "Handoffs begun here that ended.", labels=["outcome"])
        handoffs.add_metric(["given"], moves.given)
        handoffs.add_metric(["abandoned"], moves.abandoned)
        yield handoffs
        pauses = HistogramMetricFamily(
            "threadcluster_handoff_pause_seconds", "From the last admission here to the first at the new owner."
        )
        total, buckets = 0, []
        for bound, count in zip((*[str(bound / 1000) for bound in PAUSES_MS], "+Inf"), moves.pauses, strict=True):
            total += count
            buckets.append((bound, total))
        pauses.add_metric([], buckets, moves.paused_ms / 1000)
        yield pauses
        yield CounterMetricFamily("threadcluster_takeovers", "Dead workers that this worker fenced.", moves.takeovers)
        yield CounterMetricFamily(
            "threadcluster_fencings", "How often this worker was fenced by another.", ownership.fencings
        )
        yield CounterMetricFamily(
            "threadcluster_lease_sessions_lost", "Sessions of the lease that broke.", ownership.lease.lost_sessions
        )
        yield CounterMetricFamily("threadcluster_journal_events", "Events made durable.", appends.events)
        yield CounterMetricFamily("threadcluster_journal_batches", "Batches made durable.", appends.batches)
        yield CounterMetricFamily("threadcluster_journal_seconds", "Time that batches took.", appends.seconds)
        yield CounterMetricFamily(
            "threadcluster_journal_unknown_outcomes", "Batches whose answer never came.", appends.unknown
        )
        yield CounterMetricFamily(
            "threadcluster_journal_expired", "Events withdrawn unsent because a budget ended.", appends.expired
        )
        yield CounterMetricFamily(
            "threadcluster_journal_refused_batches",
            "Batches that the database refused because of a row.",
            appends.refused,
        )
        yield GaugeMetricFamily(
            "threadcluster_pending_bytes",
            "Bytes of waiting requests and of events on their way.",
            self._region.pending_bytes(),
        )
