"""The worker's health and the cluster as this worker sees it, for the management port."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Final, NamedTuple

import msgspec

from shard_worker.actors.shard_host import LocalShardHost
from shard_worker.contract import url_host
from shard_worker.contract_internal import (
    NO_CAPABLE_WORKER,
    EncodedOwnership,
    HistoryEntry,
    ReadModelOverview,
    ShardEntry,
    ShardLoad,
    TargetsRequest,
    WorkerEntry,
    WorkerState,
    shard_state,
    worker_state,
)
from shard_worker.database.claim_store import ClaimedByOther
from shard_worker.database.connection import CONNECTION_ERRORS
from shard_worker.domain.ids import ShardId
from shard_worker.gateway.management.backend import DatabaseOfOther, DatabaseUnavailable
from shard_worker.ownership.membership import Ownership
from shard_worker.ownership.reporting import OwnershipChange
from shard_worker.ownership.shard_store import Target
from shard_worker.ownership.view import Load, OwnershipView, ShardRow, WorkerRow
from shard_worker.tasks import FirstFailure

_SETTLE_MOST_S: Final = 10.0
_REFRESH_S: Final = 2.0
"""How long a change that is recorded may take to be seen by this worker; then it is answered all the same."""
_IDLE: Final = Load(0.0, 0.0)


def _nothing() -> None:
    """For a view whose worker cannot leave by itself."""


class SelfReport(NamedTuple):
    """Facts that a worker reports of itself beside the ownership."""

    excess: Sequence[str] = ()
    """Rights of its database login on the journal that no worker needs."""
    secrets: Callable[[], Sequence[str]] = tuple
    """Fingerprints of the secret's values that it holds now."""
    read_model: Callable[[], ReadModelOverview] = ReadModelOverview
    """The read model as it last read it."""


class WorkerView:
    """Implements the gateway's `ClusterView`.

    ``leave`` has the worker begin to leave by itself, as SIGTERM does; it may be called again, and must not wait.
    """

    def __init__(
        self,
        worker: str,
        ownership: Ownership,
        host: LocalShardHost,
        failure: FirstFailure,
        leave: Callable[[], None] = _nothing,
        report: SelfReport = SelfReport(),  # noqa: B008 (it is immutable)
    ) -> None:
        self._report = report
        self._worker = worker
        self._ownership = ownership
        self._host = host
        self._failure = failure
        self._leave = leave
        self._started = time.monotonic()
        self._ready = False
        self._recorded = 0
        """The version of the last plan that was recorded here."""
        self._rows: dict[ShardId, tuple[ShardRow, Load, msgspec.Raw]] = {}

    def fault(self) -> str | None:
        """Why the process should be ended, or None."""
        failure = self._failure.failure
        return None if failure is None else str(failure)

    def ready(self) -> str | None:
        """Why it should get no requests yet, or no more; None when it should.

        Once ready it stays so until it leaves, or another cluster displaces its own from the database: a database fault or
        a recovery never changes it.
        """
        if self._ownership.leaving:
            return "leaving"
        if self._ownership.claimed_by_other is not None:
            return self._ownership.claimed_by_other
        if not self._ready:
            if not self._ownership.registered.is_set():
                return self._ownership.refused or "not registered yet"
            if not self._ownership.settled() and time.monotonic() - self._started < _SETTLE_MOST_S:
                return "the first shards are not served yet"
            self._ready = True
        return None

    def cluster(self) -> dict[str, object]:
        """Workers, shards and the read model, for people and dashboards."""
        view = self._ownership.view
        return {
            "workers": [
                {
                    "name": row.id,
                    "state": _worker_state(row),
                    "incarnation": row.incarnation,
                    "address": f"http://{url_host(row.host)}:{row.public_port}",
                    "readsFormat": row.reads,
                }
                for row in sorted(view.workers.values())
            ],
            "shards": [
                {
                    "id": row.id,
                    "owner": row.owner,
                    "epoch": row.epoch,
                    "state": shard_state(owner=row.owner, target=row.target),
                    "load": _load(view, row),
                    "format": row.format,
                    "reason": _reason(view, row),
                }
                for row in _by_id(view)
            ],
            "readModel": self._report.read_model(),
        }

    async def ownership(self) -> EncodedOwnership:
        """Workers, incarnations, shards, targets and the plan's version, for planners."""
        if self._recorded > self._ownership.view.plan_version:
            await self._refresh()
            self._recorded = 0
        view = self._ownership.view
        return EncodedOwnership(
            answered_by=self._worker,
            plan_version=view.plan_version,
            plan_hash=view.plan_hash,
            workers=tuple(_worker(row) for row in sorted(view.workers.values())),
            shards=tuple(self._shard(view, row) for row in _by_id(view)),
            serving=tuple(sorted(self._host.serving())),
            secrets=tuple(self._report.secrets()),
            excess_privileges=tuple(self._report.excess),
            rebuild=self._report.read_model().rebuild,
            claimed_by_other=self._ownership.claimed_by_other,
        )

    def _shard(self, view: OwnershipView, row: ShardRow) -> msgspec.Raw:
        """One element of `ownership`.  Hardly any changes from one look to the next, and there may be thousands."""
        load = view.loads.get(row.id, _IDLE)
        kept = self._rows.get(row.id)
        if kept is not None and kept[0] is row and kept[1] == load:
            return kept[2]
        entry = ShardEntry(
            id=row.id,
            owner=row.owner,
            incarnation=row.incarnation,
            epoch=row.epoch,
            state=shard_state(owner=row.owner, target=row.target),
            target=row.target,
            reason=row.reason,
            since=None if row.since is None else _instant(row.since),
            load=_load(view, row),
            format=row.format,
            pin=row.pin,
        )
        raw = msgspec.Raw(msgspec.json.encode(entry))
        self._rows[row.id] = row, load, raw
        return raw

    async def shard_count(self) -> int:
        """How many shards the cluster has, also before the first look."""
        if not self._ownership.view.shards:
            await self._refresh()
        if not self._ownership.view.shards:
            raise DatabaseUnavailable("this worker has not read the shards yet")
        return len(self._ownership.view.shards)

    async def set_targets(self, plan: TargetsRequest) -> int | None:
        """Record a plan: its version, or None when another plan came first."""
        wanted = [Target(ShardId(target.shard), target.target, target.reason) for target in plan.targets]
        with _postgres():
            new = await self._ownership.set_targets(plan.plan_version, plan.hash, wanted)
        if new is None:
            await self._refresh()
        else:
            self._recorded = new  # the refresh that the change causes will show it; `ownership` waits for that
        return new

    async def set_pin(self, shard: int, worker: str | None) -> bool:
        """Pin a shard, or with None unpin it; whether it was otherwise before."""
        with _postgres():
            new = await self._ownership.set_pin(ShardId(shard), worker)
        if new is not None:
            self._recorded = new
        return new is not None

    def plan_version(self) -> int:
        """The present plan's version, as far as this worker knows."""
        return self._ownership.view.plan_version

    def worker_names(self) -> list[str]:
        """Every name that a worker has had, as far as this worker knows."""
        return sorted(self._ownership.view.workers)

    async def set_cordon(self, worker: str, *, cordoned: bool, draining: bool) -> bool:
        """Say whether a worker gets more shards and keeps those it has; False for a name that no worker has had."""
        with _postgres():
            found = await self._ownership.set_cordon(worker, cordoned=cordoned, draining=draining)
        await self._refresh()
        return found

    def leave(self) -> int:
        """Begin to leave; how many shards are still this incarnation's in the database, or still here."""
        self._leave()
        incarnation = self._ownership.incarnation
        owned = {row.id for row in self._ownership.view.shards.values() if row.incarnation == incarnation}
        return len(owned | self._host.present())

    async def history(self, limit: int, shard: int | None) -> list[HistoryEntry]:
        """The last changes of owner, newest first."""
        with _postgres():
            changes = await self._ownership.history(limit, None if shard is None else ShardId(shard))
        return [_change(change) for change in changes]

    async def _refresh(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_REFRESH_S):
                await self._ownership.refresh()


