"""A worker's membership: incarnations one after another, and in each the shards it claims, serves and gives up.

Two sessions: one only beats (`lease`), the other looks, decides (`decisions`, pure) and acts, so that waiting for a
shard to drain never costs a beat.  When either finds that the incarnation was fenced, all shards are dropped at once
and the process goes on under a new incarnation.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Protocol

import asyncpg
from ulid import ULID

from shard_worker.domain.ids import ShardId
from shard_worker.ownership import store
from shard_worker.ownership.decisions import Steps, next_steps
from shard_worker.ownership.lease import Fenced, Lease, OpenConnection
from shard_worker.ownership.owners import EMPTY, OwnerRecord, View

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.25
_LOOK_AFTER_STEPS_S: Final = 0.02
_SILENT_S: Final = 3.0
"""A worker that did not beat for so long gets nothing by itself, and nothing is released for it."""


class ShardHost(Protocol):
    """Who serves the shards: the shard region."""

    def adopt(self, shard_id: ShardId, epoch: int, head: int) -> None: ...

    async def release(self, shard_id: ShardId) -> None: ...

    def drop(self, shard_id: ShardId) -> None: ...

    def drop_all(self) -> None: ...

    def present(self) -> set[ShardId]: ...

    def serving(self) -> set[ShardId]: ...


class Ownership:
    """The membership of one worker.  `start` it when its ports are bound; `leave` before they are closed."""

    def __init__(
        self, connect: OpenConnection, worker: str, address: store.Address, *, beat_s: float, lease_s: float
    ) -> None:
        self.worker = worker
        self.incarnation = ""
        self.view: View = EMPTY
        self.fencings = 0
        self.leaving = False
        self.registered = asyncio.Event()
        self.lease = Lease(connect, worker, beat_s=beat_s, lease_s=lease_s)
        self._connect = connect
        self._address = address
        self._host: ShardHost | None = None
        self._wake = asyncio.Event()
        self._looked: asyncio.Future[None] | None = None
        self._unowned_since: dict[ShardId, float] = {}
        self._beats: dict[str, tuple[str, int, float]] = {}
        self._task: asyncio.Task[None] | None = None

    # --- what others ask

    def owner_of(self, shard_id: ShardId) -> OwnerRecord | None:
        """Who owns a shard, as of the last look; None while nobody does."""
        row = self.view.shards.get(shard_id)
        if row is None or row.owner is None or row.incarnation is None:
            return None
        worker = self.view.workers.get(row.owner)
        if worker is None:
            return None
        return OwnerRecord(
            row.owner, row.incarnation, row.epoch, worker.host, worker.public_port, worker.management_port
        )

    async def refresh(self) -> None:
        """Look again, and return when that look is done."""
        if self._looked is None:
            self._looked = asyncio.get_running_loop().create_future()
        self._wake.set()
        await asyncio.shield(self._looked)

    def settled(self) -> bool:
        """Whether every shard that targets this worker, and every one that names it, is served here."""
        serving = self._host.serving() if self._host is not None else set()
        return self.view.plan_version > 0 and all(
            row.id in serving
            for row in self.view.shards.values()
            if row.target == self.worker or row.incarnation == self.incarnation
        )

    def fault(self) -> BaseException | None:
        """Why the membership ended though it never should, or None."""
        task = self._task
        return task.exception() if task is not None and task.done() and not task.cancelled() else None

    async def bump_epoch(self, connection: asyncpg.Connection, shard_id: ShardId, epoch: int) -> int | None:
        """Raise the epoch of an own shard after an unknown outcome; see `shard_worker.journal.outcome`."""
        return await store.bump(connection, self.incarnation, shard_id, epoch)

    async def set_targets(self, version: int, plan_hash: str, targets: Sequence[store.Target]) -> int | None:
        """Record a plan made from plan ``version``; its own version, or None when another came first."""
        connection = await self._connect("targets")
        try:
            return await store.set_targets(connection, version, plan_hash, targets)
        finally:
            connection.terminate()

    # --- life

    def start(self, host: ShardHost) -> None:
        """Register, and go on until `leave`."""
        self._host = host
        self._task = asyncio.create_task(self._run(), name="membership")

    async def leave(self) -> None:
        """Give up every shard in order, once what is in flight is durable; safe to cancel at a deadline."""
        self.leaving = True
        self._wake.set()
        while self._task is not None and not self._task.done() and self._owns_something():
            await self.refresh()

    async def close(self) -> None:
        """End the membership; what is still held stays with this incarnation in the database."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self.incarnation = str(ULID())
            await self._register()
            locked = asyncio.Event()
            beating = asyncio.create_task(self.lease.keep(self.incarnation, locked), name="lease")
            stewarding = asyncio.create_task(self._steward(locked), name="steward")
            try:
                await asyncio.wait((beating, stewarding), return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._hosting.drop_all()
                beating.cancel()
                stewarding.cancel()
                ended = await asyncio.gather(beating, stewarding, return_exceptions=True)
            for error in ended:
                if isinstance(error, Exception) and not isinstance(error, Fenced):
                    raise error
            self.fencings += 1
            log.warning("fenced; going on as a new incarnation", extra={"worker": self.worker, "was": self.incarnation})

    async def _register(self) -> None:
        while True:
            connection = await self._connect("register")
            try:
                freed = await store.register(connection, self.worker, self.incarnation, self._address, {"schema": 1})
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("not registered, trying again", extra={"worker": self.worker, "cause": repr(error)})
                await asyncio.sleep(0.1)
                continue
            finally:
                connection.terminate()
            log.info(
                "registered", extra={"worker": self.worker, "incarnation": self.incarnation, "freed_shards": freed}
            )
            return

    async def _steward(self, locked: asyncio.Event) -> None:
        await locked.wait()
        while True:
            connection = await self._connect("steward")
            try:
                await connection.add_listener(store.CHANNEL, lambda *_: self._wake.set())
                if self.leaving:
                    await store.mark_leaving(connection, self.worker, self.incarnation)
                await self._tend(connection)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("steward session lost", extra={"worker": self.worker, "cause": repr(error)})
            finally:
                connection.terminate()
            await asyncio.sleep(0.05)

    async def _tend(self, connection: asyncpg.Connection) -> None:
        marked = self.leaving
        while True:
            if self.leaving and not marked:
                await store.mark_leaving(connection, self.worker, self.incarnation)
                marked = True
            self._wake.clear()
            looked, self._looked = self._looked, None
            try:
                async with asyncio.timeout(5.0):
                    self.view = await store.look(connection)
            finally:
                if looked is not None and not looked.done():
                    looked.set_result(None)
            self.registered.set()
            acted = await self._act(connection, self._decide())
            if self._looked is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_AFTER_STEPS_S if acted else _LOOK_S):
                        await self._wake.wait()

    def _decide(self) -> Steps:
        now = time.monotonic()
        view = self.view
        me = view.workers.get(self.worker)
        if me is None or me.incarnation != self.incarnation or me.fenced:
            raise Fenced(self.incarnation)
        for row in view.shards.values():
            if row.owner is not None:
                self._unowned_since.pop(row.id, None)
            else:
                self._unowned_since.setdefault(row.id, now)
        live = set()
        for worker in view.workers.values():
            seen = self._beats.get(worker.id)
            if seen is None or seen[:2] != (worker.incarnation, worker.beat):
                self._beats[worker.id] = seen = (worker.incarnation, worker.beat, now)
            if not worker.fenced and not worker.leaving and now - seen[2] < _SILENT_S:
                live.add(worker.id)
        return next_steps(
            view,
            worker=self.worker,
            incarnation=self.incarnation,
            present=self._hosting.present(),
            serving=self._hosting.serving(),
            unowned_s={shard_id: now - since for shard_id, since in self._unowned_since.items()},
            live=live,
            leaving=self.leaving,
        )

    async def _act(self, connection: asyncpg.Connection, steps: Steps) -> bool:
        host = self._hosting
        for shard_id in steps.drop:
            host.drop(shard_id)
        if steps.release:
            await asyncio.gather(*[host.release(shard_id) for shard_id in steps.release])
            await store.release(connection, self.incarnation, steps.release)
            for shard_id in steps.release:
                host.drop(shard_id)
        epochs: dict[ShardId, int] = {}
        for shard_id in steps.adopt:
            epoch = await store.bump(connection, self.incarnation, shard_id, self.view.shards[shard_id].epoch)
            if epoch is not None:
                epochs[shard_id] = epoch
        if steps.claim:
            epochs |= await store.claim(connection, self.worker, self.incarnation, steps.claim)
        if epochs:
            for shard_id, head in (await store.heads(connection, epochs)).items():
                host.adopt(shard_id, epochs[shard_id], head)
            log.info("shards adopted", extra={"worker": self.worker, "count": len(epochs)})
        return bool(steps.drop or steps.release or epochs)

    @property
    def _hosting(self) -> ShardHost:
        if self._host is None:
            raise RuntimeError("the membership was not started")
        return self._host

    def _owns_something(self) -> bool:
        return bool(self._hosting.present()) or any(
            row.incarnation == self.incarnation for row in self.view.shards.values()
        )
