"""Background tasks: owned until they end, and reported when they end unexpectedly."""

import asyncio
import logging

import pytest

from shard_worker import tasks as tasks_module
from shard_worker.tasks import BackgroundTasks, FirstFailure, TaskFailure, UnexpectedEnd, cancel_and_wait, run_until


class Failures:
    """The reports of an owner."""

    def __init__(self) -> None:
        self.failures: list[TaskFailure] = []

    def __call__(self, failure: TaskFailure) -> None:
        self.failures.append(failure)


async def run_always() -> None:
    """A task that only a cancellation ends."""
    await asyncio.Event().wait()


async def fail(error: Exception) -> None:
    """A task that fails in its second step."""
    await asyncio.sleep(0)
    raise error


async def turns(count: int = 5) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_failed_started_task_is_logged_once_and_reported_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line with name and cause, and one call of `on_failure`."""
    failed, cause = Failures(), ValueError("broken")
    owner = BackgroundTasks(failed)
    owner.start(fail(cause), name="sweep")
    await turns()
    assert failed.failures == [TaskFailure("sweep", cause)]
    assert [(record.levelno, record.__dict__["task"]) for record in caplog.records] == [(logging.CRITICAL, "sweep")]
    await owner.close()
    assert len(caplog.records) == 1


async def test_a_started_task_that_returns_is_a_failure() -> None:
    """A loop that ends in silence is as bad as one that breaks."""
    failed = Failures()
    owner = BackgroundTasks(failed)
    owner.start(turns(1), name="sweep")
    await turns()
    assert isinstance(failed.failures[0].cause, UnexpectedEnd)


async def test_a_started_task_that_an_outsider_cancels_is_a_failure() -> None:
    """Only the owner ends a started task."""
    failed = Failures()
    owner = BackgroundTasks(failed)
    owner.start(run_always(), name="sweep")
    next(task for task in asyncio.all_tasks() if task.get_name() == "sweep").cancel()
    await turns()
    assert isinstance(failed.failures[0].cause, UnexpectedEnd)


async def test_the_end_of_a_task_at_close_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    """A close is silent."""
    failed = Failures()
    owner = BackgroundTasks(failed)
    owner.start(run_always(), name="sweep")
    owner.spawn(run_always(), name="job", essential=True)
    await owner.close()
    assert not failed.failures
    assert not caplog.records
    assert len(owner) == 0


async def test_a_task_that_fails_in_the_turn_of_close_is_reported() -> None:
    """Its end is not the owner's doing, though its callback runs after `close` was called."""
    failed, gate = Failures(), asyncio.get_running_loop().create_future()
    owner = BackgroundTasks(failed)

    async def wait_and_fail() -> None:
        await gate
        raise ValueError("broken")

    owner.start(wait_and_fail(), name="sweep")
    await turns()
    gate.set_result(None)
    (task,) = owner._tasks
    await asyncio.sleep(0)
    assert task.done()
    assert not failed.failures  # the callback is still to run
    await owner.close()
    await turns()
    assert [failure.name for failure in failed.failures] == ["sweep"]


async def test_an_error_of_a_task_that_close_cancels_is_logged_and_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    """The component ends anyway; its error is not lost."""
    failed = Failures()
    owner = BackgroundTasks(failed)

    async def break_while_cancelled() -> None:
        try:
            await run_always()
        finally:
            raise ValueError("broken")

    owner.start(break_while_cancelled(), name="sweep")
    await turns()
    await owner.close()
    await turns()
    assert not failed.failures
    assert [record.message for record in caplog.records] == ["background task failed"]


async def test_the_exception_of_a_job_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A job without `on_end` never fails in silence."""
    failed = Failures()
    owner = BackgroundTasks(failed)
    owner.spawn(fail(ValueError("broken")), name="job")
    await turns()
    assert not failed.failures
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.__dict__["task"] == "job"
    assert record.exc_info is not None


async def test_an_essential_job_may_end_but_not_fail() -> None:
    """The return of an essential job is expected, its exception is a failure."""
    failed, cause = Failures(), ValueError("broken")
    owner = BackgroundTasks(failed)
    owner.spawn(turns(1), name="good", essential=True)
    owner.spawn(fail(cause), name="bad", essential=True)
    await turns()
    assert failed.failures == [TaskFailure("bad", cause)]


async def test_on_end_gets_also_a_job_that_was_cancelled_before_its_first_step(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Requests that wait for the job must hear of its end in each case."""
    owner = BackgroundTasks()
    ended: list[asyncio.Task[None]] = []
    owner.spawn(fail(ValueError("broken")), name="fails", on_end=ended.append)
    await turns()
    owner.spawn(run_always(), name="never-began", on_end=ended.append)
    await owner.close()
    await turns()
    assert [task.get_name() for task in ended] == ["fails", "never-began"]
    assert isinstance(ended[0].exception(), ValueError)
    assert ended[1].cancelled()
    assert not caplog.records  # `on_end` has the exception


