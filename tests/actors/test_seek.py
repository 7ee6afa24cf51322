"""Asking the owner of a shard elsewhere: what is sent again, and what may be believed then."""

import asyncio
import time
from typing import Any

import pytest

from shard_worker.actors import admission, region
from shard_worker.actors.pending import NOT_SERVED, UNKNOWN
from shard_worker.contract import Done, PeerAnswer, PeerRequest, ReadThread, ThreadView
from shard_worker.domain.ids import ShardId, shard_of
from shard_worker.domain.refusals import Refusal
from shard_worker.ownership.view import ShardOwner
from shard_worker.peers.errors import PeerOverloaded, PeerUnreachable
from tests.support.node import SHARDS, Peers, account, add, create, node_on, thread, two_nodes


class Breaking(Peers):
    """A link that breaks ``times`` times after a request left; the owner gets the request, or does not."""

    breaks = 0
    arrives = True
    overloaded = False

    async def ask(self, address: tuple[str, int], request: PeerRequest, **how: Any) -> PeerAnswer:
        if self.overloaded:
            raise PeerOverloaded("enough")
        if self.breaks == 0:
            return await super().ask(address, request, **how)
        self.breaks -= 1
        if self.arrives:
            answer = self.handlers[address[1]].serve(request, how["budget_s"], how["epoch"], how["hops"])
            assert isinstance(answer, asyncio.Future)
            await answer
        raise PeerUnreachable("broken", sent=True)


async def test_a_keyed_command_whose_answer_was_lost_is_asked_for_again(dsn: str) -> None:
    """Whether it arrived or not it is stored once, and its client hears that it is done."""
    peers = Breaking()
    async with two_nodes(dsn, peers) as (left, right):
        me, chat = account(), thread()
        await right.ask(create(chat, me))
        for arrives in (True, False):
            peers.arrives, peers.breaks = arrives, 2
            assert isinstance(await right.ask(add(chat, me, f"{arrives}"), f"key {arrives}"), Done)
        assert await left.texts(chat, me) == ["True", "False"]


async def test_a_command_without_a_key_is_never_sent_twice(dsn: str) -> None:
    """The outcome is unknown, and the client gets that answer."""
    peers = Breaking()
    async with two_nodes(dsn, peers) as (left, right):
        me, chat = account(), thread()
        await right.ask(create(chat, me))
        peers.breaks = 1
        assert await right.ask(add(chat, me, "x")) == UNKNOWN
        assert await left.texts(chat, me) == ["x"]


async def test_after_a_lost_answer_only_a_success_is_certain(dsn: str) -> None:
    """A refusal, an overload or a budget that ran out would speak of the second sending alone."""
    peers = Breaking()
    async with two_nodes(dsn, peers) as (_, right):
        me, stranger, chat = account(), account(), thread()
        await right.ask(create(chat, me))
        assert isinstance(await right.ask(add(chat, stranger, "x"), "key"), Refusal)
        peers.breaks = 1
        assert await right.ask(add(chat, stranger, "x"), "another key") == UNKNOWN
        peers.breaks = 10**9
        assert await right.ask(add(chat, me, "x"), "third key", budget_s=0.3) == UNKNOWN
        peers.breaks, peers.overloaded = 0, True
        answer = await right.ask(add(chat, me, "x"), "fourth key")
        assert answer != UNKNOWN, "nothing of it had left"


async def test_a_read_is_asked_for_again_whatever_became_of_the_first(dsn: str) -> None:
    """It stores nothing."""
    peers = Breaking()
    async with two_nodes(dsn, peers) as (_, right):
        me, chat = account(), thread()
        await right.ask(create(chat, me))
        peers.breaks = 2
        assert isinstance(await right.ask(ReadThread(chat, me)), ThreadView)


async def test_a_worker_without_a_successor_refuses_waiting_requests(dsn: str) -> None:
    """All workers leave: nothing is stored, and the client gets that answer at once."""
    async with node_on(dsn, name="w0") as node:
        me, chat = account(), thread()
        waiting = asyncio.ensure_future(node.ask(create(chat, me), budget_s=60.0))
        await asyncio.sleep(0)
        node.owners.no_worker_stays = True
        node.owners.announce()
        async with asyncio.timeout(5):
            assert await waiting == NOT_SERVED
        assert shard_of(chat, SHARDS) not in node.table.shards


