"""Dispatch: one HTTP request to its route, and whatever happens to one HTTP answer.

This is the boundary at which an unexpected exception ends: it is logged with its cause and becomes a 500 in the shape of
every other problem.
"""

import logging
import time
from collections.abc import Iterable
from typing import Final, assert_never

from aiohttp import web

from shard_worker.gateway.http.cors import Cors
from shard_worker.gateway.http.host_check import HostCheck
from shard_worker.gateway.http.metrics import RequestMetrics
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.http.problems import WORKER_FAILED, Problem, ProblemCode, ProblemRaised
from shard_worker.gateway.http.response import NO_CONTENT, RawResponse, problem_reply
from shard_worker.gateway.public.command_requests import CommandRequests
from shard_worker.gateway.public.commands import CommandHandler
from shard_worker.gateway.public.lane import Lane
from shard_worker.gateway.public.lists import ListHandler
from shard_worker.gateway.public.queries import QueryHandler
from shard_worker.gateway.public.read_markers import MarkerHandler
from shard_worker.gateway.public.routes import (
    CommandRoute,
    DocumentRoute,
    ListRoute,
    MarkerRoute,
    QueryRoute,
    Resource,
    Route,
    Router,
    StreamRoute,
)
from shard_worker.gateway.public.service import ReadModel, ThreadService
from shard_worker.gateway.public.streams import StreamHandler
from shard_worker.streams.hub import StreamHub

_LOG: Final = logging.getLogger(__name__)
NO_OPERATION: Final = "none"
"""The operation under which requests without a route are counted."""


class Dispatcher:
    """The handler of the public port's `ConnectionFactory`."""

    def __init__(
        self,
        service: ThreadService,
        read_model: ReadModel | None,
        options: GatewayOptions,
        metrics: RequestMetrics,
        routes: Iterable[Route],
        documents: dict[DocumentRoute, bytes],
        *,
        streams: StreamHub | None,
    ) -> None:
        self._router = Router(routes)
        markers = None if read_model is None else MarkerHandler(service, read_model, options)
        requests = CommandRequests(options.id_salt)
        self._posting = CommandHandler(service, options, requests, markers)
        self._reading = QueryHandler(service, options, read_model)
        self._listing = None if read_model is None else ListHandler(read_model, options)
        self._streams = None if streams is None else StreamHandler(streams)
        self._documents = documents
        self._metrics = metrics
        self._hosts = HostCheck(options.allowed_hosts)
        self._cors = Cors(options.cors_origins) if options.cors_origins else None
        self._draining = False
        """Whether every answer asks the client to leave the connection."""
        self.lane = None
        """The short way of plain requests, or None: it is turned off."""
        if options.lane:
            self.lane = Lane(service, options, requests, metrics, self._hosts, self._cors, self._reading)

    def leave(self) -> None:
        """From now on ask every client to leave."""
        self._draining = True
        if self.lane is not None:
            self.lane.draining = True

    async def close(self) -> None:
        """End what the lane has under way."""
        if self.lane is not None:
            await self.lane.close()

    async def __call__(self, request: web.BaseRequest) -> RawResponse:
        """Answer one request; raises nothing."""
        begun = time.perf_counter()
        metrics = self._metrics
        metrics.in_flight += 1
        path, _, query = request.raw_path.partition("?")
        if path[:1] != "/":  # the absolute form; its host is the business of the check of hosts
            path = "/" + path.partition("://")[2].partition("/")[2]
        resource, segment = self._router.find(path)
        route = None if resource is None else resource.routes.get(request.method)
        try:
            if (problem := self._hosts.refusal(request)) is not None:
                reply = problem_reply(problem)
            else:
                reply = await self._reply(request, resource, route, segment, query)
        except ProblemRaised as raised:
            reply = problem_reply(raised.problem)
        except ConnectionError:
            reply = RawResponse(NO_CONTENT, close=True)  # the client has closed the connection; this is not sent
        except Exception:  # noqa: BLE001 - the boundary: logged with its cause, answered as a 500
            operation_id = NO_OPERATION if route is None else route.operation_id
            _LOG.exception("request failed", extra={"operation": operation_id})
            reply = problem_reply(WORKER_FAILED)
        finally:
            metrics.in_flight -= 1
        if self._draining:
            reply.force_close()
        if self._cors is not None:
            reply.fields += self._cors.fields(request)
        metrics.observe(
            NO_OPERATION if route is None else route.operation_id, reply.status, time.perf_counter() - begun
        )
        return reply

    async def _reply(
        self, request: web.BaseRequest, resource: Resource | None, route: Route | None, segment: str, query: str
    ) -> RawResponse:
        if isinstance(route, CommandRoute | MarkerRoute):
            return await self._posting.answer(route, segment, query, request)
        if isinstance(route, QueryRoute):
            return await self._reading.answer(route, segment, query, request)
        if isinstance(route, ListRoute):
            assert self._listing is not None  # else the route is not served
            return await self._listing.answer(route, segment, query)
        if isinstance(route, StreamRoute):
            assert self._streams is not None  # as above
            return await self._streams.answer(route, segment, query, request)
        if isinstance(route, DocumentRoute):
            return RawResponse(self._documents[route], fields=route.fields)
        if route is None:
            return self._without_route(request, resource)
        assert_never(route)

    def _without_route(self, request: web.BaseRequest, resource: Resource | None) -> RawResponse:
        if resource is None:
            return problem_reply(Problem(code=ProblemCode.ROUTE_NOT_FOUND, detail="there is nothing at this path"))
        if request.method == "OPTIONS":
            fields = b"Allow: %b\r\n" % resource.allow.encode()
            if self._cors is not None:
                fields += self._cors.preflight_fields(request, resource.allow)
            return RawResponse(NO_CONTENT, 204, fields)
        detail = f"this path allows {resource.allow}"
        return problem_reply(Problem(code=ProblemCode.METHOD_NOT_ALLOWED, detail=detail, allow=resource.allow))
