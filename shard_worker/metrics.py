"""Prometheus metrics of a worker: ownership, the journal, the database's sessions and memory.

A collector reads what the parts count; nothing is counted here.
"""

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from shard_worker.actors.passivation import LruPassivation
from shard_worker.actors.shard_host import LocalShardHost
from shard_worker.actors.thread_actor import ThreadActor
from shard_worker.contract_internal import DatabaseFault
from shard_worker.database.connection import Database
from shard_worker.journal.appender import Appender
from shard_worker.journal.heads import AcknowledgedHeads
from shard_worker.journal.loader import ThreadLoader
from shard_worker.journal.message_reader import MessageReader
from shard_worker.journal.snapshots import SnapshotWriter
from shard_worker.memory import MemoryBudget
from shard_worker.ownership.handoff_metrics import PAUSES_MS
from shard_worker.ownership.membership import Ownership
from shard_worker.readmodel.sources import WatchedReplica
from shard_worker.readmodel.updater import ReadModelUpdater
from shard_worker.streams.hub import StreamHub


class OwnershipMetrics(Collector):
    """A worker's part in ownership and in the journal: what would page its operators first."""

    def __init__(
        self, ownership: Ownership, host: LocalShardHost, appender: Appender, excess: Sequence[str] = ()
    ) -> None:
        self._excess = excess
        self._ownership = ownership
        self._host = host
        self._appender = appender

    def collect(self) -> Iterator[Metric]:
        """The families, as of now."""
        ownership, moves, appends = self._ownership, self._ownership.handoffs, self._appender.metrics
        yield GaugeMetricFamily(
            "threadcluster_shards_serving", "Shards that this worker serves.", len(self._host.serving())
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
        handoffs.add_metric(["given"], moves.completed)
        handoffs.add_metric(["abandoned"], moves.aborted)
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
            self._host.pending_bytes(),
        )


class DatabaseMetrics(Collector):
    """A worker's sessions with Postgres, fail-overs, and what they lost."""

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
            "threadcluster_database_connects", "Attempts to open a session, failed ones too.", database.attempts
        )
        refusals = CounterMetricFamily(
            "threadcluster_database_connects_failed", "Sessions that were not had, by why.", labels=["fault"]
        )
        for fault in DatabaseFault:
            if fault in database.refusals:
                refusals.add_metric([fault.value], database.refusals[fault])
        yield refusals


class MemoryMetrics(Collector):
    """Metrics of the threads in a worker's memory, and of its loads of histories."""

    def __init__(
        self,
        memory: MemoryBudget,
        residents: LruPassivation[ThreadActor],
        loader: ThreadLoader,
        snapshots: SnapshotWriter,
        messages: MessageReader,
    ) -> None:
        self._memory = memory
        self._residents = residents
        self._loader = loader
        self._snapshots = snapshots
        self._messages = messages

    def collect(self) -> Iterator[Metric]:
        """The families, as of now."""
        loads = self._loader.metrics
        yield GaugeMetricFamily("threadcluster_memory_budget_bytes", "The memory budget.", self._memory.limit)
        yield GaugeMetricFamily("threadcluster_memory_used_bytes", "Bytes of the budget in use.", self._memory.used)
        yield GaugeMetricFamily("threadcluster_resident_threads", "Threads in memory.", len(self._residents))
        yield GaugeMetricFamily(
            "threadcluster_resident_bytes", "Bytes of the threads in memory, estimated.", self._residents.bytes
        )
        yield CounterMetricFamily(
            "threadcluster_threads_passivated", "Threads that left memory.", self._residents.passivated
        )
        yield CounterMetricFamily("threadcluster_threads_loaded", "Threads read from the journal.", loads.threads)
        yield CounterMetricFamily("threadcluster_events_replayed", "Events folded for that.", loads.events)
        yield CounterMetricFamily("threadcluster_history_pages", "Pages of histories read.", loads.pages)
        yield GaugeMetricFamily(
            "threadcluster_long_loads", "Threads whose long history is being read.", self._loader.long_loads
        )
        yield CounterMetricFamily("threadcluster_threads_poisoned", "Histories that could not be read.", loads.poisoned)
        snapshots = CounterMetricFamily(
            "threadcluster_snapshots", "Snapshots, by what became of them.", labels=["outcome"]
        )
        snapshots.add_metric(["saved"], self._snapshots.saved)
        snapshots.add_metric(["dropped"], self._snapshots.dropped)
        snapshots.add_metric(["discarded"], loads.snapshots_discarded)
        yield snapshots
        yield CounterMetricFamily(
            "threadcluster_whole_events_read",
            "Events read whole for the text of a message, since its place was unknown or wrong.",
            self._messages.whole_events,
        )


