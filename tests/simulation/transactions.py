"""The transactions of `shard_worker.ownership.store`, one function each, with its name and its conditions.

A planted bug changes one of them; what it changes is written at that place.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.view import OwnershipView, ShardRow, WorkerRow
from tests.simulation.database import Backend, Database, Locked, ShardRecord, Transaction, WorkerRecord

_GONE: Final = 0xFFFF_FFFF


class Gift(NamedTuple):
    """A shard, at the epoch it is held at, and the incarnation that gets it."""

    shard_id: ShardId
    epoch: int
    worker: str
    incarnation: str


def register(worker: str, incarnation: str) -> Transaction[str | None]:
    """Begin a new incarnation, and end the sessions of the one before."""

    def run(db: Database) -> str | None:
        row = db.workers.setdefault(worker, WorkerRecord(worker))
        before, fenced = row.incarnation, row.fenced
        row.incarnation, row.attempt, row.fenced, row.leaving = incarnation, row.attempt + 1, False, False
        row.beat_at = db.watch.now()
        if before not in ("", incarnation):
            db.terminate(before)
        db.watch.registered(worker, before, incarnation)
        db.notify()
        return None if fenced else before

    return Transaction("register", run, lambda _: (worker, True, ()))


def free_predecessors(worker: str, incarnation: str) -> Transaction[int]:
    """Take from this worker's earlier incarnations what they still hold."""

    def run(db: Database) -> int:
        if not _alive(db, worker, incarnation):
            return 0
        return len(_free(db, [row for row in _owned(db, worker) if row.incarnation != incarnation], "restart"))

    def locks(db: Database) -> Locked:
        held = [row.id for row in _owned(db, worker) if row.incarnation != incarnation]
        return worker, True, tuple(held) if _alive(db, worker, incarnation) else ()

    return Transaction("free predecessors", run, locks)


def fence(
    worker: str, incarnation: str, beat: int | None, heirs: Mapping[ShardId, str | None]
) -> Transaction[list[ShardId] | None]:
    """End an incarnation last seen at ``beat`` (None: one that was replaced) and free its shards for their heirs."""

    def matches(db: Database) -> bool:
        row = db.workers[worker]
        if beat is None:
            return row.incarnation != incarnation or row.fenced
        same_beat = _last_beat(db, row) == beat or "fence without the beat" in db.bugs
        if "an end is no change" in db.bugs:
            same_beat = same_beat or db.beat_of(row) is None
        return row.incarnation == incarnation and same_beat and not row.fenced

    def run(db: Database) -> list[ShardId] | None:
        if not matches(db):
            return None
        row = db.workers[worker]
        held = [each for each in _owned(db, worker) if each.incarnation == incarnation]
        if beat is not None or held:
            db.watch.fenced(db, row, incarnation, replaced=beat is None)
        if beat is not None:
            row.fenced = True
        db.terminate(incarnation)
        freed = _free(db, held, "takeover")
        if freed:
            db.plan_version += 1
            for shard_id in freed:
                _target(db, shard_id, heirs.get(shard_id))
        db.notify()
        return freed

    def locks(db: Database) -> Locked:
        held = [row.id for row in _owned(db, worker) if row.incarnation == incarnation]
        return worker, True, tuple(held) if matches(db) else ()

    return Transaction("fence", run, locks)


def retire(worker: str, incarnation: str) -> Transaction[int]:
    """End one's own incarnation."""

    def run(db: Database) -> int:
        if not _alive(db, worker, incarnation):
            return 0
        db.workers[worker].fenced = True
        freed = _free(db, [row for row in _owned(db, worker) if row.incarnation == incarnation], "release")
        db.notify()
        return len(freed)

    def locks(db: Database) -> Locked:
        held = [row.id for row in _owned(db, worker) if row.incarnation == incarnation]
        return worker, True, tuple(held) if _alive(db, worker, incarnation) else ()

    return Transaction("retire", run, locks)


def lock(worker: str, incarnation: str, backend: Backend) -> Transaction[bool]:
    """Hold a session-level lock, under a number that is read by nobody before; False when the incarnation was ended."""

    def run(db: Database) -> bool:
        if not _alive(db, worker, incarnation):
            return False
        row = db.workers[worker]
        row.attempt += 1
        backend.lock, backend.locked_at, backend.beat = (incarnation, row.attempt), db.watch.now(), 0
        db.locks[backend.lock] = backend
        return True

    return Transaction("lock", run, lambda _: (worker, False, ()))


