"""Views of ownership, built from rows, for the tests of the pure rules."""

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.view import OwnershipView, ShardRow, WorkerRow

S0, S1 = ShardId(0), ShardId(1)
NAMES = ["a", "b", "c"]
ALL = frozenset(NAMES)


def worker(
    name: str,
    beat: int = 0,
    *,
    incarnation: str | None = None,
    fenced: bool = False,
    leaving: bool = False,
    cordoned: bool = False,
    draining: bool = False,
    locked: bool = True,
) -> WorkerRow:
    """A worker's row; its incarnation is its name and a 1 by default."""
    life = f"{name}1" if incarnation is None else incarnation
    return WorkerRow(name, life, "h", 1, 2, beat, fenced, leaving, cordoned, draining, locked)


def shard(
    owner: str | None, target: str | None = None, *, id: ShardId = S0, incarnation: str | None = None
) -> ShardRow:
    """A shard's row, at epoch 5."""
    return ShardRow(id, 5, owner, (owner and f"{owner}1") if incarnation is None else incarnation, target, "")


def view_of(*rows: ShardRow | WorkerRow) -> OwnershipView:
    """A view of these shards and workers; of `NAMES`, where no worker is given."""
    workers = [row for row in rows if isinstance(row, WorkerRow)] or [worker(name) for name in NAMES]
    return OwnershipView(
        {row.id: row for row in workers}, {row.id: row for row in rows if isinstance(row, ShardRow)}, 1, ""
    )
