"""The steward of one incarnation: it looks, decides (`decisions`, pure) and acts, on one session, one step at a time.

One session and one step at a time are what keeps it simple: what it sends arrives in the order it was sent.  Only what
takes its time goes on beside it (having a target prepared, draining, waiting until a target serves), so that one slow
shard holds up neither the others nor the view.  After a lost session nothing it had under way is assumed: the next look
says what became of it.

Two steps do not wait for a look, because a shard stands still until they are taken: giving one that is drained, which
the database checks, and serving one that was given.  That needs no question: the gift was committed before it was told
of, only this incarnation itself can have parted with the shard since (or it was fenced, and then its lease is over and
its appends are refused), and the giver knew the head when nothing of its own was on its way any more.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Final, Protocol

import asyncpg

from shard_worker.contract_internal import NO_CAPABLE_WORKER
from shard_worker.database.connection import CONNECTION_ERRORS
from shard_worker.domain.ids import ShardId
from shard_worker.ownership import reporting, store
from shard_worker.ownership.handoff import (
    FailureDetector,
    Handoff,
    HandoffPhase,
    LocalShards,
    OwnershipActions,
    Suspect,
    plan_actions,
    takeover_targets,
    without_capable_worker,
)
from shard_worker.ownership.handoff_metrics import HandoffMetrics
from shard_worker.ownership.lease import Fenced, OpenConnection
from shard_worker.ownership.view import EMPTY, Load, ShardOwner
from shard_worker.ownership.view_cache import ViewCache

log = logging.getLogger(__name__)

STATEMENT_S: Final = 5.0
"""How long any statement of ownership may take; it is more than the session's ``lock_timeout``."""
TOLD_S: Final = 5.0
"""How long a giver waits to hear that its shard is served again; for the record only."""

_LOOK_S: Final = 0.25
_LOOK_AT_SILENCE_S: Final = 0.05
_SILENCE_S: Final = 0.4
_LOOK_WHILE_MOVING_S: Final = 0.05
_LOOKS_APART_S: Final = 0.02
_RECONNECT_S: Final = 0.05
_KEEP_LOAD_S: Final = 2.0
_KEEP_PAUSES_S: Final = 0.5
_IDLE: Final = Load(0.0, 0.0)


class ShardHost(Protocol):
    """Who serves the shards: the shard region."""

    def adopt(self, shard_id: ShardId, epoch: int, head: int) -> None:
        """Serve a shard whose change of owner is acknowledged and whose head was read later; replaces one that is here."""

    async def catch_up(self, connection: asyncpg.Connection, heads: Mapping[ShardId, int]) -> None:
        """Bring what was prepared for these shards up to their heads, if anything was, on the steward's own session."""

    async def prepare(self, shard_id: ShardId, receiver: ShardOwner) -> bool:
        """Have a worker read what it will need of a shard that is served here; False when it is not to be had."""

    async def notify_transferred(self, shard_id: ShardId, receiver: ShardOwner, head: int | None) -> bool:
        """Tell a worker that it owns a shard at ``receiver.epoch``, up to ``head``; True when it says that it serves it."""

    async def drain(self, shard_id: ShardId) -> int | None:
        """Stop admitting, and return the head when nothing is on its way; None when the shard is not here.

        May be cancelled, and may be called again.
        """

    def resume(self, shard_id: ShardId) -> None:
        """Admit again for a shard that was being released."""

    def drop(self, shard_id: ShardId, owner: str | None = None, epoch: int = 0) -> None:
        """Forget a shard at once; what it holds is sent on to its owner, if that is known."""

    def drop_all(self) -> None:
        """Forget every shard at once."""

    def present(self) -> set[ShardId]:
        """The shards that are here, served or on their way out."""

    def serving(self) -> set[ShardId]:
        """Those of them that are here to stay: without those being released."""

    def loads(self) -> dict[ShardId, Load]:
        """How busy the shards that are served here are."""


