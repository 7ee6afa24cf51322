"""An answer that is delivered at once, from within the owner's turn, as the gateway's lane has it."""

import asyncio
from collections.abc import Callable

from shard_worker.actors.pending import NOT_SERVED
from shard_worker.contract import Done, Moved, OwnerAnswer
from shard_worker.domain.ids import ShardId
from shard_worker.domain.refusals import Refusal
from tests.support.node import SHARDS, Node, account, add, create, node_on, request, thread
from tests.support.polling import eventually


class Slot:
    """Keeps the answer, and what was so at that moment."""

    def __init__(self, note: Callable[[], object] = lambda: None) -> None:
        self.answers: list[OwnerAnswer] = []
        self.notes: list[object] = []
        self._note = note

    def done(self) -> bool:
        """Whether the answer came."""
        return bool(self.answers)

    def set_result(self, answer: OwnerAnswer) -> None:
        """The answer came."""
        self.answers.append(answer)
        self.notes.append(self._note())


async def test_the_answer_comes_when_the_event_is_durable_and_its_rows_still_count_as_sent(dsn: str) -> None:
    """A handoff that began in that moment would else take them for rows that were never sent."""
    async with node_on(dsn) as node:
        await node.own(*range(SHARDS))
        me, chat = account(), thread()
        shard = node.table.find(chat)
        assert shard is not None
        stream = node.table.shards[shard.shard_id].stream
        slot = Slot(lambda: stream.in_flight)
        assert node.region.ask_here(request(create(chat, me)), chat, slot, 5.0)
        assert not slot.answers
        await eventually(slot.done)
        assert (slot.answers, slot.notes) == ([Done(1, epoch=1)], [1])
        await eventually(lambda: stream.idle)


async def test_an_answer_from_memory_comes_before_the_call_returns(dsn: str) -> None:
    """A refusal, of a thread that is resident."""
    async with node_on(dsn) as node:
        await node.own(*range(SHARDS))
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        slot = Slot()
        assert node.region.ask_here(request(add(chat, account(), "x")), chat, slot, 5.0)
        [answer] = slot.answers
        assert isinstance(answer, Refusal)


async def held(node: Node, budget_s: float) -> tuple[Slot, ShardId]:
    """A command that waits, since its shard is being drained; and that shard."""
    await node.own(*range(SHARDS))
    me, chat = account(), thread()
    await node.ask(create(chat, me))
    shard = node.table.find(chat)
    assert shard is not None
    await node.host.drain(shard.shard_id)
    slot = Slot()
    assert node.region.ask_here(request(add(chat, me, "x")), chat, slot, budget_s)
    return slot, shard.shard_id


async def test_nothing_is_asked_of_a_shard_that_is_elsewhere(dsn: str) -> None:
    """The caller asks the region instead."""
    async with node_on(dsn) as node:
        slot, chat = Slot(), thread()
        assert not node.region.ask_here(request(create(chat, account())), chat, slot, 5.0)
        assert not slot.answers


async def test_a_held_command_is_redirected_when_its_shard_has_moved(dsn: str) -> None:
    """Nothing of it was stored."""
    async with node_on(dsn) as node:
        slot, shard = await held(node, 5.0)
        await asyncio.sleep(0)
        assert not slot.answers
        node.table.shards[shard].close("w1", 9)
        assert slot.answers == [Moved("w1", 9)]


async def test_a_held_command_ends_with_its_budget(dsn: str) -> None:
    """As every other."""
    async with node_on(dsn) as node:
        slot, _ = await held(node, 0.2)
        await eventually(slot.done)
        assert slot.answers == [NOT_SERVED]
