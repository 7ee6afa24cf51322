"""Protocols of the gateway: the rest of the worker as it sees it."""

from typing import Final, Protocol

from shard_worker.contract import (
    Answer,
    OwnerAnswer,
    Query,
    Request,
    Unavailable,
    UnavailableCode,
)
from shard_worker.domain.ids import AccountId, MessageId, ThreadId
from shard_worker.readmodel.queries import MentionList, MessageState, ThreadList

READ_MODEL_AWAY: Final = Unavailable(
    UnavailableCode.SHARD_UNAVAILABLE, "the read model cannot be read right now; try again"
)


class AnswerSlot(Protocol):
    """Where an answer is awaited: a future, or what delivers the answer at once.  ``set_result`` must not raise."""

    def done(self) -> bool: ...

    def set_result(self, answer: OwnerAnswer, /) -> None: ...


class ThreadService(Protocol):
    """Routes a request to the owner of its thread, here or on another worker."""

    def ask_here(self, request: Request, thread_id: ThreadId, slot: AnswerSlot, budget_s: float) -> bool:
        """Have the thread's owner decide when it is on this worker; False, and nothing was done, when it is not.

        The owner gives its answer to ``slot`` once, perhaps before this returns: `Moved` when the thread went elsewhere meanwhile.
        """
        ...

    async def ask(self, request: Request, budget_s: float) -> Answer:
        """The owner's answer within ``budget_s`` seconds; raises for nothing that is foreseen."""
        ...


class ReadModel(Protocol):
    """The read model, the same on every worker; see `shard_worker.readmodel`.

    Every method raises `shard_worker.database.connection.CONNECTION_ERRORS` when the database does not answer.
    """

    async def answer(self, query: Query) -> Answer: ...

    async def threads(
        self,
        account_id: AccountId,
        limit: int,
        offset: int,
        after: tuple[int, ThreadId] | None,
        *,
        least_lsn: int = 0,
    ) -> ThreadList: ...

    async def mentions(
        self,
        account_id: AccountId,
        limit: int,
        offset: int,
        after: tuple[int, ThreadId, int, int] | None,
        *,
        least_lsn: int = 0,
    ) -> MentionList: ...

    async def message(self, thread_id: ThreadId, message_id: MessageId) -> MessageState: ...

    async def set_marker(
        self, thread_id: ThreadId, account_id: AccountId, message_id: MessageId, place: tuple[int, int]
    ) -> MessageId: ...
