"""The chats of the page: commands to the public port, and its streams, through the console's server.

CORS stays off on the public port, and the page needs no other origin.  A command is sent once: the page sends it again,
with the same key, as any client does.  A stream that breaks is opened again from the last position, as `EventSource` does,
so that the page sees each event of a thread once while workers come and go.
"""

import asyncio
from collections.abc import Callable
from typing import Annotated, Final

import aiohttp
import msgspec
from aiohttp import web

from threadcluster_operator.console.hub import Viewer

FOLLOWS_MOST: Final = 4
"""Chats that one stream follows."""
_COMMAND_S: Final = 15.0
_SILENCE_S: Final = 40.0
"""A stream of the public port shows at least every 15 s that it lives."""
_AGAIN_S: Final = 0.25
_LINE_MOST: Final = 4 << 20
"""Bytes of one event: `messages/add` has up to 1 MiB of texts."""
_PASSED_ON: Final = ("Retry-After", "Idempotent-Replayed")

Id = Annotated[str, msgspec.Meta(pattern="^[0-7][0-9A-HJKMNP-TV-Z]{25}$")]


class Follow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """A thread that a pane shows, to whom, and the position of the last event that the pane has."""

    pane: int
    thread_id: Id
    account_id: Id
    position: Annotated[str, msgspec.Meta(max_length=100, pattern="^[0-9A-Za-z._:-]*$")] = ""


class Chat:
    """The public port of one cluster, for the page."""

    def __init__(self, session: aiohttp.ClientSession, url: Callable[[], str]) -> None:
        self._session = session
        self._url = url

    async def command(self, path: str, request: web.Request) -> web.Response:
        """Send a command once, and pass the answer on; 502 without one: whether it was stored is not known."""
        fields = {"Content-Type": "application/json"}
        if (key := request.headers.get("Idempotency-Key")) is not None:
            fields["Idempotency-Key"] = key
        try:
            async with self._session.post(
                self._url() + path,
                data=await request.read(),
                headers=fields,
                timeout=aiohttp.ClientTimeout(total=_COMMAND_S),
            ) as answer:
                passed_on = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
                return web.Response(
                    body=await answer.read(),
                    status=answer.status,
                    headers={"Content-Type": answer.headers.get("Content-Type", "application/json"), **passed_on},
                )
        except (aiohttp.ClientError, TimeoutError) as error:
            return web.json_response({"code": "no-answer", "detail": f"the public port: {error!r}"}, status=502)

    async def relay(self, follow: Follow, viewer: Viewer) -> None:
        """Hand the events of a thread to a viewer, until the thread's stream is refused."""
        relay = _Relay(follow, viewer)
        while True:
            try:
                await self._connect(relay)
            except (aiohttp.ClientError, TimeoutError, ValueError):
                await relay.add("lost")
            except StreamRefused as refused:
                await relay.add("refused", refused.problem)
                return
            await asyncio.sleep(_AGAIN_S)

    async def _connect(self, relay: "_Relay") -> None:
        """Hand over what one connection gives.  Raises `StreamRefused`, and what aiohttp raises."""
        where = {"account_id": relay.follow.account_id} | ({} if relay.position else {"after": "0"})
        async with self._session.get(
            f"{self._url()}/v1/threads/{relay.follow.thread_id}/events",
            params=where,
            headers={"Last-Event-ID": relay.position} if relay.position else {},
            timeout=aiohttp.ClientTimeout(sock_connect=2.0, sock_read=_SILENCE_S),
            read_bufsize=_LINE_MOST,
        ) as answer:
            if answer.status != 200:
                if answer.status < 500:
                    raise StreamRefused(await answer.read())
                return
            await relay.add("open")
            async for line in answer.content:
                await relay.take(line)


class _Relay:
    """One pane's events, and the position after the last of them that was whole."""

    def __init__(self, follow: Follow, viewer: Viewer) -> None:
        self.follow = follow
        self.position = follow.position
        self._viewer = viewer
        self._begin()

    def _begin(self) -> None:
        self._id: str | None = None
        self._event, self._data = "", b""

    async def add(self, event: str, data: bytes | None = None) -> None:
        """Send the viewer a line about the pane; a new connection begins with no event under way."""
        self._begin()
        raw = None if data is None else msgspec.Raw(data)
        line = {"kind": "chat", "pane": self.follow.pane, "event": event, "position": self.position, "data": raw}
        await self._viewer.add(msgspec.json.encode(line) + b"\n")

    async def take(self, line: bytes) -> None:
        """The next line of the stream.  The position moves with the empty line that ends an event: one that was cut off comes again."""
        name, _, value = line.rstrip(b"\n").partition(b": ")
        if name == b"id":
            self._id = value.decode()
        elif name == b"event":
            self._event = value.decode()
        elif name == b"data":
            self._data = value
        elif line == b"\n":
            self.position = self._id or self.position
            event, data = self._event, self._data
            self._begin()
            if event == "error":
                raise StreamRefused(data)
            if data:
                await self.add(event, data)


class StreamRefused(Exception):
    """The public port gives the pane no stream; ``problem`` is its JSON."""

    def __init__(self, problem: bytes) -> None:
        super().__init__(problem)
        self.problem = problem
