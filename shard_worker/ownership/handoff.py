"""Plans the next actions of a worker about its shards: handoffs, claims, releases, drops.

Pure: functions of the last view and of the shards that the worker holds.  The database decides every race and refuses a
wrong action, so these rules aim at the fewest steps and at the shortest pause, not at safety.
"""

from collections.abc import Mapping, Set
from enum import Enum, auto
from typing import Final, NamedTuple

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.assignment import Candidate, assign_shards
from shard_worker.ownership.failure_detector import RANK_S, rendezvous_rank
from shard_worker.ownership.view import OwnershipView, ShardRow

UNOWNED_S: Final = 0.5
"""Minimum time without an owner before a worker claims a shard that no plan gave it."""
LAST_RESORT_S: Final = 2.0
"""The same for a cordoned or draining worker, which claims only while no other live worker may have the shard."""
PREPARE_S: Final = 2.0
"""Maximum time of the phases PREPARING and PREPARED: the target answers within it, or the handoff is aborted."""
DRAIN_S: Final = 2.0
"""Maximum time of the phase DRAINING: appends in flight end within it, or the handoff is aborted."""
AGAIN_S: Final = 1.0
"""Minimum time between an aborted handoff of a shard and the next one."""
HANDOFFS_AT_ONCE: Final = 16
"""Shards that one worker hands over at the same time."""


def takeover_targets(view: OwnershipView, gone: Set[tuple[str, str]], live: Set[str]) -> dict[ShardId, str | None]:
    """The target among the ``live`` workers of each shard of the incarnations (worker, incarnation) that are gone."""
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
    """The workers that read a journal format; a worker without a row counts, because its formats are not known."""
    return {name for name in workers if name not in view.workers or view.workers[name].reads >= journal_format}


class HandoffPhase(Enum):
    """How far the handoff of one shard is."""

    PREPARING = auto()
    """Served here; the target reads the state that it will need."""
    PREPARED = auto()
    """Served here; the target is ready."""
    DRAINING = auto()
    """No command is admitted; appends are in flight."""
    DRAINED = auto()
    """No append is in flight: the shard can be transferred."""
    FAILED = auto()
    """The target did not answer, the drain failed, or the database refused the transfer."""


class Handoff(NamedTuple):
    """One handoff under way, as its owner knows it."""

    worker: str
    incarnation: str
    epoch: int
    phase: HandoffPhase
    since: float
    """When the phase began."""


class Transfer(NamedTuple):
    """A drained shard, at the epoch at which this worker owns it, and the incarnation that shall own it next."""

    shard_id: ShardId
    epoch: int
    worker: str
    incarnation: str
    reason: str


def plan_transfers(view: OwnershipView, handoffs: Mapping[ShardId, Handoff]) -> list[Transfer]:
    """The transfers that can be sent now, in ascending order; the database refuses a transfer that no longer holds.

    After a fail-over the view is empty until this incarnation ends: then nothing is transferred.
    """
    return [
        Transfer(shard_id, each.epoch, each.worker, each.incarnation, view.shards[shard_id].reason)
        for shard_id, each in sorted(handoffs.items())
        if each.phase is HandoffPhase.DRAINED and shard_id in view.shards and each.worker in view.workers
    ]


class OwnershipActions(NamedTuple):
    """The actions that follow from a view, each list in ascending order; `plan_transfers` has the transfers."""

    drop: list[ShardId]
    """Held here, and owned by another incarnation in the database."""
    adopt: list[ShardId]
    """Owned by this incarnation in the database, and not served here."""
    abort: list[ShardId]
    """The handoff has failed or lost its reason: forget it, and serve on."""
    prepare: list[tuple[ShardId, str]]
    """The plan has another owner: have that worker read the state that it will need."""
    drain: list[ShardId]
    """The target is ready, or there is none: stop admitting, and wait for the appends in flight."""
    release: list[ShardId]
    """No append is in flight, and no worker can receive the shard: free it."""
    claim: list[ShardId]
    """Without an owner, and this worker's turn to take it."""


