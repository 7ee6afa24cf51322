"""Exists, readable, destroyed, right, rule: the first check that fails decides, for every command."""

import pytest

from shard_worker.domain.commands import Command
from shard_worker.domain.decide import DESTROYED, NOT_FOUND, refuse_reader
from shard_worker.domain.events import ThreadDestroyed
from shard_worker.domain.ids import AccountId
from shard_worker.domain.refusals import RefusalCode
from tests.domain.harness import (
    ANN,
    BOB,
    CID,
    CLAIMED,
    DOT,
    FIRST,
    NOW,
    SECOND,
    accepted,
    add,
    create,
    destroy,
    join_administrators,
    join_members,
    leave_administrators,
    leave_members,
    message,
    message_id,
    refused,
    remove,
    thread,
)


def commands_of(by: AccountId) -> list[Command]:
    """One of each but create, and each against a rule, where it has one: what comes first must win."""
    return [
        destroy(by),
        join_administrators(by, DOT),
        leave_administrators(by, ANN, CID),
        join_members(by, DOT),
        leave_members(by, ANN, BOB),
        add(by, message(FIRST, "another text"), message(message_id("new"), reply=message_id("nowhere"))),
        remove(by, FIRST, SECOND),
    ]


def named(command: Command) -> str:
    """A test's name."""
    return type(command).__name__


@pytest.mark.parametrize("command", commands_of(ANN), ids=named)
def test_a_thread_that_was_never_created_is_not_found(command: Command) -> None:
    """Exists comes first."""
    assert refused(None, command) is RefusalCode.THREAD_NOT_FOUND


@pytest.mark.parametrize("command", commands_of(DOT), ids=named)
@pytest.mark.parametrize("destroyed", [False, True], ids=["alive", "destroyed"])
def test_a_stranger_cannot_tell_a_thread_from_none(command: Command, destroyed: bool) -> None:
    """Readable comes before destroyed: a stranger never learns that there was a thread."""
    assert refused(thread(destroyed=destroyed), command) is RefusalCode.THREAD_NOT_FOUND


@pytest.mark.parametrize("command", [*commands_of(ANN), *commands_of(BOB)], ids=named)
def test_a_destroyed_thread_is_gone_for_its_readers(command: Command) -> None:
    """Destroyed comes before right and rule."""
    assert refused(thread(destroyed=True), command) is RefusalCode.THREAD_DESTROYED


@pytest.mark.parametrize("command", commands_of(BOB)[:5], ids=named)
def test_a_member_has_no_administrators_right(command: Command) -> None:
    """Right comes before rule."""
    assert refused(thread(), command) is RefusalCode.NOT_ADMINISTRATOR


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (leave_administrators(ANN, ANN, CID), RefusalCode.LAST_ADMINISTRATOR),
        (add(ANN, message(FIRST, "another text")), RefusalCode.MESSAGE_ID_TAKEN),
        (add(BOB, message(message_id("new"), reply=message_id("nowhere"))), RefusalCode.REPLY_NOT_LIVE),
        (remove(BOB, FIRST, SECOND), RefusalCode.NOT_SENDER),
    ],
    ids=["last-administrator", "taken", "reply", "not-sender"],
)
def test_the_rule_decides_last(command: Command, code: RefusalCode) -> None:
    """A caller with the right to ask gets the rule's refusal."""
    assert refused(thread(), command) is code


def test_a_member_who_lacks_a_right_hears_nothing_of_an_empty_change() -> None:
    """Right comes before the question whether anything would change."""
    for command in (join_administrators(BOB), leave_administrators(BOB), join_members(BOB), leave_members(BOB)):
        assert refused(thread(), command) is RefusalCode.NOT_ADMINISTRATOR


@pytest.mark.parametrize("by", [ANN, CID], ids=["administrator", "both"])
def test_an_administrator_destroys_the_thread(by: AccountId) -> None:
    """Whether or not he is a member."""
    assert accepted(ThreadDestroyed, thread(), destroy(by)) == ThreadDestroyed(
        destroyer_id=by, at=NOW, create_at=CLAIMED
    )


def test_having_created_a_thread_gives_no_right() -> None:
    """A creator who is neither administrator nor member does not even find it."""
    state = thread()
    assert state.creator_id == ANN
    del state.administrators[ANN]
    assert refused(state, destroy(ANN)) is RefusalCode.THREAD_NOT_FOUND


def test_readers_are_members_and_administrators() -> None:
    """Reads are refused by the same rule as commands."""
    assert [refuse_reader(thread(), who) for who in (ANN, BOB, CID, DOT)] == [None, None, None, NOT_FOUND]
    gone = thread(destroyed=True)
    assert [refuse_reader(gone, who) for who in (ANN, BOB, CID, DOT)] == [DESTROYED, DESTROYED, DESTROYED, NOT_FOUND]
    assert refuse_reader(None, ANN) == NOT_FOUND


def test_create_alone_tells_that_an_id_is_taken() -> None:
    """To anyone, and that it was destroyed."""
    assert refused(thread(), create(by=DOT)) is RefusalCode.ALREADY_EXISTS
    assert refused(thread(destroyed=True), create(by=DOT)) is RefusalCode.THREAD_DESTROYED
    assert refused(thread(destroyed=True), create()) is RefusalCode.THREAD_DESTROYED
