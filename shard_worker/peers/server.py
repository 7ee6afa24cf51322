"""The answering side of the frames between workers."""

import asyncio
import logging
import ssl
from collections.abc import Callable, Collection
from typing import Final, Protocol, cast

from shard_worker.contract import CommandRequest, FollowThread, PeerAnswer, PeerRequest, Unavailable, UnavailableCode
from shard_worker.peers import frames
from shard_worker.peers.frames import BadFrame, CorkedWriter, FrameReader, Hello
from shard_worker.peers.identity import signers_of
from shard_worker.peers.refusals import Refusals, Refused

log = logging.getLogger(__name__)

_HELLO_S: Final = 5.0
"""How long a peer that has proved itself may take for its first frame."""
_IDLE_S: Final = 60.0
"""A link that brought nothing for longer is dead: its client sends a ping every 15 s (`shard_worker.peers.client`)."""
_CLOSE_S: Final = 5.0
"""How long a link of a removed secret may take to have its answers and hang up."""
_UNREAD_MOST: Final = 16 << 20
"""Bytes of answers that a peer has not read, beyond which a query gets a refusal in place of its page."""
_UNREAD_END: Final = 64 << 20
"""Bytes of answers that a peer has not read, beyond which the link is closed."""
_SMALL: Final = 64 << 10
"""Bytes of an answer that is given however much is unread: commands' outcomes are all smaller."""
_BROKEN: Final = Unavailable(UnavailableCode.OUTCOME_UNKNOWN, "the owner failed while it answered")
_UNREAD: Final = Unavailable(UnavailableCode.OVERLOADED, "the worker that was asked first does not read its answers")


class Handler(Protocol):
    """Answers a request at once, or gives a future of the answer; never raises for anything foreseen."""

    def __call__(
        self, request: PeerRequest, budget_s: float, epoch_known: int, hops: int
    ) -> "PeerAnswer | asyncio.Future[PeerAnswer]": ...


def _ignore(_: Hello) -> None:
    """For a server that learns nothing from its peers."""


class PeerServer:
    """Makes a protocol for each connection of a peer, and closes them all in order.

    ``hello`` gives the server's first frame, ``heard`` gets each peer's.
    """

    def __init__(
        self,
        handler: Handler,
        hello: Callable[[], Hello],
        *,
        heard: Callable[[Hello], None] = _ignore,
        refusals: Refusals | None = None,
    ) -> None:
        self.handler = handler
        self.hello = hello
        self.heard = heard
        self.refusals = refusals or Refusals()
        self.links: set[_ServerLink] = set()
        self._closing = False

    def protocol(self) -> asyncio.Protocol:
        """A protocol for one accepted connection whose TLS has proved a peer."""
        return _ServerLink(self, welcome=not self._closing)

    def retire(self, held: Collection[str]) -> None:
        """Say goodbye to every link that was made by a secret which is held no more."""
        for link in list(self.links):
            if not link.signers <= set(held):
                link.say_goodbye()
                asyncio.get_running_loop().call_later(_CLOSE_S, link.close)

    async def close(self, within_s: float) -> None:
        """Send GOAWAY, go on answering until every peer has disconnected or the time is over, and close the rest."""
        self._closing = True
        for link in list(self.links):
            link.say_goodbye()
        deadline = asyncio.get_running_loop().time() + within_s
        while self.links and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        for link in list(self.links):
            link.close()


