"""Connections: what follows the last request, what is bounded, and that every client gets the answer it may have."""

import asyncio
import gc
import socket
import tracemalloc
from collections.abc import AsyncIterator
from itertools import pairwise
from types import FrameType

import pytest
from aiohttp.streams import StreamReader

from shard_worker.gateway.http.capacity import Bounds, overloaded
from shard_worker.gateway.http.connection import WRITE_HIGH_BYTES, GatewayConnection
from shard_worker.gateway.http.options import GatewayOptions
from tests.fakes.memory_threads import MemoryThreads
from tests.gateway.bodies import PATH, body_of_size
from tests.gateway.serving import ADA, THREAD, Served, serving
from tests.support.polling import eventually
from tests.support.problem_checks import check
from tests.support.wire import JSON_TYPE, Wire, request_bytes

GET = request_bytes("GET", "/nothing")
SMUGGLED = request_bytes("GET", "/openapi.json")
POST = request_bytes("POST", PATH, headers=(JSON_TYPE,), body=body_of_size(100))
PAGE = request_bytes("GET", f"/v1/threads/{THREAD}/messages?account_id={ADA}&limit=500")


@pytest.fixture(params=[True, False], ids=["lane", "long way"])
def lane(request: pytest.FixtureRequest) -> bool:
    """Commands are answered alike, whichever way they take."""
    return bool(request.param)


@pytest.fixture
async def hasty(threads: MemoryThreads) -> AsyncIterator[Served]:
    """A gateway that waits only 0.3 s for a request, and longer for the next one."""
    async with serving(threads, GatewayOptions(request_timeout_s=0.3)) as served:
        yield served


def upgrade_to(protocol: str, *more: tuple[str, str], method: str = "GET", body: bytes | None = None) -> bytes:
    """A request for another protocol."""
    headers = (("Connection", "Upgrade"), ("Upgrade", protocol), *more)
    return request_bytes(method, "/nothing" if method == "GET" else PATH, headers=headers, body=body)


@pytest.mark.parametrize(
    "raw",
    [
        upgrade_to("websocket"),
        upgrade_to("h2c"),
        upgrade_to("websocket", JSON_TYPE, method="POST", body=b"[]"),
        b"CONNECT test:80 HTTP/1.1\r\nHost: test\r\n\r\n",
        b"GET /nothing HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
    ],
    ids=["websocket", "h2c", "websocket of a post", "connect", "close"],
)
async def test_nothing_follows_the_last_request(api: Served, raw: bytes) -> None:
    """It is answered with the end of the connection; later bytes are neither served nor kept."""
    wire = await Wire.open(api.port)
    wire.send(raw + SMUGGLED)
    await eventually(lambda: api.gateway.connections == 1)
    for _ in range(64):
        wire.send(b"\x81" * (1 << 16))
    answered = await wire.answer()
    assert answered.headers["connection"] == "close"
    assert await wire.ended()
    await wire.close()
    await eventually(lambda: api.gateway.connections == 0)
    assert api.gateway.capacity.body_bytes == 0


async def test_a_request_before_a_malformed_one_is_served(api: Served) -> None:
    """Also when both come in one segment: the parser alone would throw it away."""
    wire = await Wire.open(api.port)
    wire.send(GET + POST + b"nonsense\r\n\r\n")
    assert [(await wire.answer()).status for _ in range(3)] == [404, 404, 400]
    assert await wire.ended()


