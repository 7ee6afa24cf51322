"""Two gateways that get the same bytes, cut the same way: one with the lane, one without.

Each has one connection on a transport in memory and threads of its own.  A script of steps is played to both; after each step both
come to rest, and then everything that a client or a thread's owner can see of them must be the same.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast
from unittest.mock import patch

from shard_worker.contract import Answer, ExistsThread, Moved, OwnerAnswer, Request
from shard_worker.domain.ids import ThreadId
from shard_worker.gateway.http.connection import ConnectionFactory, GatewayConnection
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.public.id_generator import IdGenerator
from shard_worker.gateway.public.server import PublicGateway
from shard_worker.gateway.public.service import AnswerSlot
from tests.fakes.memory_threads import MemoryThreads

_TURNS: Final = 12
"""Turns of the loop in which a connection comes to rest after a step, with some to spare."""
_DATE: Final = re.compile(rb"\r\nDate: [^\r]*")


class _Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.ended = ""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended, "written after the end"
        self.written += data

    def is_closing(self) -> bool:
        return bool(self.ended)

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = self.ended or "aborted"

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        del high, low

    def pause_reading(self) -> None:
        return None

    def resume_reading(self) -> None:
        return None


class _Threads(MemoryThreads):
    """Answers when `release` is called, in the order asked; ``ways`` says for each how its owner is reached."""

    def __init__(self, ways: str) -> None:
        super().__init__()
        self._ways = ways
        self._asked = 0
        self._waiting: deque[Callable[[], None]] = deque()

    def ask_here(self, request: Request, thread_id: ThreadId, slot: AnswerSlot, budget_s: float) -> bool:
        """By its way the request is (h) here, (n) here and answered now, (e) elsewhere, (m) moves, or (b) breaks the owner."""
        del thread_id
        way = self._ways[self._asked % len(self._ways)]
        if way == "e":
            return False
        if way == "m":
            asyncio.get_running_loop().call_soon(slot.set_result, Moved("w1", 9))
            return True
        self._asked += 1
        if way == "b":
            raise RuntimeError("the owner is broken")
        answer = cast("OwnerAnswer", self._answer(request, budget_s))
        if way == "n":
            slot.set_result(answer)
        else:
            self._waiting.append(lambda: slot.set_result(answer))
        return True

    async def ask(self, request: Request, budget_s: float) -> Answer:
        """As `ask_here`, for a request that does not come from there, or comes from there after all."""
        if isinstance(request, ExistsThread):
            return self._answer(request, budget_s)
        way = self._ways[self._asked % len(self._ways)]
        self._asked += 1
        if way == "b":
            raise RuntimeError("the owner is broken")
        answer = self._answer(request, budget_s)
        if way == "n":
            return answer
        released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(lambda: released.set_result(None))
        await released
        return answer

    def release(self) -> None:
        """Give the oldest answer that waits."""
        if self._waiting:
            self._waiting.popleft()()


class _Ids(IdGenerator):
    """The same ids for both gateways."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0

    def ulid(self, at_ms: int) -> str:
        """The next id."""
        del at_ms
        self._next += 1
        return f"01HZZZZZZZZZZZZZZZZZ{self._next:06d}"

    def command_id(self) -> bytes:
        """The next id of a command."""
        self._next += 1
        return self._next.to_bytes(16, "big")


@dataclass
class Script:
    """The life of one connection."""

    steps: list[tuple[str, bytes]]
    """Names of methods of `Side`, each with the bytes it takes."""
    ways: str = "h"
    options: GatewayOptions = field(default_factory=lambda: GatewayOptions(documentation=False, id_salt=b"s"))


class Side:
    """One of the two gateways, and its connection."""

    def __init__(self, script: Script, *, lane: bool) -> None:
        self.threads = _Threads(script.ways)
        self.gateway = PublicGateway(self.threads, replace(script.options, lane=lane))
        dispatcher = self.gateway._dispatcher
        for part in (dispatcher._posting, dispatcher.lane):
            if part is not None:
                part._requests._mint = _Ids()
        if dispatcher.lane is not None:
            dispatcher.lane._requests = dispatcher._posting._requests
        factory = ConnectionFactory(
            dispatcher,
            request_timeout_s=1e6,
            keepalive_timeout_s=1e6,
            capacity=self.gateway.capacity,
            lane=None if dispatcher.lane is None else dispatcher.lane.take,
        )
        self._factory = self.gateway._factory = factory
        self.connection: GatewayConnection = factory()
        self.transport = _Transport()
        self.connection.connection_made(self.transport)
        self._paused = False
        self._lost = False

    def data(self, raw: bytes) -> None:
        """The client sends."""
        if not self.transport.ended:
            self.connection.data_received(raw)

    def eof(self, _: bytes) -> None:
        """The client closes its half."""
        if not self.transport.ended and not self.connection.client_ended and not self.connection.eof_received():
            self.transport.close()

    def release(self, _: bytes) -> None:
        """The owner answers."""
        self.threads.release()

    def leave(self, _: bytes) -> None:
        """The worker leaves."""
        self.gateway.leave()

    def full(self, _: bytes) -> None:
        """The client does not read."""
        if not self._paused and not self.transport.ended:
            self._paused = True
            self.connection.pause_writing()

    def read(self, _: bytes) -> None:
        """The client has read."""
        if self._paused and not self._lost:
            self._paused = False
            self.connection.resume_writing()

    def lost(self, _: bytes) -> None:
        """The connection is lost."""
        if not self._lost:
            self._lost = True
            self.transport.ended = self.transport.ended or "lost"
            self.connection.connection_lost(None)

    def seen(self) -> dict[str, Any]:
        """Everything that must be the same."""
        connection, metrics = self.connection, self.gateway.metrics
        return {
            "written": _DATE.sub(b"", bytes(self.transport.written)),
            "ended": self.transport.ended,
            "asked": list(self.threads.asked),
            "idle": connection.idle or bool(self.transport.ended),  # one that was closed is not waited for
            "answered": connection.answered,
            "waits": connection.waits_since is not None,
            "in flight": metrics.in_flight,
            "counted": {name: dict(series.by_status) for name, series in metrics._series.items()},
            "held": self.gateway.capacity.body_bytes,
        }

    async def close(self) -> None:
        """Answer what waits, and end."""
        for _ in range(10):
            self.threads.release()
            await asyncio.sleep(0)
        self.lost(b"")
        await self.gateway.close()
        await _rest()


async def _rest() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)


class Difference(AssertionError):
    """The two gateways are not the same."""


async def compare(script: Script) -> int:
    """Play a script to both; how many requests took the lane.  Raises `Difference`."""
    with patch("time.time_ns", lambda: 1_700_000_000_000_000_000):
        return await _compare(script)


async def _compare(script: Script) -> int:
    long, short = Side(script, lane=False), Side(script, lane=True)
    await _rest()
    try:
        for number, (name, raw) in enumerate(script.steps):
            for side in (long, short):
                getattr(side, name)(raw)
            await _rest()
            expected, found = long.seen(), short.seen()
            if expected != found:
                what = [each for each in expected if expected[each] != found[each]]
                steps = script.steps[: number + 1]
                raise Difference(
                    f"{what} after {steps}, ways {script.ways}:\nwithout: { {each: expected[each] for each in what} }\n"
                    f"with:    { {each: found[each] for each in what} }"
                )
    finally:
        await long.close()
        await short.close()
    assert short.gateway.metrics.in_flight == 0
    return short.gateway.metrics.lane
