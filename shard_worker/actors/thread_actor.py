"""The resident aggregate of one thread.

It decides each command on its *speculative* state, in which events that are still on their way to the journal have
already happened, so that one hot thread is not limited to one command a round trip.  In return nothing leaves it
early: every answer, also a refusal, a read or "nothing changed", waits until all events it was decided on are durable.
When one of them is refused by the database, everything decided on it is decided again from the journal.

What the reference did with two actors (a persistent one stashing, and a child with the state) is one object here.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Final
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as PostgresUUID  # noqa: N811  # a `UUID` whose bytes need no conversion

from shard_worker.actors.ask import NOT_SERVED, Ask
from shard_worker.actors.reads import NeedsTexts, answer_query
from shard_worker.contract import CommandRequest, Done, OwnerAnswer, Unavailable, UnavailableCode
from shard_worker.domain.decide import Unchanged, decide, message_ids_of
from shard_worker.domain.evolve import evolve
from shard_worker.domain.ids import ThreadId, ulid_bytes
from shard_worker.domain.refusals import Refusal, RefusalCode
from shard_worker.domain.thread import Thread
from shard_worker.journal.codec import encode_state
from shard_worker.journal.stream import Row

if TYPE_CHECKING:
    from shard_worker.actors.shard import Shard

log = logging.getLogger(__name__)

_KEYS_KEPT: Final = 32
"""How many idempotency keys an actor remembers before it asks the journal."""

_REFUSALS_BORNE: Final = 3
"""How often one command's event may be refused by the database before its caller is told to come back later."""

POISONED: Final = Unavailable(
    UnavailableCode.THREAD_POISONED, "this thread's history cannot be read by this release", retry_after_s=30.0
)
KEY_REUSED: Final = Refusal(
    RefusalCode.IDEMPOTENCY_KEY_REUSED, "this Idempotency-Key was used before with another body or path"
)
OVERLOADED: Final = Unavailable(UnavailableCode.OVERLOADED, "too many commands wait for this thread; slow down", 1.0)


class Phase(Enum):
    """What an actor is doing."""

    LOADING = auto()
    """Its history is being read; commands wait in the mailbox."""
    ACTIVE = auto()
    DRAINING = auto()
    """Its state was lost to a fault; it loads again once what it has at the journal is settled."""
    POISONED = auto()


_ACTIVE: Final = Phase.ACTIVE
"""An enum's members are looked up by a descriptor, which takes three times as long as a name of the module."""


class EventRow(Row):
    """An event on its way to the journal, with the asks that wait for it."""

    __slots__ = ("answer", "ask", "followers", "snapshot")

    ask: Ask
    answer: Done
    followers: list[tuple[Ask, Callable[[], None]]] | None
    """Asks decided on this event and not stored by themselves, each with what delivers its answer."""
    snapshot: bytes | None