def beat(worker: str, incarnation: str, backend: Backend) -> Transaction[bool]:
    """Show that this incarnation lives; False when it was ended."""

    def run(db: Database) -> bool:
        if not _alive(db, worker, incarnation):
            return False
        row = db.workers[worker]
        backend.beat += 1
        if backend.lock == (incarnation, row.attempt):
            row.beat_at = db.watch.now()
        return True

    return Transaction("beat", run, lambda _: (worker, False, ()))


def mark_leaving(worker: str, incarnation: str) -> Transaction[None]:
    """Tell everyone that this incarnation takes no more shards."""

    def run(db: Database) -> None:
        row = db.workers.get(worker)
        if row is not None and row.incarnation == incarnation:
            row.leaving = True
        db.notify()

    return Transaction("mark leaving", run, lambda _: (worker, False, ()))


def claim(worker: str, incarnation: str, shard_ids: Sequence[ShardId]) -> Transaction[dict[ShardId, int]]:
    """Take those of the shards that are nobody's; the epoch of each one won."""

    def may(db: Database) -> bool:
        row = db.workers[worker]
        unfenced = not row.fenced or "claim by the fenced" in db.bugs
        return row.incarnation == incarnation and unfenced and not row.leaving

    def run(db: Database) -> dict[ShardId, int]:
        won = {}
        for shard_id in shard_ids if may(db) else ():
            row = db.shards[shard_id]
            if row.owner is None or "claim of what is owned" in db.bugs:
                db.change(row, worker, incarnation, "claim")
                won[shard_id] = row.epoch
        if won:
            db.notify()
        return won

    def locks(db: Database) -> Locked:
        return worker, False, tuple(shard_ids) if may(db) else ()

    return Transaction("claim", run, locks)


def named(incarnation: str, epochs: Mapping[ShardId, int]) -> Transaction[dict[ShardId, int]]:
    """The head of each of these shards that this incarnation owns at just that epoch."""

    def run(db: Database) -> dict[ShardId, int]:
        return {
            shard_id: db.head(shard_id)
            for shard_id, epoch in epochs.items()
            if db.shards[shard_id].epoch == epoch and db.shards[shard_id].incarnation == incarnation
        }

    return Transaction("named", run)


def give(incarnation: str, gifts: Sequence[Gift]) -> Transaction[dict[ShardId, int]]:
    """Give shards to other incarnations; the new epoch of each one given."""

    def mine(db: Database) -> list[tuple[Gift, ShardRecord]]:
        found = []
        for gift in gifts:
            row, receiver = db.shards[gift.shard_id], db.workers.get(gift.worker)
            fit = receiver is not None and receiver.incarnation == gift.incarnation
            fit = fit and receiver is not None and not receiver.fenced and not receiver.leaving
            fit = fit or "give to anyone" in db.bugs
            if fit and row.incarnation == incarnation and row.epoch == gift.epoch:
                found.append((gift, row))
        return found

    def run(db: Database) -> dict[ShardId, int]:
        given = {}
        for gift, row in mine(db):
            raised = "give at the same epoch" not in db.bugs
            db.change(row, gift.worker, gift.incarnation, "handoff", raised=raised)
            given[gift.shard_id] = row.epoch
        if given:
            db.notify()
        return given

    return Transaction("give", run, lambda db: (None, False, tuple(row.id for _, row in mine(db))))


def release(incarnation: str, held: Mapping[ShardId, int]) -> Transaction[set[ShardId]]:
    """Give up shards, each at the epoch it is held at."""

    def mine(db: Database) -> list[ShardRecord]:
        return [
            db.shards[shard_id]
            for shard_id, epoch in held.items()
            if db.shards[shard_id].incarnation == incarnation and db.shards[shard_id].epoch == epoch
        ]

    def run(db: Database) -> set[ShardId]:
        freed = mine(db)
        for row in freed:
            db.change(row, None, None, "release")
        if freed:
            db.notify()
        return {row.id for row in freed}

    return Transaction("release", run, lambda db: (None, False, tuple(row.id for row in mine(db))))


def bump(incarnation: str, held: Mapping[ShardId, int]) -> Transaction[dict[ShardId, int]]:
    """Raise the epoch of own shards, each from the one it is held at; the new epoch of each one raised."""

    def mine(db: Database) -> list[ShardRecord]:
        return [
            db.shards[shard_id]
            for shard_id, epoch in held.items()
            if db.shards[shard_id].incarnation == incarnation and db.shards[shard_id].epoch == epoch
        ]

    def run(db: Database) -> dict[ShardId, int]:
        raised = mine(db)
        for row in raised:
            db.change(row, row.owner, row.incarnation, "adopt")
        return {row.id: row.epoch for row in raised}

    return Transaction("bump", run, lambda db: (None, False, tuple(row.id for row in mine(db))))


