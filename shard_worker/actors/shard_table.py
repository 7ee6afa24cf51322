"""The shards that are on this worker, and the requests that they are deciding.

The shard region reads the table, the handler of peers too; only the shard host adds and removes shards.
"""

import asyncio

from shard_worker.actors.passivation import LruPassivation
from shard_worker.actors.pending import AnswerSlot, PendingRequest, TimerWheel
from shard_worker.actors.shard import Shard
from shard_worker.actors.thread_actor import ActorHost, ThreadActor
from shard_worker.contract import OwnerAnswer, Request
from shard_worker.domain.ids import ShardId, ThreadId, shard_of


class ShardTable:
    """The shards here, by id; ``count`` is the cluster's number of shards."""

    def __init__(self, count: int, residents: LruPassivation[ThreadActor]) -> None:
        self.count = count
        self.shards: dict[ShardId, Shard] = {}
        self._residents = residents
        self._deadlines = TimerWheel()
        # Kept, not asked for: before Python 3.12 each `get_running_loop` costs a system call.
        self._loop = asyncio.get_running_loop()

    def find(self, thread_id: ThreadId) -> ActorHost | None:
        """The shard of a thread, or None when the shard is not here."""
        actor = self._residents.get(thread_id)  # cheaper than hashing the id
        return actor.shard if actor is not None else self.shards.get(shard_of(thread_id, self.count))

    def decide(
        self, shard: ActorHost, request: Request, thread_id: ThreadId, deadline: float
    ) -> "asyncio.Future[OwnerAnswer]":
        """Have a shard decide a request, until ``deadline`` (loop time, seconds)."""
        answer: asyncio.Future[OwnerAnswer] = self._loop.create_future()
        self.decide_into(answer, shard, request, thread_id, deadline)
        return answer

    def decide_into(
        self, slot: AnswerSlot, shard: ActorHost, request: Request, thread_id: ThreadId, deadline: float
    ) -> None:
        """`decide`, with the answer in a slot of the caller's."""
        ask = PendingRequest(request, slot, deadline)
        shard.handle(ask, thread_id)
        if not ask.done:
            self._deadlines.add(ask, deadline)

    def expire(self, now: float) -> None:
        """Withdraw the events, then answer the requests, whose deadline has passed at ``now`` (loop time, seconds)."""
        for shard in list(self.shards.values()):
            shard.stream.expire(now)  # before the requests, which would else seem to be at the server
        self._deadlines.sweep(now)
