"""The pace of the projection: every shard in every look while the worker has time left, a part of them while it has none."""

import pytest

from shard_worker.readmodel.pace import AT_ONCE, LONG_S, LOOK_S, PARTS, Pace, Turn


class _Thread:
    """A clock, and a thread that has work for a part of the time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.ran = 7.0

    def lives(self, busy: float) -> None:
        self.now += 0.05
        self.ran += 0.05 * busy


def turn_at(busy: float, before: float = 0.0) -> Turn:
    """The turn once a thread had so much work for a while."""
    thread = _Thread()
    pace = Pace(lambda: thread.ran, lambda: thread.now)
    for share in [before] * 200 + [busy] * 200:
        thread.lives(share)
        found = pace.next()
    return found


def test_a_shard_waits_longer_the_less_time_is_left() -> None:
    """At half of the commands that a worker can take, when its loop runs three quarters of the time, it does not; what was
    long ago does not count.
    """
    turns = [turn_at(busy / 100) for busy in range(0, 121, 5)]
    assert turns == sorted(turns, key=lambda turn: (turn.every_s, -turn.share))
    assert [turn.look_s for turn in turns] == sorted(turn.look_s for turn in turns)
    assert [turn_at(busy) for busy in (0.0, 0.5, 0.8)] == [AT_ONCE] * 3
    least = LONG_S / PARTS
    assert turn_at(0.92) == turn_at(1.0) == Turn(least, LONG_S - least / 2, 1 / PARTS)
    assert 0.0 < turn_at(0.86).every_s < LONG_S - least
    assert turn_at(0.0, before=1.0) == AT_ONCE


@pytest.mark.parametrize("busy", [0.83, 0.86, 0.9, 1.0])
def test_the_looks_of_one_round_take_all_shards(busy: float) -> None:
    """In as many looks as there are until a shard has its next turn."""
    turn = turn_at(busy)
    assert turn.look_s >= LOOK_S
    assert turn.share * (turn.every_s + turn.look_s / 2) == pytest.approx(turn.look_s)


def test_a_look_without_time_behind_it_changes_nothing() -> None:
    """Two looks at one moment, and an account that went back."""
    thread = _Thread()
    pace = Pace(lambda: thread.ran, lambda: thread.now)
    assert pace.next() == AT_ONCE
    thread.lives(-5.0)
    assert pace.next() == AT_ONCE


def test_slow_looks_are_further_apart_unless_much_is_left() -> None:
    """A backlog is worked off without a pause."""
    assert AT_ONCE.pause_s(LOOK_S / 100, more=False) == LOOK_S
    assert AT_ONCE.pause_s(LOOK_S / 3.2, more=False) == pytest.approx(LOOK_S * 1.25)
    assert AT_ONCE.pause_s(60.0, more=False) == LONG_S / PARTS
    assert AT_ONCE.pause_s(60.0, more=True) == LOOK_S
    assert turn_at(1.0).pause_s(LOOK_S / 100, more=True) == LONG_S / PARTS
