"""The pace of the projection: short while the worker has time left, long while it has none."""

from shard_worker.readmodel.pace import LONG_S, SHORT_S, Pace


class _Thread:
    """A clock, and a thread that has work for a part of the time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.ran = 7.0

    def lives(self, busy: float) -> None:
        self.now += 0.05
        self.ran += 0.05 * busy


def pace_at(busy: float, before: float = 0.0) -> float:
    """The pace once a thread had so much work for a while."""
    thread = _Thread()
    pace = Pace(lambda: thread.ran, lambda: thread.now)
    for share in [before] * 40 + [busy] * 40:
        thread.lives(share)
        found = pace.next_s()
    return found


def test_the_pace_is_longer_the_less_time_is_left() -> None:
    """At half of the commands that a worker can take, when its loop runs three quarters of the time, it is the shortest; what was
    long ago does not count.
    """
    paces = [pace_at(busy / 100) for busy in range(0, 121, 5)]
    assert paces == sorted(paces)
    assert [pace_at(busy) for busy in (0.0, 0.5, 0.8)] == [SHORT_S] * 3
    assert pace_at(0.92) == pace_at(1.0) == LONG_S
    assert SHORT_S < pace_at(0.86) < LONG_S
    assert pace_at(0.0, before=1.0) == SHORT_S


def test_a_look_without_time_behind_it_changes_nothing() -> None:
    """Two looks at one moment, and an account that went back."""
    thread = _Thread()
    pace = Pace(lambda: thread.ran, lambda: thread.now)
    assert pace.next_s() == SHORT_S
    thread.lives(-5.0)
    assert pace.next_s() == SHORT_S
