"""One request on its way through this worker, and the clock that ends it.

An `Ask` is answered exactly once.  What may be said when its budget runs out depends on one bit: until an ask is
*admitted* (an event of it is queued for the journal) nothing was stored; after that, nobody knows.
"""

import asyncio
from typing import Final

from shard_worker.contract import Moved, OwnerAnswer, Request, Unavailable, UnavailableCode

_BUCKET_S: Final = 0.1

NOT_SERVED: Final = Unavailable(UnavailableCode.SHARD_UNAVAILABLE, "the shard is not being served right now")
UNKNOWN: Final = Unavailable(
    UnavailableCode.OUTCOME_UNKNOWN, "the outcome is not known; ask again with the same Idempotency-Key"
)


class Ask:
    """A request, its answer to be, and what is known of its storage."""

    __slots__ = ("admitted", "future", "key_checked", "key_doubted", "refused_by_journal", "request", "watched")

    def __init__(self, request: Request, future: "asyncio.Future[OwnerAnswer]") -> None:
        self.request = request
        self.future = future
        self.admitted = False
        self.key_checked: tuple[object, int] | None = None
        """The actor's memory of keys, and its sequence number, when the journal was asked for this ask's key."""
        self.key_doubted = False
        """Another key of its thread turned out to be in the journal already: ask for this one before deciding."""
        self.refused_by_journal = 0
        self.watched: set[Ask] | None = None
        """The bucket of `Deadlines` it leaves when it is answered."""

    @property
    def over(self) -> bool:
        """Whether it was answered, or nobody waits any more."""
        return self.future.done()

    def answer(self, answer: OwnerAnswer) -> None:
        """Answer, unless that was done before."""
        if not self.future.done():
            self.future.set_result(answer)
            if self.watched is not None:
                self.watched.discard(self)

    def not_here(self, owner: str | None, epoch: int) -> None:
        """Nothing of it was stored, and another worker should be asked."""
        self.answer(Moved(owner, epoch))

    def expire(self) -> None:
        """The budget has run out."""
        self.answer(UNKNOWN if self.admitted else NOT_SERVED)


class Deadlines:
    """Ends asks whose budget has run out, at most a bucket (0.1 s) late: no timer of its own for each.

    Holds nothing that was answered: kept to the end of their budgets, answered asks would be most of what a busy
    worker has in memory, and what its garbage collections take long for.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, set[Ask]] = {}

    def __len__(self) -> int:
        return sum([len(bucket) for bucket in self._buckets.values()])

    def add(self, ask: Ask, deadline: float) -> None:
        """Watch an ask until ``deadline`` (loop time, seconds)."""
        number = int(deadline / _BUCKET_S) + 1
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = set()
        bucket.add(ask)
        ask.watched = bucket

    def sweep(self, now: float) -> None:
        """End what is due at ``now`` (loop time, seconds)."""
        due = int(now / _BUCKET_S)
        for number in [number for number in self._buckets if number <= due]:
            for ask in list(self._buckets.pop(number)):
                ask.expire()
