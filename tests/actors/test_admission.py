"""Requests that wait for a shard's owner: a line a shard, woken alone, in order, at a pace, and ended in time."""

import asyncio
import time
from dataclasses import dataclass, field

import pytest

from shard_worker.actors import admission
from shard_worker.actors.admission import PacedQueue, Place
from shard_worker.domain.ids import ShardId

ONE, TWO = ShardId(1), ShardId(2)


@dataclass
class Ownership:
    """Known epochs, by shard."""

    epochs: dict[int, int] = field(default_factory=dict)
    asked: int = 0
    rung: int = 0
    change: "asyncio.Future[None] | None" = None

    def served(self, shard_id: ShardId, after_epoch: int) -> bool:
        self.asked += 1
        return self.epochs.get(shard_id, -1) > after_epoch

    def named(self, shard_id: ShardId) -> bool:
        return shard_id in self.epochs

    def request_refresh(self) -> None:
        self.rung += 1

    def next_change(self) -> "asyncio.Future[None]":
        if self.change is None:
            self.change = asyncio.get_running_loop().create_future()
        return self.change

    async def announce(self) -> None:
        """Refresh the view; returns once the callbacks of the same turn have run."""
        change, self.change = self.change, None
        if change is not None:
            change.set_result(None)
        await asyncio.sleep(0)


class Lines:
    """Requests by number, and the order in which they were let in."""

    def __init__(self, ownership: Ownership) -> None:
        self.waiting = PacedQueue(ownership, served=ownership.served, named=ownership.named)
        self.came: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.turns: list[int] = []

    async def ask(
        self, shard_id: ShardId, *numbers: int, waited_s: float = 0.0, budget_s: float = 60.0, after_epoch: int = -1
    ) -> None:
        now = asyncio.get_running_loop().time()
        for number in numbers:
            self.tasks.append(
                asyncio.ensure_future(self._one(shard_id, number, now - waited_s, now + budget_s, after_epoch))
            )
        await asyncio.sleep(0)

    async def _one(self, shard_id: ShardId, number: int, since: float, deadline: float, after_epoch: int) -> None:
        place = Place(number, since, deadline)
        await self.waiting.enqueue(shard_id, place, after_epoch=after_epoch, probe_at=deadline)
        self.came.append(number)

    async def until_came(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.came) < count:
                before = len(self.came)
                await asyncio.sleep(0)
                self.turns.append(len(self.came) - before)


@pytest.fixture
def no_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines move with every turn of the loop."""
    monkeypatch.setattr(admission, "_APART_S", 0.0)


@pytest.mark.usefixtures("no_distance")
async def test_a_takeover_paces_waiting_requests_in_their_order() -> None:
    """A short line is let in one by one; a request that lined up first goes in first, whenever it came back."""
    ownership = Ownership()
    lines = Lines(ownership)
    await lines.ask(ONE, 3, 1, 4, 0, 2, waited_s=1.0)
    ownership.epochs[ONE] = 1
    await ownership.announce()
    await lines.until_came(5)
    assert lines.came == [0, 1, 2, 3, 4]
    assert max(lines.turns) == 1


@pytest.mark.usefixtures("no_distance")
@pytest.mark.parametrize(("waiting", "parts"), [(800, 20), (4_000, 40)])
async def test_a_long_line_is_let_in_in_bounded_parts(waiting: int, parts: int) -> None:
    """A twentieth at a time until the last, never more than a turn can bear: its end is near however many wait."""
    ownership = Ownership()
    lines = Lines(ownership)
    await lines.ask(ONE, *range(waiting), waited_s=1.0)
    ownership.epochs[ONE] = 1
    await ownership.announce()
    await lines.until_came(waiting)
    assert lines.came == list(range(waiting))
    assert max(lines.turns) == waiting // parts <= admission._AT_ONCE_MOST
    assert sum(turn > 0 for turn in lines.turns) == parts


@pytest.mark.usefixtures("no_distance")
async def test_a_long_line_does_not_hasten_the_next_takeover() -> None:
    """The size of a part is forgotten with the last of the lines."""
    ownership = Ownership()
    lines = Lines(ownership)
    await lines.ask(ONE, *range(800), waited_s=1.0)
    ownership.epochs[ONE] = 1
    await ownership.announce()
    await lines.until_came(800)
    for _ in range(3):  # the turn that finds no line
        await asyncio.sleep(0)
    lines.turns.clear()
    await lines.ask(TWO, *range(800, 810), waited_s=1.0)
    ownership.epochs[TWO] = 1
    await ownership.announce()
    await lines.until_came(810)
    assert max(lines.turns) == 1


async def test_a_planned_move_lets_its_line_in_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that waited no longer than a move takes are not paced."""
    monkeypatch.setattr(admission, "_APART_S", 3600.0)
    ownership = Ownership()
    lines = Lines(ownership)
    await lines.ask(ONE, *range(50))
    lines.waiting.open(ONE)
    await asyncio.sleep(0)
    assert lines.came == list(range(50))
    lines.waiting.close()


