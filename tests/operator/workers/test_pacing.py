"""When which worker is asked next."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadcluster_operator.workers.pacing import (
    BACK_OFF_LAST_S,
    RARELY_AFTER_S,
    RARELY_S,
    Asked,
    Pace,
    at_once,
    pause_s,
    plan_pause_s,
)

READY = Asked(ready=True, unready_for_s=0.0, failures=0)


def test_the_reference_is_asked_often_and_the_others_less() -> None:
    """The more workers, the less often each of them."""
    for pace in Pace:
        often_s = pause_s(READY, pace, reference=True, workers=256)
        assert often_s == pause_s(READY, pace, reference=True, workers=1) == pace.value[0]
        assert pause_s(READY, pace, reference=False, workers=2) == pace.value[1] > often_s
    assert pause_s(READY, Pace.MOVING, reference=False, workers=256) == pytest.approx(5.12)


@pytest.mark.parametrize(
    ("failures", "expected"), [(1, 0.25), (2, 0.5), (3, 1.0), (5, 4.0), (6, BACK_OFF_LAST_S), (10_000, BACK_OFF_LAST_S)]
)
def test_a_silent_worker_is_asked_less_and_less_often(failures: int, expected: float) -> None:
    """However it was asked before; a network that comes back is noticed within the longest pause."""
    for pace in Pace:
        for reference in (True, False):
            asked = READY._replace(failures=failures)
            assert pause_s(asked, pace, reference=reference, workers=256) == expected


@pytest.mark.parametrize(
    ("refusals", "expected"),
    [(0, 0.0), (1, 0.0), (2, 0.25), (3, 0.5), (6, 4.0), (7, BACK_OFF_LAST_S), (10_000, BACK_OFF_LAST_S)],
)
def test_a_plan_that_is_refused_again_waits_longer_each_time(refusals: int, expected: float) -> None:
    """The first refusal says that another writer was faster; more of them say that it does not help to try."""
    assert plan_pause_s(refusals) == expected


def test_a_pod_that_is_long_not_ready_is_asked_rarely() -> None:
    """Whether it answers or not; one that starts or drains is asked as the others."""
    short = Asked(ready=False, unready_for_s=RARELY_AFTER_S - 1, failures=0)
    long = short._replace(unready_for_s=RARELY_AFTER_S)
    assert pause_s(short, Pace.WAITING, reference=False, workers=2) == Pace.WAITING.value[1]
    assert pause_s(long, Pace.MOVING, reference=True, workers=2) == RARELY_S == 15.0
    assert RARELY_AFTER_S == 30.0
    for failures in (1, 5, 20):
        assert pause_s(short._replace(failures=failures), Pace.MOVING, reference=True, workers=2) <= BACK_OFF_LAST_S
        assert pause_s(long._replace(failures=failures), Pace.MOVING, reference=True, workers=2) >= RARELY_S


def test_a_silent_cluster_leaves_the_sockets_to_the_others() -> None:
    """Once a worker answers, many are asked at a time."""
    assert [at_once(answered=False, silent=silent) for silent in (True, False)] == [2, 4]
    assert [at_once(answered=True, silent=silent) for silent in (True, False)] == [2, 32]


@given(
    st.builds(Asked, st.booleans(), st.floats(0, 1e6), st.integers(0, 10_000)),
    st.sampled_from(Pace),
    st.booleans(),
    st.integers(1, 256),
)
def test_a_worker_is_asked_again_in_the_end_and_never_without_a_pause(
    asked: Asked, pace: Pace, reference: bool, workers: int
) -> None:
    """Bounds on the cost and on the age."""
    found = pause_s(asked, pace, reference=reference, workers=workers)
    assert 0.1 <= found <= 300.0
    if asked.ready:
        assert found <= 20.0
