"""HTTP over a bare socket: exactly the bytes a test wants to send, exactly the answer that came."""

import asyncio
import json
import ssl
from dataclasses import dataclass
from typing import Any

from shard_worker.contract_tls import INTERNAL_NAME

DEADLINE_S = 10.0


@dataclass(frozen=True)
class Answered:
    """One HTTP answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # Any: JSON of any shape, which the test knows
        """The body as JSON."""
        return json.loads(self.body)


class Wire:
    """One connection to a server of ours."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext | None = None) -> "Wire":
        """Connect on loopback; with a context by TLS, to the internal API."""
        name = None if context is None else INTERNAL_NAME
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name))

    def send(self, raw: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(raw)

    async def answer(self, *, head: bool = False) -> Answered:
        """The next answer; ``head`` when it has no body whatever its length says."""
        async with asyncio.timeout(DEADLINE_S):
            lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])}
            length = 0 if head else int(headers.get("content-length", "0"))
            return Answered(int(lines[0].split(" ")[1]), headers, await self._reader.readexactly(length))

    async def ended(self) -> bool:
        """Whether the server closes the connection, with nothing more to say."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                return await self._reader.read(1) == b""
            except ConnectionResetError:
                return True

    async def close(self) -> None:
        """Leave."""
        self._writer.close()


def request_bytes(
    method: str, target: str, *, headers: tuple[tuple[str, str], ...] = (), body: bytes | None = None
) -> bytes:
    """A request with a ``Host``, and a ``Content-Length`` when there is a body."""
    lines = [f"{method} {target} HTTP/1.1", "Host: test", *(f"{name}: {value}" for name, value in headers)]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + (body or b"")


JSON_TYPE = ("Content-Type", "application/json")


class Api:
    """Asks a server of ours, a new connection each time."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self.port = port
        self.context = context
        """Of the requests under ``/internal/``; the others go in the clear."""

    async def send(self, raw: bytes, *, head: bool = False) -> Answered:
        """Send bytes and take the first answer."""
        internal = b" /internal/" in raw.split(b"\r\n", 1)[0]
        wire = await Wire.open(self.port, self.context if internal else None)
        try:
            wire.send(raw)
            return await wire.answer(head=head)
        finally:
            await wire.close()

    async def get(self, target: str, *headers: tuple[str, str]) -> Answered:
        """GET."""
        return await self.send(request_bytes("GET", target, headers=headers))

    async def post(self, target: str, body: object, *headers: tuple[str, str]) -> Answered:
        """POST a JSON value, or bytes as they are."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.send(request_bytes("POST", target, headers=(JSON_TYPE, *headers), body=raw))
