"""The real gateway over a real socket, for one test."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

from shard_worker.database.connection import ReadPool
from shard_worker.domain.ids import ShardId
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.public.server import PublicGateway, listening_socket
from shard_worker.gateway.public.service import ThreadService
from shard_worker.gateway.public.streams import problem_json
from shard_worker.memory import MemoryBudget
from shard_worker.ownership.view import ShardOwner
from shard_worker.streams.hub import StreamBounds, StreamHub
from tests.fakes.memory_read_model import MemoryReadModel
from tests.fakes.memory_threads import MemoryThreads
from tests.support.wire import Answered, Api

ADA, BOB, CAI, DAN = (f"01ARZ3NDEKTSV4RRFFQ69G5FA{last}" for last in "ABCD")
THREAD = "01BX5ZZKBKACTAV9WEVGEMMVRZ"
PARENT = "01BX5ZZKBKACTAV9WEVGEMMVR0"


_BOUNDS = StreamBounds(account=20, worker=100, memory=MemoryBudget(1 << 20))
_LANE = os.environ.get("GATEWAY_LANE") != "off"
"""Whether gateways have the lane where a test does not say; a plain command takes one of two ways through the gateway."""
_NO_POOL = cast("ReadPool", None)
"""No stream begins: `MemoryThreads` knows no thread that can be followed."""


class _NoOwners:
    """No worker owns anything."""

    def owner_of(self, shard_id: ShardId) -> ShardOwner | None:
        del shard_id
        return None

    def next_change(self) -> "asyncio.Future[None]":
        return asyncio.get_running_loop().create_future()


class Served(Api):
    """A client of one gateway."""

    def __init__(self, gateway: PublicGateway, port: int, read_model: MemoryReadModel | None) -> None:
        super().__init__(port)
        self.gateway = gateway
        self._read_model = read_model

    @property
    def read_model(self) -> MemoryReadModel:
        """The read model behind the gateway."""
        assert self._read_model is not None
        return self._read_model

    async def create(self, **changed: object) -> Answered:
        """Create the usual thread, but for what is changed: Ada administers, Bob is a member."""
        body = {"accountId": ADA, "title": "t", "administratorIds": [ADA], "memberIds": [BOB], "threadId": THREAD}
        return await self.post("/v1/threads/create", body | changed)

    async def add(self, *texts: str, account: str = BOB) -> Answered:
        """Post messages to the usual thread."""
        body = {"accountId": account, "messages": [{"text": text} for text in texts]}
        return await self.post(f"/v1/threads/{THREAD}/messages/add", body)


@asynccontextmanager
async def serving(service: ThreadService, options: GatewayOptions | None = None) -> AsyncIterator[Served]:
    """Serve on a free port of loopback."""
    read_model = MemoryReadModel(service) if isinstance(service, MemoryThreads) else None
    hub = StreamHub(
        service,
        _NoOwners(),
        _NO_POOL,
        worker="w0",
        shards=8,
        bounds=_BOUNDS,
        problem=problem_json,
    )
    options = options or GatewayOptions()
    gateway = PublicGateway(service, replace(options, lane=options.lane and _LANE), read_model=read_model, streams=hub)
    with listening_socket("127.0.0.1", 0) as bound:
        await gateway.start([bound])
        try:
            yield Served(gateway, bound.getsockname()[1], read_model)
        finally:
            await gateway.close()
            await hub.close()
