"""Builders of a worker's parts: every constructor and every callback from one part to another.

The parts come in two groups.  `ClusterParts` finds out whether this process may serve: it reaches the database and the
other workers.  `ServingParts` needs what the database answered.  Nothing is started here, and no constructor opens a
connection, so that a build that fails half-way leaves nothing to close.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

from prometheus_client.registry import Collector

from shard_worker.actors.context import (
    ActorContext,
    JournalAccess,
    NoProjection,
    NotifyingProjection,
    PendingBounds,
    SnapshotPolicy,
)
from shard_worker.actors.passivation import LruPassivation
from shard_worker.actors.peer_handler import PeerHandler
from shard_worker.actors.region import ShardRegion
from shard_worker.actors.shard_host import LocalShardHost
from shard_worker.actors.shard_table import ShardTable
from shard_worker.actors.thread_actor import ThreadActor
from shard_worker.contract_internal import ENVIRONMENT_PREFIX, HealthCounters
from shard_worker.database.claim import Claimant
from shard_worker.database.connection import CONNECTION_ERRORS, Database, OpenConnection, ReadPool
from shard_worker.database.migration import read_id_salt, read_meta
from shard_worker.database.planning import BY_INDEX, set_up_statements
from shard_worker.database.reconnecting import Backoff
from shard_worker.database.replica import Replica
from shard_worker.database.roles import excess_privileges
from shard_worker.database.tls import Tls
from shard_worker.domain.ids import ShardId
from shard_worker.domain.limits import Limits
from shard_worker.gateway.http.capacity import Bounds
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.management.server import ManagementPort
from shard_worker.gateway.public.server import PublicGateway, inherited_socket, listening_socket
from shard_worker.gateway.public.streams import problem_json
from shard_worker.health import Readings, WorkerHealth
from shard_worker.journal import codec
from shard_worker.journal.append_lane import BatchBounds
from shard_worker.journal.appender import Appender
from shard_worker.journal.heads import AcknowledgedHeads
from shard_worker.journal.idempotency import StoredKey, epoch_of, look_up_key
from shard_worker.journal.inspector import ThreadInspector
from shard_worker.journal.loader import ThreadLoader, read_head
from shard_worker.journal.message_reader import MessageReader
from shard_worker.journal.page_reader import PageReader
from shard_worker.journal.snapshots import SnapshotWriter
from shard_worker.loop_watchdog import LoopWatchdog
from shard_worker.management_view import WorkerView
from shard_worker.memory import MemoryBudget, default_budget
from shard_worker.memory_trimmer import MemoryTrimmer
from shard_worker.metrics import DatabaseMetrics, MemoryMetrics, OwnershipMetrics, ReadModelMetrics, StreamsMetrics
from shard_worker.ownership.membership import Ownership, Registration
from shard_worker.ownership.store import Address
from shard_worker.ownership.view import Capabilities
from shard_worker.peers.client import PeerClient
from shard_worker.peers.frames import STREAMS, VERSION, Hello
from shard_worker.peers.identity import WorkerIdentity
from shard_worker.peers.listener import ManagementListener
from shard_worker.peers.metrics import PeerMetrics
from shard_worker.peers.refusals import Refusals
from shard_worker.peers.server import PeerServer
from shard_worker.readmodel import rules
from shard_worker.readmodel.markers import MarkerWriter
from shard_worker.readmodel.queries import ReadModelQueries
from shard_worker.readmodel.sources import SET_UP, QuerySources, WatchedReplica
from shard_worker.readmodel.updater import ReadModelUpdater
from shard_worker.settings import InvalidSettings, WorkerSettings
from shard_worker.streams.hub import StreamBounds, StreamHub
from shard_worker.tasks import FirstFailure

log = logging.getLogger(__name__)


# --- sockets


class BoundSockets:
    """The bound sockets of a worker; closes those that it has bound when a later one cannot be."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.public = listening_socket(settings.bind, settings.public_port)
        self.inherited: socket.socket | None = None
        try:
            self.management = listening_socket(settings.bind, settings.management_port)
        except OSError:
            self.public.close()
            raise
        if settings.public_fd is not None:
            try:
                self.inherited = inherited_socket(settings.public_fd)
            except OSError:
                self.close()
                raise

    def for_gateway(self) -> list[socket.socket]:
        """The sockets of the public port: the worker's own, and the one that its supervisor handed down."""
        return [self.public, *([] if self.inherited is None else [self.inherited])]

    def address(self, host: str) -> Address:
        """Where clients and peers find this worker."""
        return Address(host, self.public.getsockname()[1], self.management.getsockname()[1])

    def close(self) -> None:
        """Close every socket."""
        for bound in (*self.for_gateway(), self.management):
            bound.close()


