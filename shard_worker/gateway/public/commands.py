"""Handles commands, each from its HTTP request to the owner and back.

The order of the checks is the contract's: shape (all failures at once) and idempotency key here, everything else with
the owner.  Nothing is kept between two requests; what makes a retry safe is in the journal.

A body costs the loop in proportion to what it holds, so its size decides its way.  Up to `UNCOUNTED_BYTES`, as nearly
every body, it can do no harm and waits for no other as long as it is faultless.  Beyond, its structure is counted
before it is decoded, and it shares the turns of the loop with others by the `TurnBudget`, as one with a fault does.
"""

import time
from typing import Final

from aiohttp import web
from msgspec.structs import replace
from multidict import istr

from shard_worker.contract import Answer, CommandRequest, Done, Existence, ExistsThread, Unavailable, UnavailableCode
from shard_worker.domain.commands import CreateThread
from shard_worker.domain.ids import AccountId, ThreadId, canonical
from shard_worker.domain.refusals import Refusal
from shard_worker.gateway.http import json_bounds, json_decoding
from shard_worker.gateway.http.failures import ULID_FORM, Failure, FailureCode
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.http.problems import invalid, of_read, of_refusal, of_unavailable
from shard_worker.gateway.http.request_body import check_media_type, read_body
from shard_worker.gateway.http.response import JSON, REPLAYED, RawResponse, problem_reply
from shard_worker.gateway.http.turn_budget import Piece, TurnBudget
from shard_worker.gateway.public import idempotency, query_params
from shard_worker.gateway.public.command_requests import CommandRequests
from shard_worker.gateway.public.read_markers import MarkerHandler
from shard_worker.gateway.public.request_models import CommandBody, PostedBody, SetReadMarkerBody
from shard_worker.gateway.public.routes import CommandRoute, MarkerRoute
from shard_worker.gateway.public.service import ThreadService
from shard_worker.gateway.public.short_bodies import ShortBody, short_body
from shard_worker.gateway.public.validation import fast_validate, validate

IDEMPOTENCY_KEY: Final = istr("Idempotency-Key")
BAD_THREAD_ID: Final = Failure("threadId", FailureCode.WRONG_FORMAT, ULID_FORM, "id")

UNCOUNTED_BYTES: Final = 2_048
"""A body up to here is decoded without being counted: whatever it holds takes about a millisecond."""
DIRECT_BYTES: Final = 32_768
"""Maximum size of a body that is validated in one step; 1,000 ids fit, and its texts take at most 5 ms."""
ASKED_S_PER_BYTE: Final = 2e-8
"""Seconds that the owner's decision takes for each byte of a large body; it belongs to the turn in which it is asked."""


