"""Runs `reconciler_core` on a real session, clock and shard host, for one incarnation.

The core decides, and orders the steps; this module answers its requests one after another.  Steps that take long (prepare,
drain, notify) run in tasks beside the session, so that one slow shard holds up neither the others nor the view.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, NamedTuple, Protocol, assert_never

import asyncpg

from shard_worker.contract_internal import NO_CAPABLE_WORKER
from shard_worker.database.claim import Claimant
from shard_worker.database.connection import CONNECTION_ERRORS, OpenConnection
from shard_worker.domain.ids import ShardId
from shard_worker.ownership import reconciler_requests as requests
from shard_worker.ownership import shard_store, store
from shard_worker.ownership.handoff import Handoff
from shard_worker.ownership.handoff_metrics import HandoffMetrics
from shard_worker.ownership.periodic_reports import PeriodicReports
from shard_worker.ownership.reconciler_core import ReconcilerCore
from shard_worker.ownership.transaction import CHANNEL
from shard_worker.ownership.view import Load, OwnershipView, ShardOwner
from shard_worker.ownership.view_cache import ViewCache
from shard_worker.tasks import BackgroundTasks

log = logging.getLogger(__name__)

STATEMENT_S: Final = 5.0
"""Maximum time of any statement of ownership; more than the session's ``lock_timeout``."""


class ShardHost(Protocol):
    """Serves the shards; see `shard_worker.actors.shard_host`."""

    def adopt(self, shard_id: ShardId, epoch: int, head: int) -> None:
        """Serve a shard whose change of owner is acknowledged and whose head was read later; replaces one that is here."""

    async def catch_up(self, connection: asyncpg.Connection, heads: Mapping[ShardId, int]) -> None:
        """Bring the prepared state of these shards, if there is any, up to their heads, on the reconciler's session."""

    async def prepare(self, shard_id: ShardId, receiver: ShardOwner) -> bool:
        """Have a worker read the state of a shard that is served here; False when the worker does not answer."""

    async def notify_transferred(self, shard_id: ShardId, receiver: ShardOwner, head: int | None) -> bool:
        """Notify a worker that it owns a shard at ``receiver.epoch``, up to ``head``; True once that worker serves it."""

    async def drain(self, shard_id: ShardId) -> int | None:
        """Stop admitting, and return the head when no append is in flight; None when the shard is not in memory.

        May be cancelled, and may be called again.
        """

    def resume(self, shard_id: ShardId) -> None:
        """Admit again for a shard that was being drained."""

    def drop(self, shard_id: ShardId, owner: str | None = None, epoch: int = 0) -> None:
        """Forget a shard at once; its requests are redirected to its owner, if known."""

    def drop_all(self) -> None:
        """Forget every shard at once."""

    def present(self) -> set[ShardId]:
        """The shards in memory, served or being drained."""

    def serving(self) -> set[ShardId]:
        """The shards in memory without those being drained."""

    def loads(self) -> dict[ShardId, Load]:
        """The loads of the shards that are served here."""


class Member(NamedTuple):
    """An incarnation of a worker, and the cluster whose claim on the database it refreshes."""

    worker: str
    incarnation: str
    claimant: Claimant | None = None


