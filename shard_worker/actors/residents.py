"""Which threads are in memory, and which leaves first: the least recently asked.

The reference passivated by a timer an actor.  Here one ordered map serves all: a thread that is asked moves to its
end, so the idle ones stand at its front, and both limits (idle time, number) are kept by looking there.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from shard_worker.domain.ids import ThreadId

if TYPE_CHECKING:
    from shard_worker.actors.shard import Shard
    from shard_worker.actors.thread_actor import ThreadActor


class Residents:
    """All resident actors of a worker, the least recently asked first.  ``clock`` gives seconds, monotonic."""

    def __init__(self, *, most: int, idle_s: float, clock: Callable[[], float]) -> None:
        self._most = most
        self._idle_s = idle_s
        self._clock = clock
        self._actors: OrderedDict[ThreadId, ThreadActor] = OrderedDict()
        self.passivated = 0

    def __len__(self) -> int:
        return len(self._actors)

    def add(self, actor: "ThreadActor") -> None:
        """A thread becomes resident."""
        actor.touched = self._clock()
        self._actors[actor.thread_id] = actor

    def shard_of(self, thread_id: ThreadId) -> "Shard | None":
        """The shard in which a thread is resident, or None when it is not: cheaper than hashing its id."""
        actor = self._actors.get(thread_id)
        return None if actor is None else actor.shard

    def touch(self, actor: "ThreadActor") -> None:
        """A resident thread is asked."""
        actor.touched = self._clock()
        self._actors.move_to_end(actor.thread_id)

    def remove(self, actor: "ThreadActor") -> None:
        """A thread's shard is gone, or it could not be loaded."""
        if self._actors.get(actor.thread_id) is actor:
            del self._actors[actor.thread_id]

    def make_room(self) -> bool:
        """Have at least one place free, by passivating an idle thread; False when every resident one is busy."""
        return len(self._actors) < self._most or self._passivate_first(self._clock())

    def now(self) -> float:
        """The time by which threads are touched."""
        return self._clock()

    @property
    def full(self) -> bool:
        """Whether one more would make another leave."""
        return len(self._actors) >= self._most

    def sweep(self) -> None:
        """Passivate what was not asked for the idle time."""
        before = self._clock() - self._idle_s
        while self._actors and next(iter(self._actors.values())).touched <= before:
            if not self._passivate_first(before):
                return

    def _passivate_first(self, before: float) -> bool:
        """Passivate the least recently asked thread that is not busy, not touched after ``before``."""
        for actor in self._actors.values():
            if actor.touched > before:
                return False
            if not actor.busy:
                break
        else:
            return False
        del self._actors[actor.thread_id]
        actor.shard.evict(actor)
        self.passivated += 1
        return True
