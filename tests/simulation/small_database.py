"""The database of the exhaustive search: the model's, as values that never change.

`SmallDatabases` does an operation once for each state and time, and remembers the state after it, the answer, and the
calls of the watch.  An operation is a name and hashable values.
"""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from shard_worker.domain.ids import ShardId
from tests.simulation import transactions
from tests.simulation.database import Append, Backend, Database, ShardRecord, Transaction, WorkerRecord
from tests.simulation.reconciler import STATEMENTS
from tests.simulation.state_key import Beat, Epoch, Table, coded

Operation = tuple[Any, ...]
Call = tuple[Any, ...]


@dataclass
class Lock:
    """The lock of a lease's session."""

    beat: int = 0
    locked_at: float = 0.0
    lock: tuple[str, int] | None = None


class Stored(NamedTuple):
    """The journal before an append."""

    before: int

    def head(self, shard_id: ShardId) -> int:
        """The last number."""
        del shard_id
        return self.before


class Recorder:
    """In place of the watch: keeps its calls."""

    def __init__(self, now: float) -> None:
        self._now = now
        self.calls: list[Call] = []

    def now(self) -> float:
        """The present."""
        return self._now

    def changed(self, db: Database, row: ShardRecord, before: str | None, kind: str) -> None:
        """See `Watch`."""
        self.calls.append(("changed", row.id, before, kind))

    def fenced(self, db: Database, worker: str, incarnation: str, *, replaced: bool) -> None:
        """See `Watch`."""
        self.calls.append(("fenced", worker, incarnation, replaced))

    def registered(self, worker: str, before: str, incarnation: str) -> None:
        """See `Watch`."""
        self.calls.append(("registered", worker, before, incarnation))

    def targeted(self, row: ShardRecord) -> None:
        """See `Watch`."""
        self.calls.append(("targeted", row.id))

    def ordered(self, db: Database, moves: frozenset[ShardId]) -> None:
        """See `Watch`."""
        self.calls.append(("ordered", moves))

    def stored(self, db: Database, append: Append, shard_id: ShardId, epoch: int, first: int) -> None:
        """See `Watch`."""
        self.calls.append(("stored", Stored(db.head(shard_id)), append, shard_id, epoch, first))


class _Zero:
    """In place of a source of chance: `Database` draws none here."""

    def random(self) -> float:
        return 0.0


class SmallDatabase(Database):
    """The model's database, without links and chance."""

    def __init__(self, names: tuple[str, ...], shards: int) -> None:
        super().__init__(shards, _Zero(), Recorder(0.0), lambda _seconds, _call: None)  # type: ignore[arg-type]  # all of them that is used
        self.terminates = False
        self.sent: list[Backend] = []
        """The sessions with an append at the server."""
        self.beats = dict.fromkeys(names, 0)
        """The last beat of each worker's present attempt."""

    def copied(self, now: float) -> "SmallDatabase":
        """Another one with the same rows, and a watch that keeps its calls."""
        new = copy(self)
        new.watch = Recorder(now)  # type: ignore[assignment]  # all of a watch that a database calls
        new.workers = {name: copy(row) for name, row in self.workers.items()}
        new.shards = {shard_id: copy(row) for shard_id, row in self.shards.items()}
        new.journal = {shard_id: list(rows) for shard_id, rows in self.journal.items()}
        new.locks = {key: copy(lock) for key, lock in self.locks.items()}
        new.epochs = {}
        new._shared = dict(self._shared)
        new.beats = dict(self.beats)
        new.sent = [copy(each) for each in self.sent]
        return new

    @property
    def recorded(self) -> list[Call]:
        """The calls of the watch."""
        recorder: Any = self.watch
        calls: list[Call] = recorder.calls
        return calls


class DatabaseState(NamedTuple):
    """All rows at one moment."""

    id: int
    db: SmallDatabase
    code: object
    epochs: tuple[int, ...]
    beats: tuple[int, ...]
    appends: tuple[tuple[ShardId, str], ...]
    """Those at the server: shard and incarnation."""


