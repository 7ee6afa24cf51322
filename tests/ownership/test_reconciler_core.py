"""The order of the reconciler core's steps, and its waits, on answers that a test gives.

The simulation shows that the protocol keeps its invariants; these tests say which request comes when.
"""

from collections.abc import Callable, Generator, Iterable
from typing import Any

import pytest

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.failure_detector import LOCK_GONE_S, TTL_S, Fenced, Suspect
from shard_worker.ownership.handoff import AGAIN_S, Handoff, HandoffPhase, Transfer
from shard_worker.ownership.reconciler_core import (
    RECONNECT_S,
    SILENCE_S,
    VIEW_AT_SILENCE_S,
    VIEW_S,
    VIEW_WHILE_MOVING_S,
    VIEWS_APART_S,
    ReconcilerCore,
)
from shard_worker.ownership.reconciler_requests import (
    Adopt,
    CancelDrain,
    CatchUp,
    Claim,
    CycleDone,
    Drop,
    Fence,
    MarkLeaving,
    NotifyTransferred,
    Observation,
    Observe,
    OpenSession,
    Pause,
    RaiseEpoch,
    ReadHeads,
    ReadView,
    RecordStartSeqs,
    Release,
    ReportUnreadable,
    Resume,
    SessionLost,
    StartDrain,
    StartPrepare,
    TransferShards,
    Wait,
)
from shard_worker.ownership.view import EMPTY, OwnershipView, ShardOwner, ShardRow, WorkerRow
from tests.ownership.views import S0, S1, shard, view_of, worker

ALONE = [worker("a")]
PAIR = [worker("a"), worker("b")]
RECEIVER = ShardOwner("b", "b1", 5, "h", 1, 2)


class Script:
    """A core, and the answers to its requests."""

    def __init__(self, *rows: WorkerRow | ShardRow) -> None:
        self.core = ReconcilerCore("a", "a1")
        self.view = view_of(*rows)
        self.now = 100.0
        self.leaving = False
        self.refresh_requested = False
        self.serving: set[ShardId] = set()
        self.present: set[ShardId] = set()
        self.answers: dict[type, Any] = {}
        """By request; an exception is raised, a function called, and `OpenSession` and `Observe` need none."""

    def turn(self) -> list[Any]:
        """The requests of one turn, without its looks at the clock."""
        return self.drive(self.core.turn())

    def drive(self, steps: Generator[Any, object, object], most: int = 100) -> list[Any]:
        """The requests of some steps, the first ``most`` of them."""
        sent: list[Any] = []
        try:
            request = next(steps)
            while len(sent) < most:
                if not isinstance(request, Observe):
                    sent.append(request)
                answer = self._answer(request)
                request = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
        except StopIteration:
            pass
        return sent

    def _answer(self, request: Any) -> object:
        if isinstance(request, Observe):
            return Observation(self.now, self.leaving, self.refresh_requested, self.present, self.serving)
        if isinstance(request, ReadView):
            answer: Any = self.answers.get(ReadView, self.view)
        elif isinstance(request, ReadHeads):
            answer = self.answers.get(ReadHeads, dict.fromkeys(request.epochs, 7))
        else:
            answer = self.answers.get(type(request))
        return answer(request) if callable(answer) else answer

    def later(self, seconds: float, *rows: WorkerRow | ShardRow) -> list[Any]:
        """The requests of a turn some time later, on another view, if one is given."""
        self.now += seconds
        self.view = view_of(*rows) if rows else self.view
        return self.turn()

    def handing_over(self) -> Handoff:
        """Shard 0 is served here and begins to move to ``b``, whose second heartbeat was seen; at second 101."""
        self.present, self.serving = {S0}, {S0}
        self.view = view_of(*PAIR, shard("a", "b"))
        self.turn()
        self.later(1.0, worker("a", 1), worker("b", 1), shard("a", "b"))
        return self.core.handoffs[S0]

    def drained(self) -> None:
        """The same shard is drained, at head 40."""
        begun = self.handing_over()
        self.core.prepare_ended(S0, begun, ready=True, now=self.now)
        self.serving = set()
        self.later(0.1)
        self.core.drain_ended(S0, 40, failed=False, now=self.now + 0.01)


