"""The asking side of the frames between workers: one kept-open connection to each, many requests on it at once.

No task, no timer and no lock for each request: a future, a stream id, and a look at the deadlines ten times a second.
A connection belongs to an incarnation, which its TLS proves: after a fencing the same address is another peer.
"""

import asyncio
import logging
import random
import ssl
from collections.abc import Callable, Collection
from itertools import count
from typing import Final, NamedTuple, cast

from shard_worker.contract import (
    NO_STREAMS,
    FollowThread,
    PeerAnswer,
    PeerRequest,
    ReadAccess,
    Unavailable,
    UnavailableCode,
)
from shard_worker.contract_tls import peer_name
from shard_worker.peers import frames
from shard_worker.peers.errors import PeerOverloaded, PeerUnreachable
from shard_worker.peers.frames import BadFrame, CorkedWriter, Envelope, FrameReader, Hello
from shard_worker.peers.identity import ANY_INCARNATION, WorkerIdentity, signers_of
from shard_worker.tasks import BackgroundTasks

log = logging.getLogger(__name__)

_CONNECT_S: Final = 1.0
"""How long a connection may take until the peer's first frame is here."""
_SHUTDOWN_S: Final = 1.0
"""How long a peer may take to close its end of TLS."""
_SWEEP_S: Final = 0.1
_IDLE_SWEEP_S: Final = 1.0
_PING_S: Final = 1.0
_SILENT_S: Final = 4.0
_IDLE_PING_S: Final = 15.0
"""How often a link without requests is used: shorter than what load balancers and address translation forget (60 s)."""
_IDLE_SILENT_S: Final = 30.0
"""A link without requests that has brought nothing for longer is dead, though no one has noticed it yet."""
_GREETED: Final = 8
"""Peers that are greeted at once, at most: more would cost a large cluster a handshake between every two workers."""
_AGAIN_S: Final = 0.05
_AGAIN_MOST_S: Final = 1.0
"""An address that could not be connected to is not tried again sooner: doubled with each failure, with jitter."""
_WINDOW: Final = 4_096
"""Requests outstanding at one peer at most."""
_FOLLOWED_MOST: Final = 65_536
"""Threads of one peer that are followed at most, beside the window."""
_STREAM_REQUESTS: Final = frozenset((ReadAccess, FollowThread))
_UNSENT_MOST: Final = 16 << 20
"""Bytes of requests that a peer has not taken yet, beyond which no more are given."""

Address = tuple[str, int]


class _Peer(NamedTuple):
    host: str
    port: int
    incarnation: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def _ignore(_: Hello) -> None:
    """For a client that learns nothing from its peers."""


