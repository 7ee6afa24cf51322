"""A read model over `MemoryThreads`: as new as the threads, and without a database."""

from shard_worker.contract import Answer, MessageView, Query, ThreadView
from shard_worker.domain.ids import AccountId, MessageId, ThreadId
from shard_worker.domain.thread import Thread
from shard_worker.readmodel.queries import ListedThread, Mention, MentionList, MessageState, ThreadList
from tests.fakes.memory_threads import MemoryThreads


class MemoryReadModel:
    """Implements the gateway's `ReadModel`."""

    def __init__(self, threads: MemoryThreads) -> None:
        self._threads = threads
        self.markers: dict[tuple[ThreadId, AccountId], tuple[tuple[int, int], MessageId]] = {}
        self.removed: dict[str, tuple[int, int]] = {}
        """Where removed messages were."""
        self.lsn = 7
        """Where the primary is."""
        self.least_lsns: list[int] = []
        """Positions that lists were asked for at least."""
        self.fault: Exception | None = None
        """Raised by every method, when it is set."""

    def _fail(self) -> None:
        if self.fault is not None:
            raise self.fault

    def _readable(self, account_id: AccountId) -> list[tuple[ThreadId, Thread]]:
        return [
            (thread_id, state)
            for thread_id, state in self._threads.threads.items()
            if state.readable_by(account_id) and not state.destroyed
        ]

    async def answer(self, query: Query) -> Answer:
        """As the owner answers."""
        self._fail()
        return await self._threads.ask(query, 1.0)

    async def threads(
        self,
        account_id: AccountId,
        limit: int,
        offset: int,
        after: tuple[int, ThreadId] | None,
        *,
        least_lsn: int = 0,
    ) -> ThreadList:
        """By activity, which is the last change here."""
        self._fail()
        found = sorted(self._readable(account_id), key=lambda each: (each[1].updated_at, each[0]), reverse=True)
        found = [each for each in found if after is None or (each[1].updated_at, each[0]) < after][offset:]
        listed = [
            ListedThread(
                ThreadView(
                    thread_id,
                    state.creator_id,
                    state.parent_thread_id,
                    state.title,
                    state.remarks,
                    state.created_at,
                    state.updated_at,
                    state.sequence_nr,
                ),
                state.updated_at,
                min(100, sum(live.sender_id != account_id for live in state.messages.values())),
            )
            for thread_id, state in found
        ]
        self.least_lsns.append(least_lsn)
        return ThreadList(tuple(listed[:limit]), len(listed) > limit, (), self.lsn)

    async def mentions(
        self,
        account_id: AccountId,
        limit: int,
        offset: int,
        after: tuple[int, ThreadId, int, int] | None,
        *,
        least_lsn: int = 0,
    ) -> MentionList:
        """Newest first."""
        self._fail()
        found = [
            Mention(
                thread_id,
                MessageView(
                    message_id,
                    live.sender_id,
                    self._threads.texts[message_id][0],
                    live.reply_message_id,
                    self._threads.texts[message_id][1],
                    live.created_at,
                    live.created_at,
                    live.sequence_nr,
                    live.index,
                ),
            )
            for thread_id, state in self._readable(account_id)
            for message_id, live in state.messages.items()
            if account_id in self._threads.texts[message_id][1]
        ]

        def place(mention: Mention) -> tuple[int, ThreadId, int, int]:
            message = mention.message
            return message.created_at, mention.thread_id, message.sequence_nr, message.index

        found.sort(key=place, reverse=True)
        found = [each for each in found if after is None or place(each) < after][offset:]
        self.least_lsns.append(least_lsn)
        return MentionList(tuple(found[:limit]), len(found) > limit, (), self.lsn)

    async def message(self, thread_id: ThreadId, message_id: MessageId) -> MessageState:
        """A live message's place, or one of `removed`."""
        self._fail()
        state = self._threads.threads.get(thread_id)
        live = None if state is None else state.messages.get(message_id)
        place = self.removed.get(message_id) if live is None else (live.sequence_nr, live.index)
        return MessageState(place, 0 if state is None else state.sequence_nr)

    async def set_marker(
        self, thread_id: ThreadId, account_id: AccountId, message_id: MessageId, place: tuple[int, int]
    ) -> MessageId:
        """Forward only."""
        self._fail()
        kept = max(self.markers.get((thread_id, account_id), (place, message_id)), (place, message_id))
        self.markers[thread_id, account_id] = kept
        return kept[1]
