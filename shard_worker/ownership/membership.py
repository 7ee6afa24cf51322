"""A worker's membership: incarnations one after another, and in each the shards it claims, serves and gives up.

Two sessions each: one only beats (`lease`), the other looks and acts (`reconciler`), so that waiting for a lock never
costs a beat.  When either finds that the incarnation was fenced, all shards are dropped at once and the process goes
on under a new incarnation.

A name belongs to the process that registered it last.  A process that lost its name to another process waits for as
long as the other one beats: two processes that took the name from each other in turn would serve no request.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple

import asyncpg
from ulid import ULID

from shard_worker.database.claim import Claimant
from shard_worker.database.claim_store import ClaimedByOther, expect_mine
from shard_worker.database.connection import CONNECTION_ERRORS, OpenConnection
from shard_worker.database.reconnecting import Backoff
from shard_worker.domain.ids import ShardId
from shard_worker.ownership import reporting, shard_store, store
from shard_worker.ownership.failure_detector import Fenced, NameWatch
from shard_worker.ownership.handoff_metrics import HandoffMetrics
from shard_worker.ownership.lease import Lease
from shard_worker.ownership.reconciler import STATEMENT_S, Member, OwnershipReconciler, ShardHost
from shard_worker.ownership.shared_session import SharedSession
from shard_worker.ownership.view import EMPTY, Capabilities, OwnershipView, ShardOwner
from shard_worker.ownership.view_cache import ViewCache
from shard_worker.tasks import BackgroundTasks, OnFailure, cancel_and_wait, log_only

__all__ = ["Ownership", "ShardHost"]

log = logging.getLogger(__name__)

_AWAIT_NAME_S: Final = 0.5
_RETIRE_S: Final = 1.0
_LEASE_OVER_S: Final = 0.2
"""How much longer than its lease a predecessor's shards are left to it: clocks run at slightly different speeds."""
_SAY_AGAIN_S: Final = 10.0


Reached = tuple[str, int]
"""Where another worker's management port is."""
Greet = Callable[[list[Reached]], Awaitable[None]]
"""Exchange with other workers which history of the database is the newest; returns within about a second."""


class Registration(NamedTuple):
    """The facts about itself that a worker registers."""

    capabilities: Capabilities = Capabilities()
    claimant: Claimant | None = None
    """The worker's cluster: a database that is another's is neither written nor planned for.  None: any database will do."""


class FailedOver(Exception):
    """This incarnation ended because the database failed over."""


