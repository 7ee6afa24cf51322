"""Random states of the database and random statements, each as its model and as its SQL, for `test_statements`."""

import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final
from unittest.mock import Mock

import asyncpg

from shard_worker.domain.ids import ShardId
from shard_worker.ownership import reporting, shard_store, store
from shard_worker.ownership.failure_detector import Suspect
from shard_worker.ownership.handoff import Transfer
from shard_worker.ownership.view import EMPTY, OwnershipView
from tests.simulation import transactions
from tests.simulation.database import Backend, Database, Transaction, WorkerRecord
from tests.simulation.invariants import Watch

SHARDS: Final = 4
WORKERS: Final = ("a", "b", "c")
_ADDRESS: Final = store.Address("host", 1, 2)
_THREAD: Final = "00000000-0000-0000-0000-000000000000"
_BEAT_CLASS: Final = 0x7463_6274
_MOST_BEATS: Final = 5
_ROWS_SQL: Final = """
SELECT json_build_array(
    (SELECT coalesce(json_agg(json_build_array(id, incarnation, attempt, fenced, leaving, cordoned, draining)
                              ORDER BY id), '[]') FROM worker),
    (SELECT json_agg(json_build_array(s.id, epoch, owner, incarnation, format, target, reason, plan_version)
                     ORDER BY s.id) FROM shard s JOIN shard_target t ON t.shard_id = s.id),
    (SELECT coalesce(json_agg(json_build_array(shard_id, epoch, kind, worker, incarnation, from_seq)
                              ORDER BY shard_id, epoch), '[]') FROM shard_epoch),
    (SELECT json_build_array(version, hash) FROM plan))
"""


@dataclass
class State:
    """One state of the model, with the server's side of each worker's lease session."""

    db: Database
    leases: dict[str, Backend]
    known: OwnershipView
    """A view of before the last statements."""


@dataclass(frozen=True)
class Call:
    """One statement with its parameters."""

    name: str
    model: Callable[[State], Transaction[Any]]
    sql: Callable[[asyncpg.Connection], Awaitable[object]] = field(compare=False)
    lease: str | None = None
    """The worker on whose lease session the statement runs, if not on any."""


def state_of(seed: str) -> State:
    """A random state; the same for the same seed."""
    rng = Random(seed)
    db = Database(SHARDS, rng, Mock(spec=Watch, now=lambda: 0.0), lambda _seconds, _call: None)
    db.terminates = False
    db.plan_version = rng.randint(0, 3)
    for name in WORKERS:
        if rng.random() < 0.9:
            row = db.workers[name] = WorkerRecord(name)
            row.incarnation = rng.choice((f"{name}1", f"{name}2", f"{name}2", ""))
            row.attempt = rng.randint(0, 2)
            row.fenced, row.leaving = rng.random() < 0.25, rng.random() < 0.2
            row.cordoned, row.draining = rng.random() < 0.2, rng.random() < 0.2
            row.reads = rng.choice((1, 2, 2, 3))
            row.writes = rng.randint(1, row.reads)
    for shard in db.shards.values():
        shard.epoch = rng.randint(0, 3)
        shard.format = rng.choice((1, 1, 2))
        if rng.random() < 0.7:
            shard.owner = rng.choice(WORKERS)
            shard.incarnation = rng.choice((f"{shard.owner}1", f"{shard.owner}2", f"{shard.owner}2"))
        shard.target = rng.choice((None, *WORKERS))
        shard.plan_version = rng.randint(0, db.plan_version)
        db.journal[shard.id] = [(1, "", number) for number in range(rng.randint(0, 3))]
    state = State(db, dict(_leases(db, rng)), transactions.read_view(EMPTY).run(db))
    for _ in range(rng.randint(0, 2)):
        call_of(rng, state).model(state).run(db)
    return state