def slowly(script: Script, seconds: float) -> Callable[[object], OwnershipView]:
    """The answer to a view that takes this long."""

    def answer(_: object) -> OwnershipView:
        script.now += seconds
        return script.view

    return answer


def waits(requests: Iterable[Any], now: float) -> Any:  # approximate numbers, which have no type
    """How long the wait at the end may be: at least, and at most."""
    *_, last = requests
    assert isinstance(last, Wait)
    return pytest.approx(last.earliest - now), pytest.approx(last.latest - now)


# --- sessions and waits


def test_a_session_is_opened_again_until_it_is_there() -> None:
    """With a pause before each further attempt; the first view follows at once, and knows no row."""
    script, failures = Script(*ALONE), [SessionLost(), SessionLost()]
    script.answers[OpenSession] = lambda _: failures.pop() if failures else None
    sent = script.drive(script.core.run(), most=7)
    assert sent[:5] == [OpenSession(), Pause(RECONNECT_S), OpenSession(), Pause(RECONNECT_S), OpenSession()]
    assert sent[5:7] == [ReadView(EMPTY), CycleDone()]


def test_after_a_lost_session_nothing_is_known() -> None:
    """The next view is read whole and at once, and heartbeats count from it on."""
    script = Script(*PAIR)
    script.turn()
    script.later(1.0, worker("a", 1), worker("b", 1))
    assert script.later(1.0)[0] == ReadView(script.view)
    script.answers[ReadView] = SessionLost()
    assert script.later(1.0)[-2:] == [Pause(RECONNECT_S), OpenSession()]
    del script.answers[ReadView]
    script.serving = {S0}
    sent = script.later(0.0, worker("a", 2), worker("b", 2), shard("a", "b"))
    assert sent[0] == ReadView(EMPTY)
    assert not script.core.handoffs, "the receiver's heartbeat was not seen to change in this session"


def test_views_are_apart_and_not_too_rare() -> None:
    """A quiet cluster waits for the longest; a slow view makes the next one wait for as long as it took."""
    script = Script(*ALONE)
    assert waits(script.turn(), script.now) == (VIEWS_APART_S, VIEW_S)
    script.answers[ReadView] = slowly(script, 0.1)
    assert waits(script.later(1.0), script.now) == (0.1, VIEW_S)
    script.answers[ReadView] = slowly(script, 0.5)
    assert waits(script.later(1.0), script.now) == (0.5, 0.5)


def test_no_view_is_read_before_it_is_due() -> None:
    """At its time it is, and at once where another part of the worker has requested one."""
    script = Script(*ALONE)
    script.turn()
    assert script.later(VIEW_S / 2) == [Wait(100.0 + VIEWS_APART_S, 100.0 + VIEW_S)]
    assert ReadView(script.view) in script.later(VIEW_S / 2)
    script.refresh_requested = True
    assert isinstance(script.later(VIEWS_APART_S / 2)[0], Wait), "a burst of requests does not bring views in a burst"
    assert ReadView(script.view) in script.later(VIEWS_APART_S / 2)


def test_a_silent_peer_is_looked_at_more_often() -> None:
    """Its lock is seen gone the sooner."""
    script = Script(*PAIR)
    script.now = 0.0  # so that the sum below is exact
    script.turn()
    assert waits(script.later(SILENCE_S), script.now) == (VIEWS_APART_S, VIEW_S)
    assert waits(script.later(VIEW_S), script.now) == (VIEWS_APART_S, VIEW_AT_SILENCE_S)


@pytest.mark.parametrize(
    "rows",
    [[worker("b")], [worker("a", incarnation="a2")], [worker("a", fenced=True)]],
    ids=["no row", "replaced", "fenced"],
)
def test_an_incarnation_that_was_ended_does_nothing_more(rows: list[WorkerRow]) -> None:
    """Its row says so; the error names the incarnation."""
    with pytest.raises(Fenced, match="a1"):
        Script(*rows).turn()


