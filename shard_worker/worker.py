"""One worker process: the wiring of its components, from the first socket to the last flush.

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
import time
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

from prometheus_client.registry import Collector

from shard_worker.actors.context import ActorContext, JournalAccess, PendingBounds, SnapshotPolicy
from shard_worker.actors.passivation import LruPassivation
from shard_worker.actors.peer_handler import PeerHandler
from shard_worker.actors.region import ShardRegion
from shard_worker.actors.shard_host import LocalShardHost
from shard_worker.actors.shard_table import ShardTable
from shard_worker.actors.thread_actor import ThreadActor
from shard_worker.contract_internal import ENVIRONMENT_PREFIX
from shard_worker.database.connection import CONNECTION_ERRORS, Database
from shard_worker.database.migration import read_id_salt, read_meta
from shard_worker.database.reconnecting import Backoff
from shard_worker.database.roles import excess_privileges
from shard_worker.database.tls import Tls
from shard_worker.domain.ids import ShardId
from shard_worker.domain.limits import Limits
from shard_worker.gateway.http.capacity import Bounds
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.management.server import ManagementPort
from shard_worker.gateway.public.server import PublicGateway, inherited_socket, listening_socket
from shard_worker.journal import codec
from shard_worker.journal.appender import Appender, BatchBounds
from shard_worker.journal.heads import AcknowledgedHeads
from shard_worker.journal.idempotency import StoredKey, look_up_key
from shard_worker.journal.loader import ThreadLoader, read_head
from shard_worker.journal.message_reader import MessageReader
from shard_worker.journal.snapshots import SnapshotWriter
from shard_worker.loop_watchdog import LoopWatchdog
from shard_worker.management_view import WorkerView
from shard_worker.memory import MemoryBudget, default_budget
from shard_worker.memory_trimmer import MemoryTrimmer
from shard_worker.metrics import DatabaseMetrics, MemoryMetrics, OwnershipMetrics
from shard_worker.ownership.membership import Ownership
from shard_worker.ownership.store import Address
from shard_worker.ownership.view import Capabilities
from shard_worker.peers.client import PeerClient
from shard_worker.peers.frames import VERSION, Hello
from shard_worker.peers.identity import SecretFile, WorkerIdentity
from shard_worker.peers.listener import ManagementListener
from shard_worker.peers.metrics import PeerMetrics
from shard_worker.peers.refusals import Refusals
from shard_worker.peers.server import PeerServer
from shard_worker.settings import InvalidSettings, WorkerSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

_WATCH_S: Final = 0.5
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
    async with AsyncExitStack() as stack:
        worker = await _build(settings, stack, stopping)
        if worker is not None:
            await worker.until(stopping)
            await worker.leave()


def _parent_gone(loop: asyncio.AbstractEventLoop, fd: int, stopping: asyncio.Event) -> None:
    if not os.read(fd, 1):
        loop.remove_reader(fd)
        log.warning("the supervisor is gone; leaving")
        stopping.set()


async def _build(settings: WorkerSettings, stack: AsyncExitStack, stopping: asyncio.Event) -> "Worker | None":
    """Bind, connect and wire; None when a stop was requested meanwhile."""
    write_format = codec.DEFAULT_WRITE_FORMAT if settings.write_format is None else settings.write_format
    try:
        encode = codec.encoder(write_format)
    except ValueError as error:
        raise InvalidSettings(f"{ENVIRONMENT_PREFIX}WRITE_FORMAT: {error}") from error
    public = stack.enter_context(listening_socket(settings.bind, settings.public_port))
    management = stack.enter_context(listening_socket(settings.bind, settings.management_port))
    sockets = [public]
    if settings.public_fd is not None:
        sockets.append(stack.enter_context(inherited_socket(settings.public_fd)))
    secrets = settings.cluster_secrets()
    incarnation = "starting"

    snapshots: SnapshotWriter | None = None

    def failover() -> None:
        known = ownership.failed_over()
        if snapshots is not None:  # a fail-over may come while the first sessions are opened
            snapshots.forget_all()
        peers.introduce(known)

    database = Database(
        settings.database,
        application_name=lambda: incarnation_now(),
        on_failover=failover,
        tls=Tls(settings.database_tls, settings.database_ca_file),
    )

    def incarnation_now() -> str:
        return ownership.incarnation or incarnation

    address = Address(settings.host, public.getsockname()[1], management.getsockname()[1])
    heads = AcknowledgedHeads(on_lost=lambda shard_id: host.drop(shard_id))
    connect = heads.compared(database.connect)
    ownership = Ownership(
        connect,
        settings.name,
        address,
        beat_s=settings.beat_seconds,
        lease_s=settings.lease_seconds,
        greet=lambda known: peers.greet(known),
        capabilities=Capabilities(reads=codec.newest_format(), writes=write_format, state=codec.STATE_VERSION),
    )
    identity = WorkerIdentity(secrets, lambda: ownership.incarnation)

    def hello() -> Hello:
        newest = database.newest
        history = (0, "") if newest is None else newest.position
        return Hello(VERSION, ownership.incarnation, *history)

    def heard(hello: Hello) -> None:
        database.learn(hello.timeline, hello.generation)

    peers = PeerClient(identity, hello, heard=heard)
    stack.push_async_callback(peers.close)
    known = await _unless(stopping, _known(database, settings))
    if known is None:
        return None
    shards, id_salt, excess = known
    pool = await database.pool(most=settings.read_connections)
    stack.callback(pool.terminate)

    def heat(shard_id: ShardId) -> float:
        load = ownership.view.loads.get(shard_id)
        return 0.0 if load is None else load.commands_s

    trimmer = MemoryTrimmer()
    stack.push_async_callback(trimmer.close)
    trimmer.start()
    memory = MemoryBudget(settings.memory_budget_bytes or default_budget())
    snapshots = SnapshotWriter(pool, memory=memory)
    stack.push_async_callback(snapshots.close)
    loader = ThreadLoader(pool, at_once=settings.concurrent_loads, heat=heat, keep=snapshots.save)
    stack.push_async_callback(loader.close)

    messages = MessageReader(pool)

    async def key_of(shard_id: ShardId, thread_uuid: UUID, key_hash: bytes) -> StoredKey | None:
        return await pool.run(lambda connection: look_up_key(connection, shard_id, thread_uuid, key_hash))

    async def head_of(shard_id: ShardId) -> int:
        return await pool.run(lambda connection: read_head(connection, shard_id))

    env = ActorContext(
        journal=JournalAccess(loader.load, key_of, messages.read, head_of, snapshots.save),
        memory_reads_allowed=ownership.lease.allows_memory_reads,
        limits=Limits(
            messages=settings.max_messages, administrators=settings.max_administrators, members=settings.max_members
        ),
        bounds=PendingBounds(
            per_thread=settings.max_pending_per_thread,
            total=settings.max_pending_total,
            bytes_per_thread=settings.max_pending_bytes_per_thread,
            total_bytes=min(settings.max_pending_bytes, memory.limit // 2),
        ),
        snapshots=SnapshotPolicy(settings.snapshot_every_events, settings.snapshot_every_bytes),
        memory=memory,
        encode=encode,
    )
    appender = Appender(
        connect=connect,
        bump_epochs=ownership.raise_epochs,
        incarnation=lambda: ownership.incarnation,
        lanes=settings.append_connections,
        batch=BatchBounds(settings.batch_max_events, settings.batch_max_bytes),
        watchdog_s=settings.append_watchdog_seconds,
        watch=heads.watch,
    )
    residents: LruPassivation[ThreadActor] = LruPassivation(
        most=settings.max_resident_threads,
        idle_s=settings.passivation_idle_seconds,
        clock=time.monotonic,
        memory=memory,
    )
    table = ShardTable(shards, residents)
    region = ShardRegion(worker=settings.name, env=env, table=table, owners=ownership, peers=peers)
    host = LocalShardHost(env=env, appender=appender, residents=residents, table=table, region=region, peers=peers)
    handler = PeerHandler(worker=settings.name, table=table, region=region, host=host, owners=ownership)
    gateway = PublicGateway(
        region,
        GatewayOptions(
            request_timeout_s=settings.body_seconds,
            budget_s=settings.command_budget_seconds,
            documentation=settings.docs_enabled,
            cors_origins=settings.cors_origins,
            allowed_hosts=settings.allowed_hosts,
            id_salt=id_salt,
            cursor_key=_cursor_key(id_salt),
            bounds=Bounds(
                connections=settings.max_connections,
                body_bytes=settings.max_body_bytes_in_flight,
                answer_bytes=settings.max_answer_bytes_in_flight,
            ),
        ),
    )
    stack.callback(gateway.close)
    watchdog = LoopWatchdog()
    collectors = (
        MemoryMetrics(memory, residents, loader, snapshots, messages),
        watchdog,
        DatabaseMetrics(database, heads),
    )
    refusals = Refusals()
    peer_server = PeerServer(handler.serve, hello, heard=heard, refusals=refusals)
    links = Links(identity, peers, peer_server, refusals)
    worker = Worker(settings, ownership, host, appender, gateway, links, collectors, excess)
    watchdog.start()
    stack.callback(watchdog.close)
    snapshots.start()
    stack.push_async_callback(appender.close)
    stack.push_async_callback(host.close)
    stack.push_async_callback(ownership.close)
    await worker.start(sockets, management)
    return worker


def _cursor_key(salt: bytes) -> bytes:
    """The key of the cursors' digests: by the database's salt, which a rotation of the secret does not change."""
    return sha256(b"cursors " + salt).digest()


async def _unless(stopping: asyncio.Event, work: Coroutine[object, object, T]) -> T | None:
    """The result of ``work``, or None when a stop is requested before."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stopping.wait())
    await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
        return None
    return task.result()


