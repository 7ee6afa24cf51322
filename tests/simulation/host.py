"""The model of the shard region, its shards' append queues, the appender and the resolver of unknown outcomes.

Kept beside `shard_worker.actors.region`, `actors.shard_host`, `actors.shard`, `journal.append_queue`, `journal.append_lane` and `journal.outcome`;
a command is one row, and a memory read needs no event: `Watch` asks whether one would be possible.
"""

from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from shard_worker.domain.ids import ShardId
from tests.simulation import transactions
from tests.simulation.database import Append, Transaction
from tests.simulation.link import Session, connect
from tests.simulation.task import LinkFault, Process, Signal, Sleep, Task, Work

if TYPE_CHECKING:
    from tests.simulation.simulation import World

_WATCHDOG_S: Final = 2.0


class State(Enum):
    """The reaction of a shard to a command."""

    SERVING = auto()
    SUSPENDED = auto()
    DRAINING = auto()
    GONE = auto()


class Shard:
    """One owned shard and its stream into the journal."""

    __slots__ = ("closed", "epoch", "head", "id", "in_flight", "on_drained", "queue", "retry_at", "state", "unknown")

    def __init__(self, id: ShardId, epoch: int, head: int) -> None:
        self.id = id
        self.epoch = epoch
        self.head = head
        self.state = State.SERVING
        self.queue: list[int] = []
        self.in_flight = 0
        self.unknown = False
        self.closed = False
        self.retry_at = 0.0
        self.on_drained: Callable[[], None] | None = None

    @property
    def admits(self) -> bool:
        """It decides commands and answers from memory."""
        return self.state is State.SERVING

    @property
    def idle(self) -> bool:
        """Nothing is queued and nothing is at the server."""
        return not self.queue and not self.in_flight

    def settled(self) -> None:
        """Report the end of the drain, when no append is in flight."""
        if self.on_drained is not None and self.idle:
            call, self.on_drained = self.on_drained, None
            call()

    def close(self) -> None:
        """Take nothing more."""
        self.state, self.closed = State.GONE, True
        self.queue.clear()
        self.settled()


Part = tuple[Shard, list[int]]