@pytest.mark.parametrize(
    "asked", [[GET], [POST], [GET, POST, GET] * 4], ids=["query", "command", "twelve in one segment"]
)
async def test_a_half_closed_client_gets_its_answers(api: Served, asked: list[bytes]) -> None:
    """The client has sent all its requests, and reads."""
    await api.create()
    for _ in range(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(b"".join(asked))
        writer.write_eof()
        async with asyncio.timeout(10):
            came = await reader.read()
        assert came.count(b"HTTP/1.1 404") == asked.count(GET)
        assert came.count(b"HTTP/1.1 200") == asked.count(POST)
        writer.close()
    await eventually(lambda: api.gateway.connections == 0)


@pytest.mark.parametrize("begun", [b"", b"GET /docs HT"], ids=["nothing", "half a head"])
async def test_a_half_closed_client_without_a_request_is_forgotten(api: Served, begun: bytes) -> None:
    """Nothing can come of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(begun)
    writer.write_eof()
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()
    await eventually(lambda: api.gateway.connections == 0)


async def test_a_half_closed_client_within_a_body_is_refused(api: Served) -> None:
    """The body will never be whole."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(request_bytes("POST", PATH, headers=(JSON_TYPE, ("Content-Length", "100"))) + b"{")
    writer.write_eof()
    async with asyncio.timeout(10):
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()


async def test_a_connection_that_sends_nothing_is_closed(hasty: Served) -> None:
    """Its time begins when it is accepted; there is no request to answer."""
    wire = await Wire.open(hasty.port)
    assert await wire.ended()
    await eventually(lambda: hasty.gateway.connections == 0)


@pytest.mark.parametrize(
    ("raw", "before"),
    [
        (b"GET /docs HTTP/1.1\r\nHost:", []),
        (GET + b"GET /docs HT", [404]),
        (GET + GET + b"GET /docs HTTP/1.1\r\nHost: test\r\n\r", [404, 404]),
        (POST + b"GET /docs HT", [404]),
        (GET + request_bytes("POST", PATH, headers=(JSON_TYPE, ("Content-Length", "9"))) + b"{", [404]),
        (
            request_bytes("POST", PATH, headers=(JSON_TYPE, ("Transfer-Encoding", "chunked"))) + b"2\r\n[]\r\n0\r\nX:",
            [],
        ),
    ],
    ids=["at once", "behind a query", "behind two", "behind a command", "body behind a query", "trailer"],
)
async def test_408_half_a_request(hasty: Served, raw: bytes, before: list[int]) -> None:
    """At any position: earlier requests are answered, and then it is refused in time."""
    wire = await Wire.open(hasty.port)
    wire.send(raw)
    for status in before:
        assert (await wire.answer()).status == status
    check(await wire.answer(), 408, "request-timeout")
    assert await wire.ended()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("expect", [False, True], ids=["", "expect"])
@pytest.mark.parametrize(
    ("method", "path", "media"),
    [("POST", "/nothing", "application/json"), ("DELETE", PATH, "application/json"), ("POST", PATH, "text/plain")],
    ids=["no path", "no method", "no json"],
)
async def test_no_body_is_read_as_a_request(
    api: Served, method: str, path: str, media: str, expect: bool, version: str
) -> None:
    """An answer that leaves before the announced body is the last one on the connection."""
    wire = await Wire.open(api.port)
    expected = b"Expect: 100-continue\r\n" if expect else b""
    head = (
        b"%b %b HTTP/%b\r\nHost: test\r\nConnection: keep-alive\r\nContent-Type: %b\r\nContent-Length: 5000\r\n%b\r\n"
    )
    wire.send(head % (method.encode(), path.encode(), version.encode(), media.encode(), expected))
    answered = await wire.answer()
    assert answered.status in (404, 405, 415)
    assert answered.headers["connection"] == "close"
    wire.send(SMUGGLED)
    assert await wire.ended()


async def test_a_body_that_came_whole_leaves_the_connection_open(api: Served) -> None:
    """Though the client did not ask for it: its end is known."""
    wire = await Wire.open(api.port)
    wire.send(request_bytes("POST", "/nothing", headers=(JSON_TYPE,), body=SMUGGLED) + GET)
    assert [(await wire.answer()).status for _ in range(2)] == [404, 404]
    await wire.close()


async def test_a_go_ahead_is_not_sent_to_http_1_0(api: Served) -> None:
    """It knows no interim answers."""
    await api.create()
    body = body_of_size(50)
    wire = await Wire.open(api.port)
    head = b"POST %b HTTP/1.0\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    wire.send(head % (PATH.encode(), len(body)))
    await eventually(lambda: api.gateway.metrics.in_flight == 1)
    wire.send(body)
    assert (await wire.answer()).status == 200
    assert await wire.ended()


@pytest.mark.parametrize(
    ("encoding", "status"),
    [
        ("gzip, chunked", 501),
        ("gzip", 501),
        ("identity", 501),
        ("chunked, chunked", 501),
        ("chunked, gzip", 501),
        ("", 501),
        ("chunked;q=1", 501),
        ("ChunKed", 404),
    ],
)
async def test_501_an_encoding_other_than_chunked(api: Served, encoding: str, status: int) -> None:
    """Case does not matter, anything else does."""
    wire = await Wire.open(api.port)
    wire.send(request_bytes("POST", "/nothing", headers=(("Transfer-Encoding", encoding),)) + b"0\r\n\r\n")
    answered = await wire.answer()
    assert answered.status == status
    if status == 501:
        check(answered, 501, "transfer-encoding-unknown")
        assert await wire.ended()
    await wire.close()


async def test_400_chunked_in_http_1_0(api: Served) -> None:
    """It has no chunks."""
    wire = await Wire.open(api.port)
    wire.send(
        b"POST %b HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % PATH.encode()
    )
    check(await wire.answer(), 400, "malformed-http")
    assert await wire.ended()


async def test_nothing_follows_http_1_0_but_http_1_0(api: Served) -> None:
    """A connection does not change its version upwards."""
    wire = await Wire.open(api.port)
    wire.send(b"OPTIONS /docs HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + GET)
    assert (await wire.answer()).status == 204
    check(await wire.answer(), 400, "malformed-http")
    assert await wire.ended()


@pytest.mark.parametrize("host", ["xn--xn--...", "\u2488com", "[::1", "a:99999999"])
async def test_400_a_target_that_no_decoder_likes(api: Served, host: str, caplog: pytest.LogCaptureFixture) -> None:
    """Every exception on the way to the handler is the client's fault, and ends its connection."""
    wire = await Wire.open(api.port)
    wire.send(GET + request_bytes("GET", f"http://{host}/"))
    assert (await wire.answer()).status == 404
    check(await wire.answer(), 400, "malformed-http")
    assert await wire.ended()
    await eventually(lambda: api.gateway.connections == 0)
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


async def test_431_a_head_that_does_not_end(api: Served) -> None:
    """Fields of a legal size, but too many bytes together."""
    wire = await Wire.open(api.port)
    wire.send(b"GET /docs HTTP/1.1\r\nHost: test\r\n" + b"".join(b"X%d: %b\r\n" % (i, b"a" * 8_000) for i in range(20)))
    check(await wire.answer(), 431, "headers-too-large")
    assert await wire.ended()


async def test_an_answer_outlives_the_bytes_behind_it(api: Served) -> None:
    """A refused body that is still being sent does not take the refusal away."""
    for _ in range(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(request_bytes("POST", PATH, headers=(JSON_TYPE, ("Content-Length", str(3 << 20)))))
        for _ in range(3):
            writer.write(b" " * (1 << 20))
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            assert (await reader.read()).startswith(b"HTTP/1.1 413 ")
        writer.close()


async def test_pipelined_requests_share_the_loop(api: Served) -> None:
    """Requests that never wait are not all answered in one turn."""
    answered: list[int] = []
    ticking = True

    def tick() -> None:
        series = api.gateway.metrics._series.get("none")
        answered.append(0 if series is None else sum(series.by_status.values()))
        if ticking:
            asyncio.get_running_loop().call_soon(tick)

    wire = await Wire.open(api.port)
    tick()
    wire.send(GET * 300)
    for _ in range(300):
        await wire.answer()
    ticking = False
    assert max(later - before for before, later in pairwise(answered)) <= 2
    await wire.close()


async def test_chunks_of_one_byte_share_the_loop(api: Served) -> None:
    """A body that costs much for each of its bytes is parsed a slice a turn."""
    await api.create()
    body = body_of_size(100_000)
    wire = await Wire.open(api.port)
    head = request_bytes("POST", PATH, headers=(JSON_TYPE, ("Transfer-Encoding", "chunked")))
    wire.send(head + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
    await eventually(lambda: api.gateway.metrics.in_flight == 1)
    assert (await api.send(GET)).status == 404
    assert api.gateway.metrics.in_flight == 1, "the body was parsed in one go"
    assert (await wire.answer()).status == 200
    await wire.close()


async def test_the_longest_idle_connections_make_place() -> None:
    """At the bound a newcomer is served, and those that wait for their clients go."""
    bounds = Bounds(connections=4)
    async with serving(MemoryThreads(), GatewayOptions(bounds=bounds)) as api:
        idle = [await Wire.open(api.port) for _ in range(4)]
        for wire in idle:
            wire.send(GET)
            assert (await wire.answer()).status == 404
        assert (await api.send(GET)).status == 404
        assert await idle[0].ended()
        idle[3].send(GET)
        assert (await idle[3].answer()).status == 404
        assert api.gateway.capacity.dropped["connections"] == 1


async def test_withheld_bodies_make_place() -> None:
    """The request that has waited longest for its body is answered 503; a whole one is served."""
    bounds = Bounds(body_bytes=600_000)
    async with serving(MemoryThreads(), GatewayOptions(bounds=bounds)) as api:
        await api.create()
        withheld = []
        for held in range(1, 4):
            wire = await Wire.open(api.port)
            wire.send(request_bytes("POST", PATH, headers=(JSON_TYPE, ("Content-Length", "900000"))) + b" " * 150_000)
            await eventually(lambda held=held: api.gateway.capacity.body_bytes >= held * 150_000)  # type: ignore[misc]
            withheld.append(wire)
        assert (await api.post(PATH, body_of_size(300_000))).status == 200
        answered = check(await withheld[0].answer(), 503, "overloaded")
        assert answered.headers["connection"] == "close"
        for wire in withheld:
            await wire.close()
        await eventually(lambda: api.gateway.capacity.body_bytes == 0)


@pytest.mark.parametrize(("path", "status"), [(PATH, 503), ("/nothing", 404)], ids=["being read", "answered unread"])
async def test_a_body_that_is_given_up_is_forgotten_though_its_connection_lingers(path: str, status: int) -> None:
    """No bound counts its bytes while the client may still read the answer."""
    connections, sent = 16, b" " * 150_000
    bounds = Bounds(body_bytes=1 if status == 503 else 64 << 20)
    head = request_bytes("POST", path, headers=(JSON_TYPE, ("Content-Length", "900000")))
    async with serving(MemoryThreads(), GatewayOptions(bounds=bounds)) as api:
        await api.create()
        tracemalloc.start()
        try:
            wires = [await Wire.open(api.port) for _ in range(connections)]
            before, _ = tracemalloc.get_traced_memory()
            for wire in wires:
                wire.send(head)
                wire.send(sent)
                check(await wire.answer(), status, "overloaded" if status == 503 else "route-not-found")
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert api.gateway.connections == connections
        assert after - before < connections * len(sent) / 4
        for wire in wires:
            await wire.close()


async def test_a_dropped_client_frees_what_its_handler_has_read_at_once(api: Served) -> None:
    """Not in a later turn: one turn may receive from thousands of connections, and drop as many."""
    await api.create()
    wire = await Wire.open(api.port)
    wire.send(request_bytes("POST", PATH, headers=(JSON_TYPE, ("Content-Length", "900000"))) + b" " * 60_000)
    found: list[bytearray] = []

    def is_read() -> bool:
        found[:] = [
            client.reading[1]
            for client in api.gateway.capacity.clients
            if isinstance(client, GatewayConnection) and client.reading is not None
        ]
        return bool(found) and len(found[0]) >= 60_000

    await eventually(is_read)
    (client,) = api.gateway.capacity.clients
    client.drop(overloaded())
    assert found == [bytearray()]
    check(await wire.answer(), 503, "overloaded")
    await wire.close()


async def test_clients_that_do_not_read_make_place() -> None:
    """Unread answers are bounded over all connections; who reads is served."""
    bounds = Bounds(answer_bytes=8 << 20)
    async with serving(MemoryThreads(), GatewayOptions(bounds=bounds)) as api:
        await api.create()
        for _ in range(5):
            await api.add(*["x" * 4_000] * 100)
        mute = [socket.create_connection(("127.0.0.1", api.port)) for _ in range(6)]
        try:
            for one in mute:
                one.sendall(PAGE * 8)
            capacity = api.gateway.capacity
            await eventually(lambda: capacity.dropped["answer_bytes"] > 0)
            assert capacity.answer_bytes <= bounds.answer_bytes
            assert (await api.send(PAGE)).status == 200
        finally:
            for one in mute:
                one.close()
        await eventually(lambda: api.gateway.connections == 0)
        assert capacity.answer_bytes == 0


async def test_an_unread_last_answer_does_not_keep_its_connection(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing waits for the client to read, and not for long."""
    monkeypatch.setattr("shard_worker.gateway.http.connection.READER_PATIENCE_S", 0.1)
    monkeypatch.setattr("shard_worker.gateway.http.response.READER_PATIENCE_S", 0.1)
    await api.create()
    for _ in range(5):
        await api.add(*["x" * 4_000] * 100)
    with socket.create_connection(("127.0.0.1", api.port)) as mute:
        mute.sendall(PAGE * 8 + request_bytes("GET", "/docs", headers=(("Connection", "close"),)))
        await eventually(lambda: api.gateway.connections == 1)
        await eventually(lambda: api.gateway.connections == 0)
    assert WRITE_HIGH_BYTES < 64 * 1024


async def test_a_flood_takes_the_place_of_no_client_that_pauses_between_requests() -> None:
    """However much faster the flood is than the client: connections without an answer are dropped first."""
    async with serving(MemoryThreads(), GatewayOptions(bounds=Bounds(connections=8))) as api:
        client = await Wire.open(api.port)
        client.send(GET)
        assert (await client.answer()).status == 404
        flood = [await Wire.open(api.port) for _ in range(30)]
        await eventually(lambda: api.gateway.capacity.dropped["connections"] >= 23)
        client.send(GET)
        assert (await client.answer()).status == 404
        for wire in flood:
            await wire.close()
        await client.close()


@pytest.mark.parametrize(
    "sent",
    [
        request_bytes("POST", PATH, headers=(JSON_TYPE, ("Content-Length", "900"))) + b" " * 300,
        b"GET /nothing HTTP/1.1\r\nHost: test\r\nX: " + b"y" * 300,
    ],
    ids=["half a body", "half a head"],
)
async def test_the_first_small_segment_of_a_request_that_stops_is_counted(api: Served, sent: bytes) -> None:
    """However small: thousands of connections may each withhold the rest."""
    wire = await Wire.open(api.port)
    wire.send(sent)
    await eventually(lambda: api.gateway.capacity.body_bytes >= 300)
    await wire.close()
    await eventually(lambda: api.gateway.capacity.body_bytes == 0)


_HALF_A_BODY = request_bytes("POST", PATH, headers=(JSON_TYPE, ("Content-Length", "900"))) + b" " * 300
_HALF_A_CHUNK = (
    request_bytes("POST", PATH, headers=(JSON_TYPE, ("Transfer-Encoding", "chunked"))) + b"100\r\n" + b" " * 9
)


@pytest.mark.parametrize(
    ("sent", "end"),
    [
        (_HALF_A_BODY, "half-close"),
        (_HALF_A_BODY, "close"),
        (_HALF_A_BODY, "time-out"),
        (_HALF_A_BODY, "drop"),
        (_HALF_A_CHUNK, "half-close"),
        (_HALF_A_CHUNK + b" " * 400, "broken"),
        (POST, "close"),
        (POST, "half-close"),
        (b"GET /nothing HT", "close"),
        (GET + _HALF_A_BODY, "close"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
async def test_an_ended_connection_is_freed_without_the_collector(sent: bytes, end: str) -> None:
    """A cycle would keep the connection, and the bytes it has received, until a full collection."""
    bounds = Bounds(body_bytes=1) if end == "drop" else Bounds()
    options = GatewayOptions(request_timeout_s=0.2 if end == "time-out" else 10.0, bounds=bounds)
    async with serving(MemoryThreads(), options) as api:
        await api.create()
        await eventually(lambda: api.gateway.connections <= 1)
        gc.collect()
        before = _kept()
        gc.disable()
        try:
            wires = [await Wire.open(api.port) for _ in range(5)]
            for wire in wires:
                wire.send(sent)
            await eventually(
                lambda: api.gateway.capacity.body_bytes > 0 or sent in (POST,) or end in ("drop", "broken")
            )
            for wire in wires:
                if end == "half-close":
                    wire._writer.write_eof()
                if end != "close":
                    await wire.answer()
                await wire.close()
            await eventually(lambda: api.gateway.connections <= 1)
            await eventually(lambda: _kept() <= before, what="what the connections were made of is freed")
        finally:
            gc.enable()


def _kept() -> int:
    """How many objects exist that a connection is made of: itself, its bodies, and the frames that read them."""
    return sum(
        isinstance(found, GatewayConnection | StreamReader)
        or (isinstance(found, FrameType) and found.f_code.co_name == "_wait_for_body")
        for found in gc.get_objects()
    )
