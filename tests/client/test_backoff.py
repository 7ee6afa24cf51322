"""Waits between attempts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadcluster_client.backoff import FIRST_S, MOST_S, retry_after_s, wait_s

CHANCE = st.floats(0, 1)


@given(st.integers(1, 10_000), st.none() | st.floats(0, 1_000), CHANCE)
def test_chance_only_adds_to_the_floor(failures: int, floor_s: float | None, chance: float) -> None:
    """At most one step, which is at most the longest one."""
    least = wait_s(failures, floor_s, 0.0)
    assert least >= max(floor_s or 0.0, FIRST_S)
    assert least <= wait_s(failures, floor_s, chance) <= least + MOST_S


@given(st.integers(1, 10_000), CHANCE)
def test_steps_double_up_to_the_longest(failures: int, chance: float) -> None:
    """Of any number of failures."""
    now, later = wait_s(failures, None, chance), wait_s(failures + 1, None, chance)
    assert later == pytest.approx(min(2 * now, MOST_S * (1 + chance)))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("0", 0.0), ("7", 7.0), ("", None), ("-1", None), ("1.5", None), ("soon", None), ("9" * 40, None)],
)
def test_retry_after_is_seconds(header: str | None, seconds: float | None) -> None:
    """Other forms are no floor."""
    assert retry_after_s(header) == seconds