class ThreadActor:
    """One thread, resident in one shard.  All methods are called on the event loop and none of them waits."""

    __slots__ = (
        "keys",
        "mailbox",
        "pending",
        "phase",
        "sequence_nr",
        "shard",
        "snapshot_nr",
        "state",
        "thread_id",
        "touched",
        "uuid",
    )

    def __init__(self, thread_id: ThreadId, shard: "Shard") -> None:
        self.thread_id = thread_id
        self.uuid: UUID = PostgresUUID(ulid_bytes(thread_id))
        self.shard = shard
        self.phase = Phase.LOADING
        self.state: Thread | None = None
        self.sequence_nr = 0
        self.snapshot_nr = 0
        self.pending: deque[EventRow] = deque()
        self.mailbox: deque[Ask] = deque()
        self.keys: OrderedDict[bytes, tuple[bytes, Done]] = OrderedDict()
        self.touched = 0.0

    @property
    def busy(self) -> bool:
        """Whether it must stay resident."""
        return bool(self.pending or self.mailbox) or self.phase in (Phase.LOADING, Phase.DRAINING)

    # --- asks

    def take(self, ask: Ask) -> None:
        """Decide one ask, or let it wait for the thread's history."""
        phase = self.phase
        if phase is not _ACTIVE:
            if phase is Phase.POISONED:
                ask.answer(POISONED)
            elif len(self.mailbox) >= self.shard.env.max_pending_per_thread:
                ask.answer(OVERLOADED)
            else:
                self.mailbox.append(ask)
            return
        request = ask.request
        if type(request) is CommandRequest:
            try:
                self._command(ask, request)
            except Exception as error:  # noqa: BLE001  # a bug in a rule is this thread's alone; logged with its cause
                self._lost_state(ask, error)
        else:
            try:
                answer = answer_query(self.state, request)  # type: ignore[arg-type]  # narrowed by the exact type
            except Exception as error:  # noqa: BLE001  # as above
                self._lost_state(ask, error)
                return
            if isinstance(answer, NeedsTexts):
                needs = answer
                self._after_pending(ask, lambda: self.shard.fetch_texts(self, ask, needs))
            else:
                self._answer(ask, answer)

    def _command(self, ask: Ask, request: CommandRequest) -> None:
        key = request.key_hash
        if key is not None:
            known = self.keys.get(key)
            if known is not None:
                self._answer(ask, known[1] if known[0] == request.body_hash else KEY_REUSED)
                return
            if ask.key_doubted and not self._knows_keys_of(ask):
                self.shard.look_up_key(self, ask, key)
                return
        env = self.shard.env
        state = self.state
        decided = decide(state, request.command, env.now_ms(), env.limits)
        if isinstance(decided, (Refusal, Unchanged)):  # the union would be built anew for every command
            if key is not None and not self._knows_keys_of(ask):
                self.shard.look_up_key(self, ask, key)
            elif isinstance(decided, Unchanged):
                self._answer(ask, Done(decided.sequence_nr, decided.message_ids))
            else:
                self._answer(ask, decided)
            return
        if len(self.pending) >= env.max_pending_per_thread or not env.may_admit():
            ask.answer(OVERLOADED)
            return
        row = EventRow()
        row.event_type, row.event_version, row.payload = env.encode(decided)
        row.seq_nr = seq_nr = self.sequence_nr + 1
        self.state = evolve(state, decided, seq_nr)
        self.sequence_nr = seq_nr
        row.writer = self
        row.metadata = b'{"commandId":"%b"}' % request.command_id.hex().encode()
        row.key_hash = key
        row.body_hash = request.body_hash if key is not None else None
        row.ask = ask
        row.answer = answer = Done(seq_nr, message_ids_of(decided))
        row.followers = None
        # A snapshot costs as much as the thread holds; at half as many events the cost an event has a bound.
        if seq_nr - self.snapshot_nr >= max(env.snapshot_every_events, len(self.state.messages) // 2):
            row.snapshot = encode_state(self.state)
            self.snapshot_nr = seq_nr
        else:
            row.snapshot = None
        if key is not None:
            assert request.body_hash is not None  # the gateway sets both or none
            self._remember(key, request.body_hash, answer)
        self.pending.append(row)
        ask.admitted = True
        env.admitted += 1
        self.shard.stream.submit(row)

    def _knows_keys_of(self, ask: Ask) -> bool:
        """Whether the ask's key was not in the journal, and every key stored since is still in memory."""
        checked = ask.key_checked
        return checked is not None and checked[0] is self.keys and self.sequence_nr - checked[1] < _KEYS_KEPT // 2

    def _remember(self, key: bytes, body_hash: bytes, answer: Done) -> None:
        keys = self.keys
        keys[key] = (body_hash, answer)
        if len(keys) > _KEYS_KEPT:
            durable = self.pending[0].seq_nr - 1 if self.pending else self.sequence_nr
            oldest = next(iter(keys))
            if keys[oldest][1].sequence_nr <= durable:  # a key whose event is on its way is known nowhere else
                del keys[oldest]

    def _answer(self, ask: Ask, answer: OwnerAnswer) -> None:
        """Answer from memory once all it was decided on is durable."""
        if not self.pending and self.shard.memory_reads_allowed():
            ask.answer(answer)
        else:
            self._after_pending(ask, lambda: ask.answer(answer))

    def _after_pending(self, ask: Ask, deliver: Callable[[], None]) -> None:
        if self.pending:
            row = self.pending[-1]
            if row.followers is None:
                row.followers = []
            row.followers.append((ask, deliver))
        elif self.shard.memory_reads_allowed():
            deliver()
        else:
            self.shard.hold(ask)  # decided afresh when the lease is certain again

    # --- what the journal says

    def stored(self, row: Row) -> None:
        """The oldest pending event is durable: its answers may leave."""
        done = self.pending.popleft()
        assert done is row
        self.shard.env.admitted -= 1
        done.ask.answer(done.answer)
        if done.followers is not None:
            for _, deliver in done.followers:
                deliver()
        if done.snapshot is not None:
            self.shard.save_snapshot(self, done.seq_nr, done.snapshot)
        if self.phase is Phase.DRAINING and not self.pending:
            self._reload()

    def rejected(self, row: Row, error: Exception) -> None:
        """The database refused the oldest pending event: decide it and all that came after again, from the journal."""
        log.warning(
            "event refused by the journal; the thread is loaded again",
            extra={
                "shard": self.shard.shard_id,
                "thread_id": self.thread_id,
                "seq_nr": row.seq_nr,
                "cause": repr(error),
            },
        )
        self.shard.stream.withdraw(self)
        again = self._forget_pending()
        for ask in again:
            ask.admitted = False
            ask.key_doubted = True  # after a takeover many are sent again at once: one reload for all of them
        guilty = again[0]
        guilty.refused_by_journal += 1
        if guilty.refused_by_journal > _REFUSALS_BORNE:
            guilty.answer(NOT_SERVED)
        self.mailbox.extendleft(reversed(again))
        self._reload()

    def _forget_pending(self) -> list[Ask]:
        """All asks that wait for events of this actor, in order; the events are known not to be stored."""
        asks: list[Ask] = []
        for row in self.pending:
            asks.append(row.ask)
            if row.followers is not None:
                asks += [ask for ask, _ in row.followers]
        self.shard.env.admitted -= len(self.pending)
        self.pending.clear()
        return asks

    def _lost_state(self, ask: Ask, error: Exception) -> None:
        """A bug in decide or evolve: the state may be half changed.  Only this thread is concerned."""
        log.error(
            "a command broke its thread's state; the thread is loaded again",
            exc_info=error,
            extra={"shard": self.shard.shard_id, "thread_id": self.thread_id},
        )
        ask.answer(POISONED)
        self.state = None
        if self.pending:
            self.phase = Phase.DRAINING
        else:
            self._reload()

    def _reload(self) -> None:
        self.phase = Phase.LOADING
        self.state = None
        self.keys = OrderedDict()
        self.shard.load(self)

    # --- its history

    def loaded(self, state: Thread | None, sequence_nr: int, snapshot_nr: int) -> None:
        """The history is read: decide what waited."""
        self.state = state
        self.sequence_nr = sequence_nr
        self.snapshot_nr = snapshot_nr
        self.phase = Phase.ACTIVE
        mailbox = self.mailbox
        while mailbox and self.phase is Phase.ACTIVE:
            ask = mailbox.popleft()
            if not ask.over:
                self.take(ask)

    def poison(self, reason: str) -> None:
        """The history cannot be read: say so to everyone who asks, and leave the neighbours alone."""
        log.error(
            "thread poisoned", extra={"shard": self.shard.shard_id, "thread_id": self.thread_id, "reason": reason}
        )
        self.phase = Phase.POISONED
        while self.mailbox:
            self.mailbox.popleft().answer(POISONED)

    def key_found(self, ask: Ask, body_hash: bytes, answer: Done) -> None:
        """The journal knows the key: the first answer, or the key was used for something else."""
        request = ask.request
        assert isinstance(request, CommandRequest)
        ask.answer(answer if body_hash == request.body_hash else KEY_REUSED)

    def abandon(self, owner: str | None, epoch: int) -> None:
        """The shard is no longer here, and nothing that is pending was stored: send everyone on."""
        for ask in self._forget_pending():
            ask.not_here(owner, epoch)
        while self.mailbox:
            self.mailbox.popleft().not_here(owner, epoch)

    def give_up_waiting(self) -> None:
        """The history could not be fetched in time; nothing was admitted."""
        while self.mailbox:
            self.mailbox.popleft().answer(NOT_SERVED)
