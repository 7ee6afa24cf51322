"""The pace of a cluster's writes: bounded for every cause, and soon again when the cause is gone."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadcluster_operator.controller.child_writes import (
    FOR_NOW,
    PATIENCE_S,
    PAUSE_MOST_S,
    TRY_OUT_S,
    ChildWrite,
    ChildWrites,
    Place,
    Refusal,
    Step,
)
from threadcluster_operator.kube.answers import Answer
from threadcluster_operator.kube.preconditions import Preconditions

LOOK_S = 0.5
"""How often a cluster is looked at in these tests."""


def service(name: str = "chat", port: int = 80) -> ChildWrite:
    """A write of a Service."""
    return ChildWrite("apply", {"kind": "Service", "metadata": {"name": name}, "spec": {"port": port}}, "uid-1")


def no(answer: Answer = Answer.DENIED, name: str = "chat") -> Refusal:
    """A refusal of it."""
    return Refusal("Service", name, answer, "no")


class Server:
    """An API server that takes a write or does not, and what was asked of it."""

    def __init__(self, answer: Callable[[float], Answer | None], *, dry_runs: Callable[[float], Answer | None]) -> None:
        self.answer, self.dry_run = answer, dry_runs
        self.written: list[float] = []
        self.tried: list[float] = []
        self.taken_at: float | None = None

    def look(self, writes: ChildWrites, write: ChildWrite, now: float) -> None:
        """Act as the reconciler does with a wanted write."""
        step = writes.step(write, now)
        if step is Step.WAIT:
            return
        if step is Step.TRY_OUT:
            self.tried.append(now)
            answer = self.dry_run(now)
            if answer is not None:
                writes.failed(write, no(answer), now)
                return
            if not writes.passed(write, now):
                return
        self.written.append(now)
        answer = self.answer(now)
        if answer is None:
            writes.taken(write, now)
            self.taken_at = now
        else:
            writes.refused(write, no(answer), now)


def most_in(times: list[float], window_s: float) -> int:
    """The most within any window of that length."""
    return max((sum(first <= each < first + window_s for each in times) for first in times), default=0)


answers = st.sampled_from(
    [None, Answer.DENIED, Answer.ADMISSION_DOWN, Answer.NO_DRY_RUN, Answer.INVALID, Answer.CONFLICT]
)


@given(
    real=st.lists(answers, min_size=1, max_size=40), dry=st.lists(answers, min_size=1, max_size=40), lasts=st.booleans()
)
def test_the_same_content_is_hardly_ever_written(
    real: list[Answer | None], dry: list[Answer | None], lasts: bool
) -> None:
    """Whatever the API server answers to writes and dry runs, and also where another writer takes each write back at once:
    after the first minute at most one write in 30 s.
    """
    writes, write = ChildWrites(), service()
    server = Server(lambda now: real[int(now) % len(real)], dry_runs=lambda now: dry[int(now) % len(dry)])
    for second in range(240):
        if lasts and server.taken_at is not None:
            break
        server.look(writes, write, float(second))
    assert most_in([at for at in server.written if at >= 60.0], 30.0) <= 1
    assert most_in(server.tried, TRY_OUT_S) <= 4


@given(
    mended_at=st.floats(0.0, 900.0), answer=st.sampled_from([each for each in Answer if each is not Answer.NO_DRY_RUN])
)
def test_a_mended_cause_is_noticed_in_time(mended_at: float, answer: Answer) -> None:
    """Whenever it is mended: the write is taken by the next dry run; before, a stuck child is written once."""
    writes, write = ChildWrites(), service()

    def now_answers(now: float) -> Answer | None:
        return None if now >= mended_at else answer

    server, now = Server(now_answers, dry_runs=now_answers), 0.0
    while server.taken_at is None:
        server.look(writes, write, now)
        now += LOOK_S
        assert now <= mended_at + TRY_OUT_S + 2 * LOOK_S
    assert len(server.written) == (1 if mended_at <= 0.0 else 2)
    assert writes.refusals(now) == []
    assert writes.due_in_s(now) is None


def test_a_webhook_without_dry_runs_is_asked_by_the_write_itself() -> None:
    """With the long pauses, and its reason stays the one of the write."""
    writes, write = ChildWrites(), service()
    server = Server(lambda now: Answer.DENIED, dry_runs=lambda now: Answer.NO_DRY_RUN)
    for turn in range(400):
        server.look(writes, write, turn * LOOK_S)
    assert len(server.tried) == 1
    assert [round(at) for at in server.written] == [0, 2, 4, 8, 16, 32, 62, 92, 122, 152, 182][: len(server.written)]
    assert writes.refusals(200.0) == [no()]


def test_other_content_is_written_at_once() -> None:
    """An edit may be the remedy; it has a pace of its own."""
    writes = ChildWrites()
    writes.refused(service(), no(), 0.0)
    assert writes.step(service(), 0.1) is Step.WAIT
    assert writes.step(service(port=81), 0.1) is Step.WRITE
    writes.refused(service(port=81), no(Answer.INVALID), 0.1)
    assert writes.refusals(0.1) == [no(Answer.INVALID)]
    assert writes.step(service(), 0.2) is Step.WRITE


def test_a_write_that_was_taken_is_repeated_once_at_once() -> None:
    """Someone deleted the object, or changed it: the first time that is reverted without a pause."""
    writes, write = ChildWrites(), service()
    writes.taken(write, 0.0)
    assert writes.step(write, 0.0) is Step.WRITE
    writes.taken(write, 0.0)
    assert writes.step(write, 0.9) is Step.WAIT
    assert writes.step(write, 1.0) is Step.WRITE
    assert writes.refused_count == 0


def test_the_pause_between_two_writes_follows_from_those_before() -> None:
    """The first is a second; those that are half a minute apart have the longest one."""
    writes, write = ChildWrites(), service()
    writes.refused(write, no(), 100.0)
    assert not writes.passed(write, 100.9)
    assert writes.passed(write, 101.0)
    writes.refused(write, no(), 130.0)
    assert not writes.passed(write, 159.9)
    assert writes.passed(write, 160.0)


def test_a_dry_run_that_passed_too_early_is_repeated_later() -> None:
    """With pauses that double, as after one that was refused."""
    writes, write = ChildWrites(), service()
    writes.refused(write, no(), 0.0)
    writes.refused(write, no(), 1.0)
    assert writes.step(write, 2.0) is Step.TRY_OUT
    assert not writes.passed(write, 2.0)
    assert writes.due_in_s(2.0) == 2.0


def test_a_write_counts_as_repeated_for_a_minute() -> None:
    """Whether it was taken or refused before, and while it is not wanted."""
    for at, again in ((60.0, Step.WAIT), (60.1, Step.WRITE)):
        for forgets in (False, True):
            writes, write = ChildWrites(), service()
            writes.taken(write, 0.0)
            if forgets:
                writes.keep(set(), at)
            writes.taken(write, at)
            assert writes.step(write, at + 0.9) is again
        writes = ChildWrites()
        writes.taken(write, 0.0)
        writes.taken(write, 0.0)
        writes.refused(write, no(), at)
        assert writes.passed(write, at + 1.0) is (again is Step.WRITE)
    writes.taken(write, 150.0)
    writes.keep(set(), 160.0)
    writes.taken(write, 160.0)
    assert writes.step(write, 160.5) is Step.WAIT


def test_the_next_step_is_due_when_the_first_is() -> None:
    """And at once when that is over."""
    writes = ChildWrites()
    writes.refused(service(), no(), 0.0)
    writes.refused(service("other"), no(name="other"), 0.5)
    assert writes.due_in_s(0.5) == 0.5
    assert writes.due_in_s(100.0) == 0.0


@pytest.mark.parametrize("now", [0.0, 1_000.0])
def test_a_writer_that_reverts_again_and_again_is_named(now: float) -> None:
    """Until the write has lasted for a minute; a Job that is tried again is none."""
    writes, write = ChildWrites(), service()
    job = ChildWrite("create", {"kind": "Job", "metadata": {"name": "migrate"}})
    for _ in range(5):
        assert writes.often_reverted(now) == []
        while writes.step(write, now) is Step.WAIT:
            now += LOOK_S
        writes.taken(write, now)
        writes.taken(job, now)
    assert writes.often_reverted(now) == [Place("Service", "chat", "object")]
    assert writes.often_reverted(now + 60.0) == []
    writes.taken(write, now + 61.0)
    assert writes.often_reverted(now + 61.0) == []


@pytest.mark.parametrize("answer", [each for each in Answer if each is not Answer.AWAY])
def test_an_answer_for_now_is_reported_when_it_lasts(answer: Answer) -> None:
    """A webhook that restarts is no reason for an alarm, a field that is wrong is."""
    writes, write = ChildWrites(), service()
    writes.refused(write, no(answer), 10.0)
    assert (writes.refusals(10.0) == []) is (answer in FOR_NOW)
    writes.failed(write, no(answer), 10.0 + PATIENCE_S)
    assert writes.refusals(10.0 + PATIENCE_S) == [no(answer)]


def test_a_refusal_after_a_success_is_patient_again() -> None:
    """It is another one than that of before."""
    writes, write = ChildWrites(), service()
    writes.taken(write, 0.0)
    writes.refused(write, no(Answer.FAILING), 50.0)
    assert writes.refusals(50.0) == []
    writes.taken(write, 60.0)
    writes.refused(write, no(Answer.FAILING), 200.0)  # the success has lasted: the pauses are those of a first refusal
    assert writes.due_in_s(200.0) == 1.0


def test_what_is_wanted_no_more_is_no_longer_refused() -> None:
    """And what has lasted is forgotten; what is still wanted stays."""
    writes = ChildWrites()
    writes.refused(service(), no(), 0.0)
    writes.refused(service("other"), no(name="other"), 0.0)
    writes.taken(service("third"), 0.0)
    assert writes.refused_count == 2
    writes.keep({service().place}, 1.0)
    assert writes.refusals(1.0) == [no()]
    assert writes.step(service("third"), 0.0) is Step.WRITE
    writes.keep(set(), 100.0)
    assert writes.refusals(100.0) == []
    assert writes.due_in_s(100.0) is None


def test_a_dry_run_before_anything_is_written() -> None:
    """It is repeated with pauses while it is refused, and leaves nothing when it passes."""
    writes, write = ChildWrites(), service()
    writes.failed(write, no(), 0.0)
    assert writes.refusals(0.0) == [no()]
    assert writes.due_in_s(0.0) == 2.0
    assert writes.step(write, 1.9) is Step.WAIT
    assert writes.step(write, 2.0) is Step.TRY_OUT
    writes.failed(service(port=81), no(), 2.0)
    assert writes.due_in_s(2.0) == 2.0
    writes.accepted(write)
    assert writes.due_in_s(2.0) is None
    writes.accepted(write)


def test_the_first_write_follows_a_dry_run_at_once() -> None:
    """The dry runs that were refused before it count for no pause between writes."""
    writes, write = ChildWrites(), service()
    writes.failed(write, no(), 0.0)
    assert writes.passed(write, 0.5)


@pytest.mark.parametrize(
    ("write", "part"),
    [
        (ChildWrite("create", {"kind": "Service", "metadata": {"name": "a"}}), "object"),
        (ChildWrite("apply", {"kind": "Service", "metadata": {"name": "a"}}, "1"), "object"),
        (ChildWrite("scale", {"kind": "Service", "metadata": {"name": "a"}}, "1"), "scale"),
        (ChildWrite("delete", {"kind": "Service", "metadata": {"name": "a"}}, "1"), "deletion"),
    ],
)
def test_a_write_is_about_a_place(write: ChildWrite, part: Any) -> None:
    """To make an object and to change it are one; its number of workers and its end are others."""
    assert write.place == Place("Service", "a", part)


def test_a_deletion_is_the_same_whatever_the_object_has_become() -> None:
    """As long as it is the same object."""
    first = ChildWrite("delete", {"kind": "Job", "metadata": {"name": "a"}}, "1")
    later = ChildWrite("delete", {"kind": "Job", "metadata": {"name": "a", "resourceVersion": "2"}}, "1")
    assert first.content == later.content
    assert first.content != later._replace(uid="2").content


def test_pauses_are_bounded_after_any_number_of_refusals() -> None:
    """No overflow."""
    writes, write = ChildWrites(), service()
    for number in range(5_000):
        writes.refused(write, no(), float(number))
        writes.failed(write, no(), float(number))
    due = writes.due_in_s(4_999.0)
    assert due == TRY_OUT_S == 5.0
    assert (PAUSE_MOST_S, PATIENCE_S) == (30.0, 5.0)


def test_the_state_that_was_judged_is_no_part_of_the_content() -> None:
    """A child's status changes all the time: that is no reason to write at once what was refused."""
    body = {"kind": "StatefulSet", "metadata": {"name": "chat"}}
    first, later = ChildWrite("apply", body, "uid-1", "7"), ChildWrite("apply", body, "uid-1", "8")
    assert first.judged == Preconditions("uid-1", "7")
    assert later.judged == Preconditions("uid-1", "8")
    assert first.content == later.content
    assert first.content != ChildWrite("apply", body, "uid-2", "7").content
