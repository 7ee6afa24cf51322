"""What the local supervisor does next: a pure function of what is wanted and what is seen.

Level-triggered: it is asked again and again, and every answer follows from the present alone, so a step that was lost is
simply taken again, and a wish that was withdrawn leaves nothing behind.
"""

from collections.abc import Mapping
from typing import NamedTuple

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.share import Candidate, plan_hash, share


class Observed(NamedTuple):
    """Ownership as a live worker tells it."""

    plan_version: int
    owners: Mapping[ShardId, str | None]
    targets: Mapping[ShardId, str | None]
    serving: Mapping[str, frozenset[ShardId]]
    """By worker, the shards it says it serves."""


class NewPlan(NamedTuple):
    """Targets to record, made from plan ``made_from``."""

    made_from: int
    hash: str
    targets: Mapping[ShardId, str | None]
    moves: int


class Next(NamedTuple):
    """What to do now."""

    run: tuple[str, ...]
    """Workers that should be running."""
    plan: NewPlan | None
    stop: tuple[str, ...]
    """Workers that own nothing, are wanted no more, and may be stopped."""
    converged: bool
    """Every wanted worker serves its share, and nothing else runs."""


def next_steps(name: str, replicas: int, running: frozenset[str], observed: Observed | None) -> Next:
    """The next steps of the cluster ``name``; nothing destructive without an observation."""
    wanted = tuple(f"{name}-{number}" for number in range(replicas))
    surplus = sorted(running - set(wanted))
    if not wanted:
        # Nobody is left to receive a shard: every worker releases what it has, and ends.
        return Next((), None, tuple(surplus), not surplus)
    if observed is None:
        return Next(wanted, None, (), converged=False)
    candidates = [Candidate(worker) for worker in wanted]
    base = {
        shard_id: observed.targets.get(shard_id) if observed.targets.get(shard_id) in wanted else owner
        for shard_id, owner in observed.owners.items()
    }
    targets = share(base, candidates)
    plan = None
    if dict(observed.targets) != targets:
        moves = sum(1 for shard_id, target in targets.items() if observed.owners[shard_id] not in (None, target))
        plan = NewPlan(observed.plan_version, plan_hash(targets), targets, moves)
    owning = set(observed.owners.values()) | (set(observed.targets.values()) if plan is None else set(surplus))
    stop = tuple(worker for worker in surplus if worker not in owning)
    settled = all(
        owner is not None and owner == targets[shard_id] and shard_id in observed.serving.get(owner, frozenset())
        for shard_id, owner in observed.owners.items()
    )
    return Next(wanted, plan, stop, converged=plan is None and settled and not surplus and set(wanted) <= running)
