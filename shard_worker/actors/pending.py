"""One request on its way through this worker, and the clock that ends it.

A `PendingRequest` is answered exactly once.  Its answer when the budget runs out depends on one bit: until the request
is *admitted* (an event of the request is queued for the journal) nothing was stored; after that, the outcome is
unknown.
"""

from typing import Final, Protocol

import msgspec

from shard_worker.contract import Moved, OwnerAnswer, Request, Unavailable, UnavailableCode

_BUCKET_S: Final = 0.1
_ASK_BYTES: Final = 1024
"""Bytes that a waiting request takes beside its contents: the ask, its slot, the task of its connection."""

NOT_SERVED: Final = Unavailable(UnavailableCode.SHARD_UNAVAILABLE, "the shard is not being served right now")
UNKNOWN: Final = Unavailable(
    UnavailableCode.OUTCOME_UNKNOWN, "the outcome is not known; ask again with the same Idempotency-Key"
)


_encode: Final = msgspec.msgpack.Encoder().encode


def bytes_of(request: Request) -> int:
    """About how many bytes a request takes while it waits."""
    return _ASK_BYTES + len(_encode(request))


class AnswerSlot(Protocol):
    """Where an answer is awaited: a future, or what delivers the answer at once.  ``set_result`` must not raise, nor call an actor."""

    def done(self) -> bool: ...

    def set_result(self, answer: OwnerAnswer, /) -> None: ...


class PendingBytes(Protocol):
    """Counts bytes of requests that wait to be decided: those of the worker, or those of one thread."""

    pending_bytes: int


class PendingRequest:
    """A request, its answer to be, and what is known of its storage.  ``deadline`` is loop time, seconds."""

    __slots__ = (
        "admitted",
        "deadline",
        "key_checked",
        "key_doubted",
        "refused_by_journal",
        "request",
        "slot",
        "stashed",
        "watched",
    )

    def __init__(self, request: Request, slot: AnswerSlot, deadline: float) -> None:
        self.request = request
        self.slot = slot
        self.deadline = deadline
        self.admitted = False
        self.key_checked: tuple[object, int] | None = None
        """The actor's memory of keys, and its sequence number, when the journal was asked for this ask's key."""
        self.key_doubted = False
        """Another key of its thread turned out to be in the journal already: ask for this one before deciding."""
        self.refused_by_journal = 0
        self.stashed: tuple[PendingBytes, PendingBytes | None, int] | None = None
        """Where the bytes of the request are counted while it waits to be decided."""
        self.watched: set[Expiring] | None = None
        """The bucket of `TimerWheel` it leaves when it is answered."""

    @property
    def done(self) -> bool:
        """Whether the request was answered or cancelled."""
        return self.slot.done()

    def answer(self, answer: OwnerAnswer) -> None:
        """Answer, unless that was done before."""
        if not self.slot.done():
            self.slot.set_result(answer)
            if self.watched is not None:
                self.watched.discard(self)
            if self.stashed is not None:
                self._drop_request()

    def stash(self, worker: PendingBytes, thread: PendingBytes | None = None) -> None:
        """Count the bytes of the request, which waits to be decided, until `unstash` or the answer."""
        if self.stashed is None and not self.done:
            size = bytes_of(self.request)
            self.stashed = (worker, thread, size)
            worker.pending_bytes += size
            if thread is not None:
                thread.pending_bytes += size

    def unstash(self) -> None:
        """Count the bytes no more: the request is being decided, or is over."""
        if self.stashed is not None:
            worker, thread, size = self.stashed
            self.stashed = None
            worker.pending_bytes -= size
            if thread is not None:
                thread.pending_bytes -= size

    def _drop_request(self) -> None:
        self.unstash()
        del self.request  # the queue that holds the ask may be read much later, and a request may take 1 MiB

    def redirect(self, owner: str | None, epoch: int) -> None:
        """Nothing of it was stored, and another worker should be asked."""
        self.answer(Moved(owner, epoch))

    def expire(self) -> None:
        """The budget has run out."""
        self.answer(UNKNOWN if self.admitted else NOT_SERVED)
        if self.stashed is not None:  # the client had gone before
            self._drop_request()


class Expiring(Protocol):
    """A request that waits, in whatever place."""

    watched: "set[Expiring] | None"

    def expire(self) -> None:
        """The budget has run out."""


class TimerWheel:
    """Ends requests whose budget has run out, at most a bucket (0.1 s) late: no timer of its own for each.

    Holds nothing that was answered: kept to the end of their budgets, answered asks would be most of what a busy
    worker has in memory, and what its garbage collections take long for.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, set[Expiring]] = {}

    def __len__(self) -> int:
        return sum([len(bucket) for bucket in self._buckets.values()])

    def add(self, ask: Expiring, deadline: float) -> None:
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
