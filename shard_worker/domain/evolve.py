"""Folds events into a thread's state: total over the events that `decide` can emit, and deterministic in every release.

Recovery folds a thread's whole history through `evolve`, so its cost follows the event, never the thread, and a rule
that changed since must not show here.
"""

from typing import assert_never

from shard_worker.domain.events import (
    FIRST_MESSAGE_AT,
    AdministratorIdsJoined,
    AdministratorIdsLeft,
    Event,
    MemberIdsJoined,
    MemberIdsLeft,
    MessagesAdded,
    MessagesRemoved,
    ThreadCreated,
    ThreadDestroyed,
    encoded_size,
)
from shard_worker.domain.ids import AccountId, MessageId, ThreadId
from shard_worker.domain.thread import REMOVED_IDS_KEPT, LiveMessage, Thread, digest, digest_of_joined


class IllegalEvent(Exception):
    """An event that no history can hold: something before the creation, or a second creation."""


def evolve(state: Thread | None, event: Event, seq_nr: int) -> Thread:
    """The thread after ``event``, whose sequence number is ``seq_nr``.  Changes ``state`` in place and returns it.

    Raises `IllegalEvent` when the history is broken.
    """
    if isinstance(event, ThreadCreated):
        if state is not None:
            raise IllegalEvent(f"event {seq_nr} creates a thread that exists")
        return _created(event, seq_nr)
    if state is None:
        raise IllegalEvent(f"event {seq_nr} ({type(event).__name__}) comes before the creation")
    match event:
        case MessagesAdded():
            _add(state, event, seq_nr)
        case MessagesRemoved():
            _remove(state, event)
        case AdministratorIdsJoined():
            state.administrators.update(dict.fromkeys(event.administrator_ids))
        case AdministratorIdsLeft():
            _leave(state.administrators, event.administrator_ids)
        case MemberIdsJoined():
            state.members.update(dict.fromkeys(event.member_ids))
        case MemberIdsLeft():
            _leave(state.members, event.member_ids)
        case ThreadDestroyed():
            state.destroyed = True
        case _:
            assert_never(event)
    state.updated_at = event.at
    state.sequence_nr = seq_nr
    return state


def _created(event: ThreadCreated, seq_nr: int) -> Thread:
    return Thread(
        creator_id=event.creator_id,
        parent_thread_id=event.parent_thread_id,
        title=event.title,
        remarks=event.remarks,
        creation=creation_digest(
            event.creator_id,
            event.parent_thread_id,
            event.title,
            event.remarks,
            event.administrator_ids,
            event.member_ids,
        ),
        created_at=event.at,
        updated_at=event.at,
        sequence_nr=seq_nr,
        administrators=dict.fromkeys(event.administrator_ids),
        members=dict.fromkeys(event.member_ids),
        messages={},
        removed={},
    )


def _add(state: Thread, event: MessagesAdded, seq_nr: int) -> None:
    messages = state.messages
    sender, at = event.sender_id, event.at
    offset = FIRST_MESSAGE_AT
    for index, message in enumerate(event.messages):
        size = encoded_size(message)
        messages[message.message_id] = LiveMessage(
            sender,
            message.reply_message_id,
            seq_nr,
            index,
            at,
            content_digest(message.text, message.reply_message_id, message.to_account_ids),
            offset,
            size,
        )
        offset += size + 1


def _leave(accounts: dict[AccountId, None], leaving: tuple[AccountId, ...]) -> None:
    for account_id in leaving:
        del accounts[account_id]


def _remove(state: Thread, event: MessagesRemoved) -> None:
    removed = state.removed
    for message_id in event.message_ids:
        del state.messages[message_id]
        removed[message_id] = None
        if len(removed) > REMOVED_IDS_KEPT:
            del removed[next(iter(removed))]


def creation_digest(
    creator_id: AccountId,
    parent_thread_id: ThreadId | None,
    title: str | None,
    remarks: str | None,
    administrator_ids: tuple[AccountId, ...],
    member_ids: tuple[AccountId, ...],
) -> int:
    """Digest by which two creations of one thread are equal: all fields but ``createAt``, ids in any order."""
    return digest(
        creator_id,
        parent_thread_id,
        title,
        remarks,
        " ".join(sorted(administrator_ids)),
        " ".join(sorted(member_ids)),
    )


def content_digest(text: str | None, reply_message_id: MessageId | None, to_account_ids: tuple[AccountId, ...]) -> int:
    """Digest by which two posts under one message id are equal."""
    if text is not None and reply_message_id is None and not to_account_ids:
        return digest_of_joined(f"{len(text)}:{text}-")  # the usual message, without a list in between
    return digest(text, reply_message_id, *to_account_ids)