class _ServerLink(asyncio.Protocol):
    """One connection of a peer."""

    def __init__(self, server: PeerServer, *, welcome: bool) -> None:
        self._server = server
        self._welcome = welcome
        self._reader = FrameReader()
        self._greeted = False
        self._transport: asyncio.Transport | None = None
        self._outbox: CorkedWriter | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._heard = 0.0
        self._parked: dict[int, asyncio.Future[PeerAnswer]] = {}
        """Requests that wait for a thread's next event, by stream."""
        self.signers: set[str] = set()
        """The fingerprints of the secrets that this link was made with."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._welcome:
            self._transport.abort()
            return
        connection = transport.get_extra_info("ssl_object")
        if not isinstance(connection, ssl.SSLObject):
            self._refuse(Refused.HANDSHAKE, "a peer must come by TLS")
            return
        self.signers = set(signers_of(connection))
        self._outbox = CorkedWriter(self._transport)
        self._server.links.add(self)
        self._outbox.put(frames.hello_frame(self._server.hello()))
        self._patience = asyncio.get_running_loop().call_later(_HELLO_S, self._no_hello)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.links.discard(self)
        for answer in list(self._parked.values()):
            answer.cancel()
        if self._patience is not None:
            self._patience.cancel()

    def _no_hello(self) -> None:
        self._refuse(Refused.SILENT, f"no first frame within {_HELLO_S:g} s")

    def _watch(self) -> None:
        """Close the link when its client has been silent for too long; else look again when that may be."""
        loop = asyncio.get_running_loop()
        left = self._heard + _IDLE_S - loop.time()
        if left <= 0:
            self._end(f"silent for {_IDLE_S:g} s")
        else:
            self._patience = loop.call_later(left, self._watch)

    def data_received(self, data: bytes) -> None:
        self._heard = asyncio.get_running_loop().time()
        try:
            for kind, stream, body in self._reader.feed(data):
                if not self._greeted:
                    self._greet(kind, body)
                else:
                    self._take(kind, stream, body)
        except BadFrame as error:
            if not self._greeted:
                self._refuse(Refused.FRAME, str(error))
                return
            if self._outbox is not None:
                self._outbox.put(frames.bad_frame(0, str(error)))
                self._outbox.flush()
            log.warning("peer connection closed", extra={"reason": f"bad frame: {error}", "peer": self._peer()})
            self.close()

    def _greet(self, kind: int, body: bytes) -> None:
        if kind != frames.HELLO:
            raise BadFrame(f"the first frame is of kind {kind}, not hello")
        hello = frames.read_hello(body)
        self._greeted = True
        if self._patience is not None:
            self._patience.cancel()
        self._watch()
        self._server.heard(hello)

    def _take(self, kind: int, stream: int, body: bytes) -> None:
        assert self._outbox is not None  # set with the connection
        if kind == frames.PING:
            self._outbox.put(frames.frame(frames.PONG, stream))
        elif kind == frames.REQUEST:
            self._serve(stream, body)
        elif kind == frames.CANCEL:
            parked = self._parked.get(stream)
            if parked is not None:
                parked.cancel()
        elif kind == frames.BAD:
            log.warning("peer refused a frame", extra={"reason": body.decode(errors="replace"), "peer": self._peer()})
        else:
            raise BadFrame(f"kind {kind} is not for a server")

    def _serve(self, stream: int, body: bytes) -> None:
        assert self._outbox is not None  # set with the connection
        try:
            envelope = frames.read_request(body)
        except BadFrame as error:
            log.warning("worker refused a peer's request", extra={"reason": str(error), "peer": self._peer()})
            self._outbox.put(frames.bad_frame(stream, str(error)))
            return
        command = type(envelope.request) is CommandRequest
        try:
            answer = self._server.handler(envelope.request, envelope.budget_s, envelope.epoch, envelope.hops)
        except Exception:  # a fault of this program: the request's own, not the link's
            log.exception("forwarded request failed")
            answer = _BROKEN
        if isinstance(answer, asyncio.Future):
            if type(envelope.request) is FollowThread:
                self._parked[stream] = answer
            answer.add_done_callback(lambda done: self._answer_later(stream, done, command=command))
        else:
            self._answer(stream, answer, command=command)

    def _answer_later(self, stream: int, done: "asyncio.Future[PeerAnswer]", *, command: bool) -> None:
        parked = self._parked.pop(stream, None)
        if done.cancelled():
            if parked is not None:
                return  # by its client, or with the link
            answer: PeerAnswer = _BROKEN
        elif (error := done.exception()) is not None:
            log.error("forwarded request failed", exc_info=error)
            answer = _BROKEN
        else:
            answer = done.result()
        self._answer(stream, answer, command=command)

    def _answer(self, stream: int, answer: PeerAnswer, *, command: bool) -> None:
        assert self._outbox is not None  # set with the connection
        if self._transport is None or self._transport.is_closing():
            return
        data = frames.answer_frame(stream, answer, command=command)
        unread = self._outbox.unread
        if unread > _UNREAD_MOST and len(data) > _SMALL and not command:
            data = frames.answer_frame(stream, _UNREAD, command=False)
        if unread > _UNREAD_END:
            self._server.refusals.add(Refused.UNREAD, f"{unread} bytes of answers are not read", self._peer())
            self._transport.abort()
            return
        self._outbox.put(data)

    def _peer(self) -> object:
        return None if self._transport is None else self._transport.get_extra_info("peername")

    def _refuse(self, reason: Refused, cause: str) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._server.refusals.add(reason, cause, self._peer())
            self._transport.abort()

    def _end(self, reason: str) -> None:
        if self._transport is not None and not self._transport.is_closing():
            log.warning("peer connection closed", extra={"reason": reason, "peer": self._peer()})
            self._transport.abort()

    def say_goodbye(self) -> None:
        """Have the peer ask nothing more, and hang up when it has its answers."""
        if self._outbox is not None:
            self._outbox.put(frames.frame(frames.GOAWAY, 0))

    def close(self) -> None:
        """Write what is gathered, and close."""
        # As in the client: no transport is closed twice.
        if self._outbox is not None and self._transport is not None and not self._transport.is_closing():
            self._outbox.flush()
            self._transport.close()