def test_a_worker_that_leaves_says_so_once() -> None:
    """Before it reads the view by which it hands over."""
    script = Script(*ALONE)
    script.leaving = True
    assert script.turn()[:2] == [MarkLeaving(), ReadView(EMPTY)]
    assert MarkLeaving() not in script.later(1.0)


def test_a_lost_mark_of_leaving_is_repeated() -> None:
    """Its effect is not known."""
    script = Script(*ALONE)
    script.leaving, script.answers[MarkLeaving] = True, SessionLost()
    script.turn()
    del script.answers[MarkLeaving]
    assert script.turn()[0] == MarkLeaving()


def test_shards_that_no_live_worker_reads_are_reported_when_they_change() -> None:
    """Once, and once more when a worker that reads them is there."""
    script = Script(worker("a"), shard(None)._replace(format=2), shard(None, id=S1))
    script.answers[Claim] = {}
    assert ReportUnreadable([S0]) in script.turn()
    assert not any(isinstance(each, ReportUnreadable) for each in script.later(1.0))
    assert ReportUnreadable([]) in script.later(1.0, worker("a")._replace(reads=2), shard(None)._replace(format=2))


# --- fencing


def test_a_dead_peer_is_fenced_and_the_next_view_follows_at_once() -> None:
    """Its shards get their targets among the live workers; where it is alive after all nothing is to be seen."""
    script = Script(worker("a"), worker("b"), shard("b", id=S0))
    script.turn()
    script.answers[Fence] = [S0]
    sent = script.later(TTL_S)
    assert sent[1] == Fence(Suspect("b", "b1", 0), {S0: "a"})
    assert waits(sent, script.now) == (VIEWS_APART_S, VIEWS_APART_S)
    script.answers[Fence] = None
    sent = script.later(1.0)
    assert isinstance(sent[1], Fence)
    assert waits(sent, script.now) == (VIEWS_APART_S, VIEW_AT_SILENCE_S)


# --- what is owned is served


def test_a_claimed_shard_is_served_from_its_head() -> None:
    """Heads are read after the claim; the shard is served before the beginning of its epoch is recorded."""
    script = Script(worker("a"), shard(None, "a"), shard(None, "a", id=S1))
    script.answers[Claim], script.answers[ReadHeads] = {S0: 6}, {S0: 40}
    sent = script.turn()
    assert sent[1:-1] == [
        Claim([S0, S1]),
        ReadHeads({S0: 6}),
        CatchUp({S0: 40}),
        Adopt({S0: 6}, {S0: 40}),
        RecordStartSeqs({S0: 6}, {S0: 40}),
        CycleDone(),
    ]
    assert waits(sent, script.now) == (VIEWS_APART_S, VIEW_WHILE_MOVING_S)
    assert script.core.used() == {S0: 6}


def test_a_claim_that_was_lost_to_a_peer_changes_nothing() -> None:
    """Nor does one whose shard is gone again when its head is read."""
    script = Script(worker("a"), shard(None, "a"))
    script.answers[Claim] = {}
    assert script.turn()[1:-1] == [Claim([S0]), CycleDone()]
    script.answers[Claim], script.answers[ReadHeads] = {S0: 6}, {}
    assert script.later(1.0)[1:-1] == [Claim([S0]), ReadHeads({S0: 6}), CycleDone()]


def test_a_shard_is_adopted_at_an_epoch_that_was_not_used() -> None:
    """At a used one appends may be in flight: it is raised first."""
    script = Script(worker("a"), shard("a", "a"), shard("a", "a", id=S1))
    script.core.raised(S0, 5)
    script.core.raised(S1, 4)
    script.answers[RaiseEpoch] = {S0: 6}
    assert script.turn()[1:5] == [
        RaiseEpoch({S0: 5}),
        ReadHeads({S1: 5, S0: 6}),
        CatchUp({S1: 7, S0: 7}),
        Adopt({S1: 5, S0: 6}, {S1: 7, S0: 7}),
    ]
    assert script.core.used() == {S0: 6, S1: 5}


