"""One schedule: the database, the workers, two planners, and the links between them, from one seed.

Nothing here decides anything of ownership.  It holds who is there, how long things take, and what is lost.
"""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final, NamedTuple

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.view import ShardOwner
from tests.simulation.clock import DRIFT, Clocks, Timeline
from tests.simulation.database import Database
from tests.simulation.invariants import Watch
from tests.simulation.link import Session
from tests.simulation.planner import CLUSTER, Planner
from tests.simulation.task import Process
from tests.simulation.worker import WorkerProcess


class Size(NamedTuple):
    """How large a schedule is."""

    workers: int
    shards: int
    most_moves: int


HANDOFFS_AT_ONCE: Final = 3
"""The value of `handoff.HANDOFFS_AT_ONCE` in a schedule: there are few shards, and the limit must be reached."""
DAWDLES_S: Final = 1.2
"""Maximum age of a planner's view when its plan is recorded."""
_PREPARE_TIMEOUT_S: Final = 1.5


class World:
    """Everything in one schedule."""

    def __init__(self, rng: Random, size: Size, tell: Callable[[str], None] | None) -> None:
        self.rng = rng
        self.timeline = Timeline()
        self.watch = Watch(lambda: self.timeline.now, tell, size.most_moves, HANDOFFS_AT_ONCE)
        self.db = Database(size.shards, rng, self.watch, self.timeline.after)
        self.replicas = size.workers
        self.most_moves = size.most_moves
        self.processes: list[WorkerProcess] = []
        self.running: dict[str, None] = {}
        """The names that the platform keeps running, whether or not a process is up just now."""
        self.at_step: Callable[[Session], None] | None = None
        """The fault that may happen while a statement that changes ownership is in flight."""
        self.steps = 0.0
        """How often it does."""
        self.steps_end = 0.0
        """When that is over."""
        self.lost: set[str] = set()
        """Those of them that no platform starts again."""
        self.sessions: dict[Session, None] = {}
        self.lossy = rng.choice((0.0, 0.1, 0.4))
        """How many frames between workers are lost."""
        self.dawdles_s = DAWDLES_S - 0.2
        """For how long a planner at times sits on its plan."""
        self.slow = rng.choice((0.02, 0.1))
        """How many messages take long."""
        self.planned = rng.random() < 0.75
        """Whether there is a control plane at all: what is owned and served does not hang on it."""
        self.planners = [Planner(self, "planner"), Planner(self, "twin")]
        self._stalled: dict[Process, float] = {}
        self._numbers = 0
        self._rows = 0

    # --- who is there

    def begin(self) -> None:
        """The platform starts its workers and both planners."""
        for number in range(self.replicas):
            self.want(f"{CLUSTER}-{number}")
        for planner in self.planners if self.planned else ():
            planner.start()
        self.timeline.after(0.1, self._command)

    def want(self, name: str) -> None:
        """A name should be running."""
        if name not in self.running:
            self.running[name] = None
            self.start(name)

    def start(self, name: str) -> WorkerProcess:
        """A new process under a name."""
        self._numbers += 1
        drift = self.rng.uniform(-DRIFT, DRIFT) / 2
        process = WorkerProcess(self, name, self._numbers, Clocks(1.0 + drift, self.rng.random()))
        self.processes.append(process)
        process.start()
        return process

    def mend(self) -> None:
        """The platform starts what should run and does not; a node that was lost comes back when all are."""
        if self.lost.issuperset(f"{CLUSTER}-{number}" for number in range(self.replicas)):
            self.lost.clear()
        for number in range(self.replicas):
            name = f"{CLUSTER}-{number}"
            if name not in self.lost and not self.named(name):
                self.running.setdefault(name)
                self.start(name)

    def stop(self, name: str) -> None:
        """A name should not be running any more."""
        for process in self.named(name):
            process.leave()
        if not self.named(name):
            self.running.pop(name, None)

    def named(self, name: str) -> list[WorkerProcess]:
        """The processes that are up under a name."""
        return [each for each in self.processes if each.name == name and each.alive]

    def gone(self, process: WorkerProcess) -> None:
        """A process ended in order."""
        self.kill(process)
        if not self.named(process.name):
            self.running.pop(process.name, None)

    def kill(self, process: WorkerProcess) -> None:
        """A process is no more."""
        process.kill()
        if process in self.processes:
            self.processes.remove(process)

    def sent(self, session: Session, likely: float) -> None:
        """Something that matters was just sent: at times something goes wrong right now."""
        if self.at_step is not None and self.rng.random() < likely:
            self.timeline.after(0.0, partial(self.at_step, session))

    def busy(self, process: WorkerProcess) -> bool:
        """Whether it hands something over, gets something, or waits for the journal."""
        targets = {
            each.worker for other in self.processes if other.reconciler for each in other.reconciler.handoffs.values()
        }
        return process.name in targets or any(shard.in_flight for shard in process.host.shards.values())

    def astir(self) -> bool:
        """Whether something of ownership is under way: a moment at which a fault does more than at others."""
        moving = any(each.reconciler is not None and each.reconciler.handoffs for each in self.processes)
        return moving or any(row.owner is None for row in self.db.shards.values())

    # --- links

    def travels(self, process: Process) -> float:
        """When a message from or to a process arrives."""
        rng = self.rng
        takes_s = 0.0005 + rng.random() * (0.15 if rng.random() < self.slow else 0.004)
        return max(self.timeline.now, self._stalled.get(process, 0.0)) + takes_s

    def stall(self, process: Process, seconds: float) -> None:
        """Everything that a process and the database send each other is held for this time."""
        self._stalled[process] = self.timeline.now + seconds

    def stalled(self, process: Process) -> bool:
        """Whether nothing goes through now."""
        return self._stalled.get(process, 0.0) > self.timeline.now

    def server_learns_s(self) -> float:
        """How long the server executes what still arrives on a session that its client gave up."""
        return self.rng.random() * (0.02 if self.rng.random() < 0.6 else 1.2)

    def append_takes_s(self) -> float:
        """How long an append holds its locks: at times a flush to the disk takes long."""
        return 0.001 + self.rng.random() * (0.005 if self.rng.random() < 0.92 else self.rng.choice((0.1, 0.3, 1.2)))

    def connect_s(self, process: Process) -> float:
        """How long it takes to open a session, or to find that none can be had."""
        del process
        return 0.004 + self.rng.random() * 0.03

    # --- frames between workers

    def prepare(self, sender: WorkerProcess, target: str, shard_id: ShardId, answer: Callable[[bool], None]) -> None:
        """Ask a worker to read what it will need of a shard."""
        up = self.named(target)
        there = [each for each in up if not each.paused]
        lost = not there or self.rng.random() < self.lossy
        takes_s = 0.003 + self.rng.random() * (0.02 if self.rng.random() < 0.9 else 1.0)
        if lost and up:
            takes_s = _PREPARE_TIMEOUT_S  # no process is there to refuse it at once
        for process in there:
            if not lost:
                process.host.prepared[shard_id] = self.db.head(shard_id)
        sender.later(takes_s, lambda: answer(not lost))

    def notify_transferred(self, receiver: ShardOwner, shard_id: ShardId, head: int | None) -> None:
        """Notify an incarnation that it owns a shard up to its head; its next view shows that too."""
        if self.rng.random() < self.lossy:
            return
        for process in self.named(receiver.worker):
            takes_s = 0.001 + self.rng.random() * (0.01 if self.rng.random() < 0.9 else 0.5)
            notified = partial(process.on_transferred, shard_id, receiver.epoch, receiver.incarnation, head)
            self.timeline.after(takes_s, partial(process.deliver, notified))

    # --- clients

    def _command(self) -> None:
        """Clients write to some shard of every process, again and again."""
        rng = self.rng
        for process in self.processes:
            if process.host.shards and not process.paused:
                self._rows += 1
                process.host.command(rng.choice(list(process.host.shards)), self._rows)
        self.timeline.after(0.05 + rng.random() * 0.25, self._command)
