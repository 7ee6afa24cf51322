"""The console's server: requests that are refused, one snapshot for all, verbs, the inspector, and the chats."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from threadcluster_operator.console import hub as hub_module
from threadcluster_operator.console.server import ConsoleServer

from tests.fakes.console_backend import MemoryBackend
from tests.fakes.worker_api import MemoryWorkers
from tests.support.polling import eventually

THREAD = "01KB0000000000000000000007"
ADA = "01KB0000000000000000000008"


class Console:
    """A console in a test, and a client of it as the page is one."""

    def __init__(self, backend: MemoryBackend, server: ConsoleServer, session: aiohttp.ClientSession) -> None:
        self.backend = backend
        self.server = server
        self.session = session
        self.url, _, self.token = server.address.partition("#token=")
        self.host = self.url.removeprefix("http://").strip("/")

    def fields(self, **more: str) -> dict[str, str]:
        """The header fields of the page's requests."""
        return {
            "Authorization": f"Bearer {self.token}",
            **{name.replace("_", "-"): value for name, value in more.items()},
        }

    async def ask(self, path: str, body: object = None, **fields: str) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        method = "GET" if body is None else "POST"
        async with self.session.request(
            method, f"{self.url}{path}", json=body, headers=self.fields(**fields)
        ) as answer:
            return answer.status, await answer.json(content_type=None)

    async def lines(self, wanted: set[str], follow: list[dict[str, object]] | None = None) -> list[dict[str, Any]]:
        """The lines of a stream until each of these kinds has come."""
        found: list[dict[str, Any]] = []
        async with (
            asyncio.timeout(10),
            self.session.post(f"{self.url}api/stream", json={"follow": follow or []}, headers=self.fields()) as answer,
        ):
            assert answer.status == 200
            while not wanted <= {line["kind"] for line in found}:
                found.append(json.loads(await answer.content.readline()))
        return found


@pytest.fixture
async def console() -> AsyncIterator[Console]:
    """Two workers that share eight shards."""
    workers = MemoryWorkers(8)
    for name in ("demo-0", "demo-1"):
        workers.start(name, "127.0.0.1")
    for _ in range(10):
        workers.turn()
    backend = MemoryBackend(workers)
    await backend.look()
    server = ConsoleServer(backend)
    await server.start()
    async with aiohttp.ClientSession() as session:
        yield Console(backend, server, session)
    await server.close()


async def test_the_page_loads_nothing_from_elsewhere_and_runs_no_inline_script(console: Console) -> None:
    """Each file has the policy; every file that one names is served."""
    async with console.session.get(console.url) as answer:
        page = await answer.text()
        policy = answer.headers["Content-Security-Policy"]
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "Set-Cookie" not in answer.headers
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert console.token not in page
    assert "<script>" not in page
    assert "style=" not in page
    assert "http" not in page.replace("http://www.w3.org", "")
    for name in ("main.js", "console.css", "icon.svg"):
        assert name in page
        async with console.session.get(console.url + name) as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1"}, 421),
        ({"Host": "127.0.0.1:1"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:8080"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer x"}, 401),
        ({"Authorization": "Bearer \xff"}, 401),
        ({"Content-Type": "text/plain"}, 415),
    ],
)
@pytest.mark.parametrize("path", ["api/verbs", "api/stream", "api/v1/threads/create", "api/nothing"])
async def test_what_is_not_of_the_page_is_refused(
    console: Console, path: str, fields: dict[str, str], status: int
) -> None:
    """Before anything is looked at, and without the token in the answer."""
    given = {**console.fields(), "Content-Type": "application/json", **fields}
    async with console.session.post(console.url + path, data=b'{"verb":"rebalance"}', headers=given) as answer:
        assert answer.status == status
        assert console.token not in await answer.text()
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert console.backend.acts == []


@pytest.mark.parametrize("place", ["?token={}", "?access_token={}"])
async def test_a_token_in_a_query_or_a_cookie_is_worth_nothing(console: Console, place: str) -> None:
    """Such a token is in logs and histories."""
    path = f"{console.url}api/threads/{THREAD}{place.format(console.token)}"
    async with console.session.get(path, headers={"Cookie": f"token={console.token}"}) as answer:
        assert answer.status == 401


async def test_a_foreign_name_gets_not_even_the_page(console: Console) -> None:
    """It may resolve to loopback."""
    async with console.session.get(console.url, headers={"Host": f"evil.example:{console.host[10:]}"}) as answer:
        assert answer.status == 421


async def test_every_viewer_gets_the_same_snapshot(console: Console) -> None:
    """And however many there are, the cluster is asked nothing more."""
    first = await console.lines({"snapshot", "moves", "pulse"})
    await eventually(lambda: console.backend.histories > 0, what="the moves were read")
    before = console.backend.histories
    calls = len(console.backend.cluster.calls)
    others = await asyncio.gather(*[console.lines({"snapshot", "moves", "pulse"}) for _ in range(8)])
    snapshots = [line for lines in [first, *others] for line in lines if line["kind"] == "snapshot"]
    assert all(each == snapshots[0] for each in snapshots)
    assert (console.backend.histories, len(console.backend.cluster.calls)) == (before, calls)
    assert [worker["shards"] for worker in snapshots[0]["workers"]] == [4, 4]
    assert {shard["state"] for shard in snapshots[0]["shards"]} == {"serving"}
    moves = next(line for line in first if line["kind"] == "moves")
    assert moves["changes"][0]["pauseMilliseconds"] == 4.2


