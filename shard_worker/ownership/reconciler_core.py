"""The decisions of one incarnation about its shards and its peers, and the order of its steps.

The core has no I/O, clock or log.  `ReconcilerCore.run` yields requests (`reconciler_requests`) and receives their
answers, so that `reconciler` runs it on a real session and the simulation on a model of one.  Every ordering rule is here:

* One session, one step at a time: statements arrive in the order in which they were sent.  Steps that take long (prepare,
  drain, notify) run beside it and report to `prepare_ended` and `drain_ended`.
* After a lost session the core assumes nothing of the statement in flight: the next view shows its effect.
* An epoch is marked as used before the statement that gives it up is sent (`_mark_used`), and when a shard is adopted at
  it.  A shard is never adopted at a used epoch: appends of before may still be in flight.
* A shard that was given to this incarnation is adopted without a view.  The transfer was committed before the notification
  was sent, only this incarnation can have given the shard up since, and the sender knew the head with no append in flight.
* A shard that came back while its handoff was under way is dropped and then adopted: others may have appended meanwhile.
* A drained shard is transferred without a view, because it is not served meanwhile; the database checks the transfer.
* Heads are read after the change of owner is acknowledged: in the same statement the snapshot would be older than the wait
  for the previous owner's appends.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple, Never

from shard_worker.domain.ids import ShardId
from shard_worker.ownership import handoff
from shard_worker.ownership.failure_detector import FailureDetector, Fenced, Suspect
from shard_worker.ownership.handoff import Handoff, HandoffPhase, LocalShards, LocalState, OwnershipActions
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
    Steps,
    TransferShards,
    Wait,
)
from shard_worker.ownership.view import EMPTY, OwnershipView, ShardOwner

VIEW_S: Final = 0.25
"""Maximum time between two views: claims and fencing of silent peers wait for a view."""
VIEW_AT_SILENCE_S: Final = 0.05
"""The same while a peer is silent: its lock is seen gone sooner."""
SILENCE_S: Final = 0.4
"""Age of a heartbeat from which a peer counts as silent; more than two heartbeats."""
VIEW_WHILE_MOVING_S: Final = 0.05
"""The same while shards change their owner: the next step of a handoff waits for a view."""
VIEWS_APART_S: Final = 0.02
"""Minimum time between two views: bounds the load of notifications that arrive in a burst."""
RECONNECT_S: Final = 0.05
"""Pause between a lost session and the next."""


class _Drain(NamedTuple):
    """One drain under way or done."""

    stopped_at: float
    """When the shard stopped to admit commands."""
    done: bool = False
    head: int | None = None


class ReconcilerCore:
    """The state of one incarnation's reconciler.

    Events (`on_transferred`, `raised`, `prepare_ended`, `drain_ended`) may arrive while a request waits for its answer;
    after an event the caller ends a `Wait`.
    """

    def __init__(self, worker: str, incarnation: str) -> None:
        self.view: OwnershipView = EMPTY
        """The last view."""
        self._known: OwnershipView = EMPTY
        """The last view of this session; the next read returns only rows that have changed since."""
        self._not_before = self._next_view = 0.0
        """The time of the next view: when it is requested, and when it is not."""
        self.handoffs: dict[ShardId, Handoff] = {}
        self._worker = worker
        self._incarnation = incarnation
        self._detector = FailureDetector()
        self._marked_leaving = False
        self._refresh = False
        """Whether the next view is due at once."""
        self._unreadable: list[ShardId] = []
        self._failed_at: dict[ShardId, float] = {}
        self._drains: dict[ShardId, _Drain] = {}
        self._transferred: dict[ShardId, tuple[int, int]] = {}
        """Epoch and head of each shard that was given to this incarnation and is not adopted yet."""
        self._used: dict[ShardId, int] = {}
        """The last epoch of each shard at which an append was, or may have been, sent, or which was given up.

        A shard that was given to this incarnation and given up again before it was adopted must not be adopted when the
        notification arrives late.
        """

    # --- events

    def on_transferred(self, shard_id: ShardId, epoch: int, incarnation: str, head: int | None) -> None:
        """A peer has transferred a shard to an incarnation of this worker."""
        if incarnation != self._incarnation or head is None:
            self._refresh = True  # the next view shows the owner
        elif self._unused(shard_id, epoch):
            self._transferred[shard_id] = epoch, head

    def raised(self, shard_id: ShardId, epoch: int) -> None:
        """The resolution of an unknown outcome raised the epoch of a shard; appends use the new epoch from now on."""
        self._used[shard_id] = epoch

    def prepare_ended(self, shard_id: ShardId, begun: Handoff, *, ready: bool, now: float) -> None:
        """The receiver of a handoff is ready, or did not answer."""
        if self.handoffs.get(shard_id) == begun:  # else the handoff was aborted meanwhile
            self._set_phase(shard_id, HandoffPhase.PREPARED if ready else HandoffPhase.FAILED, now)
            self._refresh = True

    def drain_ended(self, shard_id: ShardId, head: int | None, *, failed: bool, now: float) -> None:
        """No append of a shard is in flight, up to ``head``; None for a shard that is not in memory."""
        drain = self._drains.pop(shard_id)
        if not failed:  # a failed drain is begun again
            self._drains[shard_id] = drain._replace(done=True, head=head)
        if (under_way := self.handoffs.get(shard_id)) is not None and under_way.phase is HandoffPhase.DRAINING:
            self._set_phase(shard_id, HandoffPhase.FAILED if failed else HandoffPhase.DRAINED, now)
            self._refresh |= failed

    def forget_view(self) -> None:
        """The database failed over: the view is of a lost history, and no shard may be transferred by it."""
        self.view = EMPTY

    def used(self) -> Mapping[ShardId, int]:
        """The last epoch of each shard at which this incarnation may have sent an append."""
        return self._used

    # --- the loop

    def run(self) -> Steps[Never]:
        """Reconcile until the incarnation is fenced, which raises `Fenced`."""
        yield from self._open_session()
        while True:
            yield from self.turn()

    def turn(self) -> Steps[None]:
        """Do all that is due, and wait until more is.  Between two turns the attributes are all of the state."""
        try:
            if self._transferred:
                yield from self._adopt_transferred()
            if self.handoffs:
                yield from self._transfer_drained()
            began = yield from Observe()
            due = self._refresh or began.refresh_requested or began.now >= self._next_view
            if began.now >= self._not_before and due:
                pause_s = yield from self._cycle(leaving=began.leaving)
                now = (yield from Observe()).now
                # A slow view makes the next one wait for as long as it took.
                self._not_before = now + max(VIEWS_APART_S, now - began.now)
                self._next_view = max(self._not_before, now + pause_s)
            yield from Wait(self._not_before, self._not_before if self._refresh else self._next_view)
        except SessionLost:
            yield from Pause(RECONNECT_S)
            yield from self._open_session()

    def _open_session(self) -> Steps[None]:
        """Open a session, however long that takes, and forget what depends on the last one."""
        while True:
            try:
                yield from OpenSession()
                break
            except SessionLost:
                yield from Pause(RECONNECT_S)
        self._detector.restart()
        self._known = EMPTY
        self._not_before = self._next_view = 0.0

    def _cycle(self, *, leaving: bool) -> Steps[float]:
        """Read a view and act on it; returns how long the next one may wait."""
        if leaving and not self._marked_leaving:
            yield from MarkLeaving()
            self._marked_leaving = True
        # Cleared before the read: a request that arrives during the read may be about a later change.
        self._refresh = False
        view = self.view = self._known = yield from ReadView(self._known)
        now = (yield from Observe()).now
        me = view.workers.get(self._worker)
        if me is None or me.incarnation != self._incarnation or me.fenced:
            raise Fenced(self._incarnation)
        self._detector.note(view, now)
        live = self._detector.live(view, now)
        for suspect in self._detector.suspects(view, self._worker, now):
            yield from self._fence(suspect, live | {self._worker})
        unreadable = handoff.without_capable_worker(view, live | {self._worker})
        if unreadable != self._unreadable:
            self._unreadable = unreadable
            yield from ReportUnreadable(unreadable)
        observed = yield from Observe()
        acted = yield from self._act(self._plan(observed, live, now), observed.now)
        yield from CycleDone()
        if acted or self.handoffs:
            return VIEW_WHILE_MOVING_S
        silent = self._detector.quiet_s(view, self._worker, now) > SILENCE_S
        return VIEW_AT_SILENCE_S if silent else VIEW_S

    def _plan(self, observed: Observation, live: frozenset[str], now: float) -> OwnershipActions:
        drained = {shard_id for shard_id, drain in self._drains.items() if drain.done}
        local = LocalState(
            self._worker,
            self._incarnation,
            held=LocalShards(observed.present, observed.serving, drained),
            handoffs=self.handoffs,
            failed_s={shard_id: now - at for shard_id, at in self._failed_at.items()},
            leaving=observed.leaving,
        )
        return handoff.plan_actions(self.view, local, live=live, unowned_s=self._detector.unowned_s(now), now=now)

    def _act(self, actions: OwnershipActions, now: float) -> Steps[bool]:
        """Execute the actions; returns whether ownership has changed, or may have."""
        shards = self.view.shards
        for shard_id in actions.drop:
            yield from self._drop(shard_id, shards[shard_id].owner, shards[shard_id].epoch)
        for shard_id in actions.abort:
            yield from self._abort(shard_id, now)
        for shard_id, target in actions.prepare:
            yield from self._prepare(shard_id, target, now)
        for shard_id in actions.drain:
            yield from self._drain(shard_id, now)
        if actions.release:
            held = {shard_id: shards[shard_id].epoch for shard_id in actions.release}
            self._mark_used(held)
            for shard_id in sorted((yield from Release(held))):
                yield from self._drop(shard_id, None, 0)
        epochs: dict[ShardId, int] = {}
        if actions.adopt:
            owned = {shard_id: shards[shard_id].epoch for shard_id in actions.adopt}
            # At an unused epoch no append of this incarnation is in flight; any other epoch is raised first.
            epochs = {shard_id: epoch for shard_id, epoch in owned.items() if self._unused(shard_id, epoch)}
            if used := {shard_id: epoch for shard_id, epoch in owned.items() if shard_id not in epochs}:
                epochs |= yield from RaiseEpoch(used)
        if actions.claim:
            epochs |= yield from Claim(actions.claim)
        if epochs:
            heads = yield from ReadHeads(epochs)
            yield from self._adopt(epochs, heads)
        return bool(actions.drop or actions.release or epochs)

    def _fence(self, suspect: Suspect, live: frozenset[str]) -> Steps[None]:
        targets = handoff.takeover_targets(self.view, {(suspect.worker, suspect.incarnation)}, live)
        if (yield from Fence(suspect, targets)) is not None:
            self._refresh = True

    # --- adoption

    def _adopt_transferred(self) -> Steps[None]:
        """Adopt the shards that peers transferred to this incarnation."""
        # A shard may have been adopted from a view since its notification arrived: appends may be in flight.
        transferred = {
            shard_id: each for shard_id, each in self._transferred.items() if self._unused(shard_id, each[0])
        }
        self._transferred = {}
        epochs = {shard_id: epoch for shard_id, (epoch, _) in transferred.items()}
        yield from self._adopt(epochs, {shard_id: head for shard_id, (_, head) in transferred.items()})

    def _adopt(self, epochs: Mapping[ShardId, int], heads: Mapping[ShardId, int]) -> Steps[None]:
        if not heads:
            return
        yield from CatchUp(heads)
        for shard_id in heads:
            yield from self._forget_handoff(shard_id)
            self._used[shard_id] = epochs[shard_id]
        yield from Adopt(epochs, heads)
        yield from RecordStartSeqs(epochs, heads)

    # --- handoff

    def _prepare(self, shard_id: ShardId, target: str, now: float) -> Steps[None]:
        """Begin a handoff: the target reads the state that it will need, while the shard is served here."""
        row, worker = self.view.shards[shard_id], self.view.workers[target]
        begun = Handoff(target, worker.incarnation, row.epoch, HandoffPhase.PREPARING, now)
        self.handoffs[shard_id] = begun
        yield from StartPrepare(shard_id, begun, self._receiver(begun, row.epoch))

    def _drain(self, shard_id: ShardId, now: float) -> Steps[None]:
        drain = self._drains.get(shard_id)
        if shard_id in self.handoffs:
            # A drain that was begun without a receiver may be done already.
            done = drain is not None and drain.done
            self._set_phase(shard_id, HandoffPhase.DRAINED if done else HandoffPhase.DRAINING, now)
        if drain is None:
            self._drains[shard_id] = _Drain(now)
            yield from StartDrain(shard_id)

    def _transfer_drained(self) -> Steps[None]:
        """Transfer the drained shards to their receivers, and notify these."""
        transfers = handoff.plan_transfers(self.view, self.handoffs)
        if not transfers:
            return
        receivers = {each.shard_id: self._receiver(self.handoffs[each.shard_id], 0) for each in transfers}
        self._mark_used({each.shard_id: each.epoch for each in transfers})
        epochs = yield from TransferShards(transfers)
        for shard_id, receiver in receivers.items():
            if shard_id not in epochs:  # the plan aborts the handoff
                self.handoffs[shard_id] = self.handoffs[shard_id]._replace(phase=HandoffPhase.FAILED)
                self._refresh = True
                continue
            owner = receiver._replace(epoch=epochs[shard_id])
            drain, drained_at = self._drains[shard_id], self.handoffs[shard_id].since
            yield from NotifyTransferred(shard_id, owner, drain.head, drain.stopped_at, drained_at)
            yield from self._drop(shard_id, owner.worker, owner.epoch)

    def _receiver(self, under_way: Handoff, epoch: int) -> ShardOwner:
        worker = self.view.workers[under_way.worker]
        return ShardOwner(
            worker.id, under_way.incarnation, epoch, worker.host, worker.public_port, worker.management_port
        )

    def _abort(self, shard_id: ShardId, now: float) -> Steps[None]:
        """Abort a handoff and serve on."""
        aborted, epoch = self.handoffs[shard_id], self.view.shards[shard_id].epoch
        self._failed_at[shard_id] = now
        if epoch != aborted.epoch and self._unused(shard_id, epoch):
            # The transfer was committed, its answer was lost, and the receiver has given the shard back: the state in
            # memory may be older than the journal.  The next view adopts the shard.
            yield from self._drop(shard_id, None, 0)
            self._refresh = True
            return
        yield from self._forget_handoff(shard_id)
        yield from Resume(shard_id, aborted)

    def _drop(self, shard_id: ShardId, owner: str | None, epoch: int) -> Steps[None]:
        yield from self._forget_handoff(shard_id)
        yield from Drop(shard_id, owner, epoch)

    def _forget_handoff(self, shard_id: ShardId) -> Steps[None]:
        self.handoffs.pop(shard_id, None)
        if self._drains.pop(shard_id, None) is not None:
            yield from CancelDrain(shard_id)

    def _set_phase(self, shard_id: ShardId, phase: HandoffPhase, now: float) -> None:
        self.handoffs[shard_id] = self.handoffs[shard_id]._replace(phase=phase, since=now)

    # --- epochs

    def _unused(self, shard_id: ShardId, epoch: int) -> bool:
        """Whether no append of this incarnation can be in flight at an epoch, and the epoch was not given up."""
        return epoch > self._used.get(shard_id, 0)

    def _mark_used(self, held: Mapping[ShardId, int]) -> None:
        """Never adopt these shards at the epochs at which they are given up."""
        for shard_id, epoch in held.items():
            self._used[shard_id] = max(epoch, self._used.get(shard_id, 0))
