"""Every interleaving of a small cluster: breadth first over the product's reconciler core on the model's statements.

Two workers, two shards, one handoff (by a plan, or because a worker leaves), and a budget of faults: a crash, a pause, a
lost session.  A step is one statement that takes effect, one answer or event that arrives, one fault, or a tick of the
clock.  Time passes only when every running worker waits: within a tick the order of steps is free, and a slow worker is
one that is paused.  States that were reached before are not explored again: a state is the database, the hosts, the
cores with their positions, and the messages in flight, with times relative to the present.

Each step checks the invariants of `Watch`.  From each state at the last tick the cluster runs on without faults, in one
order, and must serve every shard (`served`).
"""

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import pytest

from shard_worker.domain.ids import ShardId
from shard_worker.ownership import failure_detector, handoff, reconciler_core
from shard_worker.ownership import reconciler_requests as ask
from shard_worker.ownership.failure_detector import Fenced
from shard_worker.ownership.reconciler_core import ReconcilerCore
from tests.simulation import invariants
from tests.simulation.database import Database, WorkerRecord
from tests.simulation.invariants import Watch
from tests.simulation.reconciler import STATEMENTS
from tests.simulation.state_key import Encoder, position_of
from tests.simulation.violation import Violation

TICK_S: Final = 0.25
LEASE_S: Final = 0.5
_NAMES: Final = ("a", "b")
_SETTLE_TICKS: Final = 24
_HANDOFFS_AT_ONCE: Final = 1
_AT_ONCE: Final = (ask.OpenSession, ask.Pause, ask.CatchUp, ask.RecordStartSeqs)
"""Requests that are answered at once: their time changes no decision."""


class Bounds(NamedTuple):
    """How much may happen."""

    ticks: int
    limits: Mapping[str, int] = {}  # never changed
    """The number of ``crashes``, ``pauses``, ``losses`` (sessions, with a statement in flight) and ``appends``."""
    leaving: bool = False
    """Worker ``a`` leaves; else a plan moves its first shard, or as many as ``moved``."""
    moved: int = 1


class Found(NamedTuple):
    """The end of a search."""

    states: int
    depth: int
    """Every state within this number of steps was explored."""
    complete: bool
    """Whether the frontier is empty."""


@dataclass
class _Shard:
    """A shard in a worker's memory."""

    epoch: int
    head: int
    admits: bool = True
    in_flight: bool = False

    @property
    def idle(self) -> bool:
        return not self.in_flight


@dataclass
class _Lock:
    """The lock of a lease session."""

    beat: int = 0
    locked_at: float = 0.0


class _Zero:
    """In place of a source of chance: `Database` draws none here."""

    def random(self) -> float:
        return 0.0


