"""Threads that a worker loads of a shard before it owns the shard, so the handoff waits for the last few events only.

The head is noted *before* the threads are loaded.  Events that are stored meanwhile come after the head, so the tail
from the head brings every thread to the head that is read once the change of owner is acknowledged; events that a
thread already has are skipped.  Whatever goes wrong here costs warmth and nothing else: the shard is adopted cold.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final

from shard_worker.actors.context import ActorContext
from shard_worker.actors.passivation import weight_of
from shard_worker.database.connection import CONNECTION_ERRORS, Session
from shard_worker.domain.ids import ShardId, ThreadId, ulid_uuid
from shard_worker.journal.loader import Poisoned, Recovered
from shard_worker.journal.shard_tail import apply_tail, read_tails

log = logging.getLogger(__name__)

_KEPT_S: Final = 10.0
"""A shard that did not come within this time after it was prepared is forgotten."""
_TAIL_MOST: Final = 5_000
"""Maximum tail, in events: a longer one costs more than loading the requested threads again."""
_BUDGET_PART: Final = 0.7
"""Of the time it may take, loading gets so much; what is not loaded then stays cold."""
_MEMORY_PART: Final = 4
"""A quarter of the memory budget may be taken by threads that are prepared."""


class _Prepared:
    """One shard's threads, brought up to ``head``."""

    def __init__(self, order: Sequence[ThreadId], head: int, at: float) -> None:
        self.order = order
        self.head = head
        self.at = at
        self.threads: dict[ThreadId, Recovered] = {}
        self.bytes = 0
        """Of all threads, estimated when they were read."""
        self.catching_up = False
        """Whether a tail is applied to the threads: one that was read meanwhile may lack some of it."""


class PrewarmCache:
    """The shards that this worker has read and does not own yet."""

    def __init__(self, env: ActorContext) -> None:
        self._env = env
        self._prepared: dict[ShardId, _Prepared] = {}
        self.bytes = 0

    def _count(self, more: int) -> None:
        self.bytes += more
        self._env.memory.take(more)

    def _forget(self, shard_id: ShardId) -> _Prepared | None:
        prepared = self._prepared.pop(shard_id, None)
        if prepared is not None:
            self._count(-prepared.bytes)
        return prepared

    async def prepare(self, shard_id: ShardId, thread_ids: Sequence[ThreadId], budget_s: float) -> bool:
        """Read these threads; False when the journal is not to be had."""
        loop = asyncio.get_running_loop()
        self.forget_old(loop.time())
        try:
            async with asyncio.timeout(budget_s):
                prepared = _Prepared(thread_ids, await self._env.journal.read_head(shard_id), loop.time())
        except CONNECTION_ERRORS as error:
            log.warning("worker failed to prewarm a shard", extra={"shard": shard_id, "cause": repr(error)})
            return False
        self._forget(shard_id)
        self._prepared[shard_id] = prepared
        loads = [
            self._env.tasks.spawn(self._load(prepared, shard_id, thread_id), name=f"prewarm-{thread_id}")
            for thread_id in thread_ids
        ]
        if loads:
            try:
                await asyncio.wait(loads, timeout=budget_s * _BUDGET_PART)
            finally:
                for load in loads:  # not awaited: the answer has a time limit
                    load.cancel()
        return True

    async def _load(self, prepared: _Prepared, shard_id: ShardId, thread_id: ThreadId) -> None:
        head = prepared.head
        try:
            found = await self._env.journal.load(shard_id, thread_id)
        except CONNECTION_ERRORS as error:
            log.warning("worker failed to prewarm a thread", extra={"shard": shard_id, "cause": repr(error)})
            return
        if isinstance(found, Poisoned) or self._prepared.get(shard_id) is not prepared:
            return
        if prepared.catching_up or prepared.head != head:
            return  # the tail was applied to the others while this one was read: it may lack some of it
        weight = weight_of(found.state)
        if self.bytes + weight <= self._env.memory.limit // _MEMORY_PART:
            prepared.threads[thread_id] = found
            prepared.bytes += weight
            self._count(weight)

    async def catch_up(self, connection: Session, heads: Mapping[ShardId, int]) -> None:
        """Bring what was prepared of these shards up to their heads.  Raises what asyncpg raises when the link fails."""
        behind = {}
        for shard_id, head in heads.items():
            prepared = self._prepared.get(shard_id)
            if prepared is None or prepared.head == head:
                continue
            if not prepared.threads or not 0 <= head - prepared.head <= _TAIL_MOST:
                self._forget(shard_id)
            else:
                behind[shard_id] = (prepared.head, head)
        if not behind:
            return
        for shard_id in behind:
            self._prepared[shard_id].catching_up = True
        tails = await read_tails(connection, behind)
        for shard_id, (_, head) in behind.items():
            prepared = self._prepared.get(shard_id)
            if prepared is None:
                continue
            if shard_id not in tails:
                self._forget(shard_id)
                continue
            by_uuid = {ulid_uuid(thread_id): thread_id for thread_id in prepared.threads}
            threads = {uuid: prepared.threads[thread_id] for uuid, thread_id in by_uuid.items()}
            followed = await apply_tail(threads, tails[shard_id])
            prepared.threads = {by_uuid[uuid]: found for uuid, found in followed.items()}
            prepared.head = head
            prepared.catching_up = False

    def take(self, shard_id: ShardId, head: int) -> dict[ThreadId, Recovered]:
        """The shard's threads at its head, the last asked first; the caller owns them from now on."""
        prepared = self._forget(shard_id)
        if prepared is None or prepared.head != head:
            return {}
        return {thread_id: prepared.threads[thread_id] for thread_id in prepared.order if thread_id in prepared.threads}

    def forget_all(self) -> None:
        """Forget everything."""
        for shard_id in list(self._prepared):
            self._forget(shard_id)

    def forget_old(self, now: float) -> None:
        """Forget what was prepared and did not come in its time; ``now`` is loop time, seconds."""
        for shard_id in [shard_id for shard_id, prepared in self._prepared.items() if now - prepared.at >= _KEPT_S]:
            self._forget(shard_id)
