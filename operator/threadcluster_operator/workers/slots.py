"""Slots for requests that may last, shared fairly: by namespace, and in a namespace by cluster."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

Owner = tuple[str, str]
"""The cluster that a slot is used for: its namespace and name."""


class FairSlots:
    """At most ``total`` requests at a time.  A slot that becomes free goes to the namespace that uses the fewest."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._used: Counter[Owner] = Counter()
        self._used_by_namespace: Counter[str] = Counter()
        self._waiting: dict[Owner, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def slot(self, owner: Owner) -> AsyncIterator[None]:
        """Use one slot, once it is this cluster's turn."""
        if self._free:
            self._take(owner)
        else:
            await self._wait(owner)
        try:
            yield
        finally:
            self._give_back(owner)

    async def _wait(self, owner: Owner) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(owner)  # cancelled in the turn of the loop that gave it the slot
            raise

    def _take(self, owner: Owner) -> None:
        self._free -= 1
        self._used[owner] += 1
        self._used_by_namespace[owner[0]] += 1

    def _give_back(self, owner: Owner) -> None:
        self._free += 1
        self._used[owner] -= 1
        self._used_by_namespace[owner[0]] -= 1
        if not self._used[owner]:
            del self._used[owner]
        if not self._used_by_namespace[owner[0]]:
            del self._used_by_namespace[owner[0]]
        while self._waiting:
            # `min` takes the first of equals: the cluster that has waited the longest.
            following = min(self._waiting, key=lambda each: (self._used_by_namespace[each[0]], self._used[each]))
            turns = self._waiting.pop(following)
            turn = turns.popleft()
            if turns:
                self._waiting[following] = turns  # at the end: each cluster of a namespace in turn
            if not turn.done():
                self._take(following)
                turn.set_result(None)
                return
