"""The lane: the short way of a plain command or query from its bytes to its answer, without aiohttp's parser, task and request.

`take` recognises the request in one segment, makes the same of it that `CommandHandler` or `QueryHandler` would make, and asks its
owner.  The answer is delivered by a callback from within the owner's turn, for an owner on this worker without a task or a coroutine.

* The lane may pass on any request, and then nothing of it has happened: aiohttp gets the same bytes.
* An answer is, byte for byte, the one that the long way gives.
* Nothing here raises, and a delivery calls no actor: it may run in the middle of a batch that became durable.
* A connection has at most one request in the lane; what its client sends meanwhile waits behind aiohttp's parser, in order.
"""

import logging
import re
import time
from typing import Final

from msgspec import UNSET

from shard_worker.contract import Answer, CommandRequest, Moved, OwnerAnswer
from shard_worker.domain.ids import ThreadId, canonical
from shard_worker.gateway.http.cors import Cors
from shard_worker.gateway.http.host_check import HostCheck
from shard_worker.gateway.http.metrics import RequestMetrics
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.http.plain_request import PlainRequestReader
from shard_worker.gateway.http.problems import WORKER_FAILED, ProblemRaised
from shard_worker.gateway.http.receiving import LaneConnection
from shard_worker.gateway.http.response import RawResponse, problem_reply
from shard_worker.gateway.public.command_requests import CommandRequests
from shard_worker.gateway.public.commands import UNCOUNTED_BYTES, reply_to_command
from shard_worker.gateway.public.queries import QueryHandler, Reading
from shard_worker.gateway.public.query_params import QueryValues, read_parameters
from shard_worker.gateway.public.routes import COMMANDS, QUERIES, THREAD, CommandRoute, QueryRoute
from shard_worker.gateway.public.service import ThreadService
from shard_worker.gateway.public.short_bodies import ShortCreateBody, short_body
from shard_worker.tasks import BackgroundTasks

_LOG: Final = logging.getLogger(__name__)

_PLAIN_QUERY: Final = re.compile(rb"[0-9A-Za-z_=&]*")
"""A query without anything that is decoded."""
_QUERIES_MOST: Final = 8_192
"""Queries whose parameters are remembered, some 400 bytes each; then all are forgotten."""
_QUERY_BYTES: Final = 256
_BEFORE_THE_ID: Final = b"/v1/threads/"
_ID_BEGINS: Final = len(_BEFORE_THE_ID)
_ID_ENDS: Final = _ID_BEGINS + 26