# --- the database and the other workers


@dataclass(frozen=True, slots=True)
class ClusterParts:
    """How a worker reaches the database and the other workers."""

    database: Database
    heads: AcknowledgedHeads
    connect: OpenConnection
    """Opens a session of the database, and compares its journal with the acknowledged heads."""
    ownership: Ownership
    identity: WorkerIdentity
    peers: PeerClient
    hello: Callable[[], Hello]
    """The first frame to a peer: the newest history of the database that this worker knows."""
    heard: Callable[[Hello], None]


def write_format(settings: WorkerSettings) -> int:
    """The format of new events.  Raises `InvalidSettings` for a format that this release does not write."""
    chosen = codec.DEFAULT_WRITE_FORMAT if settings.write_format is None else settings.write_format
    try:
        codec.encoder(chosen)
    except ValueError as error:
        raise InvalidSettings(f"{ENVIRONMENT_PREFIX}WRITE_FORMAT: {error}") from error
    return chosen


def claimant_of(settings: WorkerSettings) -> Claimant:
    """The worker's cluster, as the database's claim knows it."""
    return Claimant(settings.cluster, settings.cluster_uid, settings.cluster_name, settings.cluster_site)


def build_cluster(
    settings: WorkerSettings,
    address: Address,
    *,
    on_failover: Callable[[], None],
    on_lost: Callable[[ShardId], None],
) -> ClusterParts:
    """The parts that the first session of the database needs.

    ``on_failover`` is called when the database failed over, ``on_lost`` for a shard whose acknowledged events are gone.
    """
    database = Database(
        settings.database,
        application_name=lambda: ownership.incarnation or "starting",
        on_failover=on_failover,
        tls=Tls(settings.database_tls, settings.database_ca_file),
    )
    heads = AcknowledgedHeads(on_lost=on_lost)
    connect = heads.compared(database.connect)
    ownership = Ownership(
        connect,
        settings.name,
        address,
        beat_s=settings.beat_seconds,
        lease_s=settings.lease_seconds,
        greet=lambda known: peers.greet(known),
        registration=Registration(
            Capabilities(
                reads=codec.newest_format(),
                writes=write_format(settings),
                state=codec.STATE_VERSION,
                readmodel=rules.versions(),
            ),
            claimant_of(settings),
        ),
    )
    identity = WorkerIdentity(settings.cluster_secrets(), lambda: ownership.incarnation)

    def hello() -> Hello:
        newest = database.newest
        history = (0, "") if newest is None else newest.position
        return Hello(VERSION, ownership.incarnation, *history, features=STREAMS)

    def heard(hello: Hello) -> None:
        database.learn(hello.timeline, hello.generation)

    peers = PeerClient(identity, hello, heard=heard)
    return ClusterParts(database, heads, connect, ownership, identity, peers, hello, heard)


class DatabaseFacts(NamedTuple):
    """Facts that a worker reads from the database before it serves."""

    shards: int
    id_salt: bytes
    """The salt of derived ids."""
    excess: list[str]
    """Rights of the login on the journal that no worker needs."""


async def read_facts(database: Database, settings: WorkerSettings) -> DatabaseFacts:
    """The facts, once the database answers; logs each retry."""
    backoff = Backoff()
    while True:
        connection = await database.connect("start")
        try:
            shards = await read_meta(
                connection, cluster_id=settings.cluster, shards=settings.shards, claimant=claimant_of(settings)
            )
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
            return DatabaseFacts(shards, id_salt, excess)
        finally:
            connection.terminate()


# --- what serves


@dataclass(frozen=True, slots=True)
class QueryPools:
    """The sessions that queries of the read model are asked over."""

    primary: ReadPool
    replica: WatchedReplica | None


async def open_journal_pool(settings: WorkerSettings, cluster: ClusterParts) -> ReadPool:
    """The sessions over which the journal is read and snapshots are written; none is opened yet."""
    return await cluster.database.pool(most=settings.read_connections, statements=set_up_statements(BY_INDEX))


