"""The answering side of the frames between workers, and the one port it shares with HTTP."""

import asyncio
import hmac
import logging
import os
from collections.abc import Callable
from typing import Final, Protocol, cast

from shard_worker.contract import PeerAnswer, PeerRequest, Unavailable, UnavailableCode
from shard_worker.peers import frames
from shard_worker.peers.frames import BadFrame, FrameReader, Outbox

log = logging.getLogger(__name__)

_HANDSHAKE_S: Final = 5.0
_BROKEN: Final = Unavailable(UnavailableCode.OUTCOME_UNKNOWN, "the owner failed while it answered")


class Handler(Protocol):
    """Answers a request at once, or gives a future of the answer; never raises for anything foreseen."""

    def __call__(
        self, request: PeerRequest, budget_s: float, epoch_known: int, hops: int
    ) -> "PeerAnswer | asyncio.Future[PeerAnswer]": ...


class PeerServer:
    """Makes a protocol for each connection of a peer, and closes them all in order."""

    def __init__(self, handler: Handler, secret: bytes) -> None:
        self._handler = handler
        self._secret = secret
        self._links: set[_ServerLink] = set()
        self._closing = False

    def protocol(self) -> asyncio.Protocol:
        """A protocol for one accepted connection."""
        return _ServerLink(self._handler, self._secret, self._links, welcome=not self._closing)

    async def close(self, within_s: float) -> None:
        """Say goodbye, go on answering until every peer has hung up, at most so long, and close what is left."""
        self._closing = True
        for link in list(self._links):
            link.say_goodbye()
        deadline = asyncio.get_running_loop().time() + within_s
        while self._links and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        for link in list(self._links):
            link.close()


class _ServerLink(asyncio.Protocol):
    """One connection of a peer."""

    def __init__(self, handler: Handler, secret: bytes, links: "set[_ServerLink]", *, welcome: bool) -> None:
        self._handler = handler
        self._welcome = welcome
        self._secret = secret
        self._links = links
        self._reader = FrameReader()
        self._hello = bytearray()
        self._nonces: tuple[bytes, bytes] | None = None
        self._trusted = False
        self._transport: asyncio.Transport | None = None
        self._outbox: Outbox | None = None
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._welcome:
            self._transport.abort()
            return
        self._outbox = Outbox(self._transport)
        self._links.add(self)
        self._patience = asyncio.get_running_loop().call_later(_HANDSHAKE_S, self._refuse, "no handshake in time")

    def connection_lost(self, exc: Exception | None) -> None:
        self._links.discard(self)
        if self._patience is not None:
            self._patience.cancel()

    def data_received(self, data: bytes) -> None:
        if not self._trusted:
            self._hello += data
            if not self._shake_hands():
                return
            data = bytes(self._hello)
            self._hello.clear()
        try:
            for kind, stream, body in self._reader.feed(data):
                self._take(kind, stream, body)
        except BadFrame as error:
            self._refuse(f"bad frame: {error}")

    def _shake_hands(self) -> bool:
        """Advance the handshake with what has arrived; True once the peer has proved the secret."""
        assert self._transport is not None  # data comes after the connection
        hello = self._hello
        if self._nonces is None:
            if len(hello) < frames.HELLO:
                return False
            if hello[:4] != frames.MAGIC or hello[4] != frames.VERSION:
                self._refuse("another protocol or version")
                return False
            theirs, ours = bytes(hello[5 : frames.HELLO]), os.urandom(frames.NONCE)
            del hello[: frames.HELLO]
            self._nonces = (theirs, ours)
            self._transport.write(ours + frames.proof(self._secret, b"server", theirs, ours))
        if len(hello) < frames.PROOF:
            return False
        theirs, ours = self._nonces
        if not hmac.compare_digest(hello[: frames.PROOF], frames.proof(self._secret, b"client", ours, theirs)):
            self._refuse("the cluster's secret is not theirs")
            return False
        del hello[: frames.PROOF]
        self._trusted = True
        if self._patience is not None:
            self._patience.cancel()
        return True

    def _take(self, kind: int, stream: int, body: bytes) -> None:
        assert self._outbox is not None  # set with the connection
        if kind == frames.PING:
            self._outbox.put(frames.frame(frames.PONG, stream))
        elif kind == frames.REQUEST:
            envelope = frames.read_request(body)
            answer = self._handler(envelope.request, envelope.budget_s, envelope.epoch, envelope.hops)
            if isinstance(answer, asyncio.Future):
                answer.add_done_callback(lambda done: self._answer_later(stream, done))
            else:
                self._outbox.put(frames.answer_frame(stream, answer))
        else:
            raise BadFrame(f"kind {kind} is not for a server")

    def _answer_later(self, stream: int, done: "asyncio.Future[PeerAnswer]") -> None:
        assert self._outbox is not None  # set with the connection
        if done.cancelled():
            answer: PeerAnswer = _BROKEN
        elif (error := done.exception()) is not None:
            log.error("a forwarded request failed", exc_info=error)
            answer = _BROKEN
        else:
            answer = done.result()
        self._outbox.put(frames.answer_frame(stream, answer))

    def _refuse(self, reason: str) -> None:
        if self._transport is not None and not self._transport.is_closing():
            log.warning(
                "peer connection closed", extra={"reason": reason, "peer": self._transport.get_extra_info("peername")}
            )
            self._transport.abort()

    def say_goodbye(self) -> None:
        """Have the peer ask nothing more, and hang up when it has its answers."""
        if not self._trusted:
            self._refuse("leaving")
        elif self._outbox is not None:
            self._outbox.put(frames.frame(frames.BYE, 0))

    def close(self) -> None:
        """Write what is gathered, and close."""
        if self._outbox is not None and self._transport is not None:
            self._outbox.flush()
            self._transport.close()


class SharedPort(asyncio.Protocol):
    """Chooses by its first bytes whether a connection is a peer's frames or HTTP, and hands it over."""

    def __init__(self, http: Callable[[], asyncio.Protocol], peers: Callable[[], asyncio.Protocol]) -> None:
        self._http = http
        self._peers = peers
        self._start = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._start += data
        if len(self._start) < len(frames.MAGIC) and frames.MAGIC.startswith(self._start):
            return
        transport = self._transport
        assert transport is not None  # data comes after the connection
        protocol = self._peers() if self._start.startswith(frames.MAGIC) else self._http()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(self._start)


def sniffing_factory(
    http: Callable[[], asyncio.Protocol], peers: Callable[[], asyncio.Protocol]
) -> Callable[[], asyncio.Protocol]:
    """A protocol factory for a port that carries both."""
    return lambda: SharedPort(http, peers)
