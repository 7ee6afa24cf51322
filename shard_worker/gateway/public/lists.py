"""Handles the lists over an account's threads, which the read model answers on any worker."""

import logging
from typing import Final

from shard_worker.database.connection import CONNECTION_ERRORS
from shard_worker.domain.ids import AccountId, ThreadId, canonical
from shard_worker.gateway.http.failures import ULID_FORM, Failure, FailureCode, of_parameter
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.http.problems import invalid, of_unavailable
from shard_worker.gateway.http.response import RawResponse, problem_reply
from shard_worker.gateway.public import query_params, responses
from shard_worker.gateway.public.cursors import Cursors, Position
from shard_worker.gateway.public.routes import LIST_THREADS, ListRoute
from shard_worker.gateway.public.service import READ_MODEL_AWAY, ReadModel
from shard_worker.streams.account_position import AccountPosition, PositionCodec

log = logging.getLogger(__name__)

BAD_ACCOUNT_ID: Final = Failure("accountId", FailureCode.WRONG_FORMAT, ULID_FORM, "id")
_FOREIGN_CURSOR: Final = of_parameter("cursor", FailureCode.FOREIGN, "is none of this query and account")


class ListHandler:
    """Answers every `ListRoute`."""

    def __init__(self, lists: ReadModel, options: GatewayOptions) -> None:
        self._lists = lists
        self._cursors = Cursors(options.cursor_key)
        self._positions = PositionCodec(options.cursor_key)

    async def answer(self, route: ListRoute, segment: str, query: str) -> RawResponse:
        """The reply to one query; ``segment`` is the path's account id as written, "" when the query names the account."""
        values, failures = query_params.read_parameters(query, route.parameters)
        account_id = None if values is None else values.account_id
        if segment:
            named = canonical(segment)
            if named is None:
                failures = [BAD_ACCOUNT_ID, *failures]
            else:
                account_id = AccountId(named)
        if values is None or account_id is None or failures:
            raise invalid(*failures)
        after: Position | None = None
        if values.cursor is not None:
            after = self._cursors.read(route.operation_id, "", account_id, values.cursor)
            if after is None:
                raise invalid(_FOREIGN_CURSOR)
        try:
            if route is LIST_THREADS:
                return await self._threads(route, account_id, values, after)
            return await self._mentions(route, account_id, values, after)
        except CONNECTION_ERRORS as error:
            log.warning("list not read", extra={"operation": route.operation_id, "cause": repr(error)})
            return problem_reply(of_unavailable(READ_MODEL_AWAY))

    async def _threads(
        self,
        route: ListRoute,
        account_id: AccountId,
        values: query_params.QueryValues,
        place: Position | None,
    ) -> RawResponse:
        after = None if place is None else (int(place[0]), ThreadId(str(place[1])))
        # A cursor of the release before has none.
        first_lsn = int(place[2]) if place is not None and len(place) > 2 else 0
        page = await self._lists.threads(account_id, values.limit, values.offset, after, least_lsn=first_lsn)
        cursor = None
        if page.more:
            last = page.threads[-1]
            last_place = last.activity_at, last.view.thread_id, first_lsn or page.lsn
            cursor = self._cursors.write(route.operation_id, "", account_id, last_place)
        taken = page.position
        position = AccountPosition(taken.generation, taken.xid, taken.taken_at)
        written = self._positions.write(self._positions.tag(account_id), position)
        return RawResponse(responses.threads(page, cursor, written))

    async def _mentions(
        self,
        route: ListRoute,
        account_id: AccountId,
        values: query_params.QueryValues,
        place: Position | None,
    ) -> RawResponse:
        after = None
        if place is not None:
            after = (int(place[0]), ThreadId(str(place[1])), int(place[2]), int(place[3]))
        first_lsn = int(place[4]) if place is not None and len(place) > 4 else 0
        page = await self._lists.mentions(account_id, values.limit, values.offset, after, least_lsn=first_lsn)
        cursor = None
        if page.more:
            last = page.mentions[-1]
            message = last.message
            position = message.created_at, last.thread_id, message.sequence_nr, message.index, first_lsn or page.lsn
            cursor = self._cursors.write(route.operation_id, "", account_id, position)
        return RawResponse(responses.mentions(page, cursor))
