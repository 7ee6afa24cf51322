"""Streams: resuming, repeats, and whose the connections are."""

import asyncio
import gc
import json
from collections.abc import Sequence

import pytest
from threadcluster_client import (
    Client,
    ClientClosed,
    Event,
    Item,
    Limits,
    Reset,
    ThreadFailed,
    ThreadNotFound,
    ThreadPoisoned,
    UnexpectedAnswer,
)

from tests.client.scripted import ABORT, CHANGED, STREAM, answer, problem, scripted
from tests.support.polling import eventually

NO_CONTENT = b"HTTP/1.1 204 x\r\n\r\n"
OPEN = b": more comes"


def event(
    number: int, *, thread: str = "T", kind: str = "MessagesAdded", epoch: int = 1, id: str | None = None
) -> bytes:
    """One event; in an account's stream without an id."""
    line = f"id: {id}\n" if id else ""
    data = json.dumps({"threadId": thread, "sequenceNr": number, "epoch": epoch})
    return f"{line}event: {kind}\ndata: {data}\n\n".encode()


def of_thread(*numbers: int) -> bytes:
    """Events with their positions."""
    return b"".join(event(number, id=f"{number}.1") for number in numbers)


def error_event(status: int, code: str, thread: str | None = None) -> bytes:
    """A refusal in a stream."""
    fields = {"threadId": thread} if thread else {}
    return f"event: error\ndata: {json.dumps({**fields, 'status': status, 'code': code})}\n\n".encode()


def client_of(url: str) -> Client:
    """A client that takes a silent stream for a lost one soon."""
    return Client(url, limits=Limits(stream_idle_s=0.3, idle_s=0.3, connections=1))


def numbers(items: Sequence[Item]) -> list[int]:
    """The events' numbers."""
    return [item.sequence_nr for item in items if isinstance(item, Event)]


async def test_a_stream_goes_on_after_every_kind_of_fault_at_its_position() -> None:
    """Repeats are dropped; the position survives each failed attempt; the thread's end is the iterator's."""
    replies = [
        problem(503, "too-many-streams", Retry_After=0),
        STREAM + b"id: 4.1\n\n" + OPEN,  # then 0.3 s of silence
        ABORT,
        STREAM + b"id: 4.1\n\n" + of_thread(5, 6) + event(7, id="7.1")[:-5],  # half an event
        problem(502, ""),
        STREAM + of_thread(5, 6, 7) + error_event(503, "leaving") + OPEN,
        STREAM + of_thread(8) + b"retry: 1\n\n",
        STREAM + of_thread(9) + event(10, kind="ThreadDestroyed", id="10.1"),
    ]
    async with scripted(lambda number: replies[number - 1]) as server, client_of(server.url) as client:
        items = [item async for item in client.follow("T", "A", position="4.1")]
    assert numbers(items) == [5, 6, 7, 8, 9, 10]
    assert [item.position for item in items] == ["5.1", "6.1", "7.1", "8.1", "9.1", "10.1"]
    asked = [each.target.partition("after=")[2] for each in server.requests]
    assert asked == ["4.1", "4.1", "4.1", "4.1", "6.1", "6.1", "7.1", "8.1"]
    assert all("account_id=A" in each.target for each in server.requests)


async def test_a_stream_without_a_position_resumes_at_its_opening() -> None:
    """Events that come while it is away are not missed."""
    replies = [STREAM + b"id: 3.1\n\n", STREAM + of_thread(4) + OPEN]
    async with (
        scripted(lambda number: replies[number - 1]) as server,
        client_of(server.url) as client,
        client.follow("T", "A") as items,
    ):
        assert items.position is None
        assert numbers([await anext(items)]) == [4]
        assert [each.target for each in server.requests] == [
            "/v1/threads/T/events?account_id=A",
            "/v1/threads/T/events?account_id=A&after=3.1",
        ]
        await items.aclose()
        await eventually(lambda: server.open == 0)


async def test_the_position_is_never_ahead_of_the_items_that_were_taken() -> None:
    """Though more came in the same bytes."""
    bytes_of_one = event(1, thread="a") + event(1, thread="b") + b"id: p\n\n" + event(2, thread="a")
    async with (
        scripted(lambda _: STREAM + b"id: o\n\n" + bytes_of_one + OPEN) as server,
        client_of(server.url) as client,
        client.follow_account("A") as items,
    ):
        seen = [(item.position, items.position) for item in [await anext(items)]]
        seen += [(item.position, items.position) for item in [await anext(items)]]
        assert seen == [("o", "o"), ("o", "o")]
        item = await anext(items)
        assert (item.position, items.position) == ("p", "p")


