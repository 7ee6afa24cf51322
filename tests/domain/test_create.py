"""Creating a thread: what is stored, what is refused, and what a second creation of one id is."""

import pytest

from shard_worker.domain.commands import CreateThread
from shard_worker.domain.decide import Unchanged, message_ids_of
from shard_worker.domain.events import ThreadCreated
from shard_worker.domain.limits import Limits
from shard_worker.domain.refusals import RefusalCode
from tests.domain.harness import (
    ANN,
    BOB,
    CID,
    CLAIMED,
    DOT,
    LIMITS,
    NOW,
    PARENT,
    THREAD,
    accepted,
    ask,
    create,
    play,
    refused,
    thread,
)


def test_a_creation_stores_what_was_asked() -> None:
    """With the server's time beside the caller's."""
    event = accepted(ThreadCreated, None, create(parent=PARENT))
    assert event == ThreadCreated(
        creator_id=ANN,
        title="title",
        remarks="remarks",
        parent_thread_id=PARENT,
        administrator_ids=(ANN, CID),
        member_ids=(BOB, CID),
        at=NOW,
        create_at=CLAIMED,
    )
    assert message_ids_of(event) == ()


def test_lists_are_sets_in_the_order_given() -> None:
    """The first of each account stays."""
    event = accepted(ThreadCreated, None, create(administrators=(CID, ANN, CID, ANN), members=(BOB, BOB, ANN)))
    assert (event.administrator_ids, event.member_ids) == ((CID, ANN), (BOB, ANN))


def test_a_thread_needs_no_members() -> None:
    """Its administrators can read it."""
    state = play(None, create(administrators=(DOT,), members=()))
    assert list(state.members) == []
    assert state.readable_by(DOT)
    assert not state.readable_by(ANN)


@pytest.mark.parametrize(
    "command",
    [create(parent=PARENT, parent_readable=False), create(parent=THREAD)],
    ids=["unreadable", "itself"],
)
def test_a_parent_must_be_readable_and_another_thread(command: CreateThread) -> None:
    """Unknown, unreadable, destroyed or the thread itself: one refusal for all."""
    assert refused(None, command) is RefusalCode.PARENT_NOT_READABLE


def test_limits_hold_at_creation() -> None:
    """Exactly the limit is allowed, and what is listed twice counts once."""
    two = Limits(administrators=2, members=2)
    accepted(ThreadCreated, None, create(administrators=(ANN, CID, ANN), members=(BOB, CID, BOB)), limits=two)
    assert refused(None, create(administrators=(ANN, BOB, CID)), limits=two) is RefusalCode.ADMINISTRATOR_LIMIT
    assert refused(None, create(members=(ANN, BOB, CID)), limits=two) is RefusalCode.MEMBER_LIMIT


@pytest.mark.parametrize(
    "again",
    [
        create(),
        create(create_at=CLAIMED + 1),
        create(administrators=(CID, ANN), members=(CID, BOB)),
        create(administrators=(ANN, ANN, CID), members=(BOB, CID, BOB)),
        create(parent_readable=False),
    ],
    ids=["the-same", "claimed-at-another-time", "another-order", "repeated-ids", "parent-gone-since"],
)
def test_an_equal_creation_gets_the_first_answer(again: CreateThread) -> None:
    """In every later state of the thread but its destruction."""
    assert ask(thread(), again) == Unchanged(1, replayed=True)


def test_an_equal_creation_is_recognised_under_lower_limits() -> None:
    """A limit that was lowered refuses growth only."""
    assert ask(thread(), create(), limits=Limits(administrators=1, members=1)) == Unchanged(1, replayed=True)


@pytest.mark.parametrize(
    "other",
    [
        create(by=CID),
        create(title="titl"),
        create(remarks=None),
        create(remarks=""),
        create(parent=PARENT),
        create(administrators=(ANN,)),
        create(administrators=(ANN, CID, DOT)),
        create(members=(BOB,)),
        create(members=(), administrators=(ANN, CID, BOB)),
    ],
    ids=["creator", "title", "no-remarks", "empty-remarks", "parent", "fewer", "more", "members", "moved-over"],
)
def test_a_different_creation_is_refused(other: CreateThread) -> None:
    """Everything but the claimed time makes the difference."""
    assert refused(thread(), other) is RefusalCode.ALREADY_EXISTS


def test_no_remarks_and_empty_remarks_are_two_things() -> None:
    """Empty stays empty."""
    assert play(None, create(remarks="")).remarks == ""
    assert play(None, create(remarks=None)).remarks is None
    assert refused(play(None, create(remarks=None)), create(remarks="")) is RefusalCode.ALREADY_EXISTS


def test_the_limits_of_the_contract() -> None:
    """5,000 live messages, 100 administrators, 10,000 members."""
    assert Limits(messages=5_000, administrators=100, members=10_000) == LIMITS
