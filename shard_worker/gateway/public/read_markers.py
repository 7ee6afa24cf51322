"""Handles read markers: the owner of the thread says whether the caller may read and where the message is, the read model keeps
the marker.

A marker moves forward only, so setting it twice is setting it once: a request whose outcome is not known may be sent again.
"""

import logging
from typing import Final

from shard_worker.contract import LocateMessage, MessageLocation, Unavailable, UnavailableCode
from shard_worker.database.connection import CONNECTION_ERRORS
from shard_worker.domain.ids import AccountId, MessageId, ThreadId
from shard_worker.domain.refusals import Refusal, RefusalCode
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.http.problems import of_read, of_refusal, of_unavailable
from shard_worker.gateway.http.response import RawResponse, problem_reply
from shard_worker.gateway.public import responses
from shard_worker.gateway.public.removed_messages import place_of_removed
from shard_worker.gateway.public.service import READ_MODEL_AWAY, ReadModel, ThreadService

log = logging.getLogger(__name__)

_UNKNOWN_MESSAGE: Final = Refusal(
    RefusalCode.MESSAGE_NOT_FOUND, "messageId: is no message of this thread, and never was"
)
_UNKNOWN: Final = Unavailable(
    UnavailableCode.OUTCOME_UNKNOWN, "whether the marker was stored is not known; set it again"
)


class MarkerHandler:
    """Answers the `MarkerRoute`."""

    def __init__(self, service: ThreadService, read_model: ReadModel, options: GatewayOptions) -> None:
        self._service = service
        self._read_model = read_model
        self._budget_s = options.budget_s

    async def set(self, thread_id: ThreadId, account_id: AccountId, message_id: MessageId) -> RawResponse:
        """The reply to one valid request."""
        answer = await self._service.ask(LocateMessage(thread_id, account_id, message_id), self._budget_s)
        if isinstance(answer, Refusal):
            return problem_reply(of_refusal(answer))
        if isinstance(answer, Unavailable):
            return problem_reply(of_unavailable(of_read(answer)))
        if not isinstance(answer, MessageLocation):
            raise TypeError(f"the owner answered LocateMessage with {type(answer).__name__}")
        place = answer.place
        if place is None:
            try:
                found = await place_of_removed(self._read_model, thread_id, message_id, answer.sequence_nr)
            except CONNECTION_ERRORS as error:
                log.warning("removed message not looked up", extra={"thread_id": thread_id, "cause": repr(error)})
                return problem_reply(of_unavailable(READ_MODEL_AWAY))
            if found is None:
                return problem_reply(of_refusal(_UNKNOWN_MESSAGE))
            if isinstance(found, Unavailable):
                return problem_reply(of_unavailable(found))
            place = found
        try:
            marked = await self._read_model.set_marker(thread_id, account_id, message_id, place)
        except CONNECTION_ERRORS as error:
            log.warning("outcome of a read marker unknown", extra={"thread_id": thread_id, "cause": repr(error)})
            return problem_reply(of_unavailable(_UNKNOWN))
        return RawResponse(responses.marked(thread_id, marked))
