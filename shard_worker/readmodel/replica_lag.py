"""How far a replica is behind its primary, by the primary's own clock of positions.

A replica's delay as it knows it (`pg_last_xact_replay_timestamp`) is large on an idle primary and small on a replica that hears
nothing.  Here the primary's WAL position is sampled; the lag of a replica is the age of the newest sample that it has replayed.
"""

from collections import deque
from typing import Final

LAG_MOST_S: Final = 5.0
"""Lag beyond which a replica is not asked."""


class LagTracker:
    """Samples of the primary's position; instants are seconds of any one clock, positions are bytes of WAL."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def sample(self, at: float, lsn: int) -> None:
        """The primary was at ``lsn`` no earlier than ``at``; samples come in the order of time."""
        while self._samples and self._samples[-1][1] >= lsn:
            self._samples.pop()  # an unchanged position, or that of an older history
        self._samples.append((at, lsn))
        while len(self._samples) > 1 and self._samples[1][0] < at - LAG_MOST_S:
            self._samples.popleft()

    def lag_s(self, now: float, replayed: int) -> float:
        """Age of the newest sample that a replica at ``replayed`` has; infinite when it has none."""
        newest = next((at for at, lsn in reversed(self._samples) if lsn <= replayed), None)
        return float("inf") if newest is None else now - newest
