"""The lane: it answers as the long way does, byte for byte, and a planted bug of each kind is found by the same comparison."""

import asyncio
import logging
import os
import re
from collections.abc import Callable
from typing import Any, Final
from unittest.mock import patch

import pytest
from aiohttp.http_parser import HttpRequestParserPy
from aiohttp.web_protocol import RequestHandler
from msgspec import UNSET, DecodeError

from shard_worker.contract import Answer, Done, OwnerAnswer
from shard_worker.gateway.http import connection, plain_request
from shard_worker.gateway.http.connection import GatewayConnection
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.http.plain_request import PlainRequest, PlainRequestReader
from shard_worker.gateway.http.response import JSON, RawResponse
from shard_worker.gateway.public import lane, short_bodies
from shard_worker.gateway.public.commands import reply_to_command
from shard_worker.gateway.public.lane import Lane
from shard_worker.gateway.public.queries import QueryHandler, Reading
from shard_worker.gateway.public.query_params import read_parameters
from tests.fakes.memory_threads import MemoryThreads
from tests.gateway import serving as serving_module
from tests.gateway.bodies import PATH, body_of_size
from tests.gateway.lane_pair import Difference, compare
from tests.gateway.lane_scripts import any_script, by_chance, one_fault, one_get, other_order
from tests.gateway.serving import Served, serving
from tests.support.polling import eventually
from tests.support.wire import JSON_TYPE, Wire, request_bytes

POST = request_bytes("POST", PATH, headers=(JSON_TYPE,), body=body_of_size(100))
_SEED: Final = int(os.environ.get("LANE_SEED", "0"))
"""Where the seeds begin; a failure prints its script."""
_MUTANT_SEEDS: Final = 300
"""Connections within which a planted bug is found."""


