"""Reads that the owner answers from a thread's state; message texts come from the journal afterwards."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import assert_never

from msgspec import Struct

from shard_worker.contract import (
    AccountIdPage,
    Answer,
    Existence,
    ExistsThread,
    GetAdministratorIds,
    GetMemberIds,
    GetMessages,
    MessagePage,
    MessageView,
    Query,
    ReadThread,
    ThreadView,
    Unavailable,
    UnavailableCode,
)
from shard_worker.domain.decide import refuse_reader
from shard_worker.domain.events import Event, MessagesAdded
from shard_worker.domain.ids import AccountId, MessageId
from shard_worker.domain.thread import LiveMessage, Thread


class NeedsTexts(Struct, frozen=True, gc=False):
    """A page of messages whose texts are still to be read."""

    page: tuple[tuple[MessageId, LiveMessage], ...]
    more: bool

    @property
    def seq_nrs(self) -> list[int]:
        """The events that hold the texts."""
        return sorted({message.sequence_nr for _, message in self.page})

    def with_texts(self, events: Mapping[int, Event]) -> MessagePage:
        """The page, filled from those events."""
        return MessagePage(
            tuple([_view(message_id, live, events[live.sequence_nr]) for message_id, live in self.page]), self.more
        )


def answer_query(state: Thread | None, query: Query) -> Answer | NeedsTexts:
    """What the thread's state says to a query; a page of messages is returned without its texts."""
    refusal = refuse_reader(state, query.account_id)
    if isinstance(query, ExistsThread):
        return Existence(refusal is None)
    if refusal is not None:
        return refusal
    assert state is not None  # an unknown thread was refused
    if query.min_sequence_nr > state.sequence_nr:
        return Unavailable(
            UnavailableCode.READ_MODEL_BEHIND, f"the thread is at {state.sequence_nr}, before min_sequence_nr"
        )
    match query:
        case ReadThread():
            return ThreadView(
                thread_id=query.thread_id,
                creator_id=state.creator_id,
                parent_thread_id=state.parent_thread_id,
                title=state.title,
                remarks=state.remarks,
                created_at=state.created_at,
                updated_at=state.updated_at,
                sequence_nr=state.sequence_nr,
            )
        case GetAdministratorIds():
            return _accounts(state.administrators, query)
        case GetMemberIds():
            return _accounts(state.members, query)
        case GetMessages():
            return _messages(state, query)
        case _:
            assert_never(query)


def _accounts(accounts: Iterable[AccountId], query: GetAdministratorIds | GetMemberIds) -> AccountIdPage:
    ordered = sorted(accounts)
    start = query.offset if query.after is None else bisect_right(ordered, query.after)
    page = ordered[start : start + query.limit]
    return AccountIdPage(tuple(page), start + query.limit < len(ordered))


def _messages(state: Thread, query: GetMessages) -> NeedsTexts | MessagePage:
    # The dict keeps the order of adding, and a removed id never comes back: it is the order of (event, index).
    items = iter(state.messages.items())
    if query.after is None:
        items = islice(items, min(query.offset, len(state.messages)), None)
    else:
        after = query.after
        items = (item for item in items if (item[1].sequence_nr, item[1].index) > after)
    page = tuple(islice(items, query.limit))
    more = next(items, None) is not None
    return NeedsTexts(page, more) if page else MessagePage((), False)


def _view(message_id: MessageId, live: LiveMessage, event: Event) -> MessageView:
    assert isinstance(event, MessagesAdded)  # its sequence number was taken from one
    posted = event.messages[live.index]
    return MessageView(
        message_id=message_id,
        sender_id=live.sender_id,
        text=posted.text,
        reply_message_id=live.reply_message_id,
        to_account_ids=posted.to_account_ids,
        created_at=live.created_at,
        updated_at=live.created_at,
        sequence_nr=live.sequence_nr,
        index=live.index,
    )
