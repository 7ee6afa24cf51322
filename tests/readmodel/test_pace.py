"""The pace of the projection: short while the worker has time left, long while it has none."""

import os
import threading
import time
from pathlib import Path

import pytest

from shard_worker.readmodel.pace import LONG_S, SHORT_S, Pace, ThreadDemand


class _Thread:
    """A clock, and a thread that has work for a part of the time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.had = 7.0

    def lives(self, busy: float) -> None:
        self.now += 0.05
        self.had += 0.05 * busy


def pace_at(busy: float, before: float = 0.0) -> float:
    """The pace once a thread has had so much work for a while."""
    thread = _Thread()
    pace = Pace(lambda: thread.had, lambda: thread.now)
    for share in [before] * 40 + [busy] * 40:
        thread.lives(share)
        found = pace.next_s()
    return found


def test_the_pace_is_longer_the_less_time_is_left() -> None:
    """At half of what a worker can do it is the shortest; what was long ago does not count."""
    paces = [pace_at(busy / 100) for busy in range(0, 121, 5)]
    assert paces == sorted(paces)
    assert [pace_at(busy) for busy in (0.0, 0.3, 0.5)] == [SHORT_S] * 3
    assert pace_at(0.8) == pace_at(1.0) == LONG_S
    assert SHORT_S < pace_at(0.68) < LONG_S
    assert pace_at(0.0, before=1.0) == SHORT_S


def test_a_look_without_time_behind_it_changes_nothing() -> None:
    """Two looks at one moment, and an account that went back."""
    thread = _Thread()
    pace = Pace(lambda: thread.had, lambda: thread.now)
    assert pace.next_s() == SHORT_S
    thread.lives(-5.0)
    assert pace.next_s() == SHORT_S


def test_a_thread_that_waits_for_a_core_has_work() -> None:
    """Two that compete for one core each had all of the time, and each ran for a part of it."""
    core, found = min(os.sched_getaffinity(0)), []

    def compete() -> None:
        os.sched_setaffinity(0, {core})  # of this thread
        demand = ThreadDemand()
        began, ran, had = time.perf_counter(), time.thread_time(), demand()
        while time.perf_counter() - began < 0.3:
            pass
        took = time.perf_counter() - began
        found.append(((time.thread_time() - ran) / took, (demand() - had) / took))
        demand.close()

    threads = [threading.Thread(target=compete) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ran, had in found:
        assert ran < 0.8
        assert had > ran + 0.1


@pytest.mark.parametrize("account", [None, "", "1 2", "a b c"])
def test_without_the_kernels_account_only_what_ran_counts(tmp_path: Path, account: str | None) -> None:
    """No such file, or another form of it."""
    file = tmp_path / "schedstat"
    if account is not None:
        file.write_text(account)
    demand = ThreadDemand(str(file))
    before, found, after = time.thread_time(), demand(), time.thread_time()
    assert before <= found <= after
    demand.close()
    demand.close()
