"""Values that calls take and give.  Fields that this release does not know are ignored."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from threadcluster_client.errors import ProblemError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to be posted."""

    text: str
    message_id: str | None = None
    reply_message_id: str | None = None
    to_account_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ThreadChanged:
    """A command's answer: the thread after it, and where to follow it from."""

    thread_id: str
    sequence_nr: int
    position: str
    replayed: bool
    """Whether this is the first answer of a command that was stored before."""


@dataclass(frozen=True, slots=True)
class MessagesChanged:
    """The answer of a command about messages."""

    message_ids: tuple[str, ...]
    sequence_nr: int
    position: str
    replayed: bool


@dataclass(frozen=True, slots=True)
class ReadMarker:
    """Up to where an account has read."""

    thread_id: str
    message_id: str


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread."""

    id: str
    creator_id: str
    parent_thread_id: str | None
    title: str | None
    remarks: str | None
    created_at: int
    """Epoch milliseconds."""
    updated_at: int
    sequence_nr: int
    position: str | None
    """Where to follow it from; None in a list, whose pages carry the account's."""
    unread_count: int | None
    """In a list alone."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message."""

    id: str
    thread_id: str
    sender_id: str
    type: str
    body: str | None
    reply_message_id: str | None
    to_account_ids: tuple[str, ...]
    created_at: int
    updated_at: int
    sequence_nr: int


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a query."""

    items: tuple[T, ...]
    next_cursor: str | None
    sequence_nr: int | None
    """Of the thread that the page is about."""
    position: str | None
    """Where to follow from, so that reading first and following then leaves no gap; of a walk the first page's counts."""
    poisoned: tuple[str, ...]
    """Threads that a list leaves out, because their history cannot be read."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a thread."""

    type: str
    thread_id: str
    sequence_nr: int
    epoch: int
    data: Mapping[str, Any]
    position: str
    """Following from here misses nothing that comes after this item."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The newest events may be lost: read the thread again, or with ``thread_id`` None list the threads again."""

    thread_id: str | None
    position: str


@dataclass(frozen=True, slots=True)
class ThreadFailed:
    """An account's stream goes on without this thread; may come again after each resume."""

    thread_id: str
    error: ProblemError
    position: str


Item = Event | Reset | ThreadFailed


def thread_of(raw: Mapping[str, Any]) -> Thread:
    """A thread of an answer or of a list."""
    return Thread(
        raw["id"],
        raw["creatorId"],
        raw.get("parentThreadId"),
        raw.get("title"),
        raw.get("remarks"),
        raw["createdAt"],
        raw["updatedAt"],
        raw["sequenceNr"],
        raw.get("position"),
        raw.get("unreadCount"),
    )


def message_of(raw: Mapping[str, Any]) -> Message:
    """A message of a list."""
    return Message(
        raw["id"],
        raw["threadId"],
        raw["senderId"],
        raw["type"],
        raw.get("body"),
        raw.get("replyMessageId"),
        tuple(raw.get("toAccountIds") or ()),
        raw["createdAt"],
        raw["updatedAt"],
        raw["sequenceNr"],
    )


def new_message_fields(message: NewMessage | str) -> dict[str, Any]:
    """A message as a command's body has it."""
    if isinstance(message, str):
        return {"text": message}
    fields: dict[str, Any] = {"text": message.text, "toAccountIds": list(message.to_account_ids)}
    if message.message_id is not None:
        fields["messageId"] = message.message_id
    if message.reply_message_id is not None:
        fields["replyMessageId"] = message.reply_message_id
    return fields
