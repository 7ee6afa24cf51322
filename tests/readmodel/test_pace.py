"""The pace of the projection: every shard in every look while there is time left, a part of them at the limit."""

import math

import pytest

from shard_worker.readmodel.pace import AT_ONCE, LONG_S, LOOK_S, PARTS, Left, Pace, Turn

_LEAST_S = LONG_S / PARTS
_AMONG_COMMANDS = AT_ONCE._replace(every_s=LOOK_S * 0.75)
"""Each shard once in a look, however often there are looks because of a backlog."""


class _Worker:
    """A clock, a thread that has work for a part of the time, and what is appended."""

    def __init__(self) -> None:
        self.now = 100.0
        self.ran = 7.0
        self.events = 1_000.0

    def lives(self, busy: float, rate: float = 0.0) -> None:
        self.now += 0.05
        self.ran += 0.05 * busy
        self.events += 0.05 * rate

    def pace(self) -> Pace:
        return Pace(lambda: int(self.events), lambda: self.ran, lambda: self.now)


def turn_at(busy: float, rate: float = 0.0, *, before: tuple[float, float] = (0.0, 0.0)) -> Turn:
    """The turn once a worker had so much work, and appended so much, for a while."""
    worker = _Worker()
    pace = worker.pace()
    for each in [before] * 200 + [(busy, rate)] * 200:
        worker.lives(*each)
        found = pace.next()
    return found


def part_at(busy: float, rate: float = 0.0, *, before: tuple[float, float] = (0.0, 0.0)) -> Turn:
    """The turn but for its bounds on a backlog."""
    return turn_at(busy, rate, before=before)._replace(backlog=math.inf, events=0.0)


_RISING = {
    "by busyness": [part_at(busy / 100) for busy in range(0, 121, 5)],
    "by rate": [part_at(0.3, rate) for rate in range(0, 20_001, 1_000)],
}


@pytest.mark.parametrize("turns", _RISING.values(), ids=_RISING)
def test_a_shard_waits_longer_the_nearer_the_limit_is(turns: list[Turn]) -> None:
    """By the loop's time or by the events, whichever is nearer."""
    assert turns == sorted(turns, key=lambda turn: (turn.every_s, -turn.share))
    assert turns[0] == AT_ONCE
    assert turns[-1] == Turn(_LEAST_S, LONG_S - _LEAST_S / 2, 1 / PARTS)
    assert len(set(turns)) > 2


def test_at_half_of_what_a_worker_can_take_no_shard_waits() -> None:
    """A slow processor's loop runs three quarters of the time then; a fast one appends 10,000 events a second."""
    assert [turn_at(busy) for busy in (0.0, 0.5, 0.8)] == [AT_ONCE] * 3
    assert [part_at(0.5, rate) for rate in (1_000, 9_900)] == [_AMONG_COMMANDS] * 2
    assert part_at(0.92) == part_at(0.5, 13_100) == part_at(1.0, 50_000)
    assert _LEAST_S < turn_at(0.84).every_s < turn_at(0.86).every_s < LONG_S / 3
    assert 0.0 < turn_at(0.5, 11_500).every_s < LONG_S - _LEAST_S
    assert part_at(0.86, 13_100) == part_at(0.92, 11_500)


def test_what_was_long_ago_does_not_count() -> None:
    """The mean is over a fifth of a second."""
    assert turn_at(0.0, before=(1.0, 50_000)) == AT_ONCE
    assert part_at(1.0, 50_000, before=(0.0, 0.0)) == part_at(1.0)


@pytest.mark.parametrize(("busy", "rate"), [(0.83, 0), (0.86, 0), (0.9, 0), (1.0, 0), (0.2, 11_000), (0.2, 14_000)])
def test_the_looks_of_one_round_take_all_shards(busy: float, rate: float) -> None:
    """In as many looks as there are until a shard has its next turn."""
    turn = turn_at(busy, rate)
    assert _LEAST_S <= turn.look_s <= LOOK_S
    assert turn.share * (turn.every_s + turn.look_s / 2) == pytest.approx(turn.look_s)


