"""Tasks of a process, as generators: each step is an event, held while the process is paused, lost when it is killed.

A generator yields what it waits for (`Wait`): something that is armed with the task, and resumes it once.
"""

from collections.abc import Callable, Generator
from typing import Protocol, TypeVar

from tests.simulation.clock import Clocks, Timeline


class LinkFault(Exception):
    """A session is lost, or did not answer in time: `shard_worker.database.connection.CONNECTION_ERRORS`."""


class Wait(Protocol):
    """Something to wait for."""

    def arm(self, task: "Task") -> None:
        """Arrange that the task is resumed once."""


T = TypeVar("T")
Work = Generator[Wait, object, T]


class Process:
    """Something with clocks that can be paused and killed."""

    def __init__(self, timeline: Timeline, clocks: Clocks, name: str) -> None:
        self.timeline = timeline
        self.clocks = clocks
        self.name = name
        self.alive = True
        self.paused = False
        self._held: list[Callable[[], None]] = []

    def mono(self) -> float:
        """Its monotonic clock."""
        return self.clocks.monotonic(self.timeline.now)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call after some of its own time, when it is not paused then."""
        self.timeline.after(self.clocks.true_s(seconds), lambda: self.deliver(call))

    def deliver(self, call: Callable[[], None]) -> None:
        """Something reaches the process."""
        if self.paused:
            self._held.append(call)
        elif self.alive:
            call()

    def pause(self) -> None:
        """From now on nothing happens in it."""
        self.paused = True

    def go_on(self) -> None:
        """The events that reached it meanwhile happen, in order."""
        self.paused = False
        held, self._held = self._held, []
        for number, call in enumerate(held):
            if self.paused:
                self._held = held[number:] + self._held
                return
            if self.alive:
                call()


class Task:
    """One generator of a process."""

    __slots__ = ("_ended", "_turn", "_work", "cleanup", "process")

    def __init__(
        self, process: Process, work: Work[None], ended: Callable[[Exception | None], None] | None = None
    ) -> None:
        self.process = process
        self.cleanup: Callable[[], None] | None = None
        """Called when the task is cancelled while it waits."""
        self._work: Work[None] | None = work
        self._turn = 0
        self._ended = ended
        self._step(None, None)

    @property
    def turn(self) -> int:
        """The number of the present wait: a resumption of another is too late."""
        return self._turn

    def resume(self, turn: int, value: object = None, error: Exception | None = None) -> None:
        """End a wait."""
        if turn == self._turn and self._work is not None and self.process.alive:
            self._step(value, error)

    def cancel(self) -> None:
        """Stop where it waits."""
        work, self._work = self._work, None
        self._turn += 1
        if work is not None:
            work.close()

    def _step(self, value: object, error: Exception | None) -> None:
        self._turn += 1
        work = self._work
        assert work is not None
        turn = self._turn
        try:
            wait = work.throw(error) if error is not None else work.send(value)
        except StopIteration:
            self._work = None
            if self._ended is not None:
                self._ended(None)
            return
        except Exception as raised:
            self._work = None
            if self._ended is None:
                raise
            self._ended(raised)
            return
        if turn == self._turn:
            wait.arm(self)


class Sleep:
    """Wait for some of the process's time."""

    __slots__ = ("_seconds",)

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def arm(self, task: Task) -> None:
        turn = task.turn
        task.process.later(self._seconds, lambda: task.resume(turn))


class Signal:
    """Wait until it is set, or for ``most_s``."""

    __slots__ = ("_set", "_task", "_turn", "most_s")

    def __init__(self) -> None:
        self._set = False
        self._task: Task | None = None
        self._turn = 0
        self.most_s: float | None = None

    def set(self) -> None:
        """Wake the task that waits, or the next one that does."""
        task, self._task = self._task, None
        if task is None:
            self._set = True
        else:
            turn = self._turn
            # Never at once: the caller goes on first, as on an event loop.
            task.process.later(0.0, lambda: task.resume(turn))

    def arm(self, task: Task) -> None:
        turn = task.turn
        most_s = 0.0 if self._set else self.most_s
        self._set = False
        if most_s is None or most_s > 0.0:
            self._task, self._turn = task, turn
        if most_s is not None:
            task.process.later(most_s, lambda: task.resume(turn))
