"""Reads that the owner answers from a thread's state; message texts come from the journal afterwards.

A page of messages ends where its answer would exceed `PAGE_BYTES`, ids and addressees included.  The state knows the
size of each message, so the page is cut before anything is read.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final, assert_never

from msgspec import Struct

from shard_worker.contract import (
    AccountIdPage,
    Answer,
    Done,
    Existence,
    ExistsThread,
    GetAdministratorIds,
    GetMemberIds,
    GetMessages,
    GetMessageWindow,
    LocateMessage,
    MessageLocation,
    MessagePage,
    MessageView,
    Query,
    ReadAccess,
    ReadThread,
    ThreadAccess,
    ThreadView,
    Unavailable,
    UnavailableCode,
)
from shard_worker.domain.decide import NOT_FOUND, refuse_reader
from shard_worker.domain.events import PostedMessage, encoded_size
from shard_worker.domain.ids import AccountId, MessageId
from shard_worker.domain.message_window import Side, taking_order
from shard_worker.domain.thread import LiveMessage, Thread
from shard_worker.journal.answer_size import FRAME_BYTES, PAGE_BYTES, listed_size
from shard_worker.journal.message_reader import MessagePlace

_LISTED_MOST: Final = listed_size((1 << 63) - 1, (1 << 63) - 1, 0)
"""Bytes of a message in the answer at most, beside those in its event."""

HeadAnswer = Done | ThreadView | AccountIdPage | MessagePage | ThreadAccess
"""An answer that names the thread's newest event; its epoch is put in when the answer is given."""


Page = GetAdministratorIds | GetMemberIds | GetMessages | GetMessageWindow
"""A query for a page of a thread's lists."""


class PendingTexts(Struct, frozen=True, gc=False):
    """A page of messages whose texts are still to be read."""

    taken: tuple[tuple[MessageId, LiveMessage], ...]
    """The messages, at least one, in the order of taking: the last may have to be left out."""
    more: bool
    sequence_nr: int
    """The thread's newest event."""
    backwards: bool = False
    """Whether the list goes on before the page, not after it."""
    epoch: int = 0
    """The epoch of the thread's newest event."""
    fits: bool = False
    """Whether all of them fit into the page, as their sizes say, which are all known."""

    @property
    def places(self) -> list[MessagePlace]:
        """Where the messages are."""
        return [
            MessagePlace(message_id, live.sequence_nr, live.index, live.offset, live.size)
            for message_id, live in self.taken
        ]

    def with_texts(self, messages: Sequence[PostedMessage]) -> MessagePage:
        """The page filled from these messages, the first taken, as many as fit now that all sizes are known."""
        pairs = zip(self.taken, messages, strict=False)
        if self.fits:
            views = [_view(message_id, live, posted) for (message_id, live), posted in pairs]
        else:
            views, size = [], FRAME_BYTES
            for (message_id, live), posted in pairs:
                size += listed_size(live.created_at, live.sequence_nr, encoded_size(posted))
                if views and size > PAGE_BYTES:
                    break
                views.append(_view(message_id, live, posted))
        if not views:  # the request is over
            return MessagePage((), True, self.sequence_nr, self.epoch)
        views.sort(key=_place_of_view)
        places = [_place(each) for each in self.taken]
        cut = min(places) < _place_of_view(views[0]) if self.backwards else max(places) > _place_of_view(views[-1])
        return MessagePage(tuple(views), self.more or cut, self.sequence_nr, self.epoch)


class SortedAccounts:
    """A thread's administrators and members in the order of their ids, for as long as neither changes.

    Sorting 10,000 ids takes 3 ms: too much for each page of them.
    """

    __slots__ = ("administrators", "members")

    def __init__(self) -> None:
        self.administrators: list[AccountId] | None = None
        self.members: list[AccountId] | None = None


def answer_query(state: Thread | None, query: Query | ReadAccess, ordered: SortedAccounts) -> Answer | PendingTexts:
    """Answer a query from the thread's state; a page of messages is returned without its texts.

    ``ordered`` is the actor's, and forgotten when the accounts change.
    """
    if isinstance(query, ReadAccess):
        return NOT_FOUND if state is None else _access(state, query.account_id)
    refusal = refuse_reader(state, query.account_id)
    if isinstance(query, ExistsThread):
        return Existence(refusal is None)
    if refusal is not None:
        return refusal
    assert state is not None  # an unknown thread was refused
    if isinstance(query, LocateMessage):
        live = state.messages.get(query.message_id)
        return MessageLocation(None if live is None else (live.sequence_nr, live.index), state.sequence_nr)
    if query.min_sequence_nr > state.sequence_nr:
        return Unavailable(
            UnavailableCode.READ_MODEL_BEHIND, f"the thread is at {state.sequence_nr}, before min_sequence_nr"
        )
    return _answer_reader(state, query, ordered)


