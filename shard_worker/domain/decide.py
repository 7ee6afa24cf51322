"""The rules: what a command does to a thread, or why it does nothing.

`decide` is total, pure and looks at nothing but its arguments.  The order of its checks is a contract: exists,
readable, destroyed, right, rule.
"""

from typing import Final, assert_never

from msgspec import Struct

from shard_worker.domain.commands import (
    AddMessages,
    Command,
    CreateThread,
    DestroyThread,
    JoinAdministratorIds,
    JoinMemberIds,
    LeaveAdministratorIds,
    LeaveMemberIds,
    RemoveMessages,
)
from shard_worker.domain.events import (
    AdministratorIdsJoined,
    AdministratorIdsLeft,
    Event,
    MemberIdsJoined,
    MemberIdsLeft,
    MessagesAdded,
    MessagesRemoved,
    PostedMessage,
    ThreadCreated,
    ThreadDestroyed,
)
from shard_worker.domain.evolve import content_digest, creation_digest
from shard_worker.domain.ids import AccountId, MessageId
from shard_worker.domain.limits import Limits
from shard_worker.domain.refusals import Refusal, RefusalCode
from shard_worker.domain.thread import LiveMessage, Thread


class Unchanged(Struct, frozen=True, gc=False):
    """A success that stores nothing: it was so already.  ``message_ids`` is what the answer lists.

    ``replayed`` says that the command itself was recognised, by the ids that its client chose.
    """

    sequence_nr: int
    message_ids: tuple[MessageId, ...] = ()
    replayed: bool = False


NOT_FOUND: Final = Refusal(RefusalCode.THREAD_NOT_FOUND, "there is no such thread for this account")
DESTROYED: Final = Refusal(RefusalCode.THREAD_DESTROYED, "the thread was destroyed")
_NOT_ADMINISTRATOR: Final = Refusal(RefusalCode.NOT_ADMINISTRATOR, "only administrators of the thread may do this")
_PARENT: Final = Refusal(RefusalCode.PARENT_NOT_READABLE, "the parent thread does not exist for this account")
_TAKEN: Final = Refusal(RefusalCode.ALREADY_EXISTS, "a thread of this id exists, and was created differently")
_LAST: Final = Refusal(RefusalCode.LAST_ADMINISTRATOR, "a thread keeps at least one administrator")


def decide(state: Thread | None, command: Command, now: int, limits: Limits) -> Event | Unchanged | Refusal:
    """Decide ``command`` at ``now`` (epoch milliseconds): one event, nothing to store, or a refusal."""
    if isinstance(command, CreateThread):
        return _create(state, command, now, limits)
    if (refusal := refuse_reader(state, command.account_id)) is not None:
        return refusal
    assert state is not None  # an unknown thread was refused
    at = max(state.updated_at, now)
    match command:
        case AddMessages():
            return _add(state, command, at, limits)
        case RemoveMessages():
            return _remove(state, command, at)
        case JoinMemberIds():
            return _join_members(state, command, at, limits)
        case LeaveMemberIds():
            return _leave_members(state, command, at)
        case JoinAdministratorIds():
            return _join_administrators(state, command, at, limits)
        case LeaveAdministratorIds():
            return _leave_administrators(state, command, at)
        case DestroyThread():
            if command.account_id not in state.administrators:
                return _NOT_ADMINISTRATOR
            return ThreadDestroyed(destroyer_id=command.account_id, at=at, create_at=command.create_at)
        case _:
            assert_never(command)


def refuse_reader(state: Thread | None, account_id: AccountId) -> Refusal | None:
    """Why an account may not even look at the thread, or None when it may."""
    if state is None or not state.readable_by(account_id):
        return NOT_FOUND
    return DESTROYED if state.destroyed else None


def message_ids_of(event: Event) -> tuple[MessageId, ...]:
    """Ids that the answer to the command that stored ``event`` lists."""
    if isinstance(event, MessagesAdded):
        return tuple([message.message_id for message in event.messages])
    if isinstance(event, MessagesRemoved):
        return event.message_ids
    return ()


def _create(state: Thread | None, command: CreateThread, now: int, limits: Limits) -> Event | Unchanged | Refusal:
    administrators, members = _once(command.administrator_ids), _once(command.member_ids)
    if state is not None:
        if state.destroyed:
            return DESTROYED
        again = creation_digest(
            command.account_id,
            command.parent_thread_id,
            command.title,
            command.remarks,
            administrators,
            members,
        )
        return Unchanged(1, replayed=True) if again == state.creation else _TAKEN
    if not command.parent_readable or command.parent_thread_id == command.thread_id:
        return _PARENT
    if len(administrators) > limits.administrators:
        return _too_many_administrators(limits)
    if len(members) > limits.members:
        return _too_many_members(limits)
    return ThreadCreated(
        creator_id=command.account_id,
        title=command.title,
        remarks=command.remarks,
        parent_thread_id=command.parent_thread_id,
        administrator_ids=administrators,
        member_ids=members,
        at=now,
        create_at=command.create_at,
    )


