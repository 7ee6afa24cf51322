"""The shard region: a worker's router from a request to the owner of its shard, here or elsewhere.

Three cases: the shard is served here; another worker owns it; or it is moving, and the request waits, within its
budget, until one of the first two holds.  A request that was not admitted anywhere may be asked again anywhere.  A
command that may have been admitted is sent again only if it carries an idempotency key, and then only the answer that
it is done is believed: any other would be about the second sending alone.
"""

import asyncio
from itertools import count
from typing import Final, Protocol

from msgspec.structs import replace

from shard_worker.actors.admission import PacedQueue, Place
from shard_worker.actors.context import ActorContext
from shard_worker.actors.pending import NOT_SERVED, UNKNOWN, AnswerSlot, bytes_of
from shard_worker.actors.routing import OwnerSearch, Route, route_of
from shard_worker.actors.shard_table import ShardTable
from shard_worker.contract import (
    Answer,
    CommandRequest,
    FollowThread,
    Moved,
    PeerAnswer,
    PeerRequest,
    Request,
    Unavailable,
    UnavailableCode,
)
from shard_worker.domain.ids import ShardId, ThreadId, shard_of
from shard_worker.ownership.view import ShardOwner
from shard_worker.peers.errors import PeerOverloaded, PeerUnreachable

UNREACHABLE_S: Final = 0.1
"""Time for which the region sends no request to an owner that it could not reach."""

WORKER_OVERLOADED: Final = Unavailable(UnavailableCode.OVERLOADED, "too many requests wait on this worker", 1.0)
_PEER_OVERLOADED: Final = Unavailable(UnavailableCode.OVERLOADED, "the shard's owner is overloaded", 1.0)


class Owners(Protocol):
    """Ownership as the region sees it; see `shard_worker.ownership.membership.Ownership`."""

    def owner_of(self, shard_id: ShardId) -> ShardOwner | None: ...

    def apply_hint(self, shard_id: ShardId, worker: str, epoch: int) -> None: ...

    def request_refresh(self) -> None: ...

    def next_change(self) -> "asyncio.Future[None]": ...

    def deserted(self) -> bool: ...


