"""Changes of events in the read model's tables: a pure function of the events, whatever the tables hold.

`Changes` collects the net change of a batch: each row is named once, so that every table is written by one statement and the
order of the statements does not matter.  Ids of accounts and messages stay as they are in the events.  A thread's events must come in their order; threads do not depend on each other.

These are the rules of version 1.  A changed rule is a new version, with tables of its own: `shard_worker.readmodel.rules`.
"""

from collections.abc import Iterable
from typing import NamedTuple, assert_never
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
from shard_worker.domain.ids import AccountId, MessageId


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
    """Change of a batch between an account and a thread; None is a role that it does not change."""

    __slots__ = ("administrator", "member", "seq_nr")

    def __init__(self) -> None:
        self.administrator: bool | None = None
        self.member: bool | None = None
        self.seq_nr = 0
        """The last event of the batch that changed a role: where access ended, when it did."""


class MessageRow(Struct, gc=False):
    """A message of the batch; only ``removed`` changes."""

    thread_id: UUID
    sequence_nr: int
    index: int
    message_id: MessageId
    sender_id: AccountId
    body: str | None
    reply_message_id: MessageId | None
    to_account_ids: tuple[AccountId, ...]
    created_at: int
    removed: bool = False


class MentionRow(Struct, frozen=True, gc=False):
    """A message of the batch that names an account."""

    account_id: AccountId
    created_at: int
    thread_id: UUID
    sequence_nr: int
    index: int
    message_id: MessageId


class Changes:
    """The net change of a batch of events."""

    def __init__(self) -> None:
        self.threads: dict[UUID, Head] = {}
        self.accounts: dict[tuple[UUID, AccountId], AccountChange] = {}
        """By (thread, account)."""
        self.messages: list[MessageRow] = []
        """In their order; those removed within the batch too."""
        self.removed: set[tuple[UUID, MessageId]] = set()
        """(thread, message): live messages of the tables that are removed, before ``messages`` are added.  An id that was removed
        long ago may be given to another message, so both may name the same id."""
        self._live: dict[tuple[UUID, MessageId], MessageRow] = {}
        self.mentions: list[MentionRow] = []
        self.posted = 0
        """How many rows of threads, messages and mentions change."""

    @property
    def rows(self) -> int:
        """How many rows of the tables change."""
        return self.posted + len(self.accounts) + len(self.removed)

    def add(self, stored: StoredEvent) -> None:
        """Take one more event; a thread's events in their order."""
        head = self.threads.get(stored.thread_id)
        if head is None:
            head = self.threads[stored.thread_id] = Head(stored)
            self.posted += 1
        head.advance(stored)
        event = stored.event
        match event:
            case MessagesAdded():
                head.activity_at = event.at
                self._add_messages(stored, event)
            case MessagesRemoved():
                for message_id in event.message_ids:
                    added = self._live.pop((stored.thread_id, message_id), None)
                    if added is None:
                        self.removed.add((stored.thread_id, message_id))
                    else:
                        added.removed = True
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
            case _:
                assert_never(event)

    def _add_messages(self, stored: StoredEvent, event: MessagesAdded) -> None:
        thread_id, seq_nr, at = stored.thread_id, stored.seq_nr, event.at
        self.posted += len(event.messages)
        for index, message in enumerate(event.messages):
            message_id = message.message_id
            row = MessageRow(
                thread_id,
                seq_nr,
                index,
                message_id,
                event.sender_id,
                message.text,
                message.reply_message_id,
                message.to_account_ids,
                at,
            )
            self.messages.append(row)
            self._live[thread_id, message_id] = row
            self.posted += len(message.to_account_ids)
            for account_id in message.to_account_ids:
                self.mentions.append(MentionRow(account_id, at, thread_id, seq_nr, index, message_id))

    def _administrators(self, stored: StoredEvent, account_ids: Iterable[AccountId], joined: bool) -> None:
        for account_id in account_ids:
            self._account(stored, account_id).administrator = joined

    def _members(self, stored: StoredEvent, account_ids: Iterable[AccountId], joined: bool) -> None:
        for account_id in account_ids:
            self._account(stored, account_id).member = joined

    def _account(self, stored: StoredEvent, account_id: AccountId) -> AccountChange:
        change = self.accounts.setdefault((stored.thread_id, account_id), AccountChange())
        change.seq_nr = stored.seq_nr
        return change