class _Worker:
    """One process: its core at a position, its lease, and its shards."""

    def __init__(self, cluster: "Cluster", name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.incarnation = f"{name}1"
        self.alive = True
        self.paused = False
        self.leaving = False
        self.until = 0.0
        self.shards: dict[ShardId, _Shard] = {}
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
                for shard_id, head in request.heads.items():
                    watch.adopted(shard_id, request.epochs[shard_id], head)
                    self.shards[shard_id] = _Shard(request.epochs[shard_id], head)
                    watch.reads(cluster.db, self, shard_id)  # type: ignore[arg-type]  # a host in all that is asked of it
            case ask.Drop():
                self.shards.pop(request.shard_id, None)
            case ask.Resume():
                if request.shard_id in self.shards:
                    self.shards[request.shard_id].admits = True
                    watch.reads(cluster.db, self, request.shard_id)  # type: ignore[arg-type]  # as above
            case ask.StartPrepare():
                self.preparing[request.shard_id] = request.handoff
            case ask.StartDrain():
                self.draining.append(request.shard_id)
                if request.shard_id in self.shards:
                    self.shards[request.shard_id].admits = False
            case ask.CancelDrain():
                if request.shard_id in self.draining:
                    self.draining.remove(request.shard_id)
            case ask.NotifyTransferred():
                cluster.notifications.append(
                    (request.receiver.worker, request.shard_id, *request.receiver[1:3], request.head)
                )
            case ask.CycleDone():
                watch.handoffs(self, self.core.handoffs)  # type: ignore[arg-type]  # as above
        return None


_REMOTE: Final = tuple(each for each in STATEMENTS if each is not ask.RecordStartSeqs)


class Cluster:
    """One state."""

    def __init__(self, bounds: Bounds) -> None:
        self.now = 0.0
        self.left = dict.fromkeys(("ticks", "crashes", "pauses", "losses", "appends"), 0)
        self.watch = Watch(self.clock, None, 9, _HANDOFFS_AT_ONCE)
        self.db = Database(2, _Zero(), self.watch, self.clock)  # type: ignore[arg-type]  # nothing is drawn or scheduled
        self.db.terminates = False
        self.notifications: list[tuple[str, ShardId, str, int, int | None]] = []
        self.late: list[tuple[str, ask.Request]] = []
        """Statements of lost sessions, by worker."""
        for name in _NAMES:
            row = self.db.workers[name] = WorkerRecord(name)
            row.incarnation, row.fenced, row.attempt = f"{name}1", False, 1
            self.db.locks[row.incarnation, 1] = _Lock()  # type: ignore[assignment]  # all of a session that is asked for
        for shard in self.db.shards.values():
            shard.epoch, shard.owner, shard.incarnation, shard.target, shard.last = 1, "a", "a1", "a", "a1"
        self.db.plan_version = 1
        self.workers = {name: _Worker(self, name) for name in _NAMES}
        self.watch.hosts = {each.incarnation: each for each in self.workers.values()}  # type: ignore[misc]  # as above
        for _ in range(4):
            self.settle()
        for shard_id in list(self.db.shards)[: bounds.moved] if not bounds.leaving else ():
            self.db.shards[shard_id].target = "b"
            self.db.plan_version = self.db.shards[shard_id].plan_version = 2
        self.workers["a"].leaving = bounds.leaving
        self.left.update(bounds.limits, ticks=bounds.ticks)

    def clock(self) -> float:
        """The present."""
        return self.now

    # --- steps

    def steps(self) -> list[tuple[str, ...]]:
        """The steps that are possible."""
        found: list[tuple[str, ...]] = []
        for name, worker in self.workers.items():
            if worker.alive:
                found += self._of(name, worker)
        found += [
            ("notify", str(number)) for number, each in enumerate(self.notifications) if self.workers[each[0]].running
        ]
        found += [("late", str(number)) for number in range(len(self.late))]
        if self.left["ticks"] and all(
            each.waits and not each.drained() for each in self.workers.values() if each.running
        ):
            found.append(("tick",))
        return found

    def _of(self, name: str, worker: _Worker) -> Iterator[tuple[str, ...]]:
        if not worker.waits and worker.answer is None:
            yield "execute", name
        for shard_id, shard in worker.shards.items():
            if shard.in_flight:
                yield "append", name, str(shard_id)
        if worker.paused:
            yield "go on", name
            return
        if worker.answer is not None:
            yield "answer", name
        if not worker.waits and self.left["losses"]:
            yield "lose", name
        other = self.workers["b" if name == "a" else "a"]
        for shard_id in worker.preparing if other.running else ():
            yield "prepared", name, str(shard_id)
        for shard_id in worker.drained():
            yield "drained", name, str(shard_id)
        for shard_id, shard in worker.shards.items():
            if shard.admits and shard.idle and self.left["appends"]:
                yield "send", name, str(shard_id)
        if self.left["crashes"]:
            yield "crash", name
        if self.left["pauses"]:
            yield "pause", name

    def take(self, step: tuple[str, ...]) -> None:
        """Take a step."""
        kind, *about = step
        if kind == "tick":
            self.left["ticks"] -= 1
            self._tick()
        elif kind == "notify":
            name, shard_id, incarnation, epoch, head = self.notifications.pop(int(about[0]))
            self.workers[name].event("on_transferred", shard_id, epoch, incarnation, head)
        elif kind == "late":
            name, statement = self.late.pop(int(about[0]))
            self._execute(self.workers[name], statement)
        else:
            self._take(kind, self.workers[about[0]], ShardId(int(about[1])) if len(about) > 1 else ShardId(0))

    def _take(self, kind: str, worker: _Worker, shard_id: ShardId) -> None:
        match kind:
            case "execute":
                assert worker.pending is not None
                worker.answer = (self._execute(worker, worker.pending),)
            case "answer":
                worker.deliver()
            case "lose":
                self.left["losses"] -= 1
                if (late := worker.lose()) is not None:
                    self.late.append((worker.name, late))
            case "prepared":
                worker.event("prepare_ended", shard_id, worker.preparing.pop(shard_id), ready=True, now=self.now)
            case "drained":
                worker.draining.remove(shard_id)
                head = worker.shards[shard_id].head if shard_id in worker.shards else None
                worker.event("drain_ended", shard_id, head, failed=False, now=self.now)
            case "send":
                self.left["appends"] -= 1
                worker.shards[shard_id].in_flight = True
            case "append":
                self._append(worker, shard_id)
            case "crash":
                self.left["crashes"] -= 1
                self.watch.hurt(worker.name, self.now)
                del self.db.locks[worker.incarnation, 1]
                if worker.pending is not None and not worker.waits and worker.answer is None:
                    self.late.append((worker.name, worker.pending))
                worker.end()
            case "pause":
                self.left["pauses"] -= 1
                self.watch.hurt(worker.name, self.now)
                worker.paused = True
            case "go on":
                worker.paused = False
                self.watch.all_reads(self.db, worker)  # type: ignore[arg-type]  # as above
                self._heartbeat(worker)
                worker.resume()

    def _execute(self, worker: _Worker, statement: ask.Request) -> object:
        return STATEMENTS[type(statement)](worker.name, worker.incarnation, statement).run(self.db)

    def _append(self, worker: _Worker, shard_id: ShardId) -> None:
        """An append takes effect, and its answer arrives."""
        shard, row = worker.shards[shard_id], self.db.shards[shard_id]
        shard.in_flight = False
        if (row.epoch, row.incarnation) != (shard.epoch, worker.incarnation):
            del worker.shards[shard_id]
            return
        if shard.head != self.db.head(shard_id):
            raise Violation("journal", f"shard {shard_id}: {shard.head + 1} is stored after {self.db.head(shard_id)}")
        shard.head += 1
        self.db.journal[shard_id].append((shard.epoch, worker.incarnation, 0))
        self.watch.acknowledged(shard_id, shard.epoch, shard.head)

    def _tick(self) -> None:
        self.now += TICK_S
        for worker in self.workers.values():
            if worker.running:
                self._heartbeat(worker)
        for worker in self.workers.values():
            if worker.running:
                worker.resume()

    def _heartbeat(self, worker: _Worker) -> None:
        row = self.db.workers[worker.name]
        if row.fenced:
            worker.end()
            return
        self.db.locks[worker.incarnation, 1].beat += 1
        row.beat_at = self.now
        worker.until = self.now + LEASE_S
        self.watch.all_reads(self.db, worker)  # type: ignore[arg-type]  # as above

    # --- the end

    def settle(self) -> None:
        """Let a tick pass, in one order of steps, without faults."""
        while True:
            found = [step for step in self.steps() if step[0] not in ("tick", "late")]
            if not found:
                break
            self.take(found[0])
        self._tick()

    def prove_served(self) -> None:
        """Without further faults every shard is served by a live owner in the end."""
        self.left = dict.fromkeys(self.left, 0)
        for _ in range(_SETTLE_TICKS):
            self.settle()
        living = {each.incarnation: each for each in self.workers.values() if each.running}
        if all(each.leaving for each in living.values()):  # a leaving worker releases its shards, and ends
            return
        for row in self.db.shards.values():
            shard = living[row.incarnation].shards.get(row.id) if row.incarnation in living else None
            if living and (shard is None or not shard.admits or shard.epoch != row.epoch):
                raise Violation("served", f"shard {row.id} of {row.incarnation} at epoch {row.epoch} is not served")
            if row.target != row.owner and row.target in {each.name for each in living.values() if not each.leaving}:
                raise Violation("served", f"shard {row.id} of {row.owner} is wanted on {row.target}")
        for worker in living.values():
            for shard_id in worker.shards:
                if self.db.shards[shard_id].incarnation != worker.incarnation:
                    raise Violation("served", f"shard {shard_id} is still in the memory of {worker.name}")

    # --- identity

    def key(self) -> int:
        """The same for two states that go on alike."""
        db, code = self.db, Encoder(self.now)
        heads = tuple(map(db.head, db.journal))
        return hash(
            (
                tuple(self.left.values()),
                code(
                    (
                        list(db.workers.values()),
                        list(db.shards.values()),
                        db.plan_version,
                        heads,
                        list(db.locks.values()),
                    )
                ),
                code((sorted(self.notifications, key=str), sorted(self.late, key=str))),
                tuple(
                    (
                        each.alive,
                        each.paused,
                        code((each.until, each.shards, each.preparing, each.draining, each.pending, each.answer)),
                        code(vars(each.core)) if each.alive else None,
                        position_of(each.steps, code) if each.alive else None,
                    )
                    for each in self.workers.values()
                ),
            )
        )


@contextmanager
def small_waits() -> Iterator[None]:
    """Waits of few ticks, in the same order as the product's."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (failure_detector, invariants):
            patch.setattr(module, "TTL_S", 1.0)
        patch.setattr(handoff, "HANDOFFS_AT_ONCE", _HANDOFFS_AT_ONCE)
        patch.setattr(handoff, "PREPARE_S", 1.0)
        patch.setattr(handoff, "DRAIN_S", 1.0)
        patch.setattr(reconciler_core, "VIEWS_APART_S", 0.0)
        yield


def search(bounds: Bounds, most_states: int = 1_000_000) -> Found:
    """Explore every state within the bounds.  Raises `Violation`, with the steps that lead to it."""
    first = Cluster(bounds)
    frontier = [(pickle.dumps(first), ())]
    seen = {first.key()}
    depth = 0
    while frontier:
        following: list[tuple[bytes, Any]] = []
        for state, path in frontier:
            cluster: Cluster = pickle.loads(state)  # our own bytes
            possible = cluster.steps()
            for number, step in enumerate(possible):
                if number:
                    cluster = pickle.loads(state)  # our own bytes
                try:
                    cluster.take(step)
                    key = cluster.key()
                    if key in seen:
                        continue
                    seen.add(key)
                    following.append((pickle.dumps(cluster), (step, path)))
                    if not cluster.left["ticks"] and step == ("tick",):
                        cluster.prove_served()
                except Violation as violation:
                    violation.add_note("\n".join(" ".join(each) for each in _steps((step, path))))
                    raise
            if len(seen) >= most_states:
                return Found(len(seen), depth, complete=False)
        frontier = following
        depth += 1
    return Found(len(seen), depth, complete=True)


def _steps(path: Any) -> list[tuple[str, ...]]:
    steps = []
    while path:
        step, path = path
        steps.append(step)
    return steps[::-1]
