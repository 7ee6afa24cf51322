"""Memberships on a real Postgres, each with a played host for its shards."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg

from shard_worker.database.connection import Database
from shard_worker.domain.ids import ShardId
from shard_worker.ownership.membership import Ownership
from shard_worker.ownership.shard_store import Target
from shard_worker.ownership.store import Address
from shard_worker.ownership.view import Load, ShardOwner
from tests.support.polling import eventually

SHARDS = 8
EVERY = frozenset(ShardId(number) for number in range(SHARDS))


_MEMBERS: "dict[str, dict[str, Ownership]]" = {}
"""Reachable members, by the database of each test."""


@dataclass
class Host:
    """Serves shards by remembering them."""

    name: str
    shards: dict[ShardId, tuple[int, int]] = field(default_factory=dict)
    releasing: set[ShardId] = field(default_factory=set)
    dropped_all: int = 0
    peers: "dict[str, Ownership]" = field(default_factory=dict)
    """The others, as far as they can be reached."""
    steps: list[tuple[str, ShardId]] = field(default_factory=list)
    """Recorded calls, in order."""
    stuck: asyncio.Event | None = None
    """While it is there and not set, nothing is ever drained."""

    def adopt(self, shard_id: ShardId, epoch: int, head: int) -> None:
        self.shards[shard_id] = (epoch, head)
        self.releasing.discard(shard_id)

    async def drain(self, shard_id: ShardId) -> int | None:
        self.steps.append(("release", shard_id))
        self.releasing.add(shard_id)
        if self.stuck is not None:
            await self.stuck.wait()
        return self.shards[shard_id][1] if shard_id in self.shards else None

    def resume(self, shard_id: ShardId) -> None:
        self.steps.append(("resume", shard_id))
        self.releasing.discard(shard_id)

    async def prepare(self, shard_id: ShardId, receiver: ShardOwner) -> bool:
        self.steps.append(("prepare", shard_id))
        return receiver.worker in self.peers

    async def notify_transferred(self, shard_id: ShardId, receiver: ShardOwner, head: int | None) -> bool:
        self.steps.append(("tell", shard_id))
        if receiver.worker in self.peers:
            self.peers[receiver.worker].on_transferred(shard_id, receiver.epoch, receiver.incarnation, head)
        return True

    async def catch_up(self, connection: asyncpg.Connection, heads: Mapping[ShardId, int]) -> None:
        self.steps += [("catch up", shard_id) for shard_id in heads]

    def loads(self) -> dict[ShardId, Load]:
        return {shard_id: Load(2.0 + shard_id, 1.0) for shard_id in self.shards}

    def drop(self, shard_id: ShardId, owner: str | None = None, epoch: int = 0) -> None:
        self.steps.append((f"drop for {owner}", shard_id))
        self.shards.pop(shard_id, None)
        self.releasing.discard(shard_id)

    def drop_all(self) -> None:
        self.dropped_all += 1
        self.shards.clear()
        self.releasing.clear()

    def present(self) -> set[ShardId]:
        return set(self.shards)

    def serving(self) -> set[ShardId]:
        return set(self.shards) - self.releasing


@dataclass
class Member:
    """One worker's membership and its host."""

    ownership: Ownership
    host: Host

    @property
    def shards(self) -> frozenset[ShardId]:
        return frozenset(self.host.serving())

    async def target(self, *targets: tuple[int, str]) -> int | None:
        """Record a plan made from what is in force now."""
        await self.ownership.refresh()
        wanted = [Target(ShardId(shard), worker, "test") for shard, worker in targets]
        return await self.ownership.set_targets(self.ownership.view.plan_version, "hash", wanted)


@asynccontextmanager
async def member(dsn: str, name: str) -> AsyncIterator[Member]:
    """A worker that has joined."""
    database = Database(dsn, application_name=lambda: ownership.incarnation or "starting")
    ownership = Ownership(database.connect, name, Address("127.0.0.1", 1, 2), beat_s=0.05, lease_s=0.5)
    host = Host(name, peers=_MEMBERS.setdefault(dsn, {}))
    host.peers[name] = ownership
    ownership.start(host)
    await eventually(ownership.registered.is_set)
    try:
        yield Member(ownership, host)
    finally:
        await ownership.close()
