"""The management port's HTTP: probes, metrics, the cluster as this worker sees it, and what the operator asks for.

``ManagementPort(view, metrics)`` makes the protocols of connections that `shard_worker.peers.listener` has accepted:
``port.plain_protocol()`` for those that came in the clear, ``port.internal_protocol()`` for those whose client proved by its certificate
that it holds the cluster's secret.  ``port.close()`` ends all of them.  Further collectors go into ``port.registry``.

``/livez`` and ``/readyz`` answer 200 or 503 with ``{"ok": …, "reason": …}``.  Everything under ``/internal/`` is refused
in the clear, before it is looked at whether there is anything at the path.

Anyone who reaches the port may open plain connections and leave their answers unread, so both are bounded.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from shard_worker.gateway.http.capacity import overloaded
from shard_worker.gateway.http.connection import ConnectionFactory, GatewayConnection, check_aiohttp
from shard_worker.gateway.http.host_check import HostCheck
from shard_worker.gateway.http.metrics import RequestMetrics
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.http.problems import WORKER_FAILED, Problem, ProblemCode, ProblemRaised
from shard_worker.gateway.http.response import NO_CONTENT, RawResponse, problem_reply
from shard_worker.gateway.management.backend import ClusterView
from shard_worker.gateway.management.internal_api import Handler, InternalApi
from shard_worker.peers.identity import signers_of
from shard_worker.peers.refusals import Refusals, Refused

_LOG: Final = logging.getLogger(__name__)
_PLAIN_MOST: Final = 128
"""Plain connections that are kept: probes and scrapers need a handful; for one more the oldest idle one is closed."""
_BOUND_AFTER_S: Final = 0.02
"""How long after a new connection they are counted: those of one turn are established together."""
_PROBES: Final = ("/livez", "/readyz")
_UNREAD_MOST: Final = 16 << 20
"""Bytes of answers that clients have not read; for more the connection with the most of them is cut.

