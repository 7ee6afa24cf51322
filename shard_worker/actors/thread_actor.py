"""The resident aggregate of one thread.

It decides each command on its *speculative* state, in which events that are still on their way to the journal have
already happened, so that one hot thread is not limited to one command a round trip.  In return nothing leaves it
early: every answer, also a refusal, a read or "nothing changed", waits until all events it was decided on are durable.
When one of them is refused by the database, everything decided on it is decided again from the journal.

The reference has two actors (a persistent one that stashes, and a child with the state); here they are one object.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, Protocol
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as PostgresUUID  # noqa: N811  # a `UUID` whose bytes need no conversion
from msgspec.structs import replace

from shard_worker.actors.context import ActorContext
from shard_worker.actors.pending import NOT_SERVED, PendingRequest
from shard_worker.actors.queries import HeadAnswer, PendingTexts, SortedAccounts, answer_query
from shard_worker.contract import POISONED, CommandRequest, Done, OwnerAnswer, Unavailable, UnavailableCode
from shard_worker.domain.decide import Unchanged, decide, message_ids_of
from shard_worker.domain.events import MessagesAdded
from shard_worker.domain.evolve import evolve
from shard_worker.domain.ids import ShardId, ThreadId, ulid_bytes
from shard_worker.domain.refusals import Refusal, RefusalCode
from shard_worker.domain.thread import Thread
from shard_worker.journal.append_queue import AppendQueue, Row
from shard_worker.journal.codec import encode_state
from shard_worker.journal.isolation import is_key_violation
from shard_worker.journal.loader import Recovered

log = logging.getLogger(__name__)

_KEYS_KEPT: Final = 32
"""How many idempotency keys an actor remembers before it asks the journal."""

_WEIGHED_EVERY: Final = 16
"""Events between two estimates of an actor's bytes: one in 16 makes the cost a sixteenth; a power of two."""
_WEIGHED_FROM: Final = 4_096
"""Size of an event, in bytes, from which on the estimate is renewed at once."""
_FOUND_KEYS_KEPT: Final = 32
"""How many keys that were found in the journal an actor remembers; they outlive a reload, for a stored key never changes."""
_ROW_BYTES: Final = 1024
"""Bytes that a pending event takes beside its payload and its request: row, ask, future, answer, key."""

_REFUSALS_BORNE: Final = 3
"""How often one command's event may be refused for its key before its caller is asked to come back later."""

KEY_REUSED: Final = Refusal(
    RefusalCode.IDEMPOTENCY_KEY_REUSED, "this Idempotency-Key was used before with another body or path"
)
OVERLOADED: Final = Unavailable(UnavailableCode.OVERLOADED, "too many commands wait for this thread; slow down", 1.0)


class Phase(Enum):
    """Phase of an actor's life."""

    LOADING = auto()
    """Its history is being read; commands wait in the mailbox."""
    ACTIVE = auto()
    DRAINING = auto()
    """Its state was lost to a fault; it loads again once what it has at the journal is settled."""
    POISONED = auto()
    """Its history could not be read; the shard loads it again after the delay that clients get with `POISONED`."""


_ACTIVE: Final = Phase.ACTIVE
"""An enum's members are looked up by a descriptor, which takes three times as long as a name of the module."""


class EventRow(Row):
    """An event on its way to the journal, with the asks that wait for it."""

    __slots__ = ("answer", "ask", "bytes_counted", "dependents", "snapshot")

    ask: PendingRequest
    answer: Done
    dependents: list[tuple[PendingRequest, Callable[[], None]]] | None
    """Asks decided on this event and not stored by themselves, each with what delivers its answer."""
    snapshot: bytes | None
    bytes_counted: int
    """Bytes that the event takes of the limit on pending bytes."""


