"""The supervisor's control server, on loopback and behind a token: status, a new resource, moves, the end."""

import logging
import secrets
from collections.abc import Callable
from typing import Any

from aiohttp import web

from threadcluster_operator.api import InvalidResource, parse_resources
from threadcluster_operator.local.data_dir import DataDir
from threadcluster_operator.local.errors import UpFailed
from threadcluster_operator.local.supervisor import Supervisor
from threadcluster_operator.planning.rebalance import MovesRefused

log = logging.getLogger(__name__)


class ControlServer:
    """Serves the requests to one supervisor; ``stop`` is called when a client asks for the end."""

    def __init__(
        self, supervisor: Supervisor, data_dir: DataDir, stop: Callable[[], None], *, console: str = ""
    ) -> None:
        """``console`` is the address of the console, for the commands of the same user."""
        self._supervisor = supervisor
        self._console = console
        self._data_dir = data_dir
        self._stop = stop
        self._token = secrets.token_urlsafe(24)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen, and say where in the data directory."""
        app = web.Application(middlewares=[self._check])
        app.router.add_get("/status", self._status)
        app.router.add_put("/cluster", self._accept)
        app.router.add_get("/plan", self._plan)
        app.router.add_get("/rebalance", self._progress)
        app.router.add_post("/rebalance", self._rebalance)
        app.router.add_post("/down", self._down)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self._data_dir.write_control(f"http://{host}:{port}", self._token, self._console)

    async def close(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _check(self, request: web.Request, handler: Any) -> web.StreamResponse:  # aiohttp's handler type
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not secrets.compare_digest(given, f"Bearer {self._token}".encode()):
            raise web.HTTPUnauthorized
        try:
            answer: web.StreamResponse = await handler(request)
        except web.HTTPException:
            raise
        except Exception as error:  # the client gets a sentence, and the supervisor goes on
            log.exception("control request failed", extra={"path": request.path})
            return web.json_response({"refused": f"the supervisor failed: {error!r}; see its log"}, status=500)
        return answer

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(await self._supervisor.status())

    async def _accept(self, request: web.Request) -> web.Response:
        text = await request.text()
        try:
            changes = self._supervisor.accept(parse_resources(text, "the new resource"))
        except (InvalidResource, UpFailed) as error:
            return _refused(error)
        self._data_dir.write_private(self._data_dir.cluster_yaml, text)
        return web.json_response({"changes": changes})

    async def _plan(self, _: web.Request) -> web.Response:
        try:
            return web.json_response(await self._supervisor.plan())
        except MovesRefused as error:
            return _refused(error)

    async def _rebalance(self, request: web.Request) -> web.Response:
        try:
            return web.json_response(await self._supervisor.rebalance((await request.json())["plan"]))
        except MovesRefused as error:
            return _refused(error)

    async def _progress(self, _: web.Request) -> web.Response:
        return web.json_response(self._supervisor.progress())

    async def _down(self, _: web.Request) -> web.Response:
        self._stop()
        return web.json_response({})


def _refused(why: object) -> web.Response:
    return web.json_response({"refused": str(why)}, status=409)
