"""Slots for requests that last, shared fairly."""

import asyncio
from collections import Counter

from threadcluster_operator.workers.slots import FairSlots, Owner


class Requests:
    """Requests that last until the test ends them."""

    def __init__(self, total: int) -> None:
        self.slots = FairSlots(total)
        self.running: Counter[Owner] = Counter()
        self._ends: dict[Owner, list[asyncio.Event]] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def ask(self, owner: Owner, times: int = 1) -> list[asyncio.Task[None]]:
        """Begin requests for a cluster; those that get a slot run."""
        made = [asyncio.create_task(self._request(owner)) for _ in range(times)]
        self.tasks += made
        await self.turn()
        return made

    async def _request(self, owner: Owner) -> None:
        async with self.slots.slot(owner):
            end = asyncio.Event()
            self._ends.setdefault(owner, []).append(end)
            self.running[owner] += 1
            try:
                await end.wait()
            finally:
                self.running[owner] -= 1

    async def end(self, owner: Owner) -> None:
        """One request of a cluster ends."""
        self._ends[owner].pop().set()
        await self.turn()

    @staticmethod
    async def turn() -> None:
        """Every task goes as far as it can."""
        for _ in range(5):
            await asyncio.sleep(0)

    async def close(self) -> None:
        """All end."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_a_free_slot_goes_to_the_namespace_that_uses_the_fewest() -> None:
    """However long the others have waited."""
    made = Requests(4)
    await made.ask(("loud", "a"), 20)
    await made.ask(("loud", "b"), 20)
    await made.ask(("quiet", "c"), 2)
    assert made.running == {("loud", "a"): 4}
    await made.end(("loud", "a"))
    assert made.running[("quiet", "c")] == 1
    await made.end(("loud", "a"))
    assert made.running[("quiet", "c")] == 2
    await made.end(("loud", "a"))
    assert made.running[("loud", "b")] == 1
    await made.close()


async def test_the_clusters_of_a_namespace_take_turns() -> None:
    """The one that uses the fewest first; of equals the one that has waited the longest."""
    made = Requests(2)
    await made.ask(("talk", "a"), 10)
    for name in ("b", "c", "d"):
        await made.ask(("talk", name), 3)
    order = []
    for _ in range(6):
        before = made.running.copy()
        [ending, *_] = [owner for owner, count in before.items() if count]
        await made.end(ending)
        order += [owner[1] for owner, count in made.running.items() if count > before[owner]]
    assert order[:3] == ["b", "c", "d"]
    assert set(order[3:]) <= {"a", "b", "c", "d"}
    await made.close()


async def test_a_request_that_is_given_up_takes_no_slot() -> None:
    """While it waits, and in the turn in which it is given one."""
    made = Requests(1)
    await made.ask(("a", "1"))
    [waiting] = await made.ask(("b", "1"))
    [following] = await made.ask(("c", "1"))
    waiting.cancel()
    await made.turn()
    made._ends[("a", "1")].pop().set()
    await asyncio.sleep(0)
    following.cancel()
    await made.turn()
    await made.ask(("d", "1"))
    assert made.running[("d", "1")] == 1
    assert sum(made.running.values()) == 1
    await made.close()
    assert (made.slots._free, made.slots._used, made.slots._used_by_namespace) == (1, {}, {})
