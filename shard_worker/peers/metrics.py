"""Metrics of the management port's connections and of the links between workers."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shard_worker.peers.listener import ManagementListener
from shard_worker.peers.refusals import Refused
from shard_worker.peers.server import PeerServer


class PeerMetrics(Collector):
    """Reads what listener and links count; nothing is counted here."""

    def __init__(self, listener: ManagementListener, peers: PeerServer) -> None:
        self._listener = listener
        self._peers = peers

    def collect(self) -> Iterator[Metric]:
        """The families, as of now."""
        refused = CounterMetricFamily(
            "threadcluster_management_connections_refused",
            "Connections to the management port that were refused or cut, by reason.",
            labels=["reason"],
        )
        for reason in Refused:
            refused.add_metric([reason.value], self._listener.refusals.counts[reason])
        yield refused
        yield CounterMetricFamily(
            "threadcluster_management_descriptors_exhausted",
            "How often the management port could not accept for want of descriptors.",
            self._listener.descriptors_exhausted,
        )
        yield GaugeMetricFamily(
            "threadcluster_management_connections_unproven",
            "Connections to the management port that have not proved themselves yet.",
            self._listener.unproven,
        )
        yield GaugeMetricFamily(
            "threadcluster_peer_links", "Links that peers hold to this worker.", len(self._peers.links)
        )