def _answer_reader(
    state: Thread, query: ReadThread | Page, ordered: SortedAccounts
) -> ThreadView | AccountIdPage | MessagePage | MessageLocation | PendingTexts:
    """Answer an account that may read the thread."""
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
            if ordered.administrators is None:
                ordered.administrators = sorted(state.administrators)
            return _accounts(ordered.administrators, query, state.sequence_nr)
        case GetMemberIds():
            if ordered.members is None:
                ordered.members = sorted(state.members)
            return _accounts(ordered.members, query, state.sequence_nr)
        case GetMessages():
            return _messages(state, query)
        case GetMessageWindow():
            return _window(state, query)
        case _:
            assert_never(query)


def _access(state: Thread, account_id: AccountId) -> ThreadAccess:
    return ThreadAccess(
        account_id in state.administrators, account_id in state.members, state.destroyed, state.sequence_nr, 0
    )


def _accounts(ordered: list[AccountId], query: GetAdministratorIds | GetMemberIds, sequence_nr: int) -> AccountIdPage:
    start = query.offset if query.after is None else bisect_right(ordered, query.after)
    page = ordered[start : start + query.limit]
    return AccountIdPage(tuple(page), start + query.limit < len(ordered), sequence_nr)


def _place(item: tuple[MessageId, LiveMessage]) -> tuple[int, int]:
    return item[1].sequence_nr, item[1].index


def _place_of_view(view: MessageView) -> tuple[int, int]:
    return view.sequence_nr, view.index


def _messages(state: Thread, query: GetMessages) -> PendingTexts | MessagePage:
    # The dict keeps the order of adding, and a removed id never comes back: it is the order of (event, index).
    if query.after is None:
        # One more than the page may have, which shows that the list goes on.
        items = list(islice(state.messages.items(), query.offset, query.offset + query.limit + 1))
        start = 0
    else:
        items = list(state.messages.items())
        start = bisect_right(items, query.after, key=_place)
    order = taking_order(Side.AFTER, below=0, above=start, count=len(items))
    return _take(items, order, query.limit, Side.AFTER, state.sequence_nr)


def _window(state: Thread, query: GetMessageWindow) -> PendingTexts | MessagePage | MessageLocation:
    place = query.place
    if place is None:
        live = None if query.anchor is None else state.messages.get(query.anchor)
        if live is None:
            return MessageLocation(None, state.sequence_nr)
        place = live.sequence_nr, live.index
    items = list(state.messages.items())
    below, above = bisect_left(items, place, key=_place), bisect_right(items, place, key=_place)
    order = taking_order(query.side, below=below, above=above, count=len(items))
    return _take(items, order, query.limit, query.side, state.sequence_nr)


def _take(
    items: Sequence[tuple[MessageId, LiveMessage]], order: Iterable[int], limit: int, side: Side, sequence_nr: int
) -> PendingTexts | MessagePage:
    """As many messages as the page may have, and at least one where there is one."""
    taken = list(islice(order, limit))
    if not taken:
        return MessagePage((), False, sequence_nr)
    sizes = [items[number][1].size for number in taken]
    fits = FRAME_BYTES + sum(sizes) + len(taken) * _LISTED_MOST <= PAGE_BYTES
    if not fits:
        del taken[_cut([items[number][1] for number in taken]) :]
    backwards = side is Side.BEFORE
    more = min(taken) > 0 if backwards else max(taken) + 1 < len(items)
    listed = tuple([items[number] for number in taken])
    return PendingTexts(listed, more, sequence_nr, backwards, fits=fits and 0 not in sizes)


def _cut(messages: Sequence[LiveMessage]) -> int:
    """How many of the first fit into the page, one at least."""
    size = FRAME_BYTES
    for count, live in enumerate(messages):
        size += listed_size(live.created_at, live.sequence_nr, live.size)
        if count and size > PAGE_BYTES:
            return count
    return len(messages)


def _view(message_id: MessageId, live: LiveMessage, posted: PostedMessage) -> MessageView:
    created_at = live.created_at
    return MessageView(
        message_id,
        live.sender_id,
        posted.text,
        live.reply_message_id,
        posted.to_account_ids,
        created_at,
        created_at,
        live.sequence_nr,
        live.index,
    )