async def open_query_pools(settings: WorkerSettings, cluster: ClusterParts) -> QueryPools:
    """The pools; no connection is opened yet."""
    primary = await cluster.database.pool(most=settings.query_connections, statements=SET_UP)
    if settings.replica is None:
        return QueryPools(primary, None)
    replica = Replica(
        settings.replica,
        cluster.database,
        application_name=lambda: cluster.ownership.incarnation or "starting",
        tls=Tls(settings.database_tls, settings.database_ca_file),
    )
    pool = await replica.pool(most=settings.query_connections, statements=SET_UP)
    return QueryPools(primary, WatchedReplica(replica, pool, primary))


@dataclass(frozen=True, slots=True)
class JournalParts:
    """The worker's ways to the journal."""

    pool: ReadPool
    queries: "QueryPools"
    memory: MemoryBudget
    snapshots: SnapshotWriter
    loader: ThreadLoader
    messages: MessageReader
    pages: PageReader
    appender: Appender
    updater: ReadModelUpdater


@dataclass(frozen=True, slots=True)
class ActorParts:
    """The shards and their actors."""

    residents: LruPassivation[ThreadActor]
    region: ShardRegion
    host: LocalShardHost
    handler: PeerHandler
    projection: NotifyingProjection


@dataclass(frozen=True, slots=True)
class ServingParts:
    """All parts that serve requests."""

    journal: JournalParts
    host: LocalShardHost
    streams: StreamHub
    gateway: PublicGateway
    peer_server: PeerServer
    port: ManagementPort
    listener: ManagementListener
    watchdog: LoopWatchdog
    trimmer: MemoryTrimmer


def build_serving(
    settings: WorkerSettings,
    cluster: ClusterParts,
    pools: tuple[ReadPool, QueryPools],
    facts: DatabaseFacts,
    *,
    failure: FirstFailure,
    leave: Callable[[], None],
) -> ServingParts:
    """The parts that serve; ``/livez`` shows ``failure``, and ``leave`` begins to leave when a client asks for it."""
    pool, queries = pools
    journal = _build_journal(settings, cluster, pool, queries)
    actors = _build_actors(settings, cluster, journal, facts.shards)
    read_model = ReadModelQueries(QuerySources(queries.primary, queries.replica), MarkerWriter(pool))
    streams = StreamHub(
        actors.region,
        cluster.ownership,
        pool,
        worker=settings.name,
        shards=facts.shards,
        bounds=StreamBounds(
            account=settings.max_streams_per_account,
            worker=settings.max_streams,
            memory=journal.memory,
            position_key=_cursor_key(facts.id_salt),
        ),
        problem=problem_json,
    )
    actors.projection.on_stored = streams.accounts.tail.wake
    gateway = _build_gateway(settings, actors.region, read_model, streams, facts.id_salt)
    watchdog = LoopWatchdog()
    refusals = Refusals()
    peer_server = PeerServer(actors.handler.serve, cluster.hello, heard=cluster.heard, refusals=refusals)
    view = WorkerView(
        settings.name,
        cluster.ownership,
        actors.host,
        failure,
        leave,
        health=_health(cluster, journal, facts.excess),
        inspector=ThreadInspector(queries.primary),
    )
    port = ManagementPort(view, gateway.metrics, GatewayOptions(allowed_hosts=settings.allowed_hosts), refusals)
    listener = ManagementListener(
        cluster.identity,
        plain=port.plain_protocol,
        internal=port.internal_protocol,
        peer=peer_server.protocol,
        refusals=refusals,
    )
    collectors: tuple[Collector, ...] = (
        OwnershipMetrics(cluster.ownership, actors.host, journal.appender, facts.excess),
        MemoryMetrics(journal.memory, actors.residents, journal.loader, journal.snapshots, journal.messages),
        ReadModelMetrics(journal.updater, queries.replica),
        StreamsMetrics(streams),
        watchdog,
        DatabaseMetrics(cluster.database, cluster.heads),
        PeerMetrics(listener, peer_server),
    )
    for collector in collectors:
        port.registry.register(collector)
    return ServingParts(journal, actors.host, streams, gateway, peer_server, port, listener, watchdog, MemoryTrimmer())