@pytest.fixture(autouse=True)
def _with_the_lane(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Whatever the other modules run with; and owners that break on purpose would fill the log."""
    monkeypatch.setattr(serving_module, "_LANE", True)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


async def _compare_all(seeds: range) -> int:
    taken = 0
    for seed in seeds:
        try:
            taken += await compare(any_script(seed))
        except Difference as difference:
            raise AssertionError(f"seed {seed}: {difference}") from None
    return taken


async def test_the_lane_answers_as_the_long_way() -> None:
    """1,000 connections; and it is taken often, or nothing was compared."""
    assert await _compare_all(range(_SEED, _SEED + 1_000)) > 1_500


@pytest.mark.soak
async def test_the_lane_answers_as_the_long_way_for_long() -> None:
    """50,000 connections."""
    assert await _compare_all(range(_SEED + 1_000, _SEED + 51_000)) > 75_000


# --- planted bugs: each in the gateway with the lane alone

_read = PlainRequestReader.read
_kind = PlainRequestReader._kind
_enter, _leave, _end = GatewayConnection.enter_lane, GatewayConnection.leave_lane, GatewayConnection._await_next


def _harmless(name: bytes) -> Callable[[], Any]:
    """A field that must be judged is not."""

    def kind(self: PlainRequestReader, line: bytes) -> int:
        return 0 if line.lower().startswith(name + b":") else _kind(self, line)

    return lambda: patch.object(PlainRequestReader, "_kind", kind)


def _reads(change: Callable[[bytes, PlainRequest | None], PlainRequest | None]) -> Callable[[], Any]:
    def read(self: PlainRequestReader, data: bytes) -> PlainRequest | None:
        return change(data, _read(self, data))

    return lambda: patch.object(PlainRequestReader, "read", read)


def _of_another_length(grows: bool) -> Callable[[bytes, PlainRequest | None], PlainRequest | None]:
    """The length of the body is not compared: what is missing is taken for white space, or what follows is dropped."""

    def read(data: bytes, request: PlainRequest | None) -> PlainRequest | None:
        length = re.search(rb"\r\nContent-Length: (\d+)\r\n", data)
        head, blank, body = data.partition(b"\r\n\r\n")
        if request is not None or length is None or (int(length[1]) > len(body)) is not grows:
            return request
        body = body.ljust(int(length[1]))[: int(length[1])]
        return _read(PlainRequestReader(lambda _: True, cors=False), head + blank + body)

    return read


def _any_version(data: bytes, request: PlainRequest | None) -> PlainRequest | None:
    if request is None and b" HTTP/1.0\r\n" in data:
        return _read(
            PlainRequestReader(lambda _: True, cors=False), data.replace(b" HTTP/1.0\r\n", b" HTTP/1.1\r\n", 1)
        )
    return request


def _without_query(_: bytes, request: PlainRequest | None) -> PlainRequest | None:
    return request and request._replace(path=request.path.partition(b"?")[0])


def _without_key(_: bytes, request: PlainRequest | None) -> PlainRequest | None:
    return request and request._replace(key=None)


def _overtakes(self: GatewayConnection) -> None:
    self._in_lane = self._waiter
    self._request_count += 1
    self._request_in_progress = True


def _not_counted(self: GatewayConnection) -> None:
    _enter(self)
    self._request_count -= 1


def _not_under_way(self: GatewayConnection) -> None:
    _enter(self)
    self._request_in_progress = False


def _goes_on_after_the_end(self: GatewayConnection, reply: RawResponse) -> None:
    ended, self._client_ended = self._client_ended, False
    _leave(self, reply)
    self._client_ended = ended


def _forgets_what_came(self: GatewayConnection) -> None:
    self._messages.clear()
    _end(self)


def _does_not_wake(self: GatewayConnection) -> None:
    messages, self._messages = self._messages, type(self._messages)()
    _end(self)
    self._messages = messages


def _does_not_wait_for_a_reader(self: GatewayConnection, reply: RawResponse) -> None:
    paused, self._paused = self._paused, False
    _leave(self, reply)
    self._paused = paused


def _reply_without_its_mark(route: Any, target: Any, answer: Answer) -> RawResponse:
    return (
        RawResponse(route.render(target, answer), fields=JSON)
        if isinstance(answer, Done)
        else _reply(route, target, answer)
    )


def _reply_without_its_id(route: Any, target: Any, answer: Answer) -> RawResponse:
    return _reply(route, type(target)("01BX5ZZKBKACTAV9WEVGEMMVRX"), answer)


_reply = reply_to_command


def _last_name_wins(body: Any, raw: bytes) -> Any:
    try:
        found = short_bodies._DECODE[body](raw)
        found.check()
    except (KeyError, ValueError, DecodeError):
        return None
    return found


def _drops_create_at(body: Any, raw: bytes) -> Any:
    found = short_bodies.short_body(body, raw)
    if found is not None:
        found.create_at = UNSET
    return found


def _passes_too_late(self: Lane, data: bytes, connection: Any) -> bool:
    if b"parentThreadId" in data:
        self._requests._mint.command_id()
    return _take(self, data, connection)


_take = Lane.take


def _settles_moved(self: Any, answer: OwnerAnswer) -> None:
    self._done = True
    try:
        reply = self.replied(answer)
    except Exception:
        reply = self._lane.failed(self.operation_id)
    self.deliver(reply)


def _never_ends(self: Lane, operation_id: str, reply: RawResponse, begun: float) -> None:
    self._metrics.observe(operation_id, reply.status, 0.0)
    del begun


def _gets(change: Callable[[bytes], bytes]) -> Callable[[], Any]:
    """A GET that is not plain is taken for one that is."""

    def read(data: bytes, request: PlainRequest | None) -> PlainRequest | None:
        if request is not None or data[:3] != b"GET":
            return request
        return _read(PlainRequestReader(lambda _: True, cors=False), change(data))

    return _reads(read)


def _forgets_the_tail(self: Lane, target: bytes) -> Any:
    """Parameters are remembered whatever is asked for."""
    path, _, query = target.partition(b"?")
    for (tail, known), values in self._parameters.items():
        if values is not None and known == query and (route := self._reads.get(path[38:])) is not None:
            return Reading(route, _thread_of(path), values, self._reads[tail].query(_thread_of(path), values, None))
    return _reading(self, target)


def _thread_of(path: bytes) -> Any:
    return path[12:38].decode().upper()


_reading = Lane._reading


def _takes_cursors(route: Any, query: bytes) -> Any:
    return read_parameters(query.decode("ascii"), route.parameters)[0]


def _answers_where_it_is(self: QueryHandler, reading: Reading, answer: Answer) -> RawResponse | None:
    return self._reply(reading, answer)


def _admits_every_host(self: PlainRequestReader, admits_host: Callable[[str], bool], *, cors: bool) -> None:
    del admits_host
    _init(self, lambda _: True, cors=cors)


def _with_texts(text: Callable[[str, Callable[[str], str]], str]) -> Callable[[Any, bytes], Any]:
    def short_body(body: Any, raw: bytes) -> Any:
        with patch.object(short_bodies, "_text", text):
            return short_bodies.short_body(body, raw)

    return short_body


def _as_it_is_in_ascii(text: str, check: Callable[[str], str]) -> str:
    return text if text.isascii() else _text(text, check)


_init = PlainRequestReader.__init__
_text = short_bodies._text
_NEVER: Final = property(lambda _: False, lambda _, __: None)

_OF_ORDER: Final[dict[str, Callable[[], Any]]] = {
    "drops what follows": _reads(_of_another_length(grows=False)),
    "is overtaken": lambda: patch.object(GatewayConnection, "enter_lane", _overtakes),
    "is not counted": lambda: patch.object(GatewayConnection, "enter_lane", _not_counted),
    "is not under way": lambda: patch.object(GatewayConnection, "enter_lane", _not_under_way),
    "goes on after the client has ended": lambda: patch.object(GatewayConnection, "leave_lane", _goes_on_after_the_end),
    "does not wait for a reader": lambda: patch.object(GatewayConnection, "leave_lane", _does_not_wait_for_a_reader),
    "forgets what came meanwhile": lambda: patch.object(GatewayConnection, "_await_next", _forgets_what_came),
    "does not wake aiohttp": lambda: patch.object(GatewayConnection, "_await_next", _does_not_wake),
    "gives no waiter back": lambda: patch.object(GatewayConnection, "_await_next", GatewayConnection._end_request),
    "does not mark a replay": lambda: patch.object(lane, "reply_to_command", _reply_without_its_mark),
    "answers with another id": lambda: patch.object(lane, "reply_to_command", _reply_without_its_id),
    "answers that the thread moved": lambda: patch.object(lane._Exchange, "set_result", _settles_moved),
    "never ends": lambda: patch.object(Lane, "ended", _never_ends),
    "takes a request while the worker leaves": lambda: patch.object(Lane, "draining", _NEVER, create=True),
}
_OF_A_REQUEST: Final[dict[str, Callable[[], Any]]] = {
    "takes chunks": _harmless(b"transfer-encoding"),
    "takes a coded body": _harmless(b"content-encoding"),
    "takes the last request": _harmless(b"connection"),
    "takes two user agents": _harmless(b"user-agent"),
    "takes a foreign origin": _harmless(b"origin"),
    "takes a key without looking at it": _harmless(b"idempotency-key"),
    "takes the proxies' Connection": _harmless(b"proxy-connection"),
    "needs no host": lambda: patch.object(plain_request, "_NEEDED", plain_request._NEEDED & ~1),
    "needs no type": lambda: patch.object(plain_request, "_NEEDED", plain_request._NEEDED & ~2),
    "takes what comes twice": lambda: patch.object(plain_request, "_ONCE", 0),
    "takes any bytes in a field": lambda: patch.object(
        plain_request, "_FIELD", re.compile(rb"([^:]*+):[ \t]*+(.*+)", re.DOTALL)
    ),
    "takes any host": lambda: patch.object(PlainRequestReader, "__init__", _admits_every_host),
    "takes HTTP/1.0": _reads(_any_version),
    "takes a query": _reads(_without_query),
    "takes ids in lower case as if they were another's": lambda: patch.object(lane, "canonical", lambda text: text),
    "takes the last of two names": lambda: patch.object(lane, "short_body", _last_name_wins),
    "takes U+0000": lambda: patch.object(lane, "short_body", _with_texts(_as_it_is_in_ascii)),
    "does not normalise": lambda: patch.object(
        lane, "short_body", _with_texts(lambda text, check: (_text(text, check), text)[1])
    ),
}
_OF_BODIES: Final[dict[str, Callable[[], Any]]] = {
    "takes a part of a body": _reads(_of_another_length(grows=True)),
    "forgets the key": _reads(_without_key),
    "drops createAt": lambda: patch.object(lane, "short_body", _drops_create_at),
    "passes when ids were made": lambda: patch.object(Lane, "take", _passes_too_late),
    "takes a create below a parent": lambda: patch.object(lane, "ShortCreateBody", object),
}
_OF_GETS: Final[dict[str, Callable[[], Any]]] = {
    "takes a GET with a body": _gets(
        lambda data: data.partition(b"\r\n\r\n")[0].replace(b"Content-Length: 7", b"X: y") + b"\r\n\r\n"
    ),
    "takes a GET in HTTP/1.0": _gets(lambda data: data.replace(b"HTTP/1.0", b"HTTP/1.1")),
    "needs no host of a GET": lambda: patch.object(plain_request, "_NEEDED_TO_GET", 0),
    "takes a HEAD": _reads(
        lambda data, request: (
            request or _read(PlainRequestReader(lambda _: True, cors=False), data.replace(b"HEAD ", b"GET "))
        )
    ),
    "takes parameters of another query": lambda: patch.object(Lane, "_reading", _forgets_the_tail),
    "takes cursors": lambda: patch.object(Lane, "_read_parameters", staticmethod(_takes_cursors)),
    "does not look for a removed message": lambda: patch.object(QueryHandler, "reply_at_once", _answers_where_it_is),
    "takes any id": lambda: patch.object(lane, "canonical", lambda text: text),
}
PLANTED: Final = {
    **dict.fromkeys(_OF_GETS, one_get),
    **dict.fromkeys(_OF_ORDER, other_order),
    **dict.fromkeys(_OF_A_REQUEST, one_fault),
    **dict.fromkeys(_OF_BODIES, by_chance),
}
"""Left out, since no client can see them: parameters are read as on the long way, whatever is in them; an `Expect` before a body that is there asks for nothing; `Upgrade` means nothing where
`Connection` does not name it; a body over `UNCOUNTED_BYTES` is only bounded."""


@pytest.mark.parametrize("planted", PLANTED)
async def test_a_planted_bug_is_found(planted: str) -> None:
    """By the scripts of the test above of its kind, and soon."""
    plant = {**_OF_GETS, **_OF_ORDER, **_OF_A_REQUEST, **_OF_BODIES}[planted]
    with plant():
        for seed in range(_MUTANT_SEEDS):
            try:
                await compare(PLANTED[planted](seed))
            except (AssertionError, RecursionError):
                return
    pytest.fail(f"not found: {planted}")


# --- over a real socket


@pytest.fixture
async def api() -> Any:
    """A gateway with the lane, and the usual thread."""
    async with serving(MemoryThreads()) as served:
        await served.create()
        yield served


async def _answers(api: Served, *raws: bytes) -> list[int]:
    wire = await Wire.open(api.port)
    statuses = []
    for raw in raws:
        wire.send(raw)
        statuses.append((await wire.answer()).status)
    await wire.close()
    return statuses


async def test_a_plain_command_takes_the_lane_and_is_counted(api: Served) -> None:
    """As a request among the others, and by itself; what the lane passes on is counted once as well."""
    metrics = api.gateway.metrics
    before = metrics.lane
    chunked = POST.replace(b"Content-Length: 100", b"Transfer-Encoding: chunked")
    chunked = chunked.replace(b"\r\n\r\n", b"\r\n\r\n64\r\n") + b"\r\n0\r\n\r\n"
    assert await _answers(api, POST, POST, chunked, POST) == [200] * 4
    assert metrics.lane == before + 3
    assert metrics._series["addMessages"].by_status == {200: 4}
    [family] = [each for each in metrics.collect() if each.name == "threadcluster_http_lane_requests"]
    assert family.samples[0].value == metrics.lane


async def test_a_setting_turns_the_lane_off() -> None:
    """Everything goes the long way."""
    async with serving(MemoryThreads(), GatewayOptions(lane=False)) as api:
        await api.create()
        assert await _answers(api, POST, POST) == [200, 200]
        assert api.gateway.metrics.lane == 0


@pytest.mark.parametrize("lacks", ["a part", "the parser in C"])
async def test_without_its_needs_the_lane_is_off(
    lacks: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With one line in the log; the gateway serves all the same."""
    logging.disable(logging.NOTSET)
    if lacks == "a part":
        monkeypatch.setattr(connection, "_LANE_NEEDS", ("_no_such_part",))
    else:
        monkeypatch.setattr(connection, "HttpRequestParser", HttpRequestParserPy)
    async with serving(MemoryThreads()) as api:
        await api.create()
        assert await _answers(api, POST) == [200]
        assert api.gateway.metrics.lane == 0
    assert [record.message for record in caplog.records if "lane" in record.message]


def test_this_release_of_aiohttp_has_what_the_lane_needs() -> None:
    """Else it would be off, and every other test of it would compare the long way with itself."""
    assert connection.missing_for_lane() == []
    assert all(hasattr(RequestHandler, name) for name in connection._LANE_NEEDS)


async def test_a_fault_of_the_lane_is_passed_on(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The long way answers."""

    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(lane, "short_body", broken)
    before = api.gateway.metrics.lane
    assert await _answers(api, POST, POST) == [200, 200]
    assert api.gateway.metrics.lane == before


async def test_a_fault_of_a_delivery_ends_the_connection_and_nothing_else(
    api: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs within an owner's turn, which goes on."""

    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    wire = await Wire.open(api.port)
    with monkeypatch.context() as patched:
        patched.setattr(GatewayConnection, "leave_lane", broken)
        wire.send(POST)
        assert await wire.ended()
    await wire.close()
    assert await _answers(api, POST) == [200]
    await eventually(lambda: api.gateway.metrics.in_flight == 0 and api.gateway.connections == 0)


async def test_an_idle_connection_is_closed_after_its_last_use_of_the_lane() -> None:
    """The keep-alive time counts from the last answer, whichever way it took."""
    async with serving(MemoryThreads(), GatewayOptions(keepalive_timeout_s=0.4)) as api:
        await api.create()
        wire = await Wire.open(api.port)
        for _ in range(4):
            wire.send(POST)
            assert (await wire.answer()).status == 200
            await asyncio.sleep(0.25)  # the subject: each use is later than the time-out of the one before the last
        assert api.gateway.metrics.lane >= 4
        assert await wire.ended()
        await wire.close()


async def test_half_a_head_at_the_keep_alive_time_does_not_end_that_time() -> None:
    """The connection that was in the middle of a head then is closed when it is idle for that long later."""
    async with serving(MemoryThreads(), GatewayOptions(keepalive_timeout_s=0.2)) as api:
        await api.create()
        wire = await Wire.open(api.port)
        wire.send(POST[:20])
        await asyncio.sleep(0.3)  # the subject: the timer runs out within the head
        wire.send(POST[20:])
        assert (await wire.answer()).status == 200
        assert await wire.ended()
        await wire.close()


def test_lines_of_a_head_are_remembered_within_bounds() -> None:
    """A client that makes up lines does not fill the memory."""
    reader = PlainRequestReader(lambda _: True, cors=False)
    for number in range(3 * plain_request._REMEMBERED_MOST):
        made_up = b"X-Trace: %d" % number + b"x" * 600 * (number % 2)
        assert reader.read(POST.replace(b"Host: test", b"Host: test\r\n" + made_up)) is not None
        assert len(reader._known) <= plain_request._REMEMBERED_MOST
    keyed = POST.replace(b"Host: test", b"Host: test\r\nIdempotency-Key: k%d")
    known = dict(reader._known)
    for number in range(10):
        request = reader.read(keyed % number)
        assert request is not None
        assert request.key == f"k{number}"
    assert reader._known == known
