"""The asking side of the frames between workers: one kept-open connection to each, many requests on it at once.

No task, no timer and no lock for each request: a future, a stream id, and a look at the deadlines ten times a second.
"""

import asyncio
import hmac
import logging
import os
from itertools import count
from typing import Final, cast

from shard_worker.contract import PeerAnswer, PeerRequest
from shard_worker.peers import frames
from shard_worker.peers.errors import PeerOverloaded, PeerUnreachable
from shard_worker.peers.frames import BadFrame, Envelope, FrameReader, Outbox

log = logging.getLogger(__name__)

_CONNECT_S: Final = 1.0
_SWEEP_S: Final = 0.1
_PING_S: Final = 1.0
_SILENT_S: Final = 4.0
_AGAIN_S: Final = 0.05
"""An address that could not be connected to is not tried again sooner."""
_WINDOW: Final = 4_096
"""Requests outstanding at one peer at most."""

Address = tuple[str, int]


class PeerClient:
    """Asks other workers.  Implements the region's `Peers`."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._links: dict[Address, asyncio.Task[_ClientLink]] = {}
        self._failed_at: dict[Address, float] = {}

    async def ask(
        self, address: Address, request: PeerRequest, *, budget_s: float, shard_id: int, epoch: int, hops: int
    ) -> PeerAnswer:
        """The peer's answer.  Raises `PeerUnreachable`, which says whether anything left, or `PeerOverloaded`."""
        link = await self._link(address, min(budget_s, _CONNECT_S))
        return await link.send(Envelope(request, budget_s, shard_id, epoch, hops))

    async def _link(self, address: Address, within_s: float) -> "_ClientLink":
        task = self._links.get(address)
        if task is not None and task.done():
            if task.cancelled() or task.exception():
                if asyncio.get_running_loop().time() - self._failed_at.get(address, 0.0) < _AGAIN_S:
                    raise PeerUnreachable(f"{address[0]}:{address[1]}: no connection a moment ago", sent=False)
                task = None
            elif task.result().closed:
                task = None
        if task is None:
            task = asyncio.create_task(self._connect(address), name=f"peer-{address[0]}:{address[1]}")
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # somebody looked
            self._links[address] = task
        try:
            if task.done():
                return task.result()
            async with asyncio.timeout(within_s):
                return await asyncio.shield(task)
        except (OSError, TimeoutError, BadFrame) as error:
            raise PeerUnreachable(f"{address[0]}:{address[1]}: {error!r}", sent=False) from error

    async def _connect(self, address: Address) -> "_ClientLink":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, link = await loop.create_connection(lambda: _ClientLink(self._secret), *address)
                try:
                    await link.ready
                except BaseException:
                    link.abort()
                    raise
        except BaseException:
            self._failed_at[address] = loop.time()
            raise
        return link

    async def close(self) -> None:
        """Close every connection; what is outstanding fails as sent."""
        for task in self._links.values():
            if task.done() and not task.cancelled() and task.exception() is None:
                task.result().abort()
            task.cancel()
        await asyncio.gather(*self._links.values(), return_exceptions=True)
        self._links.clear()


class _ClientLink(asyncio.Protocol):
    """One connection to one peer."""

    def __init__(self, secret: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._secret = secret
        self._nonce = os.urandom(frames.NONCE)
        self._hello = bytearray()
        self._reader = FrameReader()
        self._streams: dict[int, tuple[asyncio.Future[PeerAnswer], float]] = {}
        self._numbers = count(1)
        self._transport: asyncio.Transport | None = None
        self._outbox: Outbox | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._heard = 0.0
        self._pinged = 0.0
        self.ready: asyncio.Future[None] = loop.create_future()
        self.closed: bool = False
        """Asks nothing more: the connection is lost, or the peer said goodbye."""

    # --- asking

    async def send(self, envelope: Envelope) -> PeerAnswer:
        """The answer to one request on this connection."""
        if self.closed or self._outbox is None:
            raise PeerUnreachable("the connection is closed", sent=False)
        if len(self._streams) >= _WINDOW:
            raise PeerOverloaded(f"{_WINDOW} requests are outstanding")
        stream = next(self._numbers) & 0xFFFF_FFFF
        future: asyncio.Future[PeerAnswer] = self._loop.create_future()
        if not self._streams:
            self._heard = self._loop.time()
        self._streams[stream] = (future, self._loop.time() + envelope.budget_s)
        self._outbox.put(frames.request_frame(stream, envelope))
        try:
            return await future
        finally:
            self._streams.pop(stream, None)
            self._hang_up_if_done()

    def _hang_up_if_done(self) -> None:
        """After a goodbye the last answer ends the connection."""
        if self.closed and not self._streams and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # --- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(frames.MAGIC + bytes([frames.VERSION]) + self._nonce)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        if not self.ready.done():
            self.ready.set_exception(ConnectionResetError("the peer closed the connection before it proved itself"))
        for future, _ in self._streams.values():
            if not future.done():
                future.set_exception(PeerUnreachable(f"the connection was lost: {exc!r}", sent=True))

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        if self._outbox is None:
            self._hello += data
            if not self._shake_hands():
                return
            data = bytes(self._hello)
            self._hello.clear()
        try:
            for kind, stream, body in self._reader.feed(data):
                if kind == frames.ANSWER:
                    self._answered(stream, body)
                elif kind == frames.BYE:
                    self.closed = True
                    self._hang_up_if_done()
                elif kind != frames.PONG:
                    raise BadFrame(f"kind {kind} is not for a client")
        except BadFrame as error:
            log.warning("peer connection closed", extra={"reason": f"bad frame: {error}"})
            self.abort()

    def _shake_hands(self) -> bool:
        assert self._transport is not None  # data comes after the connection
        if len(self._hello) < frames.NONCE + frames.PROOF:
            return False
        theirs = bytes(self._hello[: frames.NONCE])
        expected = frames.proof(self._secret, b"server", self._nonce, theirs)
        if not hmac.compare_digest(self._hello[frames.NONCE : frames.NONCE + frames.PROOF], expected):
            if not self.ready.done():
                self.ready.set_exception(BadFrame("the peer does not know the cluster's secret"))
            self.abort()
            return False
        del self._hello[: frames.NONCE + frames.PROOF]
        self._transport.write(frames.proof(self._secret, b"client", theirs, self._nonce))
        self._outbox = Outbox(self._transport)
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)
        if not self.ready.done():
            self.ready.set_result(None)
        return True

    def _answered(self, stream: int, body: bytes) -> None:
        entry = self._streams.get(stream)
        if entry is not None and not entry[0].done():  # else it came too late: nobody waits
            entry[0].set_result(frames.read_answer(body))

    def _sweep(self) -> None:
        now = self._loop.time()
        for future, deadline in list(self._streams.values()):
            if deadline <= now and not future.done():
                future.set_exception(PeerUnreachable("no answer within the budget", sent=True))
        if self._streams and now - self._heard > _SILENT_S:
            log.warning("peer connection closed", extra={"reason": "silent with requests outstanding"})
            self.abort()
        elif self._streams and now - max(self._heard, self._pinged) > _PING_S and self._outbox is not None:
            self._pinged = now
            self._outbox.put(frames.frame(frames.PING, 0))
        if self._transport is not None and not self._transport.is_closing():
            self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)