class LocalShards(NamedTuple):
    """The shards in memory: all of them, those that admit commands, those without an append in flight."""

    present: Set[ShardId]
    serving: Set[ShardId]
    drained: Set[ShardId]


class LocalState(NamedTuple):
    """A worker's knowledge of itself: its incarnation, the shards in memory, and its handoffs."""

    worker: str
    incarnation: str
    held: LocalShards
    handoffs: Mapping[ShardId, Handoff]
    failed_s: Mapping[ShardId, float]
    """The time since a shard's last handoff was aborted."""
    leaving: bool
    """Whether the worker leaves by itself."""


def plan_actions(
    view: OwnershipView, local: LocalState, *, live: Set[str], unowned_s: Mapping[ShardId, float], now: float
) -> OwnershipActions:
    """The next actions of a worker.

    ``live`` has the workers that have a heartbeat and do not leave, ``unowned_s`` how long each shard has been seen
    without an owner.
    """
    worker, incarnation, held, handoffs, failed_s, leaving = local
    steps = OwnershipActions([], [], [], [], [], [], [])
    me = view.workers.get(worker)
    idle = me is not None and (me.cordoned or me.draining)
    receivers = {row.id for row in view.workers.values() if row.id in live and not row.cordoned and not row.draining}
    ranked = receivers | {worker}
    wanted = _wanted(view, worker, incarnation, live, leaving=leaving)
    allowed = HANDOFFS_AT_ONCE - len(handoffs)
    for shard_id in sorted(view.shards):
        row = view.shards[shard_id]
        if row.incarnation == incarnation:
            target = wanted.get(shard_id)
            handoff = handoffs.get(shard_id)
            if handoff is not None:
                unwanted = not leaving and target != handoff.worker  # a leaving worker keeps the receiver it chose
                _go_on(steps, shard_id, handoff, view, live, now, unwanted=unwanted)
            elif leaving and target is None:
                ready = shard_id in held.drained or shard_id not in held.present
                (steps.release if ready else steps.drain).append(shard_id)
            elif target is not None and allowed > 0 and failed_s.get(shard_id, AGAIN_S) >= AGAIN_S:
                allowed -= 1
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
        if idle:  # a cordoned worker serves the shard rather than none
            may_claim = waited_s >= LAST_RESORT_S and not _readers(receivers, view, row.format)
        else:
            may_claim = _may_claim(shard_id, worker, _readers(ranked, view, row.format), waited_s)
        if row.target == worker or may_claim:
            steps.claim.append(shard_id)
    return steps


def _wanted(
    view: OwnershipView, worker: str, incarnation: str, live: Set[str], *, leaving: bool
) -> dict[ShardId, str | None]:
    """The target of each shard of this incarnation that should go to another worker; None without a receiver.

    The target is that of the plan, or, for a worker that leaves by itself, that of `takeover_targets`.
    """
    mine = [row for row in view.shards.values() if row.incarnation == incarnation]
    if not leaving:
        return {row.id: row.target for row in mine if row.target != worker and _may_get(row, view, live)}
    others = live - {worker}
    planned: dict[ShardId, str | None] = {row.id: row.target for row in mine if _may_get(row, view, others)}
    return takeover_targets(view, {(worker, incarnation)}, others) | planned


def _may_get(row: ShardRow, view: OwnershipView, live: Set[str]) -> bool:
    """Whether the target of a shard is live and reads the shard's format."""
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


def _may_claim(shard_id: ShardId, worker: str, ranked: Set[str], waited_s: float) -> bool:
    """Whether a shard that no plan gave this worker has waited long enough."""
    if waited_s < UNOWNED_S:
        return False
    return waited_s >= UNOWNED_S + rendezvous_rank(shard_id, worker, ranked) * RANK_S
