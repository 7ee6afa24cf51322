"""Threads that are read before their shard comes: at hand when it does, and never older than the journal."""

import asyncio

import asyncpg

from shard_worker.actors.thread_actor import Phase
from shard_worker.contract import Ack, Done, PrepareShard, ReadThread, ShardTransferred, ThreadView
from shard_worker.domain.ids import AccountId, ShardId, ThreadId, shard_of
from shard_worker.journal.loader import read_head
from shard_worker.ownership.view import ShardOwner
from tests.support.node import (
    SHARDS,
    Node,
    Peers,
    account,
    add,
    create,
    node_on,
    read_alone,
    request,
    thread,
    two_nodes,
)

ALL = range(SHARDS)


def threads_of_one_shard(count: int) -> tuple[ShardId, list[ThreadId]]:
    """Fresh threads that hash to one shard."""
    found: dict[ShardId, list[ThreadId]] = {}
    while True:
        chat = thread()
        threads = found.setdefault(shard_of(chat, SHARDS), [])
        threads.append(chat)
        if len(threads) == count:
            return shard_of(chat, SHARDS), threads


def receiver(node: Node, port: int, epoch: int = 1) -> ShardOwner:
    """A node as its peers know it."""
    return ShardOwner(node.name, node.incarnation, epoch, "127.0.0.1", 0, port)


async def post(node: Node, me: AccountId, chats: list[ThreadId], words: str) -> None:
    """One message in each."""
    for chat in chats:
        assert isinstance(await node.ask(add(chat, me, words)), Done)


async def take(node: Node, shard: ShardId) -> None:
    """Act as the reconciler: own the shard, read its head, catch up, serve."""
    await node.admin.execute(
        "UPDATE shard SET epoch = epoch + 1, owner = $2, incarnation = $3 WHERE id = $1",
        shard,
        node.name,
        node.incarnation,
    )
    epoch = await node.admin.fetchval("SELECT epoch FROM shard WHERE id = $1", shard)
    head = await read_head(node.admin, shard)
    await node.host.catch_up(node.admin, {shard: head})
    node.host.adopt(shard, epoch, head)


async def test_threads_read_before_the_move_are_at_the_journals_end_after_it(dsn: str) -> None:
    """The last asked first; what was stored meanwhile follows from the tail; a thread that was not named stays cold."""
    async with two_nodes(dsn) as (left, right):
        me = account()
        shard, chats = threads_of_one_shard(3)
        for chat in chats:
            await left.ask(create(chat, me))
        await post(left, me, chats, "before")
        assert await left.host.prepare(shard, receiver(right, 2))
        late = thread()
        while shard_of(late, SHARDS) != shard:
            late = thread()
        await left.ask(create(late, me))
        await post(left, me, chats, "meanwhile")
        await left.host.drain(shard)
        await take(right, shard)
        actors = right.table.shards[shard].actors
        assert set(actors) == set(chats)
        assert {(actor.phase, actor.sequence_nr) for actor in actors.values()} == {(Phase.ACTIVE, 3)}
        assert [actor.thread_id for actor in right.residents._actors.values()] == chats  # asked in this order
        for chat in chats:
            assert await right.texts(chat, me) == ["before", "meanwhile"]
        await post(right, me, [*chats, late], "after")


async def test_what_was_read_and_never_came_is_forgotten(dsn: str) -> None:
    """A shard that was prewarmed at another head is read again; so is one that was prewarmed long ago."""
    async with node_on(dsn, name="w0") as node:
        await node.own(*ALL)
        me = account()
        shard, chats = threads_of_one_shard(1)
        await node.ask(create(chats[0], me))
        await post(node, me, chats, "one")
        warmth = node.host._warmth
        assert await warmth.prepare(shard, chats, 5.0)
        assert warmth.take(shard, 99) == {}
        assert await warmth.prepare(shard, chats, 5.0)
        warmth.forget_old(asyncio.get_running_loop().time() + 11.0)
        assert warmth.take(shard, 2) == {}
        assert await warmth.prepare(shard, chats, 5.0)
        await warmth.catch_up(node.admin, {shard: 100_000})  # a tail that is longer than it is worth
        assert warmth.take(shard, 100_000) == {}
        assert await warmth.prepare(shard, chats, 5.0)
        node.host.drop_all()
        assert warmth.take(shard, 2) == {}