class OwnershipReconciler:
    """Keeps the shards that ``host`` serves and the database's owners in agreement, for one incarnation."""

    def __init__(
        self,
        connect: OpenConnection,
        member: Member,
        *,
        host: ShardHost,
        views: ViewCache,
        metrics: HandoffMetrics,
        leaving: Callable[[], bool],
    ) -> None:
        self._worker, self._incarnation, claimant = member
        self._core = ReconcilerCore(self._worker, self._incarnation)
        self._metrics = metrics
        self._connect = connect
        self._host = host
        self._views = views
        self._leaving = leaving
        self._reports = PeriodicReports(host.loads, claimant)
        self._connection: asyncpg.Connection | None = None
        self._drains: dict[ShardId, asyncio.Task[int | None]] = {}
        self._tasks = BackgroundTasks()
        """All tasks that run beside the session, drains that were cancelled included."""

    def on_transferred(self, shard_id: ShardId, epoch: int, incarnation: str, head: int | None) -> None:
        """A peer has transferred a shard to an incarnation of this worker; see `ShardTransferred`."""
        self._core.on_transferred(shard_id, epoch, incarnation, head)
        self._views.wake()

    def used(self) -> Mapping[ShardId, int]:
        """The last epoch of each shard at which this incarnation may have sent an append."""
        return self._core.used()

    def raised(self, shard_id: ShardId, epoch: int) -> None:
        """An unknown outcome raised the epoch of a shard that is served here; appends use it from now on."""
        self._core.raised(shard_id, epoch)

    def forget_view(self) -> None:
        """The database failed over: the last view is of a lost history."""
        self._core.forget_view()

    async def run(self, locked: asyncio.Event) -> None:
        """Run until the incarnation is fenced, which raises `Fenced`.  Begins once the first heartbeat is acknowledged."""
        try:
            await locked.wait()
            await self._drive()
        finally:
            self._close_session()
            self._drains.clear()  # the end of a drain is no longer reported
            try:
                await self._tasks.close()
            finally:
                self._views.stopped()

    async def _drive(self) -> None:
        """Answer the core's requests; a lost session is thrown into the core."""
        steps = self._core.run()
        request = next(steps)
        while True:
            try:
                answer = await self._answer(request)
            except CONNECTION_ERRORS as error:
                log.warning("reconciler lost its session", extra={"worker": self._worker, "cause": repr(error)})
                self._close_session()
                request = steps.throw(requests.SessionLost())
            else:
                request = steps.send(answer)

    async def _answer(self, request: requests.Request) -> object:
        match request:
            case requests.OpenSession():
                self._connection = await self._connect("reconciler")
                async with asyncio.timeout(STATEMENT_S):
                    await self._connection.add_listener(CHANNEL, lambda *_: self._views.request_refresh())
            case requests.Pause():
                self._close_session()
                await asyncio.sleep(request.seconds)
            case requests.Wait():
                async with asyncio.timeout(STATEMENT_S):
                    await self._reports.write_due(self._session())
                until = request.earliest if self._views.wanted else request.latest
                await self._views.wait(max(0.0, until - time.monotonic()))
            case requests.CatchUp():
                async with asyncio.timeout(STATEMENT_S):
                    await self._host.catch_up(self._session(), request.heads)
            case (
                requests.Observe()
                | requests.Adopt()
                | requests.Drop()
                | requests.Resume()
                | requests.StartPrepare()
                | requests.StartDrain()
                | requests.CancelDrain()
                | requests.NotifyTransferred()
                | requests.ReportUnreadable()
                | requests.CycleDone()
            ):
                return self._answer_locally(request)
            case _:
                async with asyncio.timeout(STATEMENT_S):
                    return await self._execute(self._session(), request)
        return None

    def _session(self) -> asyncpg.Connection:
        assert self._connection is not None  # the core opens a session first
        return self._connection

    def _close_session(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    # --- statements

    async def _execute(self, connection: asyncpg.Connection, statement: requests.Statement) -> object:
        worker, incarnation = self._worker, self._incarnation
        match statement:
            case requests.ReadView():
                return await self._read_view(connection, statement.known)
            case requests.Fence():
                return await self._fence(connection, statement)
            case requests.MarkLeaving():
                await store.mark_leaving(connection, worker, incarnation)
            case requests.Claim():
                return await shard_store.claim(connection, worker, incarnation, statement.shard_ids)
            case requests.Release():
                return await shard_store.release(connection, worker, incarnation, statement.epochs)
            case requests.RaiseEpoch():
                return await shard_store.raise_epoch(connection, incarnation, statement.epochs)
            case requests.ReadHeads():
                return await shard_store.owned_heads(connection, incarnation, statement.epochs)
            case requests.RecordStartSeqs():
                await shard_store.record_start_seqs(connection, statement.epochs, statement.heads)
            case requests.TransferShards():
                return await shard_store.transfer(connection, worker, incarnation, statement.transfers)
            case _:
                assert_never(statement)
        return None

    async def _read_view(self, connection: asyncpg.Connection, known: OwnershipView) -> OwnershipView:
        asked, view = self._views.begin(), None
        try:
            view = await store.read_view(connection, known._replace(loads=self._reports.loads))
        finally:
            self._views.end(asked, view)
        # Empty when the database failed over during the read; the core then ends this incarnation.
        return self._views.view

    async def _fence(self, connection: asyncpg.Connection, request: requests.Fence) -> list[ShardId] | None:
        worker, incarnation, beat = request.suspect
        freed = await store.fence(connection, worker, incarnation, beat, request.targets, f"{worker} died")
        if freed is not None:
            self._metrics.takeovers += 1
            extra = {"peer": worker, "incarnation": incarnation, "shards": len(freed)}
            log.warning("worker fenced", extra=extra)
        return freed

    # --- local requests

    def _answer_locally(self, request: requests.Local) -> requests.Observation | None:
        match request:
            case requests.Observe():
                return requests.Observation(
                    time.monotonic(),
                    self._leaving(),
                    self._views.wanted,
                    self._host.present(),
                    self._host.serving(),
                )
            case requests.Adopt():
                for shard_id, head in sorted(request.heads.items()):
                    self._host.adopt(shard_id, request.epochs[shard_id], head)
                log.info("shards adopted", extra={"worker": self._worker, "count": len(request.heads)})
            case requests.Drop():
                self._host.drop(request.shard_id, request.owner, request.epoch)
            case requests.Resume():
                self._resume(request.shard_id, request.handoff)
            case requests.StartPrepare():
                prepare = self._prepare(request.shard_id, request.handoff, request.receiver)
                self._tasks.spawn(prepare, name=f"prepare-{request.shard_id}")
            case requests.StartDrain():
                self._start_drain(request.shard_id)
            case requests.CancelDrain():
                # Removed first: `_drain_ended` reports no drain that is not here.
                self._drains.pop(request.shard_id).cancel()
            case requests.NotifyTransferred():
                self._metrics.completed += 1
                self._views.apply_hint(request.shard_id, request.receiver.worker, request.receiver.epoch)
                self._tasks.spawn(self._notify(request), name=f"notify-{request.shard_id}")
            case requests.ReportUnreadable():
                self._log_unreadable(request)
            case requests.CycleDone():
                self._views.cycle_done()
            case _:
                assert_never(request)
        return None

    def _resume(self, shard_id: ShardId, handoff: Handoff) -> None:
        self._metrics.aborted += 1
        self._host.resume(shard_id)
        log.warning(
            "shard not handed over",
            extra={"shard": shard_id, "target": handoff.worker, "phase": handoff.phase.name.lower()},
        )

    def _log_unreadable(self, request: requests.ReportUnreadable) -> None:
        shards = request.shard_ids
        if not shards:
            log.info("every shard without an owner is read by a live worker again", extra={"worker": self._worker})
            return
        log.error(
            "shards not served: no live worker reads the format of their journal; start workers of the release"
            " that wrote it",
            extra={
                "worker": self._worker,
                "reason": NO_CAPABLE_WORKER,
                "count": len(shards),
                "shard": shards[0],
                "format": self._core.view.shards[shards[0]].format,
            },
        )

    # --- tasks beside the session

    async def _prepare(self, shard_id: ShardId, handoff: Handoff, receiver: ShardOwner) -> None:
        ready = await self._host.prepare(shard_id, receiver)
        self._core.prepare_ended(shard_id, handoff, ready=ready, now=time.monotonic())
        self._views.wake()

    async def _notify(self, request: requests.NotifyTransferred) -> None:
        sent_at, receiver = time.monotonic(), request.receiver
        if not await self._host.notify_transferred(request.shard_id, receiver, request.head):
            return
        pause_ms = (time.monotonic() - request.stopped_at) * 1000
        self._reports.add_pause(request.shard_id, receiver.epoch, pause_ms)
        self._metrics.paused(pause_ms)
        log.info(
            "shard handed over",
            extra={
                "shard": request.shard_id,
                "epoch": receiver.epoch,
                "target": receiver.worker,
                "drain_ms": round((request.drained_at - request.stopped_at) * 1000, 1),
                "give_ms": round((sent_at - request.drained_at) * 1000, 1),
                "pause_ms": round(pause_ms, 1),
            },
        )

    def _start_drain(self, shard_id: ShardId) -> None:
        self._drains[shard_id] = self._tasks.spawn(
            self._host.drain(shard_id), name=f"drain-{shard_id}", on_end=partial(self._drain_ended, shard_id)
        )

    def _drain_ended(self, shard_id: ShardId, task: "asyncio.Task[int | None]") -> None:
        if self._drains.get(shard_id) is not task:  # the core cancelled it
            return
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            del self._drains[shard_id]
            log.error("a shard was not drained", exc_info=error, extra={"shard": shard_id})
        head = task.result() if error is None else None
        self._core.drain_ended(shard_id, head, failed=error is not None, now=time.monotonic())
        self._views.wake()
