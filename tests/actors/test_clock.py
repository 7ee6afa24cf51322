"""Clock steps of years: event times of a thread never go back, and nothing else depends on the wall clock."""

import asyncio

import pytest

from shard_worker.actors.context import ActorContext
from shard_worker.contract import Done, GetMessages, MessagePage
from tests.support.node import SHARDS, account, add, create, node_on, thread

_YEAR_MS = 365 * 24 * 3600 * 1000


async def test_commands_are_served_through_clock_steps_of_years(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, far back, and to the epoch: every command is stored, in order, within budgets of the monotonic clock."""
    now = ActorContext.now_ms
    step_ms = 0
    monkeypatch.setattr(ActorContext, "now_ms", lambda self: max(0, now(self) + step_ms))
    async with node_on(dsn) as node:
        await node.own(*range(SHARDS))
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        for number, years in enumerate((0, 30, -20, -100, 5)):
            step_ms = years * _YEAR_MS
            answers = await asyncio.gather(*[node.ask(add(chat, me, f"{number} {n}")) for n in range(3)])
            assert all(isinstance(answer, Done) for answer in answers)
            await node.own(*range(SHARDS))  # what was stored is read again under the stepped clock
        page = await node.ask(GetMessages(chat, me, 100))
        assert isinstance(page, MessagePage)
        times = [message.created_at for message in page.messages]
        assert len(times) == 15
        assert times == sorted(times)