class ActorHost(Protocol):
    """The shard as its actors see it."""

    shard_id: ShardId

    def handle(self, ask: PendingRequest, thread_id: ThreadId) -> None:
        """Decide a request of one of the shard's threads, now or when it can be."""

    def memory_reads_allowed(self) -> bool:
        """Whether an answer may be given from memory alone, in this turn of the loop."""

    def stash(self, ask: PendingRequest) -> None:
        """Stash a request that must not be decided now; nothing of it is stored."""

    def load(self, actor: "ThreadActor") -> None:
        """Read an actor's history; `ThreadActor.loaded` or `ThreadActor.poison` follows."""

    def look_up_key(self, actor: "ThreadActor", ask: PendingRequest, key_hash: bytes) -> None:
        """Ask the journal for an idempotency key; `ThreadActor.key_found` or `handle` follows."""

    def find_epoch(self, actor: "ThreadActor", ask: PendingRequest, done: Done) -> None:
        """Answer ``done`` with the epoch of its event, which is read from the journal."""

    def fetch_texts(self, actor: "ThreadActor", ask: PendingRequest, needs: PendingTexts) -> None:
        """Answer with a page of messages, whose texts are read from the journal."""

    def save_snapshot(self, actor: "ThreadActor", seq_nr: int, state: bytes, event_metadata: bytes) -> None:
        """Keep a snapshot of durable state, some time."""

    def weigh(self, actor: "ThreadActor") -> None:
        """Estimate again how many bytes an actor takes."""

    def forget(self, actor: "ThreadActor") -> None:
        """Forget an actor that nothing waits for, or whose thread does not exist."""

    def evict(self, actor: "ThreadActor") -> None:
        """Forget an actor that passivation removed."""


