"""What a worker does next about its shards and about silent peers: pure functions of what it sees and what it holds.

The database decides every race; a wrong step here is refused there.  So these rules aim at the fewest steps and at the
shortest pause, not at safety.  Two of them carry a promise all the same, for the reads that a worker serves from its
memory: nobody is fenced sooner than `LOCK_GONE_S` after the answer that first showed its last beat, which is longer
than any lease; and within one database session, because between two nobody knows what went by.
"""

from collections.abc import Mapping, Set
from enum import Enum, auto
from typing import Final, NamedTuple

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.assignment import Candidate, assign_shards, rendezvous
from shard_worker.ownership.view import OwnershipView, ShardRow, WorkerRow

UNOWNED_S: Final = 0.5
"""How long a shard stays without owner before anyone may claim it."""
LAST_RESORT_S: Final = 2.0
"""How long it stays so before a cordoned or draining worker claims it, when no other worker beats that may have it."""
RANK_S: Final = 0.2
"""How much longer for each place in the rendezvous order, of claims and of fencing alike."""
LIVE_S: Final = 0.7
"""For how long after its last beat was seen a worker counts as live.  Several beats and looks long; and not much longer
than a shard stays without owner, or a shard given to a worker that has just died would be given to it again."""
TTL_S: Final = 3.0
"""A worker whose beat stands still for so long may be fenced, though it may only be slow."""
LOCK_GONE_S: Final = 0.7
"""The same once its session's lock was seen held and then gone, and for an incarnation that was replaced."""
PREPARE_S: Final = 2.0
"""Within this a target must have said that it is ready for a shard."""
DRAIN_S: Final = 2.0
"""Within this what is on its way to the journal must be decided, or the shard is served on."""
AGAIN_S: Final = 1.0
"""A handoff that came to nothing is not begun again sooner."""
HANDOFFS_AT_ONCE: Final = 16
"""Shards that one worker hands over at the same time."""


class Suspect(NamedTuple):
    """An incarnation to be fenced."""

    worker: str
    incarnation: str
    beat: int | None
    """The beat it must still be at; None for one that by its worker's row no longer lives, or never did."""


class _Heartbeat(NamedTuple):
    incarnation: str
    beat: int
    since: float
    """The time of the answer that first showed this beat, or the end of its session: there may have been one more between."""


class FailureDetector:
    """What one worker saw of the others, and when, by its own monotonic clock within one database session.

    A worker counts as live once its beat was seen to *move*: rows of the dead look like any others.
    """

    def __init__(self) -> None:
        self._pulses: dict[str, _Heartbeat] = {}
        self._moved: dict[str, float] = {}
        self._locks_seen: set[str] = set()
        self._replaced_since: dict[tuple[str, str], float] = {}
        self._unowned_since: dict[ShardId, float] = {}

    def restart(self) -> None:
        """Forget everything: between two sessions nobody knows what went by."""
        self._pulses.clear()
        self._moved.clear()
        self._locks_seen.clear()
        self._replaced_since.clear()
        self._unowned_since.clear()

    def note(self, view: OwnershipView, now: float) -> None:
        """Take in one look; ``now`` is the time of its answer."""
        for worker in view.workers.values():
            before = self._pulses.get(worker.id)
            if before is None or (before.incarnation, before.beat) != (worker.incarnation, worker.beat):
                self._pulses[worker.id] = _Heartbeat(worker.incarnation, worker.beat, now)
                if before is not None and worker.locked:  # the end of a session is a change, and no sign of life
                    self._moved[worker.id] = now
            if worker.locked:
                self._locks_seen.add(worker.incarnation)
        replaced = set()
        for row in view.shards.values():
            if row.owner is None or row.incarnation is None:
                self._unowned_since.setdefault(row.id, now)
                continue
            self._unowned_since.pop(row.id, None)
            worker_row = view.workers.get(row.owner)
            if (
                worker_row is None
                or not row.incarnation
                or worker_row.incarnation != row.incarnation
                or worker_row.fenced  # and kept its shards, which no statement of ours leaves so
            ):
                replaced.add((row.owner, row.incarnation))
        self._replaced_since = {each: self._replaced_since.get(each, now) for each in replaced}

    def live(self, view: OwnershipView, now: float) -> frozenset[str]:
        """The workers that beat and may receive shards."""
        return frozenset(
            worker.id
            for worker in view.workers.values()
            if not worker.fenced and not worker.leaving and now - self._moved.get(worker.id, -LIVE_S) < LIVE_S
        )

    def unowned_s(self, now: float) -> dict[ShardId, float]:
        """How long each shard that nobody owns has been seen so."""
        return {shard_id: now - since for shard_id, since in self._unowned_since.items()}

    def quiet_s(self, view: OwnershipView, worker: str, now: float) -> float:
        """For how long the quietest other worker has not been heard of: a long silence asks for a closer look."""
        others = [row for row in view.workers.values() if row.id != worker and not row.fenced]
        return max([now - self._pulses[row.id].since for row in others], default=0.0)

    def suspects(self, view: OwnershipView, worker: str, now: float) -> list[Suspect]:
        """Whom ``worker`` should fence now.

        The first in the rendezvous order goes first, the next when that took too long.  When two or more, and more than
        half of the others, look dead, the observer itself may be at fault: it waits one more `TTL_S`.
        """
        others = [row for row in view.workers.values() if row.id != worker and not row.fenced and row.incarnation]
        live = self.live(view, now) | {worker}
        late = [(row, over) for row in others if (over := self._late_s(row, now)) >= 0.0]
        patience = TTL_S if len(late) > 1 and 2 * len(late) > len(others) else 0.0
        found = [
            Suspect(row.id, row.incarnation, row.beat)
            for row, over in late
            if over >= patience + _rank_s(row.id, worker, live)
        ]
        found += [
            Suspect(owner, incarnation, None)
            for (owner, incarnation), since in self._replaced_since.items()
            if now - since >= LOCK_GONE_S + _rank_s(owner, worker, live)
        ]
        return sorted(found, key=lambda suspect: (suspect.worker, suspect.incarnation))

    def _late_s(self, row: WorkerRow, now: float) -> float:
        """By how much a worker has been silent for too long; negative while it has not."""
        gone = row.incarnation in self._locks_seen and not row.locked
        return now - self._pulses[row.id].since - (LOCK_GONE_S if gone else TTL_S)


