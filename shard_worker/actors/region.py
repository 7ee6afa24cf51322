"""The shard region: a worker's router from a request to the owner of its shard, here or elsewhere.

Three cases: the shard is served here; another worker owns it; or it is moving, and the request waits, within its
budget, until one of the first two holds.  A request that was not admitted anywhere may be asked again anywhere; one
that may have been admitted is never sent twice.
"""

import asyncio
import logging
from typing import Final, Protocol

from shard_worker.actors.ask import NOT_SERVED, UNKNOWN, Ask, Deadlines
from shard_worker.actors.environment import Environment
from shard_worker.actors.residents import Residents
from shard_worker.actors.shard import Shard, ShardState
from shard_worker.contract import (
    Answer,
    CommandRequest,
    Moved,
    OwnerAnswer,
    Request,
    Unavailable,
    UnavailableCode,
)
from shard_worker.domain.ids import ShardId, ThreadId, shard_of
from shard_worker.journal.appender import Appender
from shard_worker.ownership.owners import OwnerRecord
from shard_worker.peers.errors import PeerOverloaded, PeerUnreachable

log = logging.getLogger(__name__)

_SWEEP_S: Final = 0.1
_LOOK_AGAIN_S: Final = 0.02
_HOPS_MOST: Final = 3

_PEER_OVERLOADED: Final = Unavailable(UnavailableCode.OVERLOADED, "the shard's owner is overloaded", 1.0)


class Owners(Protocol):
    """What the region wants to know of ownership; see `shard_worker.ownership.membership.Ownership`."""

    def owner_of(self, shard_id: ShardId) -> OwnerRecord | None: ...

    async def refresh(self) -> None: ...


class Peers(Protocol):
    """What the region wants of the other workers; see `shard_worker.peers.client.PeerClient`."""

    async def ask(
        self, address: tuple[str, int], request: Request, *, budget_s: float, shard_id: int, epoch: int, hops: int
    ) -> OwnerAnswer: ...


