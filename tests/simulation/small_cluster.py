"""The cluster of the exhaustive search, as one state: the steps that are possible in it, and what each of them does.

A step is one statement that takes effect, one answer or event that arrives, one fault, a planner's look or order, or a
tick of the clock.  Time passes only when every running worker waits: within a tick the order of steps is free, and a slow
worker is one that is paused.

The parts of a state never change: a step replaces those that it touches, and a copy shares them.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import Any, Final, NamedTuple

from threadcluster_operator.api import PinSpec, RebalanceSpec, ThreadClusterSpec
from threadcluster_operator.planning.planner import next_steps

from shard_worker.domain.ids import ShardId
from tests.simulation.invariants import Watch
from tests.simulation.planner import CLUSTER, freshness, moves_of, observed
from tests.simulation.run import no_returns
from tests.simulation.small_database import Call, Operation, SmallDatabases
from tests.simulation.small_worker import Effect, Host, SmallWorkers, WorkerState, hosts
from tests.simulation.state_key import Origin, Table, coded, renamed
from tests.simulation.violation import Violation

TICK_S: Final = 0.25
LEASE_S: Final = 0.5
LEASE_OVER_S: Final = 0.2
HANDOFFS_AT_ONCE: Final = 1
MOST_MOVES: Final = 1
NAMES: Final = (f"{CLUSTER}-0", f"{CLUSTER}-1")
_SETTLE_TICKS: Final = 24
_UNLOCKED_TICKS: Final = 3
"""Maximum number of ticks after which a lost session of a lease is replaced."""
_SPECS: Final = tuple(
    ThreadClusterSpec(
        replicas=2,
        rebalance=RebalanceSpec(
            max_concurrent_moves=MOST_MOVES, pins=[PinSpec(shard=number, worker=NAMES[1])] if number >= 0 else []
        ),
    )
    for number in (-1, 0, 1)
)
"""The wishes of the users: at first without pins, then each edit pins another shard."""
Step = tuple[str, ...]


class Bounds(NamedTuple):
    """How much may happen, and how it begins."""

    ticks: int
    limits: Mapping[str, int] = {}  # never changed
    """The number of each of `FAULTS`, and of ``appends``."""
    leaving: bool = False
    """The first worker leaves; else a plan moves its first shard, or as many as ``moved``."""
    moved: int = 1
    free: int = 0
    """The number of shards that have neither an owner nor a target; nothing is moved."""
    planned: bool = False
    """Two planners look and order; nothing is moved at first."""
    cordon: str = ""
    """The first worker is ``cordoned`` or ``draining``."""


FAULTS: Final = {
    "crashes": "a process ends; a statement that it has sent may come late",
    "starts": "a process begins under the name of one that ended",
    "pauses": "a process is stopped; a statement that it has sent goes on",
    "losses": "a session is lost with a statement in flight, which may come late",
    "unlocks": "the session of a lease is lost, and replaced some ticks later",
    "restarts": "the database loses all sessions and locks",
    "leaves": "a process gives up what it has, and ends",
    "edits": "the users want another placement",
}


class PlannerState(NamedTuple):
    """A planner at one moment."""

    plan: int | None = None
    """The number of the plan that it is about to order, with the shards that move by it."""
    seen: tuple[int, int] = (-1, -1)
    """The view and the wish that it has looked at."""
    balancing: bool = False


class _Known:
    """The tables that the states of one search share."""

    def __init__(self) -> None:
        self.values = Table()
        self.workers = SmallWorkers(self.values)
        self.databases = SmallDatabases(self.values)
        self.keys = Table()
        self.origins = Table()
        self.of_parts: dict[tuple[str, int, int], int] = {}
        self.proved: set[object] = set()
        """States without faults to come from which every shard is served in the end."""

    def part(self, kind: str, number: int, code: object, origin: tuple[int, Origin]) -> int:
        """The number of a part of a state, alike for those that go on alike."""
        key = (kind, number, origin[0])
        if (found := self.of_parts.get(key)) is None:
            found = self.of_parts[key] = self.keys.put((kind, renamed(code, origin[1])))
        return found

    def worker(self, state: WorkerState, origin: tuple[int, Origin]) -> int:
        """The same of a worker."""
        key = ("worker", state.id, origin[0])
        if (found := self.of_parts.get(key)) is None:
            code = tuple([self.part("code", each, self.workers.code(each), origin) for each in state.code])
            found = self.of_parts[key] = self.keys.put(code)
        return found


class Cluster:
    """One state."""

    __slots__ = (
        *("_own", "db", "known", "late", "left", "notifications", "now", "planners"),
        *("watch", "watched", "wish", "workers"),
    )

    def __init__(self, bounds: Bounds) -> None:
        self.known = _Known()
        self.now = 0.0
        self.left = dict.fromkeys(("ticks", "appends", *FAULTS), 0)
        self.watch = Watch(lambda: 0.0, None, MOST_MOVES, HANDOFFS_AT_ONCE)
        self._own = True
        self.watched = 0
        """The number of the knowledge of the watch."""
        self.db = self.known.databases.first(NAMES, 2)
        self.notifications: tuple[tuple[Any, ...], ...] = ()
        """Transfers that their new owners do not know of yet: worker, shard, epoch, incarnation, head."""
        self.late: tuple[tuple[str, str, int], ...] = ()
        """Statements of lost sessions: worker, incarnation and number."""
        self.wish = 0
        """The present one of `_SPECS`."""
        self.planners: tuple[PlannerState, ...] = ()
        self.workers: dict[str, WorkerState] = {}
        for name in NAMES:
            self._start(name, f"{name}/1")
            self._join(name)
        for _ in range(4):
            self.settle()
        for name in NAMES:  # so that beats of an earlier attempt can be met again
            self._lock(name)
        self.settle()
        self._begin(bounds)

    def _begin(self, bounds: Bounds) -> None:
        first = NAMES[0]
        if bounds.free:
            for shard_id in list(self.db.db.shards)[: bounds.free]:
                self._event(first, "refused", shard_id)
                self._do("free", shard_id)
        elif bounds.planned:
            self.planners = (PlannerState(), PlannerState())
        elif not bounds.leaving:
            for shard_id in list(self.db.db.shards)[: bounds.moved]:
                self._do("target", shard_id, NAMES[1])
        if bounds.cordon:
            self._do("cordon", first, bounds.cordon == "draining")
        if bounds.leaving:
            self.watch.hurt(first, self.now)
            self._event(first, "leave")
        self.left = self.left | dict(bounds.limits) | {"ticks": bounds.ticks}

    def copy(self) -> "Cluster":
        """The same state."""
        new = object.__new__(Cluster)
        for name in Cluster.__slots__:
            setattr(new, name, getattr(self, name))
        new._own = False
        return new

    # --- steps

    def steps(self) -> list[Step]:
        """The steps that are possible."""
        found: list[Step] = []
        for name, worker in self.workers.items():
            if worker.alive:
                found += self._of(name, worker)
            elif self.left["starts"]:
                found.append(("start", name))
        for number, each in enumerate(self.notifications):
            if self.workers[each[0]].running:
                found.append(("notify", str(number)))
        found += [("late", str(number)) for number, each in enumerate(self.late) if self._may("ask", *each)]
        found += [("stored", str(number)) for number in range(len(self.db.appends))]
        for number, planner in enumerate(self.planners):
            found += self._of_planner(str(number), planner)
        if self.left["edits"] and self.wish + 1 < len(_SPECS):
            found.append(("edit",))
        if self.left["restarts"] and not self.db.appends and not any(each.paused for each in self.workers.values()):
            found.append(("restart",))
        if self.left["ticks"] and all(self._idle(each) for each in self.workers.values() if each.running):
            found.append(("tick",))
        return found

    def _idle(self, worker: WorkerState) -> bool:
        """Whether it waits for time alone."""
        if worker.begins_at is not None:
            return self.now < worker.begins_at - 1e-6
        if worker.unlocked_at is not None and self.now > worker.unlocked_at + (_UNLOCKED_TICKS - 1) * TICK_S:
            return False
        return worker.waits and not worker.drained() and not (worker.leaving and not worker.owns)

    def _of(self, name: str, worker: WorkerState) -> Iterator[Step]:
        if worker.at_server and self._may("ask", name, worker.incarnation, worker.statement):
            yield "execute", name
        for shard_id, shard in worker.shards.items():
            if shard.in_flight and (shard_id, worker.incarnation) not in self.db.appends:
                yield "append", name, str(shard_id)
        if worker.paused:
            yield "go on", name
        elif worker.begins_at is not None:
            if self.now >= worker.begins_at - 1e-6:
                yield "join", name
        else:
            if worker.answer is not None:
                yield "answer", name
            if worker.unlocked_at is not None:
                yield "lock", name
            yield from self._events_of(name, worker)
            yield from self._faults_of(name, worker)

    def _events_of(self, name: str, worker: WorkerState) -> Iterator[Step]:
        """The ends of preparations and drains, the appends that may be sent, and the end of a worker that leaves."""
        other = self.workers[NAMES[name == NAMES[0]]]
        for shard_id in worker.preparing if other.running and other.member else ():
            yield "prepared", name, str(shard_id)
        for shard_id in worker.drained():
            yield "drained", name, str(shard_id)
        for shard_id, shard in worker.shards.items():
            if shard.admits and shard.idle and self.left["appends"]:
                yield "send", name, str(shard_id)
        if worker.leaving and not worker.owns:
            yield "retire", name

    def _faults_of(self, name: str, worker: WorkerState) -> Iterator[Step]:
        if self.left["losses"] and not worker.waits:
            yield "lose", name
        if self.left["crashes"]:
            yield "crash", name
        if self.left["pauses"]:
            yield "pause", name
        if self.left["leaves"] and not worker.leaving:
            yield "leave", name
        if self.left["unlocks"] and worker.unlocked_at is None:
            yield "unlock", name

    def _of_planner(self, number: str, planner: PlannerState) -> Iterator[Step]:
        if planner.plan is not None:
            yield "order", number
        elif (newest := self._newest()) is not None and planner.seen != (newest.looked, self.wish):
            yield "look", number

    def _newest(self) -> WorkerState | None:
        """The worker whose view is the newest."""
        asked = [each for each in self.workers.values() if each.running and each.view.shards]
        return max(asked, key=lambda each: freshness(each.view), default=None)

    def take(self, step: Step) -> None:
        """Take a step."""
        kind, *about = step
        _TAKE[kind](self, *about)

    # --- parts

    def _use(self, kind: str) -> None:
        self.left = self.left | {kind: self.left[kind] - 1}

    def _may(self, *operation: Any) -> bool:
        return self.known.databases.may(self.db, operation)

    def _do(self, *operation: Any) -> int:
        """Something happens in the database; the number of its answer."""
        return self._done(operation)

    def _done(self, operation: Operation) -> int:
        self.db, answer, calls = self.known.databases.after(self.db, self.now, operation)
        if calls:
            watch = self._own_watch()
            watch.hosts = hosts(self.workers.values(), self.now)  # type: ignore[assignment]  # all of a host that is asked for
            for call in calls:
                self._tell(watch, call)
            self._note_watch()
        return answer

    def _value(self, *operation: Any) -> Any:
        """The same, with the answer itself."""
        return self.known.values.values[self._done(operation)]

    def _tell(self, watch: Watch, call: Call) -> None:
        db = self.db.db
        match call:
            case ("changed", shard_id, before, kind):
                watch.changed(db, db.shards[shard_id], before, kind)
            case ("fenced", worker, incarnation, replaced):
                watch.fenced(db, worker, incarnation, replaced=replaced)
            case ("registered", worker, before, incarnation):
                watch.registered(worker, before, incarnation)
            case ("targeted", shard_id):
                watch.targeted(db.shards[shard_id])
            case ("ordered", moves):
                watch.ordered(db, moves)
            case ("stored", before, append, shard_id, epoch, first):
                watch.stored(before, append, shard_id, epoch, first)

    def _own_watch(self) -> Watch:
        if not self._own:
            self.watch, self._own = _copied(self.watch), True
        now = self.now
        self.watch.now = lambda: now
        return self.watch

    def _note_watch(self) -> None:
        watch = self.watch
        code = coded(
            (
                *(watch._acknowledged, watch._adopted, watch._taken),
                *(watch._moving, watch._replaced_at, set(watch.hurt_at)),
            )
        )
        self.watched = self.known.values.put(code, code)

    def _event(self, name: str, *event: Any) -> None:
        """Something happens to a worker."""
        state, effects = self.known.workers.after(self.workers[name], self.now, event)
        self.workers = self.workers | {name: state}
        if effects:
            host: Any = hosts([state], self.now).get(state.incarnation, Host(state.incarnation, {}, False))
            for effect in effects:
                self._effect(host, effect)

    def _effect(self, host: Any, effect: Effect) -> None:
        match effect:
            case ("adopted", shard_id, epoch, head):
                watch = self._own_watch()
                watch.adopted(shard_id, epoch, head)
                watch.reads(self.db.db, host, shard_id)
                self._note_watch()
            case ("reads", shard_id):
                self.watch.reads(self.db.db, host, shard_id)
            case ("handoffs", number):
                self.watch.handoffs(host, range(number))
            case ("notify", *notification):
                self.notifications = tuple(sorted((*self.notifications, tuple(notification)), key=str))

    def _reads(self, name: str) -> None:
        """A worker has its lease again."""
        for host in hosts([self.workers[name]], self.now).values():
            self.watch.all_reads(self.db.db, host)  # type: ignore[arg-type]  # all of a host that is asked for

    def _hurt(self, name: str) -> None:
        self._own_watch().hurt(name, self.now)
        self._note_watch()

    # --- what happens

    def _execute(self, name: str) -> None:
        worker = self.workers[name]
        self._event(name, "set", "answer", self._do("ask", name, worker.incarnation, worker.statement))

    def _answer(self, name: str) -> None:
        self._event(name, "deliver")

    def _notify(self, number: str) -> None:
        at = int(number)
        name, *notification = self.notifications[at]
        self.notifications = self.notifications[:at] + self.notifications[at + 1 :]
        if self.workers[name].member:
            self._event(name, "transferred", *notification)

    def _late(self, number: str) -> None:
        at = int(number)
        statement = self.late[at]
        self.late = self.late[:at] + self.late[at + 1 :]
        self._do("ask", *statement)

    def _comes_late(self, worker: WorkerState) -> None:
        """The statement that it has sent may still take effect."""
        if worker.at_server:
            self.late = tuple(sorted((*self.late, (worker.name, worker.incarnation, worker.statement))))

    def _prepared(self, name: str, shard: str) -> None:
        self._event(name, "prepared", ShardId(int(shard)))

    def _drained(self, name: str, shard: str) -> None:
        self._event(name, "drain_ended", ShardId(int(shard)))

    def _send(self, name: str, shard: str) -> None:
        self._use("appends")
        self._event(name, "send", ShardId(int(shard)))

    def _append(self, name: str, shard: str) -> None:
        """An append arrives at the server."""
        worker, shard_id = self.workers[name], ShardId(int(shard))
        row = worker.shards[shard_id]
        if not self._value("append", shard_id, row.epoch, worker.incarnation, row.head + 1):
            self._event(name, "refused", shard_id)

    def _stored(self, number: str) -> None:
        """An append ends, and its answer arrives."""
        shard_id, incarnation = self.db.appends[int(number)]
        self._do("store", int(number))
        for name, worker in self.workers.items():
            if worker.alive and worker.incarnation == incarnation and shard_id in worker.shards:
                self._event(name, "acknowledged", shard_id)
                shard = self.workers[name].shards[shard_id]
                self._own_watch().acknowledged(shard_id, shard.epoch, shard.head)
                self._note_watch()

    def _look(self, number: str) -> None:
        """A planner sees the newest view, and decides."""
        at, newest = int(number), self._newest()
        assert newest is not None
        running, before = frozenset(name for name, each in self.workers.items() if each.alive), self.planners[at]
        result = next_steps(CLUSTER, _SPECS[self.wish], running, observed(newest.view), rebalance_now=before.balancing)
        plan = None
        if result.plan is not None:
            moves = moves_of(result.plan, newest.view)
            plan = self.known.values.put(coded((result.plan, moves)), (result.plan, moves))
        self._planner(at, PlannerState(plan, (newest.looked, self.wish), result.balancing))

    def _order(self, number: str) -> None:
        at = int(number)
        before = self.planners[at]
        self._planner(at, before._replace(plan=None))
        self._do("targets", before.plan)

    def _planner(self, at: int, state: PlannerState) -> None:
        self.planners = (*self.planners[:at], state, *self.planners[at + 1 :])

    def _edit(self) -> None:
        self._use("edits")
        self.wish += 1

    # --- processes

    def _start_again(self, name: str) -> None:
        self._use("starts")
        number = int(self.workers[name].incarnation.partition("/")[2]) + 1
        self._start(name, f"{name}/{number}")

    def _start(self, name: str, incarnation: str) -> None:
        before = self._value("register", name, incarnation)
        wait_s = 0.0 if before in (None, "") else LEASE_S + LEASE_OVER_S
        self.workers = self.workers | {name: self.known.workers.first(name, incarnation, self.now + wait_s)}

    def _join(self, name: str) -> None:
        """The predecessor's lease is over."""
        incarnation = self.workers[name].incarnation
        self._do("free predecessors", name, incarnation)
        self._lock(name)
        if self.workers[name].alive:
            self._event(name, "begin")

    def _lock(self, name: str) -> None:
        """A new session of the lease."""
        if not self._value("lock", name, self.workers[name].incarnation):
            self._event(name, "end")
            return
        self._event(name, "set", "unlocked_at", None)
        self._event(name, "set", "until", self.now + LEASE_S)
        self._reads(name)

    def _heartbeat(self, name: str) -> None:
        worker = self.workers[name]
        if not self._value("beat", name, worker.incarnation):
            self._event(name, "end")
        elif worker.unlocked_at is None:
            self._event(name, "set", "until", self.now + LEASE_S)
            self._reads(name)

    def _tick(self) -> None:
        self.left = self.left | {"ticks": max(0, self.left["ticks"] - 1)}
        self.now += TICK_S
        for name, worker in self.workers.items():
            if worker.running and worker.member:
                self._heartbeat(name)
        for name, worker in self.workers.items():
            if worker.running and worker.member:
                self._event(name, "resume")

    def _retire(self, name: str) -> None:
        """The end of a worker that leaves: its reconciler ends where it is."""
        worker = self.workers[name]
        self._comes_late(worker)
        self._do("unlock", worker.incarnation)
        self._do("retire", name, worker.incarnation)
        self._event(name, "end")

    # --- faults

    def _lose(self, name: str) -> None:
        self._use("losses")
        self._comes_late(self.workers[name])
        self._event(name, "lose")

    def _crash(self, name: str) -> None:
        self._use("crashes")
        self._hurt(name)
        self._comes_late(self.workers[name])
        self._do("unlock", self.workers[name].incarnation)
        self._event(name, "end")

    def _pause(self, name: str) -> None:
        self._use("pauses")
        self._hurt(name)
        self._event(name, "set", "paused", True)

    def _go_on(self, name: str) -> None:
        self._event(name, "set", "paused", False)
        self._reads(name)
        self._heartbeat(name)
        if self.workers[name].alive:
            self._event(name, "resume")

    def _leave(self, name: str) -> None:
        self._use("leaves")
        self._hurt(name)
        self._event(name, "leave")

    def _unlock(self, name: str) -> None:
        self._use("unlocks")
        self._hurt(name)
        self._do("unlock", self.workers[name].incarnation)
        self._event(name, "set", "unlocked_at", self.now)

    def _restart(self) -> None:
        self._use("restarts")
        for name, worker in self.workers.items():
            if worker.alive and worker.member:
                self._do("unlock", worker.incarnation)
                self._event(name, "set", "unlocked_at", self.now)
                self._event(name, "lose")

    # --- the end

    def settle(self) -> None:
        """Let a tick pass, in one order of steps, without faults."""
        while True:
            found = next((step for step in self.steps() if step[0] not in ("tick", "late")), None)
            if found is None:
                break
            self.take(found)
        self._tick()

    def prove_served(self) -> None:
        """Without further faults every shard is served by a live owner in the end, where it is wanted, and stays there."""
        began, trail, proved = self.now, [], self.known.proved
        self.left = dict.fromkeys(self.left, 0)
        for _ in range(_SETTLE_TICKS):
            self.settle()
            key = self.key()
            if key in proved:
                break
            trail.append(key)
        else:
            no_returns(self.watch.changes, began + TICK_S)  # until then orders of before are recorded
            self._expect_served()
        proved.update(trail)

    def _expect_served(self) -> None:
        living = {each.incarnation: each for each in self.workers.values() if each.running}
        if all(each.leaving for each in living.values()):  # a leaving worker releases its shards, and ends
            return
        for row in self.db.db.shards.values():
            shard = living[row.incarnation].shards.get(row.id) if row.incarnation in living else None
            if shard is None or not shard.admits or shard.epoch != row.epoch:
                raise Violation("served", f"shard {row.id} of {row.incarnation} at epoch {row.epoch} is not served")
            if row.target != row.owner and row.target in {each.name for each in living.values() if not each.leaving}:
                raise Violation("served", f"shard {row.id} of {row.owner} is wanted on {row.target}")
        for worker in living.values():
            for shard_id in worker.shards:
                if self.db.db.shards[shard_id].incarnation != worker.incarnation:
                    raise Violation("served", f"shard {shard_id} is still in the memory of {worker.name}")

    # --- identity

    def key(self) -> object:
        """The same for two states that go on alike."""
        known, db = self.known, self.db
        origin = Origin(self.now, db.epochs, db.beats, NAMES)
        at = known.origins.put(origin), origin
        return (
            *self.left.values(),
            self.wish,
            known.part("database", db.id, db.code, at),
            *[known.worker(each, at) for each in self.workers.values()],
            known.part("value", self.watched, known.values.values[self.watched], at),
            renamed(self.notifications, origin),
            *[(each[:2], self._value_key(each[2], at)) for each in self.late],
            *sorted((each.plan or -1, each.balancing, *self._seen_key(each, at)) for each in self.planners),
        )

    def _seen_key(self, planner: PlannerState, at: tuple[int, Origin]) -> tuple[int, int]:
        return (-1 if planner.seen[0] < 0 else self._value_key(planner.seen[0], at)), planner.seen[1]

    def _value_key(self, number: int, at: tuple[int, Origin]) -> int:
        return self.known.part("coded", number, coded(self.known.values.values[number]), at)


def _copied(watch: Watch) -> Watch:
    new = copy(watch)
    for name, value in vars(watch).items():
        if isinstance(value, (dict, list, set)):
            setattr(new, name, copy(value))
    new._acknowledged = {shard_id: dict(heads) for shard_id, heads in watch._acknowledged.items()}
    return new


_TAKE: Final[Mapping[str, Callable[..., None]]] = {
    "execute": Cluster._execute,
    "answer": Cluster._answer,
    "notify": Cluster._notify,
    "late": Cluster._late,
    "prepared": Cluster._prepared,
    "drained": Cluster._drained,
    "send": Cluster._send,
    "append": Cluster._append,
    "stored": Cluster._stored,
    "look": Cluster._look,
    "order": Cluster._order,
    "edit": Cluster._edit,
    "start": Cluster._start_again,
    "join": Cluster._join,
    "lock": Cluster._lock,
    "tick": Cluster._tick,
    "retire": Cluster._retire,
    "lose": Cluster._lose,
    "crash": Cluster._crash,
    "pause": Cluster._pause,
    "go on": Cluster._go_on,
    "leave": Cluster._leave,
    "unlock": Cluster._unlock,
    "restart": Cluster._restart,
}
