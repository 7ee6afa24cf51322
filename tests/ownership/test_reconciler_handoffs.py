"""The order of the reconciler core's steps in a handoff, on answers that a test gives."""

from shard_worker.ownership.failure_detector import LOCK_GONE_S, Suspect
from shard_worker.ownership.handoff import AGAIN_S, Handoff, HandoffPhase, Transfer
from shard_worker.ownership.reconciler_core import (
    RECONNECT_S,
    SILENCE_S,
    VIEW_AT_SILENCE_S,
    VIEW_S,
    VIEW_WHILE_MOVING_S,
    VIEWS_APART_S,
)
from shard_worker.ownership.reconciler_requests import (
    CancelDrain,
    Drop,
    Fence,
    NotifyTransferred,
    ReadHeads,
    Resume,
    StartDrain,
    StartPrepare,
    TransferShards,
)
from shard_worker.ownership.view import ShardRow, WorkerRow
from tests.ownership.script import PAIR, RECEIVER, Script, waits
from tests.ownership.views import S0, S1, shard, worker


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


def test_a_shard_that_came_back_during_its_handoff_is_adopted_again() -> None:
    """The answer of the transfer was lost; the receiver may have appended before it gave the shard back."""
    script = Script()
    script.drained()
    script.answers[TransferShards] = {}
    script.turn()
    back = shard("a", "b")._replace(epoch=7)
    sent = script.later(VIEWS_APART_S, worker("a", 2), worker("b", 2), back)
    assert sent[1:3] == [CancelDrain(S0), Drop(S0)]
    assert not any(isinstance(each, Resume) for each in sent)
    script.present, script.serving = set(), set()
    assert script.later(VIEWS_APART_S)[1] == ReadHeads({S0: 7})


def test_a_refused_transfer_keeps_no_other_from_its_receiver() -> None:
    """The database refuses one shard; the next one has its new owner, which is notified."""
    script = Script(*PAIR, shard("a", "b"), shard("a", "b", id=S1))
    script.present, script.serving = {S0, S1}, {S0, S1}
    script.turn()
    script.later(1.0, worker("a", 1), worker("b", 1), shard("a", "b"), shard("a", "b", id=S1))
    for shard_id, begun in list(script.core.handoffs.items()):
        script.core.prepare_ended(shard_id, begun, ready=True, now=script.now)
    script.later(0.1)
    for shard_id in (S0, S1):
        script.core.drain_ended(shard_id, 40, failed=False, now=script.now)
    script.answers[TransferShards] = {S1: 6}
    assert Drop(S1, "b", 6) in script.turn()
    assert script.core.handoffs[S0].phase is HandoffPhase.FAILED


def test_a_shard_that_never_changed_its_owner_is_adopted_at_its_first_epoch() -> None:
    """Nothing was sent at it before."""
    script = Script(worker("a"), shard("a", "a")._replace(epoch=1))
    assert script.turn()[1] == ReadHeads({S0: 1})


def test_the_waits_are_what_a_takeover_may_take() -> None:
    """A silent peer is seen in time for a takeover within a second; the database bears the views that this costs."""
    assert (VIEW_S, VIEW_AT_SILENCE_S, VIEW_WHILE_MOVING_S, VIEWS_APART_S) == (0.25, 0.05, 0.05, 0.02)
    assert (SILENCE_S, RECONNECT_S) == (0.4, 0.05)


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