def _leases(db: Database, rng: Random) -> Iterator[tuple[str, Backend]]:
    """The lease session of each worker: at its present attempt, at an older one, or without a lock."""
    for name in WORKERS:
        backend = db.connect(f"lease of {name}")
        row = db.workers.get(name)
        if row is not None and row.incarnation and rng.random() < 0.75:
            backend.lock = (row.incarnation, rng.choice((row.attempt, row.attempt, max(0, row.attempt - 1))))
            backend.beat = rng.randint(0, _MOST_BEATS)
            db.locks[backend.lock] = backend
        yield name, backend


async def fill(state: State, connection: asyncpg.Connection, leases: dict[str, asyncpg.Connection]) -> None:
    """Bring the database into a state."""
    db = state.db
    script = [
        "DELETE FROM journal",
        "DELETE FROM shard_epoch",
        "DELETE FROM shard_target",
        "DELETE FROM worker",
        f"UPDATE plan SET version = {db.plan_version}, hash = {_text(db.plan_hash)}",
    ]
    script += [
        "INSERT INTO worker (id, incarnation, attempt, host, public_port, management_port, fenced, leaving, cordoned,"
        f" draining, capabilities) VALUES ({_text(w.id)}, {_text(w.incarnation)}, {w.attempt}, 'host', 1, 2, {w.fenced},"
        f" {w.leaving}, {w.cordoned}, {w.draining}, '{json.dumps({'reads': w.reads, 'writes': w.writes})}')"
        for w in db.workers.values()
    ]
    for shard in db.shards.values():
        script += [
            f"UPDATE shard SET epoch = {shard.epoch}, owner = {_text(shard.owner)},"
            f" incarnation = {_text(shard.incarnation)}, format = {shard.format} WHERE id = {shard.id}",
            "INSERT INTO shard_target (shard_id, target, reason, plan_version)"
            f" VALUES ({shard.id}, {_text(shard.target)}, {_text(shard.reason)}, {shard.plan_version})",
            "INSERT INTO journal (shard_id, shard_seq, thread_id, seq_nr, event_type, event_version, payload, metadata,"
            f" epoch) SELECT {shard.id}, n, '{_THREAD}', n, 1, 1, '', '', 1"
            f" FROM generate_series(1, {db.head(shard.id)}) AS n",
        ]
    script += [
        "INSERT INTO shard_epoch (shard_id, epoch, kind, worker, incarnation, from_seq) VALUES"
        f" ({shard_id}, {epoch}, '{each.kind}', {_text(each.worker)}, {_text(each.incarnation)},"
        f" {'NULL' if each.from_seq is None else each.from_seq})"
        for (shard_id, epoch), each in db.epochs.items()
    ]
    await connection.execute("; ".join(script))
    for name, lease in leases.items():
        backend, unlock = state.leases[name], "SELECT pg_advisory_unlock_all()"
        if backend.lock is not None:
            incarnation, attempt = backend.lock
            unlock += (
                f"; SELECT pg_advisory_lock(hashtextextended('{incarnation}:{attempt}', 0)),"
                f" pg_advisory_lock_shared({_BEAT_CLASS}, {backend.beat})"
            )
        await lease.execute(unlock)


def _text(value: str | None) -> str:
    return "NULL" if value is None else f"'{value}'"


def rows_of(state: State) -> object:
    """The rows of the model, as `read_rows` reads those of the database."""
    db = state.db
    return (
        [(w.id, w.incarnation, w.attempt, w.fenced, w.leaving, w.cordoned, w.draining) for w in _by_id(db.workers)],
        [
            (s.id, s.epoch, s.owner, s.incarnation, s.format, s.target, s.reason, s.plan_version)
            for s in _by_id(db.shards)
        ],
        [(*at, each.kind, each.worker, each.incarnation, each.from_seq) for at, each in sorted(db.epochs.items())],
        (db.plan_version, db.plan_hash),
        plain(transactions.read_view(EMPTY).run(db)),
    )


def _by_id(rows: Any) -> Any:
    return [rows[each] for each in sorted(rows)]


async def read_rows(connection: asyncpg.Connection) -> object:
    """All rows of ownership."""
    workers, shards, epochs, plan = json.loads(await connection.fetchval(_ROWS_SQL))
    view = await store.read_view(connection, EMPTY)
    return (*([tuple(row) for row in rows] for rows in (workers, shards, epochs)), tuple(plan), plain(view))


