"""The edge of HTTP: what is not a request, what is too large, what never comes to an end."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from shard_worker.gateway.http.connection import UnsuitableAiohttp, check_aiohttp
from shard_worker.gateway.http.options import GatewayOptions
from tests.fakes.memory_threads import MemoryThreads
from tests.gateway.bodies import PATH, body_of_size
from tests.gateway.serving import ADA, THREAD, Served, serving
from tests.support.polling import eventually
from tests.support.problem_checks import check
from tests.support.wire import JSON_TYPE, Wire, request_bytes

LIMIT = 1024 * 1024


@pytest.fixture
async def hasty(threads: MemoryThreads) -> AsyncIterator[Served]:
    """A gateway that waits only 0.2 s for a request."""
    async with serving(threads, GatewayOptions(request_timeout_s=0.2)) as served:
        yield served


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"hello\r\n\r\n", 400, "malformed-http"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "malformed-http"),
        (b"GET / HTTP/1.1\r\nHost test\r\n\r\n", 400, "malformed-http"),
        (b"GET / HTTP/9.9\r\nHost: test\r\n\r\n", 400, "malformed-http"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "malformed-http"),
        (b"FETCH / HTTP/1.1\r\nHost: test\r\n\r\n", 400, "malformed-http"),
        (b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: x\r\n\r\n", 400, "malformed-http"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "malformed-http"),
        (b"GET /%b HTTP/1.1\r\nHost: test\r\n\r\n" % (b"a" * 9_000), 414, "target-too-long"),
        (b"GET / HTTP/1.1\r\nHost: test\r\nX: %b\r\n\r\n" % (b"a" * 9_000), 431, "headers-too-large"),
        (b"GET / HTTP/1.1\r\nHost: test\r\n%b: x\r\n\r\n" % (b"a" * 9_000), 431, "headers-too-large"),
        (b"GET / HTTP/1.1\r\nHost: test\r\n%b\r\n" % (b"X: y\r\n" * 200), 431, "headers-too-large"),
    ],
    ids=[
        "words",
        "tls",
        "no colon",
        "version",
        "no host",
        "method",
        "length",
        "lengths",
        "target",
        "field",
        "name",
        "fields",
    ],
)
async def test_what_is_no_request_is_a_problem_and_the_end(api: Served, raw: bytes, status: int, code: str) -> None:
    """Always the same shape, always the end of the connection, never a word of what was sent."""
    wire = await Wire.open(api.port)
    wire.send(raw)
    answered = check(await wire.answer(), status, code)
    assert answered.headers["connection"] == "close"
    assert await wire.ended()


async def test_a_body_of_exactly_the_limit_is_allowed(api: Served) -> None:
    """1 MiB is not too much, one byte more is."""
    await api.create()
    assert (await api.post(PATH, body_of_size(LIMIT))).status == 200
    check(await api.post(PATH, body_of_size(LIMIT + 1)), 413, "body-too-large")


async def test_the_limit_holds_for_chunks(api: Served) -> None:
    """A body that does not tell its length is counted as it comes."""
    await api.create()
    for size, status in ((LIMIT, 200), (LIMIT + 1, 413)):
        head = request_bytes("POST", PATH, headers=(JSON_TYPE, ("Transfer-Encoding", "chunked")))
        answered = await api.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (size, body_of_size(size)))
        assert answered.status == status


async def test_413_comes_before_the_body_does(api: Served) -> None:
    """A length over the limit is refused at once."""
    wire = await Wire.open(api.port)
    wire.send(request_bytes("POST", PATH, headers=(JSON_TYPE, ("Content-Length", str(LIMIT + 1)))))
    answered = check(await wire.answer(), 413, "body-too-large")
    assert answered.headers["connection"] == "close"
    await wire.close()


async def test_a_client_that_expects_a_go_ahead_gets_it(api: Served) -> None:
    """``Expect: 100-continue`` is answered before the body is awaited, but not when it is too large."""
    await api.create()
    body = body_of_size(2_000)
    headers = (JSON_TYPE, ("Expect", "100-continue"))
    wire = await Wire.open(api.port)
    wire.send(request_bytes("POST", PATH, headers=(*headers, ("Content-Length", str(len(body))))))
    assert (await wire.answer()).status == 100
    wire.send(body)
    assert (await wire.answer()).status == 200
    wire.send(request_bytes("POST", PATH, headers=(*headers, ("Content-Length", str(LIMIT + 1)))))
    assert (await wire.answer()).status == 413
    await wire.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /docs HTTP/1.1\r\nHost:",
        b"POST %b HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{" % PATH.encode(),
        b"POST %b HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"
        % PATH.encode(),
    ],
    ids=["head", "body", "chunk"],
)
async def test_408_what_stops_coming(hasty: Served, raw: bytes) -> None:
    """Half a head, half a body, half a chunk: refused in time, and the connection ends."""
    wire = await Wire.open(hasty.port)
    wire.send(raw)
    answered = check(await wire.answer(), 408, "request-timeout")
    assert answered.headers["connection"] == "close"
    assert await wire.ended()


async def test_408_dripping_does_not_help(hasty: Served) -> None:
    """The time counts from the first byte, head and body together."""
    wire = await Wire.open(hasty.port)
    head = b"POST %b HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"

    async def drip() -> None:
        for byte in head % PATH.encode():
            wire.send(bytes([byte]))
            await asyncio.sleep(0.001)
        while True:
            wire.send(b" ")
            await asyncio.sleep(0.005)

    dripping = asyncio.create_task(drip())
    begun = asyncio.get_running_loop().time()
    try:
        check(await wire.answer(), 408, "request-timeout")
    finally:
        dripping.cancel()
    assert asyncio.get_running_loop().time() - begun < 2.0


async def test_an_idle_connection_is_not_refused(hasty: Served) -> None:
    """Waiting for the next request is no fault: nothing of it has come."""
    await hasty.create()
    wire = await Wire.open(hasty.port)
    for _ in range(2):
        wire.send(request_bytes("POST", PATH, headers=(JSON_TYPE,), body=body_of_size(100)))
        assert (await wire.answer()).status == 200
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await wire.answer()
    await wire.close()


@pytest.mark.parametrize("apart", [False, True], ids=["at once", "later"])
async def test_400_a_bad_chunk(api: Served, apart: bool) -> None:
    """Chunks that stop making sense end the request, whether or not it has begun to be handled."""
    wire = await Wire.open(api.port)
    wire.send(request_bytes("POST", PATH, headers=(JSON_TYPE, ("Transfer-Encoding", "chunked"))) + b"1\r\n{\r\n")
    if apart:
        await eventually(lambda: api.gateway.metrics.in_flight == 1)
    wire.send(b"zz\r\n")
    answered = check(await wire.answer(), 400, "malformed-http")
    assert answered.headers["connection"] == "close"
    assert await wire.ended()


async def test_a_client_that_disconnects_disturbs_no_other(api: Served, caplog: pytest.LogCaptureFixture) -> None:
    """A connection lost in the middle of a body is no fault worth an error in the log."""
    wire = await Wire.open(api.port)
    wire.send(request_bytes("POST", PATH, headers=(JSON_TYPE, ("Content-Length", "100"))) + b"{")
    await eventually(lambda: api.gateway.metrics.in_flight == 1)
    await wire.close()
    await eventually(lambda: api.gateway.metrics.in_flight == 0)
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


async def test_a_client_that_leaves_in_the_middle_of_a_head_is_forgotten(api: Served) -> None:
    """With its timer."""
    wire = await Wire.open(api.port)
    wire.send(b"GET /docs HT")
    await eventually(lambda: api.gateway.connections == 1)
    await wire.close()
    await eventually(lambda: api.gateway.connections == 0)


async def test_a_slow_reader_gets_everything(api: Served) -> None:
    """Answers wait for the client to read; none is lost, and the next request waits too."""
    await api.create()
    for _ in range(5):
        await api.add(*["x" * 4_000] * 100)
    wire = await Wire.open(api.port)
    get = request_bytes("GET", f"/v1/threads/{THREAD}/messages?account_id={ADA}&limit=500")
    wire.send(get * 8)
    sizes = {len((await wire.answer()).body) for _ in range(8)}
    assert len(sizes) == 1
    await wire.close()


async def test_a_client_that_never_reads_is_cut_off(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot hold its answers in the worker's memory without a limit."""
    monkeypatch.setattr("shard_worker.gateway.http.response.READER_PATIENCE_S", 0.1)
    await api.create()
    for _ in range(5):
        await api.add(*["x" * 4_000] * 100)
    with socket.create_connection(("127.0.0.1", api.port)) as mute:
        get = request_bytes("GET", f"/v1/threads/{THREAD}/messages?account_id={ADA}&limit=500")
        mute.sendall(get * 8)
        await eventually(lambda: api.gateway.connections == 1)
        await eventually(lambda: api.gateway.connections == 0)


