"""Deadlines, attempts and connections, against a server that does what the test says."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import pytest
from threadcluster_client import (
    Client,
    ClientClosed,
    ConnectionFailed,
    DeadlineExceeded,
    Limits,
    MessageLimit,
    OutcomeUnknown,
    Overloaded,
    ProblemError,
    ThreadChanged,
    UnexpectedAnswer,
    WrongEventLoop,
)

from tests.client.scripted import ABORT, CHANGED, SILENCE, answer, problem, scripted
from tests.support.polling import eventually

THREAD = "01KB0000000000000000000007"
PAGE = answer('{"result":[],"nextCursor":null,"sequenceNr":1,"position":"1.1"}')


@pytest.mark.parametrize(
    "failure", [problem(503, "overloaded"), problem(503, "outcome-unknown"), problem(502, ""), ABORT, PAGE[:-9]]
)
async def test_a_command_is_sent_again_with_the_same_key_and_bytes(failure: bytes) -> None:
    """After each kind of failure; a half answer ends with its connection."""
    async with scripted(lambda number: CHANGED if number == 3 else failure) as server, client_of(server.url) as client:
        changed = await client.create_thread("A", "tïtle")
    assert changed == ThreadChanged("T", 1, "1.1", replayed=False)
    assert len({(each.headers["idempotency-key"], each.body) for each in server.requests}) == 1
    assert len(server.requests) == 3
    assert (
        server.requests[0].body == '{"accountId":"A","title":"tïtle","administratorIds":["A"],"memberIds":[]}'.encode()
    )


def client_of(url: str, **limits: float) -> Client:
    """A client that takes a silent server for a lost one soon."""
    return Client(url, limits=Limits(**{"idle_s": 0.3, "deadline_s": 5.0} | limits))  # type: ignore[arg-type]


async def test_a_connection_of_the_pool_that_died_unseen_costs_one_attempt() -> None:
    """The next attempt opens its own: the rest of the pool may be as dead."""
    silent = {3, 5}
    async with (
        scripted(lambda number: SILENCE if number in silent else CHANGED) as server,
        client_of(server.url) as client,
    ):
        await asyncio.gather(client.destroy_thread("T", "A"), client.destroy_thread("T", "A"))
        for _ in range(2):
            await client.destroy_thread("T", "A")
        connections = [each.connection for each in server.requests]
    assert connections[2] in (1, 2)
    assert connections[3] == 3


@pytest.mark.parametrize("code", ["overloaded", "outcome-unknown"])
async def test_a_wait_past_the_deadline_raises_at_once(code: str) -> None:
    """`Retry-After` is never cut short."""
    reply = problem(503, code, Retry_After=9)
    async with scripted(lambda _: reply) as server, client_of(server.url) as client:
        began = time.monotonic()
        with pytest.raises(Overloaded if code == "overloaded" else OutcomeUnknown) as caught:
            await client.destroy_thread("T", "A", idempotency_key="mine")
        assert time.monotonic() - began < 2.0
    error = caught.value
    assert (error.idempotency_key, error.attempts, error.retry_after_s) == ("mine", 1, 9.0)
    assert error.outcome_unknown is (code == "outcome-unknown")


async def test_retry_after_is_a_floor() -> None:
    """Chance only adds."""
    replies = [problem(503, "overloaded", Retry_After=1), CHANGED]
    async with scripted(lambda number: replies[number - 1]) as server, client_of(server.url) as client:
        began = time.monotonic()
        await client.destroy_thread("T", "A")
        assert time.monotonic() - began >= 1.0


@pytest.mark.parametrize("reply", [SILENCE, CHANGED[:-5], ABORT])
async def test_the_deadline_bounds_attempts_waits_and_bodies(reply: bytes) -> None:
    """Its error carries the key, and says that the command may be stored."""
    async with scripted(lambda _: reply) as server, client_of(server.url) as client:
        began = time.monotonic()
        with pytest.raises((DeadlineExceeded, ConnectionFailed)) as caught:
            await client.destroy_thread("T", "A", deadline_s=0.5)
        assert time.monotonic() - began < 2.0
        assert caught.value.outcome_unknown
        keys = {each.headers["idempotency-key"] for each in server.requests}
        assert keys == {caught.value.idempotency_key}
        assert caught.value.attempts == len(server.requests) > 1


async def test_the_deadline_bounds_the_wait_for_a_connection() -> None:
    """A command that was never sent cannot have been stored."""
    async with (
        scripted(lambda _: SILENCE) as server,
        client_of(server.url, connections=1, idle_s=9.0) as client,
    ):
        first = asyncio.create_task(client.destroy_thread("T", "A", deadline_s=9.0))
        await eventually(lambda: bool(server.requests))
        with pytest.raises(DeadlineExceeded) as caught:
            await client.destroy_thread("T", "A", deadline_s=0.2)
        assert (caught.value.attempts, caught.value.outcome_unknown) == (0, False)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await eventually(lambda: server.open == 0)


async def test_what_an_earlier_attempt_left_open_stays_open() -> None:
    """Until an answer says what became of it."""
    replies = [ABORT, problem(503, "overloaded", Retry_After=9)]
    async with scripted(lambda number: replies[number - 1]) as server, client_of(server.url) as client:
        with pytest.raises(Overloaded) as open_end:
            await client.destroy_thread("T", "A")
    assert open_end.value.outcome_unknown
    replies[1] = problem(409, "message-limit")
    async with scripted(lambda number: replies[number - 1]) as server, client_of(server.url) as client:
        with pytest.raises(MessageLimit) as refused:
            await client.add_messages("T", "A", ["x"])
    assert not refused.value.outcome_unknown


async def test_a_refused_connection_is_tried_again_and_stores_nothing() -> None:
    """Until the deadline."""
    async with scripted(lambda _: CHANGED) as server:
        pass
    async with client_of(server.url) as client:
        with pytest.raises((ConnectionFailed, DeadlineExceeded)) as caught:
            await client.destroy_thread("T", "A", deadline_s=0.5)
    assert caught.value.attempts > 1
    assert not caught.value.outcome_unknown


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (answer("<html>"), UnexpectedAnswer),
        (answer("[]"), UnexpectedAnswer),
        (answer("{}"), UnexpectedAnswer),
        (answer("", status=302, Location="/elsewhere"), ProblemError),
    ],
)
async def test_an_answer_of_something_else_is_no_success(reply: bytes, error: type[Exception]) -> None:
    """It is not tried again."""
    async with scripted(lambda _: reply) as server, client_of(server.url) as client:
        with pytest.raises(error):
            await client.destroy_thread("T", "A")
    assert len(server.requests) == 1


async def test_ids_and_keys_of_any_form_stay_in_their_place() -> None:
    """A thread's id is one part of the path."""
    async with scripted(lambda _: PAGE) as server, client_of(f"{server.url}/below/") as client:
        _ = [each async for each in client.messages("a/b?c#d", "A&b", limit=2, before="M")]
    assert server.requests[0].target == "/below/v1/threads/a%2Fb%3Fc%23d/messages?account_id=A%26b&limit=2&before=M"


