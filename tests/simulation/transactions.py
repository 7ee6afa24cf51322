"""The model of the statements of `shard_worker.ownership.store` and `shard_store`: one function each, with its name and
its conditions.

`test_statements` compares each one with its SQL.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from shard_worker.domain.ids import ShardId
from shard_worker.ownership.failure_detector import Suspect
from shard_worker.ownership.handoff import Transfer
from shard_worker.ownership.view import OwnershipView, ShardRow, WorkerRow
from tests.simulation.database import Backend, Database, Locked, ShardRecord, Transaction, WorkerRecord

_GONE: Final = 0xFFFF_FFFF


def register(worker: str, incarnation: str, *, reads: int = 1, writes: int = 1) -> Transaction[str | None]:
    """Begin a new incarnation, and end the sessions of the one before."""

    def run(db: Database) -> str | None:
        row = db.workers.setdefault(worker, WorkerRecord(worker))
        before, fenced = row.incarnation, row.fenced
        row.incarnation, row.attempt, row.fenced, row.leaving = incarnation, row.attempt + 1, False, False
        row.reads, row.writes = reads, writes
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


def fence(suspect: Suspect, targets: Mapping[ShardId, str | None]) -> Transaction[list[ShardId] | None]:
    """End a suspect, if it is still at the heartbeat last seen, and give its shards their targets."""
    worker, incarnation, beat = suspect

    def matches(db: Database) -> bool:
        row = db.workers.get(worker)
        if beat is None:
            return row is None or not incarnation or row.incarnation != incarnation or row.fenced
        return _alive(db, worker, incarnation) and row is not None and _last_beat(db, row) == beat

    def run(db: Database) -> list[ShardId] | None:
        if not matches(db):
            return None
        held = [each for each in _owned(db, worker) if each.incarnation == incarnation]
        if beat is not None or held:
            db.watch.fenced(db, worker, incarnation, replaced=beat is None)
        if beat is not None:
            db.workers[worker].fenced = True
        if incarnation:
            db.terminate(incarnation)
        freed = _free(db, held, "takeover")
        if freed:
            db.plan_version += 1
            for shard_id in freed:
                _target(db, shard_id, targets.get(shard_id), f"{worker} died")
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
    """Hold a session-level lock under a new attempt; False when the incarnation was ended."""

    def run(db: Database) -> bool:
        if not _alive(db, worker, incarnation):
            return False
        row = db.workers[worker]
        row.attempt += 1
        backend.lock, backend.locked_at, backend.beat = (incarnation, row.attempt), db.watch.now(), 0
        db.locks[backend.lock] = backend
        return True

    return Transaction("lock", run, lambda _: (worker, False, ()))


def heartbeat(worker: str, incarnation: str, backend: Backend) -> Transaction[bool]:
    """Show that this incarnation lives; False when it was ended."""

    def run(db: Database) -> bool:
        if not _alive(db, worker, incarnation):
            return False
        row = db.workers[worker]
        backend.beat += 1
        if backend.lock == (incarnation, row.attempt):
            row.beat_at = db.watch.now()
        return True

    return Transaction("heartbeat", run, lambda _: (worker, False, ()))


def mark_leaving(worker: str, incarnation: str) -> Transaction[None]:
    """Record that this incarnation takes no more shards."""

    def run(db: Database) -> None:
        row = db.workers.get(worker)
        if row is not None and row.incarnation == incarnation:
            row.leaving = True
        db.notify()

    return Transaction("mark leaving", run, lambda _: (worker, False, ()))


def claim(worker: str, incarnation: str, shard_ids: Sequence[ShardId]) -> Transaction[dict[ShardId, int]]:
    """Become the owner of those of the shards that have none; the epoch of each one won."""

    def may(db: Database) -> bool:
        row = db.workers.get(worker)
        return row is not None and row.incarnation == incarnation and not row.fenced and not row.leaving

    def run(db: Database) -> dict[ShardId, int]:
        won = {}
        for shard_id in shard_ids if may(db) else ():
            row = db.shards[shard_id]
            if row.owner is None and row.format <= db.workers[worker].reads:
                row.format = max(row.format, db.workers[worker].writes)
                db.change(row, worker, incarnation, "claim")
                won[shard_id] = row.epoch
        if won:
            db.notify()
        return won

    def locks(db: Database) -> Locked:
        return worker, False, tuple(shard_ids) if may(db) else ()

    return Transaction("claim", run, locks)


def owned_heads(incarnation: str, epochs: Mapping[ShardId, int]) -> Transaction[dict[ShardId, int]]:
    """The head of each of these shards that this incarnation owns at just that epoch."""

    def run(db: Database) -> dict[ShardId, int]:
        return {
            shard_id: db.head(shard_id)
            for shard_id, epoch in epochs.items()
            if db.shards[shard_id].epoch == epoch and db.shards[shard_id].incarnation == incarnation
        }

    return Transaction("owned heads", run)


def transfer(incarnation: str, transfers: Sequence[Transfer]) -> Transaction[dict[ShardId, int]]:
    """Make other incarnations the owners of own shards; the new epoch of each one transferred."""

    def mine(db: Database) -> list[tuple[Transfer, ShardRecord]]:
        found = []
        for each in transfers:
            row = db.shards[each.shard_id]
            if (row.incarnation, row.epoch) == (incarnation, each.epoch) and may_receive(db, each, row.format):
                found.append((each, row))
        return found

    def may_receive(db: Database, each: Transfer, journal_format: int) -> bool:
        receiver = db.workers.get(each.worker)
        if receiver is None or receiver.incarnation != each.incarnation:
            return False
        return not receiver.fenced and not receiver.leaving and journal_format <= receiver.reads

    def run(db: Database) -> dict[ShardId, int]:
        epochs = {}
        for each, row in mine(db):
            row.format = max(row.format, db.workers[each.worker].writes)
            db.change(row, each.worker, each.incarnation, "handoff")
            epochs[each.shard_id] = row.epoch
        if epochs:
            db.notify()
        return epochs

    return Transaction("transfer", run, lambda db: (None, False, tuple(row.id for _, row in mine(db))))


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


def record_start_seqs(epochs: Mapping[ShardId, int], heads: Mapping[ShardId, int]) -> Transaction[None]:
    """Record where each epoch begins, if that is not known yet."""

    def run(db: Database) -> None:
        for shard_id, head in heads.items():
            record = db.epochs.get((shard_id, epochs[shard_id]))
            if record is not None and record.from_seq is None:
                record.from_seq = head + 1

    return Transaction("record start seqs", run)


def raise_epoch(incarnation: str, held: Mapping[ShardId, int]) -> Transaction[dict[ShardId, int]]:
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

    return Transaction("raise epoch", run, lambda db: (None, False, tuple(row.id for row in mine(db))))


def set_cordon(worker: str, *, cordoned: bool, draining: bool) -> Transaction[bool]:
    """Say whether a worker gets more shards, and whether it keeps those it has."""

    def run(db: Database) -> bool:
        row = db.workers.get(worker)
        if row is not None:
            row.cordoned, row.draining = cordoned, draining
        db.notify()
        return row is not None

    return Transaction("cordon", run, lambda _: (worker, False, ()))


def read_view(known: OwnershipView) -> Transaction[OwnershipView]:
    """All workers and shards, as of one moment; what cannot have changed since ``known`` is taken from there."""

    def run(db: Database) -> OwnershipView:
        changed = {}
        for row in db.shards.values():
            seen = known.shards.get(row.id)
            if seen is None or seen.epoch != row.epoch or row.plan_version > known.plan_version:
                changed[row.id] = ShardRow(
                    row.id, row.epoch, row.owner, row.incarnation, row.target, row.reason, format=row.format
                )
        workers = {
            w.id: WorkerRow(
                *(w.id, w.incarnation, "", 0, 0, _last_beat(db, w), w.fenced, w.leaving, w.cordoned, w.draining),
                locked=(w.incarnation, w.attempt) in db.locks,
                reads=w.reads,
            )
            for w in db.workers.values()
        }
        shards = known.shards | changed if changed else known.shards
        return OwnershipView(workers, shards, db.plan_version, db.plan_hash)

    return Transaction("read view", run)


def set_targets(
    version: int, plan_hash: str, targets: Mapping[ShardId, str | None], moves: frozenset[ShardId]
) -> Transaction[int | None]:
    """Make a plan that was made from plan ``version`` the present one; None when that is no longer the present.

    ``moves``, for the watch alone, are those of the shards that had a living owner when the plan was made.
    """

    def run(db: Database) -> int | None:
        if db.plan_version != version:
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
    return row.attempt << 32 | (_GONE if number is None else number)


def _owned(db: Database, worker: str) -> list[ShardRecord]:
    return [row for row in db.shards.values() if row.owner == worker]


def _free(db: Database, rows: Sequence[ShardRecord], kind: str) -> list[ShardId]:
    for row in rows:
        db.change(row, None, None, kind)
    if rows:
        db.notify()
    return [row.id for row in rows]


def _target(db: Database, shard_id: ShardId, target: str | None, reason: str = "") -> None:
    row = db.shards[shard_id]
    row.target, row.reason, row.plan_version = target, reason, db.plan_version
    db.watch.targeted(row)
