"""A relay between two workers that knows no secret: it sees every byte, and may change what it passes on.

It works on TLS records, which is what an attacker in the middle can tell apart: `Fault` says what becomes of the next
ones of a direction once the relay is armed.
"""

import asyncio
from enum import StrEnum
from typing import Final

_HEADER: Final = 5
"""Bytes of a TLS record before its body: type, version, length."""


class Fault(StrEnum):
    """Fault that the relay causes, once, in the stream that it forwards."""

    CHANGE = "change"
    REPEAT = "repeat"
    DROP = "drop"
    REORDER = "reorder"
    INSERT = "insert"


class Relay:
    """Forwards 127.0.0.1:`port` to a port.  Use as an async context manager."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.seen = bytearray()
        """Every byte that came by, in both directions."""
        self.connections = 0
        self.armed: dict[str, Fault] = {}
        """By direction (``up``: to the target), what to do to the next records."""
        self.done = 0
        """How many faults were done."""
        self.every: tuple[int, Fault | None] = (0, None)
        """Also cause a fault in every n-th record of the direction ``up``."""
        self._records = 0

    async def __aenter__(self) -> "Relay":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        both = [
            asyncio.create_task(self._pump("up", reader, far_writer), name="relay-up"),
            asyncio.create_task(self._pump("down", far_reader, writer), name="relay-down"),
        ]
        self._tasks.update(both)
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
                self._tasks.discard(task)
            writer.transport.abort()
            far_writer.transport.abort()

    async def _pump(self, direction: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held: bytes | None = None
        try:
            while True:
                head = await reader.readexactly(_HEADER)
                record = head + await reader.readexactly(int.from_bytes(head[3:]))
                self.seen += record
                fault = self._fault(direction)
                if held is not None:
                    writer.write(record + held)
                    held = None
                elif fault is Fault.REORDER:
                    held = record
                else:
                    writer.write(_passed_on(record, fault))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return

    def _fault(self, direction: str) -> Fault | None:
        fault = self.armed.pop(direction, None)
        if direction == "up" and self.every[0] > 0:
            self._records += 1
            if self._records % self.every[0] == 0:
                fault = self.every[1]
        self.done += fault is not None
        return fault


def _passed_on(record: bytes, fault: Fault | None) -> bytes:
    if fault is Fault.CHANGE:
        return record[:-20] + bytes([record[-20] ^ 1]) + record[-19:]
    if fault is Fault.REPEAT:
        return record * 2
    if fault is Fault.INSERT:
        return b"\x17\x03\x03\x00\x20" + bytes(32) + record
    return b"" if fault is Fault.DROP else record