def plain(result: object) -> object:
    """A result without what the model leaves out: addresses and times."""
    if isinstance(result, OwnershipView):
        workers = [row._replace(host="", public_port=0, management_port=0) for row in _by_id(result.workers)]
        return workers, [row._replace(since=None) for row in _by_id(result.shards)], *result[2:4]
    return result


def call_of(rng: Random, state: State) -> Call:
    """A random statement; its parameters are often, not always, those of the state."""
    return _Calls(rng, state).pick()


class _Calls:
    """Draws the parameters of statements."""

    def __init__(self, rng: Random, state: State) -> None:
        self._rng = rng
        self._state = state

    def pick(self) -> Call:
        kinds = (
            *(self._register, self._free_predecessors, self._retire, self._lock, self._heartbeat, self._mark_leaving),
            *(self._claim, self._owned_heads, self._record_start_seqs, self._release, self._raise_epoch),
            *(self._set_targets, self._set_cordon, self._read_view),
            *(self._fence, self._fence, self._transfer, self._transfer, self._claim),
        )
        return self._rng.choice(kinds)()

    def _worker(self) -> tuple[str, str]:
        name = self._rng.choice(WORKERS)
        row = self._state.db.workers.get(name)
        present = row is not None and row.incarnation and self._rng.random() < 0.8
        return name, row.incarnation if row is not None and present else self._rng.choice((f"{name}1", f"{name}2"))

    def _shards(self) -> list[ShardId]:
        ids = list(self._state.db.shards)
        return sorted(self._rng.sample(ids, self._rng.randint(1, len(ids))))

    def _epochs(self) -> dict[ShardId, int]:
        shards = self._state.db.shards
        return {each: shards[each].epoch - (self._rng.random() < 0.15) for each in self._shards()}

    def _owner(self) -> tuple[str, str]:
        """An owner of some shard."""
        owned = [(row.owner, row.incarnation) for row in self._state.db.shards.values()]
        found = [(name, life) for name, life in owned if name is not None and life is not None]
        return self._rng.choice(found) if found and self._rng.random() < 0.85 else self._worker()

    def _register(self) -> Call:
        worker, _ = self._worker()
        incarnation, reads = self._rng.choice((f"{worker}2", f"{worker}3")), self._rng.randint(1, 3)
        return Call(
            f"register {worker} {incarnation} {reads}",
            lambda _: transactions.register(worker, incarnation, reads=reads, writes=1),
            lambda c: store.register(c, worker, incarnation, _ADDRESS, {"reads": reads, "writes": 1}),
        )

    def _free_predecessors(self) -> Call:
        worker, incarnation = self._worker()
        return Call(
            f"free_predecessors {worker} {incarnation}",
            lambda _: transactions.free_predecessors(worker, incarnation),
            lambda c: store.free_predecessors(c, worker, incarnation),
        )

    def _retire(self) -> Call:
        worker, incarnation = self._worker()
        return Call(
            f"retire {worker} {incarnation}",
            lambda _: transactions.retire(worker, incarnation),
            lambda c: store.retire(c, worker, incarnation),
        )

    def _lock(self) -> Call:
        worker, incarnation = self._worker()
        if self._state.leases[worker].lock is not None:  # the lease locks once on each session
            return self._heartbeat()
        return Call(
            f"lock {worker} {incarnation}",
            lambda state: transactions.lock(worker, incarnation, state.leases[worker]),
            lambda c: store.lock(c, worker, incarnation),
            worker,
        )

    def _heartbeat(self) -> Call:
        worker, incarnation = self._worker()
        number = self._state.leases[worker].beat + 1
        return Call(
            f"heartbeat {worker} {incarnation} {number}",
            lambda state: transactions.heartbeat(worker, incarnation, state.leases[worker]),
            lambda c: store.heartbeat(c, worker, incarnation, number),
            worker,
        )

    def _mark_leaving(self) -> Call:
        worker, incarnation = self._worker()
        return Call(
            f"mark_leaving {worker} {incarnation}",
            lambda _: transactions.mark_leaving(worker, incarnation),
            lambda c: store.mark_leaving(c, worker, incarnation),
        )

    def _fence(self) -> Call:
        worker, incarnation = self._owner()
        row = transactions.read_view(EMPTY).run(self._state.db).workers.get(worker)
        beat = self._rng.choice((None, row.beat, row.beat, row.beat, row.beat - 1)) if row is not None else None
        suspect = Suspect(worker, incarnation, beat)
        targets = {each: self._rng.choice((None, *WORKERS)) for each in self._state.db.shards}
        return Call(
            f"fence {suspect}",
            lambda _: transactions.fence(suspect, targets),
            lambda c: store.fence(c, worker, incarnation, beat, targets, f"{worker} died"),
        )

    def _claim(self) -> Call:
        (worker, incarnation), shards = self._worker(), self._shards()
        return Call(
            f"claim {worker} {incarnation} {shards}",
            lambda _: transactions.claim(worker, incarnation, shards),
            lambda c: shard_store.claim(c, worker, incarnation, shards),
        )

    def _owned_heads(self) -> Call:
        (_, incarnation), epochs = self._owner(), self._epochs()
        return Call(
            f"owned_heads {incarnation} {epochs}",
            lambda _: transactions.owned_heads(incarnation, epochs),
            lambda c: shard_store.owned_heads(c, incarnation, epochs),
        )

    def _record_start_seqs(self) -> Call:
        epochs = self._epochs()
        heads = {each: self._rng.randint(0, 5) for each in epochs if self._rng.random() < 0.8}
        return Call(
            f"record_start_seqs {epochs} {heads}",
            lambda _: transactions.record_start_seqs(epochs, heads),
            lambda c: shard_store.record_start_seqs(c, epochs, heads),
        )

    def _transfer(self) -> Call:
        (worker, incarnation), receiver = self._owner(), self._worker()
        epochs = self._epochs()
        transfers = [
            Transfer(shard_id, epoch, *(receiver if self._rng.random() < 0.7 else self._worker()), "")
            for shard_id, epoch in epochs.items()
        ]
        return Call(
            f"transfer {worker} {incarnation} {transfers}",
            lambda _: transactions.transfer(incarnation, transfers),
            lambda c: shard_store.transfer(c, worker, incarnation, transfers),
        )

    def _release(self) -> Call:
        (worker, incarnation), epochs = self._owner(), self._epochs()
        return Call(
            f"release {incarnation} {epochs}",
            lambda _: transactions.release(incarnation, epochs),
            lambda c: shard_store.release(c, worker, incarnation, epochs),
        )

    def _raise_epoch(self) -> Call:
        (_, incarnation), epochs = self._owner(), self._epochs()
        return Call(
            f"raise_epoch {incarnation} {epochs}",
            lambda _: transactions.raise_epoch(incarnation, epochs),
            lambda c: shard_store.raise_epoch(c, incarnation, epochs),
        )

    def _set_targets(self) -> Call:
        version = self._state.db.plan_version - (self._rng.random() < 0.2)
        targets = {each: self._rng.choice((None, *WORKERS)) for each in self._shards()}
        return Call(
            f"set_targets {version} {targets}",
            lambda _: transactions.set_targets(version, "hash", targets, frozenset()),
            lambda c: shard_store.set_targets(
                c, version, "hash", [shard_store.Target(*each, "") for each in targets.items()]
            ),
        )

    def _set_cordon(self) -> Call:
        worker, cordoned, draining = self._worker()[0], self._rng.random() < 0.5, self._rng.random() < 0.5
        return Call(
            f"set_cordon {worker} {cordoned} {draining}",
            lambda _: transactions.set_cordon(worker, cordoned=cordoned, draining=draining),
            lambda c: reporting.set_cordon(c, worker, cordoned=cordoned, draining=draining),
        )

    def _read_view(self) -> Call:
        known = self._rng.choice((EMPTY, self._state.known))
        return Call(
            f"read_view {known is EMPTY}",
            lambda _: transactions.read_view(known),
            lambda c: store.read_view(c, known),
        )