async def test_shards_of_a_worker_that_died_are_not_shown_as_served(console: Console) -> None:
    """Until another worker serves them."""
    console.backend.cluster.die("demo-0")
    await console.backend.look()
    (snapshot,) = [line for line in await console.lines({"snapshot"}) if line["kind"] == "snapshot"]
    states = {shard["owner"]: shard["state"] for shard in snapshot["shards"]}
    assert states == {"demo-0": "recovering", "demo-1": "serving"}


async def test_too_many_viewers_are_refused(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a connection."""
    monkeypatch.setattr(hub_module, "VIEWERS_MOST", 0)
    assert (await console.ask("api/stream", {}))[0] == 503


async def test_verbs_are_made_and_refused(console: Console) -> None:
    """With a sentence; what is no verb changes nothing."""
    assert await console.ask("api/verbs", {"verb": "kill", "worker": "demo-0"}) == (200, {"done": "done so"})
    status, answer = await console.ask("api/verbs", {"verb": "kill", "worker": "nothing"})
    assert (status, answer["detail"]) == (409, "'nothing' has no process now")
    wrong: tuple[object, ...] = ({"verb": "destroy"}, {"verb": "kill", "more": 1}, [], {})
    for body in wrong:
        assert (await console.ask("api/verbs", body))[0] == 400
    assert [(act.verb, act.worker) for act in console.backend.acts] == [("kill", "demo-0"), ("kill", "nothing")]


async def test_a_thread_is_inspected(console: Console) -> None:
    """By any live worker; an id that is none is a sentence."""
    status, found = await console.ask(f"api/threads/{THREAD.lower()}")
    assert (status, found["threadId"], found["sequenceNr"]) == (200, THREAD, 0)
    assert (await console.ask(f"api/threads/{THREAD}/state?at=3"))[0] == 200
    for path in ("x", "x/state", f"{THREAD}?before=x", f"{THREAD}/state?at=-1"):
        status, answer = await console.ask(f"api/threads/{path}")
        assert (status, bool(answer["detail"])) == (400, True)
    console.backend.cluster.knobs.silent = True
    assert (await console.ask(f"api/threads/{THREAD}"))[0] == 503


class PublicPort:
    """A public port that cuts each stream after one event, and one of them within an event."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, str | None, object]] = []
        self.followed: list[str] = []
        self.url = ""
        app = web.Application()
        app.router.add_post("/v1/threads/{tail:.*}", self._post)
        app.router.add_get(f"/v1/threads/{THREAD}/events", self._events)
        self._runner = web.AppRunner(app)

    async def __aenter__(self) -> "PublicPort":
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _post(self, request: web.Request) -> web.Response:
        self.posted.append((request.path, request.headers.get("Idempotency-Key"), await request.json()))
        assert "Authorization" not in request.headers
        return web.json_response({"code": "overloaded"}, status=503, headers={"Retry-After": "1"})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        position = request.headers.get("Last-Event-ID", request.query.get("after"))
        self.followed.append(f"{request.query['account_id']} {position}")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        number = len(self.followed)
        if number == 2:  # its position, and not its data
            await response.write(b"id: 9-0\nevent: ThreadCreated\ndata: {")
            return response
        if number == 4:
            await response.write(b'event: error\ndata: {"code":"thread-destroyed","detail":"gone"}\n\n')
            return response
        data = json.dumps({"sequenceNr": number, "title": "<b>\u202e"})
        await response.write(f":\n\nid: {number}-0\nevent: ThreadCreated\ndata: {data}\n\n".encode())
        return response


async def test_a_chat_goes_through_the_console(console: Console) -> None:
    """A command is sent once, with its key and without the token; a cut stream goes on at its position until it is refused."""
    async with PublicPort() as port:
        console.backend.url = port.url
        for path in ("api/v1/threads/create", f"api/v1/threads/{THREAD}/messages/add"):
            assert (await console.ask(path, {"a": 1}, Idempotency_Key="k"))[0] == 503
        assert port.posted == [
            ("/v1/threads/create", "k", {"a": 1}),
            (f"/v1/threads/{THREAD}/messages/add", "k", {"a": 1}),
        ]
        follow = {"pane": 1, "threadId": THREAD, "accountId": ADA, "position": ""}
        found: list[dict[str, Any]] = []
        async with (
            asyncio.timeout(10),
            console.session.post(
                f"{console.url}api/stream", json={"follow": [follow]}, headers=console.fields()
            ) as answer,
        ):
            while not found or found[-1].get("event") != "refused":
                found.append(json.loads(await answer.content.readline()))
        chat = [(line["event"], line["position"]) for line in found if line["kind"] == "chat"]
        assert chat == [
            *(("open", ""), ("ThreadCreated", "1-0"), ("open", "1-0")),
            *(("open", "1-0"), ("ThreadCreated", "3-0"), ("open", "3-0"), ("refused", "3-0")),
        ]
        assert port.followed == [f"{ADA} 0", f"{ADA} 1-0", f"{ADA} 1-0", f"{ADA} 3-0"]
    status, answered = await console.ask("api/v1/threads/create", {})
    assert (status, answered["code"]) == (502, "no-answer")
    assert (await console.ask("api/v1/threads/x/messages/add", {}))[0] == 400


@pytest.mark.parametrize(
    "follow",
    [
        {"pane": 0, "threadId": "../x", "accountId": ADA},
        {"pane": 0, "threadId": THREAD, "accountId": "x"},
        {"pane": 0, "threadId": THREAD, "accountId": ADA, "position": "\r\nX: y"},
    ],
)
async def test_a_follow_that_is_not_understood_is_refused(console: Console, follow: dict[str, object]) -> None:
    """None of it reaches the public port."""
    assert (await console.ask("api/stream", {"follow": [follow]}))[0] == 400
    good = {"pane": 0, "threadId": THREAD, "accountId": ADA}
    assert (await console.ask("api/stream", {"follow": [good] * 5}))[0] == 400