async def test_a_closed_owner_starts_nothing() -> None:
    """Nothing would end such a task."""
    owner = BackgroundTasks()
    await owner.close()
    await owner.close()
    with pytest.raises(RuntimeError, match="late cannot start"):
        owner.start(run_always(), name="late")


async def test_close_waits_for_the_clean_up_and_a_second_close_does_not_end_it() -> None:
    """A second cancellation would break the clean-up off."""
    owner = BackgroundTasks()
    cleaned = []

    async def clean_up_slowly() -> None:
        try:
            await run_always()
        finally:
            await asyncio.sleep(0.05)
            cleaned.append(True)

    owner.start(clean_up_slowly(), name="slow")
    await turns()
    await asyncio.gather(owner.close(), owner.close())
    assert cleaned == [True]


async def test_a_cancelled_close_passes_the_cancellation_on_and_may_be_repeated() -> None:
    """The owner keeps what still runs for the next call."""
    owner = BackgroundTasks()
    proceed = asyncio.Event()

    async def clean_up_later() -> None:
        try:
            await run_always()
        finally:
            await proceed.wait()

    owner.start(clean_up_later(), name="slow")
    await turns()
    closing = asyncio.create_task(owner.close(), name="close")
    await turns()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert len(owner) == 1
    proceed.set()
    await owner.close()
    assert len(owner) == 0


async def test_a_task_may_close_its_own_owner() -> None:
    """The calling task does not wait for itself."""
    failed = Failures()
    owner = BackgroundTasks(failed)

    async def close_own() -> str:
        await asyncio.sleep(0)
        await owner.close()
        return "went on"

    owner.start(run_always(), name="other")
    closing = owner.spawn(close_own(), name="closer", essential=True)
    assert await closing == "went on"
    await owner.close()
    assert len(owner) == 0
    assert not failed.failures


async def test_a_task_that_ignores_its_cancellation_is_logged_and_cancelled_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shutdown that hangs says on which task."""
    monkeypatch.setattr(tasks_module, "_SLOW_CANCEL_S", 0.02)
    owner = BackgroundTasks()
    ignored = []

    async def ignore_first() -> None:
        try:
            await run_always()
        except asyncio.CancelledError:
            ignored.append(True)
        await run_always()

    owner.start(ignore_first(), name="deaf")
    await turns()
    await owner.close()
    assert ignored == [True]
    assert [record.__dict__["tasks"] for record in caplog.records] == [["deaf"]]


async def test_the_first_failure_of_several_owners_counts() -> None:
    """Later failures are often consequences."""
    first = FirstFailure()
    one, other = BackgroundTasks(first.report), BackgroundTasks(first.report)
    waiting = asyncio.create_task(first.wait(), name="waiting")
    one.start(fail(ValueError("first")), name="one")
    await turns()
    other.start(fail(ValueError("second")), name="other")
    await turns()
    assert (await waiting).name == "one"
    assert first.failure is not None
    assert str(first.failure) == "one: ValueError('first')"


async def test_cancel_and_wait_passes_over_ended_tasks_and_the_caller() -> None:
    """It waits for what runs, and never for itself."""
    done = asyncio.create_task(turns(1), name="done")
    await done
    running = asyncio.create_task(run_always(), name="running")
    current = asyncio.current_task()
    assert current is not None
    await cancel_and_wait(done, running, current)
    assert running.cancelled()
    await cancel_and_wait()


async def test_run_until_gives_the_result_or_none_when_the_event_comes_first() -> None:
    """The two ends, and the error of the work."""
    stop = asyncio.Event()

    async def give(after_s: float) -> int:
        await asyncio.sleep(after_s)
        return 7

    assert await run_until(stop, give(0.0), name="work") == 7
    asyncio.get_running_loop().call_later(0.01, stop.set)
    assert await run_until(stop, give(10.0), name="work") is None
    with pytest.raises(ValueError, match="broken"):
        await run_until(asyncio.Event(), fail(ValueError("broken")), name="work")


async def test_run_until_leaves_no_task_behind_when_its_caller_is_cancelled() -> None:
    """Both of its tasks have ended before the cancellation goes on."""
    running = asyncio.create_task(run_until(asyncio.Event(), run_always(), name="work"), name="caller")
    await turns()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not {"work", "work-stop"} & {task.get_name() for task in asyncio.all_tasks()}
