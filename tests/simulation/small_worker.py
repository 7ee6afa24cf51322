"""One worker of the exhaustive search: its core at a position, its lease, and its shards in memory.

A `WorkerState` never changes.  `SmallWorker` takes an event and leaves another state and its effects on the
surroundings.  A generator cannot be copied, so the current turn is replayed on the core as it was before the turn; `SmallWorkers`
does that once for each state, time and event, and remembers the outcome.
"""

import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, NamedTuple

from shard_worker.domain.ids import ShardId
from shard_worker.ownership import reconciler_requests as ask
from shard_worker.ownership.failure_detector import Fenced
from shard_worker.ownership.handoff import Handoff
from shard_worker.ownership.reconciler_core import ReconcilerCore
from shard_worker.ownership.view import EMPTY, OwnershipView
from tests.simulation.reconciler import STATEMENTS
from tests.simulation.state_key import Table, coded, position_of

_AT_ONCE: Final = (ask.OpenSession, ask.Pause, ask.CatchUp, ask.RecordStartSeqs)
"""Requests that are answered at once: their time changes no decision."""
_REMOTE: Final = tuple(each for each in STATEMENTS if each is not ask.RecordStartSeqs)

Effect = tuple[Any, ...]
"""An effect on the surroundings: a name, and values."""
Event = tuple[Any, ...]
"""The name of a method of `SmallWorker`, and values."""


class SmallShard(NamedTuple):
    """A shard in a worker's memory."""

    epoch: int
    head: int
    admits: bool = True
    in_flight: bool = False

    @property
    def idle(self) -> bool:
        """No append is in flight."""
        return not self.in_flight


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WorkerState:
    """A process at one moment."""

    name: str
    incarnation: str
    alive: bool = True
    paused: bool = False
    leaving: bool = False
    broken: bool = False
    """The session is lost, and the core does not know yet: it waits."""
    until: float = 0.0
    """The end of the lease."""
    begins_at: float | None = None
    """The process is registered, and waits until then for its predecessor's lease."""
    unlocked_at: float | None = None
    """Since when the lease's session is lost."""
    shards: Mapping[ShardId, SmallShard] = field(default_factory=dict)
    preparing: Mapping[ShardId, Handoff] = field(default_factory=dict)
    draining: tuple[ShardId, ...] = ()
    answer: int | None = None
    """The answer that is on its way back."""
    pending: ask.Request | None = None
    """The statement in flight, or a `Wait`."""
    before: bytes = b""
    """The core before its turn."""
    inputs: tuple[tuple[str, Any], ...] = ()
    """Its inputs since then."""
    view: OwnershipView = EMPTY
    # --- known by `SmallWorkers`
    id: int = -1
    code: tuple[int, ...] = ()
    """The numbers of its parts."""
    statement: int = -1
    """The number of `pending`."""
    looked: int = -1
    """The number of `view`."""

    @property
    def running(self) -> bool:
        """It takes steps."""
        return self.alive and not self.paused

    @property
    def member(self) -> bool:
        """It has a core."""
        return self.alive and self.begins_at is None

    @property
    def waits(self) -> bool:
        """It waits for time."""
        return self.begins_at is not None or isinstance(self.pending, ask.Wait)

    @property
    def at_server(self) -> bool:
        """A statement is on its way, and is not executed yet."""
        return self.member and not self.waits and self.answer is None

    @property
    def owns(self) -> bool:
        """As far as it knows, shards are its own."""
        return bool(self.shards) or any(row.incarnation == self.incarnation for row in self.view.shards.values())

    def drained(self) -> list[ShardId]:
        """The shards whose drain can end: an append may be in flight for some ticks."""
        return [each for each in self.draining if each not in self.shards or self.shards[each].idle]


_DATA: Final = tuple(each.name for each in fields(WorkerState))[:-4]
_ENCODED: Final = tuple(each for each in _DATA[: _DATA.index("before")] if each != "answer")


class Host(NamedTuple):
    """A worker as the watch sees it."""

    incarnation: str
    shards: Mapping[ShardId, SmallShard]
    reads: bool

    def may_read(self) -> bool:
        """The lease."""
        return self.reads