async def test_a_look_compares_lines_and_not_requests() -> None:
    """A hundred looks at sixteen thousand waiting requests of two shards ask two hundred questions and wake none."""
    ownership = Ownership()
    lines = Lines(ownership)
    await lines.ask(ONE, *range(0, 16_000, 2))
    await lines.ask(TWO, *range(1, 16_000, 2))
    ownership.asked = 0
    began = time.thread_time()
    for _ in range(100):
        await ownership.announce()
    print(f"100 looks with 16,000 waiting: {(time.thread_time() - began) * 1000:.1f} ms of the loop's thread")
    assert ownership.asked <= 250
    assert lines.came == []
    assert len(lines.waiting) == 16_000
    lines.waiting.close()
    await asyncio.gather(*lines.tasks)


@pytest.mark.usefixtures("no_distance")
async def test_only_the_line_whose_owner_changed_is_woken() -> None:
    """An owner that was found not to serve is no news; a later epoch is."""
    ownership = Ownership({ONE: 5, TWO: 5})
    lines = Lines(ownership)
    await lines.ask(ONE, 1, after_epoch=5)
    await lines.ask(TWO, 2, after_epoch=5)
    await ownership.announce()
    assert lines.came == []
    ownership.epochs[TWO] = 6
    await ownership.announce()
    await lines.until_came(1)
    assert lines.came == [2]
    assert ownership.rung > 0, "an owner is named for the other, which does not serve: ownership is read again"
    lines.waiting.close()


async def test_the_known_owner_is_tried_by_the_first_of_the_line_alone() -> None:
    """When its time has come, one request tries; the others follow once that one was answered."""
    ownership = Ownership({ONE: 5})
    lines = Lines(ownership)
    loop = asyncio.get_running_loop()
    await lines.ask(ONE, 1, 2, 3, after_epoch=5, budget_s=60.0)
    lines.waiting.sweep(loop.time() + 1.0)
    assert lines.came == []
    lines.waiting._lines[ONE].probe_at = 0.0
    lines.waiting.sweep(loop.time())
    await asyncio.sleep(0)
    assert lines.came == [1]
    lines.waiting.sweep(loop.time())
    await asyncio.sleep(0)
    assert lines.came == [1]
    assert lines.waiting.holds(ONE), "a newcomer lines up behind"
    lines.waiting.open(ONE)
    await lines.until_came(3)
    assert lines.came == [1, 2, 3]
    lines.waiting.close()


async def test_a_request_that_gave_up_or_ran_out_of_time_leaves_nothing_behind() -> None:
    """The cancelled one is passed over, the one past its deadline ends with the sweep, and an empty line is forgotten."""
    ownership = Ownership()
    lines = Lines(ownership)
    await lines.ask(ONE, 1, 2, budget_s=0.5)
    lines.tasks[0].cancel()
    await asyncio.sleep(0)
    lines.waiting.sweep(asyncio.get_running_loop().time() + 1.0)
    await lines.until_came(1)
    assert lines.came == [2]
    lines.waiting.sweep(asyncio.get_running_loop().time() + 1.0)
    assert len(lines.waiting) == 0
    assert not lines.waiting.holds(ONE)
    assert lines.waiting._lines == {}


async def test_a_request_that_lines_up_after_the_last_keeps_the_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else many that come one by one would each find the line empty, and all go in at once."""
    monkeypatch.setattr(admission, "_APART_S", 3600.0)
    ownership = Ownership()
    lines = Lines(ownership)
    await lines.ask(ONE, 1, waited_s=1.0)
    lines.waiting.open(ONE)
    await lines.until_came(1)
    await lines.ask(TWO, 2, waited_s=1.0)
    lines.waiting.open(TWO)
    for _ in range(10):
        await asyncio.sleep(0)
    assert lines.came == [1]
    lines.waiting.close()
    await lines.until_came(2)


async def test_a_line_whose_shard_is_lost_again_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The admitted request returns with its finding, and the rest stays in the queue."""
    monkeypatch.setattr(admission, "_APART_S", 3600.0)
    ownership = Ownership({ONE: 5})
    lines = Lines(ownership)
    await lines.ask(ONE, 1, 2, 3, waited_s=1.0, after_epoch=5)
    ownership.epochs[ONE] = 6
    lines.waiting.open(ONE)
    await lines.until_came(1)
    await lines.ask(ONE, 1, waited_s=1.0, after_epoch=6)
    assert lines.waiting.holds(ONE)
    lines.waiting._let_in()
    await asyncio.sleep(0)
    assert lines.came == [1]
    lines.waiting.close()
    await lines.until_came(4)
