"""The management port: probes, metrics, the cluster as this worker sees it, and what the operator asks and tells.

``ManagementPort(view, secret, metrics)``: ``port.protocol()``, called inside the running loop, makes the protocol of one
HTTP connection, so that the peers' ``sniffing_factory`` can choose between it and frames on one socket.
``await port.start(sockets)`` instead serves HTTP alone.  ``port.close()`` ends both.  Further collectors go into
``port.registry``.

``/livez`` and ``/readyz`` answer 200 or 503 with ``{"ok": …, "reason": …}``; everything under ``/internal/`` asks for
``Authorization: Bearer <secret>``, before it says whether there is anything at the path.
"""

import asyncio
import hmac
import logging
import socket
from collections.abc import Iterable
from typing import Final

import msgspec
from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from shard_worker.gateway.cluster import ClusterView
from shard_worker.gateway.connection import ConnectionFactory, GatewayConnection, check_aiohttp
from shard_worker.gateway.host_check import HostCheck
from shard_worker.gateway.internal import Handler, InternalApi
from shard_worker.gateway.metrics import RequestMetrics
from shard_worker.gateway.options import GatewayOptions
from shard_worker.gateway.problems import Problem, ProblemCode, ProblemRaised
from shard_worker.gateway.replies import NO_CONTENT, Reply, problem_reply

_LOG: Final = logging.getLogger(__name__)
_METRICS_FIELDS: Final = b"Content-Type: %b\r\n" % CONTENT_TYPE_LATEST.encode()


class ManagementPort:
    """Answers on the private port of a worker."""

    def __init__(
        self,
        view: ClusterView,
        secret: bytes,
        metrics: RequestMetrics | None = None,
        options: GatewayOptions | None = None,
    ) -> None:
        check_aiohttp()
        if not secret:
            raise ValueError("secret must not be empty")
        self._view = view
        self._authorization = b"Bearer " + secret
        self.registry = CollectorRegistry()
        """What ``/metrics`` shows."""
        if metrics is not None:
            self.registry.register(metrics)
        self._rendering = asyncio.Lock()
        self._options = options or GatewayOptions()
        self._hosts = HostCheck(self._options.allowed_hosts)
        self._factory: ConnectionFactory | None = None
        self._servers: list[asyncio.Server] = []
        self.internal = InternalApi(view, self._options)
        self._paths: dict[str, dict[str, Handler]] = {
            "/livez": {"GET": self._livez},
            "/readyz": {"GET": self._readyz},
            "/metrics": {"GET": self._metrics},
            "/cluster": {"GET": self._cluster},
        }

    def protocol(self) -> GatewayConnection:
        """The protocol of one new HTTP connection; needs the running loop."""
        if self._factory is None:
            self._factory = ConnectionFactory(
                self._answer,
                request_timeout_s=self._options.request_timeout_s,
                keepalive_timeout_s=self._options.keepalive_timeout_s,
            )
        return self._factory()

    async def start(self, sockets: Iterable[socket.socket]) -> None:
        """Serve HTTP alone on these bound sockets; they stay the caller's to close."""
        loop = asyncio.get_running_loop()
        for given in sockets:
            self._servers.append(await loop.create_server(self.protocol, sock=given.dup()))

    def close(self) -> None:
        """Stop accepting, and end every HTTP connection."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for connection in [] if self._factory is None else self._factory.connections:
            connection.force_close()

    async def _answer(self, request: web.BaseRequest) -> Reply:
        path = request.raw_path.partition("?")[0]
        methods, name = self.internal.find(path) if path.startswith("/internal/") else (self._paths.get(path), "")
        method = "GET" if request.method == "HEAD" else request.method
        try:
            if (problem := self._hosts.refusal(request)) is not None:
                return problem_reply(problem)
            if path.startswith("/internal/"):
                self._check_secret(request)
            if methods is None:
                return problem_reply(Problem(code=ProblemCode.ROUTE_NOT_FOUND, detail="there is nothing at this path"))
            allow = ", ".join(sorted({*methods, *(("HEAD",) if "GET" in methods else ()), "OPTIONS"}))
            if method == "OPTIONS":
                return Reply(NO_CONTENT, 204, b"Allow: %b\r\n" % allow.encode())
            handler = methods.get(method)
            if handler is None:
                problem = Problem(code=ProblemCode.METHOD_NOT_ALLOWED, detail=f"this path allows {allow}", allow=allow)
                return problem_reply(problem)
            return await handler(request, name)
        except ProblemRaised as raised:
            return problem_reply(raised.problem)
        except ConnectionError:
            return Reply(NO_CONTENT, close=True)  # the client has gone; nobody will read this
        except Exception:  # noqa: BLE001 - the boundary: logged with its cause, answered as a 500
            _LOG.exception("management request failed", extra={"path": path})
            return problem_reply(Problem(code=ProblemCode.INTERNAL_ERROR, detail="the worker failed; see its log"))

    def _check_secret(self, request: web.BaseRequest) -> None:
        given = request.headers.getall(hdrs.AUTHORIZATION, [])
        offered = given[0].encode("utf-8", "surrogateescape") if len(given) == 1 else b""
        if not hmac.compare_digest(offered, self._authorization):
            detail = "Authorization: must be Bearer and the cluster's secret"
            raise ProblemRaised(Problem(code=ProblemCode.UNAUTHORIZED, detail=detail))

    async def _livez(self, _: web.BaseRequest, __: str) -> Reply:
        return _health(self._view.fault())

    async def _readyz(self, _: web.BaseRequest, __: str) -> Reply:
        return _health(self._view.ready())

    async def _metrics(self, _: web.BaseRequest, __: str) -> Reply:
        async with self._rendering:
            await asyncio.sleep(0)  # one rendering a turn: it takes milliseconds, and several may be asked at once
            return Reply(generate_latest(self.registry), fields=_METRICS_FIELDS)

    async def _cluster(self, _: web.BaseRequest, __: str) -> Reply:
        return Reply(msgspec.json.encode(self._view.cluster()))


def _health(reason: str | None) -> Reply:
    """200, or 503 with the reason why not."""
    return Reply(msgspec.json.encode({"ok": reason is None, "reason": reason}), 200 if reason is None else 503)