class SmallWorker:
    """A worker while it takes an event."""

    def __init__(self, state: WorkerState, now: float, values: Table) -> None:
        self.effects: list[Effect] = []
        self.now = now
        self._values = values
        self._data = {name: getattr(state, name) for name in _DATA}
        self.shards = dict(state.shards)
        self.preparing = dict(state.preparing)
        self.draining = list(state.draining)
        self.pending = state.pending
        self.inputs = list(state.inputs)
        if state.before and state.alive:
            self._replay(state)

    def _replay(self, state: WorkerState) -> None:
        self.core: ReconcilerCore = pickle.loads(state.before)  # our own bytes
        self.steps = self.core.turn()
        next(self.steps)
        for kind, value in state.inputs:
            if kind == "event":
                name, args, named = value
                getattr(self.core, name)(*args, **named)
            elif kind == "lost":
                self.steps.throw(ask.SessionLost())
            else:
                self.steps.send(value)

    def state(self) -> tuple[dict[str, Any], list[object]]:
        """The worker as it is now, and the codes of its parts."""
        self._data |= {
            "shards": self.shards,
            "preparing": self.preparing,
            "draining": tuple(self.draining),
            "pending": self.pending,
            "inputs": tuple(self.inputs),
        }
        parts: list[object] = [tuple(coded(self._data[name]) for name in _ENCODED)]
        if (answer := self._data["answer"]) is not None:
            parts += ["answer", self._values.values[answer]]
        if self._data["before"]:
            self._data["view"] = self.core.view
            parts += [*vars(self.core).values(), *position_of(self.steps)]
        codes: dict[int, object] = {}  # some parts are one object
        for part in parts:
            if id(part) not in codes:
                codes[id(part)] = coded(part)
        return self._data, [codes[id(part)] for part in parts]

    def _begin(self) -> None:
        """Begin a turn of the core."""
        self._data["before"] = pickle.dumps(self.core)
        self.inputs = []
        self.steps = self.core.turn()
        self._go_on(next(self.steps))

    def _go_on(self, request: ask.Request) -> None:
        """Answer local requests until the core waits for a message or for time."""
        while not isinstance(request, ask.Wait):
            if isinstance(request, _REMOTE):
                if not self._data["broken"]:
                    break
                self._data["broken"] = False
                request = self._throw()
                continue
            answer = None if isinstance(request, _AT_ONCE) else self._local(request)
            self.inputs.append(("answer", answer))
            try:
                request = self.steps.send(answer)
            except StopIteration:
                self._begin()  # a turn in which the session was lost ends without a wait
                return
        self.pending = request

    def _throw(self) -> ask.Request:
        self.inputs.append(("lost", None))
        request: ask.Request = self.steps.throw(ask.SessionLost())
        return request

    # --- events

    def begin(self) -> None:
        """The process is a member from now on."""
        self._data["begins_at"] = None
        self.core = ReconcilerCore(self._data["name"], self._data["incarnation"])
        self._begin()

    def set(self, name: str, value: object) -> None:
        """A part of the state that the core does not see."""
        self._data[name] = value

    def leave(self) -> None:
        """It shall give up all that it has."""
        self._data["leaving"] = True

    def resume(self) -> None:
        """The wait is over."""
        if isinstance(self.pending, ask.Wait):
            try:
                self.steps.send(None)
            except StopIteration:
                self._begin()

    def deliver(self) -> None:
        """The answer arrives."""
        value = self._values.values[self._data["answer"]]
        self._data["answer"] = None
        self.inputs.append(("answer", value))
        try:
            self._go_on(self.steps.send(value))
        except Fenced:
            self.end()

    def lose(self) -> None:
        """The session is lost."""
        self._data["answer"] = None
        if isinstance(self.pending, ask.Wait):
            self._data["broken"] = True
        else:
            self._go_on(self._throw())

    def prepared(self, shard_id: ShardId) -> None:
        """The receiver of a handoff is ready."""
        self._event("prepare_ended", shard_id, self.preparing.pop(shard_id), ready=True, now=self.now)

    def drain_ended(self, shard_id: ShardId) -> None:
        """No append is in flight."""
        self.draining.remove(shard_id)
        head = self.shards[shard_id].head if shard_id in self.shards else None
        self._event("drain_ended", shard_id, head, failed=False, now=self.now)

    def transferred(self, shard_id: ShardId, epoch: int, incarnation: str, head: int | None) -> None:
        """A peer has transferred a shard to an incarnation of this worker."""
        self._event("on_transferred", shard_id, epoch, incarnation, head)

    def _event(self, name: str, *args: object, **named: object) -> None:
        self.inputs.append(("event", (name, args, named)))
        getattr(self.core, name)(*args, **named)
        self.resume()

    def end(self) -> None:
        """The incarnation is over."""
        self.shards, self.preparing, self.draining, self.inputs = {}, {}, [], []
        self.pending = None
        self._data |= {"alive": False, "paused": False, "broken": False, "answer": None, "before": b"", "view": EMPTY}
        self._data |= {"begins_at": None, "unlocked_at": None, "until": 0.0, "leaving": False}

    # --- the journal

    def send(self, shard_id: ShardId) -> None:
        """An append is sent."""
        self.shards[shard_id] = self.shards[shard_id]._replace(in_flight=True)

    def acknowledged(self, shard_id: ShardId) -> None:
        """It is stored."""
        shard = self.shards[shard_id]
        self.shards[shard_id] = shard._replace(in_flight=False, head=shard.head + 1)

    def refused(self, shard_id: ShardId) -> None:
        """The shard is another's."""
        del self.shards[shard_id]

    # --- local requests

    def _local(self, request: ask.Request) -> object:
        match request:
            case ask.Observe():
                serving = {shard_id for shard_id, shard in self.shards.items() if shard.admits}
                return ask.Observation(self.now, self._data["leaving"], False, set(self.shards), serving)
            case ask.Adopt():
                for shard_id, head in request.heads.items():
                    self.effects.append(("adopted", shard_id, request.epochs[shard_id], head))
                    self.shards[shard_id] = SmallShard(request.epochs[shard_id], head)
            case ask.Drop():
                self.shards.pop(request.shard_id, None)
            case ask.Resume():
                self._admit(request.shard_id, admits=True)
            case ask.StartPrepare():
                self.preparing[request.shard_id] = request.handoff
            case ask.StartDrain():
                self.draining.append(request.shard_id)
                self._admit(request.shard_id, admits=False)
            case ask.CancelDrain():
                if request.shard_id in self.draining:
                    self.draining.remove(request.shard_id)
            case ask.NotifyTransferred():
                receiver = request.receiver
                self.effects.append(
                    ("notify", receiver.worker, request.shard_id, receiver.epoch, receiver.incarnation, request.head)
                )
            case ask.CycleDone():
                self.effects.append(("handoffs", len(self.core.handoffs)))
        return None

    def _admit(self, shard_id: ShardId, *, admits: bool) -> None:
        if shard_id in self.shards:
            self.shards[shard_id] = self.shards[shard_id]._replace(admits=admits)
            if admits:
                self.effects.append(("reads", shard_id))