Twice as much within one turn of the loop, in which connections that are cut still keep their bytes.
"""
_METRICS_FIELDS: Final = b"Content-Type: %b\r\n" % CONTENT_TYPE_LATEST.encode()


class ManagementPort:
    """Answers on the private port of a worker."""

    def __init__(
        self,
        view: ClusterView,
        metrics: RequestMetrics | None = None,
        options: GatewayOptions | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        check_aiohttp()
        self._view = view
        self.registry = CollectorRegistry()
        """Registry of ``/metrics``."""
        if metrics is not None:
            self.registry.register(metrics)
        self._rendering = asyncio.Lock()
        self._options = options or GatewayOptions()
        self._hosts = HostCheck(self._options.allowed_hosts)
        self.refusals = refusals or Refusals()
        self._plain: ConnectionFactory | None = None
        self._internal: ConnectionFactory | None = None
        self._bounding: asyncio.TimerHandle | None = None
        self.internal = InternalApi(view, self._options)
        self._paths: dict[str, dict[str, Handler]] = {
            "/livez": {"GET": self._livez},
            "/readyz": {"GET": self._readyz},
            "/metrics": {"GET": self._metrics},
            "/cluster": {"GET": self._cluster},
        }

    def plain_protocol(self) -> GatewayConnection:
        """The protocol of one new connection in the clear; needs the running loop."""
        if self._plain is None:
            self._plain = self._factory(self._answer_plain)
        if self._bounding is None:
            self._bounding = asyncio.get_running_loop().call_later(_BOUND_AFTER_S, self._bound_plain)
        return self._plain()

    def _bound_plain(self) -> None:
        """Close the oldest plain connections beyond the bound, idle ones first."""
        self._bounding = None
        connections = [] if self._plain is None else self._plain.connections
        excess = len(connections) - _PLAIN_MOST
        if excess > 0:
            idle = {each: None for each in connections if isinstance(each, GatewayConnection) and each.idle}
            for each in [*idle, *(other for other in connections if other not in idle)][:excess]:
                each.force_close()

    def internal_protocol(self) -> GatewayConnection:
        """The protocol of one new connection whose client holds the cluster's secret; needs the running loop."""
        if self._internal is None:
            self._internal = self._factory(self._answer)
        return self._internal()

    def _factory(self, answer: Callable[[web.BaseRequest], Awaitable[RawResponse]]) -> ConnectionFactory:
        return ConnectionFactory(
            answer,
            request_timeout_s=self._options.request_timeout_s,
            keepalive_timeout_s=self._options.keepalive_timeout_s,
        )

    def retire(self, held: Collection[str]) -> None:
        """Close connections that were made by a secret which is held no more, those at work after their answer."""
        for connection in [] if self._internal is None else self._internal.connections:
            tls = connection.transport.get_extra_info("ssl_object") if connection.transport is not None else None
            if tls is None or set(signers_of(tls)) <= set(held):
                continue
            if isinstance(connection, GatewayConnection) and connection.idle:
                connection.force_close()
            else:
                connection.close()

    def close(self) -> None:
        """End every connection."""
        for factory in (self._plain, self._internal):
            for connection in [] if factory is None else factory.connections:
                connection.force_close()

    def _has_place_for(self, coming: int) -> bool:
        """Cut the connections with the most unread bytes until an answer of ``coming`` bytes fits; False if too much is held.

        A connection that is cut keeps its bytes until the end of the turn, in which many requests may be answered.
        """
        factories = [factory for factory in (self._plain, self._internal) if factory is not None]
        transports = [each.transport for factory in factories for each in factory.connections if each.transport]
        unread = [(each.get_write_buffer_size(), each) for each in transports]
        held = sum(size for size, _ in unread)
        still_open = [(size, each) for size, each in unread if size and not each.is_closing()]
        total = sum(size for size, _ in still_open)
        for size, transport in sorted(still_open, key=lambda each: each[0], reverse=True):
            if total + coming <= _UNREAD_MOST:
                break
            total -= size
            self.refusals.add(Refused.UNREAD, f"{size} bytes are not read", transport.get_extra_info("peername"))
            transport.abort()
        return not held or held + coming <= 2 * _UNREAD_MOST

    async def _answer_plain(self, request: web.BaseRequest) -> RawResponse:
        probe = request.raw_path in _PROBES  # asked by address, and holds nothing that a page could read
        if not probe and (problem := self._hosts.refusal(request)) is not None:
            return problem_reply(problem)  # in the clear alone: a page in a browser has no certificate
        if request.raw_path.startswith("/internal/"):
            detail = "/internal/ is served by TLS alone, to clients with a certificate that the cluster's secret makes"
            return problem_reply(Problem(code=ProblemCode.UNAUTHORIZED, detail=detail))
        return await self._answer(request)

    async def _answer(self, request: web.BaseRequest) -> RawResponse:
        path = request.raw_path.partition("?")[0]
        methods, name = self.internal.find(path) if path.startswith("/internal/") else (self._paths.get(path), "")
        method = "GET" if request.method == "HEAD" else request.method
        try:
            if methods is None:
                return problem_reply(Problem(code=ProblemCode.ROUTE_NOT_FOUND, detail="there is nothing at this path"))
            allow = ", ".join(sorted({*methods, *(("HEAD",) if "GET" in methods else ()), "OPTIONS"}))
            if method == "OPTIONS":
                return RawResponse(NO_CONTENT, 204, b"Allow: %b\r\n" % allow.encode())
            handler = methods.get(method)
            if handler is None:
                problem = Problem(code=ProblemCode.METHOD_NOT_ALLOWED, detail=f"this path allows {allow}", allow=allow)
                return problem_reply(problem)
            answer = await handler(request, name)
            return answer if self._has_place_for(len(answer.content)) else problem_reply(overloaded())
        except ProblemRaised as raised:
            return problem_reply(raised.problem)
        except ConnectionError:
            return RawResponse(NO_CONTENT, close=True)  # the client has closed the connection; this is not sent
        except Exception:  # noqa: BLE001 - the boundary: logged with its cause, answered as a 500
            _LOG.exception("management request failed", extra={"path": path})
            return problem_reply(WORKER_FAILED)

    async def _livez(self, _: web.BaseRequest, __: str) -> RawResponse:
        return _health(self._view.fault())

    async def _readyz(self, _: web.BaseRequest, __: str) -> RawResponse:
        return _health(self._view.ready())

    async def _metrics(self, _: web.BaseRequest, __: str) -> RawResponse:
        async with self._rendering:
            await asyncio.sleep(0)  # one rendering a turn: it takes milliseconds, and several may be asked at once
            return RawResponse(generate_latest(self.registry), fields=_METRICS_FIELDS)

    async def _cluster(self, _: web.BaseRequest, __: str) -> RawResponse:
        return RawResponse(msgspec.json.encode(self._view.cluster()))


def _health(reason: str | None) -> RawResponse:
    """200, or 503 with the reason why not."""
    return RawResponse(msgspec.json.encode({"ok": reason is None, "reason": reason}), 200 if reason is None else 503)
