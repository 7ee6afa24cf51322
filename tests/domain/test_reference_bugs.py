"""Defects of the reference system that the domain must not have, one test each, by their number in the list of them."""

import pytest

from shard_worker.domain.commands import Command
from shard_worker.domain.decide import Unchanged
from shard_worker.domain.events import MemberIdsLeft, MessagesAdded, MessagesRemoved, ThreadCreated, ThreadDestroyed
from shard_worker.domain.refusals import RefusalCode
from tests.domain.harness import (
    ANN,
    BOB,
    CID,
    DOT,
    FIRST,
    NOW,
    PARENT,
    SECOND,
    accepted,
    add,
    ask,
    create,
    destroy,
    join_members,
    leave_members,
    message,
    message_id,
    play,
    refused,
    remove,
    thread,
)


def test_2_a_member_who_is_removed_loses_access() -> None:
    """There, leaving joined him once more."""
    accepted(MemberIdsLeft, thread(), leave_members(ANN, BOB))
    state = play(thread(), leave_members(ANN, BOB))
    assert list(state.members) == [CID]
    assert not state.readable_by(BOB)
    assert refused(state, add(BOB, message(message_id("x")))) is RefusalCode.THREAD_NOT_FOUND


def test_3_the_parent_is_kept() -> None:
    """There, it was dropped on the way."""
    assert accepted(ThreadCreated, None, create(parent=PARENT)).parent_thread_id == PARENT
    assert play(None, create(parent=PARENT)).parent_thread_id == PARENT


@pytest.mark.parametrize(
    "command",
    [destroy(ANN), join_members(ANN, DOT), add(BOB, message(message_id("x"))), remove(BOB, FIRST)],
    ids=lambda command: type(command).__name__,
)
def test_4_a_refused_command_does_not_brick_its_thread(command: Command) -> None:
    """There, a command for a thread not created or destroyed blocked its id: here each has an answer, and the next."""
    assert refused(None, command) is RefusalCode.THREAD_NOT_FOUND
    state = play(None, create(), add(BOB, message(FIRST)))
    play(state, command)
    gone = thread(destroyed=True)
    for _ in range(2):
        assert refused(gone, command) is RefusalCode.THREAD_DESTROYED


def test_8_a_removal_names_only_live_messages_of_its_own_thread() -> None:
    """There, the ids asked for were stored, and hid messages of other threads."""
    elsewhere = message_id("in another thread")
    assert accepted(MessagesRemoved, thread(), remove(BOB, elsewhere, FIRST)).message_ids == (FIRST,)
    assert ask(thread(), remove(BOB, elsewhere)) == Unchanged(3)


def test_11_reply_link_and_addressees_are_kept() -> None:
    """There, the read side lost both."""
    event = accepted(MessagesAdded, thread(), add(BOB, message(message_id("x"), reply=SECOND, to=(ANN, DOT))))
    assert event.messages[0].reply_message_id == SECOND
    assert event.messages[0].to_account_ids == (ANN, DOT)


def test_12_an_empty_list_of_messages_skips_no_check_and_stores_nothing() -> None:
    """There, it skipped the account's check and wrote an empty event."""
    assert refused(None, add(BOB)) is RefusalCode.THREAD_NOT_FOUND
    assert refused(thread(), add(DOT)) is RefusalCode.THREAD_NOT_FOUND
    assert refused(thread(destroyed=True), add(BOB)) is RefusalCode.THREAD_DESTROYED
    assert ask(thread(), add(BOB)) == Unchanged(3)


def test_13_a_destruction_dated_ahead_takes_effect_at_once() -> None:
    """There, a caller's clock decided when."""
    future = 2**53 - 1
    event = accepted(ThreadDestroyed, thread(), destroy(ANN, create_at=future))
    assert (event.at, event.create_at) == (NOW, future)
    assert refused(play(thread(), destroy(ANN, create_at=future)), add(BOB)) is RefusalCode.THREAD_DESTROYED


def test_13_a_message_dated_back_is_not_older() -> None:
    """There, the past could be written."""
    event = accepted(MessagesAdded, thread(), add(BOB, message(message_id("x")), create_at=0))
    assert (event.at, event.create_at) == (NOW, 0)
