"""The database: its rows, its row locks, its journal, and its sessions' server side.

A transaction (`transactions`) happens at one moment, when it has its locks; what takes time is to get them.  An append
is the other way round: it locks its shards' rows at its start and is seen at its end, and ownership waits for it.  A
transaction that waits keeps the worker's row and the shards before the one it waits for, as ascending order has it.
Left out: ``lock_timeout``, which is longer than any append here.
"""

from collections.abc import Callable, Iterable
from random import Random
from typing import TYPE_CHECKING, Generic, TypeVar

from shard_worker.domain.ids import ShardId

if TYPE_CHECKING:
    from tests.simulation.invariants import Watch

T = TypeVar("T")
Locked = tuple[str | None, bool, tuple[ShardId, ...]]
"""A worker's row, whether it is locked for itself alone, and shards."""


class WorkerRecord:
    """A row of ``worker``."""

    __slots__ = (
        "attempt",
        "beat_at",
        "cordoned",
        "draining",
        "fenced",
        "id",
        "incarnation",
        "leaving",
        "reads",
        "writes",
    )

    def __init__(self, id: str) -> None:
        self.id = id
        self.incarnation = ""
        self.attempt = 0
        self.fenced = True
        self.leaving = self.cordoned = self.draining = False
        self.reads = self.writes = 1
        self.beat_at = 0.0
        """For the watch alone: when the last beat came to be that others could see."""


class ShardRecord:
    """A row of ``shard``, with its row of ``shard_target``."""

    __slots__ = ("epoch", "format", "id", "incarnation", "last", "owner", "plan_version", "reason", "target")

    def __init__(self, id: ShardId) -> None:
        self.id = id
        self.epoch = 0
        self.owner: str | None = None
        self.incarnation: str | None = None
        self.target: str | None = None
        self.reason = ""
        self.plan_version = 0
        self.format = 1
        self.last: str | None = None
        """For the watch alone: the incarnation that last could append."""


class EpochRecord:
    """A row of ``shard_epoch``."""

    __slots__ = ("from_seq", "incarnation", "kind", "worker")

    def __init__(self, kind: str, worker: str | None, incarnation: str | None) -> None:
        self.kind = kind
        self.worker = worker
        self.incarnation = incarnation
        self.from_seq: int | None = None


class Transaction(Generic[T]):
    """Something that happens at one moment, once it has its locks."""

    __slots__ = ("changes", "heads", "locks", "name", "run")

    def __init__(
        self, name: str, run: "Callable[[Database], T]", locks: "Callable[[Database], Locked] | None" = None
    ) -> None:
        self.name = name
        self.run = run
        self.locks = locks
        self.changes = locks is not None and name not in ("heartbeat", "lock", "record start seqs")
        self.heads: dict[ShardId, int] | None = None
        """The journal as its snapshot had it, when it began to wait."""


class Append:
    """One batch at the server: its parts are shard, epoch, first number and row ids."""

    __slots__ = ("denied", "incarnation", "locked", "parts")

    def __init__(self, incarnation: str, parts: list[tuple[ShardId, int, int, list[int]]]) -> None:
        self.incarnation = incarnation
        self.parts = parts
        self.locked: list[ShardId] = []
        self.denied: set[ShardId] = set()
        """For the watch alone: the shards of which the owner was answered that they were not stored."""


