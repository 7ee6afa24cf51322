"""Which answers say that they are a first one's repetition: those to a client's retry, wherever it is recognised."""

from msgspec.structs import replace

from shard_worker.contract import Done
from tests.support.node import SHARDS, account, add, create, node_on, request, thread, two_nodes

ALL = range(SHARDS)


async def test_a_retry_by_key_is_replayed_from_memory_and_from_the_journal(dsn: str) -> None:
    """The first answer is not; a retry is, also after its thread was forgotten and with other message ids."""
    async with node_on(dsn) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        assert await node.ask(create(chat, me), "key") == Done(1, epoch=1)
        assert await node.ask(create(chat, me), "key") == Done(1, replayed=True, epoch=1)
        first = await node.ask(add(chat, me, "once"), "other")
        assert isinstance(first, Done)
        for _ in range(2):
            again = await node.ask(add(chat, me, "once"), "other")
            assert again == Done(first.sequence_nr, first.message_ids, replayed=True, epoch=1)
            await node.own(*ALL)


async def test_a_retry_by_chosen_ids_is_replayed(dsn: str) -> None:
    """A change that changes nothing is no retry."""
    async with node_on(dsn) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        command = add(chat, me, "once")
        for replayed in (False, True):
            assert await node.ask(create(chat, me)) == Done(1, replayed=replayed, epoch=1)
        for replayed in (False, True):
            assert await node.ask(command) == Done(2, (command.messages[0].message_id,), replayed, epoch=1)
        assert await node.ask(replace(command, messages=())) == Done(2, epoch=1)


async def test_what_a_gateway_sends_twice_is_no_retry_of_its_client(dsn: str) -> None:
    """The same command id, after a lost link: the client asked once, in memory as in the journal."""
    async with node_on(dsn) as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        command = add(chat, me, "once")
        asked = request(command, "key")
        first = await node.ask(asked)
        assert await node.ask(asked) == first
        await node.own(*ALL)
        assert await node.ask(asked) == first
        assert first == Done(2, (command.messages[0].message_id,), epoch=1)


async def test_a_retry_through_another_worker_is_replayed(dsn: str) -> None:
    """The flag crosses the link between workers."""
    async with two_nodes(dsn) as (left, right):
        me, chat = account(), thread()
        assert await left.ask(create(chat, me), "key") == Done(1, epoch=1)
        assert await right.ask(create(chat, me), "key") == Done(1, replayed=True, epoch=1)
