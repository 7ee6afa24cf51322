"""The lane: the short way of a plain command from its bytes to its answer, without aiohttp's parser, task and request.

`take` recognises the command in one segment, makes the same request of it that `CommandHandler` would make, and asks its owner.
The answer is delivered by a callback from within the owner's turn, for an owner on this worker without a task or a coroutine.

* The lane may pass on any request, and then nothing of it has happened: aiohttp gets the same bytes.
* An answer is, byte for byte, the one that the long way gives.
* Nothing here raises, and a delivery calls no actor: it may run in the middle of a batch that became durable.
* A connection has at most one request in the lane; what its client sends meanwhile waits behind aiohttp's parser, in order.
"""

import logging
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
from shard_worker.gateway.http.problems import WORKER_FAILED
from shard_worker.gateway.http.receiving import LaneConnection
from shard_worker.gateway.http.response import RawResponse, problem_reply
from shard_worker.gateway.public.command_requests import CommandRequests
from shard_worker.gateway.public.commands import UNCOUNTED_BYTES, reply_to_command
from shard_worker.gateway.public.routes import COMMANDS, THREAD, CommandRoute
from shard_worker.gateway.public.service import ThreadService
from shard_worker.gateway.public.short_bodies import ShortCreateBody, short_body
from shard_worker.tasks import BackgroundTasks

_LOG: Final = logging.getLogger(__name__)

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
    ) -> None:
        self._service = service
        self._budget_s = options.budget_s
        self._requests = requests
        self._metrics = metrics
        self._reader = PlainRequestReader(hosts.admits, cors=cors is not None)
        self._more_fields = b"" if cors is None else cors.vary
        self._by_tail = {route.template.removeprefix(THREAD).encode(): route for route in COMMANDS if not route.creates}
        self._creates = {route.template.encode(): route for route in COMMANDS if route.creates}
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
            read = self._read(data)
        except Exception:  # noqa: BLE001 - nothing has happened yet: the long way meets the same fault, and answers 500
            _LOG.exception("lane failed to read a request; passed on")
            return False
        if read is None:
            return False
        route, target, asked = read
        self._metrics.in_flight += 1
        self._metrics.lane += 1
        connection.enter_lane()
        exchange = _Exchange(self, connection, route, target, asked, begun)
        try:
            if not self._service.ask_here(asked, exchange, self._budget_s):
                self.spawn(exchange, begun)
        except Exception:  # noqa: BLE001 - a fault of ours, which the long way answers with 500
            if not exchange.done():
                exchange.deliver(self.failed(route))
        return True

    def _read(self, data: bytes) -> tuple[CommandRoute, ThreadId, CommandRequest] | None:
        """The command in ``data``, or None.  No id is made before it is certain that the lane takes the command."""
        request = self._reader.read(data)
        if request is None or len(request.body) > UNCOUNTED_BYTES:
            return None
        path = request.path
        target: ThreadId | None = None
        route = self._by_tail.get(path[_ID_ENDS:])
        if route is None or not path.startswith(_BEFORE_THE_ID):
            route = self._creates.get(path)
            if route is None:
                return None
        else:
            # `canonical` takes either case and ASCII alone; latin-1 decodes whatever it is given.
            found = canonical(path[_ID_BEGINS:_ID_ENDS].decode("latin-1"))
            if found is None:
                return None
            target = ThreadId(found)
        body = short_body(route.body, request.body)
        if body is None or (type(body) is ShortCreateBody and body.parent_thread_id is not UNSET):
            return None  # of a parent the owner is asked first
        now = time.time_ns() // 1_000_000
        if target is None:
            target = self._requests.new_thread_id(body, request.key, now)
        return route, target, self._requests.make(route, target, body, request.key, now)

    # --- of an exchange

    def spawn(self, exchange: "_Exchange", begun: float) -> None:
        """Ask an owner that is not on this worker, or no longer, within what is left of the budget."""
        left = max(0.0, self._budget_s - (time.perf_counter() - begun))
        self._tasks.spawn(exchange.seek(self._service, left), name="lane-request")

    def reply(self, route: CommandRoute, target: ThreadId, answer: Answer) -> RawResponse:
        """The reply to a command."""
        try:
            return reply_to_command(route, target, answer)
        except Exception:  # noqa: BLE001 - the boundary: logged with its cause, answered as a 500
            return self.failed(route)

    def failed(self, route: CommandRoute) -> RawResponse:
        """Log the fault that is being handled; its reply."""
        _LOG.exception("request failed", extra={"operation": route.operation_id})
        return problem_reply(WORKER_FAILED)

    def ended(self, route: CommandRoute, reply: RawResponse, begun: float) -> None:
        """Finish a reply, and count it."""
        metrics = self._metrics
        metrics.in_flight -= 1
        if self.draining:
            reply.force_close()
        if self._more_fields:
            reply.fields += self._more_fields
        metrics.observe(route.operation_id, reply.status, time.perf_counter() - begun)


class _Exchange:
    """One command in the lane: what its owner answers to, once, as to a future."""

    __slots__ = ("_asked", "_begun", "_connection", "_done", "_lane", "_route", "_target")

    def __init__(
        self,
        lane: Lane,
        connection: LaneConnection,
        route: CommandRoute,
        target: ThreadId,
        asked: CommandRequest,
        begun: float,
    ) -> None:
        self._lane = lane
        self._connection = connection
        self._route = route
        self._target = target
        self._asked = asked
        self._begun = begun
        self._done = False

    def done(self) -> bool:
        """Whether the owner on this worker has answered."""
        return self._done

    def set_result(self, answer: OwnerAnswer) -> None:
        """Deliver the answer; called by the owner, once, and does not raise."""
        self._done = True
        if type(answer) is not Moved:
            self.deliver(self._lane.reply(self._route, self._target, answer))  # type: ignore[arg-type]  # all but `Moved`
            return
        try:
            self._lane.spawn(self, self._begun)
        except RuntimeError:  # the lane is closed, and with it every connection
            self._connection.force_close()

    async def seek(self, service: ThreadService, budget_s: float) -> None:
        """Ask the owner wherever it is, and deliver its answer."""
        try:
            reply = self._lane.reply(self._route, self._target, await service.ask(self._asked, budget_s))
        except Exception:  # noqa: BLE001 - as above
            reply = self._lane.failed(self._route)
        self.deliver(reply)

    def deliver(self, reply: RawResponse) -> None:
        """Send the reply; what follows on the connection goes on."""
        self._done = True
        try:
            self._lane.ended(self._route, reply, self._begun)
            self._connection.leave_lane(reply)
        except Exception:  # noqa: BLE001 - the turn of the owner goes on
            _LOG.exception("lane failed to deliver an answer; connection closed")
            self._connection.force_close()