def set_cordon(worker: str, *, cordoned: bool, draining: bool) -> Transaction[None]:
    """Say whether a worker gets more shards, and whether it keeps those it has."""

    def run(db: Database) -> None:
        row = db.workers.get(worker)
        if row is not None:
            row.cordoned, row.draining = cordoned, draining
        db.notify()

    return Transaction("cordon", run, lambda _: (worker, False, ()))


def look(known: OwnershipView) -> Transaction[OwnershipView]:
    """All workers and shards, as of one moment; what cannot have changed since ``known`` is taken from there."""

    def run(db: Database) -> OwnershipView:
        changed = {}
        for row in db.shards.values():
            seen = known.shards.get(row.id)
            if seen is None or seen.epoch != row.epoch or row.plan_version > known.plan_version:
                changed[row.id] = ShardRow(row.id, row.epoch, row.owner, row.incarnation, row.target, row.reason)
        workers = {
            w.id: WorkerRow(
                *(w.id, w.incarnation, "", 0, 0, _seen_beat(db, w, known), w.fenced, w.leaving, w.cordoned, w.draining),
                locked=(w.incarnation, w.attempt) in db.locks,
            )
            for w in db.workers.values()
        }
        shards = known.shards | changed if changed else known.shards
        return OwnershipView(workers, shards, db.plan_version, db.plan_hash)

    return Transaction("look", run)


def set_targets(
    version: int, plan_hash: str, targets: Mapping[ShardId, str | None], moves: frozenset[ShardId]
) -> Transaction[int | None]:
    """Make a plan that was made from plan ``version`` the present one; None when that is no longer the present.

    ``moves``, for the watch alone, are those of the shards that had a living owner when the plan was made.
    """

    def run(db: Database) -> int | None:
        if db.plan_version != version and "targets without the version" not in db.bugs:
            return None
        db.plan_version += 1
        db.plan_hash = plan_hash
        for shard_id, target in targets.items():
            _target(db, shard_id, target)
        db.watch.ordered(db, moves)
        db.notify()
        return db.plan_version

    return Transaction("set targets", run)


def owner(shard_ids: Sequence[ShardId]) -> Transaction[dict[ShardId, tuple[int, str | None]]]:
    """The epoch and incarnation of shards, as the appender asks for them."""

    def run(db: Database) -> dict[ShardId, tuple[int, str | None]]:
        return {shard_id: (db.shards[shard_id].epoch, db.shards[shard_id].incarnation) for shard_id in shard_ids}

    return Transaction("owner", run)


def journal_from(shard_id: ShardId, number: int) -> Transaction[tuple[tuple[int, str, int] | None, int]]:
    """The event at a number, if there is one, and the head."""

    def run(db: Database) -> tuple[tuple[int, str, int] | None, int]:
        rows = db.journal[shard_id]
        return (rows[number - 1] if number <= len(rows) else None), len(rows)

    return Transaction("journal", run)


def _alive(db: Database, worker: str, incarnation: str) -> bool:
    row = db.workers.get(worker)
    return row is not None and row.incarnation == incarnation and not row.fenced


def _last_beat(db: Database, row: WorkerRecord) -> int:
    number = db.beat_of(row)
    attempt = 0 if "the beat without the attempt" in db.bugs else row.attempt
    return attempt << 32 | (_GONE if number is None else number)


def _seen_beat(db: Database, row: WorkerRecord, known: OwnershipView) -> int:
    before = known.workers.get(row.id)
    if "an end is no change" in db.bugs and before is not None and db.beat_of(row) is None:
        return before.beat if before.incarnation == row.incarnation else 0
    return _last_beat(db, row)


def _owned(db: Database, worker: str) -> list[ShardRecord]:
    return [row for row in db.shards.values() if row.owner == worker]


def _free(db: Database, rows: Sequence[ShardRecord], kind: str) -> list[ShardId]:
    for row in rows:
        db.change(row, None, None, kind)
    if rows:
        db.notify()
    return [row.id for row in rows]


def _target(db: Database, shard_id: ShardId, target: str | None) -> None:
    row = db.shards[shard_id]
    row.target, row.plan_version = target, db.plan_version
    db.watch.targeted(row)