class ThreadActor:
    """One thread, resident in one shard.  All methods are called on the event loop and none of them waits."""

    __slots__ = (
        "bytes_since",
        "env",
        "found_keys",
        "head_epoch",
        "keys",
        "last_used_at",
        "mailbox",
        "ordered",
        "pending",
        "pending_bytes",
        "phase",
        "retry_at",
        "sequence_nr",
        "shard",
        "snapshot_nr",
        "state",
        "stream",
        "thread_id",
        "uuid",
        "weight",
    )

    def __init__(self, thread_id: ThreadId, shard: ActorHost, *, env: ActorContext, stream: AppendQueue) -> None:
        self.thread_id = thread_id
        self.uuid: UUID = PostgresUUID(ulid_bytes(thread_id))
        self.shard = shard
        # Kept by each actor: the way of a command does not lead through the shard a second time.
        self.env = env
        self.stream = stream
        self.phase = Phase.LOADING
        self.state: Thread | None = None
        self.sequence_nr = 0
        self.head_epoch = 0
        """The epoch of the newest durable event."""
        self.snapshot_nr = 0
        self.bytes_since = 0
        """Bytes of payloads after the last snapshot."""
        self.ordered = SortedAccounts()
        self.retry_at = 0.0
        """When a history that could not be read is read again, by the residents' clock."""
        self.weight = 0
        """Its bytes in memory as `LruPassivation` counts them."""
        self.pending: deque[EventRow] = deque()
        self.mailbox: deque[PendingRequest] = deque()
        self.keys: OrderedDict[bytes, tuple[bytes, Done, bytes]] = OrderedDict()
        """By key: the hash of the body, the first answer, and the id of the command that stored it."""
        self.pending_bytes = 0
        self.found_keys: OrderedDict[bytes, tuple[bytes, Done, bytes]] | None = None
        self.last_used_at = 0.0

    @property
    def busy(self) -> bool:
        """Whether it must stay resident."""
        return bool(self.pending or self.mailbox) or self.phase in (Phase.LOADING, Phase.DRAINING)

    def passivated(self) -> None:
        """Leave the shard: passivation removed the actor, which is not busy."""
        self.shard.evict(self)

    # --- asks

    def handle(self, ask: PendingRequest) -> None:
        """Decide one ask, or let it wait for the thread's history."""
        phase = self.phase
        if phase is not _ACTIVE:
            if phase is Phase.POISONED:
                if self.last_used_at < self.retry_at:
                    ask.answer(POISONED)
                    return
                self._reload()  # it may have been repaired
            if not self._may_wait():
                ask.answer(OVERLOADED)
            else:
                ask.stash(self.env, self)
                self.mailbox.append(ask)
            return
        request = ask.request
        if type(request) is CommandRequest:
            try:
                self._command(ask, request)
            except Exception as error:  # noqa: BLE001  # a bug in a rule breaks this thread alone; logged with its cause
                self._lost_state(ask, error)
        else:
            try:
                answer = answer_query(self.state, request, self.ordered)  # type: ignore[arg-type]  # followers do not come here
            except Exception as error:  # noqa: BLE001  # as above
                self._lost_state(ask, error)
                return
            if isinstance(answer, PendingTexts):
                needs = answer
                self._after_pending(
                    ask, lambda: self.shard.fetch_texts(self, ask, replace(needs, epoch=self.head_epoch))
                )
            elif isinstance(answer, HeadAnswer):
                self._answer_at_head(ask, answer)
            else:
                self._answer(ask, answer)

    def _may_wait(self) -> bool:
        """Whether one more request may wait for the thread's history."""
        bounds, mailbox = self.env.bounds, self.mailbox
        while mailbox and mailbox[0].done:
            mailbox.popleft()
        return len(mailbox) < bounds.per_thread and self.pending_bytes < bounds.bytes_per_thread and self.env.may_hold()

    def _command(self, ask: PendingRequest, request: CommandRequest) -> None:
        key = request.key_hash
        env = self.env
        if key is not None:
            known = self.keys.get(key)
            if known is not None:
                # While events are pending, the first sending of the key may be stored without an answer to this one.
                ask.admitted = bool(self.pending)
                self._answer_again(ask, request, key, known)
                return
            if self.found_keys is not None and (known := self.found_keys.get(key)) is not None:
                env.repeaters.note(request.command.account_id)
                ask.answer(_first_answer(request, *known))
                return
            doubted = ask.key_doubted or env.repeaters.includes(request.command.account_id)
            if doubted and not self._knows_keys_of(ask):
                self.shard.look_up_key(self, ask, key)
                return
        state = self.state
        decided = decide(state, request.command, env.now_ms(), env.limits)
        if isinstance(decided, (Refusal, Unchanged)):  # the union would be built for every command
            if key is not None and not self._knows_keys_of(ask):
                self.shard.look_up_key(self, ask, key)
            elif isinstance(decided, Unchanged):
                self._unchanged(ask, Done(decided.sequence_nr, decided.message_ids, decided.replayed))
            else:
                self._answer(ask, decided)
            return
        bounds = env.bounds
        if (
            len(self.pending) >= bounds.per_thread
            or self.pending_bytes >= bounds.bytes_per_thread
            or not env.may_admit()
        ):
            ask.answer(OVERLOADED)
            return
        row = EventRow()
        row.event_type, row.event_version, row.payload = env.encode(decided)
        row.seq_nr = seq_nr = self.sequence_nr + 1
        # The state runs ahead of the journal: answers from it wait in `_answer` until the pending events are durable.
        self.state = evolve(state, decided, seq_nr)
        self.sequence_nr = seq_nr
        row.writer = self
        row.metadata = b'{"commandId":"%b"}' % request.command_id.hex().encode()
        row.key_hash = key
        row.body_hash = request.body_hash if key is not None else None
        row.ask = ask
        row.answer = answer = Done(seq_nr, message_ids_of(decided), False, self.stream.epoch)
        row.dependents = None
        if type(decided) is not MessagesAdded:
            self.ordered = SortedAccounts()
        self.bytes_since += len(row.payload)
        # A snapshot costs as much as the thread holds; at half as many events the cost an event has a bound.
        policy = env.snapshots
        if (
            seq_nr - self.snapshot_nr >= max(policy.every_events, len(self.state.messages) // 2)
            or self.bytes_since >= policy.every_bytes
        ) and env.snapshot_allowance > 0:
            row.snapshot = encode_state(self.state)
            env.snapshot_allowance -= len(row.snapshot)
            self.snapshot_nr, self.bytes_since = seq_nr, 0
        else:
            row.snapshot = None
        if key is not None:
            assert request.body_hash is not None  # the gateway sets both or none
            self._remember(key, request.body_hash, answer, request.command_id)
        row.deadline = ask.deadline
        row.size = size = len(row.payload) + len(row.metadata)
        # The request is kept beside the payload, to be decided again.
        row.bytes_counted = size = _ROW_BYTES + 2 * size + (len(row.snapshot) if row.snapshot is not None else 0)
        # Pending and admitted before `submit`: the appender's callbacks find the row, and a budget that ends from here on
        # is answered as an unknown outcome.
        self.pending.append(row)
        ask.admitted = True
        env.admitted += 1
        env.pending_bytes += size
        self.pending_bytes += size
        self.stream.submit(row)

    def _knows_keys_of(self, ask: PendingRequest) -> bool:
        """Whether the ask's key was not in the journal, and every key stored since is still in memory."""
        if not self.sequence_nr:
            return True  # keys are in the journal with the thread's events, and it has none
        checked = ask.key_checked
        return checked is not None and checked[0] is self.keys and self.sequence_nr - checked[1] < _KEYS_KEPT // 2

    def _remember(self, key: bytes, body_hash: bytes, answer: Done, command_id: bytes) -> None:
        keys = self.keys
        keys[key] = (body_hash, answer, command_id)
        if len(keys) > _KEYS_KEPT:
            durable = self.pending[0].seq_nr - 1 if self.pending else self.sequence_nr
            oldest = next(iter(keys))
            if keys[oldest][1].sequence_nr <= durable:  # a key whose event is on its way is known nowhere else
                del keys[oldest]

    def _answer(self, ask: PendingRequest, answer: OwnerAnswer) -> None:
        """Answer from memory once all it was decided on is durable."""
        if not self.pending and self.shard.memory_reads_allowed():
            ask.answer(answer)
        else:
            self._after_pending(ask, lambda: ask.answer(answer))

    def _answer_again(
        self, ask: PendingRequest, request: CommandRequest, key: bytes, known: tuple[bytes, Done, bytes]
    ) -> None:
        """`_answer` a retry as its first sending was: the epoch of that answer may change until its event is durable."""
        if not self.pending and self.shard.memory_reads_allowed():
            ask.answer(_first_answer(request, *known))
        else:
            self._after_pending(ask, lambda: ask.answer(_first_answer(request, *self.keys.get(key, known))))

    def _answer_at_head(self, ask: PendingRequest, answer: HeadAnswer) -> None:
        """`_answer`, with the epoch of the newest event, which is known once that is durable."""
        if not self.pending and self.shard.memory_reads_allowed():
            ask.answer(replace(answer, epoch=self.head_epoch))
        else:
            self._after_pending(ask, lambda: ask.answer(replace(answer, epoch=self.head_epoch)))

    def _unchanged(self, ask: PendingRequest, done: Done) -> None:
        """Answer a command that stores nothing; of a recognised retry the event of its first answer may be any."""
        if done.sequence_nr == self.sequence_nr:
            self._answer_at_head(ask, done)
        else:
            self._after_pending(ask, lambda: self.shard.find_epoch(self, ask, done))

    def _after_pending(self, ask: PendingRequest, deliver: Callable[[], None]) -> None:
        if self.pending:
            row = self.pending[-1]  # rows become durable in order: the last one covers all
            if row.dependents is None:
                row.dependents = []
            row.dependents.append((ask, deliver))
        elif self.shard.memory_reads_allowed():
            deliver()
        else:
            self.shard.stash(ask)  # decided afresh when the lease is certain again

    # --- what the journal says

    def stored(self, row: Row) -> None:
        """Answer the command of the oldest pending event, which is durable, and the requests decided on it."""
        done = self.pending.popleft()
        assert done is row  # the appender keeps the order of a shard's rows
        env, size = self.env, done.bytes_counted
        env.admitted -= 1
        env.pending_bytes -= size
        self.pending_bytes -= size
        self.head_epoch = epoch = self.stream.epoch
        if done.answer.epoch != epoch:  # an unknown outcome raised the epoch before the event was sent again
            self._correct_epoch(done, epoch)
        done.ask.answer(done.answer)
        if done.dependents is not None:
            for _, deliver in done.dependents:
                deliver()
        if done.snapshot is not None:  # only now: a snapshot must not be ahead of the journal
            self.shard.save_snapshot(self, done.seq_nr, done.snapshot, done.metadata)
        if not done.seq_nr % _WEIGHED_EVERY or len(done.payload) >= _WEIGHED_FROM:
            self.shard.weigh(self)
        if self.phase is Phase.DRAINING and not self.pending:
            self._reload()

    def _correct_epoch(self, row: EventRow, epoch: int) -> None:
        before, row.answer = row.answer, replace(row.answer, epoch=epoch)
        key = row.key_hash
        if key is not None and (known := self.keys.get(key)) is not None and known[1] is before:
            self.keys[key] = (known[0], row.answer, known[2])

    def rejected(self, rows: list[Row], error: Exception) -> None:
        """The database refused the first of these events: decide it and all that came after again, from the journal."""
        guilty = self.pending[-len(rows)]
        assert guilty is rows[0]
        log.warning(
            "journal refused an event; the actor reloads its thread",
            extra={
                "shard": self.shard.shard_id,
                "thread_id": self.thread_id,
                "seq_nr": guilty.seq_nr,
                "cause": repr(error),
            },
        )
        ask = guilty.ask
        ask.refused_by_journal += 1
        again = self._take_back(len(rows))
        if is_key_violation(error):
            request = ask.request
            assert isinstance(request, CommandRequest)  # only commands make events
            self.env.repeaters.note(request.command.account_id)
            for each in again:
                each.key_doubted = True  # after a takeover many are sent again at once: one reload for all of them
        if not is_key_violation(error) or ask.refused_by_journal > _REFUSALS_BORNE:
            ask.answer(NOT_SERVED)
        self._decide_again(again)

    def expired(self, rows: list[Row], now: float) -> None:
        """A deadline passed before its event was sent: nothing of it is stored; decide all that came after again."""
        assert self.pending[-len(rows)] is rows[0]
        again = self._take_back(len(rows))
        for ask in again:
            if ask.deadline <= now:
                ask.expire()
        self._decide_again(again)

    def _take_back(self, count: int) -> list[PendingRequest]:
        """Remove the last ``count`` pending events, which are known not to be stored; the requests that wait for them."""
        rows = [self.pending.pop() for _ in range(count)]
        asks: list[PendingRequest] = []
        size = 0
        for row in reversed(rows):
            size += row.bytes_counted
            asks.append(row.ask)
            if row.dependents is not None:
                asks += [ask for ask, _ in row.dependents]
        for ask in asks:
            ask.admitted = False
        self.env.admitted -= count
        self.env.pending_bytes -= size
        self.pending_bytes -= size
        return asks

    def _decide_again(self, asks: list[PendingRequest]) -> None:
        """Put asks before all that wait, to be decided from the journal once nothing is pending."""
        asks = [ask for ask in asks if not ask.done]
        for ask in asks:
            ask.stash(self.env, self)
        self.mailbox.extendleft(reversed(asks))
        self.state = None
        if self.pending:
            # Earlier rows may be at the server: a load now could miss them.  `stored` starts the load after the last row.
            self.phase = Phase.DRAINING
        elif all(ask.done for ask in self.mailbox):
            self.shard.forget(self)  # while Postgres is away this spares a load for each thread that was asked
        else:
            self._reload()

    def _lost_state(self, ask: PendingRequest, error: Exception) -> None:
        """A bug in decide or evolve: the state may be half changed.  Only this thread is concerned."""
        log.error(
            "command or query failed on its thread's state; the actor reloads its thread",
            exc_info=error,
            extra={"shard": self.shard.shard_id, "thread_id": self.thread_id},
        )
        ask.answer(POISONED)
        self.state = None
        if self.pending:  # as in `_decide_again`
            self.phase = Phase.DRAINING
        else:
            self._reload()

    def _reload(self) -> None:
        self.phase = Phase.LOADING
        self.state = None
        self.keys = (
            OrderedDict()
        )  # the keys of withdrawn events are not in the journal; a new object voids `key_checked`
        self.ordered = SortedAccounts()
        self.shard.load(self)

    # --- its history

    def loaded(self, found: Recovered) -> None:
        """The history is read: decide what waited.  A thread that does not exist after that leaves memory."""
        self.state, self.sequence_nr, self.snapshot_nr, self.bytes_since, self.head_epoch = found
        self.phase = Phase.ACTIVE
        self.shard.weigh(self)
        mailbox = self.mailbox
        while mailbox and self.phase is Phase.ACTIVE:  # a request that breaks the state starts another load
            ask = mailbox.popleft()
            if not ask.done:
                ask.unstash()
                self.handle(ask)
        if self.state is None and not self.busy:
            self.shard.forget(self)

    def poison(self, reason: str, now: float) -> None:
        """The history cannot be read: answer so until the `Retry-After` of that answer is over."""
        log.error(
            "thread poisoned", extra={"shard": self.shard.shard_id, "thread_id": self.thread_id, "reason": reason}
        )
        self.phase = Phase.POISONED
        self.retry_at = now + POISONED.retry_after_s
        while self.mailbox:
            self.mailbox.popleft().answer(POISONED)

    def key_found(self, ask: PendingRequest, body_hash: bytes, answer: Done, command_id: bytes) -> None:
        """The journal knows the key: the first answer, or the key was used for something else."""
        request = ask.request
        assert isinstance(request, CommandRequest)
        if request.key_hash is not None:
            found = self.found_keys
            if found is None:
                found = self.found_keys = OrderedDict()
            found[request.key_hash] = (body_hash, answer, command_id)
            if len(found) > _FOUND_KEYS_KEPT:
                found.popitem(last=False)
        ask.answer(_first_answer(request, body_hash, answer, command_id))

    def send_on(self, count: int, owner: str | None, epoch: int) -> None:
        """Redirect the last ``count`` pending commands: the shard is no longer here, and their events were never sent."""
        for ask in self._take_back(count):
            ask.redirect(owner, epoch)

    def abandon(self, owner: str | None, epoch: int) -> None:
        """Redirect all requests: the shard is no longer here, and no pending event was stored."""
        self.send_on(len(self.pending), owner, epoch)
        while self.mailbox:
            self.mailbox.popleft().redirect(owner, epoch)

    def give_up_waiting(self) -> None:
        """Answer that nothing was served: the history could not be loaded in time, and nothing was admitted."""
        while self.mailbox:
            self.mailbox.popleft().answer(NOT_SERVED)


def _first_answer(request: CommandRequest, body_hash: bytes, answer: Done, command_id: bytes) -> Done | Refusal:
    """The answer to a command whose key is known: ``answer`` is that of the command ``command_id``, which stored it.

    The same command id means that a gateway sent one request twice, which is no retry of its client.
    """
    if body_hash != request.body_hash:
        return KEY_REUSED
    if command_id == request.command_id:
        return answer
    return Done(answer.sequence_nr, answer.message_ids, True, answer.epoch)
