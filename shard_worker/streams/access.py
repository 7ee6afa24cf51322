"""Access of one account to a thread, as of each event.

An event that says "joined" names only accounts that had not the role before, and one that says "left" only those that
had it (`shard_worker.domain.decide` sees to that), so that roles can be folded in both directions: forward while events
are sent, and backward from the thread's newest event to the position at which a stream begins.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from shard_worker.domain.events import (
    AdministratorIdsJoined,
    AdministratorIdsLeft,
    Event,
    MemberIdsJoined,
    MemberIdsLeft,
    ThreadCreated,
)
from shard_worker.domain.ids import AccountId

PLAIN_TYPES: Final = frozenset((7, 8))
"""Type numbers of events that change no account's access: messages added and removed."""
DESTROYED_TYPE: Final = 2


class Roles(NamedTuple):
    """The roles of one account in a thread."""

    administrator: bool = False
    member: bool = False

    @property
    def reader(self) -> bool:
        """Whether the account may read the thread."""
        return self.administrator or self.member


NO_ROLES: Final = Roles()


def roles_after(roles: Roles, account_id: AccountId, event: Event) -> Roles:
    """The roles after an event, from those before it."""
    match event:
        case ThreadCreated():
            return Roles(account_id in event.administrator_ids, account_id in event.member_ids)
        case AdministratorIdsJoined() if account_id in event.administrator_ids:
            return roles._replace(administrator=True)
        case AdministratorIdsLeft() if account_id in event.administrator_ids:
            return roles._replace(administrator=False)
        case MemberIdsJoined() if account_id in event.member_ids:
            return roles._replace(member=True)
        case MemberIdsLeft() if account_id in event.member_ids:
            return roles._replace(member=False)
        case _:
            return roles


def roles_before(roles: Roles, account_id: AccountId, event: Event) -> Roles:
    """The roles before an event, from those after it."""
    match event:
        case ThreadCreated():
            return NO_ROLES
        case AdministratorIdsJoined() if account_id in event.administrator_ids:
            return roles._replace(administrator=False)
        case AdministratorIdsLeft() if account_id in event.administrator_ids:
            return roles._replace(administrator=True)
        case MemberIdsJoined() if account_id in event.member_ids:
            return roles._replace(member=False)
        case MemberIdsLeft() if account_id in event.member_ids:
            return roles._replace(member=True)
        case _:
            return roles


class PastAccess(NamedTuple):
    """The access of an account before some of a thread's newest events."""

    roles: Roles
    """The roles before all of them."""
    let_in: bool = False
    """Whether one of them lets the account in."""


def rewind(past: PastAccess, account_id: AccountId, newest_first: Iterable[Event]) -> PastAccess:
    """Go back over events, the newest first; those that do not concern the account may be left out."""
    roles, let_in = past
    for event in newest_first:
        before = roles_before(roles, account_id, event)
        let_in = let_in or (roles.reader and not before.reader)
        roles = before
    return PastAccess(roles, let_in)