class OwnershipReconciler:
    """Keeps what ``host`` serves and what the database says in agreement, for one incarnation."""

    def __init__(
        self,
        connect: OpenConnection,
        worker: str,
        incarnation: str,
        *,
        host: ShardHost,
        sight: ViewCache,
        moves: HandoffMetrics,
        leaving: Callable[[], bool],
    ) -> None:
        self._metrics = moves
        self._connect = connect
        self._worker = worker
        self._incarnation = incarnation
        self._host = host
        self._views = sight
        self._leaving = leaving
        self._marked_leaving = False
        self._detector = FailureDetector()
        self._known = EMPTY
        """The last view of this session; the next look reads what has changed since."""
        self._unreadable: list[ShardId] = []
        """The shards without an owner that no live worker can read, as last logged."""
        self._loads_kept: dict[ShardId, Load] = {}
        self._handoffs: dict[ShardId, Handoff] = {}
        self._failed_at: dict[ShardId, float] = {}
        self._drains: dict[ShardId, asyncio.Task[int | None]] = {}
        self._stopped_at: dict[ShardId, float] = {}
        self._asides: set[asyncio.Task[None]] = set()
        self._transferred: dict[ShardId, tuple[int, int]] = {}
        """Epoch and head of what was given to this incarnation and is not served yet."""
        self._used: dict[ShardId, int] = {}
        """The last epoch at which something of ours was, or may have been, sent to the journal, or which we gave up.

        What was given to us and given on, or released, before it was served here must not be served when the telling
        comes after all.
        """
        self._pauses: dict[tuple[ShardId, int], float] = {}
        self._pauses_at = self._load_at = time.monotonic()

    def on_transferred(self, shard_id: ShardId, epoch: int, incarnation: str, head: int | None) -> None:
        """Another worker says that it gave a shard to an incarnation of this one; see `ShardGiven`."""
        if incarnation != self._incarnation or head is None:
            self._views.request_refresh()  # the next look says what is ours
        elif epoch > self._used.get(shard_id, 0):
            self._transferred[shard_id] = epoch, head
            self._views.wake()

    def used(self) -> Mapping[ShardId, int]:
        """The last epoch of each shard at which this incarnation may have sent something to the journal."""
        return self._used

    def raised(self, shard_id: ShardId, epoch: int) -> None:
        """An unknown outcome raised the epoch of a shard that is served here; it will be used from now on."""
        self._used[shard_id] = epoch

    async def run(self, locked: asyncio.Event) -> None:
        """Go on until the incarnation is fenced, which raises `Fenced`.  Begins once the first beat is acknowledged."""
        try:
            await locked.wait()
            while True:
                connection = await self._connect("steward")
                try:
                    await self._serve(connection)
                except CONNECTION_ERRORS as error:
                    log.warning("steward session lost", extra={"worker": self._worker, "cause": repr(error)})
                finally:
                    connection.terminate()
                await asyncio.sleep(_RECONNECT_S)
        finally:
            beside = [*self._drains.values(), *self._asides]
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            self._views.stopped()

    async def _serve(self, connection: asyncpg.Connection) -> None:
        """Look and act on one session."""
        self._detector.restart()
        self._known = EMPTY
        async with asyncio.timeout(STATEMENT_S):
            await connection.add_listener(store.CHANNEL, lambda *_: self._views.request_refresh())
        not_before = next_look = 0.0
        while True:
            await self._adopt_transferred(connection)
            await self._give(connection)
            began = time.monotonic()
            if began >= not_before and (self._views.wanted or began >= next_look):
                pause_s = await self._turn(connection)
                now = time.monotonic()
                not_before, next_look = now + max(_LOOKS_APART_S, now - began), now + pause_s
            await self._report(connection)
            until = not_before if self._views.wanted else max(not_before, next_look)
            await self._views.wait(max(0.0, until - time.monotonic()))

    async def _turn(self, connection: asyncpg.Connection) -> float:
        """Look, decide, act; how long the next look may wait."""
        if self._leaving() and not self._marked_leaving:
            async with asyncio.timeout(STATEMENT_S):
                await store.mark_leaving(connection, self._worker, self._incarnation)
            self._marked_leaving = True
        asked, view = self._views.begin(), None
        try:
            async with asyncio.timeout(STATEMENT_S):
                view = self._known = await store.read_view(connection, self._known)
        finally:
            self._views.end(asked, view)
        now = time.monotonic()
        me = view.workers.get(self._worker)
        if me is None or me.incarnation != self._incarnation or me.fenced:
            raise Fenced(self._incarnation)
        self._detector.note(view, now)
        live = self._detector.live(view, now)
        for suspect in self._detector.suspects(view, self._worker, now):
            await self._fence(connection, suspect, live | {self._worker})
        self._log_unreadable(without_capable_worker(view, live | {self._worker}))
        acted = await self._act(connection, self._decide(live, now))
        self._views.cycle_done()
        if acted or self._handoffs:
            return _LOOK_WHILE_MOVING_S
        quiet = self._detector.quiet_s(view, self._worker, now) > _SILENCE_S
        return _LOOK_AT_SILENCE_S if quiet else _LOOK_S

    def _log_unreadable(self, shards: list[ShardId]) -> None:
        """Log a change of the shards that no live worker can read."""
        if shards == self._unreadable:
            return
        self._unreadable = shards
        if shards:
            log.error(
                "shards not served: no live worker reads the format of their journal; start workers of the release"
                " that wrote it",
                extra={
                    "worker": self._worker,
                    "reason": NO_CAPABLE_WORKER,
                    "count": len(shards),
                    "shard": shards[0],
                    "format": self._known.shards[shards[0]].format,
                },
            )
        else:
            log.info("every shard without an owner is read by a live worker again", extra={"worker": self._worker})

    def _decide(self, live: frozenset[str], now: float) -> OwnershipActions:
        return plan_actions(
            self._views.view,
            worker=self._worker,
            incarnation=self._incarnation,
            held=LocalShards(self._host.present(), self._host.serving(), self._drained()),
            handoffs=self._handoffs,
            failed_s={shard_id: now - at for shard_id, at in self._failed_at.items()},
            unowned_s=self._detector.unowned_s(now),
            live=live,
            leaving=self._leaving(),
            now=now,
        )

    async def _act(self, connection: asyncpg.Connection, steps: OwnershipActions) -> bool:
        """Take the steps; whether anything was changed in the database or is about to be."""
        shards = self._views.view.shards
        for shard_id in steps.drop:
            self._drop(shard_id, shards[shard_id].owner, shards[shard_id].epoch)
        for shard_id in steps.abort:
            self._abandon(shard_id)
        for shard_id, target in steps.prepare:
            self._prepare(shard_id, target)
        for shard_id in steps.drain:
            self._drain(shard_id)
        if steps.release:
            held = {shard_id: shards[shard_id].epoch for shard_id in steps.release}
            self._part_with(held)
            async with asyncio.timeout(STATEMENT_S):
                released = await store.release(connection, self._worker, self._incarnation, held)
            for shard_id in released:
                self._drop(shard_id, None, 0)
        epochs: dict[ShardId, int] = {}
        if steps.adopt:
            named = {shard_id: shards[shard_id].epoch for shard_id in steps.adopt}
            # At an epoch that was never used here nothing of ours can be on its way; any other is raised first.
            epochs = {shard_id: epoch for shard_id, epoch in named.items() if epoch > self._used.get(shard_id, 0)}
            held = {shard_id: epoch for shard_id, epoch in named.items() if shard_id not in epochs}
            if held:
                async with asyncio.timeout(STATEMENT_S):
                    epochs |= await store.raise_epoch(connection, self._incarnation, held)
        if steps.claim:
            async with asyncio.timeout(STATEMENT_S):
                epochs |= await store.claim(connection, self._worker, self._incarnation, steps.claim)
        if epochs:
            async with asyncio.timeout(STATEMENT_S):
                heads = await store.owned_heads(connection, self._incarnation, epochs)
            await self._adopt(connection, epochs, heads)
        return bool(steps.drop or steps.release or epochs)

    async def _fence(self, connection: asyncpg.Connection, suspect: Suspect, live: frozenset[str]) -> None:
        gone = {(suspect.worker, suspect.incarnation)}
        reason = f"{suspect.worker} died"
        async with asyncio.timeout(STATEMENT_S):
            freed = await store.fence(
                connection,
                suspect.worker,
                suspect.incarnation,
                suspect.beat,
                takeover_targets(self._views.view, gone, live),
                reason,
            )
        if freed is not None:
            self._metrics.takeovers += 1
            log.warning(
                "worker fenced",
                extra={"peer": suspect.worker, "incarnation": suspect.incarnation, "shards": len(freed)},
            )
            self._views.request_refresh()

    # --- serving what is ours

    async def _adopt_transferred(self, connection: asyncpg.Connection) -> None:
        """Serve what other workers gave us."""
        # What was adopted from a look while the telling came must not be adopted anew: rows of it may be on their way.
        told = {shard_id: each for shard_id, each in self._transferred.items() if each[0] > self._used.get(shard_id, 0)}
        self._transferred = {}
        await self._adopt(
            connection,
            {shard_id: epoch for shard_id, (epoch, _) in told.items()},
            {shard_id: head for shard_id, (_, head) in told.items()},
        )

    async def _adopt(
        self, connection: asyncpg.Connection, epochs: Mapping[ShardId, int], heads: Mapping[ShardId, int]
    ) -> None:
        if not heads:
            return
        async with asyncio.timeout(STATEMENT_S):
            await self._host.catch_up(connection, heads)
        for shard_id in sorted(heads):
            self._forget_drain(shard_id)
            self._handoffs.pop(shard_id, None)
            self._used[shard_id] = epochs[shard_id]
            self._host.adopt(shard_id, epochs[shard_id], heads[shard_id])
        log.info("shards adopted", extra={"worker": self._worker, "count": len(heads)})
        async with asyncio.timeout(STATEMENT_S):
            await store.record_start_seqs(connection, epochs, heads)

    # --- handing over

    def _prepare(self, shard_id: ShardId, target: str) -> None:
        """Begin a handoff: have the target read what it will need, while the shard is served on."""
        row, worker = self._views.view.shards[shard_id], self._views.view.workers[target]
        handoff = Handoff(target, worker.incarnation, row.epoch, HandoffPhase.PREPARING, time.monotonic())
        self._handoffs[shard_id] = handoff
        receiver = ShardOwner(
            target, worker.incarnation, row.epoch, worker.host, worker.public_port, worker.management_port
        )

        async def prepare() -> None:
            ready = await self._host.prepare(shard_id, receiver)
            self._advance(shard_id, handoff, HandoffPhase.PREPARED if ready else HandoffPhase.FAILED)

        self._aside(prepare(), f"prepare-{shard_id}")

    def _advance(self, shard_id: ShardId, handoff: Handoff, phase: HandoffPhase) -> None:
        """A handoff that was not given up meanwhile enters its next phase."""
        if self._handoffs.get(shard_id) == handoff:
            self._handoffs[shard_id] = handoff._replace(phase=phase, since=time.monotonic())
            if phase is HandoffPhase.DRAINED:
                self._views.wake()
            else:
                self._views.request_refresh()

    async def _give(self, connection: asyncpg.Connection) -> None:
        """Give what is drained to its targets; the database refuses what may not be given any more."""
        view = self._views.view
        # After a fail-over the view is empty until this incarnation ends: nothing of it may be given any more.
        drained = {
            shard_id: each
            for shard_id, each in self._handoffs.items()
            if each.phase is HandoffPhase.DRAINED and shard_id in view.shards and each.worker in view.workers
        }
        if not drained:
            return
        shards = view.shards
        gifts = [
            store.Transfer(shard_id, each.epoch, each.worker, each.incarnation, shards[shard_id].reason)
            for shard_id, each in sorted(drained.items())
        ]
        self._part_with({gift.shard_id: gift.epoch for gift in gifts})
        async with asyncio.timeout(STATEMENT_S):
            given = await store.transfer(connection, self._worker, self._incarnation, gifts)
        for shard_id, handoff in drained.items():
            epoch, head = given.get(shard_id), self._drains[shard_id].result()
            if epoch is None:
                self._handoffs[shard_id] = handoff._replace(phase=HandoffPhase.FAILED)
                self._views.request_refresh()
                continue
            self._metrics.completed += 1
            stopped_at = self._stopped_at.get(shard_id, time.monotonic())
            self._views.apply_hint(shard_id, handoff.worker, epoch)
            self._drop(shard_id, handoff.worker, epoch)
            worker = view.workers[handoff.worker]
            receiver = ShardOwner(
                worker.id, handoff.incarnation, epoch, worker.host, worker.public_port, worker.management_port
            )
            self._aside(self._tell(shard_id, handoff, receiver, head, stopped_at), f"tell-{shard_id}")

    async def _tell(
        self, shard_id: ShardId, handoff: Handoff, receiver: ShardOwner, head: int | None, stopped_at: float
    ) -> None:
        epoch = receiver.epoch
        given_at = time.monotonic()
        if await self._host.notify_transferred(shard_id, receiver, head):
            pause_ms = (time.monotonic() - stopped_at) * 1000
            self._pauses[(shard_id, epoch)] = pause_ms
            self._metrics.paused(pause_ms)
            log.info(
                "shard handed over",
                extra={
                    "shard": shard_id,
                    "epoch": epoch,
                    "target": handoff.worker,
                    "drain_ms": round((handoff.since - stopped_at) * 1000, 1),
                    "give_ms": round((given_at - handoff.since) * 1000, 1),
                    "pause_ms": round(pause_ms, 1),
                },
            )

    def _abandon(self, shard_id: ShardId) -> None:
        """Give a handoff up and serve on."""
        handoff = self._handoffs.pop(shard_id)
        self._metrics.aborted += 1
        self._failed_at[shard_id] = time.monotonic()
        self._forget_drain(shard_id)
        self._host.resume(shard_id)
        log.warning(
            "shard not handed over",
            extra={"shard": shard_id, "target": handoff.worker, "phase": handoff.phase.name.lower()},
        )

    def _part_with(self, held: Mapping[ShardId, int]) -> None:
        """Serve these shards no more at the epochs they are held at."""
        for shard_id, epoch in held.items():
            self._used[shard_id] = max(epoch, self._used.get(shard_id, 0))

    # --- drains

    def _drain(self, shard_id: ShardId) -> None:
        handoff = self._handoffs.get(shard_id)
        if handoff is not None:
            self._handoffs[shard_id] = handoff._replace(phase=HandoffPhase.DRAINING, since=time.monotonic())
        task = self._drains.get(shard_id)
        if task is None:
            self._stopped_at[shard_id] = time.monotonic()
            task = asyncio.create_task(self._host.drain(shard_id), name=f"drain-{shard_id}")
            self._drains[shard_id] = task
            task.add_done_callback(lambda done: self._drain_ended(shard_id, done))
        elif task.done():  # begun when there was no receiver yet
            self._drain_ended(shard_id, task)

    def _drain_ended(self, shard_id: ShardId, done: "asyncio.Task[int | None]") -> None:
        if self._drains.get(shard_id) is not done:
            return
        handoff = self._handoffs.get(shard_id)
        if handoff is not None and handoff.phase is HandoffPhase.DRAINING:
            failed = done.cancelled() or done.exception() is not None
            self._advance(shard_id, handoff, HandoffPhase.FAILED if failed else HandoffPhase.DRAINED)
        self._views.wake()

    def _drained(self) -> set[ShardId]:
        """The shards that have nothing on its way; a drain that failed is begun again."""
        drained = set()
        for shard_id, task in list(self._drains.items()):
            if not task.done():
                continue
            error = None if task.cancelled() else task.exception()
            if error is None and not task.cancelled():
                drained.add(shard_id)
                continue
            del self._drains[shard_id]
            log.error("a shard was not drained", exc_info=error, extra={"shard": shard_id})
        return drained

    def _drop(self, shard_id: ShardId, owner: str | None, epoch: int) -> None:
        self._forget_drain(shard_id)
        self._handoffs.pop(shard_id, None)
        self._host.drop(shard_id, owner, epoch)

    def _forget_drain(self, shard_id: ShardId) -> None:
        self._stopped_at.pop(shard_id, None)
        task = self._drains.pop(shard_id, None)
        if task is not None:
            task.cancel()

    # --- beside it

    def _aside(self, work: Coroutine[object, object, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._asides.add(task)
        task.add_done_callback(self._aside_ended)

    def _aside_ended(self, task: "asyncio.Task[None]") -> None:
        self._asides.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a step of a handoff failed", exc_info=error, extra={"step": task.get_name()})

    async def _report(self, connection: asyncpg.Connection) -> None:
        """Write down, now and then, what nobody waits for."""
        now = time.monotonic()
        if self._pauses and now - self._pauses_at >= _KEEP_PAUSES_S:
            self._pauses_at = now
            pauses, self._pauses = self._pauses, {}
            async with asyncio.timeout(STATEMENT_S):
                await reporting.record_pauses(connection, pauses)
        if now - self._load_at >= _KEEP_LOAD_S:
            self._load_at = now
            loads = {
                shard_id: load
                for shard_id, load in self._host.loads().items()
                if _differs(load, self._loads_kept.get(shard_id, _IDLE))
            }
            async with asyncio.timeout(STATEMENT_S):
                if loads:
                    await reporting.save_loads(connection, loads)
                    self._loads_kept |= loads
                self._known = self._known._replace(loads=await reporting.read_loads(connection))


def _differs(load: Load, kept: Load) -> bool:
    """Whether a shard's load is worth being written again."""
    return abs(load.commands_s - kept.commands_s) > max(0.1, 0.1 * kept.commands_s)