def _health(cluster: ClusterParts, journal: JournalParts, excess: Sequence[str]) -> WorkerHealth:
    ownership, database = cluster.ownership, cluster.database

    def readings() -> Readings:
        lease = ownership.lease
        return Readings(lease.acknowledged_at, lease.unbroken_since, ownership.view_read_at)

    def counters() -> HealthCounters:
        return HealthCounters(
            fencings=ownership.fencings,
            takeovers=ownership.handoffs.takeovers,
            lease_sessions_lost=ownership.lease.lost_sessions,
            handoffs_aborted=ownership.handoffs.aborted,
            unknown_outcomes=journal.appender.metrics.unknown,
            acknowledged_lost_events=cluster.heads.lost_events,
            database_connects_failed=database.refusals.total(),
            database_failovers=database.failovers,
        )

    return WorkerHealth(
        readings,
        lambda: database.fault,
        counters,
        secrets=lambda: cluster.identity.fingerprints,
        excess=excess,
        read_model=lambda: journal.updater.overview,
    )


def _build_journal(
    settings: WorkerSettings, cluster: ClusterParts, pool: ReadPool, queries: QueryPools
) -> JournalParts:
    ownership = cluster.ownership

    def heat(shard_id: ShardId) -> float:
        load = ownership.view.loads.get(shard_id)
        return 0.0 if load is None else load.commands_s

    memory = MemoryBudget(settings.memory_budget_bytes or default_budget())
    snapshots = SnapshotWriter(pool, memory=memory)
    loader = ThreadLoader(pool, at_once=settings.concurrent_loads, heat=heat, keep=snapshots.save)
    appender = Appender(
        connect=cluster.connect,
        bump_epochs=ownership.raise_epochs,
        incarnation=lambda: ownership.incarnation,
        lanes=settings.append_connections,
        batch=BatchBounds(settings.batch_max_events, settings.batch_max_bytes),
        watchdog_s=settings.append_watchdog_seconds,
        watch=cluster.heads.watch,
    )
    updater = ReadModelUpdater(cluster.database.connect)
    pages = PageReader(pool)
    return JournalParts(pool, queries, memory, snapshots, loader, MessageReader(pool), pages, appender, updater)


def _build_actors(settings: WorkerSettings, cluster: ClusterParts, journal: JournalParts, shards: int) -> ActorParts:
    pool, memory, ownership, peers = journal.pool, journal.memory, cluster.ownership, cluster.peers

    async def key_of(shard_id: ShardId, thread_uuid: UUID, key_hash: bytes) -> StoredKey | None:
        return await pool.run(lambda connection: look_up_key(connection, shard_id, thread_uuid, key_hash))

    async def epoch_at(shard_id: ShardId, thread_uuid: UUID, seq_nr: int) -> int:
        return await pool.run(lambda connection: epoch_of(connection, shard_id, thread_uuid, seq_nr))

    async def head_of(shard_id: ShardId) -> int:
        return await pool.run(lambda connection: read_head(connection, shard_id))

    projection = NotifyingProjection(journal.updater if settings.projection_enabled else NoProjection())
    env = ActorContext(
        journal=JournalAccess(
            journal.loader.load,
            key_of,
            journal.messages.read,
            head_of,
            journal.snapshots.save,
            epoch_at,
            journal.pages.read,
            projection,
        ),
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
        encode=codec.encoder(write_format(settings)),
    )
    residents: LruPassivation[ThreadActor] = LruPassivation(
        most=settings.max_resident_threads,
        idle_s=settings.passivation_idle_seconds,
        clock=time.monotonic,
        memory=memory,
    )
    table = ShardTable(shards, residents)
    region = ShardRegion(worker=settings.name, env=env, table=table, owners=ownership, peers=peers)
    host = LocalShardHost(
        env=env, appender=journal.appender, residents=residents, table=table, region=region, peers=peers
    )
    handler = PeerHandler(worker=settings.name, table=table, region=region, host=host, owners=ownership)
    return ActorParts(residents, region, host, handler, projection)


def _build_gateway(
    settings: WorkerSettings, region: ShardRegion, read_model: ReadModelQueries, streams: StreamHub, id_salt: bytes
) -> PublicGateway:
    return PublicGateway(
        region,
        GatewayOptions(
            request_timeout_s=settings.body_seconds,
            budget_s=settings.command_budget_seconds,
            read_model_answers=settings.query_source == "read-model",
            documentation=settings.docs_enabled,
            console_url=settings.console_url,
            lane=settings.lane_enabled,
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
        read_model=read_model,
        streams=streams,
    )


def _cursor_key(salt: bytes) -> bytes:
    """The key of the cursors' digests: by the database's salt, which a rotation of the secret does not change."""
    return sha256(b"cursors " + salt).digest()
