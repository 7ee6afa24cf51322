"""Requests for streams: what is refused, what the head says, and how a worker ends its streams."""

import asyncio
from contextlib import suppress

import pytest

from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.streams import hub
from tests.streams.rig import streams_on
from tests.support.node import SHARDS, account, create, node_on, thread
from tests.support.polling import eventually
from tests.support.problem_checks import check


async def test_what_is_no_request_for_a_stream_is_refused(dsn: str) -> None:
    """All that is wrong with it, by name."""
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        me, chat = account(), thread()
        bad = await streams.refused(chat, me, "&after=x&lastEventId=1.&min_sequence_nr=3", ("Last-Event-ID", "-1"))
        named = {message.partition(":")[0] for message in check(bad, 400, "validation-failed").json["error_messages"]}
        assert named == {"after", "lastEventId", "min_sequence_nr", "Last-Event-ID"}
        twice = await streams.refused(chat, me, "", ("Last-Event-ID", "1"), ("Last-Event-ID", "1"))
        check(twice, 400, "validation-failed")
        check(await streams.api.get(f"/v1/threads/{chat}/events"), 400, "validation-failed")
        check(await streams.api.get(f"/v1/threads/x/events?account_id={me}"), 400, "validation-failed")
        for accepted in ("application/json", "text/html, text/event-stream;q=0", "*/*;q=0.0"):
            check(await streams.refused(chat, me, "", ("Accept", accepted)), 406, "not-acceptable")
        head = await streams.api.send(
            f"HEAD /v1/threads/{chat}/events?account_id={me} HTTP/1.1\r\nHost: test\r\n\r\n".encode(), head=True
        )
        assert (head.status, head.headers["allow"]) == (405, "GET, OPTIONS")


async def test_the_head_keeps_proxies_from_holding_events_back(dsn: str) -> None:
    """Neither stored, nor transformed, nor buffered; and pages of other origins may read it where they are allowed."""
    options = GatewayOptions(cors_origins=("https://chat.example",), allowed_hosts=("127.0.0.1",))
    async with node_on(dsn) as node, streams_on(node, dsn, options) as streams:
        await node.own(*range(SHARDS))
        me, chat = account(), thread()
        await streams.do(create(chat, me))
        listening = await streams.follow(chat, me, "", after="")
        head = listening.stream.headers.lower()
        for line in (
            "content-type: text/event-stream",
            "cache-control: no-store, no-transform",
            "x-accel-buffering: no",
            "connection: close",
            "vary: origin",
        ):
            assert line in head
        assert "content-length" not in head
        assert "content-encoding" not in head
        check(await streams.refused(chat, me, "", ("Origin", "https://chat.example")), 421, "misdirected-request")


async def test_beyond_a_cap_a_stream_is_refused_and_none_is_ended(dsn: str) -> None:
    """An account's and the worker's; a stream that ends makes place."""
    async with node_on(dsn) as node, streams_on(node, dsn, account=2, worker=3) as streams:
        await node.own(*range(SHARDS))
        me, other, mine, theirs = account(), account(), thread(), thread()
        await streams.do(create(mine, me))
        await streams.do(create(theirs, other))
        open_ = [await streams.follow(mine, me), await streams.follow(mine, me)]
        waits = [
            check(await streams.refused(mine, me), 503, "too-many-streams").headers["retry-after"] for _ in range(20)
        ]
        assert len(set(waits)) > 1
        open_.append(await streams.follow(theirs, other))
        check(await streams.refused(theirs, other), 503, "too-many-streams")
        open_[0].leave()
        await eventually(lambda: streams.hub.open_streams == 2)
        await streams.follow(mine, me)
        assert not open_[1].stream.ended.done()


async def test_openings_under_way_count_in_the_caps(dsn: str) -> None:
    """Each searches the history, and may take long."""
    async with node_on(dsn) as node, streams_on(node, dsn, account=2, worker=3) as streams:
        hub, me, other, chat = streams.hub, account(), account(), thread()
        openings = [hub.open(chat, me, None) for _ in range(2)]  # of a shard without an owner
        assert (hub.has_place(me), hub.has_place(me, openings[0]), hub.has_place(other)) == (False, True, True)
        openings.append(hub.open(chat, other, None))
        assert (hub.has_place(other), hub.has_place(other, openings[2])) == (False, True)
        for opening in openings:
            opening.cancel()
        await asyncio.wait(openings)
        assert hub.has_place(me)


