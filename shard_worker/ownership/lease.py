"""The proof of life of one incarnation: a session-level lock, a beat, and the lease on memory reads that follows.

The lease is measured on a clock that goes on while the machine sleeps, from the moment a beat was *sent*: the peer
that fences this incarnation waits longer than the lease after the answer that first showed the beat.
"""

import asyncio
import itertools
import logging
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import asyncpg

from shard_worker.contract_internal import DATABASE_SILENCE_S
from shard_worker.database.connection import CONNECTION_ERRORS, OpenConnection
from shard_worker.ownership import store
from shard_worker.ownership.failure_detector import Fenced
from shard_worker.tasks import BackgroundTasks

log = logging.getLogger(__name__)

_STATEMENT_S: Final = 1.5
"""Maximum wait for the answer of a beat; then its session is closed: half of the TTL is left to connect and beat again."""
_LATE_S: Final = 0.4
"""Time after which a beat without an answer may wait for a frozen server whose address has moved: the lease then opens a
second session, which detects a fail-over."""

boottime: Callable[[], float] = (
    (lambda: time.clock_gettime(time.CLOCK_BOOTTIME)) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds on a clock that counts suspended time too, where the system has one."""


class Lease:
    """Beats for one worker.  `allows_memory_reads` is asked at every read, in the turn of the loop that answers it."""

    def __init__(self, connect: OpenConnection, worker: str, *, beat_s: float, lease_s: float) -> None:
        self._connect = connect
        self._worker = worker
        self._beat_s = beat_s
        self.lease_s = lease_s
        self._until = 0.0
        self.acknowledged_at = -math.inf
        """When the last acknowledged heartbeat was sent, by `boottime`."""
        self.unbroken_since = -math.inf
        """When the first heartbeat was sent after the last silence of `DATABASE_SILENCE_S`, by `boottime`."""
        self.lost_sessions = 0
        self._tasks = BackgroundTasks()

    def allows_memory_reads(self) -> bool:
        """Whether no peer can have fenced this incarnation yet."""
        return boottime() < self._until

    def expire(self) -> None:
        """End the lease at once: what it was given for is no longer known to hold."""
        self._until = 0.0

    async def keep(self, incarnation: str, locked: asyncio.Event) -> None:
        """Lock and beat until the incarnation is fenced, which raises `Fenced`.

        A lost session is replaced at once, not when the next beat is due: without its lock the incarnation lives no
        longer than `LOCK_GONE_S`.  ``connect`` pauses before a session that broke as soon as it was opened.
        """
        try:
            while True:
                connection = await self._connect("lease")
                try:
                    await self._beat(connection, incarnation, locked)
                except CONNECTION_ERRORS as error:
                    self.lost_sessions += 1
                    log.warning("lease session lost", extra={"worker": self._worker, "cause": repr(error)})
                finally:
                    connection.terminate()
        finally:
            self._until = 0.0

    async def close(self) -> None:
        """Wait for the ends of second sessions; `keep` has ended before."""
        await self._tasks.close()

    async def _beat(self, connection: asyncpg.Connection, incarnation: str, locked: asyncio.Event) -> None:
        ended = asyncio.Event()
        connection.add_termination_listener(lambda _: ended.set())
        if not await self._answer(store.lock(connection, self._worker, incarnation)):
            raise Fenced(incarnation)
        for number in itertools.count(1):
            sent = boottime()
            if not await self._answer(store.heartbeat(connection, self._worker, incarnation, number)):
                raise Fenced(incarnation)
            self._until = sent + self.lease_s
            if sent - self.acknowledged_at > DATABASE_SILENCE_S:
                self.unbroken_since = sent
            self.acknowledged_at = sent
            locked.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._beat_s):
                    await ended.wait()

    async def _answer(self, statement: Awaitable[bool]) -> bool:
        """The result of a statement within its deadline.  While the answer is late, a second session tries the address."""
        beside: list[asyncio.Task[None]] = []
        late = asyncio.get_running_loop().call_later(
            _LATE_S, lambda: beside.append(self._tasks.spawn(self._open_beside(), name="lease-beside"))
        )
        try:
            async with asyncio.timeout(_STATEMENT_S):
                return await statement
        finally:
            late.cancel()
            for task in beside:  # not awaited here: the next beat must not wait for the end of a connection attempt
                task.cancel()

    async def _open_beside(self) -> None:
        """Open a session and close it: a server that is newer than ours ends every session of ours as it is opened."""
        (await self._connect("probe")).terminate()
