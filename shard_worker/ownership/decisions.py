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
LIVE_S: Final = 0.7
"""For how long after its last beat was seen a worker counts as live.  Several beats and looks long; and not much longer
than a shard stays without owner, or a shard given to a worker that has just died would be given to it again."""


class Observer:
    """What one worker saw of the others, and when, by its own monotonic clock within one database session.

    A worker counts as live once its beat was seen to *move*: rows of the dead look like any others.
    """

    def __init__(self) -> None:
        self._beats: dict[str, tuple[str, int]] = {}
        self._moved: dict[str, float] = {}
        self._unowned_since: dict[ShardId, float] = {}

    def restart(self) -> None:
        """Forget everything: between two sessions nobody knows what went by."""
        self._beats.clear()
        self._moved.clear()
        self._unowned_since.clear()

    def note(self, view: View, now: float) -> None:
        """Take in one look."""
        for worker in view.workers.values():
            beat = (worker.incarnation, worker.beat)
            before = self._beats.get(worker.id)
            if before is not None and before != beat:
                self._moved[worker.id] = now
            self._beats[worker.id] = beat
        for row in view.shards.values():
            if row.owner is not None:
                self._unowned_since.pop(row.id, None)
            else:
                self._unowned_since.setdefault(row.id, now)

    def live(self, view: View, now: float) -> frozenset[str]:
        """The workers that beat and may receive shards."""
        return frozenset(
            worker.id
            for worker in view.workers.values()
            if not worker.fenced and not worker.leaving and now - self._moved.get(worker.id, -LIVE_S) < LIVE_S
        )

    def unowned_s(self, now: float) -> dict[ShardId, float]:
        """How long each shard that nobody owns has been seen so."""
        return {shard_id: now - since for shard_id, since in self._unowned_since.items()}


class Steps(NamedTuple):
    """What to do, each list in ascending order."""

    drop: list[ShardId]
    """Here, and another's by the database."""
    adopt: list[ShardId]
    """Ours by the database, and not served here: raise the epoch and serve."""
    drain: list[ShardId]
    """Ours by the database, and wanted elsewhere: stop admitting, and get durable what is on its way."""
    release: list[ShardId]
    """Wanted elsewhere, and nothing of it is on its way any more: give it up in the database."""
    claim: list[ShardId]
    """Nobody's, and ours to take."""


def next_steps(
    view: View,
    *,
    worker: str,
    incarnation: str,
    present: Set[ShardId],
    serving: Set[ShardId],
    drained: Set[ShardId],
    unowned_s: Mapping[ShardId, float],
    live: Set[str],
    leaving: bool,
) -> Steps:
    """The steps of ``worker``, which has the shards ``present`` in memory.

    Of these it admits commands for those ``serving``, and nothing is on its way any more for those ``drained``.
    ``unowned_s`` says how long each shard has been seen without an owner, ``live`` which other workers beat and do not
    leave.
    """
    steps = Steps([], [], [], [], [])
    me = view.workers.get(worker)
    idle = leaving or (me is not None and me.cordoned)
    ranked = {worker, *(row.id for row in view.workers.values() if row.id in live and not row.cordoned)}
    for shard_id in sorted(view.shards):
        row = view.shards[shard_id]
        if row.incarnation == incarnation:
            if leaving or (row.target is not None and row.target != worker and row.target in live):
                ready = shard_id in drained or shard_id not in present
                (steps.release if ready else steps.drain).append(shard_id)
            elif shard_id not in serving:
                steps.adopt.append(shard_id)
            continue
        if shard_id in present:
            steps.drop.append(shard_id)
        if row.owner is not None or leaving:
            continue
        if row.target == worker or (not idle and _may_claim(shard_id, worker, ranked, unowned_s.get(shard_id, 0.0))):
            steps.claim.append(shard_id)
    return steps


def _may_claim(shard_id: ShardId, worker: str, ranked: Set[str], waited_s: float) -> bool:
    """Whether a shard that was not meant for this worker has waited long enough."""
    if waited_s < UNOWNED_S:
        return False
    return waited_s >= UNOWNED_S + rendezvous(shard_id, ranked).index(worker) * RANK_S