class Dead(Peers):
    """A worker that is gone: nothing can be sent to it."""

    async def ask(self, address: tuple[str, int], request: PeerRequest, **how: Any) -> PeerAnswer:
        self.asked += 1
        if not self.handlers:
            raise PeerUnreachable("refused", sent=False)
        return await super().ask(address, request, **how)


async def test_an_owner_that_cannot_be_reached_is_left_alone_for_a_while(dsn: str) -> None:
    """However often ownership is read meanwhile: a dead worker's address is not tried with every look."""
    peers = Dead()
    async with two_nodes(dsn, peers) as (_, right):
        peers.handlers = {}
        assert await right.ask(create(thread(), account()), budget_s=0.35) == NOT_SERVED
        assert right.owners.rung > 20, "it looked again and again"
        assert 2 <= peers.asked <= 4, "and asked once in a tenth of a second"


async def test_long_waiting_requests_are_admitted_one_after_another(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are answered in order once the owner is back; a later request does not wait for them."""
    monkeypatch.setattr(admission, "_PACED_AFTER_S", 0.0)
    monkeypatch.setattr(admission, "_PROBE_AGAIN_S", 3600.0)
    monkeypatch.setattr(region, "UNREACHABLE_S", 0.0)
    monkeypatch.setattr(admission, "_APART_S", 3600.0)  # requests after the first are admitted below
    peers = Dead()
    async with two_nodes(dsn, peers) as (left, right):
        me, chat = account(), thread()
        await right.ask(create(chat, me))
        handlers, peers.handlers = peers.handlers, {}
        waiting = [asyncio.ensure_future(right.ask(add(chat, me, f"{number}"))) for number in range(4)]
        while len(right.region._waiting) < 4:
            await asyncio.sleep(0)
        peers.handlers = handlers
        right.region._waiting.open(shard_of(chat, SHARDS))
        async with asyncio.timeout(5):
            assert isinstance(await waiting[0], Done)
            await right.ask(add(chat, me, "newcomer"))
            for number in (1, 2, 3):
                assert not any(later.done() for later in waiting[number:])
                right.region._waiting._let_in()
                assert isinstance(await waiting[number], Done)
        assert await left.texts(chat, me) == ["0", "newcomer", "1", "2", "3"]


async def test_thousands_that_wait_for_a_takeover_are_all_served_in_order(dsn: str) -> None:
    """Two thousand requests of all shards wait while ownership is read again and again: none is woken for nothing, and
    once the shards are taken over every one is answered, those of a thread in the order in which they came.
    """
    async with node_on(dsn, name="w0") as node:
        me, chats = account(), [thread() for _ in range(100)]
        await node.own(*range(SHARDS))
        for chat in chats:
            await node.ask(create(chat, me))
        for shard in range(SHARDS):
            node.host.drop(ShardId(shard))
            node.owners.records[shard] = ShardOwner("w9", "dead", 5, "127.0.0.1", 0, 9)
        node.region._peers = Dead()
        waiting = [
            asyncio.ensure_future(node.ask(add(chats[n % 100], me, f"{n // 100}"), budget_s=60.0)) for n in range(2_000)
        ]
        while len(node.region._waiting) < 2_000:
            await asyncio.sleep(0)
        asked = node.region._peers.asked
        loop, began = asyncio.get_running_loop(), time.thread_time()
        for _ in range(100):
            node.owners.announce()
            await asyncio.sleep(0)
        print(f"100 looks with 2,000 waiting: {(time.thread_time() - began) * 1000:.0f} ms of the loop's thread")
        assert node.region._peers.asked - asked <= 2 * SHARDS, "only the first of each line tries the dead owner"
        began_at = loop.time()
        await node.own(*range(SHARDS))
        assert all(isinstance(answer, Done) for answer in await asyncio.gather(*waiting))
        print(f"2,000 served within {loop.time() - began_at:.2f} s")
        for chat in chats[:5]:
            assert await node.texts(chat, me) == [f"{n}" for n in range(20)]
