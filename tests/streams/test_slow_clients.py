"""Clients that do not read: what waits for them is bounded, and the others do not notice."""

import asyncio
from itertools import pairwise
from typing import cast

import pytest

from shard_worker.contract import Done
from shard_worker.domain.commands import AddMessages, NewMessage
from shard_worker.domain.ids import AccountId, ThreadId
from shard_worker.gateway.http.capacity import Bounds, Capacity
from shard_worker.gateway.http.event_stream import EventStream
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.streams import catching_up
from shard_worker.streams.follower import ThreadFollower
from shard_worker.streams.metrics import StreamMetrics
from tests.streams.rig import Listening, Streams, streams_on
from tests.support.node import SHARDS, account, create, message_id, node_on, thread
from tests.support.polling import eventually

_BIG = 60
"""Messages of 4,000 characters in a command: 240 kB an event."""


async def add_big(streams: Streams, chat: ThreadId, by: AccountId) -> str:
    """The position after a big event."""
    messages = tuple(NewMessage(message_id(), "x" * 4_000, None, ()) for _ in range(_BIG))
    done = await streams.node.ask(AddMessages(chat, by, messages, 1))
    assert isinstance(done, Done)
    return f"{done.sequence_nr}.{done.epoch}"


def stall(listening: Listening) -> None:
    """Read no more."""
    assert listening.stream.transport is not None
    listening.stream.transport.pause_reading()


async def test_a_live_client_that_does_not_read_is_dropped_and_resumes(dsn: str) -> None:
    """The others have every event meanwhile; what waits stays within the port's bound."""
    options = GatewayOptions(bounds=Bounds(answer_bytes=2 << 20))
    async with node_on(dsn) as node, streams_on(node, dsn, options) as streams:
        await node.own(*range(SHARDS))
        me, chat = account(), thread()
        await streams.do(create(chat, me))
        reader = await streams.follow(chat, me)
        stalled = [await streams.follow(chat, me) for _ in range(5)]
        await eventually(lambda: all(each.live for each in streams.hub._followers), what="live streams")
        for listening in stalled:
            stall(listening)
        worst = 0
        last = ""
        for _ in range(60):
            last = await add_big(streams, chat, me)
            worst = max(worst, streams.gateway.capacity.answer_bytes)
            if streams.hub.open_streams == 1:
                break
        await reader.until(last)
        await eventually(lambda: streams.hub.open_streams == 1, what="the reader's stream alone")
        assert worst <= (2 << 20) + (1 << 20)
        for listening in stalled:
            assert listening.stream.transport is not None
            listening.stream.transport.resume_reading()
            await listening.end()
        resumed = await streams.follow(chat, me, stalled[0].ids[-1])
        await resumed.until(last)
        numbers = [int(each.partition(".")[0]) for each in stalled[0].ids + resumed.ids[1:]]
        assert numbers == list(range(1, int(last.partition(".")[0]) + 1))


async def test_a_client_that_reads_its_history_slowly_is_not_dropped(dsn: str) -> None:
    """The worker keeps a page for it, and no more, while events go on."""
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me, chat = account(), thread()
        await streams.do(create(chat, me))
        for _ in range(40):
            last = await add_big(streams, chat, me)
        slow = [await streams.follow(chat, me, "0") for _ in range(3)]
        for listening in slow:
            stall(listening)
        await eventually(lambda: streams.gateway.capacity.answer_bytes > 0, what="clients that do not read")
        last = await add_big(streams, chat, me)
        assert streams.gateway.capacity.answer_bytes <= len(slow) * (600 << 10)
        for listening in slow:
            assert listening.stream.transport is not None
            listening.stream.transport.resume_reading()
            numbers = [int(each.partition(".")[0]) for each in await listening.until(last)]
            assert numbers == list(range(int(last.partition(".")[0]) + 1))
        assert streams.hub.metrics.dropped == 0