class PeerClient:
    """Asks other workers.  Implements the region's `Peers`.

    ``hello`` gives the client's first frame, ``heard`` gets each peer's.
    """

    def __init__(
        self, identity: WorkerIdentity, hello: Callable[[], Hello], *, heard: Callable[[Hello], None] = _ignore
    ) -> None:
        self._identity = identity
        self._hello = hello
        self._heard = heard
        self._links: dict[_Peer, asyncio.Task[_PeerConnection]] = {}
        self._tasks = BackgroundTasks()
        self._failures: dict[_Peer, tuple[int, float]] = {}
        """How often in a row a peer could not be connected to, and when it may be tried again."""

    async def ask(
        self,
        address: Address,
        request: PeerRequest,
        *,
        incarnation: str,
        budget_s: float,
        shard_id: int,
        epoch: int,
        hops: int,
    ) -> PeerAnswer:
        """The answer of the worker whose incarnation is at an address.

        Raises `PeerUnreachable`, which says whether anything left, or `PeerOverloaded`.  An answer that this release
        cannot read is ``outcome-unknown``.
        """
        link = await self._link(_Peer(*address, incarnation), min(budget_s, _CONNECT_S))
        return await link.send(Envelope(request, budget_s, shard_id, epoch, hops))

    async def greet(self, addresses: Collection[Address]) -> None:
        """Exchange first frames with workers at some of these addresses, whichever incarnations, within a second.

        A first frame carries the newest history of the database that its sender knows.  A few chosen at random are
        asked: those that learn of a newer one greet others in turn.
        """
        chosen = random.sample(list(addresses), min(_GREETED, len(addresses)))
        await asyncio.gather(*map(self._greet_one, chosen))

    async def _greet_one(self, address: Address) -> None:
        try:
            link = await self._connect(_Peer(*address, ANY_INCARNATION))
        except (OSError, TimeoutError, BadFrame) as error:  # a peer that is away knows nothing newer
            log.debug("worker failed to greet a peer", extra={"address": address, "cause": repr(error)})
        else:
            link.retire()

    def introduce(self, addresses: Collection[Address]) -> None:
        """`greet`, beside everything else."""
        self._tasks.spawn(self.greet(addresses), name="greet-peers")

    async def _link(self, peer: _Peer, within_s: float) -> "_PeerConnection":
        task = self._links.get(peer)
        if task is not None and task.done():
            if task.cancelled() or task.exception():
                if asyncio.get_running_loop().time() < self._failures.get(peer, (0, 0.0))[1]:
                    raise PeerUnreachable(f"{peer}: no connection a moment ago", sent=False)
                task = None
            elif task.result().closed:
                task = None
        if task is None:
            self._forget_dead()
            task = self._links[peer] = self._tasks.spawn(self._connect(peer), name=f"peer-{peer}", on_end=_linked)
        try:
            if task.done():
                return task.result()
            async with asyncio.timeout(within_s):
                return await asyncio.shield(task)
        except (OSError, TimeoutError, BadFrame) as error:
            raise PeerUnreachable(f"{peer}: {error!r}", sent=False) from error

    def _forget_dead(self) -> None:
        """Forget links and failures that are over: every incarnation leaves some."""
        now = asyncio.get_running_loop().time()
        for peer, task in list(self._links.items()):
            link = _linked(task)
            if link.closed if link is not None else task.done() and now > self._failures.get(peer, (0, 0.0))[1]:
                del self._links[peer]
        for peer, (_, not_before) in list(self._failures.items()):
            if now > not_before + _IDLE_SILENT_S:
                del self._failures[peer]

    async def _connect(self, peer: _Peer) -> "_PeerConnection":
        loop = asyncio.get_running_loop()
        greeting = peer.incarnation == ANY_INCARNATION
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, link = await loop.create_connection(
                    lambda: _PeerConnection(self._hello(), self._heard),
                    peer.host,
                    peer.port,
                    ssl=self._identity.greeting_context() if greeting else self._identity.client_context(),
                    server_hostname=peer_name(peer.incarnation),
                    ssl_handshake_timeout=_CONNECT_S,
                    ssl_shutdown_timeout=_SHUTDOWN_S,
                )
                try:
                    await link.ready
                except BaseException:
                    link.abort()
                    raise
        except BaseException:
            failures = self._failures.get(peer, (0, 0.0))[0]
            pause_s = min(_AGAIN_MOST_S, _AGAIN_S * 2 ** min(failures, 10)) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
            self._failures[peer] = (failures + 1, loop.time() + pause_s)
            raise
        self._failures.pop(peer, None)
        if not link.signers <= set(self._identity.fingerprints):
            link.retire()  # the secret was removed while the link was made: `retire` did not see this one
        for other, task in self._links.items():  # earlier incarnations at this address are asked nothing more
            before = _linked(task)
            if before is not None and other != peer and other[:2] == peer[:2]:
                before.retire()
        return link

    def retire(self, held: Collection[str]) -> None:
        """Ask nothing more on links that were made by a secret which is held no more; what was asked is answered."""
        for task in self._links.values():
            link = _linked(task)
            if link is not None and not link.signers <= set(held):
                link.retire()

    async def close(self) -> None:
        """Close every connection; what is outstanding fails as sent."""
        try:
            await self._tasks.close()
        finally:  # after the attempts to connect: each may have made a link in its last turn
            for task in self._links.values():
                link = _linked(task)
                if link is not None:
                    link.abort()
            self._links.clear()


def _linked(task: "asyncio.Task[_PeerConnection]") -> "_PeerConnection | None":
    """The link that an attempt to connect has made; None while it goes on, and when it failed.

    Also reads the exception of a failed attempt, which every request that waits for the link gets.
    """
    return task.result() if task.done() and not task.cancelled() and task.exception() is None else None


