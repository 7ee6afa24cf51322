"""The console's server, on loopback: the page's files, one stream a tab, the inspector, the verbs and the chats."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp import web

from shard_worker.domain.ids import canonical
from shard_worker.tasks import BackgroundTasks, OnFailure, log_only
from threadcluster_operator.console.backend import ConsoleBackend, Verb, VerbRefused
from threadcluster_operator.console.chat import FOLLOWS_MOST, Chat, Follow
from threadcluster_operator.console.guard import API, Guard
from threadcluster_operator.console.hub import SnapshotHub, TooManyViewers, Viewer
from threadcluster_operator.workers.client import NoWorkerAvailable, WorkerRefused

log = logging.getLogger(__name__)

_TYPES: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_BODY_MOST: Final = 256 << 10
_WRITE_S: Final = 20.0
"""Maximum time that a viewer may leave its stream unread."""


class _Follows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    follow: list[Follow] = msgspec.field(default_factory=list)


class ConsoleServer:
    """Serves one cluster's console."""

    def __init__(self, backend: ConsoleBackend) -> None:
        self._backend = backend
        self._guard = Guard()
        self._hub = SnapshotHub(backend)
        self._tasks = BackgroundTasks()
        self._session: aiohttp.ClientSession | None = None
        self._chat: Chat | None = None
        self._runner: web.AppRunner | None = None
        self.url = ""
        """The address without the token; after `start`."""

    @property
    def address(self) -> str:
        """The address to open: the token is in the fragment, which no browser sends."""
        return f"{self.url}#token={self._guard.token}"

    async def start(self, on_failure: OnFailure = log_only) -> None:
        """Listen on a free port of loopback."""
        app = web.Application(middlewares=[self._guard.middleware], client_max_size=_BODY_MOST)
        app.on_response_prepare.append(self._guard.add_fields)
        for name, asset in _assets().items():
            app.router.add_get(name, asset)
        app.router.add_post(f"{API}stream", self._stream)
        app.router.add_post(f"{API}verbs", _answered(self._act))
        app.router.add_get(f"{API}threads/{{id}}", _answered(self._thread))
        app.router.add_get(f"{API}threads/{{id}}/state", _answered(self._thread_state))
        app.router.add_post(f"{API}v1/threads/create", self._create_thread)
        app.router.add_post(f"{API}v1/threads/{{id}}/messages/add", self._add_messages)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._chat = Chat(self._session, lambda: self._backend.facts().url)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        port = self._runner.addresses[0][1]
        self._guard.listen(port)
        self.url = f"http://127.0.0.1:{port}/"
        self._tasks.on_failure = on_failure
        self._tasks.start(self._hub.run(), name="console-hub")

    async def close(self) -> None:
        """Stop listening, and end the streams."""
        await self._tasks.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    # --- the stream

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        try:
            follows = msgspec.json.decode(await request.read(), type=_Follows).follow
        except msgspec.DecodeError as error:
            return _problem(400, str(error))
        if len(follows) > FOLLOWS_MOST:
            return _problem(400, f"follow: at most {FOLLOWS_MOST}")
        try:
            with self._hub.viewer() as viewer:
                return await self._serve(request, viewer, follows)
        except TooManyViewers:
            return _problem(503, "too many pages are open: close one")

    async def _serve(self, request: web.Request, viewer: Viewer, follows: list[Follow]) -> web.StreamResponse:
        assert self._chat is not None  # started
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        relays = BackgroundTasks()
        try:
            for follow in follows:
                relays.spawn(self._chat.relay(follow, viewer), name="console-relay")
            async for lines in viewer.lines():
                async with asyncio.timeout(_WRITE_S):
                    await response.write(lines)
        except (ConnectionError, aiohttp.ClientError, TimeoutError):
            pass  # the viewer has gone, or reads nothing
        finally:
            await relays.close()
        return response

    # --- one answer each

    async def _act(self, request: web.Request) -> object:
        verb = msgspec.json.decode(await request.read(), type=Verb)
        return {"done": await self._backend.act(verb)}

    async def _thread(self, request: web.Request) -> object:
        return await self._backend.workers().thread(_thread_id(request), _number(request, "before"))

    async def _thread_state(self, request: web.Request) -> object:
        return await self._backend.workers().thread_state(_thread_id(request), _number(request, "at"))

    async def _create_thread(self, request: web.Request) -> web.Response:
        assert self._chat is not None  # started
        return await self._chat.command("/v1/threads/create", request)

    async def _add_messages(self, request: web.Request) -> web.Response:
        assert self._chat is not None  # started
        try:
            thread_id = _thread_id(request)
        except ValueError as error:
            return _problem(400, str(error))
        return await self._chat.command(f"/v1/threads/{thread_id}/messages/add", request)


def _answered(handler: Callable[[web.Request], Awaitable[object]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler whose result is the answer, and whose failures are sentences."""

    async def answer(request: web.Request) -> web.Response:
        try:
            return web.Response(body=msgspec.json.encode(await handler(request)), content_type="application/json")
        except (VerbRefused, WorkerRefused) as error:
            return _problem(409, str(error))
        except NoWorkerAvailable as error:
            return _problem(503, str(error))
        except (msgspec.DecodeError, ValueError) as error:
            return _problem(400, str(error))

    return answer


def _problem(status: int, detail: str) -> web.Response:
    return web.json_response({"detail": detail}, status=status)


def _thread_id(request: web.Request) -> str:
    found = canonical(request.match_info["id"])
    if found is None:
        raise ValueError("a thread's id is a ULID: 26 characters, digits and letters without I, L, O and U")
    return found


def _number(request: web.Request, name: str) -> int | None:
    given = request.query.get(name)
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) <= 9):
        raise ValueError(f"{name}: must be a number")
    return int(given)


def _assets() -> dict[str, Any]:
    """By path, the handler of each file of the page."""
    folder = files(__package__).joinpath("page")
    found = {}
    for file in folder.iterdir():
        kind = _TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            found["/" if file.name == "index.html" else f"/{file.name}"] = _asset(file.read_bytes(), kind)
    return found


def _asset(body: bytes, kind: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return answer
