"""Counts the handoffs that a worker takes part in, over all its incarnations."""

from bisect import bisect_left
from typing import Final

PAUSES_MS: Final = (1.0, 2.5, 5.0, 10.0, 20.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0)
"""Upper bounds of the classes in which `HandoffMetrics.pauses` counts."""


class HandoffMetrics:
    """Plain counters; one event loop only."""

    __slots__ = ("aborted", "completed", "paused_ms", "pauses", "takeovers")

    def __init__(self) -> None:
        self.completed = 0
        """Handoffs that the database recorded."""
        self.aborted = 0
        """Handoffs that came to nothing; the shard was served on here."""
        self.takeovers = 0
        """Incarnations of others that were fenced from here."""
        self.pauses = [0] * (len(PAUSES_MS) + 1)
        self.paused_ms = 0.0

    def paused(self, pause_ms: float) -> None:
        """A handoff stopped its shard for this time."""
        self.pauses[bisect_left(PAUSES_MS, pause_ms)] += 1
        self.paused_ms += pause_ms
