"""What a worker does next about its shards: a pure function of what it sees and what it holds.

The database decides every race; a wrong step here is refused there.  So these rules aim at the fewest steps, not at
safety.
"""

from collections.abc import Mapping, Set
from typing import Final, NamedTuple

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.owners import View
from shard_worker.ownership.share import rendezvous

UNOWNED_S: Final = 0.5
"""How long a shard stays without owner before anyone may claim it."""
RANK_S: Final = 0.2
"""How much longer for each place in the rendezvous order."""


class Steps(NamedTuple):
    """What to do, each list in ascending order."""

    drop: list[ShardId]
    """Here, and another's by the database."""
    adopt: list[ShardId]
    """Ours by the database, and not served here: raise the epoch and serve."""
    release: list[ShardId]
    """Ours by the database, and wanted elsewhere."""
    claim: list[ShardId]
    """Nobody's, and ours to take."""


def next_steps(
    view: View,
    *,
    worker: str,
    incarnation: str,
    present: Set[ShardId],
    serving: Set[ShardId],
    unowned_s: Mapping[ShardId, float],
    live: Set[str],
    leaving: bool,
) -> Steps:
    """The steps of ``worker``, which has the shards ``present`` in memory and admits commands for those ``serving``.

    ``unowned_s`` says how long each shard has been seen without an owner, ``live`` which other workers beat and do not
    leave.
    """
    steps = Steps([], [], [], [])
    for shard_id in sorted(view.shards):
        row = view.shards[shard_id]
        if row.incarnation == incarnation:
            if leaving or (row.target is not None and row.target != worker and row.target in live):
                steps.release.append(shard_id)
            elif shard_id not in serving:
                steps.adopt.append(shard_id)
            continue
        if shard_id in present:
            steps.drop.append(shard_id)
        if row.owner is None and not leaving and _may_claim(shard_id, row.target, worker, unowned_s, live):
            steps.claim.append(shard_id)
    return steps


def _may_claim(
    shard_id: ShardId, target: str | None, worker: str, unowned_s: Mapping[ShardId, float], live: Set[str]
) -> bool:
    if target == worker:
        return True
    waited = unowned_s.get(shard_id, 0.0)
    if waited < UNOWNED_S:
        return False
    rank = rendezvous(shard_id, {*live, worker}).index(worker)
    return waited >= UNOWNED_S + rank * RANK_S
