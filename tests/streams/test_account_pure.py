"""The pure rules of accounts' streams: marks, positions, and access of many accounts at once."""

import random

import pytest
from hypothesis import given
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
from shard_worker.domain.ids import AccountId, ulid_uuid
from shard_worker.journal.settled import is_on_disk, settled_xid
from shard_worker.streams.access import NO_ROLES, Roles, roles_after
from shard_worker.streams.account_access import PLAIN, AccountThreads, ThreadEntry, change_of
from shard_worker.streams.account_position import AccountPosition, PositionCodec
from tests.support.node import account, thread

GENERATION = "01ARZ3NDEKTSV4RRFFQ69G5FAA"


@pytest.mark.parametrize("near", [100, 1 << 32, (1 << 32) + 5, (5 << 32) - 3], ids=["low", "wrap", "wrapped", "high"])
def test_a_mark_is_not_above_any_writer(near: int) -> None:
    """Locks show the lower half of an id, also where the lower half begins again."""
    assert settled_xid(near - 50, near, [], nameless=False) == near
    assert settled_xid(near - 50, near, [(near - 7) % (1 << 32), (near - 3) % (1 << 32)], nameless=False) == near - 7
    assert settled_xid(near - 50, near, [(near + 3) % (1 << 32)], nameless=False) == near
    assert settled_xid(near - 50, near, [(near - 7) % (1 << 32)], nameless=True) == near - 50


def test_a_log_is_on_disk_up_to_the_header_of_a_page() -> None:
    """The next record begins behind it; a record, however short, ends beyond."""
    page = 8192
    assert is_on_disk(100, 100, page)
    assert is_on_disk(3 * page + 24, 3 * page, page)
    assert is_on_disk(3 * page + 40, 3 * page, page)
    assert not is_on_disk(3 * page + 24 + 34, 3 * page, page)
    assert not is_on_disk(3 * page + 48, 3 * page + 8, page)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.sampled_from(["", GENERATION]))
def test_a_position_is_read_as_it_was_written_and_by_its_account_alone(xid: int, made_at: int, generation: str) -> None:
    """At most 64 bytes, without characters that a URL changes."""
    codec, me = PositionCodec(b"key"), account()
    position = AccountPosition(generation, xid, made_at)
    text = codec.write(codec.tag(me), position).decode()
    assert len(text) <= 64
    assert text.replace("-", "").replace("_", "").isalnum()
    assert codec.read(me, text) == position
    assert codec.read(account(), text) is None
    assert PositionCodec(b"other").read(me, text) is None


@pytest.mark.parametrize("change", [lambda t: t[:-1], lambda t: t + "A", lambda t: "é" + t[1:], lambda t: "!" + t[1:]])
def test_other_text_is_no_position(change: "object") -> None:
    """Cut, too long, or of other characters."""
    codec, me = PositionCodec(b"key"), account()
    text = codec.write(codec.tag(me), AccountPosition(GENERATION, 5, 6)).decode()
    assert callable(change)
    for bad in (change(text), "", "0", "1.1", "A" * 64):
        assert codec.read(me, bad) is None
    versioned = "Ag" + text[2:]
    assert codec.read(me, versioned) is None
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    same_bytes = text[:-1] + alphabet[alphabet.index(text[-1]) + 1]  # a character's last bits are of no byte
    assert codec.read(me, same_bytes) is None


def test_a_long_key_counts_up_to_its_first_64_bytes() -> None:
    """More the hash does not take."""
    me, position = account(), AccountPosition(GENERATION, 5, 6)
    cut, long = PositionCodec(b"k" * 64), PositionCodec(b"k" * 64 + b"longer")
    assert long.read(me, cut.write(cut.tag(me), position).decode()) == position
    assert PositionCodec(b"k" * 63).tag(me) != cut.tag(me)


def _event(rng: random.Random, accounts: list[AccountId]) -> Event:
    some = tuple(rng.sample(accounts, rng.randint(1, len(accounts))))
    events: list[Event] = [
        ThreadCreated(accounts[0], None, "t", None, some, some[:1], 1, 1),
        AdministratorIdsJoined(accounts[0], some, 1, 1),
        AdministratorIdsLeft(accounts[0], some, 1, 1),
        MemberIdsJoined(accounts[0], some, 1, 1),
        MemberIdsLeft(accounts[0], some, 1, 1),
        MessagesAdded(accounts[0], (), 1, 1),
        ThreadDestroyed(accounts[0], 1, 1),
    ]
    return rng.choice(events)


@given(st.integers(0, 2**32))
def test_access_of_many_accounts_is_that_of_each(seed: int) -> None:
    """As the fold for one account says, event by event."""
    rng = random.Random(seed)
    accounts = [account() for _ in range(3)]
    folded = dict.fromkeys(accounts, NO_ROLES)
    for number in range(1, 20):
        event = ThreadCreated(accounts[0], None, "t", None, (accounts[0],), (accounts[1],), 1, 1)
        if number > 1:
            event = _event(rng, accounts)  # type: ignore[assignment]  # any event
        change = change_of(event)
        for each in accounts:
            after = roles_after(folded[each], each, event)
            if number > 1 and isinstance(event, ThreadCreated):
                continue  # only ever the first
            assert change.apply(folded[each], each) == after
            assert after == folded[each] or each in change.named
            folded[each] = after


def test_a_thread_is_shown_from_the_event_that_lets_in_to_the_one_that_ends_access() -> None:
    """Nothing twice, nothing of what is known already, and nothing after the end."""
    me, other, chat = account(), account(), ulid_uuid(thread())
    joined, left = change_of(MemberIdsJoined(other, (me,), 1, 1)), change_of(MemberIdsLeft(other, (me,), 1, 1))
    destroyed = change_of(ThreadDestroyed(other, 1, 1))
    threads = AccountThreads(me)
    steps = [(2, PLAIN), (3, joined), (4, PLAIN), (5, left), (6, PLAIN), (7, joined), (8, destroyed), (9, PLAIN)]
    assert [number for number, change in steps if threads.take(chat, number, change)] == [3, 4, 5, 7, 8]
    assert threads.entries == {}
    threads.entries[chat] = ThreadEntry(Roles(member=True), 4)
    assert [number for number, change in steps[1:5] if threads.take(chat, number, change)] == [5]
    threads.entries[chat] = ThreadEntry(NO_ROLES, 5)
    assert [number for number, change in steps if threads.take(chat, number, change)] == [7, 8]


def test_an_account_with_two_roles_reads_on_when_it_loses_one() -> None:
    """Whichever it had first."""
    me, other, chat = account(), account(), ulid_uuid(thread())
    joined = [
        change_of(event) for event in (MemberIdsJoined(other, (me,), 1, 1), AdministratorIdsJoined(other, (me,), 1, 1))
    ]
    left = [change_of(event) for event in (MemberIdsLeft(other, (me,), 1, 1), AdministratorIdsLeft(other, (me,), 1, 1))]
    for first in (0, 1):
        threads = AccountThreads(me)
        changes = [joined[first], joined[1 - first], left[first], PLAIN, left[1 - first], PLAIN]
        assert [number for number, change in enumerate(changes, 1) if threads.take(chat, number, change)] == [
            1,
            2,
            3,
            4,
            5,
        ]
