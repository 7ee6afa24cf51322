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

    __slots__ = ("admitted", "future", "key_checked", "refused_by_journal", "request")

    def __init__(self, request: Request, future: "asyncio.Future[OwnerAnswer]") -> None:
        self.request = request
        self.future = future
        self.admitted = False
        self.key_checked: tuple[object, int] | None = None
        """The actor's memory of keys, and its sequence number, when the journal was asked for this ask's key."""
        self.refused_by_journal = 0

    @property
    def over(self) -> bool:
        """Whether it was answered, or nobody waits any more."""
        return self.future.done()

    def answer(self, answer: OwnerAnswer) -> None:
        """Answer, unless that was done before."""
        if not self.future.done():
            self.future.set_result(answer)

    def not_here(self, owner: str | None, epoch: int) -> None:
        """Nothing of it was stored, and another worker should be asked."""
        self.answer(Moved(owner, epoch))

    def expire(self) -> None:
        """The budget has run out."""
        self.answer(UNKNOWN if self.admitted else NOT_SERVED)


class Deadlines:
    """Ends asks whose budget has run out, at most a bucket (0.1 s) late: no timer of its own for each."""

    def __init__(self) -> None:
        self._buckets: dict[int, list[Ask]] = {}
        self._due = 0

    def add(self, ask: Ask, deadline: float) -> None:
        """Watch an ask until ``deadline`` (loop time, seconds)."""
        number = int(deadline / _BUCKET_S) + 1
        bucket = self._buckets.get(number)
        if bucket is None:
            self._buckets[number] = [ask]
        else:
            bucket.append(ask)

    def sweep(self, now: float) -> None:
        """End what is due at ``now`` (loop time, seconds)."""
        due = int(now / _BUCKET_S)
        for number in [number for number in self._buckets if number <= due]:
            for ask in self._buckets.pop(number):
                if not ask.future.done():
                    ask.expire()