@contextmanager
def _postgres() -> Iterator[None]:
    try:
        yield
    except ClaimedByOther as error:
        raise DatabaseOfOther(str(error)) from error
    except CONNECTION_ERRORS as error:
        raise DatabaseUnavailable("Postgres did not answer in time: ask again, which does no harm") from error


def _by_id(view: OwnershipView) -> list[ShardRow]:
    return [view.shards[shard_id] for shard_id in sorted(view.shards)]


def _worker(row: WorkerRow) -> WorkerEntry:
    return WorkerEntry(
        name=row.id,
        incarnation=row.incarnation,
        state=_worker_state(row),
        host=row.host,
        public_port=row.public_port,
        management_port=row.management_port,
        beat=row.beat,
        leaving=row.leaving,
        cordoned=row.cordoned,
        draining=row.draining,
        reads_format=row.reads,
    )


def _load(view: OwnershipView, row: ShardRow) -> ShardLoad:
    """The load that the shard's owner recorded; zero for a shard that was never busy."""
    load = view.loads.get(row.id, _IDLE)
    return ShardLoad(commands_per_second=round(load.commands_s, 2), append_milliseconds=round(load.append_ms, 2))


def _change(change: OwnershipChange) -> HistoryEntry:
    return HistoryEntry(
        at=_instant(change.at),
        shard=change.shard_id,
        epoch=change.epoch,
        source=change.source,
        to=change.worker,
        kind=change.kind,
        reason=change.reason,
        pause_ms=None if change.pause_ms is None else round(change.pause_ms, 1),
    )


def _instant(at: datetime) -> str:
    """In ISO 8601, UTC, to the millisecond."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _worker_state(row: WorkerRow) -> WorkerState:
    return worker_state(fenced=row.fenced, leaving=row.leaving)


def _reason(view: OwnershipView, row: ShardRow) -> str | None:
    """Why a shard has no owner, where the reason does not pass by itself."""
    if row.owner is not None or any(
        worker.reads >= row.format and _worker_state(worker) is WorkerState.READY for worker in view.workers.values()
    ):
        return None
    return NO_CAPABLE_WORKER
