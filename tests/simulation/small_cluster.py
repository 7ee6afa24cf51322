"""The cluster of the exhaustive search, as one state: the steps that are possible in it, and what each of them does.

A step is one statement that takes effect, one answer or event that arrives, one fault, or a tick of the clock.  Time
passes only when every running worker waits: within a tick the order of steps is free, and a slow worker is one that is
paused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from shard_worker.domain.ids import ShardId
from shard_worker.ownership import reconciler_requests as ask
from tests.simulation.database import Database, WorkerRecord
from tests.simulation.invariants import Watch
from tests.simulation.reconciler import STATEMENTS
from tests.simulation.small_worker import SmallWorker
from tests.simulation.state_key import Encoder, position_of
from tests.simulation.violation import Violation

TICK_S: Final = 0.25
LEASE_S: Final = 0.5
HANDOFFS_AT_ONCE: Final = 1
_NAMES: Final = ("a", "b")
_SETTLE_TICKS: Final = 24


class Bounds(NamedTuple):
    """How much may happen."""

    ticks: int
    limits: Mapping[str, int] = {}  # never changed
    """The number of ``crashes``, ``pauses``, ``losses`` (sessions, with a statement in flight) and ``appends``."""
    leaving: bool = False
    """Worker ``a`` leaves; else a plan moves its first shard, or as many as ``moved``."""
    moved: int = 1


@dataclass
class _Lock:
    """The lock of a lease session."""

    beat: int = 0
    locked_at: float = 0.0


class _Zero:
    """In place of a source of chance: `Database` draws none here."""

    def random(self) -> float:
        return 0.0


class Cluster:
    """One state."""

    def __init__(self, bounds: Bounds) -> None:
        self.now = 0.0
        self.left = dict.fromkeys(("ticks", "crashes", "pauses", "losses", "appends"), 0)
        self.watch = Watch(self.clock, None, 9, HANDOFFS_AT_ONCE)
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
        self.workers = {name: SmallWorker(self, name) for name in _NAMES}
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

    def _of(self, name: str, worker: SmallWorker) -> Iterator[tuple[str, ...]]:
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
        yield from self._events_of(name, worker)
        if self.left["crashes"]:
            yield "crash", name
        if self.left["pauses"]:
            yield "pause", name

    def _events_of(self, name: str, worker: SmallWorker) -> Iterator[tuple[str, ...]]:
        """The ends of preparations and drains, and the appends that may be sent."""
        other = self.workers["b" if name == "a" else "a"]
        for shard_id in worker.preparing if other.running else ():
            yield "prepared", name, str(shard_id)
        for shard_id in worker.drained():
            yield "drained", name, str(shard_id)
        for shard_id, shard in worker.shards.items():
            if shard.admits and shard.idle and self.left["appends"]:
                yield "send", name, str(shard_id)

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

    def _take(self, kind: str, worker: SmallWorker, shard_id: ShardId) -> None:
        match kind:
            case "execute":
                assert worker.pending is not None
                worker.answer = (self._execute(worker, worker.pending),)
            case "answer":
                worker.deliver()
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
            case _:
                self._fault(kind, worker)

    def _fault(self, kind: str, worker: SmallWorker) -> None:
        """A fault takes effect, or a pause ends."""
        match kind:
            case "lose":
                self.left["losses"] -= 1
                if (late := worker.lose()) is not None:
                    self.late.append((worker.name, late))
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

    def _execute(self, worker: SmallWorker, statement: ask.Request) -> object:
        return STATEMENTS[type(statement)](worker.name, worker.incarnation, statement).run(self.db)

    def _append(self, worker: SmallWorker, shard_id: ShardId) -> None:
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

    def _heartbeat(self, worker: SmallWorker) -> None:
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
