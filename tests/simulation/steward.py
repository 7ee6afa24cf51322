"""The steward's shell around the real decisions: what `shard_worker.ownership.reconciler` does, as a generator.

The functions have its names.  A statement is one event to the server, one there, and one back; between any two of them
anything else may happen.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.handoff import (
    FailureDetector,
    Handoff,
    HandoffPhase,
    LocalShards,
    OwnershipActions,
    Suspect,
    plan_actions,
    takeover_targets,
)
from shard_worker.ownership.view import EMPTY, OwnershipView
from tests.simulation import transactions
from tests.simulation.link import Session, connect
from tests.simulation.task import Bell, LinkFault, Sleep, Work
from tests.simulation.transactions import Gift

if TYPE_CHECKING:
    from tests.simulation.worker import WorkerProcess

_STATEMENT_S: Final = 5.0
_LOOK_S: Final = 0.25
_LOOK_AT_SILENCE_S: Final = 0.05
_SILENCE_S: Final = 0.4
_LOOK_WHILE_MOVING_S: Final = 0.05
_LOOKS_APART_S: Final = 0.02
_RECONNECT_S: Final = 0.05


class Fenced(Exception):
    """This incarnation was ended by somebody else."""


class Steward:
    """Keeps what a host serves and what the database says in agreement, for one incarnation."""

    def __init__(self, process: "WorkerProcess", incarnation: str) -> None:
        self.view: OwnershipView = EMPTY
        self.handoffs: dict[ShardId, Handoff] = {}
        self._process = process
        self._world = process.world
        self._host = process.host
        self._incarnation = incarnation
        self._bell = Bell()
        self._wanted = False
        self._marked_leaving = False
        self._observer = FailureDetector()
        self._known = EMPTY
        self._failed_at: dict[ShardId, float] = {}
        self._drains: dict[ShardId, list[bool]] = {}
        """Whether each drain is done."""
        self.prepared: dict[ShardId, int] = {}
        """The heads of the shards that this worker was asked to prepare."""
        self._told: dict[ShardId, tuple[int, int]] = {}
        """Epoch and head of what was given to this incarnation and is not served yet."""
        self._used: dict[ShardId, int] = {}
        """The last epoch at which something of ours was, or may have been, sent to the journal, or which we gave up."""

    def told(self, shard_id: ShardId, epoch: int, incarnation: str, head: int) -> None:
        """Another worker says that it gave a shard to an incarnation of this one."""
        if incarnation != self._incarnation and "told to another incarnation" not in self._world.bugs:
            self.ring()
        elif epoch > self._used.get(shard_id, 0):
            self._told[shard_id] = epoch, head
            self._bell.ring()

    def raised(self, shard_id: ShardId, epoch: int) -> None:
        """An unknown outcome raised the epoch of a shard that is served here; it will be used from now on."""
        self._used[shard_id] = epoch

    def ring(self) -> None:
        """Something may have changed."""
        self._wanted = True
        self._bell.ring()

    def run(self) -> Work[None]:
        """Go on until the incarnation is fenced, which raises `Fenced`."""
        while True:
            session = yield from connect(self._world, self._process, self._incarnation)
            try:
                yield from self._serve(session)
            except LinkFault:
                pass
            finally:
                session.close()
            yield Sleep(_RECONNECT_S)

    def _serve(self, session: Session) -> Work[None]:
        if "observer not restarted" not in self._world.bugs:
            self._observer.restart()
        self._known = EMPTY
        session.listen(self.ring)
        not_before = next_look = 0.0
        mono = self._process.mono
        while True:
            if self._told:
                yield from self._adopt_told()
            if self.handoffs:
                yield from self._give(session)
            began = mono()
            if began >= not_before and (self._wanted or began >= next_look):
                pause_s = yield from self._turn(session)
                now = mono()
                not_before, next_look = now + max(_LOOKS_APART_S, now - began), now + pause_s
            rest_s = (not_before if self._wanted else max(not_before, next_look)) - mono()
            if rest_s > 0.0:
                self._bell.most_s = rest_s + 1e-6  # less than that is lost in rounding, and time would stand still
                yield self._bell

    def _turn(self, session: Session) -> Work[float]:
        process, world = self._process, self._world
        if process.leaving and not self._marked_leaving:
            yield from session.execute(transactions.mark_leaving(process.name, self._incarnation), _STATEMENT_S)
            self._marked_leaving = True
        self._wanted = False
        view = yield from session.execute(transactions.look(self._known), _STATEMENT_S)
        self.view = self._known = view
        now = process.mono()
        me = view.workers.get(process.name)
        if me is None or me.incarnation != self._incarnation or me.fenced:
            raise Fenced
        self._observer.note(view, now)
        live = self._observer.live(view, now)
        for suspect in self._observer.suspects(view, process.name, now):
            yield from self._fence(session, suspect, live | {process.name})
        acted = yield from self._act(session, self._decide(live, now))
        world.watch.handoffs(self._host, self.handoffs)
        process.turned()
        if acted or self.handoffs:
            return _LOOK_WHILE_MOVING_S
        quiet = self._observer.quiet_s(view, process.name, now) > _SILENCE_S
        return _LOOK_AT_SILENCE_S if quiet else _LOOK_S

    def _decide(self, live: frozenset[str], now: float) -> OwnershipActions:
        steps = plan_actions(
            self.view,
            worker=self._process.name,
            incarnation=self._incarnation,
            held=LocalShards(self._host.present(), self._host.serving(), self._drained()),
            handoffs=self.handoffs,
            failed_s={shard_id: now - at for shard_id, at in self._failed_at.items()},
            unowned_s=self._observer.unowned_s(now),
            live=live,
            leaving=self._process.leaving,
            now=now,
        )
        tell = self._world.watch.tell
        if tell is not None and any(steps):
            tell(f"{self._incarnation} at {now:.2f} of its clock: {_told(steps)}")
        return steps

    def _act(self, session: Session, steps: OwnershipActions) -> Work[bool]:
        shards, process = self.view.shards, self._process
        for shard_id in steps.drop:
            self._drop(shard_id)
        for shard_id in steps.abort:
            self._abandon(shard_id)
        for shard_id, target in steps.prepare:
            self._prepare(shard_id, target)
        for shard_id in steps.drain:
            self._drain(shard_id)
        if steps.release:
            held = {shard_id: shards[shard_id].epoch for shard_id in steps.release}
            if "told after the release" not in self._world.bugs:
                self._part_with(held)
            released = yield from session.execute(transactions.release(self._incarnation, held), _STATEMENT_S)
            for shard_id in sorted(released):
                self._drop(shard_id)
        epochs: dict[ShardId, int] = {}
        if steps.adopt:
            named = {shard_id: shards[shard_id].epoch for shard_id in steps.adopt}
            epochs = {shard_id: epoch for shard_id, epoch in named.items() if epoch > self._used.get(shard_id, 0)}
            held = {shard_id: epoch for shard_id, epoch in named.items() if shard_id not in epochs}
            if held:
                if "adopt at the same epoch" in self._world.bugs:
                    epochs |= held
                else:
                    epochs |= yield from session.execute(transactions.bump(self._incarnation, held), _STATEMENT_S)
        if steps.claim:
            claim = transactions.claim(process.name, self._incarnation, steps.claim)
            epochs |= yield from session.execute(claim, _STATEMENT_S)
        if epochs:
            found = yield from session.execute(transactions.named(self._incarnation, epochs), _STATEMENT_S)
            yield from self._adopt(epochs, found)
        return bool(steps.drop or steps.release or epochs)

    def _fence(self, session: Session, suspect: Suspect, live: frozenset[str]) -> Work[None]:
        inherit = takeover_targets(self.view, {(suspect.worker, suspect.incarnation)}, live)
        fence = transactions.fence(suspect.worker, suspect.incarnation, suspect.beat, inherit)
        freed = yield from session.execute(fence, _STATEMENT_S)
        if freed is not None:
            self.ring()

    # --- serving what is ours

    def _adopt_told(self) -> Work[None]:
        told, self._told = self._told, {}
        if "told twice" not in self._world.bugs:
            told = {shard_id: each for shard_id, each in told.items() if each[0] > self._used.get(shard_id, 0)}
        epochs = {shard_id: epoch for shard_id, (epoch, _) in told.items()}
        yield from self._adopt(epochs, {shard_id: head for shard_id, (_, head) in told.items()})

    def _adopt(self, epochs: Mapping[ShardId, int], heads: Mapping[ShardId, int]) -> Work[None]:
        if not heads:
            return
        yield Sleep(self._world.rng.random() * 0.02)  # catching up
        for shard_id in sorted(heads):
            self._drains.pop(shard_id, None)
            self.handoffs.pop(shard_id, None)
            self._used[shard_id] = epochs[shard_id]
            head = heads[shard_id]
            if "head of the preparation" in self._world.bugs:
                head = self.prepared.get(shard_id, head)
            self._host.adopt(shard_id, epochs[shard_id], head)

    # --- handing over

    def _prepare(self, shard_id: ShardId, target: str) -> None:
        row, worker = self.view.shards[shard_id], self.view.workers[target]
        handoff = Handoff(target, worker.incarnation, row.epoch, HandoffPhase.PREPARING, self._process.mono())
        self.handoffs[shard_id] = handoff

        def prepared(ready: bool) -> None:
            self._advance(shard_id, handoff, HandoffPhase.PREPARED if ready else HandoffPhase.FAILED)

        self._world.prepare(self._process, target, shard_id, self._alive(prepared))

    def _alive(self, call: Callable[[bool], None]) -> Callable[[bool], None]:
        return lambda ready: call(ready) if self._process.steward is self else None

    def _advance(self, shard_id: ShardId, handoff: Handoff, phase: HandoffPhase) -> None:
        if self.handoffs.get(shard_id) == handoff:
            self.handoffs[shard_id] = handoff._replace(phase=phase, since=self._process.mono())
            if phase is HandoffPhase.DRAINED:
                self._bell.ring()
            else:
                self.ring()

    def _give(self, session: Session) -> Work[None]:
        ready = {HandoffPhase.DRAINED}
        if "give before drained" in self._world.bugs:
            ready.add(HandoffPhase.DRAINING)
        if "give while served" in self._world.bugs:
            ready.add(HandoffPhase.PREPARED)
        drained = {shard_id: each for shard_id, each in self.handoffs.items() if each.phase in ready}
        if not drained:
            return
        gifts = [
            Gift(shard_id, each.epoch, each.worker, each.incarnation) for shard_id, each in sorted(drained.items())
        ]
        if "told after the gift" not in self._world.bugs:
            self._part_with({gift.shard_id: gift.epoch for gift in gifts})
        given = yield from session.execute(transactions.give(self._incarnation, gifts), _STATEMENT_S)
        for shard_id, handoff in drained.items():
            epoch = given.get(shard_id)
            if epoch is None:
                self.handoffs[shard_id] = handoff._replace(phase=HandoffPhase.FAILED)
                self.ring()
                continue
            served = self._host.shards.get(shard_id)
            head = served.head if served is not None else None
            self._drop(shard_id)
            if head is not None:
                if "head before the last batch" in self._world.bugs:
                    head = max(0, head - 1)
                self._world.tell(self._process, handoff.worker, shard_id, epoch, handoff.incarnation, head)

    def _abandon(self, shard_id: ShardId) -> None:
        self.handoffs.pop(shard_id)
        self._failed_at[shard_id] = self._process.mono()
        self._drains.pop(shard_id, None)
        self._host.resume(shard_id)

    def _part_with(self, held: Mapping[ShardId, int]) -> None:
        for shard_id, epoch in held.items():
            self._used[shard_id] = max(epoch, self._used.get(shard_id, 0))

    # --- drains

    def _drain(self, shard_id: ShardId) -> None:
        if shard_id in self._drains:
            return
        handoff = self.handoffs.get(shard_id)
        if handoff is not None:
            handoff = self.handoffs[shard_id] = handoff._replace(
                phase=HandoffPhase.DRAINING, since=self._process.mono()
            )
        drain = self._drains[shard_id] = [False]

        def ended() -> None:
            if self._drains.get(shard_id) is not drain:
                return  # cancelled
            drain[0] = True
            if handoff is not None:
                self._advance(shard_id, handoff, HandoffPhase.DRAINED)
            self._bell.ring()

        self._host.release(shard_id, ended)

    def _drained(self) -> frozenset[ShardId]:
        return frozenset(shard_id for shard_id, drain in self._drains.items() if drain[0])

    def _drop(self, shard_id: ShardId) -> None:
        if "drop forgotten" in self._world.bugs:
            return
        self._drains.pop(shard_id, None)
        self.handoffs.pop(shard_id, None)
        self._host.drop(shard_id)


def _told(steps: OwnershipActions) -> str:
    return ", ".join(f"{name} {did}" for name, did in zip(OwnershipActions._fields, steps, strict=True) if did)
