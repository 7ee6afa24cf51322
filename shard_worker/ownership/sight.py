"""The view of ownership that a worker goes by, and the bell that has it read again.

One reader (the steward) reads it; everybody else only looks at what was read, or rings and waits for the next reading.
"""

import asyncio
from contextlib import suppress

from shard_worker.ownership.owners import EMPTY, View


class Sight:
    """The last view, and who waits for the next."""

    def __init__(self) -> None:
        self.view: View = EMPTY
        self._bell = asyncio.Event()
        self._asked: asyncio.Future[None] | None = None
        self._turn: asyncio.Future[None] | None = None

    # --- for those who look

    def ring(self) -> None:
        """Something may have changed: have it read again soon."""
        self._bell.set()

    async def refresh(self) -> None:
        """Return when a reading that began after this call is over, or could not be made."""
        if self._asked is None:
            self._asked = asyncio.get_running_loop().create_future()
        self._bell.set()
        await asyncio.shield(self._asked)

    async def next_turn(self) -> None:
        """Return when the reader has next read and acted, or was stopped."""
        if self._turn is None:
            self._turn = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._turn)

    # --- for the reader

    def begin(self) -> "asyncio.Future[None] | None":
        """A reading begins; hand what this returns to `end`."""
        self._bell.clear()
        asked, self._asked = self._asked, None
        return asked

    def end(self, asked: "asyncio.Future[None] | None", view: View | None) -> None:
        """The reading is over; without a view it failed, and what was known stays."""
        if view is not None:
            self.view = view
        _tell(asked)

    def turned(self) -> None:
        """What followed from the reading is done."""
        turn, self._turn = self._turn, None
        _tell(turn)

    def stopped(self) -> None:
        """Nobody reads any more, for now or for good: nobody may go on waiting."""
        self.end(self.begin(), None)
        self.turned()

    async def rest(self, most_s: float) -> None:
        """Return when the bell rings, or after ``most_s`` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await self._bell.wait()


def _tell(future: "asyncio.Future[None] | None") -> None:
    if future is not None and not future.done():
        future.set_result(None)