class CommandHandler:
    """Answers every `CommandRoute`, and the `MarkerRoute`."""

    def __init__(
        self,
        service: ThreadService,
        options: GatewayOptions,
        requests: CommandRequests,
        markers: MarkerHandler | None = None,
    ) -> None:
        self._markers = markers
        self._service = service
        self._options = options
        self._requests = requests
        self._turns = TurnBudget()

    async def answer(
        self, route: CommandRoute | MarkerRoute, segment: str, query: str, request: web.BaseRequest
    ) -> RawResponse:
        """The reply to one command; ``segment`` is the path's thread id as written, "" for a create."""
        check_media_type(request)
        raw = await read_body(request, self._options, route.body_limit_bytes)
        keys = request.headers.getall(IDEMPOTENCY_KEY, None)
        failures: list[Failure] = []
        found: list[Failure] = []
        body: PostedBody | ShortBody | None = None
        begun = time.perf_counter()
        if len(raw) <= UNCOUNTED_BYTES:
            body = short_body(route.body, raw) or fast_validate(route.body, raw)
        if body is None:
            self._turns.spend(time.perf_counter() - begun)
            body, failures, found = await self._validate_in_turns(route, raw)
        thread_id = None if route.creates else canonical(segment)
        key = None if keys is None else keys[0]
        if keys is not None or query or (thread_id is None and not route.creates):
            failures += _failures_beside_the_body(keys, query, known_thread=thread_id is not None or route.creates)
        if body is None or found or failures:
            raise invalid(*failures, *found)
        if type(body) is SetReadMarkerBody:  # `isinstance` asks the metaclass of a pydantic model
            assert thread_id is not None  # by the route
            assert self._markers is not None  # else the route is not served
            return await self._markers.set(ThreadId(thread_id), body.account_id, body.message_id)
        assert isinstance(route, CommandRoute)  # the other route's body is done
        assert isinstance(body, (ShortBody, CommandBody))  # there is no other body
        now = time.time_ns() // 1_000_000
        target = self._requests.new_thread_id(body, key, now) if thread_id is None else ThreadId(thread_id)
        asked = self._requests.make(route, target, body, key, now)
        command = asked.command
        if len(raw) > UNCOUNTED_BYTES:
            await self._turns.admit()
            self._turns.spend(len(raw) * ASKED_S_PER_BYTE)
        if isinstance(command, CreateThread) and command.parent_thread_id is not None:
            answer = await self._create_below(command, command.parent_thread_id, asked)
        else:
            answer = await self._service.ask(asked, self._options.budget_s)
        return reply_to_command(route, target, answer)

    async def _validate_in_turns(
        self, route: CommandRoute | MarkerRoute, raw: bytes
    ) -> tuple[PostedBody | None, list[Failure], list[Failure]]:
        """The body, what keeps it from being JSON, and what keeps it from being the route's body."""
        await self._turns.admit()
        with Piece(self._turns) as piece:
            if len(raw) > UNCOUNTED_BYTES:
                json_bounds.check(raw, route.bounds)
                if len(raw) <= DIRECT_BYTES and (body := fast_validate(route.body, raw)) is not None:
                    return body, [], []
            await piece.pause()
            value, failures = json_decoding.decode(raw)
            await piece.pause()
            found_body, found = await validate(route.body, value, piece)
            await piece.pause()
            return found_body, failures, found

    async def _create_below(self, command: CreateThread, parent: ThreadId, asked: CommandRequest) -> Answer:
        """Ask the parent's owner first; what that takes is taken from the create's budget."""
        begun = time.monotonic()
        readable = False
        if parent != command.thread_id:
            found = await self._parent_found(parent, command.account_id)
            if isinstance(found, Unavailable):
                return found
            readable = found
        asked = replace(asked, command=replace(command, parent_readable=readable))
        left = self._options.budget_s - (time.monotonic() - begun)
        if left <= 0:
            detail = "asking for the parent thread took all the time there was"
            return Unavailable(UnavailableCode.SHARD_UNAVAILABLE, detail)
        return await self._service.ask(asked, left)

    async def _parent_found(self, parent: ThreadId, account_id: AccountId) -> bool | Unavailable:
        answer = await self._service.ask(ExistsThread(parent, account_id), self._options.budget_s)
        match answer:
            case Existence(exists):
                return exists
            case Refusal():
                return False
            case Unavailable():
                return of_read(answer)
            case _:
                raise TypeError(f"the owner answered ExistsThread with {type(answer).__name__}")


def _failures_beside_the_body(keys: list[str] | None, query: str, *, known_thread: bool) -> list[Failure]:
    failure = None if keys is None else idempotency.key_failure(keys)
    failures = [] if failure is None else [failure]
    if query:
        failures += query_params.unknown_parameters(query)
    return failures if known_thread else [*failures, BAD_THREAD_ID]


def reply_to_command(route: CommandRoute, target: ThreadId, answer: Answer) -> RawResponse:
    """The reply to a command on the thread ``target``, which the owner answered."""
    if type(answer) is Done:
        return RawResponse(route.render(target, answer), fields=REPLAYED if answer.replayed else JSON)
    if isinstance(answer, Refusal):
        return problem_reply(of_refusal(answer))
    if isinstance(answer, Unavailable):
        return problem_reply(of_unavailable(answer, thread_id=target if route.creates else None))
    raise TypeError(f"the owner answered a command with {type(answer).__name__}")
