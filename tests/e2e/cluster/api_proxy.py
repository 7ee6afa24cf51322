"""A proxy before the API server that answers some requests itself, as an overloaded or broken server does."""

import base64
import ssl
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


class ApiProxy:
    """`faulty` says with which number a request (method and path) is answered; None: by the API server."""

    def __init__(self, server: str, session: aiohttp.ClientSession) -> None:
        self.faulty: Fault = lambda method, path: None
        self.kubeconfig = Path()
        self._server = server
        self._session = session

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request; a watch is passed on as it comes."""
        number = self.faulty(request.method, request.path)
        if number is not None:
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
            async for chunk in given.content.iter_any():
                await answer.write(chunk)
            await answer.write_eof()
            return answer


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