class ShardRegion:
    """Implements ownership's `ShardHost`, the gateway's `ThreadService`, and the handler of frames from peers."""

    def __init__(
        self,
        *,
        worker: str,
        shards: int,
        env: Environment,
        appender: Appender,
        residents: Residents,
        owners: Owners,
        peers: Peers,
    ) -> None:
        self.shards: dict[ShardId, Shard] = {}
        self._worker = worker
        self._count = shards
        self._env = env
        self._appender = appender
        self._residents = residents
        self._owners = owners
        self._peers = peers
        self._deadlines = Deadlines()
        self._changed: asyncio.Event = asyncio.Event()
        self._sweeper: asyncio.Task[None] | None = None
        # Kept, not asked for: before Python 3.12 each `get_running_loop` costs a system call.
        self._loop = asyncio.get_running_loop()

    # --- the gateway's side

    async def ask(self, request: Request, budget_s: float) -> Answer:
        """The answer of the shard's owner, wherever it is, within ``budget_s`` seconds.  Never raises for a fault."""
        thread_id = request.command.thread_id if type(request) is CommandRequest else request.thread_id  # type: ignore[union-attr]  # narrowed by the exact type
        deadline = self._loop.time() + budget_s
        shard = self._residents.shard_of(thread_id) or self.shards.get(shard_of(thread_id, self._count))
        if shard is not None:
            answer = await self._local(shard, request, thread_id, deadline)
            if type(answer) is not Moved:
                return answer  # type: ignore[return-value]  # everything but Moved
        return await self._seek(request, thread_id, shard_of(thread_id, self._count), deadline)

    def _local(
        self, shard: Shard, request: Request, thread_id: ThreadId, deadline: float
    ) -> "asyncio.Future[OwnerAnswer]":
        ask = Ask(request, self._loop.create_future())
        shard.take(ask, thread_id)
        if not ask.over:
            self._deadlines.add(ask, deadline)
        return ask.future

    async def _seek(self, request: Request, thread_id: ThreadId, shard_id: ShardId, deadline: float) -> Answer:
        """Ask whoever owns the shard, until somebody answers or the budget is gone."""
        loop = self._loop
        stale: tuple[str, int] | None = None  # an owner and epoch that turned out not to serve
        while (left := deadline - loop.time()) > 0:
            shard = self.shards.get(shard_id)
            if shard is not None:
                answer = await self._local(shard, request, thread_id, deadline)
                if not isinstance(answer, Moved):
                    return answer
                continue
            record = self._owners.owner_of(shard_id)
            if record is None or record.worker == self._worker or (record.worker, record.epoch) == stale:
                await self._await_change(min(left, _LOOK_AGAIN_S))
                if record is not None:
                    await self._refresh(left)
                    stale = None
                continue
            try:
                answer = await self._peers.ask(
                    (record.host, record.management_port),
                    request,
                    budget_s=left,
                    shard_id=shard_id,
                    epoch=record.epoch,
                    hops=1,
                )
            except PeerOverloaded:
                return _PEER_OVERLOADED
            except PeerUnreachable as error:
                if error.sent and type(request) is CommandRequest:
                    return UNKNOWN
                stale = (record.worker, record.epoch)
                continue
            if not isinstance(answer, Moved):
                return answer
            if answer.owner == record.worker or answer.owner is None or answer.epoch <= record.epoch:
                stale = (record.worker, record.epoch)
            else:
                await self._refresh(left)
        return NOT_SERVED

    async def _await_change(self, most_s: float) -> None:
        """Wait until a shard arrives here, or a moment has passed."""
        try:
            async with asyncio.timeout(most_s):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _refresh(self, most_s: float) -> None:
        """Read the owners again; an unreachable database leaves what is known."""
        try:
            async with asyncio.timeout(min(most_s, 1.0)):
                await self._owners.refresh()
        except TimeoutError:
            log.warning("owners not read in time")

    # --- the peers' side

    def serve(
        self, request: Request, budget_s: float, epoch_known: int, hops: int
    ) -> "OwnerAnswer | asyncio.Future[OwnerAnswer]":
        """Answer a request that another worker sent because it takes this one for the owner."""
        thread_id = request.command.thread_id if type(request) is CommandRequest else request.thread_id  # type: ignore[union-attr]  # narrowed by the exact type
        shard_id = shard_of(thread_id, self._count)
        shard = self.shards.get(shard_id)
        deadline = self._loop.time() + budget_s
        if shard is not None:
            return self._local(shard, request, thread_id, deadline)
        record = self._owners.owner_of(shard_id)
        if hops < _HOPS_MOST and epoch_known > (record.epoch if record is not None else -1):
            # The sender knows more than we do: perhaps the shard is ours and not yet adopted.
            return asyncio.ensure_future(self._serve_later(request, thread_id, shard_id, deadline))
        return Moved(record.worker if record is not None else None, record.epoch if record is not None else 0)

    async def _serve_later(
        self, request: Request, thread_id: ThreadId, shard_id: ShardId, deadline: float
    ) -> OwnerAnswer:
        loop = self._loop
        await self._refresh(deadline - loop.time())
        record = self._owners.owner_of(shard_id)
        while shard_id not in self.shards and record is not None and record.worker == self._worker:
            left = deadline - loop.time()
            if left <= 0:
                return NOT_SERVED
            await self._await_change(min(left, _LOOK_AGAIN_S))
            record = self._owners.owner_of(shard_id)
        shard = self.shards.get(shard_id)
        if shard is not None:
            return await self._local(shard, request, thread_id, deadline)
        return Moved(record.worker if record is not None else None, record.epoch if record is not None else 0)

    # --- ownership's side

    def adopt(self, shard_id: ShardId, epoch: int, head: int) -> None:
        """Serve a shard whose claim is acknowledged and whose head was read in a later statement."""
        old = self.shards.pop(shard_id, None)
        if old is not None:
            old.close()
        self.shards[shard_id] = Shard(
            shard_id,
            epoch,
            head,
            env=self._env,
            appender=self._appender,
            residents=self._residents,
            on_lost=self._lost,
        )
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def release(self, shard_id: ShardId) -> None:
        """Stop admitting for a shard and return when nothing of it is on its way to the journal.

        The shard stays here, holding what comes, until `drop`: the asks it holds are sent on only when somebody else
        may own it.
        """
        shard = self.shards.get(shard_id)
        if shard is not None:
            await shard.drain()

    def drop(self, shard_id: ShardId) -> None:
        """Forget a shard, at once; what waits is sent on to the next owner."""
        shard = self.shards.pop(shard_id, None)
        if shard is not None:
            shard.close()

    def drop_all(self) -> None:
        """Forget every shard, at once: this incarnation was fenced."""
        for shard_id in list(self.shards):
            self.drop(shard_id)

    def present(self) -> set[ShardId]:
        """The shards that are here, served or on their way out."""
        return set(self.shards)

    def serving(self) -> set[ShardId]:
        """The shards that are here to stay; one whose append is being decided counts, one being released does not."""
        return {shard_id for shard_id, shard in self.shards.items() if shard.state is not ShardState.RELEASING}

    def _lost(self, shard: Shard) -> None:
        if self.shards.get(shard.shard_id) is shard:
            log.warning("shard lost", extra={"shard": shard.shard_id, "epoch": shard.epoch})
            del self.shards[shard.shard_id]

    # --- the clock

    def start(self) -> None:
        """Start the one timer that serves all asks and all residents."""
        self._sweeper = asyncio.create_task(self._sweep(), name="region-sweep")

    def fault(self) -> BaseException | None:
        """Why the timer ended though it never should, or None."""
        task = self._sweeper
        return task.exception() if task is not None and task.done() and not task.cancelled() else None

    async def close(self) -> None:
        """Stop the timer and forget every shard."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        self.drop_all()

    async def _sweep(self) -> None:
        loop = self._loop
        while True:
            await asyncio.sleep(_SWEEP_S)
            self._deadlines.sweep(loop.time())
            self._residents.sweep()
            for shard in self.shards.values():
                if shard.state is ShardState.SERVING:
                    shard.retry_held()