class SmallDatabases:
    """The effect of each operation on each state, once it was seen."""

    def __init__(self, values: Table) -> None:
        self._values = values
        self._states = Table()
        self._after: dict[tuple[int, float, Operation], tuple[DatabaseState, int, list[Call]]] = {}

    def first(self, names: tuple[str, ...], shards: int) -> DatabaseState:
        """No worker is a member, and the first worker's first incarnation owns every shard."""
        db = SmallDatabase(names, shards)
        for name in names:
            db.workers[name] = WorkerRecord(name)
        for shard in db.shards.values():
            shard.epoch, shard.owner, shard.target = Epoch(1, shard.id), names[0], names[0]
            shard.incarnation = shard.last = f"{names[0]}/1"
        db.plan_version = 1
        return self._known(db)

    def after(self, state: DatabaseState, now: float, operation: Operation) -> tuple[DatabaseState, int, list[Call]]:
        """The state after an operation, the number of its answer, and the calls of the watch."""
        key = (state.id, now, operation)
        if (found := self._after.get(key)) is None:
            db = state.db.copied(now)
            answer = self._do(db, operation)
            found = self._after[key] = self._known(db), self._values.put(coded(answer), answer), db.recorded
        return found

    def may(self, state: DatabaseState, operation: Operation) -> bool:
        """Whether no append at the server holds a row that this operation must have."""
        if not state.appends:
            return True
        transaction = self._transaction(operation)
        if transaction.locks is None:
            return True
        return not any(shard_id in state.db._shared for shard_id in transaction.locks(state.db)[2])

    def _known(self, db: SmallDatabase) -> DatabaseState:
        db.epochs.clear()
        sent = [each.append[0] for each in db.sent if each.append is not None]
        appends = tuple((each.parts[0][0], each.incarnation) for each in sent)
        code = coded(
            (
                list(db.workers.values()),
                list(db.shards.values()),
                db.plan_version,
                [(len(rows), rows[-1:]) for rows in db.journal.values()],
                db.locks,
                db.beats,
                appends,
                [each.parts for each in sent],
                db._shared,
            )
        )
        number = self._states.put(code)
        if self._states.values[number] is None:
            epochs = tuple(int(row.epoch) for row in db.shards.values())
            self._states.values[number] = DatabaseState(number, db, code, epochs, tuple(db.beats.values()), appends)
        found: DatabaseState = self._states.values[number]
        return found

    # --- operations

    def _do(self, db: SmallDatabase, operation: Operation) -> object:
        name, *about = operation
        own = _OWN.get(name)
        return own(db, *about) if own is not None else self._transaction(operation).run(db)

    def _transaction(self, operation: Operation) -> Transaction[Any]:
        match operation:
            case ("ask", worker, incarnation, number):
                request = self._values.values[number]
                return STATEMENTS[type(request)](worker, incarnation, request)
            case ("targets", number):
                plan, moves = self._values.values[number]
                return transactions.set_targets(plan.base_version, plan.hash, plan.targets, moves)
            case ("register", worker, incarnation):
                return transactions.register(worker, incarnation)
            case ("free predecessors", worker, incarnation):
                return transactions.free_predecessors(worker, incarnation)
            case ("retire", worker, incarnation):
                return transactions.retire(worker, incarnation)
        raise ValueError(operation)


def _lock(db: SmallDatabase, worker: str, incarnation: str) -> bool:
    """A new session of the lease."""
    lock: Any = Lock()
    held: bool = transactions.lock(worker, incarnation, lock).run(db)
    if held:
        lock.beat = Beat(0, worker)
        _beat(db, worker, incarnation)
    return held


def _beat(db: SmallDatabase, worker: str, incarnation: str) -> bool:
    """A heartbeat, on the session that holds the lock."""
    lock: Any = db.locks.get((incarnation, db.workers[worker].attempt))
    lives: bool = transactions.heartbeat(worker, incarnation, lock or Lock()).run(db)  # type: ignore[arg-type]  # as above
    if lives and lock is not None:
        db.beats[worker] = int(lock.beat)
    return lives


def _unlock(db: SmallDatabase, incarnation: str) -> None:
    """The end of the lease's session."""
    for key in [each for each in db.locks if each[0] == incarnation]:
        del db.locks[key]


def _append(db: SmallDatabase, shard_id: ShardId, epoch: int, incarnation: str, first: int) -> bool:
    """An append arrives; whether its row is locked."""
    append, backend = Append(incarnation, [(shard_id, epoch, first, [0])]), Backend(incarnation)
    db.append(backend, append, 0.0, lambda _: None)
    if not append.locked:
        return False
    db.sent.append(backend)
    return True


def _store(db: SmallDatabase, number: int) -> None:
    """An append ends."""
    backend = db.sent.pop(number)
    assert backend.append is not None
    db._finish(backend.append[0], commit=True)


def _cordon(db: SmallDatabase, worker: str, draining: bool) -> None:
    transactions.set_cordon(worker, cordoned=True, draining=draining).run(db)


def _free(db: SmallDatabase, shard_id: ShardId) -> None:
    """A shard without an owner, and without a target."""
    row = db.shards[shard_id]
    row.owner = row.incarnation = row.target = None
    row.epoch = Epoch(2, shard_id)


def _target(db: SmallDatabase, shard_id: ShardId, target: str) -> None:
    """The order of a plan."""
    db.plan_version = 2
    db.shards[shard_id].target, db.shards[shard_id].plan_version = target, 2


_OWN: Final[Mapping[str, Callable[..., object]]] = {
    "lock": _lock,
    "beat": _beat,
    "unlock": _unlock,
    "append": _append,
    "store": _store,
    "cordon": _cordon,
    "free": _free,
    "target": _target,
}
"""Operations that are no transaction of `transactions`, or more than one."""
