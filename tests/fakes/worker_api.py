"""The workers of one cluster in memory: they answer as `/internal/v1` does (docs/internal-api.md), without a process.

`MemoryWorkers` has the methods of `threadcluster_operator.workers.client.WorkerApiClient`, so that a reconciler can use both.  Time is
turns: nothing happens by itself, `turn` lets every worker do what is next, as a property's test wants it; `run` takes a
turn every few milliseconds, beside a fake kubelet whose pods these workers live in.  Knobs make it answer as a cluster in
trouble does.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import msgspec
from threadcluster_operator.workers.client import NoWorkerAvailable, SecretMismatch, WorkerRefused
from threadcluster_operator.workers.protocol import PolledWorkers, WorkersClient

from shard_worker.contract_internal import (
    PLAN_STALE,
    CordonVerb,
    DatabaseReport,
    DatabaseState,
    HistoryEntry,
    OwnershipDigest,
    OwnershipResponse,
    ShardEntry,
    ShardLoad,
    TargetsRequest,
    ThreadResponse,
    ThreadStateResponse,
    WorkerEntry,
    ownership_digest,
    shard_hash,
    shard_state,
    worker_hash,
    worker_state,
)
from shard_worker.domain.ids import ShardId, ThreadId
from shard_worker.ownership.assignment import Candidate, assign_shards

_SHARD_HASH: Final = lru_cache(maxsize=1 << 16)(shard_hash)
_WORKER_HASH: Final = lru_cache(maxsize=1 << 16)(worker_hash)
"""Hundreds of clusters of a test live beside the operator that it measures."""
_INSTANT: Final = "2026-05-01T12:00:00.000Z"
"""Of everything: a test in turns has no clock."""


@dataclass(slots=True, kw_only=True)
class _Worker:
    name: str
    incarnation: str
    host: str
    beat: int = 0
    alive: bool = True
    """Its process runs."""
    fenced: bool = False
    leaving: bool = False
    cordoned: bool = False
    draining: bool = False
    silent_for: int = 0
    """Turns since its process died."""


@dataclass(slots=True, kw_only=True)
class _Shard:
    owner: str | None = None
    incarnation: str | None = None
    epoch: int = 0
    target: str | None = None
    reason: str | None = None
    pin: str | None = None
    under_way: int = 0
    """Turns since its target became another live worker."""
    load: float = 0.0


@dataclass(kw_only=True)
class Knobs:
    """How the cluster behaves; all may be turned at any time."""

    move_turns: int = 2
    """How many turns a handoff takes."""
    handoffs_at_a_time: int = 4
    """Of one worker that leaves."""
    takeover_turns: int = 3
    """How many turns after its death a worker is fenced."""
    silent: bool = False
    """No worker answers."""
    outage: DatabaseReport | None = None
    """The workers answer from memory, and report this of their database."""
    mismatched: bool = False
    """No worker answers, because each has another secret."""
    secrets: tuple[str, ...] = ()
    """Fingerprints of the secret's values that every worker holds."""
    distort: Callable[[OwnershipResponse], OwnershipResponse] = field(default=lambda answer: answer)
    """Changes an answer on its way: for answers that contradict each other, or Kubernetes."""


