"""Posting and removing messages."""

import pytest

from shard_worker.domain.commands import AddMessages
from shard_worker.domain.decide import Unchanged, message_ids_of
from shard_worker.domain.events import MessagesAdded, MessagesRemoved, PostedMessage
from shard_worker.domain.ids import AccountId
from shard_worker.domain.limits import Limits
from shard_worker.domain.refusals import RefusalCode
from shard_worker.domain.thread import REMOVED_IDS_KEPT, Thread
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
    ask,
    create,
    join_members,
    leave_members,
    message,
    message_id,
    play,
    refused,
    remove,
    thread,
)

X, Y, Z = message_id("x"), message_id("y"), message_id("z")


@pytest.mark.parametrize("by", [ANN, BOB, CID], ids=["administrator", "member", "both"])
def test_every_reader_posts(by: AccountId) -> None:
    """In the order given, with all their fields."""
    event = accepted(MessagesAdded, thread(), add(by, message(X, "one", reply=FIRST, to=(DOT, BOB)), message(Y, "")))
    assert event == MessagesAdded(
        sender_id=by,
        messages=(PostedMessage(X, "one", FIRST, (DOT, BOB)), PostedMessage(Y, "", None, ())),
        at=NOW,
        create_at=CLAIMED,
    )
    assert message_ids_of(event) == (X, Y)


def test_a_reply_is_to_a_live_message_or_an_earlier_one_of_the_command() -> None:
    """Not to a later one, not to itself, not to a removed one."""
    accepted(MessagesAdded, thread(), add(BOB, message(X), message(Y, reply=X), message(Z, reply=Y)))
    gone = play(thread(), remove(BOB, FIRST))
    for state, command in [
        (thread(), add(BOB, message(X, reply=Y), message(Y))),
        (thread(), add(BOB, message(X, reply=X))),
        (gone, add(BOB, message(X, reply=FIRST))),
    ]:
        assert refused(state, command) is RefusalCode.REPLY_NOT_LIVE


def test_a_reply_outlives_what_it_replied_to() -> None:
    """The link stays when its message is removed."""
    state = play(thread(), remove(BOB, FIRST))
    assert state.messages[SECOND].reply_message_id == FIRST


def test_posting_again_gets_the_first_answer() -> None:
    """Equal content under known ids: the sequence number at which they were posted, and no event."""
    one, two = message(X, "x", reply=FIRST, to=(CID,)), message(Y)
    state = play(thread(), add(BOB, one), add(BOB, two), add(CID, message(Z)))
    assert ask(state, add(BOB, one, create_at=5)) == Unchanged(4, (X,), replayed=True)
    assert ask(state, add(BOB, two)) == Unchanged(5, (Y,), replayed=True)
    assert ask(state, add(BOB, one), limits=Limits(messages=1)) == Unchanged(4, (X,), replayed=True)


def test_posting_again_is_recognised_though_the_replied_message_is_gone() -> None:
    """An accepted message stays accepted."""
    state = play(thread(), remove(BOB, FIRST))
    assert ask(state, add(ANN, message(SECOND, reply=FIRST))) == Unchanged(3, (SECOND,), replayed=True)


def test_a_retry_is_the_whole_list_of_the_first_command() -> None:
    """A part of it, its messages in another order, or those of two commands are no retry: the ids are taken."""
    one, two, three = message(X), message(Y), message(Z)
    state = play(thread(), add(BOB, one, two), add(BOB, three))
    assert ask(state, add(BOB, one, two)) == Unchanged(4, (X, Y), replayed=True)
    for others in ((one,), (two,), (two, one), (one, three), (one, two, three)):
        assert refused(state, add(BOB, *others)) is RefusalCode.MESSAGE_ID_TAKEN


