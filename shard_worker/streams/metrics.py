"""Counters of a worker's streams."""


class StreamMetrics:
    """Counts since the worker's start."""

    __slots__ = ("delivered", "dropped", "opened", "refused")

    def __init__(self) -> None:
        self.opened = 0
        self.delivered = 0
        """Events written to streams."""
        self.dropped = 0
        """Streams that ended because their clients did not read."""
        self.refused = 0
        """Streams refused for a cap."""