async def test_a_thread_that_the_tail_does_not_fit_stays_cold(dsn: str) -> None:
    """Its neighbours are warm all the same, and it is read from the journal when it is asked."""
    async with node_on(dsn, name="w0") as node:
        await node.own(*ALL)
        me = account()
        shard, chats = threads_of_one_shard(2)
        for chat in chats:
            await node.ask(create(chat, me))
        warmth = node.host._warmth
        assert await warmth.prepare(shard, chats, 5.0)
        odd = warmth._prepared[shard].threads[chats[0]]
        warmth._prepared[shard].threads[chats[0]] = odd._replace(sequence_nr=0)
        await post(node, me, chats, "one")
        warmth._prepared[shard].head = 2
        await warmth.catch_up(node.admin, {shard: 4})
        assert set(warmth.take(shard, 4)) == {chats[1]}


async def test_a_worker_without_its_journal_is_not_ready(dsn: str) -> None:
    """The shard stays where it is."""
    async with two_nodes(dsn) as (left, right):

        async def away(shard_id: ShardId) -> int:
            del shard_id
            raise asyncpg.PostgresConnectionError("away")

        right.env.journal.read_head = away
        assert not await left.host.prepare(ShardId(0), receiver(right, 2))
        assert not await right.host.prepare(ShardId(0), receiver(left, 1)), "what is not here cannot be prepared for"


async def test_full_memory_keeps_what_it_has(dsn: str) -> None:
    """Warm threads never push out those that are asked here."""
    async with node_on(dsn, name="w0", residents_most=2) as node:
        await node.own(*ALL)
        me = account()
        shard, chats = threads_of_one_shard(3)
        for chat in chats:
            await node.ask(create(chat, me))
        node.host.drop(shard)
        assert await node.host._warmth.prepare(shard, list(reversed(chats)), 5.0)
        await take(node, shard)
        assert len(node.residents) == 2
        for chat in chats:
            assert isinstance(await node.ask(add(chat, me, "x")), Done)


async def test_a_transfer_is_acknowledged_once_the_shard_is_served(dsn: str) -> None:
    """The answer is yes once the shard is here at that epoch; no when it does not come within the budget."""
    async with node_on(dsn, name="w0") as node:
        acknowledged = node.handler.serve(ShardTransferred(3, 1, "i", 0), 5.0, 1, 1)
        assert isinstance(acknowledged, asyncio.Future)
        await node.own(3)
        assert await acknowledged == Ack(ready=True)
        assert node.owners.heard == [(3, 1, "i", 0)]
        late = node.handler.serve(ShardTransferred(3, 7, "i", 0), 0.05, 7, 1)
        assert isinstance(late, asyncio.Future)
        assert await late == Ack(ready=False)


async def test_a_prepared_shard_is_answered_for_over_the_wire(dsn: str) -> None:
    """The message between workers does what the host's own method does."""
    async with node_on(dsn, name="w0") as node:
        answer = node.handler.serve(PrepareShard(2, ()), 5.0, 1, 1)
        assert isinstance(answer, asyncio.Future)
        assert await answer == Ack(ready=True)


async def test_asks_held_during_a_handoff_that_fails_are_decided_here(dsn: str) -> None:
    """The shard is served on as if nothing had been."""
    async with node_on(dsn, name="w0") as node:
        await node.own(*ALL)
        me = account()
        shard, chats = threads_of_one_shard(1)
        await node.ask(create(chats[0], me))
        await node.host.drain(shard)
        held = [asyncio.ensure_future(node.ask(add(chats[0], me, f"m{n}"))) for n in range(3)]
        read = asyncio.ensure_future(node.ask(request(add(chats[0], me, "keyed"), "key")))
        await asyncio.sleep(0)
        assert not any(ask.done() for ask in held)
        assert shard not in node.host.serving()
        node.host.resume(shard)
        answers = await asyncio.gather(*held, read)
        assert {type(answer) for answer in answers} == {Done}
        assert await node.texts(chats[0], me) == ["m0", "m1", "m2", "keyed"]