def test_a_shard_of_another_owner_is_dropped() -> None:
    """Its requests go to the owner of the view."""
    script = Script(*PAIR, shard("b"))
    script.present = {S0}
    sent = script.turn()
    assert sent[1:-1] == [Drop(S0, "b", 5), CycleDone()]
    assert waits(sent, script.now) == (VIEWS_APART_S, VIEW_WHILE_MOVING_S)


def test_the_last_worker_that_leaves_frees_its_shards() -> None:
    """Those that the database freed are dropped, without an owner, and never adopted again at their epoch."""
    script = Script(worker("a"), shard("a"), shard("a", id=S1))
    script.leaving, script.answers[Release] = True, {S0}
    sent = script.turn()
    assert sent[2:-1] == [Release({S0: 5, S1: 5}), Drop(S0, None, 0), CycleDone()]
    assert waits(sent, script.now) == (VIEWS_APART_S, VIEW_WHILE_MOVING_S)
    assert script.core.used() == {S0: 5, S1: 5}


# --- shards that peers transfer


def test_a_transferred_shard_is_adopted_without_a_view() -> None:
    """Once; a late notification of the same transfer is ignored."""
    script = Script(*ALONE)
    script.turn()
    for _ in range(2):
        script.core.on_transferred(S0, 6, "a1", 40)
    script.now += VIEWS_APART_S / 2
    assert script.turn()[:3] == [CatchUp({S0: 40}), Adopt({S0: 6}, {S0: 40}), RecordStartSeqs({S0: 6}, {S0: 40})]
    script.core.on_transferred(S0, 6, "a1", 40)
    assert isinstance(script.turn()[0], Wait)
    script.core.on_transferred(S0, 7, "a1", 41)
    assert Adopt({S0: 7}, {S0: 41}) in script.turn()


def test_a_transferred_shard_that_a_view_was_faster_with_is_not_adopted_twice() -> None:
    """Its epoch is used by then."""
    script = Script(*ALONE)
    script.turn()
    script.core.on_transferred(S0, 6, "a1", 40)
    script.core.raised(S0, 6)
    script.now += VIEWS_APART_S / 2
    assert isinstance(script.turn()[0], Wait)


@pytest.mark.parametrize(("incarnation", "head"), [("a0", 40), ("a1", None)], ids=["incarnation", "head"])
def test_a_transfer_to_another_incarnation_or_without_a_head_asks_for_a_view(
    incarnation: str, head: int | None
) -> None:
    """The owner is seen there."""
    script = Script(*ALONE)
    script.turn()
    script.core.on_transferred(S0, 6, incarnation, head)
    script.now += VIEWS_APART_S / 2
    assert script.turn() == [Wait(100.0 + VIEWS_APART_S, 100.0 + VIEWS_APART_S)]
    script.now += VIEWS_APART_S / 2
    assert script.turn()[0] == ReadView(script.view)


# --- handoffs


def test_a_handoff_prepares_its_receiver_while_the_shard_is_served() -> None:
    """The receiver gets the epoch of before the transfer; views follow each other quickly."""
    script = Script()
    begun = script.handing_over()
    assert begun == Handoff("b", "b1", 5, HandoffPhase.PREPARING, 101.0)
    script.core.handoffs.clear()
    sent = script.later(1.0, worker("a", 2), worker("b", 2), shard("a", "b"))
    assert sent[1] == StartPrepare(S0, begun._replace(since=102.0), RECEIVER)
    assert waits(sent, script.now) == (VIEWS_APART_S, VIEW_WHILE_MOVING_S)


def test_a_ready_receiver_lets_the_drain_begin_at_once() -> None:
    """The end of another handoff of the shard says nothing about this one."""
    script = Script()
    begun = script.handing_over()
    script.core.prepare_ended(S0, begun._replace(since=99.0), ready=True, now=101.2)
    assert script.core.handoffs[S0] == begun
    script.core.prepare_ended(S0, begun, ready=True, now=101.2)
    assert script.core.handoffs[S0] == begun._replace(phase=HandoffPhase.PREPARED, since=101.2)
    assert script.later(VIEWS_APART_S)[1] == StartDrain(S0)
    assert script.core.handoffs[S0].phase is HandoffPhase.DRAINING


