"""Handles requests for streams of events: checks them, and begins the answer.

A refusal that is known within a second is an answer like any other.  After that the answer begins, for a browser gives
up for good on an error; what turns out later is an ``error`` event.
"""

import asyncio
import random
from typing import Final

from aiohttp import hdrs, web

from shard_worker.contract import Unavailable
from shard_worker.domain.ids import AccountId, ThreadId, canonical
from shard_worker.domain.refusals import Refusal
from shard_worker.gateway.http.event_stream import EventStream, StreamReply
from shard_worker.gateway.http.failures import Failure, FailureCode, given_twice, of_parameter
from shard_worker.gateway.http.problems import (
    Problem,
    ProblemCode,
    body_of,
    invalid,
    of_refusal,
    of_unavailable,
)
from shard_worker.gateway.http.response import NO_CONTENT, RawResponse, problem_reply
from shard_worker.gateway.public import query_params
from shard_worker.gateway.public.commands import BAD_THREAD_ID
from shard_worker.gateway.public.lists import BAD_ACCOUNT_ID
from shard_worker.gateway.public.routes import ACCOUNT_EVENTS, StreamRoute
from shard_worker.streams.account_position import AccountPosition
from shard_worker.streams.follower import ThreadFollower
from shard_worker.streams.hub import StreamHub
from shard_worker.streams.opening import Opening, StreamOver
from shard_worker.streams.position import ThreadPosition, read_position

_ANSWER_S: Final = 1.0
"""How long the answer waits for a refusal."""
_RETRY_S: Final = (1.0, 10.0)
"""When a client that a cap turned away may come back: each gets another time."""
_LAST_EVENT_ID: Final = "Last-Event-ID"


def problem_json(refusal: Refusal | Unavailable) -> bytes:
    """The problem in an ``error`` event."""
    return body_of(of_refusal(refusal) if isinstance(refusal, Refusal) else of_unavailable(refusal))


class StreamHandler:
    """Answers every `StreamRoute`."""

    def __init__(self, hub: StreamHub) -> None:
        self._hub = hub

    async def answer(self, route: StreamRoute, segment: str, query: str, request: web.BaseRequest) -> RawResponse:
        """The reply to one request; ``segment`` is the path's id as written, of a thread or of an account."""
        values, failures = query_params.read_parameters(query, route.parameters)
        canonical_id = canonical(segment)
        of_account = route is ACCOUNT_EVENTS
        if canonical_id is None:
            failures = [BAD_ACCOUNT_ID if of_account else BAD_THREAD_ID, *failures]
        given, bad = _given_in_header(request)
        failures = [*failures, *bad]
        account_position, position = None, None
        if of_account and canonical_id is not None:
            named = [*(() if values is None else values.account_positions), *given]
            account_position, bad = self._account_position(AccountId(canonical_id), named)
            failures += bad
        elif given:
            position = read_position(given[0][1])
            if position is None:
                failures.append(of_parameter(_LAST_EVENT_ID, FailureCode.WRONG_FORMAT, query_params.NO_POSITION))
        if values is None or canonical_id is None or failures:
            raise invalid(*failures)
        if not _accepts_events(request):
            detail = "the Accept header excludes text/event-stream, which is all that this path answers"
            return problem_reply(Problem(code=ProblemCode.NOT_ACCEPTABLE, detail=detail))
        account_id = AccountId(canonical_id) if of_account else values.account_id
        if (refused := self._refused(account_id)) is not None:
            return problem_reply(refused)
        if of_account:
            accounts = self._hub.accounts
            return StreamReply(lambda stream: accounts.begin(stream, account_id, account_position), _nothing_to_abandon)
        return await self._open(ThreadId(canonical_id), account_id, position or values.position)

    def _account_position(
        self, account_id: AccountId, named: list[tuple[str, str]]
    ) -> tuple[AccountPosition | None, list[Failure]]:
        """The last of the positions given, by name, and which of them are none of this account."""
        position: AccountPosition | None = None
        failures: list[Failure] = []
        for name, text in named:
            position = self._hub.accounts.positions.read(account_id, text)
            if position is None:
                failures.append(of_parameter(name, FailureCode.FOREIGN, query_params.NO_ACCOUNT_POSITION))
        return position, failures

    def _refused(self, account_id: AccountId, own: "asyncio.Task[Opening] | None" = None) -> Problem | None:
        hub = self._hub
        retry_s = random.uniform(*_RETRY_S)  # noqa: S311  # spreads load
        if hub.draining:
            return Problem(code=ProblemCode.LEAVING, detail="the worker is leaving; try again", retry_after_s=retry_s)
        if not hub.has_place(account_id, own):
            hub.metrics.refused += 1
            detail = "the account, or the worker, has as many streams open as it may; close one, or try again"
            return Problem(code=ProblemCode.TOO_MANY_STREAMS, detail=detail, retry_after_s=retry_s)
        return None

    async def _open(self, thread_id: ThreadId, account_id: AccountId, position: ThreadPosition | None) -> RawResponse:
        hub = self._hub
        opening = hub.open(thread_id, account_id, position)
        try:
            await asyncio.wait((opening,), timeout=_ANSWER_S)
        except BaseException:
            opening.cancel()
            raise
        reply = _refusal_of(opening)
        if reply is not None:
            return reply
        if (refused := self._refused(account_id, opening)) is not None:  # others may have come meanwhile
            opening.cancel()
            return problem_reply(refused)

        def begin(stream: EventStream) -> ThreadFollower:
            return hub.begin(stream, thread_id, account_id, opening)

        return StreamReply(begin, lambda: _abandon(opening))


def _nothing_to_abandon() -> None:
    """An account's stream is opened once its answer has begun."""


def _abandon(opening: "asyncio.Task[Opening]") -> None:
    opening.cancel()


def _refusal_of(opening: "asyncio.Task[Opening]") -> RawResponse | None:
    """The reply to a request that is refused; None when the stream begins, or is not decided yet."""
    if not opening.done():
        return None
    found = opening.result()
    if isinstance(found, StreamOver):
        return RawResponse(NO_CONTENT, 204, b"Cache-Control: no-store\r\n")
    return problem_reply(of_refusal(found)) if isinstance(found, Refusal) else None


def _given_in_header(request: web.BaseRequest) -> tuple[list[tuple[str, str]], list[Failure]]:
    """The header's position, named, and what is wrong with the header; an empty one counts as absent."""
    given = request.headers.getall(_LAST_EVENT_ID, [])
    if len(given) > 1:
        return [], [given_twice(_LAST_EVENT_ID)]
    return [(_LAST_EVENT_ID, each.strip()) for each in given if each.strip()], []


def _accepts_events(request: web.BaseRequest) -> bool:
    """Whether the Accept header, where there is one, allows ``text/event-stream``."""
    values = request.headers.getall(hdrs.ACCEPT, [])
    if not values:
        return True
    best: tuple[int, bool] = (-1, False)
    for part in ",".join(values).split(","):
        media, *parameters = [piece.strip().lower() for piece in part.split(";")]
        rank = {"*/*": 0, "text/*": 1, "text/event-stream": 2}.get(media, -1)
        if rank > best[0]:
            best = (rank, not any(_is_zero(parameter) for parameter in parameters))
    return best[1]


def _is_zero(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return name.strip() == "q" and value.strip().rstrip("0") in ("", "0.", ".")
