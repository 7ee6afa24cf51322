"""The supervisor's own door, on loopback and behind a token: status, a new resource, the end."""

import secrets
from collections.abc import Callable
from typing import Any, Final

import aiohttp
from aiohttp import web

from threadcluster_operator.local.datadir import DataDir
from threadcluster_operator.local.supervisor import Supervisor, UpFailed
from threadcluster_operator.model import ResourceRefused, parse_resources

_ANSWER_S: Final = 4.0


class ControlServer:
    """Serves one supervisor's door; ``stop`` is called when somebody asks for the end."""

    def __init__(self, supervisor: Supervisor, data_dir: DataDir, stop: Callable[[], None]) -> None:
        self._supervisor = supervisor
        self._data_dir = data_dir
        self._stop = stop
        self._token = secrets.token_urlsafe(24)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen, and say where in the data directory."""
        app = web.Application(middlewares=[self._check])
        app.router.add_get("/status", self._status)
        app.router.add_put("/cluster", self._accept)
        app.router.add_post("/down", self._down)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self._data_dir.write_control(f"http://{host}:{port}", self._token)

    async def close(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _check(self, request: web.Request, handler: Any) -> web.StreamResponse:  # aiohttp's handler type
        given = request.headers.get("Authorization", "")
        if not secrets.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise web.HTTPUnauthorized
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(self._supervisor.status())

    async def _accept(self, request: web.Request) -> web.Response:
        try:
            text = await request.text()
            changes = self._supervisor.accept(parse_resources(text, "the new resource"))
        except (ResourceRefused, UpFailed) as error:
            return web.json_response({"refused": str(error)}, status=409)
        self._data_dir.write_private(self._data_dir.cluster_yaml, text)
        return web.json_response({"changes": changes})

    async def _down(self, _: web.Request) -> web.Response:
        self._stop()
        return web.json_response({})


class NotRunning(Exception):
    """No supervisor lives on the data directory, or it does not answer."""


class ControlClient:
    """Asks the supervisor of a data directory.  Every call raises `NotRunning` when there is none."""

    def __init__(self, data_dir: DataDir) -> None:
        self._data_dir = data_dir

    async def status(self) -> dict[str, Any]:  # JSON
        """What the supervisor sees."""
        return await self._call("GET", "/status")

    async def accept(self, text: str) -> list[str]:
        """Hand over a new resource; what changes.  Raises `UpFailed` when it is refused."""
        answer = await self._call("PUT", "/cluster", text)
        if "refused" in answer:
            raise UpFailed(answer["refused"])
        return list(answer["changes"])

    async def down(self) -> None:
        """Ask for the end; it has only begun when this returns."""
        await self._call("POST", "/down")

    async def _call(self, method: str, path: str, text: str | None = None) -> dict[str, Any]:  # JSON
        control = self._data_dir.control()
        if control is None:
            raise NotRunning(f"no cluster is running on {self._data_dir.path}")
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_S)) as session,
                session.request(
                    method,
                    control["url"] + path,
                    data=text,
                    headers={"Authorization": f"Bearer {control['token']}"},
                ) as response,
            ):
                answer: dict[str, Any] = await response.json(content_type=None)
                return answer
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NotRunning(f"the supervisor of {self._data_dir.path} does not answer: {error!r}") from error
