"""Metrics of the public port: plain integers, turned into Prometheus's form only when they are scraped.

``prometheus_client``'s own counters take a lock and several look-ups for each request; these take one dictionary look-up
and two additions.  Everything runs on one event loop, so nothing is locked.
"""

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from shard_worker.gateway.http.capacity import Capacity

BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class _Series:
    """The requests of one operation."""

    __slots__ = ("buckets", "by_status", "seconds")

    def __init__(self) -> None:
        self.by_status: dict[int, int] = {}
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.seconds = 0.0


class RequestMetrics(Collector):
    """Counts requests and how long they took, by operation id; register it in the worker's registry."""

    def __init__(self) -> None:
        self._series: dict[str, _Series] = {}
        self.in_flight = 0
        self.lane = 0
        """Commands that went around aiohttp: see `shard_worker.gateway.public.lane`."""
        self.capacity: Capacity | None = None
        """Bounds on the port's clients; set by the port."""

    def observe(self, operation_id: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        series = self._series.get(operation_id)
        if series is None:
            series = self._series[operation_id] = _Series()
        by_status = series.by_status
        by_status[status] = by_status.get(status, 0) + 1
        series.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        series.seconds += seconds

    def collect(self) -> Iterator[Metric]:
        """The families, as of now."""
        requests = CounterMetricFamily(
            "threadcluster_http_requests", "Answered requests of the public port.", labels=["operation", "status"]
        )
        durations = HistogramMetricFamily(
            "threadcluster_http_request_seconds",
            "Time from a request's head to its answer, in seconds.",
            labels=["operation"],
        )
        for operation_id, series in self._series.items():
            for status, count in series.by_status.items():
                requests.add_metric([operation_id, str(status)], count)
            total = 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), series.buckets, strict=True):
                total += count
                buckets.append((bound, total))
            durations.add_metric([operation_id], buckets, series.seconds)
        yield requests
        yield durations
        yield GaugeMetricFamily(
            "threadcluster_http_requests_in_flight", "Requests being answered right now.", self.in_flight
        )
        yield CounterMetricFamily(
            "threadcluster_http_lane_requests", "Commands that took the short way around the HTTP library.", self.lane
        )
        if self.capacity is not None:
            yield from _families(self.capacity)


def _families(capacity: Capacity) -> Iterator[Metric]:
    """Connections and bytes that one port holds, and how many it dropped or refused at their limits."""
    held = GaugeMetricFamily("threadcluster_http_held", "Connections and bytes held for clients.", labels=["what"])
    held.add_metric(["connections"], len(capacity.clients))
    held.add_metric(["body_bytes"], capacity.body_bytes)
    held.add_metric(["answer_bytes"], capacity.answer_bytes)
    yield held
    dropped = CounterMetricFamily(
        "threadcluster_http_dropped_connections",
        "Connections that waited for their clients and were dropped, by the bound that was reached.",
        labels=["bound"],
    )
    refused = CounterMetricFamily(
        "threadcluster_http_overloaded", "Requests and connections answered 503, by the bound.", labels=["bound"]
    )
    for family, counts in ((dropped, capacity.dropped), (refused, capacity.refused)):
        for bound, count in counts.items():
            family.add_metric([bound], count)
        yield family
    yield CounterMetricFamily(
        "threadcluster_http_descriptors_exhausted",
        "How often there was no file descriptor for a new connection.",
        capacity.exhausted,
    )
