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
        position = follow.position
        while True:
            try:
                position = await self._relay(follow, position, viewer)
            except (aiohttp.ClientError, TimeoutError, ValueError):
                await viewer.add(_line(follow.pane, "lost", position, None))
            except StreamRefused as refused:
                await viewer.add(_line(follow.pane, "refused", position, msgspec.Raw(refused.problem)))
                return
            await asyncio.sleep(_AGAIN_S)

    async def _relay(self, follow: Follow, position: str, viewer: Viewer) -> str:
        """Hand over what one connection gives; the position after it.  Raises `StreamRefused`, and what aiohttp raises."""
        where = {"account_id": follow.account_id} | ({} if position else {"after": "0"})
        async with self._session.get(
            f"{self._url()}/v1/threads/{follow.thread_id}/events",
            params=where,
            headers={"Last-Event-ID": position} if position else {},
            timeout=aiohttp.ClientTimeout(sock_connect=2.0, sock_read=_SILENCE_S),
            read_bufsize=_LINE_MOST,
        ) as answer:
            if answer.status != 200:
                if answer.status < 500:
                    raise StreamRefused(await answer.read())
                return position
            await viewer.add(_line(follow.pane, "open", position, None))
            event, data = "", b""
            async for line in answer.content:
                name, _, value = line.rstrip(b"\n").partition(b": ")
                if name == b"id":
                    position = value.decode()
                elif name == b"event":
                    event = value.decode()
                elif name == b"data":
                    data = value
                elif name == b"" and data:
                    if event == "error":
                        raise StreamRefused(data)
                    await viewer.add(_line(follow.pane, event, position, msgspec.Raw(data)))
                    event, data = "", b""
        return position


class StreamRefused(Exception):
    """The public port gives the pane no stream; ``problem`` is its JSON."""

    def __init__(self, problem: bytes) -> None:
        super().__init__(problem)
        self.problem = problem


def _line(pane: int, event: str, position: str, data: msgspec.Raw | None) -> bytes:
    return (
        msgspec.json.encode({"kind": "chat", "pane": pane, "event": event, "position": position, "data": data}) + b"\n"
    )
