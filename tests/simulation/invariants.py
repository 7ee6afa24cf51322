"""The invariants that hold at every moment, whatever happens: checked where one could break, and raised as `Violation`.

journal       a shard's numbers are dense, its epochs never fall, and each epoch has one writing incarnation
lease         no memory read is possible where another incarnation could have appended since
acknowledged  an adopted shard has everything acknowledged before, and nothing older is acknowledged after
outcome       an append whose client was answered that it is not stored, is never stored
ended         no shard belongs to an incarnation that was ended
patience      no incarnation is fenced sooner than the wait after its last beat, the short one only when its lock was gone
takeover      a worker that nothing happened to is never fenced: a database restart is no death
handoff       a shard is transferred only while its owner admits nothing for it and has no append of it in flight
limit         planned moves at once are limited, and handoffs of one worker at once

`served` and `moves` are checked at the end of a schedule, by `run`.
"""

from collections import Counter
from collections.abc import Callable, Sized
from typing import TYPE_CHECKING, Final, NamedTuple

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.failure_detector import LOCK_GONE_S, TTL_S
from tests.simulation.clock import DRIFT
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from tests.simulation.database import Append, Database, ShardRecord
    from tests.simulation.host import Host

INVARIANTS: Final = (
    *("journal", "lease", "acknowledged", "outcome", "ended", "patience", "takeover", "handoff", "limit"),
    *("served", "moves"),
)
_HURT_S: Final = 15.0
"""Time after a fault of a worker within which a fence of it may be the consequence."""


class Change(NamedTuple):
    """A shard changed its owner."""

    at: float
    shard_id: ShardId
    kind: str
    source: str | None
    owner: str | None
    ordered_at: float
    """When it got the target that it then had."""