class Lane:
    """The lane of one gateway."""

    def __init__(
        self,
        service: ThreadService,
        options: GatewayOptions,
        requests: CommandRequests,
        metrics: RequestMetrics,
        hosts: HostCheck,
        cors: Cors | None,
        queries: QueryHandler,
    ) -> None:
        self._service = service
        self._queries = queries
        self._budget_s = options.budget_s
        self._requests = requests
        self._metrics = metrics
        self._reader = PlainRequestReader(hosts.admits, cors=cors is not None)
        self._more_fields = b"" if cors is None else cors.vary
        self._by_tail = {route.template.removeprefix(THREAD).encode(): route for route in COMMANDS if not route.creates}
        self._creates = {route.template.encode(): route for route in COMMANDS if route.creates}
        self._reads = (
            {route.template.removeprefix(THREAD).encode(): route for route in QUERIES} if queries.asks_owner else {}
        )
        self._parameters: dict[tuple[bytes, bytes], QueryValues | None] = {}
        """By a path's tail and its query: what they ask for, None where the long way is to judge."""
        self._tasks = BackgroundTasks()
        self.draining = False
        """Whether every answer asks the client to leave; the lane takes nothing new then."""

    async def close(self) -> None:
        """End the requests whose owner is on another worker."""
        await self._tasks.close()

    def take(self, data: bytes, connection: LaneConnection) -> bool:
        """Take the command that ``data`` is; False when the lane passes, and nothing has happened."""
        if self.draining:
            return False
        begun = time.perf_counter()
        try:
            exchange = self._exchange(data, connection, begun)
        except Exception:  # noqa: BLE001 - nothing has happened yet: the long way meets the same fault, and answers 500
            _LOG.exception("lane failed to read a request; passed on")
            return False
        if exchange is None:
            return False
        self._metrics.in_flight += 1
        self._metrics.lane += 1
        connection.enter_lane()
        try:
            if not exchange.ask_here(self._service):
                self.spawn(exchange)
        except Exception:  # noqa: BLE001 - a fault of ours, which the long way answers with 500
            if not exchange.done():
                exchange.deliver(self.failed(exchange.operation_id))
        return True

    def _exchange(self, data: bytes, connection: LaneConnection, begun: float) -> "_Exchange | None":
        """The request in ``data``, or None.  No id is made before it is certain that the lane takes a command."""
        request = self._reader.read(data)
        if request is None:
            return None
        if request.body is None:
            reading = self._reading(request.path)
            return None if reading is None else _QueryExchange(self, connection, begun, reading, self._queries)
        found = self._command(request.path, request.key, request.body)
        return None if found is None else _CommandExchange(self, connection, begun, self._budget_s, *found)

    def _reading(self, target: bytes) -> Reading | None:
        """The query that this is the target of, or None."""
        path, _, query = target.partition(b"?")
        tail = path[_ID_ENDS:]
        route = self._reads.get(tail)
        thread_id = None if route is None else _thread_of(path)
        if route is None or thread_id is None:
            return None
        key = tail, query
        try:
            values = self._parameters[key]
        except KeyError:
            values = self._read_parameters(route, query)
            if len(query) <= _QUERY_BYTES:
                if len(self._parameters) >= _QUERIES_MOST:
                    self._parameters.clear()
                self._parameters[key] = values
        if values is None:
            return None
        return Reading(route, thread_id, values, route.query(thread_id, values, None))

    @staticmethod
    def _read_parameters(route: QueryRoute, query: bytes) -> QueryValues | None:
        if not _PLAIN_QUERY.fullmatch(query):
            return None
        values, _ = read_parameters(query.decode("ascii"), route.parameters)
        return None if values is None or values.cursor is not None else values

    def _command(
        self, path: bytes, key: str | None, raw: bytes
    ) -> tuple[CommandRoute, ThreadId, CommandRequest] | None:
        """The command with this path, Idempotency-Key and body, or None."""
        if len(raw) > UNCOUNTED_BYTES:
            return None
        target: ThreadId | None = None
        route = self._by_tail.get(path[_ID_ENDS:])
        if route is None or not path.startswith(_BEFORE_THE_ID):
            route = self._creates.get(path)
            if route is None:
                return None
        else:
            target = _thread_of(path)
            if target is None:
                return None
        body = short_body(route.body, raw)
        if body is None or (type(body) is ShortCreateBody and body.parent_thread_id is not UNSET):
            return None  # of a parent the owner is asked first
        now = time.time_ns() // 1_000_000
        if target is None:
            target = self._requests.new_thread_id(body, key, now)
        return route, target, self._requests.make(route, target, body, key, now)

    # --- of an exchange

    def spawn(self, exchange: "_Exchange") -> None:
        """Ask an owner that is not on this worker, or no longer, within what is left of the budget."""
        self._tasks.spawn(exchange.seek(self._service), name="lane-request")

    def failed(self, operation_id: str) -> RawResponse:
        """Log the fault that is being handled; its reply."""
        _LOG.exception("request failed", extra={"operation": operation_id})
        return problem_reply(WORKER_FAILED)

    def ended(self, operation_id: str, reply: RawResponse, begun: float) -> None:
        """Finish a reply, and count it."""
        metrics = self._metrics
        metrics.in_flight -= 1
        if self.draining:
            reply.force_close()
        if self._more_fields:
            reply.fields += self._more_fields
        metrics.observe(operation_id, reply.status, time.perf_counter() - begun)


def _thread_of(path: bytes) -> ThreadId | None:
    """The id in the path of a thread, or None."""
    # `canonical` takes either case and ASCII alone; latin-1 decodes whatever it is given.
    found = canonical(path[_ID_BEGINS:_ID_ENDS].decode("latin-1")) if path.startswith(_BEFORE_THE_ID) else None
    return None if found is None else ThreadId(found)


