"""Streams on a worker that does not own the thread, and while the thread's shard moves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from shard_worker.actors.region import UNREACHABLE_S
from shard_worker.contract import NO_STREAMS, Answer, Done, FollowThread, PeerAnswer, PeerRequest, Request
from shard_worker.domain.ids import ShardId, shard_of
from shard_worker.ownership.view import ShardOwner
from shard_worker.peers.errors import PeerUnreachable
from shard_worker.streams.hub import Asker
from tests.streams.rig import Streams, streams_on
from tests.support.node import SHARDS, Node, Peers, account, add, create, request, thread, two_nodes
from tests.support.polling import eventually


@asynccontextmanager
async def beside(dsn: str, peers: Peers) -> AsyncIterator[tuple[Node, Node, Streams]]:
    """Two workers, of which the first owns everything and the second serves the streams."""
    async with two_nodes(dsn, peers) as (left, right), streams_on(right, dsn, account=50) as streams:
        yield left, right, streams


async def move(from_: Node, to: Node, shard: int, port: int) -> None:
    """Hand a shard over, as the two workers and the third parties see it."""
    from_.host.drop(shard)  # type: ignore[arg-type]  # a shard's id
    await to.own(shard)
    epoch = await to.admin.fetchval("SELECT epoch FROM shard WHERE id = $1", shard)
    for node in (from_, to):
        node.owners.records[shard] = ShardOwner(to.name, to.incarnation, epoch, "127.0.0.1", 0, port)
        node.owners.announce()


async def test_one_request_follows_a_thread_at_its_owner_whatever_the_number_of_followers(dsn: str) -> None:
    """Each event is asked for once; the last follower that leaves takes the request along."""
    peers = Peers()
    async with beside(dsn, peers) as (left, _, streams):
        me, chat = account(), thread()
        await streams.do(create(chat, me))
        open_ = [await streams.follow(chat, me) for _ in range(20)]
        assert (streams.hub.followed_threads, streams.hub.relays) == (1, 1)
        taps = left.table.shards[shard_of(chat, SHARDS)]._taps
        await eventually(lambda: len(taps._taps[chat].waiting) == 1, what="one request")
        await streams.add(chat, me, "b")
        for listening in open_:
            await listening.until("2.1")
        before = peers.asked
        await left.ask(create(thread(), me))
        await streams.add(chat, me, "c", "d", "e")
        for listening in open_:
            assert await listening.until("5.1") == ["1.1", "2.1", "3.1", "4.1", "5.1"]
        assert peers.asked - before <= 3 + 4  # the commands themselves, and at most one request an event
        for listening in open_:
            listening.leave()
        await streams.settled()
        assert all(ask.done for ask in taps._taps[chat].waiting)


class _Breakable(Peers):
    """A link that breaks once, with every request on it, and works again at once."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = asyncio.Event()
        self.followed: list[FollowThread] = []
        """The requests for events since it broke."""

    async def ask(self, address: tuple[str, int], request: PeerRequest, **how: Any) -> PeerAnswer:
        asked = super().ask(address, request, **how)
        if self.broken.is_set():
            if isinstance(request, FollowThread):
                self.followed.append(request)
            return await asked
        work, broken = asyncio.ensure_future(asked), asyncio.ensure_future(self.broken.wait())
        try:
            await asyncio.wait((work, broken), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
        finally:
            work.cancel()
            broken.cancel()
        raise PeerUnreachable("broken", sent=True)


async def test_after_a_broken_link_commands_do_not_wait_behind_the_requests_for_events(dsn: str) -> None:
    """Each of those is answered at once, and is followed by those behind it."""
    peers, many = _Breakable(), 30
    async with beside(dsn, peers) as (left, right, streams):
        me, chats = account(), [thread() for _ in range(400)]
        chats = [chat for chat in chats if shard_of(chat, SHARDS) == 3][:many]
        for chat in chats:
            await streams.do(create(chat, me))
        for chat in chats:
            await streams.follow(chat, me)
        taps = left.table.shards[ShardId(3)]._taps._taps
        await eventually(lambda: sum(len(tap.waiting) for tap in taps.values()) == len(chats), what="requests")
        peers.broken.set()
        await eventually(lambda: bool(peers.followed), what="a request after the pause")
        assert peers.followed[0].tap == 0
        done = await right.region.ask(request(add(chats[0], me, "b"), None), len(chats) * UNREACHABLE_S / 2)
        assert isinstance(done, Done), done


async def test_a_stream_follows_its_shard_to_and_fro(dsn: str) -> None:
    """From the worker that serves the stream to another and back: each event once, in order, and no error."""
    async with beside(dsn, Peers()) as (left, right, streams):
        me, chat = account(), thread()
        shard = shard_of(chat, SHARDS)
        await streams.do(create(chat, me))
        live, late = await streams.follow(chat, me), await streams.follow(chat, me, "0")
        last = "1.1"
        for round_ in range(4):
            last = await streams.add(chat, me, f"before {round_}")
            here, there = (left, right) if round_ % 2 == 0 else (right, left)
            await move(here, there, shard, 2 if there is right else 1)
            last = await streams.add(chat, me, f"after {round_}")
        ids = await live.until(last)
        assert ids == (await late.until(last))[1:]
        assert [int(each.partition(".")[0]) for each in ids] == list(range(1, 10))
        assert [each.partition(".")[2] for each in ids] == ["1", "1", "2", "2", "3", "3", "4", "4", "5"]
        assert live.stream.parser.retry_ms is None


class _EarlierRelease:
    """An owner of a release before streams, as the link to it answers."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self.refused = 0

    async def ask(self, request: Request, budget_s: float) -> Answer:
        if hasattr(request, "command_id"):
            return await self._asker.ask(request, budget_s)
        self.refused += isinstance(request, FollowThread)
        return NO_STREAMS


async def test_an_owner_of_an_earlier_release_is_followed_through_the_journal(dsn: str) -> None:
    """During a rolling update a stream is slower, and nothing else."""
    async with beside(dsn, Peers()) as (_, _, streams):
        earlier = _EarlierRelease(streams.node.region)
        streams.hub.ask = streams.hub.opener._ask = earlier.ask
        me, chat = account(), thread()
        await streams.do(create(chat, me))
        await streams.add(chat, me, "b")
        listening = await streams.follow(chat, me, "1.1")
        now = await streams.follow(chat, me)
        await streams.add(chat, me, "c", "d")
        assert await listening.until("4.1") == ["1.1", "2.1", "3.1", "4.1"]
        assert await now.until("4.1") == ["2.1", "3.1", "4.1"]
        assert earlier.refused > 0


async def test_many_threads_are_followed_on_one_worker(dsn: str) -> None:
    """Each with its own request, which its end takes along."""
    async with beside(dsn, Peers()) as (left, _, streams):
        me = account()
        chats = [thread() for _ in range(20)]
        await asyncio.gather(*[streams.do(create(chat, me)) for chat in chats])
        open_ = await asyncio.gather(*[streams.follow(chat, me, "0") for chat in chats])
        await asyncio.gather(*[streams.add(chat, me, "b", "c") for chat in chats])
        for listening in open_:
            assert await listening.until("3.1") == ["0", "1.1", "2.1", "3.1"]
        assert streams.hub.relays == len(chats)
        for listening in open_:
            listening.leave()
        await streams.settled()
        assert left.env.pending_bytes == 0
