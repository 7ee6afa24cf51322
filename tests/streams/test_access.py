"""Access, folded in both directions, against a naive model: the set of readers after each event."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from shard_worker.domain.events import (
    AdministratorIdsJoined,
    AdministratorIdsLeft,
    Event,
    MemberIdsJoined,
    MemberIdsLeft,
    MessagesAdded,
    ThreadCreated,
    ThreadDestroyed,
)
from shard_worker.domain.ids import AccountId
from shard_worker.journal.codec import EVENT_NAMES
from shard_worker.streams.access import (
    DESTROYED_TYPE,
    NO_ROLES,
    PLAIN_TYPES,
    PastAccess,
    Roles,
    rewind,
    roles_after,
    roles_before,
)

ACCOUNTS = [AccountId(f"01ARZ3NDEKTSV4RRFFQ69G5FA{last}") for last in "ABCD"]
_SETS = st.sets(st.sampled_from(ACCOUNTS), min_size=1)
_CHANGES = st.lists(st.tuples(st.sampled_from(["admin", "member", "message"]), st.booleans(), _SETS), max_size=15)


def history(created: set[AccountId], changes: list[tuple[str, bool, set[AccountId]]]) -> list[Event]:
    """A history as the domain writes it: who joins was not there, who leaves was."""
    by = ACCOUNTS[0]
    administrators, members = {by}, set(created)
    events: list[Event] = [ThreadCreated(by, "t", None, None, (by,), tuple(sorted(created)), 1, 1)]
    for role, joins, chosen in changes:
        there = administrators if role == "admin" else members
        concerned = tuple(sorted(chosen - there if joins else chosen & there))
        if role == "message" or not concerned:
            events.append(MessagesAdded(by, (), 1, 1))
            continue
        joined, left = (
            (AdministratorIdsJoined, AdministratorIdsLeft) if role == "admin" else (MemberIdsJoined, MemberIdsLeft)
        )
        there ^= set(concerned)
        events.append((joined if joins else left)(by, concerned, 1, 1))
    return events


def naive(events: list[Event]) -> list[dict[AccountId, Roles]]:
    """Everyone's roles before the first event and after each, from sets alone."""
    administrators: set[AccountId] = set()
    members: set[AccountId] = set()
    states = [dict.fromkeys(ACCOUNTS, NO_ROLES)]
    for event in events:
        match event:
            case ThreadCreated():
                administrators, members = set(event.administrator_ids), set(event.member_ids)
            case AdministratorIdsJoined():
                administrators |= set(event.administrator_ids)
            case AdministratorIdsLeft():
                administrators -= set(event.administrator_ids)
            case MemberIdsJoined():
                members |= set(event.member_ids)
            case MemberIdsLeft():
                members -= set(event.member_ids)
        states.append({each: Roles(each in administrators, each in members) for each in ACCOUNTS})
    return states


@settings(max_examples=30)
@given(st.sets(st.sampled_from(ACCOUNTS)), _CHANGES)
def test_roles_are_those_of_the_naive_model_in_both_directions(
    created: set[AccountId], changes: list[tuple[str, bool, set[AccountId]]]
) -> None:
    """For every account, forward from nothing and backward from the newest event."""
    events = history(created, changes)
    states = naive(events)
    for account in ACCOUNTS:
        roles = NO_ROLES
        for at, event in enumerate(events):
            before, roles = roles, roles_after(roles, account, event)
            assert roles == states[at + 1][account]
            assert roles_before(roles, account, event) == before


@settings(max_examples=30)
@given(st.sets(st.sampled_from(ACCOUNTS)), _CHANGES, st.data())
def test_going_back_tells_the_roles_and_whether_the_account_comes_in(
    created: set[AccountId], changes: list[tuple[str, bool, set[AccountId]]], data: st.DataObject
) -> None:
    """From any event to any earlier one, with the events that do not concern the account left out or not."""
    events = history(created, changes)
    states = naive(events)
    last = data.draw(st.integers(0, len(events)))
    first = data.draw(st.integers(0, last))
    for account in ACCOUNTS:
        readers = [state[account].reader for state in states[first : last + 1]]
        comes_in = any(not before and after for before, after in pairwise(readers))
        span = events[first:last]
        concerned = [event for event in span if account in repr(event)]
        for newest_first in (reversed(span), reversed(concerned)):
            past = rewind(PastAccess(states[last][account]), account, newest_first)
            assert past == (states[first][account], comes_in)


def test_the_types_that_change_no_access() -> None:
    """Messages alone; a new type counts as one that may."""
    assert {EVENT_NAMES[number] for number in PLAIN_TYPES} == {"MessagesAdded", "MessagesRemoved"}
    assert EVENT_NAMES[DESTROYED_TYPE] == "ThreadDestroyed"


def test_a_destroy_takes_no_roles() -> None:
    """An account that could read the thread may still replay it."""
    event = ThreadDestroyed(ACCOUNTS[0], 1, 1)
    assert roles_after(Roles(True, False), ACCOUNTS[0], event) == Roles(True, False)
