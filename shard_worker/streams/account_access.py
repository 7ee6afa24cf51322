"""Access of accounts to the threads of a stream: what one event changes, and what each stream of an account shows.

As in `shard_worker.streams.access`, for many accounts at once: an event may name ten thousand accounts, and a thousand streams may
be open for them, so the names become sets once.
"""

from typing import Final, NamedTuple
from uuid import UUID

from shard_worker.domain.events import (
    AdministratorIdsJoined,
    AdministratorIdsLeft,
    Event,
    MemberIdsJoined,
    MemberIdsLeft,
    ThreadCreated,
    ThreadDestroyed,
)
from shard_worker.domain.ids import AccountId
from shard_worker.streams.access import NO_ROLES, Roles

_NONE: Final[frozenset[AccountId]] = frozenset()


class AccessChange(NamedTuple):
    """The change of an event in the access to its thread."""

    administrators: frozenset[AccountId] = _NONE
    members: frozenset[AccountId] = _NONE
    joined: bool = False
    """Whether the accounts get the role, or lose it."""
    destroyed: bool = False

    @property
    def named(self) -> frozenset[AccountId]:
        """The accounts whose access may change."""
        return (
            self.administrators | self.members
            if self.administrators and self.members
            else (self.administrators or self.members)
        )

    def apply(self, roles: Roles, account_id: AccountId) -> Roles:
        """The roles of an account after the event, from those before."""
        administrator, member = roles
        if account_id in self.administrators:
            administrator = self.joined
        if account_id in self.members:
            member = self.joined
        return Roles(administrator, member)


PLAIN: Final = AccessChange()
"""Of an event that changes no access."""


def change_of(event: Event) -> AccessChange:
    """The change of an event."""
    match event:
        case ThreadCreated():
            return AccessChange(frozenset(event.administrator_ids), frozenset(event.member_ids), True)
        case AdministratorIdsJoined():
            return AccessChange(administrators=frozenset(event.administrator_ids), joined=True)
        case AdministratorIdsLeft():
            return AccessChange(administrators=frozenset(event.administrator_ids))
        case MemberIdsJoined():
            return AccessChange(members=frozenset(event.member_ids), joined=True)
        case MemberIdsLeft():
            return AccessChange(members=frozenset(event.member_ids))
        case ThreadDestroyed():
            return AccessChange(destroyed=True)
        case _:
            return PLAIN


class ThreadEntry(NamedTuple):
    """One thread in a stream: the roles of its account as of the event ``since``, up to which the stream is complete."""

    roles: Roles
    since: int


class AccountThreads:
    """The threads of one stream.  A pure fold: `take` says of each event whether the stream shows it."""

    def __init__(self, account_id: AccountId) -> None:
        self.account_id = account_id
        self.entries: dict[UUID, ThreadEntry] = {}
        """The threads that the account can read, and those whose events are known up to a number that is still to come."""

    def take(self, thread_id: UUID, sequence_nr: int, change: AccessChange) -> bool:
        """Whether the stream shows an event; a thread's events come in their order, and repeats are not shown."""
        entry = self.entries.get(thread_id)
        before = NO_ROLES if entry is None else entry.roles
        if entry is not None and sequence_nr <= entry.since:
            return False
        after = before if change is PLAIN else change.apply(before, self.account_id)
        if change.destroyed or not after.reader:
            self.entries.pop(thread_id, None)
        elif after != before:  # as they are for the first event that the account can read
            self.entries[thread_id] = ThreadEntry(after, sequence_nr)
        return before.reader or after.reader