async def test_a_thread_that_is_being_read_when_its_shard_drains_decides_nothing_more(dsn: str) -> None:
    """The waiting requests are held, and forwarded with the shard."""
    async with two_nodes(dsn) as (left, right):
        me = account()
        shard, chats = threads_of_one_shard(1)
        gate = asyncio.Event()
        load = left.env.journal.load

        async def slow(shard_id: ShardId, thread_id: ThreadId) -> object:
            found = await load(shard_id, thread_id)
            await gate.wait()
            return found

        left.env.journal.load = slow  # type: ignore[assignment]  # gives what it gets
        creating = asyncio.ensure_future(left.ask(create(chats[0], me)))
        await asyncio.sleep(0)
        await left.host.drain(shard)
        gate.set()
        reading = asyncio.ensure_future(left.ask(create(chats[0], me)))
        async with asyncio.timeout(5):
            while left.table.shards[shard].actors:
                await asyncio.sleep(0)
        assert not creating.done()
        await take(right, shard)
        left.owners.records[shard] = receiver(right, 2, 2)
        left.host.drop(shard, "w1", 2)
        created = await asyncio.gather(creating, reading)
        assert sorted(created, key=repr) == [Done(1, epoch=2), Done(1, replayed=True, epoch=2)], (
            "one of the two was first"
        )


async def test_a_page_of_texts_under_way_is_fetched_again_by_the_next_owner(dsn: str) -> None:
    """A read that waits for the journal when its shard goes is sent on, not forgotten."""
    async with two_nodes(dsn) as (left, right):
        me = account()
        shard, chats = threads_of_one_shard(1)
        await left.ask(create(chats[0], me))
        await post(left, me, chats, "one")
        never = asyncio.Event()
        asked = asyncio.Event()

        async def stuck(*_: object, **__: object) -> list[object]:
            asked.set()
            await never.wait()
            return []

        left.env.journal.read_messages = stuck  # type: ignore[assignment]  # never answers
        left.env.journal.read_page = read_alone
        reading = asyncio.ensure_future(left.texts(chats[0], me))
        await asked.wait()
        await left.host.drain(shard)
        await take(right, shard)
        left.owners.records[shard] = receiver(right, 2, 2)
        left.host.drop(shard, "w1", 2)
        assert await reading == ["one"]


async def test_what_a_peer_says_of_the_owner_is_believed_when_it_knows_more(dsn: str) -> None:
    """A request that reaches the owner of before follows the shard at once, without a look at the database."""
    peers = Peers()
    async with (
        node_on(dsn, name="w0", peers=peers) as left,
        node_on(dsn, name="w1", peers=peers) as right,
        node_on(dsn, name="w2", peers=peers) as other,
    ):
        peers.handlers = {1: left.handler, 2: right.handler}
        await right.own(*ALL)
        me, chat = account(), thread()
        shard = shard_of(chat, SHARDS)
        left.owners.records[shard] = receiver(right, 2, 5)
        other.owners.records[shard] = receiver(left, 1, 4)

        def learn(shard_id: ShardId, worker: str, epoch: int) -> None:
            assert shard_id == shard
            assert (worker, epoch) == ("w1", 5)
            other.owners.records[shard] = receiver(right, 2, 5)

        other.owners.apply_hint = learn  # type: ignore[method-assign]  # addresses are the view's
        assert await other.ask(create(chat, me)) == Done(1, epoch=1)
        assert other.owners.rung == 0
        assert isinstance(await other.ask(create(chat, me)), Done)


async def test_how_busy_a_shard_is(dsn: str) -> None:
    """Commands a second and milliseconds an append, averaged; an idle shard cools down."""
    async with node_on(dsn, name="w0") as node:
        await node.own(*ALL)
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        for n in range(9):
            await node.ask(add(chat, me, f"m{n}"))
        shard = node.table.shards[shard_of(chat, SHARDS)]
        shard.measure(1.0)
        busy = node.host.loads()[shard.shard_id]
        assert 0.9 < busy.commands_s < 10.0
        assert busy.append_ms > 0.0
        shard.measure(60.0)
        cool = node.host.loads()[shard.shard_id]
        assert cool.commands_s < busy.commands_s / 100
        assert cool.append_ms == busy.append_ms
        assert isinstance(await node.ask(create(chat, me)), Done)


async def test_a_thread_view_of_the_new_owner_is_whole(dsn: str) -> None:
    """A warm thread answers its first read from memory."""
    async with node_on(dsn, name="w0") as node:
        await node.own(*ALL)
        me = account()
        shard, chats = threads_of_one_shard(1)
        await node.ask(create(chats[0], me))
        node.host.drop(shard)
        assert await node.host._warmth.prepare(shard, chats, 5.0)
        await take(node, shard)

        async def cold(*_: object) -> object:
            raise AssertionError("it was read before")

        node.env.journal.load = cold  # type: ignore[assignment]  # must not be asked
        assert isinstance(await node.ask(ReadThread(chats[0], me)), ThreadView)
