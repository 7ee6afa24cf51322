"""An appender on a real Postgres, with a writer and shards that record their calls."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import asyncpg

from shard_worker.domain.ids import ShardId
from shard_worker.journal.append_lane import DEFAULT_BOUNDS, BatchBounds
from shard_worker.journal.append_queue import AppendQueue, Row
from shard_worker.journal.appender import Appender
from shard_worker.ownership.shard_store import raise_epoch
from tests.support.polling import connected

INCARNATION = "01JZZZZZZZZZZZZZZZZZZZZZZZ"


@dataclass
class Scribe:
    """A writer that records its calls."""

    uuid: UUID = field(default_factory=uuid4)
    stored_rows: list[Row] = field(default_factory=list)
    rejected_rows: list[tuple[Row, Exception]] = field(default_factory=list)
    withdrawn_rows: list[Row] = field(default_factory=list)
    expired_rows: list[Row] = field(default_factory=list)
    stream: AppendQueue | None = None

    def stored(self, row: Row) -> None:
        self.stored_rows.append(row)

    def rejected(self, rows: list[Row], error: Exception) -> None:
        self.rejected_rows.append((rows[0], error))
        self.withdrawn_rows += rows[1:]

    def expired(self, rows: list[Row], now: float) -> None:
        assert rows[0].deadline <= now
        self.expired_rows += rows


@dataclass
class Host:
    """A shard that records its calls."""

    calls: list[str] = field(default_factory=list)
    transactions: list[int | None] = field(default_factory=list)
    stream: AppendQueue | None = None

    def suspended(self) -> None:
        self.calls.append("suspended")

    def resumed(self) -> None:
        self.calls.append("resumed")

    def stored(self, rows: list[Row], xid: int | None) -> None:
        """The writers have heard it."""
        self.transactions += [xid] * len(rows)

    def on_ownership_lost(self, in_flight: list[Row]) -> None:
        del in_flight
        if "lost" not in self.calls:
            self.calls.append("lost")
        assert self.stream is not None
        self.stream.close()


def row_of(scribe: Scribe, seq_nr: int, key: bytes | None = None, deadline: float = math.inf) -> Row:
    """A row as an actor makes it."""
    row = Row()
    row.writer = scribe
    row.seq_nr = seq_nr
    row.event_type, row.event_version = 7, 1
    row.payload, row.metadata = b'{"n":%d}' % seq_nr, b"{}"
    row.size = len(row.payload) + len(row.metadata)
    row.deadline = deadline
    row.key_hash = key
    row.body_hash = None if key is None else b"b" * 16
    return row


@dataclass
class Bench:
    """An appender with streams open on every shard of a fresh database."""

    appender: Appender
    streams: dict[int, AppendQueue]
    hosts: dict[int, Host]
    admin: asyncpg.Connection

    def scribe(self, shard: int) -> Scribe:
        return Scribe(stream=self.streams[shard])

    async def journal(self, shard: int) -> list[asyncpg.Record]:
        return await self.admin.fetch("SELECT * FROM journal WHERE shard_id = $1 ORDER BY shard_seq", shard)

    async def dense(self) -> bool:
        bad = await self.admin.fetchval(
            "SELECT count(*) FROM (SELECT shard_seq, row_number() OVER (PARTITION BY shard_id ORDER BY shard_seq) AS n"
            " FROM journal) j WHERE shard_seq <> n"
        )
        return bool(bad == 0)


@asynccontextmanager
async def bench_on(
    dsn: str, through: str | None = None, *, batch: BatchBounds = DEFAULT_BOUNDS, watchdog_s: float = 2.0
) -> AsyncIterator[Bench]:
    """Own every shard under INCARNATION, and append through ``through`` (a proxied DSN) when given."""
    admin = await asyncpg.connect(dsn)
    await admin.execute("UPDATE shard SET owner = 'w', incarnation = $1, epoch = epoch + 1", INCARNATION)
    epochs = {record["id"]: record["epoch"] for record in await admin.fetch("SELECT id, epoch FROM shard")}

    async def connect(purpose: str) -> asyncpg.Connection:
        del purpose
        return await connected(through or dsn, application_name=INCARNATION, lock_timeout="2000")

    appender = Appender(
        connect=connect, bump_epochs=raise_epoch, incarnation=lambda: INCARNATION, batch=batch, watchdog_s=watchdog_s
    )
    hosts = {shard: Host() for shard in epochs}
    streams = {shard: appender.open(ShardId(shard), epoch, 0, hosts[shard]) for shard, epoch in epochs.items()}
    for shard, host in hosts.items():
        host.stream = streams[shard]
    appender.start()
    try:
        yield Bench(appender, streams, hosts, admin)
    finally:
        await appender.close()
        await admin.close()


def address_of(dsn: str) -> tuple[str, int]:
    """Where the server of a DSN listens."""
    host_port = dsn.rsplit("@", 1)[-1].split("/", 1)[0]
    host, port = host_port.rsplit(":", 1)
    return host, int(port)


def dsn_through(dsn: str, port: int) -> str:
    """The DSN with a proxy's port."""
    host, old = address_of(dsn)
    return dsn.replace(f"{host}:{old}", f"127.0.0.1:{port}")
