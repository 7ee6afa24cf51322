"""A worker's actors on a real journal, with ownership and peers played by the test."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
from ulid import ULID

from shard_worker.actors.context import ActorContext, JournalAccess, PendingBounds, SnapshotPolicy
from shard_worker.actors.passivation import LruPassivation
from shard_worker.actors.peer_handler import PeerHandler
from shard_worker.actors.region import ShardRegion
from shard_worker.actors.shard_host import LocalShardHost
from shard_worker.actors.shard_table import ShardTable
from shard_worker.actors.thread_actor import ThreadActor
from shard_worker.contract import Answer, CommandRequest, GetMessages, PeerAnswer, PeerRequest, Request
from shard_worker.database.connection import ReadPool
from shard_worker.domain.commands import AddMessages, Command, CreateThread, NewMessage
from shard_worker.domain.ids import AccountId, MessageId, ShardId, ThreadId
from shard_worker.domain.limits import Limits
from shard_worker.journal.appender import Appender
from shard_worker.journal.idempotency import StoredKey, epoch_of, look_up_key
from shard_worker.journal.loader import ThreadLoader, read_head
from shard_worker.journal.message_reader import MessageReader
from shard_worker.journal.page_reader import Listed, OnPage, PageReader
from shard_worker.journal.snapshots import SnapshotWriter
from shard_worker.memory import MemoryBudget
from shard_worker.ownership.shard_store import raise_epoch
from shard_worker.ownership.view import ShardOwner
from tests.support.polling import connected

SHARDS = 8


def account() -> AccountId:
    """A fresh account."""
    return AccountId(str(ULID()))


def thread() -> ThreadId:
    """A fresh thread id."""
    return ThreadId(str(ULID()))


def message_id() -> MessageId:
    """A fresh message id."""
    return MessageId(str(ULID()))


def create(thread_id: ThreadId, by: AccountId) -> CreateThread:
    """A thread administered by its creator."""
    return CreateThread(thread_id, by, "title", None, None, True, (by,), (), 1)


def add(thread_id: ThreadId, by: AccountId, *texts: str) -> AddMessages:
    """Messages with fresh ids."""
    return AddMessages(thread_id, by, tuple(NewMessage(message_id(), text, None, ()) for text in texts), 1)


def request(command: Command, key: str | None = None) -> CommandRequest:
    """The command as a gateway sends it."""
    if key is None:
        return CommandRequest(command, os.urandom(16))
    body = repr([getattr(command, name) for name in command.__struct_fields__ if name not in ("create_at", "messages")])
    texts = [message.text for message in command.messages] if isinstance(command, AddMessages) else []
    return CommandRequest(
        command,
        os.urandom(16),
        hashlib.sha256(f"{command.account_id}:{key}".encode()).digest()[:16],
        hashlib.sha256(f"{type(command).__name__}{body}{texts}".encode()).digest()[:16],
    )


@dataclass
class Owners:
    """This worker's view of the ownership."""

    records: dict[int, ShardOwner] = field(default_factory=dict)
    rung: int = 0
    heard: list[tuple[int, int, str, int | None]] = field(default_factory=list)
    change: "asyncio.Future[None] | None" = None
    no_worker_stays: bool = False

    def owner_of(self, shard_id: ShardId) -> ShardOwner | None:
        return self.records.get(shard_id)

    def apply_hint(self, shard_id: ShardId, worker: str, epoch: int) -> None:
        record = self.records.get(shard_id)
        if record is not None:
            self.records[shard_id] = record._replace(worker=worker, epoch=epoch)
        self.announce()

    def on_transferred(self, shard_id: ShardId, epoch: int, incarnation: str, head: int | None) -> None:
        self.heard.append((shard_id, epoch, incarnation, head))

    def request_refresh(self) -> None:
        self.rung += 1
        asyncio.get_running_loop().call_soon(self.announce)

    def deserted(self) -> bool:
        return self.no_worker_stays

    def next_change(self) -> "asyncio.Future[None]":
        if self.change is None:
            self.change = asyncio.get_running_loop().create_future()
        return self.change

    def announce(self) -> None:
        """Called when a refresh of the view found a change."""
        change, self.change = self.change, None
        if change is not None:
            change.set_result(None)


@dataclass
class Peers:
    """Other workers of the same process, by port."""

    handlers: dict[int, PeerHandler] = field(default_factory=dict)
    asked: int = 0

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
    ) -> PeerAnswer:
        self.asked += 1
        answer = self.handlers[address[1]].serve(request, budget_s, epoch, hops)
        return await answer if isinstance(answer, asyncio.Future) else answer


