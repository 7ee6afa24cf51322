"""A proxy before the API server that answers some requests itself, as an overloaded or broken server does."""

import base64
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import yaml
from aiohttp import web

from tests.e2e.cluster.kubeconfig import write_kubeconfig

_PASSED_ON: Final = ("Authorization", "Content-Type", "Accept")

Fault = Callable[[str, str], int | None]


_EXPIRED: Final = {
    "type": "ERROR",
    "object": {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "code": 410,
        "reason": "Expired",
        "message": "too old resource version",
    },
}


class ApiProxy:
    """`faulty` says with which number a request (method and path) is answered; None: by the API server."""

    def __init__(self, server: str, session: aiohttp.ClientSession) -> None:
        self.faulty: Fault = lambda method, path: None
        self.rules: dict[str, Fault] = {}
        """The same, by whom a rule is; each may be taken away for itself."""
        self.writes: list[tuple[float, str, str]] = []
        """The writes, but dry runs, that were answered with a number: when, in seconds since the epoch, method and path."""
        self.kubeconfig = Path()
        self._server = server
        self._session = session
        self._silent: dict[str, set[str]] = {}
        """The ends of paths whose watches say nothing, each with the names of those that want it."""
        self._expired: set[str] = set()
        """The paths whose next watch begins too late."""
        self._watches: dict[str, set[aiohttp.ClientResponse]] = {}

    def silence(self, end: str, by: str) -> None:
        """Nothing comes any more on watches of paths with this end."""
        self._silent.setdefault(end, set()).add(by)

    def resume(self, end: str, by: str) -> None:
        """These watches end, and the next of each path begins with the error that its version is too old; when all want that."""
        self._silent[end].discard(by)
        if not self._silent[end]:
            for path in [path for path in self._watches if path.endswith(end)]:
                self._expired.add(path)
                for each in self._watches[path]:
                    each.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request; a watch is passed on as it comes."""
        if "watch" in request.query and request.path in self._expired:
            self._expired.discard(request.path)
            return web.json_response(_EXPIRED)
        found = (rule(request.method, request.path) for rule in (self.faulty, *self.rules.values()))
        number = next((each for each in found if each is not None), None)
        if number is not None:
            if request.method != "GET" and "dryRun" not in request.query:
                self.writes.append((time.time(), request.method, request.path))
            reasons = {429: "TooManyRequests", 500: "InternalError"}
            message = "too many requests" if number == 429 else "Internal error occurred: etcdserver: no leader"
            body = {
                "kind": "Status",
                "status": "Failure",
                "code": number,
                "reason": reasons[number],
                "message": message,
            }
            return web.json_response(body, status=number)
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        async with self._session.request(
            request.method,
            f"{self._server}{request.path_qs}",
            headers=headers,
            data=await request.read() or None,
            skip_auto_headers=("Content-Type",),
        ) as given:
            answer = web.StreamResponse(status=given.status, headers={"Content-Type": given.headers["Content-Type"]})
            await answer.prepare(request)
            if "watch" in request.query:
                await self._pass_watch(request.path, given, answer)
            else:
                async for chunk in given.content.iter_any():
                    await answer.write(chunk)
            with contextlib.suppress(aiohttp.ClientError):  # the client of a watch is gone
                await answer.write_eof()
            return answer

    async def _pass_watch(self, path: str, given: aiohttp.ClientResponse, answer: web.StreamResponse) -> None:
        self._watches.setdefault(path, set()).add(given)
        try:
            with contextlib.suppress(aiohttp.ClientError):  # `resume` ended it
                async for chunk in given.content.iter_any():
                    if not any(by for end, by in self._silent.items() if path.endswith(end)):
                        await answer.write(chunk)
        finally:
            self._watches[path].discard(given)


@asynccontextmanager
async def api_proxy(kubeconfig: Path, folder: Path) -> AsyncIterator[ApiProxy]:
    """A proxy to the API server of a kubeconfig with a token; has a kubeconfig of its own."""
    config = yaml.safe_load(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    authority = cluster["certificate-authority-data"]
    context = ssl.create_default_context(cadata=base64.b64decode(authority).decode())
    budget = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), timeout=budget) as session:
        proxy = ApiProxy(cluster["server"], session)
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", proxy.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server = f"http://127.0.0.1:{runner.addresses[0][1]}"
        proxy.kubeconfig = write_kubeconfig(
            folder / "proxy.kubeconfig", server=server, authority=authority, token=user["token"]
        )
        try:
            yield proxy
        finally:
            await runner.cleanup()