def test_a_receiver_that_does_not_answer_ends_the_handoff() -> None:
    """The shard is served on, and another handoff of it begins some time later."""
    script = Script()
    begun = script.handing_over()
    script.core.prepare_ended(S0, begun, ready=False, now=101.2)
    failed = begun._replace(phase=HandoffPhase.FAILED, since=101.2)
    assert script.later(VIEWS_APART_S)[1] == Resume(S0, failed)
    assert script.core.handoffs == {}
    again: list[WorkerRow | ShardRow] = [worker("a", 2), worker("b", 2), shard("a", "b")]
    assert not any(isinstance(each, StartPrepare) for each in script.later(AGAIN_S / 2, *again))
    assert any(isinstance(each, StartPrepare) for each in script.later(AGAIN_S / 2, *again))


def test_a_drained_shard_is_transferred_without_a_view() -> None:
    """Its receiver is notified of the head and of the time that the shard was not served; then it is dropped here."""
    script = Script()
    script.drained()
    script.answers[TransferShards] = {S0: 6}
    script.now += VIEWS_APART_S / 2
    assert script.turn()[:-1] == [
        TransferShards([Transfer(S0, 5, "b", "b1", "")]),
        NotifyTransferred(S0, RECEIVER._replace(epoch=6), 40, 101.1, 101.11),
        CancelDrain(S0),
        Drop(S0, "b", 6),
    ]
    assert script.core.handoffs == {}
    assert script.core.used() == {S0: 5}


def test_a_refused_transfer_aborts_the_handoff() -> None:
    """At the next view, which is read at once."""
    script = Script()
    script.drained()
    script.answers[TransferShards] = {}
    sent = script.turn()
    assert script.core.handoffs[S0].phase is HandoffPhase.FAILED
    assert waits(sent, script.now) == (VIEWS_APART_S, VIEWS_APART_S)
    assert script.later(VIEWS_APART_S)[1:3] == [
        CancelDrain(S0),
        Resume(S0, Handoff("b", "b1", 5, HandoffPhase.FAILED, 101.11)),
    ]


def test_nothing_is_transferred_by_a_view_of_a_lost_history() -> None:
    """After a fail-over."""
    script = Script()
    script.drained()
    script.core.forget_view()
    assert not any(isinstance(each, TransferShards) for each in script.turn())


def test_a_drain_that_fails_ends_the_handoff() -> None:
    """The next view, which is read at once, aborts it; the drain is no longer waited for."""
    script = Script()
    begun = script.handing_over()
    script.core.prepare_ended(S0, begun, ready=True, now=script.now)
    script.later(0.1)
    script.core.drain_ended(S0, None, failed=True, now=101.15)
    assert script.core.handoffs[S0] == begun._replace(phase=HandoffPhase.FAILED, since=101.15)
    sent = script.later(VIEWS_APART_S)
    assert sent[1] == Resume(S0, begun._replace(phase=HandoffPhase.FAILED, since=101.15))


def test_a_shard_that_is_drained_without_a_receiver_is_drained_once() -> None:
    """A receiver that comes meanwhile gets it without a second drain."""
    script = Script(worker("a"), worker("b"), shard("a"))
    script.leaving, script.present = True, {S0}
    assert StartDrain(S0) in script.turn()
    assert StartDrain(S0) not in script.later(VIEW_S)
    script.core.drain_ended(S0, 40, failed=False, now=script.now)
    sent = script.later(VIEW_S, worker("a", 1), worker("b", 1), shard("a"))
    assert StartDrain(S0) not in sent
    begun = script.core.handoffs[S0]
    script.core.prepare_ended(S0, begun, ready=True, now=script.now)
    assert StartDrain(S0) not in script.later(VIEW_S)
    assert script.core.handoffs[S0].phase is HandoffPhase.DRAINED


def test_a_replaced_incarnation_that_kept_its_shards_is_fenced_after_a_while() -> None:
    """By the incarnation that its shards name."""
    script = Script(worker("a"), worker("b", incarnation="b2"), shard("b"))
    script.turn()
    script.answers[Fence] = []
    assert Fence(Suspect("b", "b1", None), {S0: "a"}) in script.later(LOCK_GONE_S)
