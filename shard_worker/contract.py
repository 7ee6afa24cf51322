"""The messages between workers, and how an address is written: one vocabulary, no behaviour.  The messages between the
operator and the workers are in `shard_worker.contract_internal`.

The gateway asks, the owner of the shard answers; whether a frame lies between the two is invisible here.  The answers
that mean "not now" say exactly what is known about storage: `Unavailable` means nothing was stored, unless its code is
``outcome-unknown``.
"""

from enum import StrEnum
from typing import Final

from msgspec import Struct

from shard_worker.domain.commands import Command
from shard_worker.domain.ids import AccountId, MessageId, ThreadId
from shard_worker.domain.message_window import Side
from shard_worker.domain.refusals import Refusal


def url_host(host: str) -> str:
    """A host as it is written before a port in a URL: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


class CommandRequest(Struct, frozen=True, gc=False, tag="command", array_like=True):
    """One command on its way to the owner of its shard.

    ``command_id`` is 16 random bytes minted by the gateway; ``key_hash`` is the first 16 bytes of
    SHA-256(account id ``:`` Idempotency-Key), None without a key; ``body_hash`` is 16 bytes over the path and the JSON
    body without ``createAt``, None without a key.
    """

    command: Command
    command_id: bytes
    key_hash: bytes | None = None
    body_hash: bytes | None = None


class ReadThread(Struct, frozen=True, gc=False, tag="read-thread", array_like=True):
    """Ask for a thread's own fields."""

    thread_id: ThreadId
    account_id: AccountId
    min_sequence_nr: int = 0


class ExistsThread(Struct, frozen=True, gc=False, tag="exists-thread", array_like=True):
    """Ask whether a thread exists, is not destroyed and is readable by the caller."""

    thread_id: ThreadId
    account_id: AccountId


class GetAdministratorIds(Struct, frozen=True, gc=False, tag="get-administrators", array_like=True):
    """Ask for a page of administrators, in the order of their ids, those after ``after`` when given."""

    thread_id: ThreadId
    account_id: AccountId
    limit: int
    offset: int = 0
    after: AccountId | None = None
    min_sequence_nr: int = 0


class GetMemberIds(Struct, frozen=True, gc=False, tag="get-members", array_like=True):
    """Ask for a page of members (the members alone), in the order of their ids, those after ``after`` when given."""

    thread_id: ThreadId
    account_id: AccountId
    limit: int
    offset: int = 0
    after: AccountId | None = None
    min_sequence_nr: int = 0


class GetMessages(Struct, frozen=True, gc=False, tag="get-messages", array_like=True):
    """Ask for a page of live messages, oldest first, those after the position (sequence number, index) ``after``."""

    thread_id: ThreadId
    account_id: AccountId
    limit: int
    offset: int = 0
    after: tuple[int, int] | None = None
    min_sequence_nr: int = 0


class GetMessageWindow(Struct, frozen=True, gc=False, tag="get-message-window", array_like=True):
    """Ask for a page of live messages on one side, or around, an anchor; see `shard_worker.domain.message_window`.

    The anchor is a message by its id, or a position (sequence number, index), which counts when both are given.  An owner that
    does not know where the anchor is, since it is not live, answers with `MessageLocation`; so does the read model for an id that
    never was a message of the thread.
    """

    thread_id: ThreadId
    account_id: AccountId
    limit: int
    side: Side
    anchor: MessageId | None
    place: tuple[int, int] | None = None
    min_sequence_nr: int = 0


class LocateMessage(Struct, frozen=True, gc=False, tag="locate-message", array_like=True):
    """Ask where a message is in its thread, by an account that can read the thread."""

    thread_id: ThreadId
    account_id: AccountId
    message_id: MessageId


class ReadAccess(Struct, frozen=True, gc=False, tag="read-access", array_like=True):
    """Ask which roles an account has in a thread, and at which event the thread is: what a stream of events begins with."""

    thread_id: ThreadId
    account_id: AccountId


class FollowThread(Struct, frozen=True, gc=False, tag="follow-thread", array_like=True):
    """Ask for the events of a thread after ``after``, as they become durable; answered once there is one.

    ``tap`` is what the owner's last answer named; an owner that does not know it answers at once: see `Followed`.
    """

    thread_id: ThreadId
    after: int
    tap: int


Query = ReadThread | ExistsThread | GetAdministratorIds | GetMemberIds | GetMessages | GetMessageWindow | LocateMessage
StreamRequest = ReadAccess | FollowThread
"""The requests of a worker to a thread's owner for its clients' streams of events."""
Request = CommandRequest | Query | StreamRequest


class Done(Struct, frozen=True, gc=False, tag="done", array_like=True):
    """The command holds; all it was decided on is durable.  ``message_ids`` are those added, or really removed.

    ``replayed`` says that this is the first answer to an earlier sending of the command, recognised by its idempotency
    key or by its chosen ids.
    """

    sequence_nr: int
    message_ids: tuple[MessageId, ...] = ()
    replayed: bool = False
    epoch: int = 0
    """The epoch of the event ``sequence_nr``; 0 where an earlier release answered."""


class ThreadView(Struct, frozen=True, gc=False, tag="thread", array_like=True):
    """A thread's own fields; instants in epoch milliseconds of the server's clock."""

    thread_id: ThreadId
    creator_id: AccountId
    parent_thread_id: ThreadId | None
    title: str | None
    remarks: str | None
    created_at: int
    updated_at: int
    sequence_nr: int
    epoch: int = 0
    """The epoch of the event ``sequence_nr``; 0 where an earlier release answered."""


