"""Bugs planted on purpose, one protocol step each: what the simulation does not catch here, it would not catch there.

Most change the product's own code: the reconciler core, the handoff's rules, the failure detector, the planner.  A bug of
a statement changes its model, because the product has it in SQL; a bug of the appender, the lease or the membership
changes the model too.  Each names the invariants one of which must break first, and the faults that bring it out.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Final, NamedTuple

from threadcluster_operator.planning.placement import Move, Placement, Policy, Shard, Worker, compute_placement

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.failure_detector import LOCK_GONE_S
from tests.simulation.faults import FAULTS
from tests.simulation.mutation import Edit, Replacement, planted
from tests.simulation.run import STEPS

_CORE: Final = "shard_worker.ownership.reconciler_core:ReconcilerCore."
_HANDOFF: Final = "shard_worker.ownership.handoff:"
_DETECTOR: Final = "shard_worker.ownership.failure_detector:"
_PLANNER: Final = "threadcluster_operator.planning.planner:"
_SQL: Final = "tests.simulation.transactions:"
_MODEL: Final = "tests.simulation."
_LINKS: Final = ("cut", "hang", "terminate", "stall")
_DEATHS: Final = ("pause", "suspend", "stall", "crash", "terminate")


class Mutant(NamedTuple):
    """One bug."""

    name: str
    changes: tuple[Edit | Replacement, ...]
    breaks: frozenset[str]
    """The invariants one of which must be the first that breaks."""
    faults: tuple[str, ...] = tuple(FAULTS)
    steps: float = STEPS
    """How often a fault happens while a statement that changes ownership is in flight, see `run`."""
    first: int = 0
    """The seed to begin with: for rare ones, a little before the one that showed it last."""

    @property
    def in_product(self) -> bool:
        """Whether it changes the product's code."""
        return not all(change.where.startswith(_MODEL) for change in self.changes)


def _mutant(
    name: str,
    *changes: Edit | Replacement,
    breaks: str,
    faults: tuple[str, ...] = tuple(FAULTS),
    steps: float = STEPS,
    first: int = 0,
) -> Mutant:
    return Mutant(name, changes, frozenset(breaks.split()), faults, steps, first)


def _value(where: str, value: object) -> Replacement:
    return Replacement(where, lambda: value)


def _compute_placement_differently() -> Callable[[Iterable[Shard], Iterable[Worker], Policy], Placement]:
    """Each time a plan is made, the first shard should be somewhere else."""
    calls = count()

    def compute(shards: Iterable[Shard], workers: Iterable[Worker], policy: Policy) -> Placement:
        present = list(workers)
        pin = present[next(calls) % len(present)].name
        return compute_placement(shards, present, policy._replace(pins={0: pin}))

    return compute


def _next_moves_without_the_ordered(
    placement: Placement, owners: Mapping[ShardId, str | None], targets: Mapping[ShardId, str | None], most: int
) -> list[Move]:
    """The same number of moves each time, whatever was ordered before."""
    del owners
    new = [move for move in placement.moves if targets.get(move.shard) != move.target]
    return [move for move in new if move.source is None] + [move for move in new if move.source is not None][:most]


def _next_moves_elsewhere(
    placement: Placement, owners: Mapping[ShardId, str | None], targets: Mapping[ShardId, str | None], most: int
) -> list[Move]:
    """A shard with an order may be sent elsewhere, whatever the number of orders."""
    under_way = {
        move.shard
        for move in placement.moves
        if move.source is not None and targets.get(move.shard) not in (None, owners[move.shard])
    }
    new = [move for move in placement.moves if targets.get(move.shard) != move.target]
    fresh = [move for move in new if move.source is not None and move.shard not in under_way]
    waiting = set(fresh[max(0, most - len(under_way)) :])
    return [move for move in new if move not in waiting]


