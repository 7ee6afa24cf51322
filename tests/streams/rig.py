"""A worker's streams on a real journal and real sockets, with ownership and peers played by the test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import asyncpg

from shard_worker.actors.context import NotifyingProjection
from shard_worker.contract import Done
from shard_worker.database.connection import ReadPool
from shard_worker.domain.commands import Command
from shard_worker.domain.ids import AccountId, ThreadId
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.public.server import PublicGateway, listening_socket
from shard_worker.gateway.public.streams import problem_json
from shard_worker.journal.codec import EVENT_NAMES
from shard_worker.readmodel.markers import MarkerWriter
from shard_worker.readmodel.queries import ReadModelQueries
from shard_worker.readmodel.sources import QuerySources
from shard_worker.readmodel.updater import ReadModelUpdater
from shard_worker.streams.hub import StreamBounds, StreamHub
from tests.support.load.follower import Event, Stream, open_stream
from tests.support.load.target import parse_target
from tests.support.node import SHARDS, Node, add
from tests.support.polling import connected, eventually
from tests.support.wire import Answered, Api

EVENT_TYPES = frozenset(EVENT_NAMES.values())


@dataclass
class Listening:
    """One open stream, and what came."""

    stream: Stream
    events: list[Event] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        """The ids, in the order of arrival; the first is the opening's."""
        return [event.id for event in self.events]

    @property
    def types(self) -> list[str]:
        """The types without the opening's."""
        return [event.type for event in self.events if event.type]

    async def until(self, last_id: str) -> list[str]:
        """The ids, once this one has come."""
        await eventually(lambda: last_id in self.ids or self.stream.ended.done(), what=f"{last_id} after {self.ids}")
        assert last_id in self.ids, f"the stream ended before {last_id}: {self.events}"
        return self.ids

    async def end(self) -> list[str]:
        """The types, once the server has ended the stream."""
        async with asyncio.timeout(15):
            await self.stream.ended
        return self.types

    @property
    def seen(self) -> list[tuple[str, int]]:
        """Thread and number of each event, in the order of arrival."""
        return [
            (event.json["threadId"], event.json["sequenceNr"]) for event in self.events if event.type in EVENT_TYPES
        ]

    def of(self, thread_id: ThreadId) -> list[int]:
        """The numbers of a thread's events."""
        return [number for thread, number in self.seen if thread == thread_id]

    async def shows(self, thread_id: ThreadId, number: int) -> list[int]:
        """The numbers of a thread's events, once this one has come."""
        await eventually(
            lambda: number in self.of(thread_id) or self.stream.ended.done(), what=f"{number} in {self.events}"
        )
        return self.of(thread_id)

    def leave(self) -> None:
        """Close it."""
        if self.stream.transport is not None:
            self.stream.transport.abort()


class Streams:
    """A client of one worker with streams."""

    def __init__(self, node: Node, hub: StreamHub, gateway: PublicGateway, port: int) -> None:
        self.node = node
        self.hub = hub
        self.gateway = gateway
        self.api = Api(port)
        self._target = parse_target(f"http://127.0.0.1:{port}")

    async def follow(self, thread_id: ThreadId, account: AccountId, header: str = "", **more: str) -> Listening:
        """An open stream; the position in the header."""
        query = "".join(f"&{name}={value}" for name, value in more.items())
        events: list[Event] = []
        path = f"/v1/threads/{thread_id}/events?account_id={account}{query}"
        stream = await open_stream(self._target, path, events.append, last_id=header)
        assert stream.status == 200, stream.body
        listening = Listening(stream, events)
        await eventually(lambda: bool(events) or stream.ended.done(), what="the opening")
        return listening

    async def follow_account(self, account: AccountId, header: str = "", **more: str) -> Listening:
        """An open stream of an account; the position in the header."""
        query = "&".join(f"{name}={value}" for name, value in more.items())
        events: list[Event] = []
        path = f"/v1/accounts/{account}/events" + (f"?{query}" if query else "")
        stream = await open_stream(self._target, path, events.append, last_id=header)
        assert stream.status == 200, stream.body
        listening = Listening(stream, events)
        await eventually(lambda: bool(events) or stream.ended.done(), what="the opening")
        return listening

    async def confirmed(self, listening: Listening, account: AccountId) -> str:
        """A position of an account's stream that covers every event that is visible now."""
        newest = int(await self.node.admin.fetchval("SELECT max(xid::text::bigint) FROM journal"))
        codec = self.hub.accounts.positions

        def covers() -> bool:
            position = codec.read(account, listening.events[-1].id)
            return position is not None and position.xid > newest

        await eventually(covers, what=f"a position above {newest}")
        return listening.events[-1].id

    async def refused(
        self, thread_id: ThreadId, account: AccountId, query: str = "", *headers: tuple[str, str]
    ) -> Answered:
        """The answer to a request for a stream that is none."""
        return await self.api.get(f"/v1/threads/{thread_id}/events?account_id={account}{query}", *headers)

    async def do(self, command: Command) -> str:
        """The position after a command."""
        done = await self.node.ask(command)
        assert isinstance(done, Done), done
        return f"{done.sequence_nr}.{done.epoch}"

    async def add(self, thread_id: ThreadId, by: AccountId, *texts: str) -> str:
        """The position after these messages, one a command."""
        return [await self.do(add(thread_id, by, text)) for text in texts][-1]

    async def settled(self) -> None:
        """Return once no stream is left, and nothing of one."""
        await eventually(lambda: not self.hub.open_streams and not self.hub.followed_threads, what="no stream")
        await eventually(lambda: len(self.hub.tasks) == 3, what="the hub's own three tasks alone")


@asynccontextmanager
async def streams_on(
    node: Node, dsn: str, options: GatewayOptions | None = None, *, account: int = 20, worker: int = 1_000
) -> AsyncIterator[Streams]:
    """Serve streams for the actors of one worker, and project the shards that it owns from now on."""
    async with AsyncExitStack() as stack:
        pool = ReadPool(await asyncpg.create_pool(dsn, min_size=1, max_size=4))
        stack.callback(pool.terminate)
        bounds = StreamBounds(account=account, worker=worker, memory=node.env.memory)

        async def connect(purpose: str) -> asyncpg.Connection:
            del purpose
            return await connected(dsn)

        updater = ReadModelUpdater(connect)
        projection = node.env.projection = NotifyingProjection(updater)
        updater.start()
        stack.push_async_callback(updater.close)
        hub = StreamHub(
            node.region,
            node.owners,
            pool,
            worker=node.name,
            shards=SHARDS,
            bounds=bounds,
            problem=problem_json,
        )
        projection.on_stored = hub.accounts.tail.wake
        read_model = ReadModelQueries(QuerySources(pool), MarkerWriter(pool))
        gateway = PublicGateway(node.region, options, read_model=read_model, streams=hub)
        bound = stack.enter_context(listening_socket("127.0.0.1", 0))
        hub.start()
        stack.push_async_callback(gateway.close)
        stack.push_async_callback(hub.close)
        await gateway.start([bound])
        yield Streams(node, hub, gateway, bound.getsockname()[1])