async def _known(database: Database, settings: WorkerSettings) -> tuple[int, bytes, list[str]]:
    """The shard count, the salt of derived ids and the login's excess rights, once the database answers; logs each retry.

    The excess rights are rights on the journal that no worker needs.
    """
    backoff = Backoff()
    while True:
        connection = await database.connect("start")
        try:
            shards = await read_meta(connection, cluster_id=settings.cluster, shards=settings.shards)
            id_salt = await read_id_salt(connection)
            excess = await excess_privileges(connection)
        except CONNECTION_ERRORS as error:
            log.warning("Postgres went away at the start; trying again", extra={"cause": repr(error)})
            await asyncio.sleep(backoff.next_s())
        else:
            if excess:
                log.warning(
                    "database login may change the journal's history; give it the role threadcluster_worker alone",
                    extra={"worker": settings.name, "privileges": excess},
                )
            return shards, id_salt, excess
        finally:
            connection.terminate()


class Links(NamedTuple):
    """This worker's ends of the links to its peers."""

    identity: WorkerIdentity
    client: PeerClient
    server: PeerServer
    refusals: Refusals


class Worker:
    """The running parts, and the two things done to all of them: watching and leaving."""

    def __init__(
        self,
        settings: WorkerSettings,
        ownership: Ownership,
        host: LocalShardHost,
        appender: Appender,
        gateway: PublicGateway,
        links: "Links",
        collectors: Sequence[Collector],
        excess: Sequence[str] = (),
    ) -> None:
        self._excess = excess
        """Rights of the database's login on the journal that no worker needs."""
        self._settings = settings
        self._ownership = ownership
        self._host = host
        self._appender = appender
        self._gateway = gateway
        self._links = links
        self._collectors = collectors
        self._listener: ManagementListener | None = None
        self._port: ManagementPort | None = None
        self._rotation: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None

    async def start(self, sockets: Sequence[socket.socket], management: socket.socket) -> None:
        """Open the ports and join the cluster."""
        view = WorkerView(
            self._settings.name,
            self._ownership,
            self._host,
            self._appender,
            self.begin_leaving,
            self._excess,
            secrets=lambda: self._links.identity.fingerprints,
        )
        options = GatewayOptions(allowed_hosts=self._settings.allowed_hosts)
        port = self._port = ManagementPort(view, self._gateway.metrics, options, self._links.refusals)
        port.registry.register(OwnershipMetrics(self._ownership, self._host, self._appender, self._excess))
        for collector in self._collectors:
            port.registry.register(collector)
        self._listener = ManagementListener(
            self._links.identity,
            plain=port.plain_protocol,
            internal=port.internal_protocol,
            peer=self._links.server.protocol,
            refusals=self._links.refusals,
        )
        port.registry.register(PeerMetrics(self._listener, self._links.server))
        self._listener.start(management)
        if self._settings.secret_file is not None:
            secret_file = SecretFile(self._settings.cluster_secrets, self._rotated)
            self._rotation = asyncio.create_task(secret_file.watch(), name="secret-file")
        self._appender.start()
        self._host.start()
        self._ownership.start(self._host)
        await self._gateway.start(sockets)
        log.info(
            "serving",
            extra={
                "worker": self._settings.name,
                "public_port": sockets[0].getsockname()[1],
                "management_port": management.getsockname()[1],
            },
        )
        if self._settings.ready_file is not None:
            _write_ready(self._settings.ready_file, self._settings.name, sockets[0], management)

    async def until(self, stopping: asyncio.Event) -> None:
        """Return when a stop is requested.  Raises `WorkerFailed` when a part has ended by itself."""
        while not stopping.is_set():
            try:
                async with asyncio.timeout(_WATCH_S):
                    await stopping.wait()
            except TimeoutError:
                fault = self._appender.fault() or self._ownership.fault() or self._host.fault()
                if fault is None and self._rotation is not None and self._rotation.done():
                    fault = self._rotation.exception()
                if fault is not None:
                    raise WorkerFailed(f"a part of the worker ended: {fault!r}") from fault

    def _rotated(self, secrets: tuple[bytes, ...]) -> None:
        """Hold other values of the secret from now on, and end what was made by one that is held no more."""
        self._links.identity.hold(secrets)
        held = self._links.identity.fingerprints
        log.info("secret rotated", extra={"worker": self._settings.name, "secrets": list(held)})
        self._links.client.retire(held)
        self._links.server.retire(held)
        if self._port is not None:
            self._port.retire(held)

    def begin_leaving(self) -> None:
        """Hand the shards over, and ask clients to go elsewhere, while requests are still forwarded.

        SIGTERM and `shard-worker leave` begin alike; only SIGTERM ends the process.  May be called again.
        """
        if self._leaving is None:
            log.info("leaving", extra={"worker": self._settings.name})
            self._gateway.leave()
            self._leaving = asyncio.create_task(self._ownership.leave(), name="leave")

    async def leave(self) -> None:
        """Give everything up in order, within the drain time, and close."""
        self.begin_leaving()
        assert self._leaving is not None  # begun
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.drain_seconds
        try:
            async with asyncio.timeout_at(deadline):
                await self._leaving
        except TimeoutError:
            log.error("shards not given up in time", extra={"worker": self._settings.name})
        await self._gateway.drain(max(_FORWARD_GRACE_S, min(deadline - loop.time(), self._settings.drain_seconds)))
        await self._links.server.close(_GOODBYE_S)
        if self._rotation is not None:
            self._rotation.cancel()
        if self._listener is not None:
            self._listener.stop()
        if self._port is not None:
            self._port.close()
        log.info("left", extra={"worker": self._settings.name})


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
