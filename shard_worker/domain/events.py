"""Events: the immutable facts of one thread.

An event's type name and version are stored beside its payload; a field is only ever added, with a default, under a new
version (`shard_worker.journal.codec` upcasts).  ``at`` is the server's event time in epoch milliseconds, which never
falls within a thread.  Every text is optional on read, so that one can be redacted on legal demand.
"""

from typing import Final

import msgspec
from msgspec import Struct

from shard_worker.domain.ids import AccountId, MessageId, ThreadId


class ThreadCreated(Struct, frozen=True, gc=False, rename="camel"):
    """The thread exists; its sequence number is 1."""

    creator_id: AccountId
    title: str | None
    remarks: str | None
    parent_thread_id: ThreadId | None
    administrator_ids: tuple[AccountId, ...]
    member_ids: tuple[AccountId, ...]
    at: int
    create_at: int


class ThreadDestroyed(Struct, frozen=True, gc=False, rename="camel"):
    """The thread is gone for its readers; nothing is erased."""

    destroyer_id: AccountId
    at: int
    create_at: int


class AdministratorIdsJoined(Struct, frozen=True, gc=False, rename="camel"):
    """These accounts, none of them one before, became administrators."""

    adder_id: AccountId
    administrator_ids: tuple[AccountId, ...]
    at: int
    create_at: int


class AdministratorIdsLeft(Struct, frozen=True, gc=False, rename="camel"):
    """These accounts, all of them administrators before, no longer are."""

    remover_id: AccountId
    administrator_ids: tuple[AccountId, ...]
    at: int
    create_at: int


class MemberIdsJoined(Struct, frozen=True, gc=False, rename="camel"):
    """These accounts, none of them one before, became members."""

    adder_id: AccountId
    member_ids: tuple[AccountId, ...]
    at: int
    create_at: int


class MemberIdsLeft(Struct, frozen=True, gc=False, rename="camel"):
    """These accounts, all of them members before, no longer are."""

    remover_id: AccountId
    member_ids: tuple[AccountId, ...]
    at: int
    create_at: int


class PostedMessage(Struct, frozen=True, gc=False, rename="camel"):
    """One message as it was posted."""

    message_id: MessageId
    text: str | None
    reply_message_id: MessageId | None = None
    to_account_ids: tuple[AccountId, ...] = ()


class MessagesAdded(Struct, frozen=True, gc=False, rename="camel"):
    """These messages were posted by ``sender_id``, in this order."""

    sender_id: AccountId
    messages: tuple[PostedMessage, ...]
    at: int
    create_at: int


class MessagesRemoved(Struct, frozen=True, gc=False, rename="camel"):
    """These messages, all of them live and the remover's own before, are no longer shown."""

    remover_id: AccountId
    message_ids: tuple[MessageId, ...]
    at: int
    create_at: int


_ID: Final = "0" * 26
_encode: Final = msgspec.json.Encoder().encode
_PLAIN_MESSAGE: Final = len(_encode(PostedMessage(MessageId(_ID), "")))
_REPLY: Final = len(_encode(_ID)) - len(_encode(None))
FIRST_MESSAGE_AT: Final = (
    _encode(MessagesAdded(AccountId(_ID), (PostedMessage(MessageId(_ID), ""),), 1, 1)).index(b"[") + 1
)
"""Where the first message begins in an encoded `MessagesAdded`, in bytes."""


def encoded_size(message: PostedMessage) -> int:
    """Bytes of a message in its encoded event; without encoding it where the text has nothing to escape."""
    text = message.text
    if text is None or '"' in text or "\\" in text or not text.isprintable():
        return len(_encode(message))
    size = _PLAIN_MESSAGE + (len(text) if text.isascii() else len(text.encode()))
    addressees = message.to_account_ids
    if addressees:
        size += len(addressees) * (len(_ID) + 3) - 1
    return size if message.reply_message_id is None else size + _REPLY


Event = (
    ThreadCreated
    | ThreadDestroyed
    | AdministratorIdsJoined
    | AdministratorIdsLeft
    | MemberIdsJoined
    | MemberIdsLeft
    | MessagesAdded
    | MessagesRemoved
)