def _rank_s(about: str, worker: str, live: Set[str]) -> float:
    return rendezvous_rank(about, worker, live) * RANK_S


def rendezvous_rank(about: ShardId | str, worker: str, workers: Set[str]) -> int:
    """The place of ``worker`` among those who may act on a shard or a dead worker."""
    return rendezvous(about, workers).index(worker)


def takeover_targets(view: OwnershipView, gone: Set[tuple[str, str]], live: Set[str]) -> dict[ShardId, str | None]:
    """Who should take the shards of incarnations (worker, incarnation) that are gone, among the ``live``."""
    names = {worker for worker, _ in gone}
    candidates = [
        Candidate(row.id, leaving=row.draining, cordoned=row.cordoned, reads=row.reads)
        for row in view.workers.values()
        if row.id in live and row.id not in names
    ]
    inherited = {row.id for row in view.shards.values() if (row.owner, row.incarnation) in gone}
    formats = {row.id: row.format for row in view.shards.values()}
    targets = assign_shards({row.id: _expected(row, live) for row in view.shards.values()}, candidates, formats)
    return {shard_id: targets[shard_id] for shard_id in sorted(inherited)}


def _expected(row: ShardRow, live: Set[str]) -> str | None:
    return row.target if row.target in live else row.owner


def without_capable_worker(view: OwnershipView, live: Set[str]) -> list[ShardId]:
    """The shards without an owner whose journal format no live worker reads, in ascending order."""
    newest = max((row.reads for row in view.workers.values() if row.id in live), default=0)
    return sorted(row.id for row in view.shards.values() if row.owner is None and row.format > newest)


def _readers(workers: Set[str], view: OwnershipView, journal_format: int) -> Set[str]:
    """Those of the workers that read a journal format; what a worker without a row reads is not known, and counts."""
    return {name for name in workers if name not in view.workers or view.workers[name].reads >= journal_format}


class HandoffPhase(Enum):
    """How far the handoff of one shard is."""

    PREPARING = auto()
    """Served here; its target reads what it will need."""
    PREPARED = auto()
    """Served here; its target is ready."""
    DRAINING = auto()
    """Nothing more is admitted; what was is on its way to the journal."""
    DRAINED = auto()
    """Nothing is on its way: the shard can be given."""
    FAILED = auto()
    """The target was not to be had, or the database refused."""


class Handoff(NamedTuple):
    """One handoff under way, as its owner knows it."""

    worker: str
    incarnation: str
    epoch: int
    phase: HandoffPhase
    since: float
    """When the phase began."""


class OwnershipActions(NamedTuple):
    """What to do, each list in ascending order."""

    drop: list[ShardId]
    """Here, and another's by the database."""
    adopt: list[ShardId]
    """Ours by the database, and not served here."""
    abort: list[ShardId]
    """Handed over no more: forget the handoff, and serve on."""
    prepare: list[tuple[ShardId, str]]
    """Wanted elsewhere: have that worker read what it will need."""
    drain: list[ShardId]
    """The target is ready, or there is none: stop admitting, and get durable what is on its way."""
    transfer: list[ShardId]
    """Nothing of it is on its way any more: give it to its target in the database."""
    release: list[ShardId]
    """Nothing of it is on its way any more, and nobody is there to receive it: give it up."""
    claim: list[ShardId]
    """Nobody's, and ours to take."""


class LocalShards(NamedTuple):
    """What a worker has in memory: every shard, those it admits commands for, those with nothing on its way any more."""

    present: Set[ShardId]
    serving: Set[ShardId]
    drained: Set[ShardId]