class MemoryWorkers(WorkersClient, PolledWorkers):
    """All workers of one cluster, and their client."""

    def __init__(self, shards: int, *, knobs: Knobs | None = None, remembers: int = 1_000) -> None:
        """``remembers``: the number of changes of owner, and of calls, that are kept."""
        self.knobs = knobs or Knobs()
        self.plan_version = 0
        self.calls: deque[tuple[str, object]] = deque(maxlen=remembers)
        """The requests that change something, oldest first."""
        self._plan_hash = ""
        self._shards = {ShardId(number): _Shard() for number in range(shards)}
        self._entries: dict[ShardId, tuple[object, ShardEntry]] = {}
        """By shard, the state that its last entry shows, and the entry."""
        self._workers: dict[str, _Worker] = {}
        self._changes: deque[HistoryEntry] = deque(maxlen=remembers)
        self._incarnations = itertools.count(1)

    # --- as `WorkerApiClient`

    async def ownership(self) -> OwnershipResponse:
        """The answer of one worker.  Raises `NoWorkerAvailable`."""
        return self.knobs.distort(self._answer(self._any_live()))

    async def answers(self) -> dict[str, OwnershipResponse]:
        """The answer of each live worker."""
        live = {} if self.knobs.silent or self.knobs.mismatched else self._live()
        return {name: self.knobs.distort(self._answer(live[name])) for name in sorted(live)}

    def mismatched(self) -> bool:
        """Whether they have another secret."""
        return self.knobs.mismatched

    async def probe(self, worker: str) -> OwnershipDigest | OwnershipResponse | None:
        """The digest of one worker; None when it does not answer."""
        answer = await self.ownership_of(worker)
        if answer is None:
            return None
        own = answer.worker(worker)
        return OwnershipDigest(
            answered_by=answer.answered_by,
            plan_version=answer.plan_version,
            epochs=sum(shard.epoch for shard in answer.shards),
            beats=sum(each.beat for each in answer.workers),
            digest=answer.digest,
            member=own is not None and own.state != "fenced",
            serving=answer.serving,
            secrets=answer.secrets,
            database=answer.database,
            claimed_by_other=answer.claimed_by_other,
            rebuild=answer.rebuild,
            health=answer.health,
        )

    async def ownership_of(self, worker: str) -> OwnershipResponse | None:
        """The answer of one worker; None when it does not answer."""
        live = self._live().get(worker)
        if live is None or self.knobs.silent:
            return None
        if self.knobs.mismatched:
            raise SecretMismatch(f"{worker} shows a certificate of another secret")
        if self.knobs.outage is None:  # a beat in each answer: a test in turns has no clock
            live.beat += 1
        answer = self.knobs.distort(self._answer(live))
        return msgspec.structs.replace(answer, digest=_digest(answer))

    async def set_targets(self, plan: TargetsRequest) -> int:
        """Record a plan; its version.  Raises as the real one does."""
        self._any_live()
        if plan.plan_version != self.plan_version:
            raise WorkerRefused(
                PLAN_STALE, f"plan {plan.plan_version} is older than plan {self.plan_version}, which is in force"
            )
        shards = [ShardId(target.shard) for target in plan.targets]
        if set(shards) - self._shards.keys() or len(set(shards)) != len(shards):
            raise WorkerRefused("validation-failed", f"targets: of {shards}, one does not exist or is given twice")
        self.calls.append(("targets", plan.targets))
        for target in plan.targets:
            self._aim(ShardId(target.shard), target.target, target.reason)
        self._plan_hash = plan.hash
        self.plan_version += 1
        return self.plan_version

    async def cordon(self, worker: str, verb: CordonVerb) -> None:
        """Cordon, uncordon or drain a worker.  Raises as the real one does."""
        self._any_live()
        if worker not in self._workers:
            raise WorkerRefused("worker-not-found", f"no worker {worker}; there are {', '.join(sorted(self._workers))}")
        self.calls.append((verb, worker))
        self._workers[worker].cordoned = verb.cordoned
        self._workers[worker].draining = verb.draining

    async def pin(self, shard: int, worker: str | None) -> bool:
        """Pin a shard, or unpin it.  Raises as the real one does."""
        self._any_live()
        if shard not in self._shards:
            raise WorkerRefused("validation-failed", f"shard: there is no shard {shard}")
        self.calls.append(("pin", (shard, worker)))
        changed = self._shards[ShardId(shard)].pin != worker
        self._shards[ShardId(shard)].pin = worker
        self.plan_version += 1
        return changed

    async def history(self, limit: int, shard: int | None) -> tuple[HistoryEntry, ...]:
        """The last changes of owner, newest first.  Raises as the real one does."""
        self._any_live()
        if shard is not None and shard not in self._shards:
            raise WorkerRefused("validation-failed", f"shard: {shard} does not exist")
        changes = [change for change in self._changes if shard in (None, change.shard)]
        return tuple(changes[:limit])

    async def thread(self, thread_id: str, before: int | None) -> ThreadResponse:
        """A thread that was never created, on the first shard; the workers keep no threads."""
        self._any_live()
        shard = self._shards[ShardId(0)]
        return ThreadResponse(
            thread_id=ThreadId(thread_id),
            shard=ShardId(0),
            state=shard_state(owner=shard.owner, target=shard.target),
            owner=shard.owner,
            incarnation=shard.incarnation,
            epoch=shard.epoch,
            sequence_nr=0,
            events=(),
            more=False,
        )

    async def thread_state(self, thread_id: str, at: int | None) -> ThreadStateResponse:
        """The state of a thread that was never created."""
        self._any_live()
        return ThreadStateResponse(thread_id=ThreadId(thread_id), sequence_nr=0, fault=None, state=None)

    # --- what happens to them

    def start(self, name: str, host: str = "10.200.0.1") -> None:
        """A worker's process starts, for the first time or again."""
        old = self._workers.get(name)
        incarnation = f"01INCARNATION{next(self._incarnations):013d}"
        if old is not None:
            self._free(old, "restart", f"{name} was restarted")
        self._workers[name] = _Worker(name=name, incarnation=incarnation, host=host)
        if old is not None:  # both belong to the name
            self._workers[name].cordoned, self._workers[name].draining = old.cordoned, old.draining

    def die(self, name: str) -> None:
        """Its process is gone, without a word; its peers notice some turns later."""
        self._workers[name].alive = False

    def leave(self, name: str) -> None:
        """It begins to hand its shards over, as at SIGTERM."""
        self._workers[name].leaving = True

    def end(self, name: str) -> None:
        """It ends in order: what it still owns is free at once."""
        worker = self._workers[name]
        worker.alive, worker.fenced = False, True
        self._free(worker, "release", f"{name} has left")

    def owned_by(self, name: str) -> list[ShardId]:
        """The shards that a worker owns."""
        return [shard_id for shard_id, shard in self._shards.items() if shard.owner == name]

    def load(self, shard: ShardId, commands_per_second: float) -> None:
        """How busy a shard is."""
        self._shards[shard].load = commands_per_second

    @property
    def settled(self) -> bool:
        """Every shard is where its target is, and every dead worker has been fenced."""
        there = all(shard.owner is not None and shard.target in (None, shard.owner) for shard in self._shards.values())
        return there and all(worker.alive or worker.fenced for worker in self._workers.values())

    def turn(self) -> None:
        """Every worker does what is next: beat, fence the dead, claim, hand over."""
        for worker in self._workers.values():
            if worker.alive:
                worker.beat += 1
            elif not worker.fenced:
                worker.silent_for += 1
        live = self._live()
        if not live:
            return
        for worker in [each for each in self._workers.values() if not each.alive and not each.fenced]:
            if worker.silent_for >= self.knobs.takeover_turns:
                worker.fenced = True
                self._free(worker, "takeover", f"{worker.name} fell silent")
        self._aim_what_leaves()
        for shard_id, shard in self._shards.items():
            receiver = live.get(shard.target or "")
            if shard.owner is None:
                self._claim(shard_id, receiver)
            elif receiver is None or receiver.name == shard.owner or not self._workers[shard.owner].alive:
                shard.under_way = 0
            else:
                shard.under_way += 1
                if shard.under_way > self.knobs.move_turns:
                    self._change(shard_id, receiver, "handoff", shard.reason or "")

    async def run(self, every_s: float = 0.05) -> None:
        """Take turns without end."""
        while True:
            self.turn()
            await asyncio.sleep(every_s)

    # --- within

    def _live(self) -> dict[str, _Worker]:
        return {worker.name: worker for worker in self._workers.values() if worker.alive and not worker.fenced}

    def _any_live(self) -> _Worker:
        live = self._live()
        if self.knobs.silent or not live:
            raise NoWorkerAvailable("no worker answers")
        return live[min(live)]

    def _aim(self, shard_id: ShardId, target: str | None, reason: str) -> None:
        shard = self._shards[shard_id]
        shard.target, shard.reason, shard.under_way = target, reason, 0

    def _share(self) -> dict[ShardId, str | None]:
        owners = {shard_id: shard.owner for shard_id, shard in self._shards.items()}
        return assign_shards(
            owners,
            [Candidate(each.name, each.leaving, each.cordoned or each.draining) for each in self._live().values()],
        )

    def _free(self, worker: _Worker, kind: str, reason: str) -> None:
        """Its shards have no owner any more, and a target by the workers' own rule."""
        freed = self.owned_by(worker.name)
        for shard_id in freed:
            self._change(shard_id, None, kind, reason)
        if freed and self._live():
            targets = self._share()
            for shard_id in freed:
                self._aim(shard_id, targets[shard_id], reason)
            self.plan_version += 1

    def _claim(self, shard_id: ShardId, receiver: _Worker | None) -> None:
        """A shard without an owner goes to its target; without a target, by the workers' own rule."""
        if receiver is None:
            name = self._share()[shard_id]
            receiver = self._live().get(name or "")
        if receiver is not None:
            self._change(shard_id, receiver, "claim", "no owner")

    def _aim_what_leaves(self) -> None:
        """A worker that leaves finds receivers by itself, a few shards at a time."""
        for worker in self._live().values():
            if not worker.leaving:
                continue
            live = self._live()
            owned = self.owned_by(worker.name)
            if all(each.leaving for each in live.values()):
                self._free(worker, "release", "no worker is there to receive it")
                continue
            still = [each for each in owned if self._shards[each].target in (None, worker.name)]
            under_way = len(owned) - len(still)
            targets = self._share()
            for shard_id in still[: max(0, self.knobs.handoffs_at_a_time - under_way)]:
                if targets[shard_id] in live:
                    self._aim(shard_id, targets[shard_id], f"{worker.name} is leaving")
                    self.plan_version += 1

    def _change(self, shard_id: ShardId, receiver: _Worker | None, kind: str, reason: str) -> None:
        shard = self._shards[shard_id]
        shard.epoch += 1
        change = HistoryEntry(
            at=_INSTANT,
            shard=shard_id,
            epoch=shard.epoch,
            source=shard.owner,
            to=receiver.name if receiver else None,
            kind=kind,
            reason=reason,
            pause_ms=4.2 if kind == "handoff" else None,
        )
        self._changes.appendleft(change)
        shard.owner = receiver.name if receiver else None
        shard.incarnation = receiver.incarnation if receiver else None
        shard.under_way = 0

    def _answer(self, by: _Worker) -> OwnershipResponse:
        workers = tuple(self._worker_entry(self._workers[name]) for name in sorted(self._workers))
        shards = tuple(self._shard_entry(shard_id, shard) for shard_id, shard in self._shards.items())
        return OwnershipResponse(
            answered_by=by.name,
            plan_version=self.plan_version,
            plan_hash=self._plan_hash,
            workers=workers,
            shards=shards,
            serving=tuple(self.owned_by(by.name)),
            database=self.knobs.outage or DatabaseReport(state=DatabaseState.CONNECTED, since=_INSTANT),
            secrets=self.knobs.secrets,
        )

    def _worker_entry(self, worker: _Worker) -> WorkerEntry:
        return WorkerEntry(
            name=worker.name,
            incarnation=worker.incarnation,
            state=worker_state(fenced=worker.fenced, leaving=worker.leaving),
            host=worker.host,
            public_port=8080,
            management_port=8081,
            beat=worker.beat,
            leaving=worker.leaving,
            cordoned=worker.cordoned,
            draining=worker.draining,
        )

    def _shard_entry(self, shard_id: ShardId, shard: _Shard) -> ShardEntry:
        """The same object for as long as nothing of the shard changes: hundreds of clusters are asked all the time."""
        state = (shard.owner, shard.incarnation, shard.epoch, shard.target, shard.reason, shard.pin, shard.load)
        known = self._entries.get(shard_id)
        if known is not None and known[0] == state:
            return known[1]
        entry = ShardEntry(
            id=shard_id,
            owner=shard.owner,
            incarnation=shard.incarnation,
            epoch=shard.epoch,
            state=shard_state(owner=shard.owner, target=shard.target),
            target=shard.target,
            reason=shard.reason,
            since=_INSTANT,
            pin=shard.pin,
            load=ShardLoad(commands_per_second=shard.load, append_milliseconds=1.5),
        )
        self._entries[shard_id] = state, entry
        return entry


def _digest(answer: OwnershipResponse) -> str:
    workers = [_WORKER_HASH(msgspec.structs.replace(entry, beat=0)) for entry in answer.workers]
    return ownership_digest([*workers, *map(_SHARD_HASH, answer.shards)])
