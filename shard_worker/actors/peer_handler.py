"""Answers the requests of other workers, which take this worker for a shard's owner, or for its next owner.

A request for a shard that is not here is answered with the owner that this worker knows.  Only when the sender knows a
newer epoch the request waits: this worker may own the shard, and not have adopted it yet.
"""

import asyncio
from typing import Final, Protocol

from shard_worker.actors.pending import NOT_SERVED
from shard_worker.actors.region import UNREACHABLE_S, WORKER_OVERLOADED, Owners, ShardRegion
from shard_worker.actors.routing import Route, route_of
from shard_worker.actors.shard_host import LocalShardHost
from shard_worker.actors.shard_table import ShardTable
from shard_worker.contract import (
    Ack,
    CommandRequest,
    Moved,
    PeerAnswer,
    PeerRequest,
    PrepareShard,
    Request,
    ShardTransferred,
)
from shard_worker.domain.ids import ShardId, ThreadId, shard_of

_HOPS_MOST: Final = 3


class TransferListener(Owners, Protocol):
    """Ownership as the handler sees it; see `shard_worker.ownership.membership.Ownership`."""

    def on_transferred(self, shard_id: ShardId, epoch: int, incarnation: str, head: int | None) -> None: ...


class PeerHandler:
    """Its `serve` is the `Handler` of `shard_worker.peers.server`."""

    def __init__(
        self, *, worker: str, table: ShardTable, region: ShardRegion, host: LocalShardHost, owners: TransferListener
    ) -> None:
        self._worker = worker
        self._table = table
        self._region = region
        self._host = host
        self._owners = owners
        self._loop = asyncio.get_running_loop()

    def serve(
        self, request: PeerRequest, budget_s: float, epoch_known: int, hops: int
    ) -> "PeerAnswer | asyncio.Future[PeerAnswer]":
        """Answer a request of another worker, which takes this worker for the owner, or for the next owner."""
        kind = type(request)
        if kind is PrepareShard:
            return asyncio.ensure_future(self._prepare(request, budget_s))  # type: ignore[arg-type]  # narrowed by the exact type
        if kind is ShardTransferred:
            return asyncio.ensure_future(self._receive(request, budget_s))  # type: ignore[arg-type]  # as above
        thread_id = request.command.thread_id if kind is CommandRequest else request.thread_id  # type: ignore[union-attr]  # as above
        shard_id = shard_of(thread_id, self._table.count)
        shard = self._table.shards.get(shard_id)
        deadline = self._loop.time() + budget_s
        if shard is not None:
            return self._table.decide(shard, request, thread_id, deadline)  # type: ignore[arg-type, return-value]  # as above
        owner = self._owners.owner_of(shard_id)
        if hops < _HOPS_MOST and epoch_known > (owner.epoch if owner is not None else -1):
            # The sender knows a newer epoch: this worker may own the shard, and not have adopted it yet.
            return asyncio.ensure_future(self._serve_later(request, thread_id, shard_id, epoch_known, deadline))  # type: ignore[arg-type]  # as above
        return Moved(owner.worker, owner.epoch) if owner is not None else Moved(None, 0)

    async def _serve_later(
        self, request: Request, thread_id: ThreadId, shard_id: ShardId, epoch_known: int, deadline: float
    ) -> PeerAnswer:
        """Decide a request once its shard is adopted; name another owner once its epoch is the one the sender knows."""
        place = self._region.place(deadline)
        while self._loop.time() < deadline:
            shard = self._table.shards.get(shard_id)
            owner = self._owners.owner_of(shard_id)
            route = route_of(
                self._worker,
                owner,
                here=shard is not None,
                deserted=owner is None and self._owners.deserted(),
                after_epoch=epoch_known - 1,
            )
            if route is Route.SERVE_HERE:
                assert shard is not None  # by the route
                return await self._table.decide(shard, request, thread_id, deadline)
            if route is Route.ASK_OWNER:
                assert owner is not None  # by the route
                return Moved(owner.worker, owner.epoch)
            if route is Route.REFUSE:
                break
            self._owners.request_refresh()
            probe_at = self._loop.time() + UNREACHABLE_S
            if not await self._region.wait(place, request, shard_id, epoch_known - 1, probe_at):
                return WORKER_OVERLOADED
        return NOT_SERVED

    async def _prepare(self, request: PrepareShard, budget_s: float) -> PeerAnswer:
        """Load the hot threads of a shard that is to be transferred to this worker."""
        return Ack(await self._host.prewarm(ShardId(request.shard_id), request.thread_ids, budget_s))

    async def _receive(self, request: ShardTransferred, budget_s: float) -> PeerAnswer:
        """Adopt a shard that was transferred to this worker, and answer once it is served."""
        shard_id = ShardId(request.shard_id)
        deadline = self._loop.time() + budget_s
        self._owners.on_transferred(shard_id, request.epoch, request.incarnation, request.head)
        return Ack(ready=await self._host.served(shard_id, request.epoch, deadline))
