"""Which events of a stream came before: memory of a bounded number of threads, without I/O.

A stream's events come in order within a thread, so the newest event of each thread is enough.
"""

from collections import OrderedDict
from typing import Final, NamedTuple

THREADS: Final = 100_000
"""Threads that are remembered, about 20 MB: several times as many as a cluster writes to in the seconds that a resume repeats."""


class _Newest(NamedTuple):
    sequence_nr: int
    epoch: int
    resets: int


class SeenEvents:
    """The newest event of each thread; the thread that was silent for longest is forgotten first."""

    def __init__(self, threads: int = THREADS) -> None:
        self._threads = threads
        self._newest: OrderedDict[str, _Newest] = OrderedDict()
        self._resets = 0

    def add(self, thread_id: str, sequence_nr: int, epoch: int) -> bool:
        """Record an event; False when it came before."""
        if self._known(thread_id, sequence_nr, epoch):
            return False
        self._newest[thread_id] = _Newest(sequence_nr, epoch, self._resets)
        self._newest.move_to_end(thread_id)
        if len(self._newest) > self._threads:
            self._newest.popitem(last=False)
        return True

    def reset(self) -> None:
        """The history may have lost its newest events: the numbers after them may come again, under another epoch."""
        self._resets += 1

    def _known(self, thread_id: str, sequence_nr: int, epoch: int) -> bool:
        newest = self._newest.get(thread_id)
        if newest is None:
            return False
        if epoch == newest.epoch:
            return sequence_nr <= newest.sequence_nr
        # Epochs only grow in one history.  After a reset a lower epoch may be of the other history: not known is safe.
        return epoch < newest.epoch and newest.resets == self._resets
