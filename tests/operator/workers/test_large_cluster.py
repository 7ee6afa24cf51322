"""The largest cluster, 256 workers and 4,096 shards, by real requests: how much of it the operator reads."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import msgspec
from aiohttp import web
from threadcluster_operator.workers.client import NamedWorkers
from threadcluster_operator.workers.pacing import Pace
from threadcluster_operator.workers.poller import Watched, WorkerPolls

from shard_worker.contract_internal import (
    DatabaseReport,
    DatabaseState,
    OwnershipDigest,
    OwnershipResponse,
    ShardEntry,
    ShardLoad,
    ShardState,
    WorkerEntry,
    WorkerState,
    ownership_digest,
    shard_hash,
    worker_hash,
)
from shard_worker.domain.ids import ShardId
from tests.support.polling import eventually
from tests.support.tls import internal_server

SECRET: Final = "a word of 16 byte"
WORKERS: Final = 256
SHARDS: Final = 4_096
_NAMES: Final = [f"large-cluster-of-chat-{number}" for number in range(WORKERS)]


def _answer() -> OwnershipResponse:
    workers = tuple(
        WorkerEntry(
            name=name,
            incarnation=f"01KB{number:022}",
            state=WorkerState.READY,
            host="10.0.0.1",
            public_port=8080,
            management_port=8081,
            beat=4_294_967_296 + number,
            leaving=False,
            cordoned=False,
            draining=False,
        )
        for number, name in enumerate(_NAMES)
    )
    shards = tuple(
        ShardEntry(
            id=ShardId(number),
            owner=_NAMES[number % WORKERS],
            incarnation=workers[number % WORKERS].incarnation,
            epoch=3,
            state=ShardState.SERVING,
            target=_NAMES[number % WORKERS],
            reason="has the fewest shards",
            since="2026-05-01T12:00:00.123Z",
            load=ShardLoad(commands_per_second=81.5, append_milliseconds=1.9),
        )
        for number in range(SHARDS)
    )
    return OwnershipResponse(
        answered_by=_NAMES[0],
        plan_version=4,
        plan_hash="h",
        workers=workers,
        shards=shards,
        serving=tuple(ShardId(number) for number in range(0, SHARDS, WORKERS)),
        as_of="2026-05-01T12:00:00.000Z",
        answered_at="2026-05-01T12:00:00.100Z",
        database=DatabaseReport(state=DatabaseState.CONNECTED, since="2026-05-01T11:00:00.000Z"),
        digest=ownership_digest([*map(worker_hash, workers), *map(shard_hash, shards)]),
    )


class Served:
    """All workers, at one address; the beats advance with each answer."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self._answer = _answer()
        self._whole = msgspec.json.encode(self._answer)
        self._beats = 1_000_000

    async def answer(self, request: web.Request) -> web.Response:
        """As a worker answers."""
        self.asked[request.path] += 1
        self._beats += 1
        if not request.path.endswith("/digest"):
            return web.Response(body=self._whole, content_type="application/json")
        known = self._answer
        digest = OwnershipDigest(
            answered_by=known.answered_by,
            plan_version=known.plan_version,
            epochs=3 * SHARDS,
            beats=self._beats,
            digest=known.digest,
            member=True,
            serving=known.serving,
            as_of=known.as_of,
            answered_at=known.answered_at,
            database=known.database,
        )
        return web.Response(body=msgspec.json.encode(digest), content_type="application/json")


@asynccontextmanager
async def serving(served: Served) -> AsyncIterator[str]:
    """The address of all workers."""
    app = web.Application()
    app.router.add_route("*", "/internal/v1/{path:.*}", served.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=internal_server(SECRET.encode()), backlog=1024).start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_workers_and_shards_are_read_from_one_worker() -> None:
    """Of the others a few hundred bytes."""
    served = Served()
    async with serving(served) as address, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        polls = WorkerPolls(lambda _: None)
        client = NamedWorkers(session, dict.fromkeys(_NAMES, address), SECRET)
        poll = polls.watch(("talk", "large"), client, {name: Watched(address, ready=True) for name in _NAMES})
        poll.set_pace(Pace.REST)
        try:
            await eventually(lambda: len(poll.latest().readings) == WORKERS, within_s=60, what="all have answered")
            found = poll.latest()
            assert found.verdict.known
            assert found.answer is not None
            assert len(found.answer.shards) == SHARDS
            assert served.asked["/internal/v1/ownership"] <= 3  # the loads are read again from time to time
        finally:
            await polls.close()
