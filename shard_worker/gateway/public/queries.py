"""Handles queries, each from its HTTP request to the owner and back."""

import logging
import time
from typing import Final

from aiohttp import web
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


class QueryHandler:
    """Answers every `QueryRoute`, by default from the owner's memory."""

    def __init__(self, service: ThreadService, options: GatewayOptions, read_model: ReadModel | None = None) -> None:
        self._service = service
        self._read_model = read_model
        self._always = options.read_model_answers
        self._budget_s = options.budget_s
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
        asked = route.query(thread_id, values, after)
        answer = await self._ask(asked)
        if isinstance(answer, MessageLocation) and isinstance(asked, GetMessageWindow):
            answer = await self._ask_at_removed(asked, answer)
        backwards = isinstance(asked, GetMessageWindow) and asked.side is Side.BEFORE
        return self._reply(route, thread_id, values, answer, backwards=backwards)

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
        return await self._ask(replace(asked, place=place))

    async def _ask(self, asked: Query) -> Answer:
        """The owner's answer; while the owner is not to be had, the read model's.  Or always that, by the setting."""
        read_model = self._read_model
        if read_model is None:
            return await self._service.ask(asked, self._budget_s)
        if self._always:
            return await self._read_model_answer(read_model, asked) or _NEITHER
        began = time.monotonic()
        answer = await self._service.ask(asked, min(self._budget_s, _OWNER_S))
        if not isinstance(answer, Unavailable) or answer.code not in _NOT_SERVED:
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

    def _reply(
        self,
        route: QueryRoute,
        thread_id: ThreadId,
        values: query_params.QueryValues,
        answer: Answer,
        *,
        backwards: bool,
    ) -> RawResponse:
        match answer:
            case ThreadView():
                return RawResponse(responses.thread(answer))
            case AccountIdPage():
                cursor = self._next(route, thread_id, values, answer, backwards=False)
                return RawResponse(responses.account_ids(answer, cursor))
            case MessagePage():
                cursor = self._next(route, thread_id, values, answer, backwards=backwards)
                return RawResponse(responses.messages(thread_id, answer, cursor))
            case Refusal():
                return problem_reply(of_refusal(answer))
            case Unavailable():
                return problem_reply(of_unavailable(of_read(answer)))
            case _:
                raise TypeError(f"the owner answered {route.operation_id} with {type(answer).__name__}")

    def _next(
        self,
        route: QueryRoute,
        thread_id: ThreadId,
        values: query_params.QueryValues,
        page: AccountIdPage | MessagePage,
        *,
        backwards: bool,
    ) -> str | None:
        # The first page's number travels on: `min_sequence_nr` holds it from the second page on.
        first_nr = page.sequence_nr if values.cursor is None else values.min_sequence_nr
        position = end_of_page(page, first_nr, backwards=backwards)
        if position is None:
            return None
        return self._cursors.write(route.operation_id, thread_id, values.account_id, position)