class StreamsMetrics(Collector):
    """Metrics of the streams of events."""

    def __init__(self, streams: StreamHub) -> None:
        self._streams = streams

    def collect(self) -> Iterator[Metric]:
        """The families, as of now."""
        streams, counted = self._streams, self._streams.metrics
        yield GaugeMetricFamily("threadcluster_streams_open", "Streams of events that are open.", streams.open_streams)
        yield GaugeMetricFamily(
            "threadcluster_stream_threads", "Threads that streams here follow.", streams.followed_threads
        )
        yield GaugeMetricFamily(
            "threadcluster_stream_relays", "Threads that streams here follow at another worker.", streams.relays
        )
        yield GaugeMetricFamily(
            "threadcluster_stream_account_threads",
            "Threads that accounts' streams keep, counted for each stream.",
            streams.accounts.tail.followed,
        )
        yield CounterMetricFamily("threadcluster_streams_opened", "Streams that began.", counted.opened)
        yield CounterMetricFamily("threadcluster_stream_deliveries", "Events written to streams.", counted.delivered)
        yield CounterMetricFamily(
            "threadcluster_streams_dropped", "Streams that ended because their clients did not read.", counted.dropped
        )
        yield CounterMetricFamily(
            "threadcluster_streams_refused", "Streams that were refused for a cap.", counted.refused
        )


class ReadModelMetrics(Collector):
    """Metrics of the read-model updater, and of the replica that answers queries."""

    def __init__(self, updater: ReadModelUpdater, replica: WatchedReplica | None = None) -> None:
        self._updater = updater
        self._replica = replica

    def collect(self) -> Iterator[Metric]:
        """The families, as of now."""
        counted = self._updater.metrics
        yield GaugeMetricFamily(
            "threadcluster_read_model_lag_events",
            "Events of the shards here that the read model does not hold yet.",
            self._updater.lag(),
        )
        yield GaugeMetricFamily(
            "threadcluster_read_model_dead_threads",
            "Threads of the shards here whose projection has stopped at an event that this release cannot read.",
            len(self._updater.dead_threads()),
        )
        yield CounterMetricFamily("threadcluster_read_model_events", "Events projected.", counted.events)
        yield CounterMetricFamily("threadcluster_read_model_batches", "Batches of them.", counted.batches)
        yield CounterMetricFamily("threadcluster_read_model_seconds", "Time that batches took.", counted.seconds)
        yield CounterMetricFamily(
            "threadcluster_read_model_failures", "Batches that the database refused or did not end.", counted.failures
        )
        yield CounterMetricFamily(
            "threadcluster_read_model_holes", "Looks at a shard that found an event missing.", counted.holes
        )
        yield CounterMetricFamily(
            "threadcluster_read_model_found_by_timer",
            "Looks of the timer that found events of which no wake-up came.",
            counted.found_by_timer,
        )
        if self._replica is not None:
            queries = CounterMetricFamily(
                "threadcluster_replica_queries",
                "Queries of the read model that the replica answered, failed to answer, or was unfit to be asked.",
                labels=["outcome"],
            )
            for outcome, count in self._replica.counts.by_outcome().items():
                queries.add_metric([outcome], count)
            yield queries
            yield GaugeMetricFamily(
                "threadcluster_replica_lag_seconds",
                "Age of the primary's newest position that the replica has; infinite while it is away or of another history.",
                self._replica.lag_s,
            )
