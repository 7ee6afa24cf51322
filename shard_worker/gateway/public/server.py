"""The public port: its listening sockets, its connections, and the way it leaves.

``PublicGateway(service, options, metrics, read_model=…)``: nothing is opened by the constructor; without a read
model the lists over threads and the read markers are not served.
``await gateway.start(sockets)``: serves every listening socket given: the worker's own port and the one inherited from
the supervisor.  They are duplicated, so the caller's own sockets stay the caller's to close.
``await gateway.drain(deadline_s)``: accepts nothing new, answers what is under way with ``Connection: close``, and
returns when no connection is left or the deadline is over.
``await gateway.close()``: ends at once what is left.  Both may be called more than once.
"""

import asyncio
import logging
import resource
import socket
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from shard_worker.gateway.http.acceptor import Acceptor
from shard_worker.gateway.http.capacity import Bounds, Capacity
from shard_worker.gateway.http.connection import (
    ConnectionFactory,
    GatewayConnection,
    check_aiohttp,
    missing_for_lane,
)
from shard_worker.gateway.http.metrics import RequestMetrics
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.public.dispatch import Dispatcher
from shard_worker.gateway.public.documents import documents_of, routes_of
from shard_worker.gateway.public.service import ReadModel, ThreadService
from shard_worker.streams.hub import StreamHub
from shard_worker.tasks import BackgroundTasks

_LOG: Final = logging.getLogger(__name__)
_TURN_S: Final = 0.05
_STREAMS_PART: Final = 0.75
"""Of the connections, which streams may take; commands and queries need the others."""
_EVERYWHERE: Final = "::"
_OWN_DESCRIPTORS: Final = 128
"""Kept for the journal's connections, peers, probes and files."""


def listening_socket(host: str, port: int) -> socket.socket:
    """A bound socket of ours (port 0: the system chooses); raises OSError when the port is busy.

    ``::`` is every address of both families, and every IPv4 address where the kernel knows no IPv6.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        if host != _EVERYWHERE:
            raise
        return listening_socket("0.0.0.0", port)  # noqa: S104 - it is what was asked for
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == _EVERYWHERE:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def inherited_socket(fd: int) -> socket.socket:
    """A socket that the supervisor bound and handed down; the descriptor is ours from now on."""
    inherited = socket.socket(fileno=fd)
    inherited.set_inheritable(False)
    return inherited


def within_descriptors(bounds: Bounds) -> Bounds:
    """The bounds, with no more connections than this process may have files open beside its own."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or bounds.connections <= limit - _OWN_DESCRIPTORS:
        return bounds
    connections = max(1, limit - _OWN_DESCRIPTORS)
    _LOG.warning("limit of open files bounds the connections", extra={"open_files": limit, "connections": connections})
    return replace(bounds, connections=connections)


class PublicGateway:
    """Serves the public API on one event loop."""

    def __init__(
        self,
        service: ThreadService,
        options: GatewayOptions | None = None,
        metrics: RequestMetrics | None = None,
        *,
        read_model: ReadModel | None = None,
        streams: StreamHub | None = None,
    ) -> None:
        check_aiohttp()
        self.options = options or GatewayOptions()
        if self.options.lane and (missing := missing_for_lane()):
            _LOG.warning("aiohttp lacks what the lane rests on; commands cost more", extra={"missing": missing})
            self.options = replace(self.options, lane=False)
        self.metrics = metrics or RequestMetrics()
        self.capacity = self.metrics.capacity = Capacity(within_descriptors(self.options.bounds))
        routes = routes_of(self.options, read_model=read_model is not None, streams=streams is not None)
        self._streams = streams
        if streams is not None:
            streams.limit(int(self.capacity.bounds.connections * _STREAMS_PART))
        self._dispatcher = Dispatcher(
            service, read_model, self.options, self.metrics, routes, documents_of(self.options), streams=streams
        )
        self._acceptors: list[Acceptor] = []
        self._adoptions = BackgroundTasks()
        self._factory: ConnectionFactory | None = None

    async def start(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections on these bound sockets."""
        if self._factory is not None:
            raise RuntimeError("the gateway was started before")
        self._factory = ConnectionFactory(
            self._dispatcher,
            request_timeout_s=self.options.request_timeout_s,
            keepalive_timeout_s=self.options.keepalive_timeout_s,
            capacity=self.capacity,
            lane=None if self._dispatcher.lane is None else self._dispatcher.lane.take,
        )
        for given in sockets:
            self._acceptors.append(Acceptor(given, self._factory, self.options.backlog, self._adoptions))
        for acceptor in self._acceptors:
            acceptor.start()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return 0 if self._factory is None else len(self._factory.connections)

    @property
    def accepting(self) -> bool:
        """Whether new connections are taken."""
        return bool(self._acceptors)

    def leave(self) -> None:
        """From now on every answer asks its client to leave, and no stream begins; connections are still accepted."""
        self._dispatcher.leave()
        if self._streams is not None:
            self._streams.draining = True

    async def drain(self, deadline_s: float) -> None:
        """Stop accepting, let what is under way finish, close what is idle after a moment's grace."""
        self._dispatcher.leave()
        self._stop_accepting()
        if self._streams is not None:
            await self._streams.drain()
        if self._factory is None:
            return
        loop = asyncio.get_running_loop()
        begun = loop.time()
        # A connection that was just accepted counts only once the loop has it.
        while (self._adoptions or self._factory.connections) and loop.time() - begun < deadline_s:
            if loop.time() - begun >= self.options.idle_grace_s:
                self._close_idle()
            await asyncio.sleep(_TURN_S)
        if self._factory.connections:
            _LOG.warning(
                "port closed connections at the drain deadline", extra={"connections": len(self._factory.connections)}
            )

    def _close_idle(self) -> None:
        for connection in [] if self._factory is None else self._factory.connections:
            if isinstance(connection, GatewayConnection) and connection.idle:
                connection.force_close()

    def _stop_accepting(self) -> None:
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()

    async def close(self) -> None:
        """End every connection at once."""
        self._stop_accepting()
        try:
            await self._adoptions.close()
        finally:  # after the adoptions: each may have made a connection in its last turn
            for connection in [] if self._factory is None else self._factory.connections:
                connection.force_close()
            await self._dispatcher.close()
