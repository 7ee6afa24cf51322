"""Administrators and members: who joins, who leaves, and who stays."""

import pytest

from shard_worker.domain.commands import Command
from shard_worker.domain.decide import Unchanged, message_ids_of
from shard_worker.domain.events import AdministratorIdsJoined, AdministratorIdsLeft, MemberIdsJoined, MemberIdsLeft
from shard_worker.domain.ids import AccountId
from shard_worker.domain.limits import Limits
from shard_worker.domain.refusals import RefusalCode
from tests.domain.harness import (
    ANN,
    BOB,
    CID,
    CLAIMED,
    DOT,
    NOW,
    accepted,
    account,
    ask,
    join_administrators,
    join_members,
    leave_administrators,
    leave_members,
    play,
    refused,
    thread,
)

EVE = account("eve")


def test_only_new_administrators_join() -> None:
    """Each once, in the order given."""
    event = accepted(AdministratorIdsJoined, thread(), join_administrators(ANN, EVE, CID, DOT, EVE))
    assert event == AdministratorIdsJoined(adder_id=ANN, administrator_ids=(EVE, DOT), at=NOW, create_at=CLAIMED)
    assert message_ids_of(event) == ()


def test_only_new_members_join() -> None:
    """An administrator may be a member too."""
    event = accepted(MemberIdsJoined, thread(), join_members(CID, ANN, BOB, DOT, ANN))
    assert event == MemberIdsJoined(adder_id=CID, member_ids=(ANN, DOT), at=NOW, create_at=CLAIMED)


def test_only_present_administrators_leave() -> None:
    """Others are ignored."""
    event = accepted(AdministratorIdsLeft, thread(), leave_administrators(ANN, DOT, CID, BOB, CID))
    assert event == AdministratorIdsLeft(remover_id=ANN, administrator_ids=(CID,), at=NOW, create_at=CLAIMED)


def test_only_present_members_leave() -> None:
    """Others are ignored."""
    event = accepted(MemberIdsLeft, thread(), leave_members(ANN, DOT, CID, BOB, CID))
    assert event == MemberIdsLeft(remover_id=ANN, member_ids=(CID, BOB), at=NOW, create_at=CLAIMED)


@pytest.mark.parametrize(
    "command",
    [
        join_administrators(ANN, ANN, CID),
        join_administrators(ANN),
        leave_administrators(ANN, BOB, DOT),
        leave_administrators(ANN),
        join_members(ANN, BOB, CID, BOB),
        join_members(ANN),
        leave_members(ANN, ANN, DOT),
        leave_members(ANN),
    ],
    ids=[
        "administrators-again",
        "no-administrators",
        "no-such-administrators",
        "nobody-leaves",
        "members-again",
        "no-members",
        "no-such-members",
        "no-member-leaves",
    ],
)
def test_what_changes_nothing_stores_nothing(command: Command) -> None:
    """And is a success at the present sequence number."""
    assert ask(thread(), command) == Unchanged(3)


def test_what_changes_nothing_is_no_growth() -> None:
    """Also when a limit was lowered below what there is."""
    full = Limits(administrators=1, members=1)
    assert ask(thread(), join_administrators(ANN, CID), limits=full) == Unchanged(3)
    assert ask(thread(), join_members(ANN, BOB), limits=full) == Unchanged(3)


def test_limits_hold_at_a_join() -> None:
    """Exactly the limit is allowed; only who is new counts."""
    three = Limits(administrators=3, members=3)
    accepted(AdministratorIdsJoined, thread(), join_administrators(ANN, CID, DOT, DOT), limits=three)
    accepted(MemberIdsJoined, thread(), join_members(ANN, BOB, DOT, DOT), limits=three)
    assert refused(thread(), join_administrators(ANN, DOT, EVE), limits=three) is RefusalCode.ADMINISTRATOR_LIMIT
    assert refused(thread(), join_members(ANN, DOT, EVE), limits=three) is RefusalCode.MEMBER_LIMIT


def test_people_leave_also_above_a_limit() -> None:
    """Leaving is never growth."""
    one = Limits(administrators=1, members=1)
    accepted(AdministratorIdsLeft, thread(), leave_administrators(ANN, CID), limits=one)
    accepted(MemberIdsLeft, thread(), leave_members(ANN, BOB), limits=one)


def test_a_member_removes_exactly_himself() -> None:
    """A repeated own id is one id; with any other id the leave needs an administrator."""
    for own in ((BOB,), (BOB, BOB)):
        event = accepted(MemberIdsLeft, thread(), leave_members(BOB, *own))
        assert (event.remover_id, event.member_ids) == (BOB, (BOB,))
    others: list[tuple[AccountId, ...]] = [(CID,), (BOB, CID), (BOB, DOT), ()]
    for ids in others:
        assert refused(thread(), leave_members(BOB, *ids)) is RefusalCode.NOT_ADMINISTRATOR


def test_a_member_who_left_finds_the_thread_no_more() -> None:
    """Unless he administers it."""
    state = play(thread(), leave_members(BOB, BOB))
    assert refused(state, leave_members(BOB, BOB)) is RefusalCode.THREAD_NOT_FOUND
    state = play(state, leave_members(CID, CID))
    assert state.readable_by(CID)


def test_an_administrator_who_is_no_member_leaves_nothing() -> None:
    """His right is another list's business."""
    assert ask(thread(), leave_members(ANN, ANN)) == Unchanged(3)


def test_a_member_cannot_give_himself_the_right_or_take_it() -> None:
    """Self-leave is about members only."""
    assert refused(thread(), join_administrators(BOB, BOB)) is RefusalCode.NOT_ADMINISTRATOR
    assert refused(thread(), leave_administrators(BOB, BOB)) is RefusalCode.NOT_ADMINISTRATOR


def test_the_last_administrator_stays() -> None:
    """All at once or one after the other, with strangers in the list or repeated."""
    for ids in ((ANN, CID), (CID, ANN, CID), (ANN, DOT, CID)):
        assert refused(thread(), leave_administrators(ANN, *ids)) is RefusalCode.LAST_ADMINISTRATOR
    alone = play(thread(), leave_administrators(ANN, ANN))
    assert list(alone.administrators) == [CID]
    assert refused(alone, leave_administrators(CID, CID)) is RefusalCode.LAST_ADMINISTRATOR
    assert list(play(alone, join_administrators(CID, DOT), leave_administrators(DOT, CID)).administrators) == [DOT]


def test_who_leaves_and_joins_again_joins_last() -> None:
    """The order of a list is that of joining."""
    state = play(thread(), leave_members(ANN, BOB), join_members(ANN, BOB))
    assert list(state.members) == [CID, BOB]
    state = play(state, leave_administrators(ANN, ANN), join_administrators(CID, ANN))
    assert list(state.administrators) == [CID, ANN]