STATEMENTS: Final = (
    _mutant(
        "fence without the beat",
        Edit(_SQL + "fence", " and _last_beat(db, row) == beat", ""),
        breaks="patience",
        faults=_DEATHS,
    ),
    _mutant(
        "an end is no change",
        Edit(_SQL + "fence", "_last_beat(db, row) == beat", "(db.beat_of(row) is None or _last_beat(db, row) == beat)"),
        Edit(
            _SQL + "read_view",
            "_last_beat(db, w)",
            "known.workers[w.id].beat if db.beat_of(w) is None and w.id in known.workers"
            " and known.workers[w.id].incarnation == w.incarnation else _last_beat(db, w)",
        ),
        breaks="patience lease",
        faults=_DEATHS,
    ),
    _mutant(
        "the beat without the attempt",
        Edit(_SQL + "_last_beat", "row.attempt << 32 |", "0 |"),
        breaks="patience lease",
        faults=_DEATHS,
    ),
    _mutant(
        "claim by the fenced",
        Edit(_SQL + "claim", " and not row.fenced", ""),
        breaks="ended",
        faults=("roll", "hang"),
        steps=0.5,
        first=170,
    ),
    _mutant(
        "claim of owned shards",
        Edit(_SQL + "claim", "if row.owner is None and ", "if "),
        breaks="lease journal handoff",
    ),
    _mutant(
        "transfer to any receiver",
        Edit(_SQL + "transfer", " or receiver.incarnation != each.incarnation:", ":"),
        Edit(
            _SQL + "transfer",
            "return not receiver.fenced and not receiver.leaving and journal_format <= receiver.reads",
            "return True",
        ),
        breaks="ended",
        faults=("roll", "hang", "crash", "edit"),
        steps=0.2,
    ),
    _mutant(
        "transfer at the same epoch",
        Edit(_MODEL + "database:Database.change", "row.epoch += 1", 'row.epoch += kind != "handoff"'),
        breaks="journal acknowledged served",
    ),
    _mutant(
        "targets without the version",
        Edit(_SQL + "set_targets", "if db.plan_version != version:", "if False:"),
        breaks="limit",
        faults=("edit", "cordon", "crash", "roll"),
    ),
)
_CORE_BUGS: Final = (
    _mutant(
        "transfer while draining",
        Edit(
            _HANDOFF + "plan_transfers",
            "each.phase is HandoffPhase.DRAINED",
            'each.phase.name in ("DRAINING", "DRAINED")',
        ),
        breaks="handoff",
    ),
    _mutant(
        "transfer while served",
        Edit(
            _HANDOFF + "plan_transfers",
            "each.phase is HandoffPhase.DRAINED",
            'each.phase.name in ("PREPARED", "DRAINED")',
        ),
        breaks="handoff",
    ),
    _mutant(
        "drop not executed",
        Edit(_CORE + "_drop", "yield from Drop(shard_id, owner, epoch)", "yield from ()"),
        breaks="lease handoff served",
    ),
    _mutant(
        "detector not restarted with the session",
        Edit(_CORE + "_open_session", "self._detector.restart()", "pass"),
        breaks="takeover",
        faults=("restart_database",),
    ),
    _mutant(
        "transferred shard adopted twice",
        Edit(_CORE + "_adopt_transferred", " if self._unused(shard_id, each[0])", ""),
        breaks="journal acknowledged",
    ),
    _mutant(
        "notification of another incarnation",
        Edit(_CORE + "on_transferred", "incarnation != self._incarnation or ", ""),
        breaks="lease journal acknowledged handoff",
        faults=("roll", "terminate", "hang"),
        first=55,
    ),
    _mutant(
        "released epoch not marked as used",
        Edit(_CORE + "_act", "self._mark_used(held)", "pass"),
        breaks="lease journal acknowledged handoff",
        faults=("roll", "edit", "hang"),
        steps=0.2,
        first=55,
    ),
    _mutant(
        "transferred epoch not marked as used",
        Edit(_CORE + "_transfer_drained", "self._mark_used({each.shard_id: each.epoch for each in transfers})", "pass"),
        breaks="lease journal acknowledged handoff",
        faults=("roll", "edit", "hang"),
        steps=0.2,
        first=40,
    ),
    _mutant(
        "adopted epoch not marked as used",
        Edit(_CORE + "_adopt", "self._used[shard_id] = epochs[shard_id]", "pass"),
        breaks="journal acknowledged outcome",
    ),
    _mutant(
        "head before the last append",
        Edit(_CORE + "_transfer_drained", "drain.head,", "max(0, drain.head - 1) if drain.head is not None else None,"),
        breaks="journal acknowledged lease",
    ),
    _mutant(
        "used epoch not raised",
        Edit(_CORE + "_act", " if self._unused(shard_id, epoch)}", "}"),
        breaks="journal acknowledged outcome",
        faults=("roll", "cut", "terminate"),
    ),
    _mutant(
        "raised epoch not noted",
        Edit(_CORE + "raised", "self._used[shard_id] = epoch", "pass"),
        breaks="journal acknowledged outcome",
        faults=("cut", "hang", "roll"),
        steps=0.2,
        first=70,
    ),
    _mutant(
        "used epochs forgotten with the session",
        Edit(_CORE + "_open_session", "self._detector.restart()", "self._detector.restart()\n    self._used.clear()"),
        breaks="journal acknowledged outcome lease handoff",
        faults=("cut", "terminate", "roll", "edit"),
        steps=0.2,
        first=120,
    ),
    _mutant(
        "heads not read",
        Edit(_CORE + "_act", "yield from ReadHeads(epochs)", "dict.fromkeys(epochs, 0)"),
        breaks="journal acknowledged",
    ),
    _mutant(
        "drain of an aborted handoff still counts",
        Edit(
            _CORE + "_forget_handoff",
            "if self._drains.pop(shard_id, None) is not None:",
            "if False:",
        ),
        breaks="handoff served",
    ),
    _mutant(
        "handoff goes on after an adoption",
        Edit(_CORE + "_adopt", "yield from self._forget_handoff(shard_id)", "pass"),
        breaks="handoff served journal",
        faults=("roll", "cut", "hang", "edit"),
        steps=0.3,
    ),
    _mutant(
        "drain begins before the receiver is ready",
        Edit(_CORE + "_prepare", "HandoffPhase.PREPARING", "HandoffPhase.DRAINED"),
        breaks="handoff",
    ),
)
_RULES: Final = (
    _mutant(
        "every wait is short",
        _value(_DETECTOR + "TTL_S", 0.2),
        _value(_DETECTOR + "LOCK_GONE_S", 0.2),
        breaks="patience",
    ),
    _mutant("a held lock does not count", _value(_DETECTOR + "TTL_S", LOCK_GONE_S), breaks="patience"),
    _mutant(
        "the wait begins before the end of the session",
        Edit(
            _DETECTOR + "FailureDetector.note",
            "if before is None or (before.incarnation, before.beat) != (worker.incarnation, worker.beat):",
            "if before is None or worker.locked and (before.incarnation, before.beat) != (worker.incarnation, worker.beat):",
        ),
        breaks="patience",
        faults=_DEATHS,
    ),
    _mutant(
        "a replaced incarnation is fenced at once",
        Edit(_DETECTOR + "FailureDetector.note", "self._replaced_since.get(each, now) for", "now - 9.0 for"),
        breaks="patience lease",
        faults=("usurp", "crash", "roll"),
    ),
    _mutant(
        "free shards are not claimed without a target",
        Edit(_HANDOFF + "_may_claim", "return waited_s >=", "return False and waited_s >="),
        breaks="served",
    ),
    _mutant(
        "no handoff is aborted", Edit(_HANDOFF + "_go_on", "steps.abort.append(shard_id)", "pass"), breaks="served"
    ),
    _mutant(
        "no shard is dropped",
        Edit(_HANDOFF + "plan_actions", "steps.drop.append(shard_id)", "pass"),
        breaks="lease handoff served",
        faults=("cut", "edit", "roll"),
        steps=0.3,
    ),
    _mutant(
        "no shard is adopted from a view",
        Edit(_HANDOFF + "plan_actions", "steps.adopt.append(shard_id)", "pass"),
        breaks="served",
    ),
    _mutant(
        "handoffs without limit",
        Edit(_HANDOFF + "plan_actions", "target is not None and allowed > 0", "target is not None"),
        breaks="limit",
    ),
    _mutant(
        "handoffs under way do not count",
        Edit(_HANDOFF + "plan_actions", "HANDOFFS_AT_ONCE - len(handoffs)", "HANDOFFS_AT_ONCE"),
        breaks="limit",
    ),
)
_PLANS: Final = (
    _mutant(
        "the planner forgets ordered moves",
        Replacement(_PLANNER + "next_moves", lambda: _next_moves_without_the_ordered),
        breaks="limit",
    ),
    _mutant(
        "the planner changes its mind",
        Replacement(_PLANNER + "compute_placement", _compute_placement_differently),
        breaks="moves",
    ),
    _mutant(
        "orders beyond the limit are sent elsewhere",
        Replacement(_PLANNER + "next_moves", lambda: _next_moves_elsewhere),
        breaks="limit",
        faults=("edit", "cordon", "roll", "terminate"),
    ),
)
_MODELS: Final = (
    _mutant(
        "append without the epoch",
        Edit(
            _MODEL + "database:Database.append",
            "(row.epoch, row.incarnation) == (epoch, append.incarnation)",
            "row.incarnation == append.incarnation",
        ),
        breaks="journal outcome",
        faults=_LINKS,
    ),
    _mutant(
        "append without the lock",
        Edit(
            _MODEL + "database:Database.append",
            "self._shared[shard_id] = self._shared.get(shard_id, 0) + 1",
            "pass",
        ),
        Edit(_MODEL + "database:Database._finish", "for shard_id in append.locked:", "for shard_id in ():"),
        breaks="journal acknowledged outcome",
    ),
    _mutant(
        "unknown outcome decided at the same epoch",
        Edit(
            _MODEL + "host:Host._decide",
            "statement = transactions.raise_epoch(",
            "epoch = at\n        break\n        statement = transactions.raise_epoch(",
        ),
        breaks="outcome journal",
        faults=_LINKS,
    ),
    _mutant(
        "outcome read with the raise",
        Edit(
            _MODEL + "host:Host._decide",
            "if not stored:",
            "if heads is not None and heads[shard.id] <= shard.head:\n        stored, head = False, shard.head\n    if not stored:",
        ),
        Edit(_MODEL + "host:Host._decide", "epoch: int | None = None", "epoch, heads = None, None"),
        Edit(
            _MODEL + "host:Host._decide",
            "if epoch is not None and append",
            "heads = statement.heads\n        if epoch is not None and append",
        ),
        breaks="outcome journal",
        faults=_LINKS,
    ),
    _mutant(
        "outcome of a closed shard",
        Edit(_MODEL + "host:Host._decide", "if not may_come and", "may_come = False\n        if not may_come and"),
        breaks="outcome",
        faults=("usurp", "hang", "cut"),
        steps=0.4,
        first=20,
    ),
    _mutant(
        "head of the preparation",
        Edit(
            _MODEL + "host:Host.adopt",
            "Shard(shard_id, epoch, head)",
            "Shard(shard_id, epoch, self.prepared.get(shard_id, head))",
        ),
        breaks="journal acknowledged",
    ),
    _mutant(
        "lease from the answer",
        Edit(
            _MODEL + "worker:WorkerProcess._beat",
            "self._until = sent",
            "sent = self.clocks.boottime(self.timeline.now)\n        self._until = sent",
        ),
        breaks="lease",
        faults=_DEATHS,
    ),
    _mutant(
        "no wait for the predecessor",
        Edit(
            _MODEL + "worker:WorkerProcess._register",
            "if before is not None and before not in self._lived:",
            "if False:",
        ),
        breaks="lease",
        faults=("usurp",),
    ),
)
MUTANTS: Final = (*STATEMENTS, *_CORE_BUGS, *_RULES, *_PLANS, *_MODELS)


@contextmanager
def patched(bug: Mutant) -> Iterator[None]:
    """The code with a bug in it."""
    with planted(bug.changes):
        yield
