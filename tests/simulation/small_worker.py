"""One worker of the exhaustive search: its core at a position, its lease, and its shards in memory.

A worker is copied by pickling.  A generator cannot be pickled, so the current turn is replayed on the core as it was
before the turn.
"""

import pickle
from dataclasses import dataclass
from typing import Any, Final, Protocol

from shard_worker.domain.ids import ShardId
from shard_worker.ownership import reconciler_requests as ask
from shard_worker.ownership.failure_detector import Fenced
from shard_worker.ownership.reconciler_core import ReconcilerCore
from tests.simulation.database import Database
from tests.simulation.invariants import Watch
from tests.simulation.reconciler import STATEMENTS

_AT_ONCE: Final = (ask.OpenSession, ask.Pause, ask.CatchUp, ask.RecordStartSeqs)
"""Requests that are answered at once: their time changes no decision."""
_REMOTE: Final = tuple(each for each in STATEMENTS if each is not ask.RecordStartSeqs)


class Surroundings(Protocol):
    """The cluster as a worker sees it."""

    now: float
    db: Database
    watch: Watch
    notifications: list[tuple[str, ShardId, str, int, int | None]]
    """Transfers that their new owners do not know of yet: worker, shard, incarnation, epoch, head."""


@dataclass
class SmallShard:
    """A shard in a worker's memory."""

    epoch: int
    head: int
    admits: bool = True
    in_flight: bool = False

    @property
    def idle(self) -> bool:
        return not self.in_flight


class SmallWorker:
    """One process."""

    def __init__(self, cluster: Surroundings, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.incarnation = f"{name}1"
        self.alive = True
        self.paused = False
        self.leaving = False
        self.until = 0.0
        self.shards: dict[ShardId, SmallShard] = {}
        self.preparing: dict[ShardId, Any] = {}
        self.draining: list[ShardId] = []
        self.pending: ask.Request | None = None
        """The statement in flight, or a `Wait`."""
        self.answer: tuple[object] | None = None
        """The answer that is on its way back."""
        self.core = ReconcilerCore(name, self.incarnation)
        self._begin()

    # --- copies: a generator cannot be copied, so the current turn is replayed on the core as it was before

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name not in ("core", "steps")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.core = pickle.loads(self.before)  # our own bytes
        self.steps = self.core.turn()
        next(self.steps)
        for kind, value in self.inputs:
            if kind == "event":
                name, args, named = value
                getattr(self.core, name)(*args, **named)
            elif kind == "lost":
                self.steps.throw(ask.SessionLost())
            else:
                self.steps.send(value)

    def _begin(self) -> None:
        """Begin a turn of the core."""
        self.before = pickle.dumps(self.core)
        self.inputs: list[tuple[str, Any]] = []
        self.steps = self.core.turn()
        self._go_on(next(self.steps))

    def _go_on(self, request: ask.Request) -> None:
        """Answer local requests until the core waits for a message or for time."""
        while not isinstance(request, (ask.Wait, *_REMOTE)):
            answer = None if isinstance(request, _AT_ONCE) else self._local(request)
            self.inputs.append(("answer", answer))
            try:
                request = self.steps.send(answer)
            except StopIteration:
                self._begin()  # a turn in which the session was lost ends without a wait
                return
        self.pending = request

    # --- inputs

    @property
    def running(self) -> bool:
        return self.alive and not self.paused

    @property
    def waits(self) -> bool:
        return isinstance(self.pending, ask.Wait)

    def drained(self) -> list[ShardId]:
        """The shards whose drain can end: an append may be in flight for some ticks."""
        return [each for each in self.draining if each not in self.shards or self.shards[each].idle]

    def may_read(self) -> bool:
        """The lease."""
        return self.running and self.cluster.now < self.until

    def resume(self) -> None:
        """The wait is over."""
        if isinstance(self.pending, ask.Wait):
            try:
                self.steps.send(None)
            except StopIteration:
                self._begin()

    def deliver(self) -> None:
        """The answer arrives."""
        assert self.answer is not None
        value, self.answer = self.answer[0], None
        self.inputs.append(("answer", value))
        try:
            self._go_on(self.steps.send(value))
        except Fenced:
            self.end()

    def lose(self) -> ask.Request | None:
        """The session is lost; returns the statement that may still take effect."""
        late = self.pending if self.answer is None else None
        self.answer = None
        self.inputs.append(("lost", None))
        self._go_on(self.steps.throw(ask.SessionLost()))
        return late

    def event(self, name: str, *args: object, **named: object) -> None:
        """Something beside the session has ended."""
        self.inputs.append(("event", (name, args, named)))
        getattr(self.core, name)(*args, **named)
        self.resume()

    def end(self) -> None:
        """The incarnation is over."""
        self.alive = False
        self.shards.clear()
        self.pending = self.answer = None
        self.cluster.watch.hosts.pop(self.incarnation, None)

    # --- local requests

    def _local(self, request: ask.Request) -> object:
        cluster, watch = self.cluster, self.cluster.watch
        match request:
            case ask.Observe():
                serving = {shard_id for shard_id, shard in self.shards.items() if shard.admits}
                return ask.Observation(cluster.now, self.leaving, False, set(self.shards), serving)
            case ask.Adopt():
                self._adopt(request)
            case ask.Drop():
                self.shards.pop(request.shard_id, None)
            case ask.Resume():
                self._resume_admission(request.shard_id)
            case ask.StartPrepare():
                self.preparing[request.shard_id] = request.handoff
            case ask.StartDrain():
                self._start_drain(request.shard_id)
            case ask.CancelDrain():
                if request.shard_id in self.draining:
                    self.draining.remove(request.shard_id)
            case ask.NotifyTransferred():
                cluster.notifications.append(
                    (request.receiver.worker, request.shard_id, *request.receiver[1:3], request.head)
                )
            case ask.CycleDone():
                watch.handoffs(self, self.core.handoffs)  # type: ignore[arg-type]  # as in `_adopt`
        return None

    def _adopt(self, request: ask.Adopt) -> None:
        watch = self.cluster.watch
        for shard_id, head in request.heads.items():
            watch.adopted(shard_id, request.epochs[shard_id], head)
            self.shards[shard_id] = SmallShard(request.epochs[shard_id], head)
            watch.reads(self.cluster.db, self, shard_id)  # type: ignore[arg-type]  # a host in all that is asked of it

    def _resume_admission(self, shard_id: ShardId) -> None:
        if shard_id in self.shards:
            self.shards[shard_id].admits = True
            self.cluster.watch.reads(self.cluster.db, self, shard_id)  # type: ignore[arg-type]  # as in `_adopt`

    def _start_drain(self, shard_id: ShardId) -> None:
        self.draining.append(shard_id)
        if shard_id in self.shards:
            self.shards[shard_id].admits = False
