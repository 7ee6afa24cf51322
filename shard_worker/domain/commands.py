"""Commands: what a caller asks of one thread.

Values only.  A command that reaches the domain has passed the gateway's checks of shape: ids are canonical, texts are
NFC and within their limits, lists are deduplicated in the order given.  ``create_at`` (epoch milliseconds) is what the
caller claimed; it is kept in the event and decides nothing.
"""

from msgspec import Struct

from shard_worker.domain.ids import AccountId, MessageId, ThreadId


class CreateThread(Struct, frozen=True, gc=False, tag="create", array_like=True):
    """Create a thread.  ``parent_readable`` is what the parent's owner answered before; True without a parent."""

    thread_id: ThreadId
    account_id: AccountId
    title: str
    remarks: str | None
    parent_thread_id: ThreadId | None
    parent_readable: bool
    administrator_ids: tuple[AccountId, ...]
    member_ids: tuple[AccountId, ...]
    create_at: int


class DestroyThread(Struct, frozen=True, gc=False, tag="destroy", array_like=True):
    """Destroy a thread; nothing is erased."""

    thread_id: ThreadId
    account_id: AccountId
    create_at: int


class JoinAdministratorIds(Struct, frozen=True, gc=False, tag="join-administrators", array_like=True):
    """Make accounts administrators."""

    thread_id: ThreadId
    account_id: AccountId
    administrator_ids: tuple[AccountId, ...]
    create_at: int


class LeaveAdministratorIds(Struct, frozen=True, gc=False, tag="leave-administrators", array_like=True):
    """Take the administrator's right from accounts."""

    thread_id: ThreadId
    account_id: AccountId
    administrator_ids: tuple[AccountId, ...]
    create_at: int


class JoinMemberIds(Struct, frozen=True, gc=False, tag="join-members", array_like=True):
    """Make accounts members."""

    thread_id: ThreadId
    account_id: AccountId
    member_ids: tuple[AccountId, ...]
    create_at: int


class LeaveMemberIds(Struct, frozen=True, gc=False, tag="leave-members", array_like=True):
    """Remove members; a member may remove exactly himself."""

    thread_id: ThreadId
    account_id: AccountId
    member_ids: tuple[AccountId, ...]
    create_at: int


class NewMessage(Struct, frozen=True, gc=False, array_like=True):
    """One message to add.  Its id is the caller's or was minted by the gateway: the domain does not care which."""

    message_id: MessageId
    text: str
    reply_message_id: MessageId | None
    to_account_ids: tuple[AccountId, ...]


class AddMessages(Struct, frozen=True, gc=False, tag="add-messages", array_like=True):
    """Post messages, in this order; the sender is ``account_id``."""

    thread_id: ThreadId
    account_id: AccountId
    messages: tuple[NewMessage, ...]
    create_at: int


class RemoveMessages(Struct, frozen=True, gc=False, tag="remove-messages", array_like=True):
    """Remove the caller's own messages; ids that are not live here are ignored."""

    thread_id: ThreadId
    account_id: AccountId
    message_ids: tuple[MessageId, ...]
    create_at: int


Command = (
    CreateThread
    | DestroyThread
    | JoinAdministratorIds
    | LeaveAdministratorIds
    | JoinMemberIds
    | LeaveMemberIds
    | AddMessages
    | RemoveMessages
)
