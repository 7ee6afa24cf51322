"""A worker's process: its membership and lease around the reconciler, incarnation after incarnation.

Kept beside `shard_worker.ownership.membership` and `lease`.
"""

from typing import TYPE_CHECKING, Final

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.failure_detector import Fenced, NameWatch
from shard_worker.ownership.reconciler import STATEMENT_S
from shard_worker.ownership.view import EMPTY, OwnershipView
from tests.simulation import transactions
from tests.simulation.clock import Clocks
from tests.simulation.host import Host
from tests.simulation.link import Session, connect
from tests.simulation.reconciler import Reconciler
from tests.simulation.task import LinkFault, Process, Signal, Sleep, Task, Work

if TYPE_CHECKING:
    from tests.simulation.simulation import World

BEAT_S: Final = 0.15
LEASE_S: Final = 0.5
_BEAT_TIMEOUT_S, _RETRY_S = 1.5, 0.1
_LEAVE_S: Final = 4.0


class WorkerProcess(Process):
    """One process under a worker's name."""

    def __init__(self, world: "World", name: str, number: int, clocks: Clocks) -> None:
        super().__init__(world.timeline, clocks, name)
        self.world = world
        self.number = number
        self.incarnation = ""
        self.leaving = False
        self.reconciler: Reconciler | None = None
        self.view: OwnershipView = EMPTY
        """The answer to a planner."""
        self.host: Host = Host(world, self, self.may_read, self.raised)
        self._until = 0.0
        self._past: set[str] = set()
        self._lived: set[str] = set()
        self._tasks: list[Task] = []
        self._cycle = Signal()
        self._lives = 0

    def start(self) -> None:
        """Register, and go on until `leave`, or until it is killed."""
        self.host.start()
        self._membership()

    def may_read(self) -> bool:
        """The lease: whether no peer can have fenced this incarnation yet."""
        return self.alive and not self.paused and self.clocks.boottime(self.timeline.now) < self._until

    def kill(self) -> None:
        """The process is no more; the kernel closes its sockets."""
        self.alive = False
        self.world.watch.hosts.pop(self.incarnation, None)
        for session in [each for each in self.world.sessions if each.process is self]:
            session.close()

    def go_on(self) -> None:
        self.paused = False
        self.world.watch.all_reads(self.world.db, self.host)
        super().go_on()

    def leave(self) -> None:
        """Give up every shard in order, and end."""
        if not self.leaving and self.alive:
            self.leaving = True
            self.world.watch.hurt(self.name, self.timeline.now + _LEAVE_S)
            if self.reconciler is not None:
                self.reconciler.request_refresh()
            Task(self, self._leave())

    def on_transferred(self, shard_id: ShardId, epoch: int, incarnation: str, head: int | None) -> None:
        """A peer has transferred a shard to an incarnation of this worker."""
        if self.reconciler is not None:
            self.reconciler.on_transferred(shard_id, epoch, incarnation, head)

    def raised(self, shard_id: ShardId, epoch: int) -> None:
        """An unknown outcome raised the epoch of a shard."""
        if self.reconciler is not None:
            self.reconciler.core.raised(shard_id, epoch)

    def cycle_done(self, view: OwnershipView) -> None:
        """The reconciler has acted on a view."""
        self.view = view
        self._cycle.set()

    # --- incarnations

    def _membership(self) -> None:
        self._tasks = [Task(self, self._register())]

    def _ended(self, error: Exception | None) -> None:
        """The lease or the reconciler found that the incarnation was fenced: drop everything, and register again."""
        if error is not None and not isinstance(error, Fenced):
            raise error
        self._until = 0.0
        self.reconciler = None
        self.host.drop_all()
        self.world.watch.hosts.pop(self.incarnation, None)
        self.world.watch.seen["ended"] += 1
        for task in self._tasks:
            task.cancel()
        self._membership()

    def _register(self) -> Work[None]:
        before: str | None
        while True:
            self._lives += 1
            fresh = f"{self.name}/{self.number}{chr(96 + self._lives)}"
            session = yield from connect(self.world, self, fresh)
            try:
                if self._lived:
                    yield from self._await_name(session)
                self.incarnation = self.host.incarnation = fresh
                self.world.watch.hosts[fresh] = self.host
                self._past.add(fresh)
                before = yield from session.execute(transactions.register(self.name, fresh), STATEMENT_S)
                if before is not None and before not in self._lived:
                    yield Sleep(LEASE_S + 0.2)
                yield from session.execute(transactions.free_predecessors(self.name, fresh), STATEMENT_S)
                break
            except LinkFault:
                self.world.watch.hosts.pop(fresh, None)
                yield Sleep(_RETRY_S)
            finally:
                session.close()
        self._lived.add(fresh)
        self._tasks.append(Task(self, self._keep(fresh), self._ended))

    def _await_name(self, session: Session) -> Work[None]:
        watch = NameWatch(self.name)
        while True:
            view = yield from session.execute(transactions.read_view(EMPTY), STATEMENT_S)
            self.view = view
            if watch.is_free(view, self._past | {self.incarnation}, self.mono()):
                return
            yield Sleep(_RETRY_S * 5)

    # --- the lease

    def _keep(self, incarnation: str) -> Work[None]:
        while True:
            session = yield from connect(self.world, self, incarnation)
            try:
                yield from self._beat(session, incarnation)
            except LinkFault:
                pass
            finally:
                session.close()
            yield Sleep(BEAT_S)

    def _beat(self, session: Session, incarnation: str) -> Work[None]:
        lock = transactions.lock(self.name, incarnation, session.backend)
        if not (yield from session.execute(lock, _BEAT_TIMEOUT_S)):
            raise Fenced(incarnation)
        while True:
            sent = self.clocks.boottime(self.timeline.now)
            if not (
                yield from session.execute(
                    transactions.heartbeat(self.name, incarnation, session.backend), _BEAT_TIMEOUT_S
                )
            ):
                raise Fenced(incarnation)
            self._until = sent + LEASE_S
            self.world.watch.all_reads(self.world.db, self.host)
            if self.reconciler is None:
                self.reconciler = Reconciler(self, incarnation)
                self._tasks.append(Task(self, self.reconciler.run(), self._ended))
            yield Sleep(BEAT_S)

    # --- leaving

    def _leave(self) -> Work[None]:
        deadline = self.mono() + _LEAVE_S
        while self._owns_something() and self.mono() < deadline:
            self._cycle.most_s = 0.2
            yield self._cycle
        for task in self._tasks:
            task.cancel()
        self._until = 0.0
        self.reconciler = None
        self.host.drop_all()
        session = yield from connect(self.world, self, self.incarnation)
        try:
            yield from session.execute(transactions.retire(self.name, self.incarnation), 1.0)
        except LinkFault:
            pass
        finally:
            session.close()
        self.world.gone(self)

    def _owns_something(self) -> bool:
        mine = any(row.incarnation == self.incarnation for row in self.view.shards.values())
        return bool(self.host.shards) or mine
