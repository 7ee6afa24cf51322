"""Host of the shards: adopts, prepares, drains and drops them for ownership, and turns the one timer that serves them all."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg

from shard_worker.actors.context import SNAPSHOT_ALLOWANCE, ActorContext
from shard_worker.actors.passivation import LruPassivation
from shard_worker.actors.prewarm import PrewarmCache
from shard_worker.actors.region import Peers, ShardRegion
from shard_worker.actors.shard import Shard, ShardState
from shard_worker.actors.shard_table import ShardTable
from shard_worker.actors.thread_actor import ThreadActor
from shard_worker.contract import Ack, PrepareShard, ShardTransferred
from shard_worker.domain.ids import ShardId, ThreadId
from shard_worker.journal.appender import Appender
from shard_worker.ownership.view import Load, ShardOwner
from shard_worker.peers.errors import PeerOverloaded, PeerUnreachable
from shard_worker.tasks import OnFailure, log_only

log = logging.getLogger(__name__)

_SWEEP_S: Final = 0.1
_MEASURE_S: Final = 1.0
_WARM_MOST: Final = 500
"""Threads of one shard that are read before it moves."""
_PREPARE_S: Final = 1.8
_TELL_S: Final = 4.0


class LocalShardHost:
    """Implements ownership's `ShardHost`."""

    def __init__(
        self,
        *,
        env: ActorContext,
        appender: Appender,
        residents: LruPassivation[ThreadActor],
        table: ShardTable,
        region: ShardRegion,
        peers: Peers,
    ) -> None:
        self._env = env
        self._appender = appender
        self._residents = residents
        self._shards = table.shards
        self._table = table
        self._region = region
        self._peers = peers
        self._warmth = PrewarmCache(env)
        self._arrivals: dict[ShardId, asyncio.Future[None]] = {}
        self._loop = asyncio.get_running_loop()
        self._measured_at = self._loop.time()

    # --- adopting

    def adopt(self, shard_id: ShardId, epoch: int, head: int) -> None:
        """Serve a shard whose change of owner is acknowledged and whose head was read in a later statement."""
        old = self._shards.pop(shard_id, None)
        if old is not None:
            old.close()  # before the new queue opens: two queues of one shard would number rows independently
        shard = Shard(
            shard_id,
            epoch,
            head,
            env=self._env,
            appender=self._appender,
            residents=self._residents,
            on_lost=self._lost,
        )
        self._shards[shard_id] = shard
        self._env.projection.open_shard(shard_id, head)
        # Before the waiting requests are admitted, which would load the same threads again.
        shard.preload(self._warmth.take(shard_id, head))
        arrival = self._arrivals.pop(shard_id, None)
        if arrival is not None:
            arrival.set_result(None)
        self._region.admit_waiting(shard_id)

    async def catch_up(self, connection: asyncpg.Connection, heads: Mapping[ShardId, int]) -> None:
        """Bring the prewarmed threads of these shards up to their heads."""
        await self._warmth.catch_up(connection, heads)

    async def prewarm(self, shard_id: ShardId, thread_ids: Sequence[ThreadId], budget_s: float) -> bool:
        """Load threads of a shard that is to be transferred to this worker; False when the journal does not answer."""
        return await self._warmth.prepare(shard_id, thread_ids, budget_s)

    async def served(self, shard_id: ShardId, epoch: int, deadline: float) -> bool:
        """Wait until a shard is served at ``epoch`` or a later one; False when ``deadline`` (loop time) comes before."""
        while (left := deadline - self._loop.time()) > 0:
            shard = self._shards.get(shard_id)
            if shard is not None and shard.epoch >= epoch:
                return True
            arrival = self._arrivals.get(shard_id)
            # No await since the look-up in `shards`: `adopt` cannot have run in between.
            if arrival is None:
                arrival = self._arrivals[shard_id] = self._loop.create_future()
            # `wait` does not cancel the future at the time-out: repeated notifications share it.
            await asyncio.wait((arrival,), timeout=left)
        return False

    # --- handing over

    async def prepare(self, shard_id: ShardId, receiver: ShardOwner) -> bool:
        """Have the next owner load the hot threads of a shard that is served here; False when the worker does not answer."""
        shard = self._shards.get(shard_id)
        if shard is None:
            return False
        hot = shard.hot_threads(self._residents.now(), _WARM_MOST)
        return await self._ready(receiver, PrepareShard(shard_id, hot), _PREPARE_S)

    async def notify_transferred(self, shard_id: ShardId, receiver: ShardOwner, head: int | None) -> bool:
        """Notify a worker that it owns a shard at ``receiver.epoch``, up to ``head``; True when the worker serves the shard."""
        return await self._ready(
            receiver, ShardTransferred(shard_id, receiver.epoch, receiver.incarnation, head), _TELL_S
        )

    async def _ready(self, receiver: ShardOwner, request: PrepareShard | ShardTransferred, budget_s: float) -> bool:
        try:
            answer = await self._peers.ask(
                (receiver.host, receiver.management_port),
                request,
                incarnation=receiver.incarnation,
                budget_s=budget_s,
                shard_id=request.shard_id,
                epoch=receiver.epoch,
                hops=1,
            )
        except (PeerOverloaded, PeerUnreachable) as error:
            # Safe in both phases: a handoff without a prepared target fails before it transfers anything, and an owner
            # that missed its notification reads the database by itself.
            log.warning(
                "receiver of a shard did not answer",
                extra={"shard": request.shard_id, "peer": receiver.worker, "cause": repr(error)},
            )
            return False
        return isinstance(answer, Ack) and answer.ready

    async def drain(self, shard_id: ShardId) -> int | None:
        """Stop admitting for a shard and return its head when nothing of it is on its way to the journal.

        The shard stays here, holding new requests, until `drop` or `resume`: the shard's requests are forwarded only
        when another worker may own the shard.
        """
        shard = self._shards.get(shard_id)
        return None if shard is None else await shard.drain()

    def resume(self, shard_id: ShardId) -> None:
        """Admit again for a shard that was being released."""
        shard = self._shards.get(shard_id)
        if shard is not None:
            shard.resume()

    def drop(self, shard_id: ShardId, owner: str | None = None, epoch: int = 0) -> None:
        """Forget a shard, at once; its requests are redirected to its owner, if that is known."""
        # Removed before it is closed: the redirected requests must not find the shard here again.
        shard = self._shards.pop(shard_id, None)
        if shard is not None:
            self._env.projection.close_shard(shard_id)
            shard.close(owner, epoch)

    def drop_all(self) -> None:
        """Forget every shard, at once: this incarnation was fenced."""
        for shard_id in list(self._shards):
            self.drop(shard_id)
        self._warmth.forget_all()

    # --- what is here

    def present(self) -> set[ShardId]:
        """The shards that are here, served or on their way out."""
        return set(self._shards)

    def serving(self) -> set[ShardId]:
        """The shards that are here to stay; one whose append is being decided counts, one being released does not."""
        return {shard_id for shard_id, shard in self._shards.items() if shard.state is not ShardState.RELEASING}

    def loads(self) -> dict[ShardId, Load]:
        """How busy the shards that are served here are."""
        return {shard_id: shard.measured for shard_id, shard in self._shards.items()}

    def pending_bytes(self) -> int:
        """Bytes of all waiting requests and of the events on their way, about."""
        return self._env.pending_bytes

    def _lost(self, shard: Shard) -> None:
        if self._shards.get(shard.shard_id) is shard:  # else the shard was adopted again since
            log.warning("worker lost a shard", extra={"shard": shard.shard_id, "epoch": shard.epoch})
            del self._shards[shard.shard_id]
            self._env.projection.close_shard(shard.shard_id)

    # --- the clock

    def start(self, on_failure: OnFailure = log_only) -> None:
        """Start the one timer that serves all asks and all residents."""
        self._env.tasks.on_failure = on_failure
        self._env.tasks.start(self._sweep(), name="region-sweep")

    async def close(self) -> None:
        """Forget every shard, then stop the timer and wait for the ends of the shards' tasks."""
        self._region.close()
        self.drop_all()  # before the wait: no request is answered late because a task ends slowly
        await self._env.tasks.close()

    async def _sweep(self) -> None:
        loop = self._loop
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = loop.time()
            self._table.expire(now)
            self._region.expire(now)
            self._residents.sweep()
            self._warmth.forget_old(now)
            self._env.snapshot_allowance = SNAPSHOT_ALLOWANCE
            for shard in self._shards.values():
                if shard.state is ShardState.SERVING:
                    shard.retry_stashed()
            elapsed_s = loop.time() - self._measured_at
            if elapsed_s >= _MEASURE_S:
                self._measured_at = loop.time()
                for shard in self._shards.values():
                    shard.measure(elapsed_s)
