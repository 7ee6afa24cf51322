"""The management port's listening socket: TLS for peers and ``/internal/v1``, and plain HTTP for probes, on one port.

The listener accepts by itself and looks at the first byte without taking it (``MSG_PEEK``): a TLS record begins with
0x16, a method of HTTP with a letter.  TLS then proves the client, and the purpose of the certificates chooses between
frames and the internal API.  A certificate of one purpose never reaches the protocol of the other.

Any client on the network may come this far, so what an unproven connection costs is bounded: in number (the oldest is
dropped for a new one, so that a crowd cannot keep peers out), in time, and in processor time (handshakes are begun a few
at a time).  No byte of such a connection is read before its turn; until then the kernel holds what it takes.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final, cast

from shard_worker.accept_loop import AcceptBounds, AcceptLoop
from shard_worker.contract_tls import Purpose
from shard_worker.peers.identity import WorkerIdentity, purpose_of, signers_of
from shard_worker.peers.refusals import Refusals, Refused
from shard_worker.tasks import BackgroundTasks

log = logging.getLogger(__name__)

PATIENCE_S: Final = 5.0
"""Time from the accept until a protocol is chosen and, with TLS, proved."""
_UNPROVEN_MOST: Final = 256
"""Connections whose protocol is not chosen or not proved; more than the other workers of a large cluster, who all come
at once when this one starts."""
_BACKLOG: Final = 1_024
_ACCEPT_MOST: Final = 64
"""Connections accepted in one turn of the loop."""
_HANDSHAKES_MOST: Final = 2
_HANDSHAKES_EVERY_S: Final = 0.005
"""A handshake costs about 0.5 ms; 400 a second are a fifth of the loop at most."""
_SHUTDOWN_S: Final = 1.0
_FULL_S: Final = 1.0
"""How long nothing is accepted after descriptors ran out."""
_TLS_RECORD: Final = b"\x16"

Factory = Callable[[], asyncio.Protocol]


class _Arrival:
    """One accepted connection whose protocol is not proved yet."""

    __slots__ = ("patience", "peer", "reading", "sock", "task")

    def __init__(self, sock: socket.socket, peer: object) -> None:
        self.sock = sock
        self.peer = peer
        self.patience: asyncio.TimerHandle | None = None
        self.reading = False
        self.task: asyncio.Task[None] | None = None


class ManagementListener:
    """Accepts on a bound socket; ``plain``, ``internal`` and ``peer`` make the protocols of proved connections."""

    def __init__(
        self,
        identity: WorkerIdentity,
        *,
        plain: Factory,
        internal: Factory,
        peer: Factory,
        refusals: Refusals | None = None,
    ) -> None:
        self._identity = identity
        self._plain = plain
        self._internal = internal
        self._peer = peer
        self.refusals = refusals or Refusals()
        self.descriptors_exhausted = 0
        """How often a connection could not be accepted for want of descriptors."""
        self._arrivals: dict[_Arrival, None] = {}
        self._handshakes: dict[_Arrival, None] = {}
        """Those of `_arrivals` whose handshake is to begin."""
        self._pump: asyncio.Handle | None = None
        self._accepting: AcceptLoop | None = None
        self._loop = asyncio.get_running_loop()
        self._tasks = BackgroundTasks()

    @property
    def unproven(self) -> int:
        """How many connections are accepted and not proved."""
        return len(self._arrivals)

    def start(self, bound: socket.socket) -> None:
        """Accept connections; the socket stays the caller's to close."""
        bounds = AcceptBounds(_BACKLOG, _ACCEPT_MOST, _FULL_S)
        self._accepting = AcceptLoop(bound, bounds, accepted=self._arrived, exhausted=self._exhausted)
        self._accepting.start()

    def stop(self) -> None:
        """Accept no more, and drop what is not proved."""
        if self._pump is not None:
            self._pump.cancel()
        if self._accepting is not None:
            self._accepting.close()
        for arrival in list(self._arrivals):
            self._drop(arrival)

    async def close(self) -> None:
        """`stop`, and wait for the ends of handshakes that were under way."""
        self.stop()
        await self._tasks.close()

    # --- accepting

    def _exhausted(self, error: OSError, loud: bool) -> None:
        """Give back what unproven connections hold."""
        self.descriptors_exhausted += 1
        if loud:
            log.error(
                "listener ran out of file descriptors; raise the limit of open files",
                extra={"cause": repr(error), "count": self.descriptors_exhausted},
            )
        for arrival in list(self._arrivals):
            self._refuse(arrival, Refused.CROWDED, "descriptors ran out")

    def _arrived(self, sock: socket.socket, peer: object) -> None:
        while len(self._arrivals) >= _UNPROVEN_MOST:
            self._refuse(
                next(iter(self._arrivals)), Refused.CROWDED, f"more than {_UNPROVEN_MOST} unproven connections"
            )
        arrival = _Arrival(sock, peer)
        arrival.patience = self._loop.call_later(PATIENCE_S, self._overdue, arrival)
        self._arrivals[arrival] = None
        arrival.reading = True
        self._loop.add_reader(sock, self._peek, arrival)

    def _overdue(self, arrival: _Arrival) -> None:
        self._refuse(arrival, Refused.SILENT, f"not proved within {PATIENCE_S:g} s")

    # --- choosing

    def _peek(self, arrival: _Arrival) -> None:
        try:
            first = arrival.sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            first = b""
        self._stop_reading(arrival)
        if not first:
            self._drop(arrival)  # closed, or reset: a port scan, or a probe of TCP alone
        elif first == _TLS_RECORD:
            self._handshakes[arrival] = None
            if self._pump is None:
                self._pump = self._loop.call_soon(self._begin_handshakes)
        else:
            self._begin(arrival, None)

    def _begin_handshakes(self) -> None:
        self._pump = None
        begun = 0
        while self._handshakes and begun < _HANDSHAKES_MOST:
            arrival, _ = self._handshakes.popitem()  # the newest: under a flood the oldest are given up anyway
            self._begin(arrival, self._identity.server_context)
            begun += 1
        if begun:
            self._pump = self._loop.call_later(_HANDSHAKES_EVERY_S, self._begin_handshakes)

    def _begin(self, arrival: _Arrival, context: ssl.SSLContext | None) -> None:
        arrival.task = self._tasks.spawn(
            self._connect(arrival, context), name="management-connection", on_end=partial(self._connected, arrival)
        )

    def _connected(self, arrival: _Arrival, task: "asyncio.Task[None]") -> None:
        """Forget an arrival; close what no protocol has taken, also when the task was cancelled before it began."""
        self._forget(arrival)
        if task.cancelled():
            arrival.sock.close()
        elif (error := task.exception()) is not None:
            arrival.sock.close()
            log.error("listener failed to prove a connection", exc_info=error, extra={"peer": arrival.peer})

    async def _connect(self, arrival: _Arrival, context: ssl.SSLContext | None) -> None:
        """Hand the socket to its protocol; returns when that is proved."""
        try:
            if context is None:
                await self._loop.connect_accepted_socket(self._plain, arrival.sock)
                return
            await self._loop.connect_accepted_socket(
                lambda: _Proved(self._identity, self._internal, self._peer),
                arrival.sock,
                ssl=context,
                ssl_handshake_timeout=PATIENCE_S,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        except (OSError, TimeoutError) as error:
            arrival.sock.close()
            if arrival in self._arrivals:
                self.refusals.add(Refused.HANDSHAKE, repr(error), arrival.peer)

    # --- refusing

    def _forget(self, arrival: _Arrival) -> None:
        if arrival.patience is not None:
            arrival.patience.cancel()
        self._arrivals.pop(arrival, None)
        self._handshakes.pop(arrival, None)

    def _stop_reading(self, arrival: _Arrival) -> None:
        if arrival.reading:
            arrival.reading = False
            self._loop.remove_reader(arrival.sock)

    def _refuse(self, arrival: _Arrival, reason: Refused, cause: str) -> None:
        if arrival in self._arrivals:
            self.refusals.add(reason, cause, arrival.peer)
            self._drop(arrival)

    def _drop(self, arrival: _Arrival) -> None:
        self._stop_reading(arrival)
        self._forget(arrival)
        if arrival.task is not None:
            arrival.task.cancel()
        else:
            arrival.sock.close()


class _Proved(asyncio.Protocol):
    """Takes a connection whose TLS is established, and passes it to the protocol of its purpose."""

    def __init__(self, identity: WorkerIdentity, internal: Factory, peer: Factory) -> None:
        self._identity = identity
        self._factories = {Purpose.INTERNAL: internal, Purpose.PEER: peer}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        chosen = cast("asyncio.Transport", transport)
        connection = transport.get_extra_info("ssl_object")
        if not set(signers_of(connection)) <= set(self._identity.fingerprints):
            chosen.abort()  # the secret was removed while the handshake went on: `retire` did not see this connection
            return
        protocol = self._factories[purpose_of(connection)]()
        chosen.set_protocol(protocol)
        protocol.connection_made(transport)
