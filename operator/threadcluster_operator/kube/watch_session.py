"""The HTTP session of Kopf's watches: the same server, credentials, proxy and TLS as every other request.

It passes on what the API server says, but for objects that are nested so deep that Kopf's decoder would fail, which ends
all watches (`nesting`).  It reports each sign of life of a watch by its kind: an idle watch has no events and no bookmarks,
so its beginnings count too; the API server ends each watch after the time that Kopf asks for, and Kopf begins it again.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, cast

import aiohttp
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from yarl import URL

from threadcluster_operator.kube.client import Kind
from threadcluster_operator.kube.nesting import shallow


class Signs(NamedTuple):
    """Takes the signs of life of the watches, each with its kind; called in the loop of the session."""

    listed: Callable[[Kind], None]
    """A watch begins with a list: what was deleted since the one before is not in it, and no event tells of that."""
    heard: Callable[[Kind], None]
    """The API server has answered, or sent something."""


class Credentials:
    """The credentials of the watches.  They are renewed when the API server takes them no more, and the request is repeated.

    Kopf would begin another session, and close this one under the requests of its other watches, which may end them all.
    """

    def __init__(self, header: str, read: Callable[[], Awaitable[str]]) -> None:
        """``read`` makes them again: it reads a file, or runs a program."""
        self._header = header
        self._read = read
        self._reading = asyncio.Lock()

    async def authorize(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Send a request with them."""
        used = self._header
        response = await handler(_authorized(request, used))
        if response.status != HTTPStatus.UNAUTHORIZED:
            return response
        async with self._reading:
            if self._header == used:  # of several requests that are refused at once, one reads
                self._header = await self._read()
        if self._header == used:
            return response
        response.release()
        return await handler(_authorized(request, self._header))


def _authorized(request: aiohttp.ClientRequest, header: str) -> aiohttp.ClientRequest:
    if header:
        request.headers["Authorization"] = header
    return request


async def header_of(settings: Configuration) -> str:
    """The credentials as a request has them; empty where there are none but a certificate."""
    return await settings.get_api_key_with_prefix("BearerToken") or ""


async def watch_session(
    settings: Configuration, kinds: Iterable[Kind], namespace: str | None, signs: Signs, credentials: Credentials
) -> aiohttp.ClientSession:
    """A session; ``kinds`` are those that are watched, in one namespace or in all."""
    prefix = URL(settings.host).path.rstrip("/")  # an API server may be behind another server's path
    by_path = {prefix + kind.path(namespace): kind for kind in kinds}
    named = (_named(settings.tls_server_name),) if settings.tls_server_name else ()
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=RESTClientObject(settings).ssl_context),
        proxy=settings.proxy,
        trust_env=True,
        read_bufsize=2**21,
        response_class=_observed(by_path, signs),
        middlewares=(credentials.authorize, *named),
    )


def _named(server: str) -> aiohttp.ClientMiddlewareType:
    """Have the server's certificate be of another name than its address; also through a proxy."""

    async def name(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        request.server_hostname = server
        return await handler(request)

    return name


def _observed(kinds: Mapping[str, Kind], signs: Signs) -> type[aiohttp.ClientResponse]:
    class Observed(aiohttp.ClientResponse):
        """An answer of the API server to Kopf."""

        async def start(self, connection: Any) -> aiohttp.ClientResponse:  # aiohttp's own, which it does not export
            await super().start(connection)
            kind = kinds.get(self.url.path)
            if kind is None or self.status != HTTPStatus.OK or self.method != "GET":
                return self
            signs.heard(kind)
            if "watch" in self.url.query:
                lines = _Lines(self.content, lambda: signs.heard(kind))
                self.content = cast("aiohttp.StreamReader", lines)
            elif "continue" not in self.url.query:
                signs.listed(kind)
            return self

        async def read(self) -> bytes:
            self._body = shallow(await super().read())
            return self._body

    return Observed


class _Lines:
    """The content of a watch, as Kopf reads it: in chunks, each of whole lines."""

    def __init__(self, content: aiohttp.StreamReader, heard: Callable[[], None]) -> None:
        self._content = content
        self._heard = heard

    def __getattr__(self, name: str) -> Any:  # everything else is the content's own
        return getattr(self._content, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """Lines of bounded depth."""
        rest: list[bytes] = []
        async for chunk in self._content.iter_chunked(size):
            self._heard()
            whole, newline, begun = chunk.rpartition(b"\n")
            if newline:
                lines = b"".join((*rest, whole)).split(b"\n")
                rest = []
                yield b"".join(shallow(line) + b"\n" for line in lines)
            rest.append(begun)
        yield shallow(b"".join(rest))
