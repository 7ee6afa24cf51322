"""The guard: which requests the console answers, and what every answer allows the browser to do.

The console can kill a worker and show a text, so a page of another site must reach nothing of it.  A foreign name that
resolves to loopback is refused by ``Host``, a foreign page by ``Origin`` and ``Sec-Fetch-Site``, and everything but the
page's own files needs the token of the run, which the page has from the fragment of its address: no browser adds it to a
request by itself, and no server, log or other page ever sees it.
"""

import secrets
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

API: Final = "/api/"
"""Everything under this path needs the token."""
_SCHEME: Final = "Bearer "

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_FIELDS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Guard:
    """Refuses what does not come from the console's own page, opened with the token of this run."""

    def __init__(self) -> None:
        self.token: Final = secrets.token_urlsafe(32)
        self._hosts: frozenset[str] = frozenset()

    def listen(self, port: int) -> None:
        """Answer requests for this port of loopback, and none before."""
        self._hosts = frozenset({f"127.0.0.1:{port}", f"localhost:{port}"})

    def refusal(self, request: web.Request) -> web.Response | None:
        """The answer to a request that is refused, or None."""
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return _refused(421, "Host: this is not a name of the console")
        if any(origin != f"http://{hosts[0].lower()}" for origin in request.headers.getall("Origin", [])):
            return _refused(403, "Origin: a page of another origin may not ask")
        if not request.path.startswith(API):
            return None
        if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            return _refused(403, "Sec-Fetch-Site: a page of another site may not ask")
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not secrets.compare_digest(given, f"{_SCHEME}{self.token}".encode()):
            return _refused(
                401, "the token of this run is missing: open the address that `threadcluster console` prints"
            )
        if request.method == "POST" and request.content_type != "application/json":
            return _refused(415, "Content-Type: must be application/json")
        return None

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer what is not refused."""
        refusal = self.refusal(request)
        if refusal is not None:
            return refusal
        try:
            return await handler(request)
        except web.HTTPException as error:  # no such path, no such method, too large a body
            return _refused(error.status, error.reason)

    async def add_fields(self, _: web.Request, response: web.StreamResponse) -> None:
        """Put the fields on an answer, that of a stream included."""
        response.headers.update(_FIELDS)


def _refused(status: int, detail: str) -> web.Response:
    return web.json_response({"detail": detail}, status=status)
