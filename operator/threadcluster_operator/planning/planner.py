"""The next steps of a cluster, on every platform: a pure function of the spec and of the observation.

Level-triggered: it is asked again and again, and every answer follows from the present alone, so a step that was lost is
simply taken again, and a wish that was withdrawn leaves nothing behind.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from shard_worker.contract_internal import NO_CAPABLE_WORKER, RebuildProgress, ShardTarget, TargetsRequest
from shard_worker.domain.ids import ShardId
from threadcluster_operator.api import ThreadClusterSpec
from threadcluster_operator.planning.placement import (
    Move,
    Placement,
    Policy,
    Shard,
    Worker,
    compute_placement,
    next_moves,
)


class ShardOwnership(NamedTuple):
    """Ownership as a live worker reports it."""

    plan_version: int
    owners: Mapping[ShardId, str | None]
    targets: Mapping[ShardId, str | None]
    serving: Mapping[str, frozenset[ShardId]]
    """By worker, the shards it says it serves; a worker that is not a member yet says nothing."""
    workers: Mapping[str, Worker]
    """By name.  A worker that is wanted and not among them is starting: its share waits for it."""
    loads: Mapping[ShardId, float]
    """Commands/s; a shard that is not among them is idle."""
    excess_privileges: Mapping[str, Sequence[str]] = {}  # never changed
    """By worker, what its database login may do to the journal's history; one that may only append is not among them."""
    formats: Mapping[ShardId, int] = {}
    """The journal format of each shard; 1 for one that is not among them."""
    rebuild: RebuildProgress | None = None
    """The rebuild of the read model that is under way, which needs nothing of the planner."""
    pins: Mapping[ShardId, str] = {}
    """The shards that were pinned to a worker by command."""


def count_moving(observed: ShardOwnership) -> int:
    """How many shards have an owner, and another target than that."""
    return sum(
        1
        for shard, owner in observed.owners.items()
        if owner is not None and observed.targets.get(shard) not in (None, owner)
    )


class NewPlan(NamedTuple):
    """Targets to record, made from plan ``base_version``: only those that change now."""

    base_version: int
    hash: str
    """Of the whole plan that these targets are a part of."""
    targets: Mapping[ShardId, str | None]
    reasons: Mapping[ShardId, str]
    moves: int
    """How many of the shards have an owner that is alive, and another target than that; one taken back is none."""

    def request(self) -> TargetsRequest:
        """The request that records the plan."""
        targets = [ShardTarget(shard, target, self.reasons[shard]) for shard, target in self.targets.items()]
        return TargetsRequest(self.base_version, self.hash, targets)


class PlanResult(NamedTuple):
    """The steps to take now."""

    run: tuple[str, ...]
    """Workers that should be running."""
    plan: NewPlan | None
    stop: tuple[str, ...]
    """Workers that own nothing, are wanted no more, and may be stopped."""
    converged: bool
    """Every wanted worker lives and serves its share, and nothing else runs."""
    balancing: bool = False
    """Balance has begun and is not all ordered: ask with ``rebalance_now`` until this is false."""
    agreed: tuple[Move, ...] = ()
    """The agreed moves that are not recorded yet and still possible: ask with them until there are none."""
    unreadable: tuple[ShardId, ...] = ()
    """The shards that no worker may get, because none that may get one reads its journal format: `NO_CAPABLE_WORKER`."""
    imbalance_percent: float = 0.0
    """See `Placement.imbalance_percent`."""


class PlanPreview(NamedTuple):
    """A plan that a user was shown, and the state that it was made from."""

    placement: Placement
    spec: ThreadClusterSpec
    running: frozenset[str]
    observed: ShardOwnership


def next_steps(
    name: str,
    spec: ThreadClusterSpec,
    running: frozenset[str],
    observed: ShardOwnership | None,
    *,
    rebalance_now: bool = False,
    agreed: tuple[Move, ...] = (),
) -> PlanResult:
    """The next steps of the cluster ``name``; nothing destructive without an observation.

    While there are ``agreed`` moves, just those are ordered for balance: a user saw them and agreed.
    """
    wanted = _wanted(name, spec)
    surplus = sorted(running - set(wanted))
    if not wanted:
        # No worker is left to receive a shard: every worker releases what it has, and ends.
        return PlanResult((), None, tuple(surplus), not surplus)
    if observed is None:
        return PlanResult(wanted, None, (), converged=False, balancing=rebalance_now, agreed=agreed)
    agreed = _still_wanted(agreed, wanted, spec, observed)
    placement = _place(name, spec, running, observed, rebalance_now=rebalance_now, agreed=agreed)
    plan = _new_plan(placement, observed, spec.rebalance.max_concurrent_moves)
    named = {*observed.owners.values(), *observed.targets.values(), *placement.targets.values()}
    stop = tuple(worker for worker in surplus if worker not in named)
    settled = all(
        owner is not None and owner == placement.targets[shard_id] and shard_id in observed.serving.get(owner, ())
        for shard_id, owner in observed.owners.items()
    )
    present = all(name in observed.serving and observed.workers.get(name, Worker(name)).live for name in wanted)
    converged = plan is None and settled and present and not surplus and set(wanted) <= running
    return PlanResult(
        wanted,
        plan,
        stop,
        converged,
        placement.balancing,
        agreed,
        placement.unreadable,
        placement.imbalance_percent,
    )


