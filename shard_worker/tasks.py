"""Background tasks: every task has a name and an owner, and no task ends without a report.

`BackgroundTasks` is the owner that a component holds.  It keeps two kinds of tasks.  A started task runs until the owner
closes: any other end is a failure, which the owner logs and reports at once.  A spawned task is one bounded job: it may
end, and the owner logs its exception.

Cancellation follows three rules.  The owner alone ends its started tasks.  A cancellation of the caller that waits for
tasks always reaches the caller.  A task that does not end after its cancellation is logged and cancelled again, because a
task can lose a cancellation that arrives in the same turn as the result it waits for.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

_SLOW_CANCEL_S: Final = 5.0
"""Time after which a cancelled task that still runs is logged and cancelled again; longer than any clean-up here takes."""


class TaskFailure(NamedTuple):
    """The unexpected end of a task."""

    name: str
    cause: BaseException

    def __str__(self) -> str:
        return f"{self.name}: {self.cause!r}"


class UnexpectedEnd(Exception):
    """A started task returned, or an outsider cancelled it."""


OnFailure = Callable[[TaskFailure], None]
"""Called in the turn of the loop that follows the failure; must not raise."""


class FirstFailure:
    """The first failure of several owners; its `report` is their `OnFailure`."""

    def __init__(self) -> None:
        self.failure: TaskFailure | None = None
        self._reported = asyncio.Event()

    def report(self, failure: TaskFailure) -> None:
        """Record a failure; later failures are often consequences of the first, and are only logged."""
        if self.failure is None:
            self.failure = failure
            self._reported.set()

    async def wait(self) -> TaskFailure:
        """Return the first failure as soon as there is one."""
        await self._reported.wait()
        assert self.failure is not None  # set before the event
        return self.failure


def log_only(_: TaskFailure) -> None:
    """For an owner whose failures end nothing else: the owner's log line is the report."""


class BackgroundTasks:
    """Owns the background tasks of one component."""

    def __init__(self, on_failure: OnFailure = log_only) -> None:
        self.on_failure = on_failure
        """Gets the failures of started tasks and of essential jobs."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._expected: set[asyncio.Task[Any]] = set()
        """Running tasks whose end is no longer unexpected."""
        self._cancelled: set[asyncio.Task[Any]] = set()
        """Running tasks that the owner cancelled; a second cancellation would end their clean-up."""
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[object, object, T], *, name: str) -> "asyncio.Task[T]":
        """Run a task that must not end before `close`; any earlier end is a failure."""
        task = self._create(work, name)
        task.add_done_callback(self._started_ended)
        return task

    def spawn(
        self,
        work: Coroutine[object, object, T],
        *,
        name: str,
        on_end: Callable[["asyncio.Task[T]"], object] | None = None,
        essential: bool = False,
    ) -> "asyncio.Task[T]":
        """Run a job that may end or be cancelled.

        The owner logs the job's exception; ``on_end`` gets the ended task instead, also a task that was cancelled before
        its first step.  The exception of an ``essential`` job is a failure, like the end of a started task.
        """
        task = self._create(work, name)
        task.add_done_callback(partial(self._spawned_ended, on_end, essential))
        return task

    async def close(self) -> None:
        """Cancel every task and wait until all have ended.

        Starts no more tasks.  May be called again, also while an earlier call waits or after that call was cancelled.  A
        task of this owner may call it: the caller is neither cancelled nor awaited, and its end is expected from then on.
        """
        self._closed = True
        # A task that is done already ended by itself in this turn: its callback, still to run, must report it.
        running = {task for task in self._tasks if not task.done()}
        self._expected |= running
        others = running - {asyncio.current_task()}
        for task in others - self._cancelled:
            task.cancel()
        self._cancelled |= others
        await _wait_ended(others)

    def _create(self, work: Coroutine[object, object, T], name: str) -> "asyncio.Task[T]":
        if self._closed:
            work.close()  # no warning that it was never awaited: the error says more
            raise RuntimeError(f"{name} cannot start: the owner of its tasks is closed")
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        return task

    def _forget(self, task: "asyncio.Task[Any]") -> bool:
        """Drop an ended task; whether its end was expected."""
        expected = task in self._expected
        for known in (self._tasks, self._expected, self._cancelled):
            known.discard(task)
        return expected

    def _started_ended(self, task: "asyncio.Task[Any]") -> None:
        if self._forget(task):
            _log_error(task)
            return
        if task.cancelled():
            cause: BaseException = UnexpectedEnd("cancelled, but not by its owner")
        else:
            cause = task.exception() or UnexpectedEnd("returned, but should run until its owner closes")
        self._fail(task.get_name(), cause)

    def _spawned_ended(
        self, on_end: Callable[["asyncio.Task[T]"], object] | None, essential: bool, task: "asyncio.Task[T]"
    ) -> None:
        expected = self._forget(task)
        if essential and not expected and not task.cancelled() and (error := task.exception()) is not None:
            self._fail(task.get_name(), error)
        elif on_end is None:
            _log_error(task)
        if on_end is not None:
            on_end(task)

    def _fail(self, name: str, cause: BaseException) -> None:
        log.critical("background task ended unexpectedly", exc_info=cause, extra={"task": name})
        self.on_failure(TaskFailure(name, cause))


def _log_error(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("background task failed", exc_info=error, extra={"task": task.get_name()})


async def cancel_and_wait(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel tasks and return when all have ended; their results and exceptions stay with them.

    When the caller is cancelled meanwhile, the cancellation reaches it at once: the tasks have theirs already, and end by
    themselves.  A task that calls this for itself is passed over.
    """
    others = set(tasks) - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await _wait_ended(others)


async def _wait_ended(cancelled: "set[asyncio.Task[Any]]") -> None:
    running = {task for task in cancelled if not task.done()}
    while running:
        _, running = await asyncio.wait(running, timeout=_SLOW_CANCEL_S)
        if running:
            log.warning(
                "cancelled tasks still run; cancelling again",
                extra={"tasks": sorted(task.get_name() for task in running), "after_s": _SLOW_CANCEL_S},
            )
        for task in running:
            task.cancel()


async def run_until(event: asyncio.Event, work: Coroutine[object, object, T], *, name: str) -> T | None:
    """The result of ``work``, or None when ``event`` is set before.  Raises what ``work`` raises.

    Returns or raises only once ``work`` has ended, so that it leaves nothing behind.  When both happen in one turn, the
    result or the exception of ``work`` counts.
    """
    task = asyncio.get_running_loop().create_task(work, name=name)
    waiting = asyncio.get_running_loop().create_task(event.wait(), name=f"{name}-stop")
    try:
        await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
        ended_by_itself = task.done()
    finally:
        # Also when the caller is cancelled.
        await cancel_and_wait(task, waiting)
    if not ended_by_itself and task.cancelled():
        return None
    return task.result()