class SmallWorkers:
    """The effect of each event on each state, once it was seen."""

    def __init__(self, values: Table) -> None:
        self._values = values
        self._states = Table()
        self._codes = Table()
        self._after: dict[tuple[int, float, Event], tuple[WorkerState, tuple[Effect, ...]]] = {}

    def after(self, state: WorkerState, now: float, event: Event) -> tuple[WorkerState, tuple[Effect, ...]]:
        """The state after an event, and the effects."""
        key = (state.id, now, event)
        if (found := self._after.get(key)) is None:
            worker = SmallWorker(state, now, self._values)
            getattr(worker, event[0])(*event[1:])
            found = self._after[key] = self._known(*worker.state()), tuple(worker.effects)
        return found

    def code(self, number: int) -> object:
        """A part of a state."""
        return self._codes.values[number]

    def _known(self, data: Mapping[str, Any], codes: Iterable[object]) -> WorkerState:
        """The state with these parts: the first one that was seen."""
        code = tuple([self._codes.put(each, each) for each in codes])
        number = self._states.put(code)
        if self._states.values[number] is None:
            pending, view = data["pending"], data["view"]
            statement = -1 if pending is None else self._values.put(coded(pending), pending)
            looked = self._values.put(coded(view), view)
            self._states.values[number] = WorkerState(**data, id=number, code=code, statement=statement, looked=looked)
        found: WorkerState = self._states.values[number]
        return found

    def first(self, name: str, incarnation: str, begins_at: float) -> WorkerState:
        """A process that is registered."""
        state = WorkerState(name=name, incarnation=incarnation, begins_at=begins_at)
        return self._known(*SmallWorker(state, 0.0, self._values).state())


def hosts(workers: Iterable[WorkerState], now: float) -> dict[str, Host]:
    """The living workers, as the watch sees them."""
    return {
        each.incarnation: Host(each.incarnation, each.shards, each.running and now < each.until)
        for each in workers
        if each.alive
    }
