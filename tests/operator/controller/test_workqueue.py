"""The work queue: one at a time for each key, nothing forgotten, nothing done twice for nothing."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from threadcluster_operator.controller import workqueue
from threadcluster_operator.controller.workqueue import TransientError, WorkQueue

from tests.support.polling import eventually

Work = Callable[[str], Awaitable[float | None]]


@asynccontextmanager
async def running(work: Work, workers: int = 2) -> AsyncIterator[WorkQueue[str]]:
    """A queue that works."""
    queue: WorkQueue[str] = WorkQueue(work, workers=workers)
    task = asyncio.create_task(queue.run())
    try:
        yield queue
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how long a queue puts off what failed, in seconds; it is tried again at once."""
    found: list[float] = []
    later = WorkQueue._mark_later

    def note(queue: WorkQueue[str], key: str, after_s: float) -> None:
        found.append(after_s)
        later(queue, key, 0.0)

    monkeypatch.setattr(WorkQueue, "_mark_later", note)
    return found


async def test_a_hundred_marks_before_it_is_looked_at_are_one_look() -> None:
    """A mark is no message."""
    looks: list[str] = []

    async def work(key: str) -> None:
        looks.append(key)

    async with running(work) as queue:
        for _ in range(100):
            queue.add("a")
        await eventually(lambda: looks == ["a"])
        await asyncio.sleep(0)
        assert looks == ["a"]