class Backend:
    """The server's side of a session."""

    __slots__ = ("alive", "append", "beat", "listens", "lock", "locked_at", "lost", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.lock: tuple[str, int] | None = None
        self.beat = 0
        """The number whose lock the session holds."""
        self.locked_at = 0.0
        self.listens: Callable[[], None] | None = None
        self.append: tuple[Append, Callable[[list[ShardId]], None]] | None = None
        self.lost: Callable[[], None] = lambda: None
        """Tells the client that the session ended."""


class Database:
    """All rows, and who waits for which."""

    def __init__(
        self,
        shards: int,
        rng: Random,
        watch: "Watch",
        after: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self.workers: dict[str, WorkerRecord] = {}
        self.shards = {ShardId(number): ShardRecord(ShardId(number)) for number in range(shards)}
        self.plan_version = 0
        self.plan_hash = ""
        self.epochs: dict[tuple[ShardId, int], EpochRecord] = {}
        self.journal: dict[ShardId, list[tuple[int, str, int]]] = {shard_id: [] for shard_id in self.shards}
        """Epoch, incarnation and row id of each event, in order."""
        self.locks: dict[tuple[str, int], Backend] = {}
        self.backends: dict[Backend, None] = {}
        """In the order in which they were opened."""
        self.up = True
        self.watch = watch
        self.terminates = rng.random() < 0.6
        """Whether sessions can be ended by others: those of another role cannot, nor those behind a proxy."""
        self.rng = rng
        self._after = after
        self._shared: dict[ShardId, int] = {}
        self._kept: set[ShardId] = set()
        self._kept_workers: set[str] = set()
        self._waiting: list[tuple[Backend, Transaction[object], Callable[[object], None]]] = []

    def beat_of(self, row: WorkerRecord) -> int | None:
        """The number of a worker's last beat, or None when the session that beat has ended: `pg_locks`."""
        holder = self.locks.get((row.incarnation, row.attempt))
        return None if holder is None else holder.beat

    # --- sessions

    def connect(self, name: str) -> Backend:
        """A new session."""
        backend = Backend(name)
        self.backends[backend] = None
        return backend

    def end(self, backend: Backend) -> None:
        """A session ends: its lock is gone, what it waited for too, and its append may or may not have made it."""
        if not backend.alive:
            return
        backend.alive = False
        self.backends.pop(backend, None)
        if backend.lock is not None and self.locks.get(backend.lock) is backend:
            del self.locks[backend.lock]
        if backend.append is not None:
            append, _ = backend.append
            backend.append = None
            self._finish(append, commit=self.rng.random() < 0.5)
        if self._waiting:
            self._waiting = [each for each in self._waiting if each[0] is not backend]
            self.retry()
        backend.lost()

    def terminate(self, name: str, but: Backend | None = None) -> None:
        """End the sessions of an incarnation: a signal is sent, and takes effect a little later."""
        for backend in [each for each in self.backends if each.name == name]:
            if backend is not but:
                self.signal(backend)

    def signal(self, backend: Backend) -> None:
        """``pg_terminate_backend``: returns before it has taken effect."""
        if not self.terminates:
            return
        if self.rng.random() < 0.6:
            self.end(backend)
        else:
            self._after(self.rng.random() * 0.4, lambda: self.end(backend))

    def restart(self) -> None:
        """The server goes down, and with it every session at once."""
        self.up = False
        for backend in list(self.backends):
            self.end(backend)

    # --- transactions

    def execute(self, backend: Backend, transaction: Transaction[object], answer: Callable[[object], None]) -> None:
        """Run a transaction as soon as it has its locks."""
        if (self._shared or self._waiting) and transaction.locks is not None:
            transaction.heads = {shard_id: len(rows) for shard_id, rows in self.journal.items()}
            self._waiting.append((backend, transaction, answer))
            self.retry()
            return
        answer(transaction.run(self))

    def retry(self) -> None:
        """Let everything happen that waits for no lock any more, in the order in which it came."""
        again = True
        while again:
            again = False
            self._kept.clear()
            self._kept_workers.clear()
            for position, (_, transaction, answer) in enumerate(self._waiting):
                assert transaction.locks is not None
                worker, alone, shard_ids = transaction.locks(self)
                if not self._may(worker, alone, sorted(shard_ids)):
                    continue
                del self._waiting[position]
                answer(transaction.run(self))
                again = True
                break

    def _may(self, worker: str | None, alone: bool, shard_ids: Iterable[ShardId]) -> bool:
        if worker in self._kept_workers:
            return False
        obtained: list[ShardId] = []
        for shard_id in shard_ids:
            if shard_id in self._shared or shard_id in self._kept:
                self._kept.update(obtained)
                if alone and worker is not None:
                    self._kept_workers.add(worker)
                return False
            obtained.append(shard_id)
        return True

    # --- appends

    def append(self, backend: Backend, append: Append, takes_s: float, answer: Callable[[list[ShardId]], None]) -> None:
        """The fenced append: lock what still matches and is free, and be stored a little later."""
        for shard_id, epoch, _, _ in append.parts:
            row = self.shards[shard_id]
            mine = (row.epoch, row.incarnation) == (epoch, append.incarnation)
            if mine and shard_id not in self._kept:
                append.locked.append(shard_id)
                self._shared[shard_id] = self._shared.get(shard_id, 0) + 1
        backend.append = (append, answer)

        def finish() -> None:
            if backend.append is not None and backend.append[0] is append:
                backend.append = None
                self._finish(append, commit=True)
                answer(append.locked)

        self._after(takes_s, finish)

    def _finish(self, append: Append, *, commit: bool) -> None:
        if commit:
            for shard_id, epoch, first, rows in append.parts:
                if shard_id in append.locked:
                    self.watch.stored(self, append, shard_id, epoch, first)
                    self.journal[shard_id] += [(epoch, append.incarnation, row) for row in rows]
        for shard_id in append.locked:
            self._shared[shard_id] -= 1
            if not self._shared[shard_id]:
                del self._shared[shard_id]
        if self._waiting:
            self.retry()

    def head(self, shard_id: ShardId) -> int:
        """The last number of a shard's journal."""
        return len(self.journal[shard_id])

    # --- changes of owner

    def change(self, row: ShardRecord, worker: str | None, incarnation: str | None, kind: str) -> None:
        """Another owner, or none, at the next epoch."""
        before = row.incarnation
        row.epoch += 1
        self.epochs[row.id, row.epoch] = EpochRecord(kind, worker, incarnation)
        row.owner, row.incarnation = worker, incarnation
        if incarnation is not None:
            row.last = incarnation
        self.watch.changed(self, row, before, kind)

    def notify(self) -> None:
        """Notify every session that listens."""
        for backend in list(self.backends):
            if backend.listens is not None:
                backend.listens()
