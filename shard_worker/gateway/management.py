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
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

import msgspec
from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from shard_worker.gateway import json_values
from shard_worker.gateway.connection import ConnectionFactory, GatewayConnection, check_aiohttp
from shard_worker.gateway.metrics import RequestMetrics
from shard_worker.gateway.options import GatewayOptions
from shard_worker.gateway.problems import Problem, ProblemCode, ProblemRaised, invalid
from shard_worker.gateway.replies import NO_CONTENT, Reply, problem_reply
from shard_worker.gateway.uploads import check_media_type, read_body

_LOG: Final = logging.getLogger(__name__)
_METRICS_FIELDS: Final = b"Content-Type: %b\r\n" % CONTENT_TYPE_LATEST.encode()

Document = dict[str, object]


class ClusterView(Protocol):
    """What the rest of the worker knows of itself and of the cluster."""

    def fault(self) -> str | None:
        """Why the process should be ended, or None."""
        ...

    def ready(self) -> str | None:
        """Why requests should not be sent here, not yet or no more; None when they should."""
        ...

    def cluster(self) -> Document:
        """``{"workers": […], "shards": […]}``, for people and for ``threadcluster status``."""
        ...

    def ownership(self) -> Document:
        """Owners, targets, load and the plan's version, for whoever plans."""
        ...

    async def set_targets(self, version: int, plan_hash: str, targets: list[tuple[int, str | None, str]]) -> int | None:
        """Record (shard, target, reason)s of a plan made from plan ``version``: its own version, None when stale."""
        ...

    def plan_version(self) -> int:
        """The present plan's version, as far as this worker knows."""
        ...


class TargetIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a plan wants one shard."""

    shard: int
    target: str | None
    reason: str


class PlanIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The body of ``PUT /internal/v1/targets``."""

    plan_version: int
    """The version of the plan this one was made from."""
    hash: str
    targets: list[TargetIn]


_Handler = Callable[[web.BaseRequest], Awaitable[Reply]]


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
        self._options = options or GatewayOptions()
        self._factory: ConnectionFactory | None = None
        self._servers: list[asyncio.Server] = []
        self._paths: dict[str, dict[str, _Handler]] = {
            "/livez": {"GET": self._livez},
            "/readyz": {"GET": self._readyz},
            "/metrics": {"GET": self._metrics},
            "/cluster": {"GET": self._cluster},
            "/internal/v1/ownership": {"GET": self._ownership},
            "/internal/v1/targets": {"PUT": self._targets},
        }

    def protocol(self) -> GatewayConnection:
        """The protocol of one new HTTP connection; needs the running loop."""
        if self._factory is None:
            self._factory = ConnectionFactory(
                self._answer,
                head_timeout_s=self._options.request_timeout_s,
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
        methods = self._paths.get(path)
        method = "GET" if request.method == "HEAD" else request.method
        try:
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
            return await handler(request)
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

    async def _livez(self, _: web.BaseRequest) -> Reply:
        return _health(self._view.fault())

    async def _readyz(self, _: web.BaseRequest) -> Reply:
        return _health(self._view.ready())

    async def _metrics(self, _: web.BaseRequest) -> Reply:
        return Reply(generate_latest(self.registry), fields=_METRICS_FIELDS)

    async def _cluster(self, _: web.BaseRequest) -> Reply:
        return Reply(msgspec.json.encode(self._view.cluster()))

    async def _ownership(self, _: web.BaseRequest) -> Reply:
        return Reply(msgspec.json.encode(self._view.ownership()))

    async def _targets(self, request: web.BaseRequest) -> Reply:
        check_media_type(request)
        value, failures = json_values.decode(await read_body(request, self._options))
        try:
            plan = msgspec.convert(value, PlanIn)
        except msgspec.ValidationError as error:
            raise invalid(*failures, str(error)) from None
        if failures:
            raise invalid(*failures)
        targets = [(target.shard, target.target, target.reason) for target in plan.targets]
        version = await self._view.set_targets(plan.plan_version, plan.hash, targets)
        if version is None:
            detail = f"made from plan {plan.plan_version}, but plan {self._view.plan_version()} is in force"
            raise ProblemRaised(Problem(code=ProblemCode.PLAN_STALE, detail=detail))
        return Reply(b'{"planVersion":%d}' % version)


def _health(reason: str | None) -> Reply:
    """200, or 503 with the reason why not."""
    return Reply(msgspec.json.encode({"ok": reason is None, "reason": reason}), 200 if reason is None else 503)
