"""One worker process: starts its parts, watches them, and closes them in order.

Order matters twice.  Starting: sockets are bound before the worker is registered, so that no peer learns an address
that refuses.  Stopping: the public port stops accepting, shards are flushed and released while this worker still
forwards, what is in flight is answered, and only then do the connections close.
"""

import asyncio
import json
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from shard_worker.domain.ids import ShardId
from shard_worker.peers.identity import SecretFile
from shard_worker.settings import WorkerSettings
from shard_worker.tasks import BackgroundTasks, FirstFailure, run_until
from shard_worker.worker_parts import (
    BoundSockets,
    ClusterParts,
    ServingParts,
    build_cluster,
    build_serving,
    open_journal_pool,
    open_query_pools,
    read_facts,
    write_format,
)

log = logging.getLogger(__name__)

_FORWARD_GRACE_S: Final = 0.3
_GOODBYE_S: Final = 1.0
"""How long peers may take to have their answers and hang up."""


class WorkerFailed(Exception):
    """A part that must never end has ended; the process ends too, and its supervisor starts another."""


async def run_worker(settings: WorkerSettings) -> None:
    """Run one worker until SIGTERM, SIGINT or the end of its supervisor; returns when it has left in order.

    Raises `WorkerFailed` when a part of it broke, `shard_worker.database.connection.DatabaseError` when the database
    may not carry a journal or is another cluster's, `OSError` when a port is taken.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if settings.parent_fd is not None:
        loop.add_reader(settings.parent_fd, _parent_gone, loop, settings.parent_fd, stopping)
    worker = Worker(settings)
    try:
        if await worker.start(stopping):
            await worker.until(stopping)
            await worker.leave()
    finally:
        await worker.close()


def _parent_gone(loop: asyncio.AbstractEventLoop, fd: int, stopping: asyncio.Event) -> None:
    if not os.read(fd, 1):
        loop.remove_reader(fd)
        log.warning("the supervisor is gone; leaving")
        stopping.set()


class Worker:
    """The parts of one worker.  `close` it whatever became of `start`."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._failure = FirstFailure()
        self._tasks = BackgroundTasks(self._failure.report)
        self._sockets: BoundSockets | None = None
        self._cluster: ClusterParts | None = None
        self._serving: ServingParts | None = None
        self._leaving: asyncio.Task[None] | None = None

    async def start(self, stopping: asyncio.Event) -> bool:
        """Bind, reach the database, and join the cluster; False when a stop was requested before the database answered."""
        settings = self._settings
        write_format(settings)  # a wrong setting is reported before a port is bound
        sockets = self._sockets = BoundSockets(settings)
        cluster = self._cluster = build_cluster(
            settings, sockets.address(settings.host), on_failover=self._failed_over, on_lost=self._journal_lost
        )
        facts = await run_until(stopping, read_facts(cluster.database, settings), name="read-facts")
        if facts is None:
            return False
        pool = await open_journal_pool(settings, cluster)
        queries = await open_query_pools(settings, cluster)
        serving = self._serving = build_serving(
            settings, cluster, (pool, queries), facts, failure=self._failure, leave=self.begin_leaving
        )
        report = self._failure.report
        serving.watchdog.start()
        serving.trimmer.start(report)
        # The management port first: probes are answered, and peers are greeted, before the worker is registered.
        serving.listener.start(sockets.management)
        if settings.secret_file is not None:
            secret_file = SecretFile(settings.cluster_secrets, self._rotated)
            self._tasks.start(secret_file.watch(), name="secret-file")
        if queries.replica is not None:
            queries.replica.start(report)
        # Before the membership, which adopts shards that append, load and keep snapshots.
        serving.journal.snapshots.start(report)
        serving.journal.appender.start(report)
        if settings.projection_enabled:
            serving.journal.updater.start(report)
        serving.host.start(report)
        cluster.ownership.start(serving.host, report)
        serving.streams.start(report)
        # Last: a request that comes at once finds the region complete, and waits for the first view.
        await serving.gateway.start(sockets.for_gateway())
        log.info(
            "serving",
            extra={
                "worker": settings.name,
                "public_port": sockets.public.getsockname()[1],
                "management_port": sockets.management.getsockname()[1],
            },
        )
        if settings.ready_file is not None:
            _write_ready(settings.ready_file, settings.name, sockets.public, sockets.management)
        return True

    async def until(self, stopping: asyncio.Event) -> None:
        """Return when a stop is requested.  Raises `WorkerFailed` as soon as a part has ended by itself."""
        failure = await run_until(stopping, self._failure.wait(), name="await-failure")
        if failure is not None:
            raise WorkerFailed(f"a part of the worker ended: {failure}") from failure.cause

    def begin_leaving(self) -> None:
        """Hand the shards over, and ask clients to go elsewhere, while requests are still forwarded.

        SIGTERM and `shard-worker leave` begin alike; only SIGTERM ends the process.  May be called again.
        """
        self._leave_task()

    def _leave_task(self) -> "asyncio.Task[None]":
        assert self._cluster is not None  # started
        assert self._serving is not None
        if self._leaving is None:
            log.info("leaving", extra={"worker": self._settings.name})
            self._serving.gateway.leave()
            self._leaving = self._tasks.spawn(self._cluster.ownership.leave(), name="leave", essential=True)
        return self._leaving

    async def leave(self) -> None:
        """Give everything up in order, within the drain time."""
        leaving = self._leave_task()
        assert self._serving is not None  # started
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.drain_seconds
        # 1. Hand the shards over, while requests are still accepted and forwarded: a move costs no error.
        try:
            async with asyncio.timeout_at(deadline):
                await leaving
        except TimeoutError:
            log.error("shards not given up in time", extra={"worker": self._settings.name})
        # 2. Accept nothing more, and answer what is in flight: the new owners serve it.
        left_s = min(deadline - loop.time(), self._settings.drain_seconds)
        await self._serving.gateway.drain(max(_FORWARD_GRACE_S, left_s))
        # 3. Peers last: until now they had answers of requests that they forwarded here.
        await self._serving.peer_server.close(_GOODBYE_S)
        log.info("left", extra={"worker": self._settings.name})

    async def close(self) -> None:
        """Close every part that was built, whether it was started or not, after `leave` or after a failure."""
        cluster, serving, sockets = self._cluster, self._serving, self._sockets
        # The worker's own tasks: no secret is rotated, and no shard is handed over, by parts that are being closed.
        steps: list[_Step] = [self._tasks.close]
        if cluster is not None and serving is not None:
            steps += [
                # The port for probes and peers: a worker that closes answers no probe, and greets no peer.
                serving.listener.close,
                serving.port.close,
                # The membership before the shards: it adopts none meanwhile, and it needs the database once more, to
                # say that the incarnation has ended.
                cluster.ownership.close,
                # The shards before the appender: a dropped shard redirects its requests, and queues nothing.
                # The streams before the shards, which they ask.
                serving.streams.close,
                serving.host.close,
                serving.journal.appender.close,
                # After the appender, whose last events it may still project.
                serving.journal.updater.close,
                serving.watchdog.close,
                # Clients after the shards, which have answered them; before the readers, whose end they would see.
                serving.gateway.close,
                # The loader keeps snapshots on its way, and both use the pool.
                serving.journal.loader.close,
                serving.journal.pages.close,
                serving.journal.snapshots.close,
                serving.trimmer.close,
                serving.journal.pool.terminate,
                serving.journal.queries.primary.terminate,
            ]
            if (replica := serving.journal.queries.replica) is not None:
                steps.insert(-1, replica.close)
        if cluster is not None:
            # After all that asks peers, and all that opens sessions.
            steps += [cluster.peers.close, cluster.database.close]
        if sockets is not None:
            # Last: the port stays this worker's for as long as its name is in the database.
            steps.append(sockets.close)
        await _run_all(steps)

    def _failed_over(self) -> None:
        """The database failed over: nothing in memory may be trusted, and the peers must hear of it."""
        assert self._cluster is not None  # its database calls this
        known = self._cluster.ownership.failed_over()
        if self._serving is not None:  # a fail-over may come while the first sessions are opened
            self._serving.journal.snapshots.forget_all()
        self._cluster.peers.introduce(known)

    def _journal_lost(self, shard_id: ShardId) -> None:
        """The journal lost acknowledged events of a shard."""
        assert self._serving is not None  # only a shard that was adopted has an acknowledged head
        self._serving.host.drop(shard_id)

    def _rotated(self, secrets: tuple[bytes, ...]) -> None:
        """Hold other values of the secret from now on, and end what was made by one that is held no more."""
        assert self._cluster is not None  # started
        assert self._serving is not None
        self._cluster.identity.hold(secrets)
        held = self._cluster.identity.fingerprints
        log.info("secret rotated", extra={"worker": self._settings.name, "secrets": list(held)})
        self._cluster.peers.retire(held)
        self._serving.peer_server.retire(held)
        self._serving.port.retire(held)


_Step = Callable[[], Awaitable[None] | None]


async def _run_all(steps: list[_Step]) -> None:
    """Run every step in order, also after a step that raised or was cancelled; then raises the last of the errors."""
    async with AsyncExitStack() as stack:
        for step in reversed(steps):
            stack.push_async_callback(_run, step)


async def _run(step: _Step) -> None:
    waiting = step()
    if waiting is not None:
        await waiting


def _write_ready(path: Path, name: str, public: socket.socket, management: socket.socket) -> None:
    """Tell the supervisor what was bound, in one atomic step."""
    fresh = path.with_suffix(".new")
    fresh.write_text(
        json.dumps(
            {
                "name": name,
                "pid": os.getpid(),
                "publicPort": public.getsockname()[1],
                "managementPort": management.getsockname()[1],
            }
        )
    )
    fresh.replace(path)