async def test_a_walk_holds_no_connection_between_its_pages() -> None:
    """And it may be left at any time."""
    page = answer('{"results":["A","B"],"nextCursor":"c","sequenceNr":1,"position":"1.1"}')
    async with scripted(lambda _: page) as server, client_of(server.url, connections=1) as client:
        async for _ in client.members("T", "A", min_sequence_nr=7):
            assert await anext(client.administrators("T", "A").__aiter__()) == "A"
            if len(server.requests) > 5:
                break
        targets = [each.target for each in server.requests]
    assert targets[0] == "/v1/threads/T/member-ids?account_id=A&min_sequence_nr=7"
    assert "/v1/threads/T/member-ids?account_id=A&cursor=c" in targets


async def test_close_ends_what_is_under_way() -> None:
    """Calls that wait for an answer, for a connection, and for their next attempt."""
    replies = {1: SILENCE, 2: problem(503, "overloaded", Retry_After=60)}
    async with scripted(lambda number: replies[number]) as server:
        client = client_of(server.url, idle_s=60.0, deadline_s=120.0, connections=2)
        silent = asyncio.create_task(client.destroy_thread("T", "A"))
        await eventually(lambda: len(server.requests) == 1)
        paused = asyncio.create_task(client.destroy_thread("T", "A"))
        await eventually(lambda: len(server.requests) == 2)
        await client.close()
        for task in (silent, paused):
            with pytest.raises(ClientClosed):
                await task
        with pytest.raises(ClientClosed):
            await client.thread("T", "A")
        await eventually(lambda: server.open == 0)
        await client.close()


