"""Event time: the server's, never falling within a thread; what a caller claims decides nothing."""

import pytest

from shard_worker.domain.commands import Command
from shard_worker.domain.decide import Unchanged
from shard_worker.domain.refusals import Refusal
from tests.domain.harness import (
    ANN,
    BOB,
    CID,
    CREATED_AT,
    DOT,
    FIRST,
    add,
    ask,
    create,
    destroy,
    join_administrators,
    join_members,
    leave_administrators,
    leave_members,
    message,
    message_id,
    play,
    remove,
    thread,
)

EACH: list[Command] = [
    destroy(ANN),
    join_administrators(ANN, DOT),
    leave_administrators(ANN, CID),
    join_members(ANN, DOT),
    leave_members(ANN, BOB),
    add(BOB, message(message_id("new"))),
    remove(BOB, FIRST),
]


@pytest.mark.parametrize("command", EACH, ids=lambda command: type(command).__name__)
@pytest.mark.parametrize("now", [0, CREATED_AT - 1, CREATED_AT, CREATED_AT + 1], ids=["zero", "back", "same", "later"])
def test_time_never_falls_within_a_thread(command: Command, now: int) -> None:
    """Whatever the worker's clock says, as after a move to one that is behind."""
    event = ask(thread(), command, now=now)
    assert not isinstance(event, Refusal | Unchanged)
    assert event.at == max(CREATED_AT, now)


def test_a_thread_remembers_its_first_and_last_time() -> None:
    """Messages keep the time of their event."""
    state = play(None, create(), now=10)
    state = play(state, add(BOB, message(FIRST)), now=30)
    state = play(state, join_members(ANN, DOT), now=20)
    assert (state.created_at, state.updated_at, state.messages[FIRST].created_at) == (10, 30, 30)


@pytest.mark.parametrize("claimed", [0, 2**53 - 1], ids=["long-ago", "far-ahead"])
def test_the_claimed_time_is_kept_and_decides_nothing(claimed: int) -> None:
    """Not the event's time, not its effect."""
    event = ask(None, create(create_at=claimed), now=10)
    assert not isinstance(event, Refusal | Unchanged)
    assert (event.at, event.create_at) == (10, claimed)
    state = play(None, create(create_at=claimed), now=10)
    assert play(state, destroy(ANN, create_at=claimed), now=20).updated_at == 20