@pytest.mark.parametrize(
    "other",
    [
        add(CID, message(X, "x", reply=FIRST, to=(ANN, CID))),
        add(BOB, message(X, "y", reply=FIRST, to=(ANN, CID))),
        add(BOB, message(X, "x", reply=SECOND, to=(ANN, CID))),
        add(BOB, message(X, "x", to=(ANN, CID))),
        add(BOB, message(X, "x", reply=FIRST)),
        add(BOB, message(X, "x", reply=FIRST, to=(CID, ANN))),
        add(BOB, message(X, "x", reply=FIRST, to=(ANN, CID)), message(Y)),
        add(BOB, message(Y), message(X, "x", reply=FIRST, to=(ANN, CID))),
    ],
    ids=["sender", "text", "reply", "no-reply", "no-addressee", "order", "known-then-new", "new-then-known"],
)
def test_a_known_id_with_anything_else_is_taken(other: AddMessages) -> None:
    """And nothing of the command is stored."""
    state = play(thread(), add(BOB, message(X, "x", reply=FIRST, to=(ANN, CID))))
    assert refused(state, other) is RefusalCode.MESSAGE_ID_TAKEN


def test_an_id_twice_in_one_command_is_taken() -> None:
    """The gateway refuses it as malformed; the domain never stores it."""
    assert refused(thread(), add(BOB, message(X), message(X))) is RefusalCode.MESSAGE_ID_TAKEN


def test_live_messages_are_limited() -> None:
    """Exactly the limit is allowed, and a removal allows another message."""
    three = Limits(messages=3)
    accepted(MessagesAdded, thread(), add(BOB, message(X)), limits=three)
    assert refused(thread(), add(BOB, message(X), message(Y)), limits=three) is RefusalCode.MESSAGE_LIMIT
    accepted(MessagesAdded, play(thread(), remove(BOB, FIRST)), add(BOB, message(X), message(Y)), limits=three)


def test_removing_takes_the_callers_live_messages() -> None:
    """Ids that are not live here are ignored; each id once, in the order given."""
    state = play(thread(), add(BOB, message(X), message(Y)))
    event = accepted(MessagesRemoved, state, remove(BOB, Y, Z, FIRST, Y))
    assert event == MessagesRemoved(remover_id=BOB, message_ids=(Y, FIRST), at=NOW, create_at=CLAIMED)
    assert message_ids_of(event) == (Y, FIRST)


def test_removing_what_is_not_live_changes_nothing() -> None:
    """Twice removed, never there, or nothing asked."""
    state = play(thread(), remove(BOB, FIRST))
    for ids in ((FIRST,), (Z,), ()):
        assert ask(state, remove(BOB, *ids)) == Unchanged(4)


@pytest.mark.parametrize("by", [ANN, CID], ids=["administrator", "both"])
def test_one_message_of_another_refuses_the_whole_removal(by: AccountId) -> None:
    """An administrator has no more right here than anyone."""
    state = play(thread(), add(by, message(X)))
    assert refused(state, remove(by, X, FIRST)) is RefusalCode.NOT_SENDER


def test_messages_stay_the_senders_when_he_leaves_and_comes_back() -> None:
    """A sender is an account, whatever he is at the moment."""
    state = play(thread(), leave_members(BOB, BOB))
    assert refused(state, remove(BOB, FIRST)) is RefusalCode.THREAD_NOT_FOUND
    assert refused(state, remove(ANN, FIRST)) is RefusalCode.NOT_SENDER
    accepted(MessagesRemoved, play(state, join_members(ANN, BOB)), remove(BOB, FIRST))


def removed_all(count: int) -> Thread:
    """A thread in which ``count`` messages were posted and removed, in this order."""
    state = play(None, create())
    ids = [message_id(number) for number in range(count)]
    for start in range(0, count, 100):
        chunk = ids[start : start + 100]
        state = play(state, add(BOB, *map(message, chunk)), remove(BOB, *chunk))
    return state


def test_the_last_thousand_removed_ids_stay_taken() -> None:
    """With equal content too; the one before them is free again."""
    state = removed_all(REMOVED_IDS_KEPT + 1)
    assert REMOVED_IDS_KEPT == 1_000
    assert len(state.removed) == REMOVED_IDS_KEPT
    for number in (1, 2, 500, REMOVED_IDS_KEPT):
        assert refused(state, add(BOB, message(message_id(number)))) is RefusalCode.MESSAGE_ID_TAKEN
    again = play(state, add(BOB, message(message_id(0))))
    assert message_id(0) in again.messages
    assert list(play(again, remove(BOB, message_id(0))).removed)[-1] == message_id(0)


def test_no_message_is_no_event() -> None:
    """The gateway asks for one at least; the domain stores nothing for none."""
    assert ask(thread(), add(BOB)) == Unchanged(3)
