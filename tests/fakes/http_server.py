"""A pretend chat server with faults to order: what the load client is tested against.

It keeps the rules of the API that the client relies on, in memory, in a hundred lines, and can be set to lose, double,
reorder or serve stale: a verifier that finds nothing wrong with a liar proves nothing.  Each fault strikes at every
``n``-th command that could have it.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from msgspec import Struct

_Message = dict[str, Any]  # the API's message object


class Faults(Struct, frozen=True):
    """The faults of the server; 0 means never."""

    drop_answers: int = 0
    """Honest: the command is stored, then the connection is cut."""
    busy: int = 0
    """Honest: 503, nothing stored."""
    unknown: int = 0
    """Honest: 503 outcome-unknown; every other time it was stored."""
    lose: int = 0
    forget_keys: bool = False
    swap: int = 0
    stale_reads: bool = False
    resurrect: bool = False
    misnumber: int = 0
    liar_busy: int = 0
    """503 "nothing was stored", though it was."""


class _Thread:
    def __init__(self) -> None:
        self.sequence_nr = 0
        self.messages: list[_Message] = []
        self.keys: dict[tuple[str, str], dict[str, Any]] = {}


class Pretend:
    """The server's state; `address` is its base URL while it runs."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.threads: dict[str, _Thread] = {}
        self.commands = 0
        self.minted = 0
        self.address = ""

    def _strikes(self, every: int) -> bool:
        return every > 0 and self.commands % every == 0

    async def _command(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        key = request.headers.get("Idempotency-Key", "")
        if request.path == "/v1/threads/create":
            self.minted += 1
            thread_id = body.get("threadId") or f"T{self.minted:025d}"
            self.threads.setdefault(thread_id, _Thread())
        else:
            thread_id = request.match_info["thread_id"]
        thread = self.threads.get(thread_id)
        if thread is None:
            return _problem(404, "thread-not-found")
        known = thread.keys.get((body["accountId"], key)) if key and not self.faults.forget_keys else None
        if known is not None:
            return web.json_response(known)
        self.commands += 1
        if self._strikes(self.faults.busy):
            return _problem(503, "overloaded")
        if self._strikes(self.faults.unknown) and self.commands % (2 * self.faults.unknown):
            return _problem(503, "outcome-unknown")
        answer = self._store(thread_id, thread, request.path, body)
        thread.keys[body["accountId"], key] = answer
        if self._strikes(self.faults.unknown):
            return _problem(503, "outcome-unknown")
        if self._strikes(self.faults.liar_busy):
            del thread.keys[body["accountId"], key]
            return _problem(503, "overloaded")
        if self._strikes(self.faults.drop_answers) and request.transport is not None:
            request.transport.abort()
        return web.json_response(answer)

    def _store(self, thread_id: str, thread: _Thread, path: str, body: dict[str, Any]) -> dict[str, Any]:
        lost = self._strikes(self.faults.lose)
        if not lost:
            thread.sequence_nr += 1
        answer = {"threadId": thread_id, "thread_id": thread_id, "sequenceNr": thread.sequence_nr, "error_messages": []}
        if self._strikes(self.faults.misnumber):
            answer["sequenceNr"] = max(1, thread.sequence_nr - 1)
        if path.endswith("/messages/add"):
            posted = []
            for message in body["messages"]:
                self.minted += 1
                posted.append(
                    {
                        "id": message.get("messageId", f"M{self.minted:025d}"),
                        "senderId": body["accountId"],
                        "body": message["text"],
                        "sequenceNr": thread.sequence_nr,
                    }
                )
            if not lost:
                thread.messages += posted
                if self._strikes(self.faults.swap):
                    thread.messages.reverse()
            answer["messageIds"] = [message["id"] for message in posted]
        elif path.endswith("/messages/remove"):
            if not self.faults.resurrect:
                thread.messages = [each for each in thread.messages if each["id"] not in body["messageIds"]]
            answer["messageIds"] = body["messageIds"]
        return answer

    async def _thread(self, request: web.Request) -> web.Response:
        thread_id = request.match_info["thread_id"]
        thread = self.threads.get(thread_id)
        if thread is None:
            return _problem(404, "thread-not-found")
        sequence_nr = 0 if self.faults.stale_reads else thread.sequence_nr
        return web.json_response({"result": {"id": thread_id, "sequenceNr": sequence_nr}, "error_messages": []})

    async def _messages(self, request: web.Request) -> web.Response:
        thread = self.threads[request.match_info["thread_id"]]
        limit, start = int(request.query["limit"]), int(request.query.get("cursor", "0"))
        page = thread.messages[start : start + limit]
        more = str(start + limit) if start + limit < len(thread.messages) else None
        return web.json_response({"result": page, "results": page, "nextCursor": more, "error_messages": []})

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application()
        application.router.add_post("/v1/threads/create", self._command)
        application.router.add_post("/v1/threads/{thread_id}/{kind}/{verb}", self._command)
        application.router.add_get("/v1/threads/{thread_id}", self._thread)
        application.router.add_get("/v1/threads/{thread_id}/messages", self._messages)
        return application


def _problem(status: int, code: str) -> web.Response:
    return web.Response(
        status=status, content_type="application/problem+json", text=json.dumps({"status": status, "code": code})
    )


@asynccontextmanager
async def pretending(faults: Faults | None = None) -> AsyncIterator[Pretend]:
    """A pretend server on a free loopback port."""
    pretend = Pretend(faults if faults is not None else Faults())
    runner = web.AppRunner(pretend.application(), access_log=None)
    await runner.setup()
    server = await asyncio.get_running_loop().create_server(runner.server, "127.0.0.1", 0)  # type: ignore[arg-type]  # aiohttp's server is a protocol factory, typed Optional
    try:
        pretend.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield pretend
    finally:
        server.close()
        await runner.cleanup()