async def test_a_client_that_never_reads_its_history_is_dropped(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a minute, here less."""
    monkeypatch.setattr(catching_up, "_STALLED_S", 0.05)
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me, chat = account(), thread()
        await streams.do(create(chat, me))
        for _ in range(40):
            await add_big(streams, chat, me)
        stalled = await streams.follow(chat, me, "0")
        stall(stalled)
        await eventually(lambda: streams.hub.metrics.dropped == 1, what="the drop")
        await streams.settled()


async def test_a_page_waits_for_a_client_that_reads_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as it takes something; and for place not for good."""
    for place, unsent, kept in ((True, [9, 8, 7, 0], True), (True, [9, 8, 8], False), (False, [], False)):
        monkeypatch.setattr(catching_up, "_NO_PLACE_S", 60.0 if place else 0.0)
        hub = _Host()
        sink = _SlowSink(unsent, place=place)
        follower = ThreadFollower(hub, sink, thread(), account())
        assert await catching_up._write(follower, b"page") == kept
        assert (hub.metrics.dropped, follower.over) == (int(not kept), not kept)


async def test_what_clients_leave_unread_of_one_event_is_counted() -> None:
    """Also of those that had left some unread before: the bound holds for all together, and no reader is dropped for it."""
    loop, capacity = asyncio.get_running_loop(), Capacity(Bounds(answer_bytes=2 << 20))
    transports = [_FullTransport() for _ in range(50)]
    followers = []
    for transport in transports:
        stream = EventStream(cast("asyncio.Transport", transport), capacity, loop)
        capacity.clients[stream] = None
        stream.pause_writing()
        followers.append(ThreadFollower(_Host(), stream, thread(), account()))
    sent = [follower.send(b"x" * (200 << 10)) for follower in followers]
    assert sent == [True] * 5 + [False] * 45
    assert capacity.answer_bytes == sum(transport.size for transport in transports)
    assert not any(follower.over for follower in followers)


class _Host:
    def __init__(self) -> None:
        self.metrics = StreamMetrics()

    def forget(self, follower: ThreadFollower) -> None:
        """Nothing to forget."""


class _FullTransport:
    """A transport whose client does not read."""

    def __init__(self) -> None:
        self.size = 17 << 10

    def write(self, data: bytes) -> None:
        self.size += len(data)

    def get_write_buffer_size(self) -> int:
        return self.size

    def is_closing(self) -> bool:
        return False


class _SlowSink:
    """A client that has so much unread after each round."""

    def __init__(self, unread: list[int], *, place: bool) -> None:
        self._unread, self._place = unread, place
        self.paused = True

    def write(self, data: bytes) -> None:
        """Take it."""

    def unsent(self) -> int:
        return self._unread[0]

    def may_hold(self, size: int) -> bool:
        return self._place and size > 0

    def count_unsent(self) -> None:
        """Another test counts."""

    async def drained(self, within_s: float) -> bool:
        self._unread.pop(0)
        self.paused = self._unread[0] > 0
        return within_s > 0 and not self.paused

    def end(self, data: bytes) -> None:
        """Take it."""

    def abort(self) -> None:
        """Go."""


async def test_thousands_of_followers_do_not_hold_the_loop(dsn: str) -> None:
    """Events go out in slices: another callback has its turn between any two of them."""
    async with node_on(dsn) as node, streams_on(node, dsn, account=3_000, worker=3_000) as streams:
        await node.own(*range(SHARDS))
        me, chat = account(), thread()
        await streams.do(create(chat, me))
        hub, loop = streams.hub, asyncio.get_running_loop()
        sinks = [_CountingSink() for _ in range(2_000)]
        for sink in sinks:
            hub.begin(sink, chat, me, hub.open(chat, me, None))
        await eventually(lambda: len(hub._feeds[chat]._live) == len(sinks) if chat in hub._feeds else False)
        turns: list[int] = [hub.metrics.delivered]
        every = hub.metrics.delivered + len(sinks)

        def look() -> None:
            turns.append(hub.metrics.delivered)
            if turns[-1] < every:
                loop.call_soon(look)

        look()
        await streams.add(chat, me, "b")
        await eventually(lambda: turns[-1] == every, what="every delivery")
        assert {sink.frames for sink in sinks} == {2}
        assert max(after - before for before, after in pairwise(turns)) <= 256


class _CountingSink:
    """A client that takes everything."""

    paused = False

    def __init__(self) -> None:
        self.frames = 0

    def write(self, data: bytes) -> None:
        self.frames += data.startswith(b"id:")

    def unsent(self) -> int:
        return 0

    def may_hold(self, size: int) -> bool:
        return size >= 0

    def count_unsent(self) -> None:
        """Nothing waits."""

    async def drained(self, within_s: float) -> bool:
        return within_s > 0

    def end(self, data: bytes) -> None:
        """Take it."""

    def abort(self) -> None:
        """Go."""