@dataclass
class Node:
    """One worker's actors."""

    name: str
    incarnation: str
    region: ShardRegion
    table: ShardTable
    host: LocalShardHost
    handler: PeerHandler
    env: ActorContext
    appender: Appender
    residents: LruPassivation[ThreadActor]
    owners: Owners
    admin: asyncpg.Connection
    lease: list[bool]

    async def own(self, *shards: int) -> None:
        """Claim shards and serve them."""
        for shard in shards:
            epoch = await self.admin.fetchval(
                "UPDATE shard SET epoch = epoch + 1, owner = $2, incarnation = $3 WHERE id = $1 RETURNING epoch",
                shard,
                self.name,
                self.incarnation,
            )
            head = await self.admin.fetchval(
                "SELECT coalesce(max(shard_seq), 0) FROM journal WHERE shard_id = $1", shard
            )
            self.host.adopt(ShardId(shard), epoch, head)

    async def ask(self, what: Request | Command, key: str | None = None, budget_s: float = 5.0) -> Answer:
        """The answer that a gateway on this worker would get."""
        asked = what if hasattr(what, "command_id") or not hasattr(what, "create_at") else request(what, key)  # type: ignore[arg-type]  # a command has create_at
        return await self.region.ask(asked, budget_s)  # type: ignore[arg-type]  # and all else is a request

    async def texts(self, thread_id: ThreadId, by: AccountId) -> list[str | None]:
        """The texts of a thread's live messages."""
        page = await self.ask(GetMessages(thread_id, by, 1000))
        return [message.text for message in page.messages]  # type: ignore[union-attr]  # a refusal fails the test


def read_alone(
    shard_id: ShardId, thread_uuid: UUID, listed: Listed, wanted: Callable[[], bool], on_page: OnPage
) -> None:
    """A reader of pages that leaves each to the reader of single ones."""
    del shard_id, thread_uuid, listed, wanted
    on_page(None)


@asynccontextmanager
async def node_on(
    dsn: str,
    *,
    name: str = "w0",
    through: str | None = None,
    peers: Peers | None = None,
    residents_most: int = 1000,
    idle_s: float = 1000.0,
    max_pending_per_thread: int = 1000,
    max_pending_total: int = 10_000,
    max_pending_bytes_per_thread: int = 16 << 20,
    max_pending_bytes: int = 64 << 20,
    snapshot_every_events: int = 100,
    snapshot_every_bytes: int = 4 << 20,
    memory_bytes: int = 512 << 20,
    watchdog_s: float = 2.0,
    clock: Callable[[], float] | None = None,
) -> AsyncIterator[Node]:
    """A worker's actors on a database; ``through`` is the DSN that its appends take (a proxy's)."""
    incarnation = str(ULID())
    admin = await asyncpg.connect(dsn)
    pool = ReadPool(await asyncpg.create_pool(dsn, min_size=1, max_size=4))

    async def connect(purpose: str) -> asyncpg.Connection:
        del purpose
        return await connected(through or dsn)

    async def look_up(shard_id: ShardId, thread_uuid: UUID, key_hash: bytes) -> StoredKey | None:
        return await pool.run(lambda connection: look_up_key(connection, shard_id, thread_uuid, key_hash))

    async def epoch(shard_id: ShardId, thread_uuid: UUID, seq_nr: int) -> int:
        return await pool.run(lambda connection: epoch_of(connection, shard_id, thread_uuid, seq_nr))

    async def head(shard_id: ShardId) -> int:
        return await pool.run(lambda connection: read_head(connection, shard_id))

    memory = MemoryBudget(memory_bytes)
    snapshots = SnapshotWriter(pool, memory=memory)
    loader = ThreadLoader(pool, keep=snapshots.save)
    pages = PageReader(pool)
    lease = [True]
    env = ActorContext(
        journal=JournalAccess(loader.load, look_up, MessageReader(pool).read, head, snapshots.save, epoch, pages.read),
        memory_reads_allowed=lambda: lease[0],
        limits=Limits(),
        bounds=PendingBounds(
            per_thread=max_pending_per_thread,
            total=max_pending_total,
            bytes_per_thread=max_pending_bytes_per_thread,
            total_bytes=max_pending_bytes,
        ),
        snapshots=SnapshotPolicy(snapshot_every_events, snapshot_every_bytes),
        memory=memory,
    )
    appender = Appender(
        connect=connect, bump_epochs=raise_epoch, incarnation=lambda: incarnation, watchdog_s=watchdog_s
    )
    residents: LruPassivation[ThreadActor] = LruPassivation(
        most=residents_most, idle_s=idle_s, clock=clock or asyncio.get_running_loop().time, memory=memory
    )
    owners = Owners()
    peers = peers or Peers()
    table = ShardTable(SHARDS, residents)
    region = ShardRegion(worker=name, env=env, table=table, owners=owners, peers=peers)
    host = LocalShardHost(env=env, appender=appender, residents=residents, table=table, region=region, peers=peers)
    handler = PeerHandler(worker=name, table=table, region=region, host=host, owners=owners)
    appender.start()
    snapshots.start()
    host.start()
    try:
        yield Node(name, incarnation, region, table, host, handler, env, appender, residents, owners, admin, lease)
    finally:
        await host.close()
        await appender.close()
        await snapshots.close()
        await loader.close()
        await pages.close()
        pool.terminate()
        await admin.close()


@asynccontextmanager
async def two_nodes(dsn: str, peers: Peers | None = None) -> AsyncIterator[tuple[Node, Node]]:
    """Workers w0 and w1, at the ports 1 and 2; w0 owns every shard, and w1 knows that."""
    peers = peers or Peers()
    async with node_on(dsn, name="w0", peers=peers) as left, node_on(dsn, name="w1", peers=peers) as right:
        peers.handlers = {1: left.handler, 2: right.handler}
        await left.own(*range(SHARDS))
        for shard in range(SHARDS):
            right.owners.records[shard] = ShardOwner("w0", left.incarnation, 1, "127.0.0.1", 0, 1)
        yield left, right