def plan_actions(
    view: OwnershipView,
    *,
    worker: str,
    incarnation: str,
    held: LocalShards,
    handoffs: Mapping[ShardId, Handoff],
    failed_s: Mapping[ShardId, float],
    unowned_s: Mapping[ShardId, float],
    live: Set[str],
    leaving: bool,
    now: float,
) -> OwnershipActions:
    """The steps of ``worker``.

    ``failed_s`` says how long ago a shard's last handoff came to nothing, ``unowned_s`` how long each shard has been
    seen without an owner, ``live`` which workers beat and do not leave.
    """
    steps = OwnershipActions([], [], [], [], [], [], [], [])
    me = view.workers.get(worker)
    idle = me is not None and (me.cordoned or me.draining)
    receivers = {row.id for row in view.workers.values() if row.id in live and not row.cordoned and not row.draining}
    ranked = receivers | {worker}
    wanted = _wanted(view, worker, incarnation, live, leaving=leaving)
    room = HANDOFFS_AT_ONCE - len(handoffs)
    for shard_id in sorted(view.shards):
        row = view.shards[shard_id]
        if row.incarnation == incarnation:
            target = wanted.get(shard_id)
            handoff = handoffs.get(shard_id)
            if handoff is not None:
                unwanted = not leaving and target != handoff.worker  # who leaves, sticks to a receiver once chosen
                _go_on(steps, shard_id, handoff, view, live, now, unwanted=unwanted)
            elif leaving and target is None:
                ready = shard_id in held.drained or shard_id not in held.present
                (steps.release if ready else steps.drain).append(shard_id)
            elif target is not None and room > 0 and failed_s.get(shard_id, AGAIN_S) >= AGAIN_S:
                room -= 1
                steps.prepare.append((shard_id, target))
            elif shard_id not in held.serving:
                steps.adopt.append(shard_id)
            continue
        if shard_id in held.present:
            steps.drop.append(shard_id)
        if (row.owner is not None and row.incarnation is not None) or leaving:
            continue
        if me is not None and me.reads < row.format:
            continue
        waited_s = unowned_s.get(shard_id, 0.0)
        if idle:  # better served by a worker that should get no more than by nobody
            may_claim = waited_s >= LAST_RESORT_S and not _readers(receivers, view, row.format)
        else:
            may_claim = _may_claim(shard_id, worker, _readers(ranked, view, row.format), waited_s)
        if row.target == worker or may_claim:
            steps.claim.append(shard_id)
    return steps


def _wanted(
    view: OwnershipView, worker: str, incarnation: str, live: Set[str], *, leaving: bool
) -> dict[ShardId, str | None]:
    """Where this incarnation's shards should go; one that may stay is left out.

    A plan says so, or, for a worker that leaves by itself, the rule of shares; None when there is nobody to receive.
    """
    mine = [row for row in view.shards.values() if row.incarnation == incarnation]
    if not leaving:
        return {row.id: row.target for row in mine if row.target != worker and _may_get(row, view, live)}
    others = live - {worker}
    planned: dict[ShardId, str | None] = {row.id: row.target for row in mine if _may_get(row, view, others)}
    return takeover_targets(view, {(worker, incarnation)}, others) | planned


def _may_get(row: ShardRow, view: OwnershipView, live: Set[str]) -> bool:
    """Whether the target of a shard lives, and reads the shard's format."""
    return row.target is not None and row.target in live and bool(_readers({row.target}, view, row.format))


def _go_on(
    steps: OwnershipActions,
    shard_id: ShardId,
    handoff: Handoff,
    view: OwnershipView,
    live: Set[str],
    now: float,
    *,
    unwanted: bool,
) -> None:
    """The next step of a handoff under way."""
    receiver = view.workers.get(handoff.worker)
    lost = receiver is None or receiver.incarnation != handoff.incarnation or handoff.worker not in live
    early = handoff.phase in (HandoffPhase.PREPARING, HandoffPhase.PREPARED)
    limit_s = PREPARE_S if early else DRAIN_S
    if (
        handoff.phase is HandoffPhase.FAILED
        or lost
        or view.shards[shard_id].epoch != handoff.epoch
        or (early and unwanted)
        or (handoff.phase is not HandoffPhase.DRAINED and now - handoff.since >= limit_s)
    ):
        steps.abort.append(shard_id)
    elif handoff.phase is HandoffPhase.PREPARED:
        steps.drain.append(shard_id)
    elif handoff.phase is HandoffPhase.DRAINED:
        steps.transfer.append(shard_id)


def _may_claim(shard_id: ShardId, worker: str, ranked: Set[str], waited_s: float) -> bool:
    """Whether a shard that was not meant for this worker has waited long enough."""
    if waited_s < UNOWNED_S:
        return False
    return waited_s >= UNOWNED_S + rendezvous_rank(shard_id, worker, ranked) * RANK_S