class Host:
    """All shards of one process, whatever its incarnation."""

    def __init__(
        self, world: "World", process: Process, may_read: Callable[[], bool], raised: Callable[[ShardId, int], None]
    ) -> None:
        self.shards: dict[ShardId, Shard] = {}
        self.prepared: dict[ShardId, int] = {}
        """The heads of the shards that this worker was asked to prepare."""
        self.incarnation = ""
        self.may_read = may_read
        self._raised = raised
        self._world = world
        self.process = process
        self._wake = Signal()

    def start(self) -> None:
        """Begin to append."""
        Task(self.process, self._run())

    # --- ownership's side

    def adopt(self, shard_id: ShardId, epoch: int, head: int) -> None:
        """Serve a shard; replaces one that is here."""
        old = self.shards.pop(shard_id, None)
        if old is not None:
            old.close()
        self._world.watch.adopted(shard_id, epoch, head)
        self.shards[shard_id] = Shard(shard_id, epoch, head)
        self._world.watch.reads(self._world.db, self, shard_id)

    def drain(self, shard_id: ShardId, drained: Callable[[int | None], None]) -> None:
        """Stop admitting, and call with the head when no append is in flight."""
        shard = self.shards.get(shard_id)
        if shard is None:
            self.process.later(0.0, lambda: drained(None))
            return
        shard.state = State.DRAINING
        if shard.idle:
            self.process.later(0.0, lambda: drained(shard.head))
        else:
            shard.on_drained = lambda: drained(shard.head)

    def resume(self, shard_id: ShardId) -> None:
        """Admit again for a shard that was being drained."""
        shard = self.shards.get(shard_id)
        if shard is not None and shard.state is State.DRAINING:
            shard.on_drained = None
            shard.state = State.SUSPENDED if shard.unknown else State.SERVING
            self._world.watch.reads(self._world.db, self, shard_id)

    def drop(self, shard_id: ShardId) -> None:
        """Forget a shard at once."""
        shard = self.shards.pop(shard_id, None)
        if shard is not None:
            shard.close()

    def drop_all(self) -> None:
        """Forget every shard at once."""
        for shard_id in list(self.shards):
            self.drop(shard_id)

    def present(self) -> frozenset[ShardId]:
        """The shards that are here."""
        return frozenset(self.shards)

    def serving(self) -> frozenset[ShardId]:
        """Those of them that are here to stay."""
        return frozenset(s for s, shard in self.shards.items() if shard.state is not State.DRAINING)

    # --- the clients' side

    def command(self, shard_id: ShardId, row: int) -> bool:
        """Take a command, if the shard admits."""
        shard = self.shards.get(shard_id)
        if shard is None or not shard.admits:
            return False
        shard.queue.append(row)
        self._wake.set()
        return True

    # --- the appender

    def _run(self) -> Work[None]:
        session: Session | None = None
        while True:
            if not any(shard.queue and not shard.unknown for shard in self.shards.values()):
                self._wake.most_s = None
                yield self._wake
            if session is None or not session.open:
                session = yield from connect(self._world, self.process, self.incarnation)
            batch = self._take()
            if not batch:
                yield Sleep(0.005)
                continue
            append = Append(
                self.incarnation, [(each.id, each.epoch, each.head + 1, list(rows)) for each, rows in batch]
            )
            try:
                locked = yield from session.append(append, _WATCHDOG_S)
            except LinkFault:
                session.close()
                self._unknown(session, append, batch)
                continue
            for shard, rows in batch:
                if shard.id in locked:
                    self._settle(shard, rows)
            skipped = [part for part in batch if part[0].id not in locked]
            if skipped:
                yield from self._ask_owner(session, append, skipped)

    def _take(self) -> list[Part]:
        batch = []
        for shard in self.shards.values():
            if shard.queue and not shard.unknown and shard.retry_at <= self.process.mono():
                rows, shard.queue = shard.queue, []
                shard.in_flight = len(rows)
                batch.append((shard, rows))
        return batch

    def _settle(self, shard: Shard, rows: list[int]) -> None:
        shard.head += len(rows)
        shard.in_flight = 0
        self._world.watch.acknowledged(shard.id, shard.epoch, shard.head)
        if shard.closed:
            self._lost(shard)
        shard.settled()

    def _ask_owner(self, session: Session, append: Append, skipped: list[Part]) -> Work[None]:
        for shard, _ in skipped:
            append.denied.add(shard.id)
        try:
            owners = yield from session.execute(transactions.owner([shard.id for shard, _ in skipped]), _WATCHDOG_S)
        except LinkFault:
            session.close()
            owners = None
        for shard, rows in skipped:
            shard.in_flight = 0
            if owners is not None and (shard.closed or owners[shard.id] != (shard.epoch, self.incarnation)):
                self._lost(shard)
            elif not shard.closed:
                shard.queue = rows + shard.queue
                shard.retry_at = self.process.mono() + 0.005
            shard.settled()

    def _lost(self, shard: Shard) -> None:
        shard.close()
        if self.shards.get(shard.id) is shard:
            del self.shards[shard.id]

    # --- unknown outcomes

    def _unknown(self, session: Session, append: Append, batch: list[Part]) -> None:
        self._world.watch.seen["unknown"] += 1
        for shard, _ in batch:
            if not shard.closed:
                shard.unknown = True
                if shard.state is State.SERVING:
                    shard.state = State.SUSPENDED
        Task(self.process, self._resolve(session, append, sorted(batch, key=lambda part: part[0].id)))

    def _resolve(self, old: Session, append: Append, waiting: list[Part]) -> Work[None]:
        world = self._world
        while waiting:
            session = yield from connect(world, self.process, self.incarnation)
            try:
                yield from session.execute(_terminate(old), _WATCHDOG_S)
                while waiting:
                    yield from self._decide(session, append, *waiting[0])
                    waiting.pop(0)
            except LinkFault:
                yield Sleep(0.02)
            finally:
                session.close()

    def _decide(self, session: Session, append: Append, shard: Shard, rows: list[int]) -> Work[None]:
        epoch: int | None = None
        while epoch is None:
            owners = yield from session.execute(transactions.owner([shard.id]), _WATCHDOG_S)
            at, incarnation = owners[shard.id]
            # While the row is as the append wants it, that may still come: also when the shard was closed here meanwhile,
            # or this process has another incarnation by now.
            may_come = (at, incarnation) == (shard.epoch, append.incarnation)
            if not may_come and (incarnation != self.incarnation or shard.closed):
                break
            statement = transactions.raise_epoch(append.incarnation, {shard.id: at})
            epoch = (yield from session.execute(statement, _WATCHDOG_S)).get(shard.id)
            if epoch is not None and append.incarnation == self.incarnation:
                self._raised(shard.id, epoch)
        first, head = yield from session.execute(transactions.journal_from(shard.id, shard.head + 1), _WATCHDOG_S)
        stored = first is not None and (first[0], first[2]) == (shard.epoch, rows[0])
        if not stored:
            append.denied.add(shard.id)
        self._apply(shard, rows, epoch=epoch, stored=stored, head=head)

    def _apply(self, shard: Shard, rows: list[int], *, epoch: int | None, stored: bool, head: int) -> None:
        watch = self._world.watch
        expected = shard.head + (len(rows) if stored else 0)
        shard.in_flight = 0
        if stored:
            shard.head += len(rows)
            watch.acknowledged(shard.id, shard.epoch, shard.head)
        if epoch is None or shard.closed or head != expected:
            self._lost(shard)
            return
        shard.epoch, shard.unknown = epoch, False
        if not stored:
            shard.queue = rows + shard.queue
        if shard.state is State.SUSPENDED:
            shard.state = State.SERVING
            watch.reads(self._world.db, self, shard.id)
        shard.settled()
        self._wake.set()


def _terminate(old: Session) -> Transaction[None]:
    return Transaction("terminate", lambda db: db.signal(old.backend) if old.backend.alive else None)
