"""A session with the database over a link that loses, delays and stalls.

Statements on one session arrive in order.  A session that the client closes may still deliver what is on its way: the
server learns of the end later, and until then executes what arrives.  That is why the protocol raises epochs.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

from tests.simulation.database import Append, Backend, Transaction
from tests.simulation.task import LinkFault, Process, Sleep, Task, Work

if TYPE_CHECKING:
    from shard_worker.domain.ids import ShardId
    from tests.simulation.simulation import World

T = TypeVar("T")


class Session:
    """One connection: at most one statement is under way on it."""

    __slots__ = (
        *("_answers", "_arrives", "_deadline", "_timed", "_turn", "_waiting"),
        *("backend", "hangs_until", "open", "process", "world"),
    )

    def __init__(self, world: "World", process: Process, backend: Backend) -> None:
        self.world = world
        self.process = process
        self.backend = backend
        self.open = True
        self.hangs_until = 0.0
        """Packets are lost and sent again: this session makes no progress, others do."""
        self._waiting: Task | None = None
        self._turn = 0
        self._deadline = 0.0
        self._timed = False
        """A timer runs: there is one a session, for most statements are answered long before."""
        self._arrives = self._answers = world.timeline.now
        backend.lost = self._notice_lost

    # --- the client's side

    def close(self) -> None:
        """The client is done with it, or gave it up; the server learns of it behind what was sent before."""
        if self.open:  # else nothing, not even a number drawn: a generator that is thrown away may close it at any time
            self._end(max(self.world.timeline.now + self.world.server_learns_s(), self._arrives))

    def cut(self) -> None:
        """The link breaks: who waits for an answer hears so, and what is on its way may be lost or not."""
        if not self.open:
            return
        learns = self.world.timeline.now + self.world.server_learns_s()
        self._end(learns if self.world.rng.random() < 0.3 else max(learns, self._arrives))
        self.process.deliver(self._fail)

    def _end(self, learns: float) -> None:
        self.open = False
        self.world.sessions.pop(self, None)
        self.world.timeline.at(learns, lambda: self.world.db.end(self.backend))

    def _travels(self) -> float:
        return max(self.world.travels(self.process), self.hangs_until)

    def _fail(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.resume(self._turn, error=LinkFault())

    def _notice_lost(self) -> None:
        """The server ended the session; word of it comes behind the answers that are on their way."""
        self._answers = max(self._answers, self._travels())
        self.world.timeline.at(self._answers, lambda: self.process.deliver(self._lost))

    def _lost(self) -> None:
        if self.open:
            self.open = False
            self.world.sessions.pop(self, None)
            self._fail()

    # --- statements

    def send(self, task: Task, at_server: Callable[[Callable[[object], None]], None], timeout_s: float) -> None:
        """Send what is done at the server with a function that answers; the task is resumed by that."""
        if not self.open:
            task.process.later(0.0, partial(task.resume, task.turn, error=LinkFault()))
            return
        world, turn = self.world, task.turn
        self._waiting, self._turn = task, turn
        self._deadline = self.process.mono() + timeout_s
        if not self._timed:
            self._timed = True
            self.process.later(timeout_s, self._check)
        self._arrives = max(self._arrives, self._travels())

        def received(value: object) -> None:
            if self.open:
                self._waiting = None
                task.resume(turn, value)

        def answer(value: object) -> None:
            if self.backend.alive:
                self._answers = max(self._answers, self._travels())
                world.timeline.at(self._answers, lambda: self.process.deliver(lambda: received(value)))

        def arrive() -> None:
            if self.backend.alive:
                at_server(answer)

        world.timeline.at(self._arrives, arrive)

    def _check(self) -> None:
        """Whether the statement that is under way has taken too long."""
        self._timed = False
        if not self.open or self._waiting is None:
            return
        left = self._deadline - self.process.mono()
        if left > 1e-6:
            self._timed = True
            self.process.later(left, self._check)
        else:
            self.close()
            self._fail()

    def execute(self, transaction: Transaction[T], timeout_s: float) -> Work[T]:
        """Run a transaction, and wait for its answer.  Raises `LinkFault`."""
        return cast("T", (yield _Statement(self, transaction, timeout_s)))

    def append(self, append: Append, timeout_s: float) -> "Work[list[ShardId]]":
        """Send a batch of appends.  Raises `LinkFault`."""
        return cast("list[ShardId]", (yield _Appending(self, append, timeout_s)))

    def listen(self, notified: Callable[[], None]) -> None:
        """Call at each notification; a notification travels, and may be lost when the session is."""

        def notify() -> None:
            if self.world.rng.random() < 0.7:
                when = self._travels()
                self.world.timeline.at(when, lambda: self.process.deliver(lambda: notified() if self.open else None))

        self.backend.listens = notify


class _Statement:
    __slots__ = ("session", "timeout_s", "transaction")

    def __init__(self, session: Session, transaction: Transaction[T], timeout_s: float) -> None:
        self.session = session
        self.transaction = cast("Transaction[object]", transaction)
        self.timeout_s = timeout_s

    def arm(self, task: Task) -> None:
        session, transaction, world = self.session, self.transaction, self.session.world
        session.send(task, lambda answer: world.db.execute(session.backend, transaction, answer), self.timeout_s)
        if transaction.changes:
            world.sent(session, world.steps)


class _Appending:
    __slots__ = ("append", "session", "timeout_s")

    def __init__(self, session: Session, append: Append, timeout_s: float) -> None:
        self.session = session
        self.append = append
        self.timeout_s = timeout_s

    def arm(self, task: Task) -> None:
        session, append = self.session, self.append
        takes_s = session.world.append_takes_s()
        session.send(
            task, lambda answer: session.world.db.append(session.backend, append, takes_s, answer), self.timeout_s
        )
        session.world.sent(session, session.world.steps / 4)


def connect(world: "World", process: Process, name: str) -> Work[Session]:
    """A session; waits for the database for as long as it takes."""
    while True:
        yield Sleep(world.connect_s(process))
        if world.db.up and not world.stalled(process):
            session = Session(world, process, world.db.connect(name))
            world.sessions[session] = None
            return session
