"""Events: what happened to one thread, for ever.

An event's type name and version are stored beside its payload; a field is only ever added, with a default, under a new
version (`shard_worker.journal.codec` upcasts).  ``at`` is the server's event time in epoch milliseconds, which never
falls within a thread.  Every text is optional on read, so that one can be redacted on legal demand.
"""

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
