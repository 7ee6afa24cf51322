"""The shard region: a worker's router from a request to the owner of its shard, here or elsewhere.

Three cases: the shard is served here; another worker owns it; or it is moving, and the request waits, within its
budget, until one of the first two holds.  A request that was not admitted anywhere may be asked again anywhere.  A
command that may have been admitted is sent again only if it carries an idempotency key, and then only the answer that
it is done is believed: any other would be about the second sending alone.
"""

import asyncio
import logging
from collections.abc import Mapping
from itertools import count
from typing import Final, Protocol

import asyncpg

from shard_worker.actors.admission import PacedQueue, Place
from shard_worker.actors.context import SNAPSHOT_ALLOWANCE, ActorContext
from shard_worker.actors.passivation import LruPassivation
from shard_worker.actors.pending import NOT_SERVED, UNKNOWN, PendingRequest, TimerWheel, bytes_of
from shard_worker.actors.prewarm import PrewarmCache
from shard_worker.actors.shard import Shard, ShardState
from shard_worker.actors.thread_actor import ActorHost, ThreadActor
from shard_worker.contract import (
    Ack,
    Answer,
    CommandRequest,
    Done,
    Moved,
    OwnerAnswer,
    PeerAnswer,
    PeerRequest,
    PrepareShard,
    Request,
    ShardTransferred,
    Unavailable,
    UnavailableCode,
)
from shard_worker.domain.ids import ShardId, ThreadId, shard_of
from shard_worker.journal.appender import Appender
from shard_worker.ownership.view import Load, ShardOwner
from shard_worker.peers.errors import PeerOverloaded, PeerUnreachable

log = logging.getLogger(__name__)

_SWEEP_S: Final = 0.1
_MEASURE_S: Final = 1.0
_HOPS_MOST: Final = 3
_WARM_MOST: Final = 500
"""Threads of one shard that are read before it moves."""
_PREPARE_S: Final = 1.8
_TELL_S: Final = 4.0
_UNREACHABLE_S: Final = 0.1
"""Time for which the region sends no request to an owner that it could not reach."""

_OVERLOADED: Final = Unavailable(UnavailableCode.OVERLOADED, "too many requests wait on this worker", 1.0)
_PEER_OVERLOADED: Final = Unavailable(UnavailableCode.OVERLOADED, "the shard's owner is overloaded", 1.0)


class Owners(Protocol):
    """Ownership as the region sees it; see `shard_worker.ownership.membership.Ownership`."""

    def owner_of(self, shard_id: ShardId) -> ShardOwner | None: ...

    def apply_hint(self, shard_id: ShardId, worker: str, epoch: int) -> None: ...

    def on_transferred(self, shard_id: ShardId, epoch: int, incarnation: str, head: int | None) -> None: ...

    def request_refresh(self) -> None: ...

    def next_change(self) -> "asyncio.Future[None]": ...

    def deserted(self) -> bool: ...


class Peers(Protocol):
    """The other workers as the region sees them; see `shard_worker.peers.client.PeerClient`."""

    async def ask(
        self,
        address: tuple[str, int],
        request: PeerRequest,
        *,
        incarnation: str,
        budget_s: float,
        shard_id: int,
        epoch: int,
        hops: int,
    ) -> PeerAnswer: ...