def _add(state: Thread, command: AddMessages, at: int, limits: Limits) -> Event | Unchanged | Refusal:
    live = state.messages
    messages = command.messages
    known = [message.message_id for message in messages if message.message_id in live]
    if known:
        first = _posted_before(state, command)
        return first if first is not None else _taken(known[0])
    if len(live) + len(messages) > limits.messages:
        return Refusal(RefusalCode.MESSAGE_LIMIT, f"a thread holds at most {limits.messages} live messages")
    earlier: set[MessageId] = set()
    for message in messages:
        message_id = message.message_id
        if message_id in state.removed or message_id in earlier:
            return _taken(message_id)
        reply = message.reply_message_id
        if reply is not None and reply not in live and reply not in earlier:
            return Refusal(RefusalCode.REPLY_NOT_LIVE, f"message {reply}, which is replied to, is not in this thread")
        earlier.add(message_id)
    if not messages:
        return Unchanged(state.sequence_nr)
    return MessagesAdded(
        sender_id=command.account_id,
        messages=tuple(
            [
                PostedMessage(message.message_id, message.text, message.reply_message_id, message.to_account_ids)
                for message in messages
            ]
        ),
        at=at,
        create_at=command.create_at,
    )


def _posted_before(state: Thread, command: AddMessages) -> Unchanged | None:
    """The first answer, when the messages are the whole list of one earlier command, with equal content.

    A message that was removed since is not known any more: then the list of those that are left counts as the whole.
    """
    live = state.messages
    messages = command.messages
    first = live.get(messages[0].message_id)
    sequence_nr = first.sequence_nr if first is not None else 0
    for message in messages:
        known: LiveMessage | None = live.get(message.message_id)
        if (
            known is None
            or known.sequence_nr != sequence_nr
            or known.sender_id != command.account_id
            or known.content != content_digest(message.text, message.reply_message_id, message.to_account_ids)
        ):
            return None
    whole = [message_id for message_id, known in live.items() if known.sequence_nr == sequence_nr]
    message_ids = [message.message_id for message in messages]
    return Unchanged(sequence_nr, tuple(message_ids), replayed=True) if message_ids == whole else None


def _remove(state: Thread, command: RemoveMessages, at: int) -> Event | Unchanged | Refusal:
    live = state.messages
    targets = [message_id for message_id in dict.fromkeys(command.message_ids) if message_id in live]
    for message_id in targets:
        if live[message_id].sender_id != command.account_id:
            return Refusal(RefusalCode.NOT_SENDER, f"message {message_id} is another account's")
    if not targets:
        return Unchanged(state.sequence_nr)
    return MessagesRemoved(
        remover_id=command.account_id, message_ids=tuple(targets), at=at, create_at=command.create_at
    )


def _join_members(state: Thread, command: JoinMemberIds, at: int, limits: Limits) -> Event | Unchanged | Refusal:
    if command.account_id not in state.administrators:
        return _NOT_ADMINISTRATOR
    new = tuple([account_id for account_id in _once(command.member_ids) if account_id not in state.members])
    if not new:
        return Unchanged(state.sequence_nr)
    if len(state.members) + len(new) > limits.members:
        return _too_many_members(limits)
    return MemberIdsJoined(adder_id=command.account_id, member_ids=new, at=at, create_at=command.create_at)


def _leave_members(state: Thread, command: LeaveMemberIds, at: int) -> Event | Unchanged | Refusal:
    leaving = _once(command.member_ids)
    if command.account_id not in state.administrators and leaving != (command.account_id,):
        return Refusal(RefusalCode.NOT_ADMINISTRATOR, "only administrators may remove others; a member only himself")
    gone = tuple([account_id for account_id in leaving if account_id in state.members])
    if not gone:
        return Unchanged(state.sequence_nr)
    return MemberIdsLeft(remover_id=command.account_id, member_ids=gone, at=at, create_at=command.create_at)


def _join_administrators(
    state: Thread, command: JoinAdministratorIds, at: int, limits: Limits
) -> Event | Unchanged | Refusal:
    if command.account_id not in state.administrators:
        return _NOT_ADMINISTRATOR
    wanted = _once(command.administrator_ids)
    new = tuple([account_id for account_id in wanted if account_id not in state.administrators])
    if not new:
        return Unchanged(state.sequence_nr)
    if len(state.administrators) + len(new) > limits.administrators:
        return _too_many_administrators(limits)
    return AdministratorIdsJoined(
        adder_id=command.account_id, administrator_ids=new, at=at, create_at=command.create_at
    )


def _leave_administrators(state: Thread, command: LeaveAdministratorIds, at: int) -> Event | Unchanged | Refusal:
    if command.account_id not in state.administrators:
        return _NOT_ADMINISTRATOR
    leaving = _once(command.administrator_ids)
    gone = tuple([account_id for account_id in leaving if account_id in state.administrators])
    if not gone:
        return Unchanged(state.sequence_nr)
    if len(gone) == len(state.administrators):
        return _LAST
    return AdministratorIdsLeft(
        remover_id=command.account_id, administrator_ids=gone, at=at, create_at=command.create_at
    )


def _once(account_ids: tuple[AccountId, ...]) -> tuple[AccountId, ...]:
    """First occurrences, in the order given."""
    return account_ids if len(account_ids) < 2 else tuple(dict.fromkeys(account_ids))


def _taken(message_id: MessageId) -> Refusal:
    return Refusal(RefusalCode.MESSAGE_ID_TAKEN, f"message id {message_id} was used before")


def _too_many_administrators(limits: Limits) -> Refusal:
    return Refusal(RefusalCode.ADMINISTRATOR_LIMIT, f"a thread has at most {limits.administrators} administrators")


def _too_many_members(limits: Limits) -> Refusal:
    return Refusal(RefusalCode.MEMBER_LIMIT, f"a thread has at most {limits.members} members")
