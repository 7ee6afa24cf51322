"""The worker's health and the cluster as this worker sees it, for the management port."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from typing import Final

import asyncpg
import msgspec

from shard_worker.actors.shard_host import LocalShardHost
from shard_worker.contract import url_host
from shard_worker.contract_internal import (
    NO_CAPABLE_WORKER,
    EncodedOwnership,
    HistoryEntry,
    InspectedMessage,
    InspectedThread,
    OwnershipDigest,
    ShardEntry,
    ShardLoad,
    TargetsRequest,
    ThreadEvent,
    ThreadResponse,
    ThreadStateResponse,
    WorkerEntry,
    WorkerState,
    ownership_digest,
    shard_hash,
    shard_state,
    worker_hash,
    worker_state,
)
from shard_worker.database.claim_store import ClaimedByOther
from shard_worker.database.connection import CONNECTION_ERRORS
from shard_worker.domain.ids import ShardId, ThreadId, shard_of, ulid_uuid
from shard_worker.domain.thread import Thread
from shard_worker.gateway.management.backend import DatabaseOfOther, DatabaseUnavailable
from shard_worker.health import WorkerHealth
from shard_worker.journal.codec import EVENT_NAMES
from shard_worker.journal.inspector import ThreadInspector
from shard_worker.ownership.membership import Ownership
from shard_worker.ownership.reporting import OwnershipChange
from shard_worker.ownership.shard_store import Target
from shard_worker.ownership.view import Load, OwnershipView, ShardRow, WorkerRow
from shard_worker.tasks import FirstFailure

_SETTLE_MOST_S: Final = 10.0
_REFRESH_S: Final = 2.0
"""How long a change that is recorded may take to be seen by this worker; then it is answered all the same."""
_IDLE: Final = Load(0.0, 0.0)
_NO_LOAD: Final = ShardLoad()
_VERSION: Final = metadata.version("threadcluster")


def _nothing() -> None:
    """For a view whose worker cannot leave by itself."""


class WorkerView:
    """Implements the gateway's `ClusterView`.

    ``leave`` has the worker begin to leave by itself, as SIGTERM does; it may be called again, and must not wait.
    ``health`` has what the worker says of itself, ``inspector`` reads single threads.
    """

    def __init__(
        self,
        worker: str,
        ownership: Ownership,
        host: LocalShardHost,
        failure: FirstFailure,
        leave: Callable[[], None] = _nothing,
        *,
        health: WorkerHealth,
        inspector: ThreadInspector,
    ) -> None:
        self._worker = worker
        self._ownership = ownership
        self._host = host
        self._failure = failure
        self._leave = leave
        self._health = health
        self._inspector = inspector
        self._started = time.monotonic()
        self._ready = False
        self._recorded = 0
        """The version of the last plan that was recorded here."""
        self._rows: dict[ShardId, tuple[ShardRow, Load, msgspec.Raw]] = {}
        self._hashed: dict[ShardId, tuple[ShardRow, int]] = {}
        self._hashed_shards: tuple[dict[ShardId, ShardRow], int, int] = ({}, 0, 0)
        """The shards of the last digest, the sum of their hashes, and that of their epochs."""

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
            "readModel": self._health.read_model(),
        }

    async def ownership(self) -> EncodedOwnership:
        """Workers, incarnations, shards, targets and the plan's version, for planners."""
        if self._recorded > self._ownership.view.plan_version:
            await self._refresh()
            self._recorded = 0
        view = self._ownership.view
        report = self._health.report()
        workers = tuple(_worker(row) for row in sorted(view.workers.values()))
        return EncodedOwnership(
            answered_by=self._worker,
            plan_version=view.plan_version,
            plan_hash=view.plan_hash,
            workers=workers,
            shards=tuple(self._shard(view, row) for row in _by_id(view)),
            serving=tuple(sorted(self._host.serving())),
            secrets=tuple(self._health.secrets()),
            excess_privileges=tuple(self._health.excess),
            rebuild=self._health.read_model().rebuild,
            as_of=report.as_of,
            answered_at=report.answered_at,
            database=report.database,
            health=self._health.counters(),
            digest=self._digest(view, workers),
            claimed_by_other=self._ownership.claimed_by_other,
            version=_VERSION,
        )

    def digest(self) -> OwnershipDigest:
        """Whether a planner that knows workers and shards needs to read them again.  Waits for nothing."""
        view = self._ownership.view
        report = self._health.report()
        workers = [_worker(row) for row in view.workers.values()]
        own = view.workers.get(self._worker)
        return OwnershipDigest(
            answered_by=self._worker,
            plan_version=view.plan_version,
            digest=self._digest(view, workers),
            epochs=self._hashed_shards[2],
            beats=sum(row.beat for row in view.workers.values()),
            member=own is not None and not own.fenced,
            serving=tuple(sorted(self._host.serving())),
            secrets=tuple(self._health.secrets()),
            excess_privileges=tuple(self._health.excess),
            as_of=report.as_of,
            answered_at=report.answered_at,
            database=report.database,
            health=self._health.counters(),
            rebuild=self._health.read_model().rebuild,
            claimed_by_other=self._ownership.claimed_by_other,
        )

    def _digest(self, view: OwnershipView, workers: Iterable[WorkerEntry]) -> str:
        """The digest of a view; empty without shards.  A reading in which no shard changed has the shards of the one before."""
        if not view.shards:
            self._hashed_shards = ({}, 0, 0)
            return ""
        if view.shards is not self._hashed_shards[0]:
            hashes = epochs = 0
            for row in view.shards.values():
                hashes += self._shard_hash(row)
                epochs += row.epoch
            self._hashed_shards = view.shards, hashes, epochs
        return ownership_digest((self._hashed_shards[1], *(worker_hash(each) for each in workers)))

    def _shard_hash(self, row: ShardRow) -> int:
        """The part of one shard in the digest, computed once for each row."""
        kept = self._hashed.get(row.id)
        if kept is not None and kept[0] is row:
            return kept[1]
        found = shard_hash(_entry(row, _NO_LOAD))
        self._hashed[row.id] = row, found
        return found

    def _shard(self, view: OwnershipView, row: ShardRow) -> msgspec.Raw:
        """One element of `ownership`.  Hardly any changes from one look to the next, and there may be thousands."""
        load = view.loads.get(row.id, _IDLE)
        kept = self._rows.get(row.id)
        if kept is not None and kept[0] is row and kept[1] == load:
            return kept[2]
        raw = msgspec.Raw(msgspec.json.encode(_entry(row, _load(view, row))))
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

    async def thread(self, thread_id: ThreadId, before: int | None, limit: int) -> ThreadResponse:
        """A thread's shard and owner, and some of its events."""
        shard_id = shard_of(thread_id, await self.shard_count())
        with _postgres():
            page = await self._inspector.events(shard_id, ulid_uuid(thread_id), before, limit)
        row = self._ownership.view.shards[shard_id]
        return ThreadResponse(
            thread_id=thread_id,
            shard=shard_id,
            state=shard_state(owner=row.owner, target=row.target),
            owner=row.owner,
            incarnation=row.incarnation,
            epoch=row.epoch,
            sequence_nr=page.last,
            events=tuple(map(_event, page.rows)),
            more=bool(page.rows) and page.rows[0]["seq_nr"] > 1,
        )

    async def thread_state(self, thread_id: ThreadId, at: int | None) -> ThreadStateResponse:
        """A thread's state after an event, or now."""
        shard_id = shard_of(thread_id, await self.shard_count())
        with _postgres():
            found = await self._inspector.state_at(shard_id, ulid_uuid(thread_id), at)
        return ThreadStateResponse(
            thread_id=thread_id,
            sequence_nr=found.sequence_nr,
            fault=found.fault,
            state=None if found.state is None else _state(found.state),
        )

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