async def test_an_accounts_stream_drops_repeats_and_shows_resets_and_failures() -> None:
    """A thread whose history cannot be read ends nothing."""
    reset = b'id: r\nevent: reset\ndata: {"threadId":null}\n\n'
    replies = [
        STREAM + b"id: o\n\n" + event(1, thread="a") + event(1, thread="b"),
        STREAM + event(1, thread="a") + event(2, thread="a") + error_event(503, "thread-poisoned", "b"),
        STREAM + reset + event(2, thread="a") + event(2, thread="a", epoch=2) + OPEN,
    ]
    async with (
        scripted(lambda number: replies[number - 1]) as server,
        client_of(server.url) as client,
        client.follow_account("A") as items,
    ):
        got = [await anext(items) for _ in range(6)]
    events = [(item.thread_id, item.sequence_nr, item.epoch) for item in got if isinstance(item, Event)]
    assert events == [("a", 1, 1), ("b", 1, 1), ("a", 2, 1), ("a", 2, 2)]
    failed = got[3]
    assert isinstance(failed, ThreadFailed)
    assert (failed.thread_id, type(failed.error), failed.position) == ("b", ThreadPoisoned, "o")
    assert got[4] == Reset(None, "r")
    assert [each.target for each in server.requests][1:] == ["/v1/accounts/A/events?after=o"] * 2


async def test_a_thread_that_lost_its_tail_goes_on_from_its_head() -> None:
    """The reset names the newest event that is left."""
    reset = b'id: 4.1\nevent: reset\ndata: {"threadId":"T","sequenceNr":4,"epoch":1}\n\n'
    replies = [STREAM + of_thread(5, 6), STREAM + reset + of_thread(4) + event(5, epoch=3, id="5.3") + OPEN]
    async with (
        scripted(lambda number: replies[number - 1]) as server,
        client_of(server.url) as client,
        client.follow("T", "A") as items,
    ):
        got = [await anext(items) for _ in range(4)]
    assert got[2] == Reset("T", "4.1")
    assert [item.position for item in got] == ["5.1", "6.1", "4.1", "5.3"]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (problem(404, "thread-not-found"), ThreadNotFound),
        (STREAM + error_event(404, "thread-not-found"), ThreadNotFound),
        (STREAM + error_event(503, "thread-poisoned"), ThreadPoisoned),
        (STREAM + b"data: {\n\n", UnexpectedAnswer),
        (STREAM + b"data: []\n\n", UnexpectedAnswer),
        (STREAM + b"event: reset\ndata: {}\n\n", UnexpectedAnswer),
        (answer("{}"), UnexpectedAnswer),
    ],
)
async def test_a_refusal_ends_the_iterator(reply: bytes, error: type[Exception]) -> None:
    """After one attempt, and its connection is given back."""
    async with scripted(lambda _: reply) as server, client_of(server.url) as client:
        with pytest.raises(error):
            await anext(client.follow("T", "A"))
        await eventually(lambda: server.open == 0)
    assert len(server.requests) == 1


async def test_a_caller_that_gives_up_waiting_may_ask_again() -> None:
    """The stream is opened again where the caller is: the rest of what came in the same bytes is not missed."""
    replies = [STREAM + of_thread(1) + OPEN, STREAM + of_thread(2, 3) + OPEN]
    async with (
        scripted(lambda number: replies[number - 1]) as server,
        Client(server.url) as client,
        client.follow("T", "A") as items,
    ):
        got = [await anext(items)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(items), 0.1)
        got += [await anext(items), await anext(items)]
        assert numbers(got) == [1, 2, 3]
        assert server.requests[1].target.endswith("after=1.1")


async def test_the_end_of_a_destroyed_thread_ends_the_iterator() -> None:
    """204: there is no more of it."""
    async with scripted(lambda _: NO_CONTENT) as server, client_of(server.url) as client:
        assert [item async for item in client.follow("T", "A", position="9.1")] == []


async def test_break_error_cancellation_and_close_give_connections_back() -> None:
    """And streams take nothing of the commands' limit, which is one here."""

    def reply(number: int) -> bytes:
        return CHANGED if "destroy" in server.requests[number - 1].target else STREAM + of_thread(1) + OPEN * 20_000

    async with scripted(reply) as server, client_of(server.url) as client:
        held = [client.follow("T", "A") for _ in range(3)]
        for items in held:
            await anext(items)
        await client.destroy_thread("T", "A")
        base = server.open
        async for _ in client.follow("T", "A"):
            break
        with pytest.raises(ZeroDivisionError):
            await _fail_in_the_loop(client)
        gc.collect()
        task = asyncio.create_task(_take_all(client))
        await eventually(lambda: len(server.requests) == 7)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: server.open <= base)
        waiting = asyncio.create_task(_take_all(client))
        await eventually(lambda: server.open == base + 1)
        await client.close()
        with pytest.raises(ClientClosed):
            await waiting
        with pytest.raises(ClientClosed):
            await anext(held[0])
        await eventually(lambda: server.open == 0)


async def _fail_in_the_loop(client: Client) -> None:
    async for item in client.follow("T", "A"):
        print(1 // (item.position == ""))


async def _take_all(client: Client) -> None:
    async for _ in client.follow("T", "A"):
        pass
