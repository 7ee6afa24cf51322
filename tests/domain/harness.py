"""The people and the thread that the rules are tried on, and how a command is played against a state.

Ann administers and is no member, Bob is a member, Cid is both, Dot is neither.  Message `FIRST` is Bob's, `SECOND` is
Ann's and replies to it.
"""

from hashlib import sha256
from typing import Final, TypeVar

from shard_worker.domain.commands import (
    AddMessages,
    Command,
    CreateThread,
    DestroyThread,
    JoinAdministratorIds,
    JoinMemberIds,
    LeaveAdministratorIds,
    LeaveMemberIds,
    NewMessage,
    RemoveMessages,
)
from shard_worker.domain.decide import Unchanged, decide
from shard_worker.domain.events import Event
from shard_worker.domain.evolve import evolve
from shard_worker.domain.ids import AccountId, MessageId, ThreadId, ulid_text
from shard_worker.domain.limits import Limits
from shard_worker.domain.refusals import Refusal, RefusalCode
from shard_worker.domain.thread import Thread
from shard_worker.journal.codec import encode_state

E = TypeVar("E", bound=Event)
Outcome = Event | Unchanged | Refusal


def ulid(name: str) -> str:
    """The same canonical ULID for the same name, always."""
    return ulid_text(sha256(name.encode()).digest()[:16])


def account(name: str) -> AccountId:
    """An account by name."""
    return AccountId(ulid(f"account {name}"))


def message_id(name: str | int) -> MessageId:
    """A message id by name."""
    return MessageId(ulid(f"message {name}"))


THREAD: Final = ThreadId(ulid("thread"))
PARENT: Final = ThreadId(ulid("parent"))
ANN: Final = account("ann")
BOB: Final = account("bob")
CID: Final = account("cid")
DOT: Final = account("dot")
FIRST: Final = message_id("first")
SECOND: Final = message_id("second")
LIMITS: Final = Limits()
CREATED_AT: Final = 1_000
NOW: Final = 2_000
CLAIMED: Final = 77
"""Times that callers send."""


def create(
    *,
    by: AccountId = ANN,
    title: str = "title",
    remarks: str | None = "remarks",
    parent: ThreadId | None = None,
    parent_readable: bool = True,
    administrators: tuple[AccountId, ...] = (ANN, CID),
    members: tuple[AccountId, ...] = (BOB, CID),
    create_at: int = CLAIMED,
) -> CreateThread:
    """Ann creates the thread."""
    return CreateThread(THREAD, by, title, remarks, parent, parent_readable, administrators, members, create_at)


def destroy(by: AccountId, create_at: int = CLAIMED) -> DestroyThread:
    """``by`` destroys the thread."""
    return DestroyThread(THREAD, by, create_at)


def join_administrators(by: AccountId, *ids: AccountId) -> JoinAdministratorIds:
    """``by`` makes ``ids`` administrators."""
    return JoinAdministratorIds(THREAD, by, ids, CLAIMED)


def leave_administrators(by: AccountId, *ids: AccountId) -> LeaveAdministratorIds:
    """``by`` takes the right from ``ids``."""
    return LeaveAdministratorIds(THREAD, by, ids, CLAIMED)


def join_members(by: AccountId, *ids: AccountId) -> JoinMemberIds:
    """``by`` makes ``ids`` members."""
    return JoinMemberIds(THREAD, by, ids, CLAIMED)


def leave_members(by: AccountId, *ids: AccountId) -> LeaveMemberIds:
    """``by`` removes ``ids``."""
    return LeaveMemberIds(THREAD, by, ids, CLAIMED)


def message(
    id: MessageId, text: str = "text", *, reply: MessageId | None = None, to: tuple[AccountId, ...] = ()
) -> NewMessage:
    """One message to post."""
    return NewMessage(id, text, reply, to)


def add(by: AccountId, *messages: NewMessage, create_at: int = CLAIMED) -> AddMessages:
    """``by`` posts ``messages``."""
    return AddMessages(THREAD, by, messages, create_at)


def remove(by: AccountId, *ids: MessageId) -> RemoveMessages:
    """``by`` removes messages."""
    return RemoveMessages(THREAD, by, ids, CLAIMED)


def play(state: Thread | None, *commands: Command, now: int = CREATED_AT, limits: Limits = LIMITS) -> Thread:
    """The state after ``commands``, each of which must be accepted."""
    for command in commands:
        event = decide(state, command, now, limits)
        assert not isinstance(event, Refusal | Unchanged), event
        state = evolve(state, event, 1 if state is None else state.sequence_nr + 1)
    assert state is not None
    return state


def thread(*, destroyed: bool = False) -> Thread:
    """The thread as the module says, at sequence number 3 (4 when destroyed)."""
    state = play(None, create(), add(BOB, message(FIRST)), add(ANN, message(SECOND, reply=FIRST)))
    return play(state, destroy(ANN)) if destroyed else state


def ask(state: Thread | None, command: Command, *, now: int = NOW, limits: Limits = LIMITS) -> Outcome:
    """Decide; the state is as before."""
    before = None if state is None else encode_state(state)
    outcome = decide(state, command, now, limits)
    assert state is None or encode_state(state) == before, "a decision changed the state"
    return outcome


def accepted(kind: type[E], state: Thread | None, command: Command, *, now: int = NOW, limits: Limits = LIMITS) -> E:
    """The event of a command that must be accepted."""
    outcome = ask(state, command, now=now, limits=limits)
    assert isinstance(outcome, kind), outcome
    return outcome


def refused(state: Thread | None, command: Command, *, limits: Limits = LIMITS) -> RefusalCode:
    """Why a command is refused; it must be."""
    outcome = ask(state, command, limits=limits)
    assert isinstance(outcome, Refusal), outcome
    assert outcome.detail
    return outcome.code
