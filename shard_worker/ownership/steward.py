"""The steward of one incarnation: it looks, decides (`decisions`, pure) and acts, on one session, one step at a time.

One session and one step at a time are what keeps it simple: what it sends arrives in the order it was sent.  Only the
draining of shards goes on beside it, so that one slow shard holds up neither the others nor the view.  After a lost
session nothing it had under way is assumed: the next look says what became of it.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

import asyncpg

from shard_worker.database.connection import LINK_FAULTS
from shard_worker.domain.ids import ShardId
from shard_worker.ownership import store
from shard_worker.ownership.decisions import Observer, Steps, next_steps
from shard_worker.ownership.lease import Fenced, OpenConnection
from shard_worker.ownership.sight import Sight

log = logging.getLogger(__name__)

STATEMENT_S: Final = 5.0
"""How long any statement of ownership may take; it is more than the session's ``lock_timeout``."""

_LOOK_S: Final = 0.25
_LOOK_AFTER_STEPS_S: Final = 0.02
_RECONNECT_S: Final = 0.05


class ShardHost(Protocol):
    """Who serves the shards: the shard region."""

    def adopt(self, shard_id: ShardId, epoch: int, head: int) -> None:
        """Serve a shard whose claim is acknowledged and whose head was read later; replaces one that is here."""

    async def release(self, shard_id: ShardId) -> None:
        """Stop admitting, and return when nothing is on its way.  May be cancelled, and may be called again."""

    def drop(self, shard_id: ShardId) -> None:
        """Forget a shard at once."""

    def drop_all(self) -> None:
        """Forget every shard at once."""

    def present(self) -> set[ShardId]:
        """The shards that are here, served or on their way out."""

    def serving(self) -> set[ShardId]:
        """Those of them that are here to stay: without those being released."""


class Steward:
    """Keeps what ``host`` serves and what the database says in agreement, for one incarnation."""

    def __init__(
        self,
        connect: OpenConnection,
        worker: str,
        incarnation: str,
        *,
        host: ShardHost,
        sight: Sight,
        leaving: Callable[[], bool],
    ) -> None:
        self._connect = connect
        self._worker = worker
        self._incarnation = incarnation
        self._host = host
        self._sight = sight
        self._leaving = leaving
        self._marked_leaving = False
        self._observer = Observer()
        self._drains: dict[ShardId, asyncio.Task[None]] = {}

    async def run(self, locked: asyncio.Event) -> None:
        """Go on until the incarnation is fenced, which raises `Fenced`.  Begins once the first beat is acknowledged."""
        try:
            await locked.wait()
            while True:
                connection = await self._connect("steward")
                try:
                    self._observer.restart()
                    async with asyncio.timeout(STATEMENT_S):
                        await connection.add_listener(store.CHANNEL, lambda *_: self._sight.ring())
                    while True:
                        acted = await self._turn(connection)
                        await self._sight.rest(_LOOK_AFTER_STEPS_S if acted else _LOOK_S)
                except LINK_FAULTS as error:
                    log.warning("steward session lost", extra={"worker": self._worker, "cause": repr(error)})
                finally:
                    connection.terminate()
                await asyncio.sleep(_RECONNECT_S)
        finally:
            drains = list(self._drains.values())
            for drain in drains:
                drain.cancel()
            await asyncio.gather(*drains, return_exceptions=True)
            self._sight.stopped()

    async def _turn(self, connection: asyncpg.Connection) -> bool:
        """Look, decide, act; whether there was anything to do in the database."""
        if self._leaving() and not self._marked_leaving:
            async with asyncio.timeout(STATEMENT_S):
                await store.mark_leaving(connection, self._worker, self._incarnation)
            self._marked_leaving = True
        asked, view = self._sight.begin(), None
        try:
            async with asyncio.timeout(STATEMENT_S):
                view = await store.look(connection)
        finally:
            self._sight.end(asked, view)
        acted = await self._act(connection, self._decide())
        self._sight.turned()
        return acted

    def _decide(self) -> Steps:
        now = time.monotonic()
        view = self._sight.view
        me = view.workers.get(self._worker)
        if me is None or me.incarnation != self._incarnation or me.fenced:
            raise Fenced(self._incarnation)
        self._observer.note(view, now)
        return next_steps(
            view,
            worker=self._worker,
            incarnation=self._incarnation,
            present=self._host.present(),
            serving=self._host.serving(),
            drained=self._drained(),
            unowned_s=self._observer.unowned_s(now),
            live=self._observer.live(view, now),
            leaving=self._leaving(),
        )

    async def _act(self, connection: asyncpg.Connection, steps: Steps) -> bool:
        for shard_id in steps.drop:
            self._drop(shard_id)
        for shard_id in steps.drain:
            if shard_id not in self._drains:
                self._drain(shard_id)
        shards = self._sight.view.shards
        if steps.release:
            held = {shard_id: shards[shard_id].epoch for shard_id in steps.release}
            async with asyncio.timeout(STATEMENT_S):
                released = await store.release(connection, self._incarnation, held)
            for shard_id in released:
                self._drop(shard_id)
        epochs: dict[ShardId, int] = {}
        if steps.adopt:
            held = {shard_id: shards[shard_id].epoch for shard_id in steps.adopt}
            async with asyncio.timeout(STATEMENT_S):
                epochs |= await store.bump(connection, self._incarnation, held)
        if steps.claim:
            async with asyncio.timeout(STATEMENT_S):
                epochs |= await store.claim(connection, self._worker, self._incarnation, steps.claim)
        if epochs:
            async with asyncio.timeout(STATEMENT_S):
                heads = await store.heads(connection, epochs)
            for shard_id in sorted(heads):
                self._forget_drain(shard_id)
                self._host.adopt(shard_id, epochs[shard_id], heads[shard_id])
            log.info("shards adopted", extra={"worker": self._worker, "count": len(heads)})
        return bool(steps.drop or steps.release or epochs)

    # --- drains

    def _drain(self, shard_id: ShardId) -> None:
        task = asyncio.create_task(self._host.release(shard_id), name=f"drain-{shard_id}")
        self._drains[shard_id] = task
        task.add_done_callback(lambda _: self._sight.ring())

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

    def _drop(self, shard_id: ShardId) -> None:
        self._forget_drain(shard_id)
        self._host.drop(shard_id)

    def _forget_drain(self, shard_id: ShardId) -> None:
        task = self._drains.pop(shard_id, None)
        if task is not None:
            task.cancel()
