"""The order of the reconciler core's steps, and its waits, on answers that a test gives.

The simulation shows that the protocol keeps its invariants; these tests say which request comes when.
"""

import pytest

from shard_worker.ownership.failure_detector import TTL_S, Fenced, Suspect
from shard_worker.ownership.reconciler_core import (
    RECONNECT_S,
    SILENCE_S,
    VIEW_AT_SILENCE_S,
    VIEW_S,
    VIEW_WHILE_MOVING_S,
    VIEWS_APART_S,
)
from shard_worker.ownership.reconciler_requests import (
    Adopt,
    CatchUp,
    Claim,
    CycleDone,
    Drop,
    Fence,
    MarkLeaving,
    OpenSession,
    Pause,
    RaiseEpoch,
    ReadHeads,
    ReadView,
    RecordStartSeqs,
    Release,
    ReportUnreadable,
    SessionLost,
    Wait,
)
from shard_worker.ownership.view import EMPTY, WorkerRow
from tests.ownership.script import ALONE, PAIR, Script, slowly, waits
from tests.ownership.views import S0, S1, shard, worker

# --- sessions and waits


def test_a_session_is_opened_again_until_it_is_there() -> None:
    """With a pause before each further attempt; the first view follows at once, and knows no row."""
    script, failures = Script(*ALONE), [SessionLost(), SessionLost()]
    script.now = 0.0
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
