"""A client that follows a thread as a browser does: it reads events, and resumes with the last id when the stream ends.

It judges what it sees: each event once, in the order of the sequence numbers, none left out.  Anything wrong is in
`Follower.faults`; `Follower.seen` has the positions in their order.  Parsing is a callback of the connection, so that
thousands of followers cost one task each and nothing more.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from shard_worker.tasks import cancel_and_wait
from tests.support.load.target import Target, parse_target

_HEAD_END: Final = b"\r\n\r\n"
_AGAIN_S: Final = 0.05
"""How long a follower waits before it connects again; a `retry:` of the server is obeyed up to `_RETRY_MOST_S`."""
_RETRY_MOST_S: Final = 0.3
_NOT_FINAL: Final = frozenset({None, 200, 503})
"""A browser does not come back after another status than 200; this client does after 503, and where no answer came."""
_OPEN_S: Final = 5.0
"""How long a connection may take to be answered: it may lead to a frozen worker."""


class Event(NamedTuple):
    """One event of a stream, as it came."""

    id: str
    type: str
    data: bytes

    @property
    def json(self) -> Any:  # Any: JSON of any shape, which the test knows
        """The data."""
        return json.loads(self.data)

    @property
    def sequence_nr(self) -> int:
        """The number in the id."""
        return int(self.id.partition(".")[0])


class EventParser:
    """Cuts a stream into events; comments are counted, and an id without data is an event of no type."""

    def __init__(self) -> None:
        self._buffer = b""
        self.last_id = ""
        self.retry_ms: int | None = None
        self.comments = 0

    def feed(self, data: bytes) -> list[Event]:
        """The events that are whole now."""
        blocks = (self._buffer + data).split(b"\n\n")
        self._buffer = blocks.pop()
        events = []
        for block in blocks:
            fields = {"id": "", "event": "", "data": ""}
            for line in block.decode().split("\n"):
                name, _, value = line.partition(":")
                if name == "":
                    self.comments += 1
                elif name == "retry":
                    self.retry_ms = int(value)
                else:
                    fields[name] = value.removeprefix(" ")
            if fields["id"] or fields["event"]:
                self.last_id = fields["id"] or self.last_id
                events.append(Event(self.last_id, fields["event"], fields["data"].encode()))
        return events


class Stream(asyncio.Protocol):
    """One connection with a stream on it."""

    def __init__(self, got: Callable[[Event], None], last_id: str) -> None:
        self._got = got
        self._head = b""
        self.parser = EventParser()
        self.parser.last_id = last_id
        self.status: int | None = None
        self.headers = ""
        self.body = b""
        """Of an answer that is no stream."""
        loop = asyncio.get_running_loop()
        self.began: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]  # uvloop's transports are no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        """The stream is over."""
        self.transport = None
        for future in (self.began, self.ended):
            if not future.done():
                future.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        if self.status is None:
            self._head += data
            head, found, data = self._head.partition(_HEAD_END)
            if not found:
                return
            self.headers = head.decode()
            self.status = int(head[9:12])
            self.began.set_result(None)
        if self.status != 200:
            self.body += data
            return
        for event in self.parser.feed(data):
            self._got(event)


async def open_stream(
    target: Target, path: str, got: Callable[[Event], None], *, last_id: str = "", header: bool = True
) -> Stream:
    """Connect and ask; returns when the head is there, or the connection ended without one."""
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(lambda: Stream(got, last_id), target.host, target.port)
    assert stream.transport is not None
    resume = f"Last-Event-ID: {last_id}\r\n" if last_id and header else ""
    request = f"GET {path} HTTP/1.1\r\nHost: {target.host}\r\nAccept: text/event-stream\r\n{resume}\r\n"
    stream.transport.write(request.encode())
    try:
        await stream.began
    except asyncio.CancelledError:
        if stream.transport is not None:
            stream.transport.abort()
        raise
    return stream


class Follower:
    """Follows one thread on one of some workers, whichever answers."""

    def __init__(
        self, urls: Callable[[], Sequence[str]], thread_id: str, account_id: str, *, position: str = "", turn: int = 0
    ) -> None:
        self._urls = urls
        self._path = f"/v1/threads/{thread_id}/events?account_id={account_id}"
        self._turn = turn
        self.position = position
        self.seen: list[tuple[int, int]] = []
        """(sequence number, epoch) of each event, in the order of arrival."""
        self.faults: list[str] = []
        self.resets = 0
        self.connects = 0
        self.final: int | None = None
        """The status that ended it for good."""
        self.opened = asyncio.Event()
        """Set once a stream has begun."""
        self._stream: Stream | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Follow until `stop`."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Leave."""
        if self._task is not None:
            await cancel_and_wait(self._task)
            if not self._task.cancelled():
                self._task.result()
        if self._stream is not None and self._stream.transport is not None:
            self._stream.transport.abort()

    @property
    def head(self) -> int:
        """The newest event that it has."""
        return int(self.position.partition(".")[0] or 0)

    def _got(self, event: Event) -> None:
        before, self.position = self.head, event.id
        if event.type == "":
            self.opened.set()
            if before and event.sequence_nr != before:
                self.faults.append(f"a stream opened at {event.id} after {before}")
        elif event.type == "reset":
            self.opened.set()
            self.resets += 1
        elif event.type == "error":
            self.faults.append(f"error {event.data.decode()}")
        else:
            if event.sequence_nr != before + 1:
                self.faults.append(f"{event.type} {event.id} came after {before}")
            self.seen.append((event.sequence_nr, event.json["epoch"]))

    async def _run(self) -> None:
        while self.final is None:
            pause_s = _AGAIN_S
            urls = self._urls()
            self._turn += 1
            if urls:
                with suppress(OSError):  # a time-out is one
                    target = parse_target(urls[self._turn % len(urls)])
                    self.connects += 1
                    async with asyncio.timeout(_OPEN_S):
                        stream = self._stream = await open_stream(target, self._path, self._got, last_id=self.position)
                    await stream.ended
                    if stream.status not in _NOT_FINAL:
                        self.final = stream.status
                        self.faults.append(f"{stream.status} {stream.body.decode(errors='replace')}")
                    if stream.parser.retry_ms is not None:
                        pause_s = min(_RETRY_MOST_S, stream.parser.retry_ms / 1000)
            await asyncio.sleep(pause_s)