class _PeerConnection(asyncio.Protocol):
    """One connection to one peer."""

    def __init__(self, hello: Hello, heard: Callable[[Hello], None]) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._hello = hello
        self._learn = heard
        self._greeted = False
        self._reader = FrameReader()
        self._streams: dict[int, tuple[asyncio.Future[PeerAnswer], float]] = {}
        self._followed: set[int] = set()
        """Those of `_streams` that wait for a thread's next event, however long."""
        self._features = 0
        self._numbers = count(1)
        self._transport: asyncio.Transport | None = None
        self._outbox: CorkedWriter | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._heard = 0.0
        self._pinged = 0.0
        self.ready: asyncio.Future[None] = loop.create_future()
        self.closed: bool = False
        """Asks nothing more: the connection is lost, the peer sent GOAWAY, or this worker dropped the peer's secret."""
        self.signers: set[str] = set()
        """The fingerprints of the secrets that this link was made with."""

    # --- asking

    async def send(self, envelope: Envelope) -> PeerAnswer:
        """The answer to one request on this connection."""
        if self.closed or self._outbox is None:
            raise PeerUnreachable("the connection is closed", sent=False)
        if len(self._streams) - len(self._followed) >= _WINDOW:
            raise PeerOverloaded(f"{_WINDOW} requests are outstanding")
        if len(self._followed) >= _FOLLOWED_MOST:
            raise PeerOverloaded(f"{_FOLLOWED_MOST} threads are followed")
        if self._outbox.unread > _UNSENT_MOST:
            raise PeerOverloaded(f"{self._outbox.unread} bytes of requests were not taken yet")
        follows = type(envelope.request) in _STREAM_REQUESTS
        if follows and not self._features & frames.STREAMS:
            return NO_STREAMS
        stream = next(self._numbers) & 0xFFFF_FFFF or next(self._numbers) & 0xFFFF_FFFF  # 0 is the link itself
        data = frames.request_frame(stream, envelope)
        if len(data) > frames.FRAME_MOST:
            raise PeerOverloaded(f"the request has {len(data)} bytes, more than a frame takes")
        future: asyncio.Future[PeerAnswer] = self._loop.create_future()
        if not self._streams:
            self._heard = self._loop.time()
            self._sweep_after(_SWEEP_S)
        self._streams[stream] = (future, self._loop.time() + envelope.budget_s)
        if follows:
            self._followed.add(stream)
        self._outbox.put(data)
        try:
            return await future
        except asyncio.CancelledError:
            if follows and not self.closed:
                self._outbox.put(frames.frame(frames.CANCEL, stream))
            raise
        finally:
            self._followed.discard(stream)
            self._streams.pop(stream, None)
            self._hang_up_if_done()

    def retire(self) -> None:
        """Ask nothing more; hang up once what was asked is answered."""
        self.closed = True
        self._hang_up_if_done()

    def _hang_up_if_done(self) -> None:
        transport = self._transport
        # A TLS transport that is closed twice cannot be aborted any more, before Python 3.11.4.
        if self.closed and not self._streams and transport is not None and not transport.is_closing():
            transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # --- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        connection = transport.get_extra_info("ssl_object")
        assert isinstance(connection, ssl.SSLObject)  # connected by TLS
        self.signers = set(signers_of(connection))
        self._outbox = CorkedWriter(self._transport)
        self._outbox.put(frames.hello_frame(self._hello))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        if not self.ready.done():
            reason = "the peer closed the connection before its first frame: it may hold another secret"
            self.ready.set_exception(ConnectionResetError(f"{reason} ({exc!r})" if exc is not None else reason))
            self.ready.exception()  # no warning when the connection attempt was given up before
        for future, _ in self._streams.values():
            if not future.done():
                future.set_exception(PeerUnreachable(f"the connection was lost: {exc!r}", sent=True))

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        try:
            for kind, stream, body in self._reader.feed(data):
                if not self._greeted:
                    self._greet(kind, body)
                else:
                    self._take(kind, stream, body)
        except BadFrame as error:
            if not self.ready.done():
                self.ready.set_exception(error)
            else:
                log.warning("peer connection closed", extra={"reason": f"bad frame: {error}"})
            self.abort()

    def _greet(self, kind: int, body: bytes) -> None:
        if kind != frames.HELLO:
            raise BadFrame(f"the first frame is of kind {kind}, not hello")
        hello = frames.read_hello(body)
        self._learn(hello)
        self._features = hello.features
        self._greeted = True
        self._sweep_after(_IDLE_SWEEP_S)
        if not self.ready.done():
            self.ready.set_result(None)

    def _take(self, kind: int, stream: int, body: bytes) -> None:
        if kind == frames.ANSWER:
            self._answered(stream, body)
        elif kind == frames.GOAWAY:
            self.retire()
        elif kind == frames.BAD:
            self._refused(stream, body.decode(errors="replace"))
        elif kind != frames.PONG:
            raise BadFrame(f"kind {kind} is not for a client")

    def _answered(self, stream: int, body: bytes) -> None:
        entry = self._streams.get(stream)
        if entry is None or entry[0].done():
            return  # it came after the budget: no one waits
        try:
            answer = frames.read_answer(body)
        except BadFrame as error:
            log.warning("worker failed to decode a peer's answer", extra={"reason": str(error)})
            answer = Unavailable(UnavailableCode.OUTCOME_UNKNOWN, "this release cannot read the owner's answer")
        entry[0].set_result(answer)

    def _refused(self, stream: int, reason: str) -> None:
        """The peer could not read a request, of which it admitted nothing; or with stream 0, the link's bytes."""
        log.warning("peer refused a frame", extra={"reason": reason})
        entry = self._streams.get(stream)
        if entry is not None and not entry[0].done():
            entry[0].set_exception(PeerUnreachable(f"the peer cannot read the request: {reason}", sent=False))

    def _sweep_after(self, pause_s: float) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweeper = self._loop.call_later(pause_s, self._sweep)

    def _sweep(self) -> None:
        now = self._loop.time()
        for future, deadline in list(self._streams.values()):
            if deadline <= now and not future.done():
                future.set_exception(PeerUnreachable("no answer within the budget", sent=True))
        asked = bool(self._streams)
        ping_s, silent_s = (_PING_S, _SILENT_S) if asked else (_IDLE_PING_S, _IDLE_SILENT_S)
        if now - self._heard > silent_s:
            log.warning(
                "peer connection closed", extra={"reason": f"silent, {len(self._streams)} requests outstanding"}
            )
            self.abort()
        elif now - max(self._heard, self._pinged) > ping_s and self._outbox is not None:
            self._pinged = now
            self._outbox.put(frames.frame(frames.PING, 0))
        if self._transport is not None and not self._transport.is_closing():
            self._sweep_after(_SWEEP_S if asked else _IDLE_SWEEP_S)
