"""A work queue of clusters: each is worked on by one at a time, again when it was marked meanwhile, later when it failed.

The idea is client-go's: a mark is no message, only "look again", so a hundred marks of a cluster that is being worked on
are one more look.
"""

import asyncio
import heapq
import logging
import random
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

log = logging.getLogger(__name__)

_FIRST_BACK_OFF_S: Final = 0.2
_LAST_BACK_OFF_S: Final = 30.0
_LAST_TRANSIENT_S: Final = 5.0
"""The longest pause after a `TransientError`: an outside world that is well again is noticed within it."""
_DOUBLED_MOST: Final = 16
"""Maximum number of doublings: the bound is reached well before, and an unbounded power would overflow a float."""

K = TypeVar("K", bound=Hashable)

Work = Callable[[K], Awaitable[float | None]]
"""Works on a key; in how many seconds it wants to be called again, if nothing happens before; None: only if it does."""


class _Ready(Generic[K]):
    """The keys whose work may begin, in groups that take turns: a group of a thousand keys delays another's by one."""

    def __init__(self, group: Callable[[K], Hashable], most: int) -> None:
        self._group = group
        self._most = most
        """How many keys of one group may be worked on at the same time."""
        self._groups: OrderedDict[Hashable, deque[K]] = OrderedDict()
        self._running: Counter[Hashable] = Counter()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return sum(len(keys) for keys in self._groups.values())

    def put(self, key: K, *, first: bool = False) -> None:
        """A key is ready; ``first``: before the others of its group."""
        keys = self._groups.setdefault(self._group(key), deque())
        if first:
            keys.appendleft(key)
        else:
            keys.append(key)
        self._changed.set()

    def advance(self, key: K) -> None:
        """A key that is ready is the next one of its group."""
        keys = self._groups[self._group(key)]
        keys.remove(key)
        keys.appendleft(key)

    async def take(self) -> K:
        """The first key of the group whose turn it is; call `done` when the work has ended."""
        while True:
            for group, keys in self._groups.items():
                if self._running[group] >= self._most:
                    continue
                key = keys.popleft()
                del self._groups[group]
                if keys:
                    self._groups[group] = keys  # at the end: the other groups are next
                self._running[group] += 1
                return key
            self._changed.clear()
            await self._changed.wait()

    def done(self, key: K) -> None:
        """The work on a key has ended."""
        group = self._group(key)
        self._running[group] -= 1
        if not self._running[group]:
            del self._running[group]
        self._changed.set()


class WorkQueue(Generic[K]):
    """Keys to work on.

    ``workers`` bounds how many are worked on at a time, ``of_one_group`` how many of them are of one ``group``: work that
    waits for a slow part of the outside world leaves workers to the other groups.
    """

    def __init__(
        self,
        work: Work[K],
        *,
        workers: int,
        group: Callable[[K], Hashable] = lambda _: None,
        of_one_group: int | None = None,
    ) -> None:
        self._work = work
        self._count = workers
        self._ready: _Ready[K] = _Ready(group, of_one_group or workers)
        self._waiting: set[K] = set()
        """In `_ready`, not begun."""
        self._running: set[K] = set()
        self._again: dict[K, bool] = {}
        """Marked while being worked on, and whether the key then comes first."""
        self._later: list[tuple[float, int, K]] = []
        self._due: dict[K, int] = {}
        """The entry of `_later` that counts for a key."""
        self._entries = 0
        self._failures: dict[K, int] = {}
        self._rescheduled = asyncio.Event()

    @property
    def depth(self) -> int:
        """How many keys wait for their work to begin; those that are due later do not count."""
        return len(self._waiting)

    def add(self, key: K, *, first: bool = False) -> None:
        """Something may have changed.  ``first``: a person waits for it, so that it comes before the others of its group."""
        if key in self._running:
            self._again[key] = first or self._again.get(key, False)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._due.pop(key, None)
            self._ready.put(key, first=first)
        elif first:
            self._ready.advance(key)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._clock(), name="work-queue-clock")
            for number in range(self._count):
                tasks.create_task(self._worker(), name=f"work-queue-{number}")

    async def _worker(self) -> None:
        while True:
            key = await self._ready.take()
            self._waiting.discard(key)
            self._running.add(key)
            requeue_after_s: float | None
            try:
                requeue_after_s = await self._work(key)
                self._failures.pop(key, None)
            except Exception as error:
                failures = self._failures[key] = self._failures.get(key, 0) + 1
                doubled = 2.0 ** min(failures - 1, _DOUBLED_MOST)
                most_s = _LAST_TRANSIENT_S if isinstance(error, TransientError) else _LAST_BACK_OFF_S
                requeue_after_s = min(most_s, _FIRST_BACK_OFF_S * doubled) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
                log.warning(
                    "not reconciled, trying again",
                    exc_info=not isinstance(error, TransientError),
                    extra={"key": str(key), "cause": str(error), "in_s": round(requeue_after_s, 1)},
                )
            finally:
                self._running.discard(key)
                self._ready.done(key)
            if key in self._again:
                self.add(key, first=self._again.pop(key))
            elif requeue_after_s is not None:
                self._mark_later(key, requeue_after_s)

    def _mark_later(self, key: K, after_s: float) -> None:
        self._entries += 1
        self._due[key] = self._entries
        heapq.heappush(self._later, (time.monotonic() + after_s, self._entries, key))
        self._rescheduled.set()

    async def _clock(self) -> None:
        while True:
            now = time.monotonic()
            while self._later and self._later[0][0] <= now:
                _, entry, key = heapq.heappop(self._later)
                if self._due.get(key) == entry:
                    self.add(key)
            self._rescheduled.clear()
            wait_s = self._later[0][0] - now if self._later else None
            try:
                async with asyncio.timeout(wait_s):
                    await self._rescheduled.wait()
            except TimeoutError:
                continue


class TransientError(Exception):
    """A fault of the outside world: it is logged without a stack."""