def test_another_event_loop_gets_one_clear_sentence() -> None:
    """For calls, streams and `close`."""

    async def use() -> Client:
        client = Client("http://127.0.0.1:9")
        with pytest.raises((ConnectionFailed, DeadlineExceeded)):
            await client.thread("T", "A", deadline_s=0.1)
        await client.close()
        return client

    async def misuse(call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(WrongEventLoop, match="make another client in each loop"):
            await call()

    client = asyncio.run(use())
    asyncio.run(misuse(lambda: client.thread("T", "A")))
    asyncio.run(misuse(lambda: anext(client.follow("T", "A"))))
    asyncio.run(misuse(client.close))


def map_of(url: str) -> bytes:
    """A map whose only worker owns the only shard."""
    worker = {"name": "a", "state": "ready", "address": url}
    return answer(json.dumps({"workers": [worker], "shards": [{"id": 0, "owner": "a"}]}))


async def test_a_call_on_a_thread_goes_to_its_owner() -> None:
    """Once the map was read; after a fault to the base address, with the same key; a call on no thread always there."""
    async with (
        scripted(lambda _: CHANGED) as base,
        scripted(lambda number: ABORT if number == 2 else CHANGED) as owner,
        scripted(lambda _: map_of(owner.url)) as place,
        Client(base.url, map_url=f"{place.url}/cluster") as client,
    ):
        await client.destroy_thread(THREAD, "A")
        assert (len(base.requests), len(owner.requests)) == (1, 0)

        async def led_to_owner() -> bool:
            await client.destroy_thread(THREAD, "A")
            return len(owner.requests) == 1

        await eventually(led_to_owner)
        before = len(base.requests)
        await client.create_thread("A", "t")
        await client.destroy_thread(THREAD, "A", idempotency_key="k")
        assert [request.target for request in base.requests[before:]] == [
            "/v1/threads/create",
            f"/v1/threads/{THREAD}/destroy",
        ]
        assert owner.requests[-1].headers["idempotency-key"] == base.requests[-1].headers["idempotency-key"] == "k"
        assert owner.requests[-1].target == base.requests[-1].target
        await client.destroy_thread(THREAD, "A")
        assert len(owner.requests) == 2  # not before the map is read again
    assert {request.target for request in place.requests} == {"/cluster"}


@pytest.mark.parametrize(
    "reply", [ABORT, SILENCE, answer("no map"), answer("{}", status=404), answer('{"pad":"' + "x" * (5 << 20) + '"}')]
)
async def test_without_a_map_every_call_goes_to_the_base_address(reply: bytes) -> None:
    """Whatever is at the map's."""
    async with (
        scripted(lambda _: CHANGED) as base,
        scripted(lambda _: reply) as place,
        Client(base.url, map_url=f"{place.url}/cluster") as client,
    ):
        await client.destroy_thread(THREAD, "A")
        await eventually(lambda: len(place.requests) == 1)
        for _ in range(3):
            await client.destroy_thread(THREAD, "A")
        assert len(base.requests) == 4


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://host", "http://", "http://host?a=b", "http://host#a"])
def test_a_url_that_is_none_is_refused_at_once(url: str) -> None:
    """With one that would do."""
    with pytest.raises(ValueError, match="is no base URL"):
        Client(url)
    with pytest.raises(ValueError, match="is no base URL"):
        Client("http://127.0.0.1:8080", map_url=url)