async def test_the_depth_is_how_many_keys_wait_for_their_work() -> None:
    """A key that is worked on waits no more, and one that is marked meanwhile waits again only afterwards."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work(_: str) -> None:
        begun.set()
        await go_on.wait()

    async with running(work, workers=1) as queue:
        queue.add("a")
        await begun.wait()
        queue.add("a")
        assert queue.depth == 0
        queue.add("b")
        queue.add("b")
        queue.add("c")
        assert queue.depth == 2
        go_on.set()
        await eventually(lambda: queue.depth == 0)


async def test_a_mark_while_it_is_worked_on_is_one_more_look_after() -> None:
    """Never two looks at one key at once; another key goes on beside it."""
    begun: list[str] = []
    at_once: Counter[str] = Counter()
    go_on = asyncio.Event()

    async def work(key: str) -> None:
        begun.append(key)
        at_once[key] += 1
        assert at_once[key] == 1
        await go_on.wait()
        at_once[key] -= 1

    async with running(work) as queue:
        queue.add("a")
        await eventually(lambda: begun == ["a"])
        for _ in range(10):
            queue.add("a")
        queue.add("b")
        await eventually(lambda: begun == ["a", "b"])
        go_on.set()
        await eventually(lambda: begun == ["a", "b", "a"])
        await asyncio.sleep(0)
        assert begun == ["a", "b", "a"]


async def test_it_is_called_again_when_it_asked_to_be() -> None:
    """And a mark before that takes the place of the appointment."""
    looks: list[str] = []

    async def work(key: str) -> float | None:
        looks.append(key)
        return 0.01 if len(looks) < 3 else None

    async with running(work) as queue:
        queue.add("a")
        await eventually(lambda: len(looks) == 3)


@pytest.mark.parametrize("fault", [TransientError("away"), ValueError("a bug")], ids=["expected", "bug"])
async def test_what_failed_is_tried_again_less_and_less_often(fault: Exception, waits: list[float]) -> None:
    """Until it succeeds, which resets the count; the other keys do not wait for it."""
    fails = 3
    looks: Counter[str] = Counter()

    async def work(key: str) -> None:
        looks[key] += 1
        if key == "a" and looks["a"] <= fails:
            raise type(fault)(*fault.args)

    async with running(work) as queue:
        queue.add("a")
        queue.add("b")
        await eventually(lambda: looks["a"] == 4 and looks["b"] == 1)
        first = workqueue._FIRST_BACK_OFF_S
        assert [0.8 * first * 2**n <= wait <= 1.2 * first * 2**n for n, wait in enumerate(waits)] == [True] * 3
        waits.clear()
        looks["a"], fails = 0, 1
        queue.add("a")
        await eventually(lambda: looks["a"] == 2)
        assert waits[0] <= 1.2 * first


@pytest.mark.parametrize(
    ("fault", "most_s"), [(TransientError("away"), 5.0), (ValueError("a bug"), 30.0)], ids=["expected", "bug"]
)
async def test_the_longest_wait_has_a_bound(fault: Exception, most_s: float, waits: list[float]) -> None:
    """However often it failed: for days as well, when the doubled wait is more than a number can be; an outside world that is
    well again is noticed sooner than a bug.
    """

    async def work(_: str) -> None:
        raise type(fault)(*fault.args)

    async with running(work) as queue:
        queue.add("a")
        await eventually(lambda: len(waits) >= 1_200)
        assert 0.8 * most_s <= max(waits) <= 1.2 * most_s


async def test_a_worker_cancelled_during_a_reconciliation_leaves_nothing_running() -> None:
    """The look ends with the queue."""
    ended: list[str] = []
    begun = asyncio.Event()

    async def work(key: str) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(key)

    async with running(work) as queue:
        queue.add("a")
        await begun.wait()
    assert ended == ["a"]


class Grouped:
    """A queue of keys in groups, whose work ends when the test says so."""

    def __init__(self, *, workers: int, of_one_group: int) -> None:
        self.began: list[tuple[str, int]] = []
        self._ends: dict[tuple[str, int], asyncio.Event] = {}
        self.queue: WorkQueue[tuple[str, int]] = WorkQueue(
            self._work, workers=workers, group=lambda key: key[0], of_one_group=of_one_group
        )

    async def _work(self, key: tuple[str, int]) -> None:
        self.began.append(key)
        self._ends[key] = asyncio.Event()
        await self._ends[key].wait()

    async def end(self, key: tuple[str, int]) -> None:
        """The work on a key ends; what follows begins."""
        self._ends.pop(key).set()
        await self.turn()

    @staticmethod
    async def turn() -> None:
        """Every task goes as far as it can."""
        for _ in range(10):
            await asyncio.sleep(0)


async def test_groups_take_turns() -> None:
    """A thousand clusters of one namespace delay the one of another by one look."""
    made = Grouped(workers=1, of_one_group=1)
    for number in range(1_000):
        made.queue.add(("loud", number))
    made.queue.add(("quiet", 0))
    running = asyncio.create_task(made.queue.run())
    await made.turn()
    await made.end(("loud", 0))
    assert made.began == [("loud", 0), ("quiet", 0)]
    assert made.queue.depth == 999
    await made.end(("quiet", 0))
    await made.end(("loud", 1))
    assert made.began[2:] == [("loud", 1), ("loud", 2)]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_work_that_waits_leaves_workers_to_the_other_groups() -> None:
    """However many keys of its group are marked; one of them begins when another ends."""
    made = Grouped(workers=4, of_one_group=2)
    running = asyncio.create_task(made.queue.run())
    for number in range(10):
        made.queue.add(("slow", number))
    await made.turn()
    assert made.began == [("slow", 0), ("slow", 1)]
    made.queue.add(("well", 0))
    await made.turn()
    assert made.began[-1] == ("well", 0)
    await made.end(("slow", 0))
    assert made.began[-1] == ("slow", 2)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_a_person_waits_for_comes_first_in_its_group() -> None:
    """Also what waits already, and what is worked on just then; the groups take turns as ever."""
    looks: list[str] = []
    release = asyncio.Event()

    async def work(key: str) -> None:
        looks.append(key)
        await release.wait()

    queue: WorkQueue[str] = WorkQueue(work, workers=1, group=lambda key: key[0])
    task = asyncio.create_task(queue.run())
    queue.add("a0")
    await eventually(lambda: looks == ["a0"])
    for key in ("a1", "a2", "a3", "b1"):
        queue.add(key)
    queue.add("a3", first=True)
    queue.add("a0", first=True)
    queue.add("a0")
    queue.add("a4", first=True)
    release.set()
    await eventually(lambda: len(looks) == 7)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert looks == ["a0", "a0", "b1", "a4", "a3", "a1", "a2"]