def preview(
    name: str,
    spec: ThreadClusterSpec,
    running: frozenset[str],
    observed: ShardOwnership,
    *,
    rebalance_now: bool = False,
) -> Placement:
    """The whole plan that `next_steps` orders little by little."""
    return _place(name, spec, running, observed, rebalance_now=rebalance_now, agreed=())


def same_plan(hash: str, placement: Placement) -> bool:
    """The plan that a user saw is still the one that would be carried out."""
    return hash == placement.hash


def still_valid(shown: PlanPreview, spec: ThreadClusterSpec, running: frozenset[str], observed: ShardOwnership) -> bool:
    """Neither spec nor ownership has changed since a plan was shown; loads may have, as they always do."""
    then = shown.observed
    return (shown.spec, shown.running) == (spec, running) and (
        (then.owners, then.targets, then.workers, then.pins)
        == (observed.owners, observed.targets, observed.workers, observed.pins)
    )


def _place(
    name: str,
    spec: ThreadClusterSpec,
    running: frozenset[str],
    observed: ShardOwnership,
    *,
    rebalance_now: bool,
    agreed: tuple[Move, ...],
) -> Placement:
    """Where every shard should be; what was agreed is pinned until it is recorded, and nothing else moves for balance."""
    wanted = _wanted(name, spec)
    workers = [_worker(observed, worker) for worker in wanted]
    for worker in sorted((running | set(observed.workers)) - set(wanted)):
        workers.append(_worker(observed, worker)._replace(draining=True))
    rebalance = spec.rebalance
    pins: dict[int, str] = {move.shard: move.target for move in agreed}
    policy = Policy(
        strategy=rebalance.strategy,
        mode="Manual" if agreed else rebalance.mode,
        max_concurrent_moves=rebalance.max_concurrent_moves,
        imbalance_threshold_percent=rebalance.imbalance_threshold_percent,
        pins=pins | _pins(spec, observed),
        rebalance_now=rebalance_now and not agreed,
    )
    shards = [
        Shard(
            shard_id,
            owner,
            observed.targets.get(shard_id),
            observed.loads.get(shard_id, 0.0),
            observed.formats.get(shard_id, 1),
        )
        for shard_id, owner in observed.owners.items()
    ]
    placement = compute_placement(shards, workers, policy)
    reasons = {(move.shard, move.target): move.reason for move in agreed}
    moves = tuple(move._replace(reason=reasons.get((move.shard, move.target), move.reason)) for move in placement.moves)
    return placement._replace(moves=moves)


def _still_wanted(
    agreed: tuple[Move, ...], wanted: tuple[str, ...], spec: ThreadClusterSpec, observed: ShardOwnership
) -> tuple[Move, ...]:
    """The agreed moves that are not recorded yet, without those that the spec or the workers rule out by now."""
    if spec.rebalance.mode == "Paused":
        return ()
    pins = _pins(spec, observed)
    receivers = {worker for worker in wanted if _may_receive(_worker(observed, worker))}
    return tuple(
        move
        for move in agreed
        if move.target in receivers
        and pins.get(move.shard, move.target) == move.target
        and observed.targets.get(move.shard) != move.target
        and observed.formats.get(move.shard, 1) <= _worker(observed, move.target).reads
    )


def _worker(observed: ShardOwnership, name: str) -> Worker:
    """A worker as it was seen.  One that has not registered yet is expected to read every shard: its row will say."""
    known = observed.workers.get(name)
    return Worker(name, reads=max(observed.formats.values(), default=1)) if known is None else known


def _may_receive(worker: Worker) -> bool:
    return worker.may_keep and not worker.cordoned


def _pins(spec: ThreadClusterSpec, observed: ShardOwnership) -> dict[int, str]:
    """A pin in the spec wins: it is what the author of the cluster wants, whatever users order meanwhile."""
    by_command: dict[int, str] = {shard: worker for shard, worker in observed.pins.items()}  # noqa: C416 - another key type
    return by_command | {pin.shard: pin.worker for pin in spec.rebalance.pins}


def _wanted(name: str, spec: ThreadClusterSpec) -> tuple[str, ...]:
    return tuple(f"{name}-{number}" for number in range(spec.replicas))


def _new_plan(placement: Placement, observed: ShardOwnership, max_concurrent_moves: int) -> NewPlan | None:
    """The targets to change now; one that leads nowhere but to the present owner is no move, and waits for nothing."""
    pending = {move.shard for move in placement.moves}
    targets = {
        shard_id: target
        for shard_id, target in placement.targets.items()
        if shard_id not in pending and (shard_id not in observed.targets or observed.targets[shard_id] != target)
    }
    unreadable = set(placement.unreadable)
    reasons = {}
    for shard_id, target in targets.items():
        if target is not None:
            reasons[shard_id] = f"stays on {target}"
        elif shard_id in unreadable:
            reasons[shard_id] = f"{NO_CAPABLE_WORKER}: none reads journal format {observed.formats.get(shard_id, 1)}"
        else:
            reasons[shard_id] = "no worker may have it"
    moves = next_moves(placement, observed.owners, observed.targets, max_concurrent_moves)
    for move in moves:
        targets[move.shard] = move.target
        reasons[move.shard] = move.reason
    if not targets:
        return None
    ordered = sum(1 for move in moves if move.source not in (None, move.target))
    return NewPlan(observed.plan_version, placement.hash, targets, reasons, ordered)
