"""Handles queries, each from its HTTP request to the owner and back."""

import logging
import time
from typing import Final

from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace

from shard_worker.contract import (
    AccountIdPage,
    Answer,
    GetMessageWindow,
    MessageLocation,
    MessagePage,
    Query,
    ThreadView,
    Unavailable,
    UnavailableCode,
)
from shard_worker.database.connection import CONNECTION_ERRORS
from shard_worker.domain.decide import NOT_FOUND
from shard_worker.domain.ids import ThreadId, canonical
from shard_worker.domain.message_window import Side
from shard_worker.domain.refusals import Refusal
from shard_worker.gateway.http.failures import FailureCode, of_parameter
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.http.problems import invalid, of_read, of_refusal, of_unavailable
from shard_worker.gateway.http.response import RawResponse, problem_reply
from shard_worker.gateway.public import query_params, responses
from shard_worker.gateway.public.commands import BAD_THREAD_ID
from shard_worker.gateway.public.cursors import Cursors, Position
from shard_worker.gateway.public.removed_messages import place_of_removed
from shard_worker.gateway.public.routes import QueryRoute, end_of_page
from shard_worker.gateway.public.service import READ_MODEL_AWAY, ReadModel, ThreadService

log = logging.getLogger(__name__)

_OWNER_S: Final = 1.0
"""How long the owner has to answer before the read model is asked: longer than a planned move of a shard takes."""
_NOT_SERVED: Final = (UnavailableCode.SHARD_UNAVAILABLE, UnavailableCode.OUTCOME_UNKNOWN)
_NEITHER: Final = Unavailable(
    UnavailableCode.SHARD_UNAVAILABLE, "neither the shard's owner nor the read model answers; try again"
)
_FOREIGN_CURSOR: Final = of_parameter("cursor", FailureCode.FOREIGN, "is none of this query, thread and account")


class Reading(Struct, frozen=True, gc=False):
    """A query on its way: its route and parameters, and the request that its owner gets."""

    route: QueryRoute
    thread_id: ThreadId
    values: query_params.QueryValues
    asked: Query


