"""Turn budget: the part of one turn of the event loop that bodies may take together.

The worker's lease lasts half a second and is renewed on the same loop, so no turn may be long, whatever clients send.
A body that takes more than a piece pauses between pieces.  Because 64 bodies that each take one piece would make one
long turn, all of them share one allowance: a body whose turn begins when the allowance is used up waits for the next.

Time is measured by the wall clock, which costs a third of the thread's CPU clock: on a busy machine bodies pause
more often than they need to, never less often.
"""

import asyncio
from time import perf_counter
from types import TracebackType
from typing import Final, Self

TURN_S: Final = 0.010
"""Seconds that bodies together may take of one turn; the piece that crosses it is finished."""
PIECE_S: Final = 0.005
"""Seconds after which a body pauses at its next opportunity."""


class TurnBudget:
    """The allowance of one event loop."""

    def __init__(self) -> None:
        self._spent_s = 0.0

    async def admit(self) -> None:
        """Return in a turn that has time left; at once when this one has."""
        while self._spent_s >= TURN_S:
            await asyncio.sleep(0)

    def spend(self, seconds: float) -> None:
        """Take time from the present turn's allowance."""
        if self._spent_s == 0.0:
            asyncio.get_running_loop().call_soon(self._renew)
        self._spent_s += seconds

    def _renew(self) -> None:
        self._spent_s = 0.0


class Piece:
    """The time that one body takes: ``with Piece(budget) as piece``, and `pause` between two steps of its work."""

    __slots__ = ("_begun", "_budget")

    def __init__(self, budget: TurnBudget) -> None:
        self._budget = budget
        self._begun = 0.0

    def __enter__(self) -> Self:
        self._begun = perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._budget.spend(perf_counter() - self._begun)

    async def pause(self) -> None:
        """Let the loop turn when this body has taken a piece of its time."""
        taken_s = perf_counter() - self._begun
        if taken_s >= PIECE_S:
            self._budget.spend(taken_s)
            await asyncio.sleep(0)
            await self._budget.admit()
            self._begun = perf_counter()
