"""``python -m tests.benchmarks.stream_clients``: followers for `tests.benchmarks.streams`, in a process of their own.

Reads one line of JSON from standard input: the port, and a path for each follower.  Prints ``open`` when every stream
has begun.  At the next line it stops, and prints when each event arrived at each follower that is sampled: pairs of
a sequence number and the system's monotonic clock, in seconds.
"""

import asyncio
import sys
import time

import msgspec
import uvloop
from msgspec import Struct

_AT_ONCE = 50


class Task(Struct):
    """The followers to make; the first ``sampled`` of them note when events arrive."""

    port: int
    paths: list[str]
    sampled: int


class _Follower(asyncio.Protocol):
    def __init__(self, path: str, arrivals: list[tuple[int, float]] | None) -> None:
        self._request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        self._arrivals = arrivals
        self.status = b""
        self.lost = False
        self.began: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._request)  # type: ignore[attr-defined]  # uvloop's transports are no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.began.done():
            self.began.set_exception(exc or ConnectionResetError("closed before the stream began"))

    def data_received(self, data: bytes) -> None:
        if not self.status:
            self.status = data[9:12]
        if not self.began.done() and b"id: " in data:
            self.began.set_result(None)
        if self._arrivals is not None:
            now = time.monotonic()
            at = data.find(b"event: MessagesAdded")
            while at >= 0:
                start = data.rfind(b"id: ", 0, at) + 4
                self._arrivals.append((int(data[start : data.index(b".", start)]), now))
                at = data.find(b"event: MessagesAdded", at + 1)


async def _run() -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=64 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    task = msgspec.json.decode(await lines.readline(), type=Task)
    arrivals: list[tuple[int, float]] = []
    followers: list[_Follower] = []
    for at in range(0, len(task.paths), _AT_ONCE):
        some = [
            _Follower(path, arrivals if at + number < task.sampled else None)
            for number, path in enumerate(task.paths[at : at + _AT_ONCE])
        ]
        await asyncio.gather(*[loop.create_connection(lambda each=each: each, "127.0.0.1", task.port) for each in some])  # type: ignore[misc]  # bound for each
        await asyncio.gather(*[each.began for each in some])
        followers += some
    assert {each.status for each in followers} <= {b"200"}
    print("open", flush=True)
    await lines.readline()
    lost = sum(each.lost for each in followers)
    print(msgspec.json.encode({"lost": lost, "arrivals": arrivals}).decode(), flush=True)


if __name__ == "__main__":
    uvloop.run(_run())
