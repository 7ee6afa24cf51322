"""Hostile readers: clients that ask for the largest pages a worker gives, read and unread."""

import asyncio
import json
from contextlib import suppress
from functools import partial
from typing import Any, Final

from ulid import ULID

from tests.hostile.inputs import HostileInput

_TEXT: Final = "é" * 4_000
_MESSAGES: Final = 240
_A_POST: Final = 60
_READERS: Final = 16


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, path: str, body: object = None
) -> Any:  # JSON
    raw = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    writer.write(head.encode() + raw)
    fields = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(fields.partition("content-length: ")[2].partition("\r\n")[0])
    return json.loads(await reader.readexactly(length))


async def _thread_of_large_messages(host: str, port: int, account: str) -> str:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        body = {"accountId": account, "title": "large", "administratorIds": [account], "memberIds": []}
        thread: str = (await _ask(reader, writer, "POST", "/v1/threads/create", body))["threadId"]
        for _ in range(_MESSAGES // _A_POST):
            messages = [{"text": _TEXT, "toAccountIds": [account]} for _ in range(_A_POST)]
            posted = {"accountId": account, "messages": messages}
            await _ask(reader, writer, "POST", f"/v1/threads/{thread}/messages/add", posted)
        return thread
    finally:
        writer.transport.abort()


async def _large_pages(host: str, port: int, *, times: int, read: bool) -> None:
    """Sixteen clients ask for pages of 1 MiB, each several at once."""
    account = str(ULID())
    thread = await _thread_of_large_messages(host, port, account)
    path = f"/v1/threads/{thread}/messages?account_id={account}&limit=1000"

    async def one() -> None:
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 21)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode() * times)
            with suppress(TimeoutError):
                async with asyncio.timeout(5.0):
                    while read and await reader.read(1 << 20):
                        pass
                    await asyncio.sleep(5.0)
        finally:
            writer.transport.abort()

    await asyncio.gather(*(one() for _ in range(_READERS)))


INPUTS: Final = (
    HostileInput(name="pages-of-a-mebibyte", act=partial(_large_pages, times=4, read=True)),
    HostileInput(name="pages-of-a-mebibyte-never-read", act=partial(_large_pages, times=4, read=False)),
)
