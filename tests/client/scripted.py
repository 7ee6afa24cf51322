"""A server that answers each request with the bytes that a test wrote for it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

ABORT = b"abort"
"""In place of an answer: the connection is cut."""
SILENCE = b""
"""In place of an answer: nothing ever comes."""


def problem(status: int, code: str, **headers: object) -> bytes:
    """A refusal; the headers' underscores stand for hyphens."""
    return answer(f'{{"status":{status},"code":"{code}","detail":"d"}}', status=status, **headers)


def answer(body: str, *, status: int = 200, **headers: object) -> bytes:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status} x", "Content-Type: application/json", f"Content-Length: {len(body.encode())}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", body]).encode()


CHANGED = answer('{"threadId":"T","sequenceNr":1,"position":"1.1","error_messages":[],"new":1}')
STREAM = b"HTTP/1.1 200 x\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@dataclass
class Request:
    """One request, as it came."""

    target: str
    headers: dict[str, str]
    body: bytes
    connection: int


class Scripted:
    """The server: what it was asked, and what it has open."""

    def __init__(self, script: Callable[[int], bytes]) -> None:
        self._script = script
        self.requests: list[Request] = []
        self.open = 0
        self.connections = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; a stream stays open after its bytes until a test's client leaves, if they end in no line."""
        self.connections += 1
        self.open += 1
        number = self.connections
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await self._request(number, reader, writer)
        finally:
            self.open -= 1
            writer.close()

    async def _request(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append(Request(first.split(" ")[1], headers, body, number))
        reply = self._script(len(self.requests))
        if reply == ABORT:
            writer.transport.abort()
            raise ConnectionResetError
        writer.write(reply)
        await writer.drain()
        if reply == SILENCE or (reply.startswith(STREAM) and not reply.endswith(b"\n\n")):
            await reader.read()  # until the client leaves
            raise ConnectionResetError
        if b"Connection: close" in reply:
            raise ConnectionResetError


@asynccontextmanager
async def scripted(script: Callable[[int], bytes]) -> AsyncIterator[Scripted]:
    """Serve on a free port of loopback; ``script`` gives the answer of the request of this number, from 1 on."""
    made = Scripted(script)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(made.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