class ShardRegion:
    """Implements ownership's `ShardHost`, the gateway's `ThreadService`, and the handler of frames from peers."""

    def __init__(
        self,
        *,
        worker: str,
        shards: int,
        env: ActorContext,
        appender: Appender,
        residents: LruPassivation[ThreadActor],
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
        self._deadlines = TimerWheel()
        self._warmth = PrewarmCache(env)
        self._waiting = PacedQueue(owners, served=self._served, named=self._named)
        self._numbers = count()
        self._measured_at = asyncio.get_running_loop().time()
        self._arrivals: dict[ShardId, asyncio.Future[None]] = {}
        self._sweeper: asyncio.Task[None] | None = None
        # Kept, not asked for: before Python 3.12 each `get_running_loop` costs a system call.
        self._loop = asyncio.get_running_loop()

    # --- the gateway's side

    async def ask(self, request: Request, budget_s: float) -> Answer:
        """The answer of the shard's owner, wherever it is, within ``budget_s`` seconds.  Never raises for a fault."""
        thread_id = request.command.thread_id if type(request) is CommandRequest else request.thread_id  # type: ignore[union-attr]  # narrowed by the exact type
        deadline = self._loop.time() + budget_s
        actor = self._residents.get(thread_id)  # cheaper than hashing the id
        shard = actor.shard if actor is not None else self.shards.get(shard_of(thread_id, self._count))
        if shard is not None:
            answer = await self._local(shard, request, thread_id, deadline)
            if type(answer) is not Moved:
                return answer  # type: ignore[return-value]  # everything but Moved
        return await self._seek(request, thread_id, shard_of(thread_id, self._count), deadline)

    def _local(
        self, shard: ActorHost, request: Request, thread_id: ThreadId, deadline: float
    ) -> "asyncio.Future[OwnerAnswer]":
        ask = PendingRequest(request, self._loop.create_future(), deadline)
        shard.handle(ask, thread_id)
        if not ask.done:
            self._deadlines.add(ask, deadline)
        return ask.future

    async def _seek(self, request: Request, thread_id: ThreadId, shard_id: ShardId, deadline: float) -> Answer:
        """Ask the shard's owner, until a worker answers or the budget is gone."""
        keyed = type(request) is CommandRequest and request.key_hash is not None
        maybe_stored = False
        place = Place(next(self._numbers), self._loop.time(), deadline)
        after_epoch, probe_at = -1, 0.0  # an owner that turned out not to serve, and when it may be asked again
        let_in = False
        while (left := deadline - self._loop.time()) > 0:
            shard = self.shards.get(shard_id)
            if shard is not None:
                answer: PeerAnswer = await self._local(shard, request, thread_id, deadline)
                if not isinstance(answer, Moved):
                    return _certain(answer, maybe_stored=maybe_stored)
                continue
            record = self._owners.owner_of(shard_id)
            if record is None and self._owners.deserted():
                break
            if (
                record is None
                or record.worker == self._worker
                or record.epoch <= after_epoch
                or (not let_in and self._waiting.holds(shard_id))
            ):
                # Owned here and not in `shards`: it is being adopted, or was just dropped.  Either `adopt` or a newer
                # epoch ends the wait.
                if record is not None and record.worker == self._worker:
                    after_epoch = max(after_epoch, record.epoch)
                if not await self._wait(place, request, shard_id, after_epoch, probe_at):
                    return _certain(_OVERLOADED, maybe_stored=maybe_stored)
                after_epoch, let_in = -1, True
                continue
            let_in = False
            try:
                answer = await self._peers.ask(
                    (record.host, record.management_port),
                    request,
                    incarnation=record.incarnation,
                    budget_s=left,
                    shard_id=shard_id,
                    epoch=record.epoch,
                    hops=1,
                )
            except PeerOverloaded:
                return _certain(_PEER_OVERLOADED, maybe_stored=maybe_stored)
            except PeerUnreachable as error:
                # The owner may have stored the command: without a key a second sending could store it twice.
                if error.sent and type(request) is CommandRequest:
                    if not keyed:
                        return UNKNOWN
                    maybe_stored = True
                after_epoch, probe_at = record.epoch, self._loop.time() + _UNREACHABLE_S
                continue
            if not isinstance(answer, Moved):
                self._waiting.open(shard_id)  # the owner serves: the requests behind this one need not probe
                return _certain(answer, maybe_stored=maybe_stored)
            if answer.owner is None or answer.epoch <= record.epoch:
                after_epoch, probe_at = record.epoch, 0.0
            else:
                self._owners.apply_hint(shard_id, answer.owner, answer.epoch)
        return _certain(NOT_SERVED, maybe_stored=maybe_stored)

    async def _wait(self, place: Place, request: Request, shard_id: ShardId, after_epoch: int, probe_at: float) -> bool:
        """Wait in the shard's line; False when too much waits already."""
        env = self._env
        if not env.may_hold():
            return False
        size = bytes_of(request)
        env.pending_bytes += size
        try:
            await self._waiting.enqueue(shard_id, place, after_epoch=after_epoch, probe_at=probe_at)
        finally:
            env.pending_bytes -= size
        return True

    def _served(self, shard_id: ShardId, after_epoch: int) -> bool:
        """Whether waiting for a shard is over: it is served here, or by a newer owner, or there will be none."""
        if shard_id in self.shards:
            return True
        record = self._owners.owner_of(shard_id)
        if record is None:
            return self._owners.deserted()
        return record.worker != self._worker and record.epoch > after_epoch

    def _named(self, shard_id: ShardId) -> bool:
        """Whether another worker is known as the shard's owner."""
        record = self._owners.owner_of(shard_id)
        return record is not None

    # --- the peers' side

    def serve(
        self, request: PeerRequest, budget_s: float, epoch_known: int, hops: int
    ) -> "PeerAnswer | asyncio.Future[PeerAnswer]":
        """Answer a request of another worker, which takes this worker for the owner, or for the next owner."""
        kind = type(request)
        if kind is PrepareShard:
            return asyncio.ensure_future(self._prepare_here(request, budget_s))  # type: ignore[arg-type]  # narrowed by the exact type
        if kind is ShardTransferred:
            return asyncio.ensure_future(self._receive(request, budget_s))  # type: ignore[arg-type]  # as above
        thread_id = request.command.thread_id if kind is CommandRequest else request.thread_id  # type: ignore[union-attr]  # as above
        shard_id = shard_of(thread_id, self._count)
        shard = self.shards.get(shard_id)
        deadline = self._loop.time() + budget_s
        if shard is not None:
            return self._local(shard, request, thread_id, deadline)  # type: ignore[arg-type, return-value]  # as above
        record = self._owners.owner_of(shard_id)
        if hops < _HOPS_MOST and epoch_known > (record.epoch if record is not None else -1):
            # The sender knows a newer epoch: this worker may own the shard, and not have adopted it yet.
            return asyncio.ensure_future(self._serve_later(request, thread_id, shard_id, epoch_known, deadline))  # type: ignore[arg-type]  # as above
        return Moved(record.worker if record is not None else None, record.epoch if record is not None else 0)

    async def _serve_later(
        self, request: Request, thread_id: ThreadId, shard_id: ShardId, epoch_known: int, deadline: float
    ) -> PeerAnswer:
        place = Place(next(self._numbers), self._loop.time(), deadline)
        while self._loop.time() < deadline:
            shard = self.shards.get(shard_id)
            if shard is not None:
                return await self._local(shard, request, thread_id, deadline)
            record = self._owners.owner_of(shard_id)
            if record is not None and record.epoch >= epoch_known and record.worker != self._worker:
                return Moved(record.worker, record.epoch)
            if record is None and self._owners.deserted():
                break
            self._owners.request_refresh()
            probe_at = self._loop.time() + _UNREACHABLE_S
            if not await self._wait(place, request, shard_id, epoch_known - 1, probe_at):
                return _OVERLOADED
        return NOT_SERVED

    async def _prepare_here(self, request: PrepareShard, budget_s: float) -> PeerAnswer:
        return Ack(await self._warmth.prepare(ShardId(request.shard_id), request.thread_ids, budget_s))

    async def _receive(self, request: ShardTransferred, budget_s: float) -> PeerAnswer:
        """Adopt a shard that was transferred to this worker, and answer once it is served."""
        shard_id = ShardId(request.shard_id)
        deadline = self._loop.time() + budget_s
        self._owners.on_transferred(shard_id, request.epoch, request.incarnation, request.head)
        while (left := deadline - self._loop.time()) > 0:
            shard = self.shards.get(shard_id)
            if shard is not None and shard.epoch >= request.epoch:
                return Ack(ready=True)
            arrival = self._arrivals.get(shard_id)
            # No await since the look-up in `shards`: `adopt` cannot have run in between.
            if arrival is None:
                arrival = self._arrivals[shard_id] = self._loop.create_future()
            # `wait` does not cancel the future at the time-out: repeated notifications share it.
            await asyncio.wait((arrival,), timeout=left)
        return Ack(ready=False)

    # --- ownership's side

    def adopt(self, shard_id: ShardId, epoch: int, head: int) -> None:
        """Serve a shard whose change of owner is acknowledged and whose head was read in a later statement."""
        old = self.shards.pop(shard_id, None)
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
        self.shards[shard_id] = shard
        # Before the waiting requests are admitted, which would load the same threads again.
        shard.preload(self._warmth.take(shard_id, head))
        arrival = self._arrivals.pop(shard_id, None)
        if arrival is not None:
            arrival.set_result(None)
        self._waiting.open(shard_id)

    async def catch_up(self, connection: asyncpg.Connection, heads: Mapping[ShardId, int]) -> None:
        """Bring the prewarmed threads of these shards up to their heads."""
        await self._warmth.catch_up(connection, heads)

    async def prepare(self, shard_id: ShardId, receiver: ShardOwner) -> bool:
        """Have the next owner load the hot threads of a shard that is served here; False when the worker does not answer."""
        shard = self.shards.get(shard_id)
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
        shard = self.shards.get(shard_id)
        return None if shard is None else await shard.drain()

    def resume(self, shard_id: ShardId) -> None:
        """Admit again for a shard that was being released."""
        shard = self.shards.get(shard_id)
        if shard is not None:
            shard.resume()

    def drop(self, shard_id: ShardId, owner: str | None = None, epoch: int = 0) -> None:
        """Forget a shard, at once; its requests are redirected to its owner, if that is known."""
        # Removed before it is closed: the redirected requests must not find the shard here again.
        shard = self.shards.pop(shard_id, None)
        if shard is not None:
            shard.close(owner, epoch)

    def drop_all(self) -> None:
        """Forget every shard, at once: this incarnation was fenced."""
        for shard_id in list(self.shards):
            self.drop(shard_id)
        self._warmth.forget_all()

    def present(self) -> set[ShardId]:
        """The shards that are here, served or on their way out."""
        return set(self.shards)

    def serving(self) -> set[ShardId]:
        """The shards that are here to stay; one whose append is being decided counts, one being released does not."""
        return {shard_id for shard_id, shard in self.shards.items() if shard.state is not ShardState.RELEASING}

    def loads(self) -> dict[ShardId, Load]:
        """How busy the shards that are served here are."""
        return {shard_id: shard.measured for shard_id, shard in self.shards.items()}

    def pending_bytes(self) -> int:
        """Bytes of all waiting requests and of the events on their way, about."""
        return self._env.pending_bytes

    def _lost(self, shard: Shard) -> None:
        if self.shards.get(shard.shard_id) is shard:  # else the shard was adopted again since
            log.warning("worker lost a shard", extra={"shard": shard.shard_id, "epoch": shard.epoch})
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
        self._waiting.close()
        self.drop_all()

    async def _sweep(self) -> None:
        loop = self._loop
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = loop.time()
            for shard in list(self.shards.values()):
                shard.stream.expire(now)  # before the asks, which would else seem to be at the server
            self._deadlines.sweep(now)
            self._waiting.sweep(now)
            self._residents.sweep()
            self._warmth.forget_old(now)
            self._env.snapshot_allowance = SNAPSHOT_ALLOWANCE
            for shard in self.shards.values():
                if shard.state is ShardState.SERVING:
                    shard.retry_stashed()
            elapsed_s = loop.time() - self._measured_at
            if elapsed_s >= _MEASURE_S:
                self._measured_at = loop.time()
                for shard in self.shards.values():
                    shard.measure(elapsed_s)


def _certain(answer: PeerAnswer, *, maybe_stored: bool) -> Answer:
    """The answer, or, for a command that was sent before and perhaps stored, that only a success is certain."""
    if maybe_stored and type(answer) is not Done:
        return UNKNOWN
    return answer  # type: ignore[return-value]  # an owner's answer to a request of a gateway that is not `Moved`