class _Exchange:
    """One request in the lane: what its owner answers to, once, as to a future."""

    __slots__ = ("_begun", "_connection", "_done", "_lane", "operation_id")

    def __init__(self, lane: Lane, connection: LaneConnection, begun: float, operation_id: str) -> None:
        self._lane = lane
        self._connection = connection
        self._begun = begun
        self._done = False
        self.operation_id = operation_id

    def ask_here(self, service: ThreadService) -> bool:
        """Ask the owner if it is on this worker."""
        raise NotImplementedError

    def replied(self, answer: Answer) -> RawResponse | None:
        """The reply to the owner's answer; None when `seek` is to find it."""
        raise NotImplementedError

    async def found(self, service: ThreadService) -> RawResponse:
        """The reply of the owner, wherever it is."""
        raise NotImplementedError

    def done(self) -> bool:
        """Whether the owner on this worker has answered."""
        return self._done

    def set_result(self, answer: OwnerAnswer) -> None:
        """Deliver the answer; called by the owner, once, and does not raise."""
        self._done = True
        if type(answer) is not Moved:
            try:
                reply = self.replied(answer)  # type: ignore[arg-type]  # all but `Moved`
            except Exception:  # noqa: BLE001 - the boundary: logged with its cause, answered as a 500
                reply = self._lane.failed(self.operation_id)
            if reply is not None:
                self.deliver(reply)
                return
        try:
            self._lane.spawn(self)
        except RuntimeError:  # the lane is closed, and with it every connection
            self._connection.force_close()

    async def seek(self, service: ThreadService) -> None:
        """Ask the owner wherever it is, and deliver its answer."""
        try:
            reply = await self.found(service)
        except ProblemRaised as raised:
            reply = problem_reply(raised.problem)
        except Exception:  # noqa: BLE001 - as above
            reply = self._lane.failed(self.operation_id)
        self.deliver(reply)

    def deliver(self, reply: RawResponse) -> None:
        """Send the reply; what follows on the connection goes on."""
        self._done = True
        try:
            self._lane.ended(self.operation_id, reply, self._begun)
            self._connection.leave_lane(reply)
        except Exception:  # noqa: BLE001 - the turn of the owner goes on
            _LOG.exception("lane failed to deliver an answer; connection closed")
            self._connection.force_close()


class _CommandExchange(_Exchange):
    """A command."""

    __slots__ = ("_asked", "_budget_s", "_route", "_target")

    def __init__(
        self,
        lane: Lane,
        connection: LaneConnection,
        begun: float,
        budget_s: float,
        route: CommandRoute,
        target: ThreadId,
        asked: CommandRequest,
    ) -> None:
        super().__init__(lane, connection, begun, route.operation_id)
        self._budget_s = budget_s
        self._route = route
        self._target = target
        self._asked = asked

    def ask_here(self, service: ThreadService) -> bool:
        return service.ask_here(self._asked, self._asked.command.thread_id, self, self._budget_s)

    def replied(self, answer: Answer) -> RawResponse:
        return reply_to_command(self._route, self._target, answer)

    async def found(self, service: ThreadService) -> RawResponse:
        left_s = max(0.0, self._budget_s - (time.perf_counter() - self._begun))
        return reply_to_command(self._route, self._target, await service.ask(self._asked, left_s))


class _QueryExchange(_Exchange):
    """A query; where its owner does not answer it, the long way does."""

    __slots__ = ("_answer", "_asked_at", "_queries", "_reading")

    def __init__(
        self, lane: Lane, connection: LaneConnection, begun: float, reading: Reading, queries: QueryHandler
    ) -> None:
        super().__init__(lane, connection, begun, reading.route.operation_id)
        self._reading = reading
        self._queries = queries
        self._asked_at = time.monotonic()
        self._answer: Answer | None = None

    def ask_here(self, service: ThreadService) -> bool:
        return service.ask_here(self._reading.asked, self._reading.thread_id, self, self._queries.owner_s)

    def replied(self, answer: Answer) -> RawResponse | None:
        reply = self._queries.reply_at_once(self._reading, answer)
        if reply is None:
            self._answer = answer
        return reply

    async def found(self, service: ThreadService) -> RawResponse:
        del service  # the handler has its own
        if self._answer is None:
            return await self._queries.reply(self._reading, self._asked_at)
        return await self._queries.reply_to(self._reading, self._answer, self._asked_at)