def test_a_look_without_time_behind_it_changes_nothing() -> None:
    """Two looks at one moment, and an account that went back."""
    worker = _Worker()
    pace = worker.pace()
    worker.events += 1_000_000
    assert pace.next() == AT_ONCE
    worker.lives(-5.0)
    assert pace.next() == AT_ONCE


def test_the_mean_is_over_time_and_not_over_looks() -> None:
    """A burst that some short looks saw counts as long as it took."""
    worker = _Worker()
    pace = worker.pace()
    for _ in range(200):
        worker.lives(0.5, 9_000)
        pace.next()
    for _ in range(20):
        worker.now += 0.0002
        worker.ran += 0.0002
        worker.events += 4
        found = pace.next()
    assert found._replace(backlog=math.inf) == _AMONG_COMMANDS


def test_slow_looks_are_further_apart() -> None:
    """Unless shards wait for their turn, which come at the time of a look."""
    assert AT_ONCE.pause_s(LOOK_S / 100, Left.NOTHING) == LOOK_S
    assert AT_ONCE.pause_s(LOOK_S / 3.2, Left.NOTHING) == pytest.approx(LOOK_S * 1.25)
    assert AT_ONCE.pause_s(60.0, Left.NOTHING) == pytest.approx(LOOK_S * 1.5)
    assert AT_ONCE.pause_s(60.0, Left.EVENTS) == AT_ONCE.pause_s(60.0, Left.BACKLOG) == LOOK_S
    assert turn_at(1.0).pause_s(0.0, Left.NOTHING) == turn_at(1.0).pause_s(60.0, Left.EVENTS) == _LEAST_S


def test_a_backlog_gives_way_to_commands_and_becomes_less_all_the_same() -> None:
    """Without commands it is worked off at once; with them by a hundred events a look, and more than are appended."""
    assert turn_at(1.0).backlog == turn_at(0.0, 10).backlog == math.inf
    assert turn_at(0.5, 200).backlog == turn_at(0.5, 1_300).backlog == 100
    assert turn_at(0.5, 20_000).backlog == 1.5 * 1_000
    assert turn_at(0.1, before=(0.5, 1_000)).backlog == math.inf


@pytest.mark.parametrize("rate", [200, 14_000])
def test_pieces_of_a_backlog_come_often(rate: float) -> None:
    """Nearer to each other than other looks, and further apart the longer they take."""
    turn = turn_at(0.5, rate)
    assert turn.pause_s(0.001, Left.BACKLOG) == turn.pause_s(0.003, Left.BACKLOG) == 0.004
    assert turn.pause_s(0.03, Left.BACKLOG) == pytest.approx(0.033)
    assert turn.pause_s(60.0, Left.BACKLOG) == LONG_S  # what is new waits for the next look too
    assert turn.pause_s(0.001, Left.EVENTS) == turn.look_s


def test_at_the_limit_what_waits_for_its_turn_is_no_backlog() -> None:
    """The events that all shards get between two turns are known, so that a few busy ones are not taken for far behind."""
    assert turn_at(0.5, 14_000).events == pytest.approx(14_000 * LONG_S)
    assert turn_at(0.5, 200).events == 0.0


def test_a_backlog_is_left_out_of_a_look_with_another_batch_and_of_no_two_in_a_row() -> None:
    """Else a rebuild would end at the limit, where every look has a batch."""
    worker = _Worker()
    pace = worker.pace()
    for _ in range(100):
        worker.lives(0.5, 14_000)
        pace.next()
    seen: list[tuple[float, float]] = []
    for _ in range(4):
        worker.lives(0.5, 14_000)
        turn = pace.next()
        rest = pace.after_batch(turn)
        seen.append((rest.backlog, pace.after_batch(rest).backlog))
        assert rest._replace(backlog=turn.backlog) == turn
    wanted = turn.backlog
    assert seen == [(0.0, 0.0), (wanted, wanted)] * 2
    assert pace.after_batch(AT_ONCE) == AT_ONCE