class Watch:
    """Sees everything at once, which no worker does."""

    def __init__(
        self, now: Callable[[], float], tell: Callable[[str], None] | None, most_moves: int, most_handoffs: int
    ) -> None:
        self.now = now
        self.tell = tell
        self.hosts: dict[str, Host] = {}
        """By incarnation, where its shards are served."""
        self.hurt_at: dict[str, float] = {}
        self.changes: list[Change] = []
        self._owners: dict[ShardId, str | None] = {}
        self._ordered_at: dict[ShardId, float] = {}
        self.fences = 0
        self.seen: Counter[str] = Counter()
        """How often each event happened: a simulation in which nothing happens proves nothing."""
        self._most_moves = most_moves
        self._most_handoffs = most_handoffs
        self._epochs: dict[ShardId, tuple[int, str]] = {}
        self._acknowledged: dict[ShardId, dict[int, int]] = {}
        self._adopted: dict[ShardId, tuple[int, int]] = {}
        self._moving: set[ShardId] = set()
        self._replaced_at: dict[str, float] = {}
        self._taken: dict[ShardId, tuple[str, int]] = {}
        """The incarnation that last got each shard from another one, and the epoch at which it did."""

    def hurt(self, worker: str, until: float) -> None:
        """Something happens to a worker, until then."""
        self.hurt_at[worker] = max(until, self.hurt_at.get(worker, 0.0))

    # --- the journal

    def stored(self, db: "Database", append: "Append", shard_id: ShardId, epoch: int, first: int) -> None:
        """Rows of a shard are about to be stored."""
        head = db.head(shard_id)
        before = self._epochs.get(shard_id, (0, ""))
        if self.tell is not None:
            self.tell(f"journal: shard {shard_id} stores {first}… at epoch {epoch} by {append.incarnation}")
        if first != head + 1:
            raise Violation(
                "journal", f"shard {shard_id}: {append.incarnation} stores {first} at epoch {epoch} after {head}"
            )
        if epoch < before[0] or (epoch == before[0] and append.incarnation != before[1]):
            raise Violation("journal", f"shard {shard_id}: {(epoch, append.incarnation)} writes after {before}")
        if shard_id in append.denied:
            raise Violation(
                "outcome", f"shard {shard_id}: {first} is stored, which {append.incarnation} was answered is not"
            )
        self._epochs[shard_id] = (epoch, append.incarnation)
        self.seen["append"] += 1

    def acknowledged(self, shard_id: ShardId, epoch: int, head: int) -> None:
        """The owner at an epoch tells clients that everything up to a number is stored."""
        since, seen = self._adopted.get(shard_id, (0, 0))
        if epoch < since and seen < head:
            raise Violation(
                "acknowledged", f"shard {shard_id}: {head} is acknowledged, its owner since {since} saw {seen}"
            )
        self._acknowledged.setdefault(shard_id, {})[epoch] = head

    def adopted(self, shard_id: ShardId, epoch: int, head: int) -> None:
        """A shard is served from now on."""
        if self.tell is not None:
            self.tell(f"shard {shard_id}: served at epoch {epoch} from {head}")
        least = max((to for at, to in self._acknowledged.get(shard_id, {}).items() if at <= epoch), default=0)
        if head < least:
            raise Violation("acknowledged", f"shard {shard_id}: adopted at {head}, and {least} was acknowledged")
        if epoch > self._adopted.get(shard_id, (0, 0))[0]:
            self._adopted[shard_id] = (epoch, head)

    # --- owners

    def changed(self, db: "Database", row: "ShardRecord", before: str | None, kind: str) -> None:
        """A shard changed its owner; ``before`` is the incarnation that had it."""
        source, ordered_at = self._owners.get(row.id), self._ordered_at.get(row.id, 0.0)
        self.changes.append(Change(self.now(), row.id, kind, source, row.owner, ordered_at))
        self._owners[row.id] = row.owner
        self.seen[kind] += 1
        if self.tell is not None:
            self.tell(f"shard {row.id}: {kind}, epoch {row.epoch}, {before} → {row.incarnation}")
        taken = (
            row.incarnation is not None and kind != "adopt"
        )  # what an ended incarnation has is its own until it is freed
        if taken and not self._owner_lives(db, row):
            raise Violation("ended", f"shard {row.id}: {kind} to {row.incarnation}, which was ended")
        if kind == "handoff":
            self._handed_over(row, before)
        if row.owner is None or row.owner == row.target:
            self._moving.discard(row.id)
        if row.incarnation is not None and self._taken.get(row.id, ("", 0))[0] != row.incarnation:
            self._taken[row.id] = row.incarnation, row.epoch
        for incarnation in (before, *self.hosts):
            if incarnation is not None and incarnation != row.last and incarnation in self.hosts:
                self.reads(db, self.hosts[incarnation], row.id)

    def _handed_over(self, row: "ShardRecord", before: str | None) -> None:
        host = self.hosts.get(before or "")
        served = host.shards.get(row.id) if host is not None else None
        if served is not None and (served.admits or not served.idle):
            raise Violation(
                "handoff", f"shard {row.id}: transferred by {before} while it admits or has appends in flight"
            )

    def reads(self, db: "Database", host: "Host", shard_id: ShardId) -> None:
        """Whether this host could answer from memory what another may have changed."""
        shard, last = host.shards.get(shard_id), db.shards[shard_id].last
        if shard is None or not shard.admits or not host.may_read():
            return
        if last != host.incarnation:
            raise Violation("lease", f"shard {shard_id}: {host.incarnation} reads, {last} may have written")
        if shard.epoch < (since := self._taken.get(shard_id, ("", 0))[1]):
            raise Violation(
                "lease",
                f"shard {shard_id}: {host.incarnation} reads as of epoch {shard.epoch}, it came back at {since}",
            )

    def all_reads(self, db: "Database", host: "Host") -> None:
        """The same of all its shards."""
        for shard_id in host.shards:
            self.reads(db, host, shard_id)

    # --- workers

    def registered(self, worker: str, before: str, incarnation: str) -> None:
        """A new incarnation takes the place of another."""
        self.seen["register"] += 1
        self._replaced_at.setdefault(before, self.now())
        if self.tell is not None:
            self.tell(f"{worker}: {before or 'none'} → {incarnation}")

    def fenced(self, db: "Database", worker: str, incarnation: str, *, replaced: bool) -> None:
        """An incarnation is about to be fenced."""
        now, row = self.now(), db.workers.get(worker)
        since, held = self._replaced_at.get(incarnation, now), False
        if not replaced and row is not None:
            # A session always locks before it beats, so a lock held now was held since the last heartbeat or is newer.
            holder = db.locks.get((row.incarnation, row.attempt))
            since, held = row.beat_at, holder is not None and holder.locked_at <= row.beat_at
        least_s = (TTL_S if held else LOCK_GONE_S) / (1 + 1.5 * DRIFT)
        self.fences += 1
        self.seen["fence"] += 1
        if self.tell is not None:
            self.tell(f"{worker}: {incarnation} is fenced, {now - since:.2f} s after its last sign of life")
        if now - since < least_s:
            raise Violation("patience", f"{incarnation} is fenced after {now - since:.3f} s, lock held: {held}")
        if now - self.hurt_at.get(worker, -_HURT_S) > _HURT_S:
            raise Violation("takeover", f"{incarnation} is fenced, and nothing happened to it")

    # --- limits

    def targeted(self, row: "ShardRecord") -> None:
        """A shard has a target, perhaps another than before: an order of before is no more."""
        self._moving.discard(row.id)
        self._ordered_at[row.id] = self.now()

    def ordered(self, db: "Database", moves: frozenset[ShardId]) -> None:
        """A planner ordered these moves of shards that have an owner."""
        for shard_id in moves:
            row = db.shards[shard_id]
            if row.owner is not None and row.target is not None and row.owner != row.target:
                self._moving.add(shard_id)
        self.seen["plan"] += 1
        moving = sorted(shard_id for shard_id in self._moving if self._owner_lives(db, db.shards[shard_id]))
        if len(moving) > self._most_moves:
            raise Violation("limit", f"{moving} move at once, {self._most_moves} may")

    def _owner_lives(self, db: "Database", row: "ShardRecord") -> bool:
        """Else it is no move any more, but waits for a takeover."""
        worker = db.workers.get(row.owner or "")
        return worker is not None and worker.incarnation == row.incarnation and not worker.fenced

    def handoffs(self, host: "Host", under_way: Sized) -> None:
        """How many shards a worker hands over now."""
        if len(under_way) > self._most_handoffs:
            raise Violation(
                "limit", f"{host.incarnation} hands over {len(under_way)} at once, {self._most_handoffs} may"
            )
