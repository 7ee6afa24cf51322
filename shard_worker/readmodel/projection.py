"""What events change in the read model's tables: a pure function of the events, whatever the tables hold.

`Changes` collects the net change of a batch: each row is named once, so that every table is written by one statement and the
order of the statements does not matter.  A thread's events must come in their order; threads do not depend on each other.

The rules of `VERSION` fill the tables that the SQL function ``make_readmodel_v1`` makes.  A changed rule is a new version,
with tables of its own.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple
from uuid import UUID

from msgspec import Struct

from shard_worker.domain.events import (
    AdministratorIdsJoined,
    AdministratorIdsLeft,
    Event,
    MemberIdsJoined,
    MemberIdsLeft,
    MessagesAdded,
    MessagesRemoved,
    ThreadCreated,
    ThreadDestroyed,
)
from shard_worker.domain.ids import AccountId, ulid_uuid

VERSION: Final = 1
"""Raised with every change of these rules or of the tables that they fill."""


class StoredEvent(NamedTuple):
    """One event of the journal; ``xid`` is the id of the transaction that wrote it, None for one from before there were any."""

    shard_id: int
    thread_id: UUID
    seq_nr: int
    epoch: int
    xid: int | None
    event: Event


class Head:
    """The newest event of a thread in a batch, and what its events change in the thread's row.

    ``activity_at`` and ``destroyed_at`` are None where they do not change; instants are epoch milliseconds.
    """

    __slots__ = (
        "activity_at",
        "created",
        "destroyed_at",
        "epoch",
        "first_nr",
        "sequence_nr",
        "shard_id",
        "updated_at",
        "xid",
    )

    def __init__(self, stored: StoredEvent) -> None:
        self.shard_id = stored.shard_id
        self.first_nr = stored.seq_nr
        self.created: ThreadCreated | None = None
        self.activity_at: int | None = None
        self.destroyed_at: int | None = None
        self.sequence_nr = self.epoch = self.updated_at = 0
        self.xid: int | None = None

    def advance(self, stored: StoredEvent) -> None:
        """Take one more event."""
        self.sequence_nr = stored.seq_nr
        self.epoch = stored.epoch
        self.xid = stored.xid
        self.updated_at = stored.event.at


class AccountChange:
    """What a batch changes between an account and a thread; None is a role that it does not change."""

    __slots__ = ("administrator", "member", "seq_nr")

    def __init__(self) -> None:
        self.administrator: bool | None = None
        self.member: bool | None = None
        self.seq_nr = 0
        """The last event of the batch that changed a role: where access ended, when it did."""


class MessageRow(Struct, frozen=True, gc=False):
    """A message of the batch."""

    thread_id: UUID
    sequence_nr: int
    index: int
    message_id: UUID
    sender_id: UUID
    body: str | None
    reply_message_id: UUID | None
    to_account_ids: tuple[UUID, ...] | None
    created_at: int


class MentionRow(Struct, frozen=True, gc=False):
    """A message of the batch that names an account."""

    account_id: UUID
    created_at: int
    thread_id: UUID
    sequence_nr: int
    index: int
    message_id: UUID


class Changes:
    """The net change of a batch of events."""

    def __init__(self) -> None:
        self.threads: dict[UUID, Head] = {}
        self.accounts: dict[tuple[UUID, UUID], AccountChange] = {}
        """By (thread, account)."""
        self.messages: dict[tuple[UUID, UUID], MessageRow] = {}
        """By (thread, message), those that are live at the end of the batch or were removed within it."""
        self.removed: set[tuple[UUID, UUID]] = set()
        """(thread, message): of ``messages`` or of the tables."""
        self.mentions: list[MentionRow] = []

    def add(self, stored: StoredEvent) -> None:
        """Take one more event; a thread's events in their order."""
        head = self.threads.get(stored.thread_id)
        if head is None:
            head = self.threads[stored.thread_id] = Head(stored)
        head.advance(stored)
        event = stored.event
        match event:
            case MessagesAdded():
                head.activity_at = event.at
                self._add_messages(stored, event)
            case MessagesRemoved():
                self.removed.update((stored.thread_id, ulid_uuid(message_id)) for message_id in event.message_ids)
            case ThreadCreated():
                head.created, head.activity_at = event, event.at
                self._administrators(stored, event.administrator_ids, True)
                self._members(stored, event.member_ids, True)
            case AdministratorIdsJoined():
                self._administrators(stored, event.administrator_ids, True)
            case AdministratorIdsLeft():
                self._administrators(stored, event.administrator_ids, False)
            case MemberIdsJoined():
                self._members(stored, event.member_ids, True)
            case MemberIdsLeft():
                self._members(stored, event.member_ids, False)
            case ThreadDestroyed():
                head.destroyed_at = event.at

    def _add_messages(self, stored: StoredEvent, event: MessagesAdded) -> None:
        sender_id = ulid_uuid(event.sender_id)
        for index, message in enumerate(event.messages):
            message_id = ulid_uuid(message.message_id)
            addressees = tuple(map(ulid_uuid, message.to_account_ids)) or None
            self.messages[stored.thread_id, message_id] = MessageRow(
                stored.thread_id,
                stored.seq_nr,
                index,
                message_id,
                sender_id,
                message.text,
                None if message.reply_message_id is None else ulid_uuid(message.reply_message_id),
                addressees,
                event.at,
            )
            for account_id in addressees or ():
                self.mentions.append(
                    MentionRow(account_id, event.at, stored.thread_id, stored.seq_nr, index, message_id)
                )

    def _administrators(self, stored: StoredEvent, account_ids: Iterable[AccountId], joined: bool) -> None:
        for account_id in account_ids:
            self._account(stored, account_id).administrator = joined

    def _members(self, stored: StoredEvent, account_ids: Iterable[AccountId], joined: bool) -> None:
        for account_id in account_ids:
            self._account(stored, account_id).member = joined

    def _account(self, stored: StoredEvent, account_id: AccountId) -> AccountChange:
        change = self.accounts.setdefault((stored.thread_id, ulid_uuid(account_id)), AccountChange())
        change.seq_nr = stored.seq_nr
        return change