class QueryHandler:
    """Answers every `QueryRoute`, by default from the owner's memory."""

    def __init__(self, service: ThreadService, options: GatewayOptions, read_model: ReadModel | None = None) -> None:
        self._service = service
        self._read_model = read_model
        self.asks_owner = read_model is None or not options.read_model_answers
        """Whether the owner is asked first."""
        self._budget_s = options.budget_s
        self.owner_s = options.budget_s if read_model is None else min(options.budget_s, _OWNER_S)
        """How long the owner has to answer, in seconds."""
        self._cursors = Cursors(options.cursor_key)

    async def answer(self, route: QueryRoute, segment: str, query: str, request: web.BaseRequest) -> RawResponse:
        """The reply to one query; ``segment`` is the path's thread id as written."""
        values, failures = query_params.read_parameters(query, route.parameters)
        canonical_id = canonical(segment)
        if canonical_id is None:
            failures = [BAD_THREAD_ID, *failures]
        if values is None or canonical_id is None:
            raise invalid(*failures)
        thread_id = ThreadId(canonical_id)
        after: Position | None = None
        if values.cursor is not None:
            after = self._cursors.read(route.operation_id, thread_id, values.account_id, values.cursor)
            if after is None:
                raise invalid(_FOREIGN_CURSOR)
            values = replace(values, min_sequence_nr=max(values.min_sequence_nr, int(after[-1])))
        reading = Reading(route, thread_id, values, route.query(thread_id, values, after))
        return await self.reply(reading, time.monotonic())

    async def reply(self, reading: Reading, began: float) -> RawResponse:
        """The reply to a query, which has its time from ``began`` (monotonic, seconds) on.

        Raises `ProblemRaised` for an anchor that never was a message.
        """
        return await self._finish(reading, await self._ask(reading.asked, began))

    def reply_at_once(self, reading: Reading, answer: Answer) -> RawResponse | None:
        """The reply to the owner's answer; None when it takes more than that, and `reply_to` gives it."""
        if type(answer) is MessageLocation or (type(answer) is Unavailable and answer.code in _NOT_SERVED):
            return None
        return self._reply(reading, answer)

    async def reply_to(self, reading: Reading, answer: Answer, began: float) -> RawResponse:
        """The reply after the owner, which was asked at ``began`` (monotonic, seconds), has answered; raises as `reply`."""
        return await self._finish(reading, await self._or_read_model(reading.asked, answer, began))

    async def _finish(self, reading: Reading, answer: Answer) -> RawResponse:
        asked = reading.asked
        if isinstance(answer, MessageLocation) and isinstance(asked, GetMessageWindow):
            answer = await self._ask_at_removed(asked, answer)
        return self._reply(reading, answer)

    async def _ask_at_removed(self, asked: GetMessageWindow, known: MessageLocation) -> Answer:
        """The answer to a query whose anchor is not live: the read model knows where it was, if it ever was a message."""
        read_model, anchor = self._read_model, asked.anchor
        if read_model is None or anchor is None:
            return READ_MODEL_AWAY
        try:
            place = await place_of_removed(read_model, asked.thread_id, anchor, known.sequence_nr)
        except CONNECTION_ERRORS as error:
            log.warning("removed message not looked up", extra={"thread_id": asked.thread_id, "cause": repr(error)})
            return READ_MODEL_AWAY
        if place is None:
            detail = "is no message of this thread, and never was"
            raise invalid(of_parameter(asked.side.value, FailureCode.NOT_FOUND, detail))
        if isinstance(place, Unavailable):
            return place
        return await self._ask(replace(asked, place=place), time.monotonic())

    async def _ask(self, asked: Query, began: float) -> Answer:
        """The owner's answer; while the owner is not to be had, the read model's.  Or always that, by the setting."""
        if not self.asks_owner:
            assert self._read_model is not None  # else the owner is asked
            return await self._read_model_answer(self._read_model, asked) or _NEITHER
        left_s = max(0.0, self.owner_s - (time.monotonic() - began))
        return await self._or_read_model(asked, await self._service.ask(asked, left_s), began)

    async def _or_read_model(self, asked: Query, answer: Answer, began: float) -> Answer:
        """The owner's answer; while the owner is not to be had, the read model's."""
        read_model = self._read_model
        if read_model is None or not isinstance(answer, Unavailable) or answer.code not in _NOT_SERVED:
            return answer
        found = await self._read_model_answer(read_model, asked)
        # A thread that was created, or an account that joined, a moment ago may not be projected yet: the owner would know.
        if found is not None and found != NOT_FOUND:
            return found
        left_s = self._budget_s - (time.monotonic() - began)
        return await self._service.ask(asked, left_s) if left_s > 0 else answer

    @staticmethod
    async def _read_model_answer(read_model: ReadModel, asked: Query) -> Answer | None:
        """The read model's answer; None when it cannot be read."""
        try:
            return await read_model.answer(asked)
        except CONNECTION_ERRORS as error:
            log.warning("read model not read", extra={"thread_id": asked.thread_id, "cause": repr(error)})
            return None

    def _reply(self, reading: Reading, answer: Answer) -> RawResponse:
        match answer:
            case ThreadView():
                return RawResponse(responses.thread(answer))
            case AccountIdPage():
                return RawResponse(responses.account_ids(answer, self._next(reading, answer)))
            case MessagePage():
                return RawResponse(responses.messages(reading.thread_id, answer, self._next(reading, answer)))
            case Refusal():
                return problem_reply(of_refusal(answer))
            case Unavailable():
                return problem_reply(of_unavailable(of_read(answer)))
            case _:
                raise TypeError(f"the owner answered {reading.route.operation_id} with {type(answer).__name__}")

    def _next(self, reading: Reading, page: AccountIdPage | MessagePage) -> str | None:
        """The cursor of the page after this one."""
        asked, values = reading.asked, reading.values
        # The first page's number travels on: `min_sequence_nr` holds it from the second page on.
        first_nr = page.sequence_nr if values.cursor is None else values.min_sequence_nr
        position = end_of_page(
            page, first_nr, backwards=isinstance(asked, GetMessageWindow) and asked.side is Side.BEFORE
        )
        if position is None:
            return None
        return self._cursors.write(reading.route.operation_id, reading.thread_id, values.account_id, position)
