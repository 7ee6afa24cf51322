"""Which threads are in memory, and which leaves first: the least recently asked.

The reference passivated by a timer an actor.  Here one ordered map serves all: a thread that is asked moves to its
end, so the idle ones are at its front, and all limits (idle time, number, bytes) are kept by looking there.  Bytes are
estimates, from how much a state holds; a thread at its limits has 3.4 MB, a usual one 15 kB.
"""

from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

from shard_worker.domain.ids import ThreadId
from shard_worker.domain.thread import Thread
from shard_worker.memory import MemoryBudget

# Measured with tracemalloc on CPython 3.11, rounded up; each message with a sender, a reply and numbers of its own.
_ACTOR_BYTES: Final = 3_000
_ACCOUNT_BYTES: Final = 110
_MESSAGE_BYTES: Final = 430
_REMOVED_BYTES: Final = 130
_BUSY_MOST: Final = 64
"""Busy threads that one search for an idle one passes: after a takeover thousands are being loaded."""


def weight_of(state: Thread | None) -> int:
    """About how many bytes an actor with this state takes."""
    if state is None:
        return _ACTOR_BYTES
    return (
        _ACTOR_BYTES
        + (len(state.members) + len(state.administrators)) * _ACCOUNT_BYTES
        + len(state.messages) * _MESSAGE_BYTES
        + len(state.removed) * _REMOVED_BYTES
    )


class Resident(Protocol):
    """A resident actor as its passivation sees it."""

    thread_id: ThreadId
    state: Thread | None
    last_used_at: float
    weight: int
    """Its bytes in memory, estimated."""

    @property
    def busy(self) -> bool:
        """Whether the actor must stay resident."""

    def passivated(self) -> None:
        """The actor is resident no more."""


ResidentT = TypeVar("ResidentT", bound=Resident)


class LruPassivation(Generic[ResidentT]):
    """All resident actors of a worker, the least recently asked first.  ``clock`` gives seconds, monotonic."""

    def __init__(self, *, most: int, idle_s: float, clock: Callable[[], float], memory: MemoryBudget) -> None:
        self._most = most
        self._memory = memory
        self._idle_s = idle_s
        self._clock = clock
        self._actors: OrderedDict[ThreadId, ResidentT] = OrderedDict()
        self.passivated = 0
        self.bytes = 0
        """Of all resident threads, estimated."""

    def __len__(self) -> int:
        return len(self._actors)

    def add(self, actor: ResidentT) -> None:
        """A thread becomes resident."""
        before = self._actors.get(actor.thread_id)
        if before is not None:
            self.remove(before)
        actor.last_used_at = self._clock()
        self._actors[actor.thread_id] = actor
        actor.weight = _ACTOR_BYTES
        self._count(_ACTOR_BYTES)

    def weigh(self, actor: ResidentT) -> None:
        """A resident thread has grown, or shrunk."""
        if self._actors.get(actor.thread_id) is actor:
            weight = weight_of(actor.state)
            self._count(weight - actor.weight)
            actor.weight = weight

    def _count(self, more: int) -> None:
        self.bytes += more
        self._memory.take(more)

    def get(self, thread_id: ThreadId) -> ResidentT | None:
        """The actor of a thread, or None when the thread is not resident."""
        return self._actors.get(thread_id)

    def touch(self, actor: ResidentT) -> None:
        """A resident thread is asked."""
        actor.last_used_at = self._clock()
        self._actors.move_to_end(actor.thread_id)

    def remove(self, actor: ResidentT) -> None:
        """A thread's shard is gone, or it could not be loaded."""
        if self._actors.get(actor.thread_id) is actor:
            del self._actors[actor.thread_id]
            self._count(-actor.weight)

    def evict_one(self) -> bool:
        """Have at least one place free, by passivating idle threads; False when all that could leave are busy."""
        while self.full:
            if not self._passivate_first(self._clock()):
                return False
        return True

    def now(self) -> float:
        """The time by which threads are touched."""
        return self._clock()

    @property
    def full(self) -> bool:
        """Whether one more would make another leave."""
        return len(self._actors) >= self._most or self._memory.exceeded

    def trim(self) -> None:
        """Passivate the least recently asked threads until the memory budget is kept."""
        while self._memory.exceeded and self._passivate_first(self._clock()):
            pass

    def sweep(self) -> None:
        """Passivate actors that had no request for the idle time, and actors beyond the memory budget."""
        self.trim()
        before = self._clock() - self._idle_s
        while self._actors and next(iter(self._actors.values())).last_used_at <= before:
            if not self._passivate_first(before):
                return

    def _passivate_first(self, before: float) -> bool:
        """Passivate the least recently asked thread that is not busy, not touched after ``before``."""
        for actor in list(islice(self._actors.values(), _BUSY_MOST)):
            if actor.last_used_at > before:
                return False
            if not actor.busy:
                break
            # A busy thread is in use now: as the last it does not stand in the way of the next search.
            actor.last_used_at = self._clock()
            self._actors.move_to_end(actor.thread_id)
        else:
            return False
        self.remove(actor)
        actor.passivated()
        self.passivated += 1
        return True
