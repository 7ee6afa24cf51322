"""Metrics of what a worker holds in memory and of how it reads histories back."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shard_worker.actors.passivation import Residents
from shard_worker.journal.loader import Loader
from shard_worker.journal.message_reader import MessageReader
from shard_worker.journal.snapshots import SnapshotWriter
from shard_worker.memory import MemoryBudget


class MemoryMetrics(Collector):
    """Reads what the parts count; nothing is counted here."""

    def __init__(
        self,
        memory: MemoryBudget,
        residents: Residents,
        loader: Loader,
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