async def test_a_client_that_ended_before_its_stream_began_keeps_none(dsn: str) -> None:
    """Else its stream would be open for as long as its host lives."""
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me, chat = account(), thread()
        await streams.do(create(chat, me))
        reader, writer = await asyncio.open_connection("127.0.0.1", streams._target.port)
        writer.write(f"GET /v1/threads/{chat}/events?account_id={me} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        writer.write_eof()
        async with asyncio.timeout(10):
            with suppress(ConnectionResetError):
                await reader.read()
        writer.transport.abort()
        await streams.settled()


async def test_every_stream_beats(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one timer; also one whose thread cannot be had."""
    monkeypatch.setattr(hub, "_BEAT_S", 0.01)
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me, chat = account(), thread()
        await streams.do(create(chat, me))
        listening = await streams.follow(chat, me)
        await eventually(lambda: listening.stream.parser.comments > 2, what="heart-beats")


async def test_a_leaving_worker_ends_its_streams_and_says_when_to_come_back(dsn: str) -> None:
    """At different times; what is open holds no drain, and new ones are refused."""
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me, chat = account(), thread()
        await streams.do(create(chat, me))
        open_ = [await streams.follow(chat, me) for _ in range(10)]
        assert streams.gateway.metrics.in_flight == 0
        assert streams.gateway.connections == 0
        streams.gateway.leave()
        check(await streams.refused(chat, me), 503, "leaving")
        await streams.add(chat, me, "still delivered")
        await open_[0].until("2.1")
        async with asyncio.timeout(10):
            await streams.gateway.drain(60)
        for listening in open_:
            await listening.end()
        retries = [listening.stream.parser.retry_ms for listening in open_]
        assert all(retry is not None and 500 <= retry <= 5000 for retry in retries)
        assert len(set(retries)) > 1
        await streams.settled()


async def test_a_stream_opens_while_the_shard_has_no_owner(dsn: str) -> None:
    """The answer begins, and what turns out later is an event: the stream goes on, or it is refused."""
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me, chat = account(), thread()
        await streams.do(create(chat, me))
        for shard in range(SHARDS):
            node.host.drop(shard)  # type: ignore[arg-type]  # a shard's id
        waiting = [asyncio.create_task(streams.follow(chat, who, "0")) for who in (me, account())]
        await eventually(lambda: streams.hub.open_streams == 2, what="two answers that have begun")
        await node.own(*range(SHARDS))
        reader, stranger = [await each for each in waiting]
        assert await reader.until("1.1") == ["0", "1.1"]
        assert await stranger.end() == ["error"]
        assert stranger.events[0].json["code"] == "thread-not-found"


async def test_nothing_follows_the_request_of_a_stream(dsn: str) -> None:
    """Later bytes are thrown away, too many of them end it, and a client that ends its half has gone."""
    async with node_on(dsn) as node, streams_on(node, dsn) as streams:
        await node.own(*range(SHARDS))
        me, chat = account(), thread()
        await streams.do(create(chat, me))
        pipelining, flooding, ending = [await streams.follow(chat, me) for _ in range(3)]
        for listening in (pipelining, flooding, ending):
            assert listening.stream.transport is not None
        pipelining.stream.transport.write(b"GET /v1/threads HTTP/1.1\r\nHost: test\r\n\r\n")  # type: ignore[union-attr]  # as asserted
        flooding.stream.transport.write(b"x" * (1 << 20))  # type: ignore[union-attr]  # as above
        ending.stream.transport.write_eof()  # type: ignore[union-attr]  # as above
        await eventually(lambda: streams.hub.open_streams == 1, what="one stream")
        await streams.add(chat, me, "b")
        assert await pipelining.until("2.1") == ["1.1", "2.1"]
        assert pipelining.types == ["MessagesAdded"]