async def test_pipelined_requests_are_answered_in_order(api: Served) -> None:
    """Several requests in one segment, then an end."""
    wire = await Wire.open(api.port)
    wire.send(request_bytes("GET", "/nothing") + request_bytes("OPTIONS", "/docs") + request_bytes("POST", "/docs"))
    assert [(await wire.answer()).status for _ in range(3)] == [404, 204, 405]
    await wire.close()


async def test_http_1_0_is_served(api: Served) -> None:
    """Closing by default, staying when asked."""
    wire = await Wire.open(api.port)
    wire.send(b"OPTIONS /docs HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert (await wire.answer()).headers["connection"] == "keep-alive"
    wire.send(b"OPTIONS /docs HTTP/1.0\r\n\r\n")
    assert (await wire.answer()).headers["connection"] == "close"
    assert await wire.ended()


async def test_a_target_in_absolute_form_is_served(api: Served) -> None:
    """As a proxy writes it."""
    answered = await api.send(request_bytes("OPTIONS", "http://test/docs?a=1"))
    assert answered.status == 204


async def test_an_upgrade_is_not_taken(api: Served) -> None:
    """The request is answered as if nothing had been asked."""
    headers = (("Connection", "Upgrade"), ("Upgrade", "websocket"))
    assert (await api.send(request_bytes("GET", "/nothing", headers=headers))).status == 404


def test_missing_parts_of_aiohttp_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release of aiohttp without the hooks is refused at start, by their names."""
    monkeypatch.setattr("shard_worker.gateway.http.connection._NEEDED", ("data_received", "gone_for_ever"))
    with pytest.raises(UnsuitableAiohttp, match="gone_for_ever"):
        check_aiohttp()
