"""The supervisor's own door, on loopback and behind a token: status, a new resource, moves, the end."""

import json
import secrets
from collections.abc import Callable
from typing import Any, Final

import aiohttp
from aiohttp import web

from threadcluster_operator.local.datadir import DataDir
from threadcluster_operator.local.moves import MovesRefused
from threadcluster_operator.local.supervisor import Supervisor, UpFailed
from threadcluster_operator.model import ResourceRefused, parse_resources
from threadcluster_operator.pins import with_pin, wrong_pin

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
        app.router.add_put("/pins", self._pin)
        app.router.add_get("/plan", self._plan)
        app.router.add_get("/rebalance", self._progress)
        app.router.add_post("/rebalance", self._rebalance)
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
        return web.json_response(await self._supervisor.status())

    async def _accept(self, request: web.Request) -> web.Response:
        return self._take(await request.text())

    def _take(self, text: str) -> web.Response:
        try:
            changes = self._supervisor.accept(parse_resources(text, "the new resource"))
        except (ResourceRefused, UpFailed) as error:
            return _refused(error)
        self._data_dir.write_private(self._data_dir.cluster_yaml, text)
        return web.json_response({"changes": changes})

    async def _pin(self, request: web.Request) -> web.Response:
        asked = await request.json()
        shard, worker = int(asked["shard"]), asked["worker"]
        shards = self._supervisor.resources.cluster.spec.shards
        wrong = wrong_pin(shard, worker, shards=shards, workers=self._supervisor.known_workers())
        if wrong is not None:
            return _refused(wrong)
        return self._take(with_pin(self._data_dir.cluster_yaml.read_text(), shard, worker))

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
        return list((await self._call("PUT", "/cluster", text))["changes"])

    async def pin(self, shard: int, worker: str | None) -> list[str]:
        """Pin a shard to a worker, or with None to nobody; what changes.  Raises `UpFailed` when that is refused."""
        return list((await self._call("PUT", "/pins", json.dumps({"shard": shard, "worker": worker})))["changes"])

    async def plan(self) -> dict[str, Any]:  # JSON
        """What `rebalance` would do now.  Raises `UpFailed` when nobody knows."""
        return await self._call("GET", "/plan")

    async def rebalance(self, plan: str | None) -> dict[str, Any]:  # JSON
        """Balance now, or carry out just this plan.  Raises `UpFailed` when that is refused."""
        return await self._call("POST", "/rebalance", json.dumps({"plan": plan}))

    async def progress(self) -> dict[str, Any]:  # JSON
        """How far the last `rebalance` is."""
        return await self._call("GET", "/rebalance")

    async def hand_over(self) -> None:
        """Nothing is to be done: the supervisor orders the moves."""

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
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NotRunning(f"the supervisor of {self._data_dir.path} does not answer: {error!r}") from error
        if "refused" in answer:
            raise UpFailed(answer["refused"])
        return answer