class Existence(Struct, frozen=True, gc=False, tag="existence", array_like=True):
    """The answer to `ExistsThread`."""

    exists: bool


class AccountIdPage(Struct, frozen=True, gc=False, tag="accounts", array_like=True):
    """A page of account ids; ``more`` is True when the list goes on after the last."""

    account_ids: tuple[AccountId, ...]
    more: bool
    sequence_nr: int = 0
    """The thread's newest event."""
    epoch: int = 0
    """The epoch of that event; 0 where an earlier release answered."""


class MessageView(Struct, frozen=True, gc=False, array_like=True):
    """One live message; ``(sequence_nr, index)`` is its place in the thread."""

    message_id: MessageId
    sender_id: AccountId
    text: str | None
    reply_message_id: MessageId | None
    to_account_ids: tuple[AccountId, ...]
    created_at: int
    updated_at: int
    sequence_nr: int
    index: int


class MessagePage(Struct, frozen=True, gc=False, tag="messages", array_like=True):
    """A page of live messages; ``more`` is True when the list goes on after the last."""

    messages: tuple[MessageView, ...]
    more: bool
    sequence_nr: int = 0
    """The thread's newest event."""
    epoch: int = 0
    """The epoch of that event; 0 where an earlier release answered."""


class MessageLocation(Struct, frozen=True, gc=False, tag="message-location", array_like=True):
    """The answer to `LocateMessage`, and to `GetMessageWindow` when its anchor is not found: the place of a live message, (sequence number, index); None when it is not live.

    Whether a message that is not live was removed, or never was one, the read model knows from ``sequence_nr`` on: the
    thread's newest event at the moment of the answer.
    """

    place: tuple[int, int] | None
    sequence_nr: int


class ThreadAccess(Struct, frozen=True, gc=False, tag="access", array_like=True):
    """The answer to `ReadAccess`: roles as of the thread's newest event, ``sequence_nr``, which was written in ``epoch``."""

    administrator: bool
    member: bool
    destroyed: bool
    sequence_nr: int
    epoch: int

    @property
    def reader(self) -> bool:
        """Whether the account may read the thread."""
        return self.administrator or self.member


class LiveEvent(Struct, frozen=True, gc=False, array_like=True):
    """One durable event as the journal stores it."""

    sequence_nr: int
    epoch: int
    event_type: int
    event_version: int
    payload: bytes


class Followed(Struct, frozen=True, gc=False, tag="followed", array_like=True):
    """The answer to `FollowThread`: events without a hole between them, the first next to the one that was asked for.

    ``fresh`` says that the owner keeps the thread's events only from now on, or no longer has what came between: there are
    no events, and who asked reads the journal, then asks again with ``tap``.
    """

    tap: int
    events: tuple[LiveEvent, ...] = ()
    fresh: bool = False


class UnavailableCode(StrEnum):
    """Why a shard's owner cannot be had, or cannot say."""

    SHARD_UNAVAILABLE = "shard-unavailable"
    OVERLOADED = "overloaded"
    LEAVING = "leaving"
    THREAD_POISONED = "thread-poisoned"
    """The thread's history cannot be read by this release; its neighbours are not concerned."""
    OUTCOME_UNKNOWN = "outcome-unknown"
    READ_MODEL_BEHIND = "read-model-behind"


class Unavailable(Struct, frozen=True, gc=False, tag="unavailable", array_like=True):
    """Not now.  Nothing was stored, unless ``code`` is ``outcome-unknown``."""

    code: UnavailableCode
    detail: str
    retry_after_s: float = 1.0


POISONED: Final = Unavailable(
    UnavailableCode.THREAD_POISONED, "this thread's history cannot be read by this release", retry_after_s=30.0
)
NO_STREAMS: Final = Unavailable(
    UnavailableCode.SHARD_UNAVAILABLE, "the release of the shard's owner does not know streams of events"
)
"""The answer to a `StreamRequest` for an owner of an earlier release, which is not asked."""


class Moved(Struct, frozen=True, gc=False, tag="moved", array_like=True):
    """Not here, and nothing was admitted: the shard's owner is another, at this epoch as far as the sender knows."""

    owner: str | None
    epoch: int


class PrepareShard(Struct, frozen=True, gc=False, tag="prepare-shard", array_like=True):
    """A shard's owner to the next: read what you will need; these threads are in my memory, the last asked first."""

    shard_id: int
    thread_ids: tuple[ThreadId, ...]


class ShardTransferred(Struct, frozen=True, gc=False, tag="shard-given", array_like=True):
    """A shard's owner of before to the present one: the database says since ``epoch`` that it is yours; serve it.

    It is true of ``incarnation`` alone.  ``head`` is the last sequence number of the shard, which the owner of before
    knows for certain when it has drained it; None when it does not know.
    """

    shard_id: int
    epoch: int
    incarnation: str
    head: int | None


class Ack(Struct, frozen=True, gc=False, tag="received", array_like=True):
    """The answer to `PrepareShard` and `ShardTransferred`: ``ready`` when what was asked is done."""

    ready: bool


Answer = (
    Done
    | ThreadView
    | Existence
    | AccountIdPage
    | MessagePage
    | MessageLocation
    | ThreadAccess
    | Followed
    | Refusal
    | Unavailable
)
"""The answer to a `Request`, as a gateway gets it."""
OwnerAnswer = Answer | Moved
"""The answer of a shard's owner, or of the worker that was taken for the owner."""
PeerRequest = Request | PrepareShard | ShardTransferred
"""A request of one worker to another."""
PeerAnswer = OwnerAnswer | Ack
"""The answer to a `PeerRequest`."""
