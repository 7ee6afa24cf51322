"""When which worker of a cluster is asked next: pure.

One worker, the reference, is asked often, and shows by its digest whether anything changed; the others are asked for their
own state at longer intervals.  A worker that does not answer is asked less and less often, and a worker whose pod is not
ready, or ends, is asked rarely after a while.
"""

from enum import Enum
from typing import Final, NamedTuple


class Pace(Enum):
    """How soon a change of a cluster is to be seen: the pauses of the reference, and of the others, in seconds."""

    REST = (2.0, 20.0)
    WAITING = (0.5, 1.0)
    MOVING = (0.1, 0.5)
    AWAY = (1.0, 10.0)
    """Without a database nothing is to be done, and hundreds of clusters may have lost the same one."""


RARELY_AFTER_S: Final = 30.0
"""Time for which a worker that is not ready, or ends, is asked as the others: longer than a start or a drain takes."""
RARELY_S: Final = 15.0
BACK_OFF_FIRST_S: Final = 0.25
BACK_OFF_LAST_S: Final = 5.0
"""Longest pause before a silent worker of a ready pod is asked again: a network that comes back is noticed within it."""
_EACH_S: Final = 0.02
"""Share of each worker in the pause of the others: the workers of a large cluster are asked in turn, fifty a second."""
_DOUBLED_MOST: Final = 10


class Asked(NamedTuple):
    """One worker, as far as its next question follows from it."""

    ready: bool
    """Its pod is ready, and is not being deleted."""
    unready_for_s: float
    """How long that has not been so."""
    failures: int
    """Questions without an answer since the last answer."""


def pause_s(worker: Asked, pace: Pace, *, reference: bool, workers: int) -> float:
    """The pause between the last question to a worker and the next one."""
    rarely = not worker.ready and worker.unready_for_s >= RARELY_AFTER_S
    if worker.failures:
        doubled = BACK_OFF_FIRST_S * 2.0 ** min(worker.failures - 1, _DOUBLED_MOST)
        return max(RARELY_S, doubled) if rarely else min(BACK_OFF_LAST_S, doubled)
    if rarely:
        return RARELY_S
    often_s, others_s = pace.value
    return often_s if reference else max(others_s, workers * _EACH_S)


def plan_pause_s(refusals: int) -> float:
    """The pause between a plan that the workers did not take and the next one, after as many in a row.

    The first refusal often means that another writer was faster, and the answer that is read next makes a better plan.
    """
    if refusals <= 1:
        return 0.0
    return min(BACK_OFF_LAST_S, BACK_OFF_FIRST_S * 2.0 ** min(refusals - 2, _DOUBLED_MOST))


def at_once(*, answered: bool, silent: bool) -> int:
    """How many workers of a cluster may be asked at the same time.

    A cluster none of whose workers answers costs a time-out each: it must leave the sockets to the others.
    """
    if silent:
        return 2
    return 32 if answered else 4