class Peers(Protocol):
    """The other workers as this worker's actors see them; see `shard_worker.peers.client.PeerClient`."""

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
    """Implements the gateway's `ThreadService`."""

    def __init__(self, *, worker: str, env: ActorContext, table: ShardTable, owners: Owners, peers: Peers) -> None:
        self._worker = worker
        self._env = env
        self._table = table
        self._owners = owners
        self._peers = peers
        self._waiting = PacedQueue(owners, served=self._served, named=self._named)
        self._numbers = count()
        # Kept, not asked for: before Python 3.12 each `get_running_loop` costs a system call.
        self._loop = asyncio.get_running_loop()

    def ask_here(self, request: Request, thread_id: ThreadId, slot: AnswerSlot, budget_s: float) -> bool:
        """Have the thread's shard decide when it is on this worker; False, and nothing was done, when it is not.

        The answer is `Moved` when the shard leaves before it has decided.
        """
        shard = self._table.find(thread_id)
        if shard is None:
            return False
        self._table.decide_into(slot, shard, request, thread_id, self._loop.time() + budget_s)
        return True

    async def ask(self, request: Request, budget_s: float) -> Answer:
        """The answer of the shard's owner, wherever it is, within ``budget_s`` seconds.  Never raises for a fault."""
        thread_id = request.command.thread_id if type(request) is CommandRequest else request.thread_id  # type: ignore[union-attr]  # narrowed by the exact type
        deadline = self._loop.time() + budget_s
        shard = self._table.find(thread_id)
        if shard is not None:
            answer = await self._table.decide(shard, request, thread_id, deadline)
            if type(answer) is not Moved:
                return answer  # type: ignore[return-value]  # everything but Moved
        return await self._seek(request, thread_id, shard_of(thread_id, self._table.count), deadline)

    async def _seek(self, request: Request, thread_id: ThreadId, shard_id: ShardId, deadline: float) -> Answer:
        """Ask the shard's owner, until a worker answers or the budget is gone."""
        search = OwnerSearch(self._worker, request)
        number, since = next(self._numbers), self._loop.time()
        while (left := deadline - self._loop.time()) > 0:
            shard = self._table.shards.get(shard_id)
            owner = self._owners.owner_of(shard_id)
            route = search.route(
                owner,
                here=shard is not None,
                deserted=owner is None and self._owners.deserted(),
                queued=self._waiting.holds(shard_id),
            )
            if route is Route.SERVE_HERE:
                assert shard is not None  # by the route
                answer: PeerAnswer = await self._table.decide(shard, request, thread_id, deadline)
                if not isinstance(answer, Moved):
                    return search.certain(answer)
            elif route is Route.ASK_OWNER:
                assert owner is not None  # by the route
                found = await self._ask_owner(search, request, shard_id, owner, left)
                if found is not None:
                    return found
            elif route is Route.WAIT:
                search.waits(owner)
                place = Place(number, since, deadline)
                if not await self.wait(place, request, shard_id, search.after_epoch, search.probe_at):
                    return search.certain(WORKER_OVERLOADED)
                search.let_in()
                if isinstance(request, FollowThread):
                    # Answered at once: what waits behind it must not wait for the thread's next event as well.
                    request = replace(request, tap=0)
            else:
                break
        return search.certain(NOT_SERVED)

    async def _ask_owner(
        self, search: OwnerSearch, request: Request, shard_id: ShardId, owner: ShardOwner, budget_s: float
    ) -> Answer | None:
        """The answer of an owner elsewhere; None when the owner does not serve the shard, or could not be reached."""
        search.asks()
        try:
            answer = await self._peers.ask(
                (owner.host, owner.management_port),
                request,
                incarnation=owner.incarnation,
                budget_s=budget_s,
                shard_id=shard_id,
                epoch=owner.epoch,
                hops=1,
            )
        except PeerOverloaded:
            return search.certain(_PEER_OVERLOADED)
        except PeerUnreachable as error:
            may_ask_again = search.lost(owner, sent=error.sent, probe_at=self._loop.time() + UNREACHABLE_S)
            return None if may_ask_again else UNKNOWN
        if not isinstance(answer, Moved):
            self._waiting.open(shard_id)  # the owner serves: the requests behind this one need not probe
            return search.certain(answer)
        if answer.owner is None or answer.epoch <= owner.epoch:
            search.not_served(owner)
        else:
            self._owners.apply_hint(shard_id, answer.owner, answer.epoch)
        return None

    def place(self, deadline: float) -> Place:
        """A place behind all requests that came before, for one that may have to wait until ``deadline``."""
        return Place(next(self._numbers), self._loop.time(), deadline)

    async def wait(self, place: Place, request: Request, shard_id: ShardId, after_epoch: int, probe_at: float) -> bool:
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

    def admit_waiting(self, shard_id: ShardId) -> None:
        """Admit the requests that wait for a shard: the shard is served here."""
        self._waiting.open(shard_id)

    def expire(self, now: float) -> None:
        """End the waits whose deadline has passed at ``now`` (loop time, seconds)."""
        self._waiting.sweep(now)

    def close(self) -> None:
        """End every wait."""
        self._waiting.close()

    def _served(self, shard_id: ShardId, after_epoch: int) -> bool:
        """Whether waiting for a shard is over: it is served here, or by a newer owner, or there will be none."""
        owner = self._owners.owner_of(shard_id)
        route = route_of(
            self._worker,
            owner,
            here=shard_id in self._table.shards,
            deserted=owner is None and self._owners.deserted(),
            after_epoch=after_epoch,
        )
        return route is not Route.WAIT

    def _named(self, shard_id: ShardId) -> bool:
        """Whether a worker is known as the shard's owner."""
        return self._owners.owner_of(shard_id) is not None