class Ownership:
    """The membership of one worker.  `start` it when its ports are bound; `leave` before they are closed."""

    def __init__(
        self,
        connect: OpenConnection,
        worker: str,
        address: store.Address,
        *,
        beat_s: float,
        lease_s: float,
        greet: "Greet | None" = None,
        registration: Registration = Registration(),  # noqa: B008 - a value, never changed
    ) -> None:
        self._capabilities, self._claimant = registration
        self.worker = worker
        self.incarnation = ""
        self.fencings = 0
        self.handoffs = HandoffMetrics()
        self.leaving = False
        self.registered = asyncio.Event()
        self.refused: str | None = None
        """Why this worker may not register at present."""
        self.claimed_by_other: str | None = None
        """Why the database is no longer this cluster's; None while it is, as far as is known."""
        self.lease = Lease(connect, worker, beat_s=beat_s, lease_s=lease_s)
        self._connect = connect
        self._greet = greet
        self._session_for_planners = SharedSession(connect, STATEMENT_S)
        self._address = address
        self._host: ShardHost | None = None
        self._past: set[str] = set()
        """Every incarnation that this process has tried to register."""
        self._lived: set[str] = set()
        """The incarnations whose registration was answered: a lease of one of these ended when the incarnation did."""
        self._failed_over = asyncio.Event()
        self._seen_epochs: dict[ShardId, int] = {}
        """The highest epoch of each shard on histories that a fail-over has ended."""
        self._views = ViewCache()
        self._reconciler: OwnershipReconciler | None = None
        self._tasks = BackgroundTasks()
        self._task: asyncio.Task[None] | None = None

    def failed_over(self) -> "list[Reached]":
        """The database failed over: drop at once all that is ordered by epochs, beats or plan versions, and register
        again under a new incarnation.  Every session of before is terminated already.

        Returns the other workers, as they were known until now.
        """
        known = self._others(self.view)
        self.lease.expire()
        seen = self._views.forget()
        if self._reconciler is not None:
            seen |= {shard: max(epoch, seen.get(shard, 0)) for shard, epoch in self._reconciler.used().items()}
            self._reconciler.forget_view()
        for shard_id, epoch in seen.items():
            self._seen_epochs[shard_id] = max(epoch, self._seen_epochs.get(shard_id, 0))
        if self._host is not None:
            self._host.drop_all()
        self._failed_over.set()
        return known

    def _others(self, view: OwnershipView) -> "list[Reached]":
        return [
            (row.host, row.management_port)
            for row in view.workers.values()
            if row.id != self.worker and not row.fenced and row.incarnation
        ]

    # --- what others ask

    @property
    def view(self) -> OwnershipView:
        """All workers and shards, as of the last look."""
        return self._views.view

    @property
    def view_read_at(self) -> float:
        """When the reading of `view` began, by `shard_worker.ownership.lease.boottime`; minus infinity before the first."""
        return self._views.read_at

    def memory_reads_allowed(self) -> bool:
        """Whether no peer can have fenced this incarnation yet; call this in the same turn of the loop as the read."""
        return self.lease.allows_memory_reads()

    def owner_of(self, shard_id: ShardId) -> ShardOwner | None:
        """The last known owner of a shard; None while there is none."""
        return self._views.owner_of(shard_id)

    def apply_hint(self, shard_id: ShardId, worker: str, epoch: int) -> None:
        """Record a peer's hint: the owner of a shard since that epoch."""
        self._views.apply_hint(shard_id, worker, epoch)

    def on_transferred(self, shard_id: ShardId, epoch: int, incarnation: str, head: int | None) -> None:
        """Another worker says that it gave one of our incarnations a shard, which it had drained at ``head``."""
        if self._reconciler is not None:
            self._reconciler.on_transferred(shard_id, epoch, incarnation, head)

    def request_refresh(self) -> None:
        """Ownership seems to be another than is known: have it read again soon."""
        self._views.request_refresh()

    def next_change(self) -> "asyncio.Future[None]":
        """Done when something of ownership is next read or learned; shared, never to be cancelled."""
        return self._views.next_change()

    async def refresh(self) -> None:
        """Look again, and return when that look is done.  While Postgres is away this waits: give it a time-out."""
        await self._views.refresh()

    def deserted(self) -> bool:
        """Whether this worker leaves and no worker remains that could own a shard: a wait for an owner cannot succeed."""
        workers = self.view.workers.values()
        return self.leaving and all(row.fenced or row.leaving for row in workers if row.id != self.worker)

    def settled(self) -> bool:
        """Whether every shard that targets this worker, and every one that names it, is served here."""
        serving = self._host.serving() if self._host is not None else set()
        return self.view.plan_version > 0 and all(
            row.id in serving
            for row in self.view.shards.values()
            if row.target == self.worker or row.incarnation == self.incarnation
        )

    async def raise_epochs(
        self, connection: asyncpg.Connection, incarnation: str, held: Mapping[ShardId, int]
    ) -> dict[ShardId, int]:
        """Raise the epochs of shards after an unknown outcome; see `shard_worker.journal.outcome`."""
        raised = await shard_store.raise_epoch(connection, incarnation, held)
        if incarnation == self.incarnation and self._reconciler is not None:
            for shard_id, epoch in raised.items():
                self._reconciler.raised(shard_id, epoch)
        return raised

    async def set_targets(self, version: int, plan_hash: str, targets: Sequence[shard_store.Target]) -> int | None:
        """Record a plan made from plan ``version``; its own version, or None when another came first.

        Raises `TimeoutError` when Postgres does not answer: whether the plan was recorded is then not known.  This and
        the other changes raise `ClaimedByOther` when the database is another cluster's.
        """
        async with self._session_for_planners.session() as connection:
            await self._expect_mine(connection)
            return await shard_store.set_targets(connection, version, plan_hash, targets)

    async def set_cordon(self, worker: str, *, cordoned: bool, draining: bool) -> bool:
        """Record whether a worker gets more shards, and whether it keeps its own; False for a name no worker has had.

        Raises `TimeoutError` when Postgres does not answer: whether it was recorded is then not known.
        """
        async with self._session_for_planners.session() as connection:
            await self._expect_mine(connection)
            return await reporting.set_cordon(connection, worker, cordoned=cordoned, draining=draining)

    async def set_pin(self, shard_id: ShardId, worker: str | None) -> int | None:
        """Pin a shard, or with None unpin it: the plan's new version, None when it was so already.

        Raises `TimeoutError` when Postgres does not answer: whether it was recorded is then not known.
        """
        async with self._session_for_planners.session() as connection:
            await self._expect_mine(connection)
            return await shard_store.set_pin(connection, shard_id, worker)

    async def _expect_mine(self, connection: asyncpg.Connection) -> None:
        """Not in the transaction of the change: a displacement in between raises the plan's version and fences all."""
        if self._claimant is not None:
            await expect_mine(connection, self._claimant)

    async def history(self, limit: int, shard_id: ShardId | None) -> list[reporting.OwnershipChange]:
        """The last changes of owner, newest first.  Raises `TimeoutError` when Postgres does not answer."""
        async with self._session_for_planners.session() as connection:
            return await reporting.history(connection, limit, shard_id)

    # --- life

    def start(self, host: ShardHost, on_failure: OnFailure = log_only) -> None:
        """Register, and go on until `leave`."""
        if self._task is not None:
            raise RuntimeError("the membership was started before")
        self._host = host
        self._tasks.on_failure = on_failure
        self._task = self._tasks.start(self._run(host), name="membership")

    async def leave(self) -> None:
        """Give up every shard in order, once what is in flight is durable; safe to cancel at a deadline."""
        self.leaving = True
        self._views.request_refresh()
        while self._task is not None and not self._task.done() and self._owns_something():
            await self._views.next_turn()

    async def close(self) -> None:
        """End the membership.  After `leave` the incarnation ends with it, and what it could not give up in time is freed;
        else what is still held stays with it in the database, as after a crash.
        """
        if self._task is None:
            return
        await self._tasks.close()
        self._task = None
        self._views.stopped()  # a membership that was cancelled before its first step did not
        await self.lease.close()
        self._session_for_planners.close()
        if self.leaving and self.incarnation:
            try:
                async with asyncio.timeout(_RETIRE_S):
                    await self._retire()
            except CONNECTION_ERRORS as error:
                log.warning("left without saying so", extra={"worker": self.worker, "cause": repr(error)})

    async def _retire(self) -> None:
        connection = await self._connect("retire")
        try:
            freed = await store.retire(connection, self.worker, self.incarnation)
        finally:
            connection.terminate()
        if freed:
            log.warning("shards freed that were not given up", extra={"worker": self.worker, "count": freed})

    # --- incarnations

    async def _run(self, host: ShardHost) -> None:
        try:
            while True:
                await self._register()
                try:
                    await self._live(host)
                except FailedOver:
                    log.warning(
                        "the incarnation ended with a fail-over", extra={"worker": self.worker, "was": self.incarnation}
                    )
                except Fenced:
                    self.fencings += 1
                    log.warning("fenced", extra={"worker": self.worker, "was": self.incarnation})
        finally:
            self._views.stopped()

    async def _live(self, host: ShardHost) -> None:
        """One incarnation, until it is fenced, which raises `Fenced`, or until a fail-over, which raises `FailedOver`."""
        locked = asyncio.Event()
        reconciler = self._reconciler = OwnershipReconciler(
            self._connect,
            Member(self.worker, self.incarnation, self._claimant),
            host=host,
            views=self._views,
            metrics=self.handoffs,
            leaving=lambda: self.leaving,
        )
        beating = asyncio.create_task(self.lease.keep(self.incarnation, locked), name="lease")
        reconciling = asyncio.create_task(reconciler.run(locked), name="reconciler")
        failing_over = asyncio.create_task(self._failed_over.wait(), name="await-fail-over")
        try:
            await asyncio.wait((beating, reconciling, failing_over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._reconciler = None
            host.drop_all()
            await cancel_and_wait(beating, reconciling, failing_over)
        ended = [task.exception() for task in (beating, reconciling) if not task.cancelled()]
        errors = [error for error in ended if isinstance(error, Exception)]
        if self._failed_over.is_set():  # any other error is a consequence: all was dropped under what was under way
            for error in errors:
                log.info("part ended by a fail-over", extra={"worker": self.worker, "cause": repr(error)})
            raise FailedOver(self.incarnation)
        raise next((error for error in errors if not isinstance(error, Fenced)), Fenced(self.incarnation))

    async def _register(self) -> None:
        """Become a new incarnation, however long Postgres takes."""
        backoff = Backoff()
        while True:
            # A new one at each attempt: one that was registered on a lost history must not come back.
            fresh = str(ULID())
            connection = await self._connect("register")
            self._failed_over.clear()  # a fail-over from here on terminates this session
            try:
                if self.registered.is_set():
                    await self._await_name(connection)
                self.incarnation = fresh
                if self._greet is not None:
                    async with asyncio.timeout(STATEMENT_S):
                        others = self._others(await store.read_view(connection, EMPTY))
                    # One of them may know that this server was superseded: then the session ends, and nothing is done.
                    await self._greet(others)
                self._past.add(fresh)
                freed = await self._succeed(connection, fresh)
            except (store.ReadModelNotFed, ClaimedByOther) as error:
                if self.refused is None:
                    log.error("not registered", extra={"worker": self.worker, "cause": str(error)})
                self.refused = str(error)
                self.claimed_by_other = str(error) if isinstance(error, ClaimedByOther) else None
                await asyncio.sleep(backoff.next_s())
                continue
            except CONNECTION_ERRORS as error:
                log.warning("not registered, trying again", extra={"worker": self.worker, "cause": repr(error)})
                await asyncio.sleep(backoff.next_s())
                continue
            finally:
                connection.terminate()
            self._lived.add(fresh)
            self.refused = self.claimed_by_other = None
            self.registered.set()
            log.info("registered", extra={"worker": self.worker, "incarnation": fresh, "freed_shards": freed})
            return

    async def _succeed(self, connection: asyncpg.Connection, incarnation: str) -> int:
        """Take the name, and what earlier incarnations hold once none of them can serve a read from memory."""
        async with asyncio.timeout(STATEMENT_S):
            before = await store.register(
                connection, self.worker, incarnation, self._address, self._capabilities._asdict(), self._claimant
            )
            # The leases of every worker, on either history: a worker on the old one cannot learn that its shards are free.
            wait_s = await store.old_leases_s(connection, self.lease.lease_s + _LEASE_OVER_S)
        # After a lost answer `before` is of this process and never had a lease, but its predecessor may still have one.
        if before is not None and before not in self._lived:
            wait_s = self.lease.lease_s + _LEASE_OVER_S
        await asyncio.sleep(wait_s)
        async with asyncio.timeout(STATEMENT_S):
            if self._seen_epochs:
                await shard_store.raise_past(connection, self._seen_epochs)
            return await store.free_predecessors(connection, self.worker, incarnation)

    async def _await_name(self, connection: asyncpg.Connection) -> None:
        """Return once no other process lives under our name; meanwhile the view is kept, so that we can still forward."""
        watch, logged_at = NameWatch(self.worker), 0.0
        while True:
            async with asyncio.timeout(STATEMENT_S):
                # The name of another cluster's worker that displaced this one would never become free.
                await self._expect_mine(connection)
            asked, view = self._views.begin(), None
            try:
                async with asyncio.timeout(STATEMENT_S):
                    view = await store.read_view(connection, EMPTY)
            finally:
                self._views.end(asked, view)
                self._views.cycle_done()
            now = time.monotonic()
            if watch.is_free(view, self._past | {self.incarnation}, now):
                return
            if now - logged_at > _SAY_AGAIN_S:
                log.error(
                    "another process has taken this worker's name; waiting for it to end",
                    extra={"worker": self.worker, "incarnation": view.workers[self.worker].incarnation},
                )
                logged_at = now
            await self._views.wait(_AWAIT_NAME_S)

    def _owns_something(self) -> bool:
        present = self._host.present() if self._host is not None else set()
        return bool(present) or any(row.incarnation == self.incarnation for row in self.view.shards.values())