def _entry(row: ShardRow, load: ShardLoad) -> ShardEntry:
    return ShardEntry(
        id=row.id,
        owner=row.owner,
        incarnation=row.incarnation,
        epoch=row.epoch,
        state=shard_state(owner=row.owner, target=row.target),
        target=row.target,
        reason=row.reason,
        since=None if row.since is None else _instant(row.since),
        load=load,
        format=row.format,
        pin=row.pin,
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


def _event(row: asyncpg.Record) -> ThreadEvent:
    number = row["event_type"]
    return ThreadEvent(
        sequence_nr=row["seq_nr"],
        shard_seq=row["shard_seq"],
        epoch=row["epoch"],
        type=EVENT_NAMES.get(number, f"type {number}"),
        version=row["event_version"],
        written_at=_instant(row["written_at"]),
        key_hash=None if row["key_hash"] is None else row["key_hash"].hex(),
        body_hash=None if row["body_hash"] is None else row["body_hash"].hex(),
        payload=_json(row["payload"]),
        metadata=_json(row["metadata"]),
    )


def _json(stored: bytes) -> msgspec.Raw:
    """Stored JSON as it is; damaged bytes as a text, since an answer must be JSON."""
    try:
        msgspec.json.decode(stored)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.Raw(msgspec.json.encode({"notJson": stored}))
    return msgspec.Raw(stored)


def _state(state: Thread) -> InspectedThread:
    return InspectedThread(
        creator_id=state.creator_id,
        parent_thread_id=state.parent_thread_id,
        title=state.title,
        remarks=state.remarks,
        created_at=state.created_at,
        updated_at=state.updated_at,
        destroyed=state.destroyed,
        administrator_ids=tuple(state.administrators),
        member_ids=tuple(state.members),
        messages=tuple(
            InspectedMessage(
                message_id=message_id,
                sender_id=live.sender_id,
                reply_message_id=live.reply_message_id,
                sequence_nr=live.sequence_nr,
                index=live.index,
                created_at=live.created_at,
            )
            for message_id, live in state.messages.items()
        ),
        removed_message_ids=tuple(state.removed),
    )
