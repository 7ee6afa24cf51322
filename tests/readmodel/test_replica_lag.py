"""The lag of a replica, from samples of the primary's position."""

from hypothesis import given
from hypothesis import strategies as st

from shard_worker.readmodel.replica_lag import LAG_MOST_S, LagTracker


def test_the_lag_is_the_age_of_the_newest_sample_that_was_replayed() -> None:
    """And not known before one was."""
    lag = LagTracker()
    assert lag.lag_s(10.0, 100) == float("inf")
    lag.sample(10.0, 100)
    lag.sample(11.0, 200)
    assert lag.lag_s(12.0, 99) == float("inf")
    assert lag.lag_s(12.0, 100) == 2.0
    assert lag.lag_s(12.0, 199) == 2.0
    assert lag.lag_s(12.0, 200) == 1.0


def test_a_replica_of_an_idle_primary_is_not_behind() -> None:
    """However long nothing is written."""
    lag = LagTracker()
    for at in range(100):
        lag.sample(float(at), 100)
    assert lag.lag_s(99.5, 100) == 0.5


def test_positions_of_an_older_history_are_forgotten() -> None:
    """A new primary may be behind the one that it replaced."""
    lag = LagTracker()
    lag.sample(1.0, 500)
    lag.sample(2.0, 300)
    assert lag.lag_s(2.5, 400) == 0.5
    assert lag.lag_s(2.5, 299) == float("inf")


@given(
    steps=st.lists(st.tuples(st.floats(0.1, 3.0), st.integers(0, 50)), min_size=1, max_size=30),
    replayed=st.integers(0, 400),
    later_s=st.floats(0.0, 4.0),
)
def test_a_lag_that_counts_is_that_of_all_samples(
    steps: list[tuple[float, int]], replayed: int, later_s: float
) -> None:
    """A sample that is forgotten would give a lag beyond the bound."""
    lag, at, lsn = LagTracker(), 0.0, 0
    samples: list[tuple[float, int]] = []
    for pause_s, bytes_written in steps:
        at, lsn = at + pause_s, lsn + bytes_written
        lag.sample(at, lsn)
        samples.append((at, lsn))
    now = at + later_s
    newest = max((at for at, lsn in samples if lsn <= replayed), default=float("-inf"))
    expected = now - newest
    if expected <= LAG_MOST_S:
        assert lag.lag_s(now, replayed) == expected
    else:
        assert lag.lag_s(now, replayed) > LAG_MOST_S
