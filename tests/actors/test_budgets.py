"""Budgets of waiting commands, in time and in bytes, on a real journal."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from shard_worker.actors.pending import NOT_SERVED, UNKNOWN
from shard_worker.contract import Done, GetMessages, ReadThread, Unavailable, UnavailableCode
from shard_worker.domain.ids import ThreadId, shard_of, ulid_uuid
from tests.support.node import SHARDS, Node, account, add, create, node_on, thread
from tests.support.polling import eventually
from tests.support.tcp_proxy import TcpProxy


@asynccontextmanager
async def away(dsn: str, **options: int) -> AsyncIterator[tuple[Node, TcpProxy]]:
    """A worker that owns every shard, whose appends go through a proxy; loads do not."""
    host, port = dsn.rsplit("@", 1)[-1].split("/", 1)[0].rsplit(":", 1)
    async with TcpProxy(host, int(port)) as proxy:
        through = dsn.replace(f"{host}:{port}", f"127.0.0.1:{proxy.port}")
        async with node_on(dsn, through=through, **options) as node:  # type: ignore[arg-type]  # bounds are numbers by name
            await node.own(*range(SHARDS))
            yield node, proxy


async def _close(node: Node, proxy: TcpProxy) -> None:
    """No session any more, and no new one; returns once the lane has noticed."""
    proxy.refusing = True
    proxy.cut()
    connection = node.appender._lanes[0]._connection
    await eventually(lambda: connection is None or connection.is_closed())


async def _settled(node: Node) -> None:
    await eventually(lambda: node.env.admitted == 0 and node.env.pending_bytes == 0, what="nothing pending")


async def test_a_command_whose_budget_ends_in_the_queue_is_not_stored_and_later_ones_are(dsn: str) -> None:
    """Nothing of it is stored, and that is answered; the later commands of its thread are decided again, in order."""
    async with away(dsn) as (node, proxy):
        me, chat, other = account(), thread(), thread()
        await node.ask(create(chat, me))
        await node.ask(create(other, me))
        await _close(node, proxy)
        first = asyncio.ensure_future(node.ask(add(chat, me, "first"), budget_s=60.0))
        ended = asyncio.ensure_future(node.ask(add(chat, me, "ended"), budget_s=0.2))
        later = [asyncio.ensure_future(node.ask(add(chat, me, f"later {n}"), budget_s=60.0)) for n in range(3)]
        beside = asyncio.ensure_future(node.ask(add(other, me, "beside"), budget_s=60.0))
        assert await ended == NOT_SERVED
        assert not first.done()
        proxy.heal()
        assert [await answer for answer in (first, *later)] == [
            Done(n, answer.result().message_ids, epoch=1)  # type: ignore[union-attr]  # a refusal fails the test
            for n, answer in enumerate((first, *later), start=2)
        ]
        assert isinstance(await beside, Done)
        assert await node.texts(chat, me) == ["first", "later 0", "later 1", "later 2"]
        await _settled(node)


async def test_threads_whose_commands_have_all_ended_are_forgotten(dsn: str) -> None:
    """No thread is loaded without a request, nothing is stored when Postgres is back, and the worker serves on."""
    async with away(dsn) as (node, proxy):
        me, chats = account(), [thread() for _ in range(20)]
        for chat in chats:
            await node.ask(create(chat, me))
        await _close(node, proxy)
        asks = [node.ask(add(chat, me, f"{n}"), budget_s=0.2) for chat in chats for n in range(3)]
        assert set(await asyncio.gather(*asks)) == {NOT_SERVED}
        assert len(node.residents) == 0
        proxy.heal()
        assert isinstance(await node.ask(add(chats[0], me, "after")), Done)
        assert await node.texts(chats[0], me) == ["after"]
        assert await node.admin.fetchval("SELECT count(*) FROM journal") == 21
        await _settled(node)


async def test_a_command_at_the_server_when_its_budget_ends_has_an_unknown_outcome(dsn: str) -> None:
    """The one behind it, which was never sent, does not: it is not stored."""
    async with away(dsn) as (node, proxy):
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        proxy.stall(up=False)
        sent = asyncio.ensure_future(node.ask(add(chat, me, "sent"), budget_s=0.3))
        stream = node.table.shards[shard_of(chat, SHARDS)].stream
        await eventually(lambda: stream.in_flight == 1)
        queued = asyncio.ensure_future(node.ask(add(chat, me, "queued"), budget_s=0.3))
        assert await sent == UNKNOWN
        assert await queued == NOT_SERVED
        proxy.cut()
        proxy.heal()
        assert await node.texts(chat, me) == ["sent"]


async def test_a_retry_of_a_command_at_the_server_is_not_answered_that_nothing_was_stored(dsn: str) -> None:
    """Its first sending may be stored: the outcome of both is unknown."""
    async with away(dsn) as (node, proxy):
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        proxy.stall(up=False)
        command = add(chat, me, "sent")
        answers = await asyncio.gather(*[node.ask(command, "key", budget_s=0.3) for _ in range(3)])
        assert set(answers) == {UNKNOWN}
        proxy.cut()
        proxy.heal()
        assert isinstance(await node.ask(command, "key"), Done)
        assert await node.texts(chat, me) == ["sent"]


async def test_a_read_that_waited_for_an_ended_command_is_answered_without_it(dsn: str) -> None:
    """It is decided again, from what is stored."""
    async with away(dsn) as (node, proxy):
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        await _close(node, proxy)
        ended = asyncio.ensure_future(node.ask(add(chat, me, "ended"), budget_s=0.2))
        await asyncio.sleep(0)
        read = asyncio.ensure_future(node.ask(ReadThread(chat, me), budget_s=60.0))
        assert await ended == NOT_SERVED
        answer = await read
        assert answer.sequence_nr == 1  # type: ignore[union-attr]  # a refusal fails the test


@pytest.mark.parametrize("bound", ["max_pending_bytes", "max_pending_bytes_per_thread"])
async def test_commands_on_their_way_are_bounded_in_bytes(dsn: str, bound: str) -> None:
    """Posts of 20 kB while Postgres is away: beyond the bound `overloaded`, and the bytes are given back."""
    async with away(dsn, **{bound: 400_000}) as (node, proxy):
        me, chats = account(), [thread() for _ in range(4)]
        for chat in chats:
            await node.ask(create(chat, me))
        await _close(node, proxy)
        posts = [asyncio.ensure_future(node.ask(add(chats[n % 4], me, "x" * 20_000), budget_s=0.3)) for n in range(100)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        most = 400_000 * (4 if bound.endswith("thread") else 1)
        assert 0.8 * most < node.env.pending_bytes < 1.2 * most
        answers = await asyncio.gather(*posts)
        codes = {answer.code for answer in answers if isinstance(answer, Unavailable)}
        assert codes == {UnavailableCode.OVERLOADED, UnavailableCode.SHARD_UNAVAILABLE}
        await _settled(node)


async def test_requests_that_wait_for_a_history_or_an_owner_count_too(dsn: str) -> None:
    """Mailboxes, held requests and the line for an owner are bounded by the same bytes; all are given back."""
    async with node_on(dsn, max_pending_bytes=400_000) as node:
        me, chats = account(), [thread() for _ in range(4)]

        async def never(shard_id: object, thread_id: ThreadId) -> None:
            await asyncio.Event().wait()

        node.env.journal.load = never  # type: ignore[assignment]  # a journal that does not answer
        await node.own(*{shard_of(chat, SHARDS) for chat in chats[:2]})
        node.table.shards[shard_of(chats[1], SHARDS)].suspended()
        posts = [asyncio.ensure_future(node.ask(add(chats[n % 4], me, "x" * 20_000), budget_s=0.3)) for n in range(100)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert 320_000 < node.env.pending_bytes < 480_000
        answers = await asyncio.gather(*posts)
        refused = [answer for answer in answers if isinstance(answer, Unavailable)]
        assert len(refused) == 100
        assert {answer.code for answer in refused} == {UnavailableCode.OVERLOADED, UnavailableCode.SHARD_UNAVAILABLE}
        await _settled(node)


async def test_a_client_that_repeats_old_keys_costs_one_refused_statement(dsn: str) -> None:
    """After its first repeated key its keys are looked up before they are decided, and found ones are remembered."""
    async with node_on(dsn) as node:
        await node.own(*range(SHARDS))
        me, other = account(), account()
        chats = [thread() for _ in range(20)]
        first = []
        for chat in chats:
            await node.ask(create(chat, me))
            answer = await node.ask(add(chat, me, "once"), "key")
            assert isinstance(answer, Done)
            first.append(Done(answer.sequence_nr, answer.message_ids, replayed=True, epoch=1))
        await node.own(*range(SHARDS))
        look_ups = 0
        look_up = node.env.journal.look_up_key

        async def counted(*given: object) -> object:
            nonlocal look_ups
            look_ups += 1
            return await look_up(*given)  # type: ignore[arg-type]  # passed on

        node.env.journal.look_up_key = counted  # type: ignore[assignment]  # counted
        for _ in range(3):
            again = [await node.ask(add(chat, me, "once"), "key") for chat in chats]
            assert again == first
        assert node.appender.metrics.refused == 1
        assert look_ups == 20
        assert isinstance(await node.ask(create(thread(), other), "a new client's key"), Done)
        assert look_ups == 20, "another account's keys are not looked up"


@pytest.mark.parametrize("asked", ["key", "texts"])
async def test_a_stored_event_that_cannot_be_read_poisons_at_once(dsn: str, asked: str) -> None:
    """A key or a text whose event this release cannot decode, below a snapshot: a definite answer, not a time-out."""
    async with node_on(dsn, snapshot_every_events=3) as node:
        await node.own(*range(SHARDS))
        me, chat = account(), thread()
        await node.ask(create(chat, me))
        await node.ask(add(chat, me, "once"), "key")
        await node.ask(add(chat, me, "more"))
        async with asyncio.timeout(10):
            while not await node.admin.fetchval("SELECT count(*) FROM snapshot"):  # no event to wait for
                await asyncio.sleep(0)
        await node.admin.execute(
            "UPDATE journal SET event_version = 99 WHERE thread_id = $1 AND seq_nr = 2", ulid_uuid(chat)
        )
        await node.own(*range(SHARDS))
        async with asyncio.timeout(3):
            if asked == "key":
                answer = await node.ask(add(chat, me, "once"), "key", budget_s=30.0)
            else:
                answer = await node.ask(GetMessages(chat, me, 10), budget_s=30.0)
        assert isinstance(answer, Unavailable)
        assert answer.code is UnavailableCode.THREAD_POISONED
        assert isinstance(await node.ask(add(chat, me, "goes on")), Done)


async def test_what_was_never_sent_is_sent_on_while_the_rest_is_unknown(dsn: str) -> None:
    """A shard that is dropped while a batch of it is at the server: only what is in the batch waits for the outcome."""
    async with away(dsn) as (node, proxy):
        me, chat = account(), thread()
        shard = shard_of(chat, SHARDS)
        await node.ask(create(chat, me))
        proxy.stall(up=False)
        sent = asyncio.ensure_future(node.ask(add(chat, me, "sent"), budget_s=60.0))
        stream = node.table.shards[shard].stream
        await eventually(lambda: stream.in_flight == 1)
        queued = asyncio.ensure_future(node.ask(add(chat, me, "queued"), budget_s=60.0))
        await asyncio.sleep(0)
        node.host.drop(shard)
        node.owners.no_worker_stays = True
        assert await queued == NOT_SERVED, "it looked for another owner, and there is none"
        assert not sent.done()
        proxy.cut()
        proxy.heal()
        assert isinstance(await sent, Done)


async def test_a_bug_in_loading_poisons_its_thread_instead_of_keeping_it_loading(dsn: str) -> None:
    """Its requests are answered at once, and so are the next ones."""
    async with node_on(dsn) as node:
        await node.own(*range(SHARDS))

        async def broken(shard_id: object, thread_id: ThreadId) -> None:
            raise RuntimeError("a bug")

        node.env.journal.load = broken  # type: ignore[assignment]  # a bug
        me, chat = account(), thread()
        for _ in range(2):
            answer = await node.ask(create(chat, me), budget_s=60.0)
            assert isinstance(answer, Unavailable)
            assert answer.code is UnavailableCode.THREAD_POISONED
