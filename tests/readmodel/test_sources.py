"""Queries and the servers that they are asked of: what a replica may decide, and which server a session is of."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg
import pytest

from shard_worker.contract import Existence, ExistsThread, GetMessageWindow, MessageLocation, ReadThread, ThreadView
from shard_worker.database import replica as replicas
from shard_worker.database.connection import ReadPool, Session
from shard_worker.database.replica import Replica
from shard_worker.domain.ids import ShardId, ThreadId
from shard_worker.domain.message_window import Side
from shard_worker.readmodel.sources import QuerySources, Reading, ReplicaBusy, ReplicaCounts, WatchedReplica
from shard_worker.readmodel.thread_queries import ThreadQueries
from shard_worker.readmodel.updater import ReadModelUpdater
from tests.conftest import MakeDatabase
from tests.readmodel.sessions import caught_up, connecting
from tests.support.journal_writer import ANN, JournalWriter, created, message_id, new_thread, posted
from tests.support.polling import eventually

T = TypeVar("T")
SHARD = ShardId(3)


async def pool_on(dsn: str, most: int = 2) -> ReadPool:
    """A pool of sessions on a database."""

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(dsn)

    return await ReadPool.of(connect, most=most)


class AnyReplica:
    """A database that counts as a fit replica, whatever it holds."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool
        self.counts = ReplicaCounts()

    def is_fit(self, least_lsn: int) -> bool:
        """Always."""
        del least_lsn
        return True

    async def run(self, work: Callable[[Reading], Awaitable[T]]) -> T:
        """The result of ``work``."""

        async def read(connection: Session) -> T:
            return await work(Reading(connection, {"place": "readmodel_1", "generation": 1}, of_replica=True))

        return await self._pool.run(read)


@asynccontextmanager
async def one_thread(dsn: str) -> AsyncIterator[tuple[ThreadId, JournalWriter, ReadModelUpdater]]:
    """A thread that is projected, its writer, and the updater."""
    connection = await asyncpg.connect(dsn)
    writer, thread_id = JournalWriter(connection), new_thread(SHARD)
    await writer.write(thread_id, created())
    updater = ReadModelUpdater(connecting(dsn))
    updater.open_shard(SHARD, 1)
    updater.start()
    await eventually(lambda: caught_up(connection), what="the thread is projected")
    yield thread_id, writer, updater
    await updater.close()
    await connection.close()


async def test_no_refusal_is_taken_from_a_replica_alone(make_database: MakeDatabase) -> None:
    """A thread that the replica does not have yet is answered by the primary."""
    fresh, behind = await make_database(), await make_database()
    async with one_thread(fresh) as (thread_id, _, _):
        primary, replica = await pool_on(fresh), await pool_on(behind)
        queries = ThreadQueries(QuerySources(primary, AnyReplica(replica)))  # type: ignore[arg-type]  # a double
        assert isinstance(await queries.answer(ReadThread(thread_id, ANN, 0)), ThreadView)
        assert await queries.answer(ExistsThread(thread_id, ANN)) == Existence(True)
        primary.terminate()
        replica.terminate()


async def test_an_anchor_that_never_was_is_known_as_such_on_a_thread_that_never_rests(dsn: str) -> None:
    """The read model need not reach a head that moves on, but the one of the first look."""
    async with one_thread(dsn) as (thread_id, writer, updater):
        pool, count = await pool_on(dsn), 1

        async def post() -> None:
            nonlocal count
            while True:
                await writer.write(thread_id, posted())
                count += 1
                updater.advance(SHARD, count)

        posting = asyncio.create_task(post())
        query = GetMessageWindow(thread_id, ANN, 10, Side.AROUND, message_id())
        for _ in range(3):
            assert isinstance(await ThreadQueries(QuerySources(pool)).answer(query), MessageLocation)
        posting.cancel()
        await asyncio.gather(posting, return_exceptions=True)
        pool.terminate()


async def test_all_sessions_of_a_replica_are_of_one_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also behind an address that leads each session to another; after a failed look it may be another server."""
    opened: list[Any] = []  # doubles of asyncpg's connections

    class Connected:
        def __init__(self, server: str) -> None:
            self.server, self.closed = server, False

        async def fetchval(self, sql: str) -> str:
            del sql
            return self.server

        def terminate(self) -> None:
            self.closed = True

    async def connect(*_: object, **__: object) -> Any:
        opened.append(Connected(f"server {len(opened) % 3}"))
        return opened[-1]

    async def open_one() -> Any:
        return await replica._open("")

    monkeypatch.setattr(replicas, "connect_to", connect)
    replica = Replica("postgresql://a@balanced/d", None, application_name=lambda: "test")  # type: ignore[arg-type]  # not asked
    sessions = [await open_one() for _ in range(3)]
    assert {each.server for each in sessions} == {"server 0"}
    assert [each.closed for each in opened] == [each not in sessions for each in opened]
    replica.forget_server()
    assert (await open_one()).server == "server 1"


async def test_a_replica_without_a_free_session_is_not_taken_for_gone(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The query is asked of the primary, and the replica goes on."""
    monkeypatch.setattr("shard_worker.readmodel.sources._REPLICA_S", 0.2)
    pool, primary, free = await pool_on(dsn, 1), await pool_on(dsn), asyncio.Event()
    watched = WatchedReplica(None, pool, primary)  # type: ignore[arg-type]  # not asked
    held = asyncio.create_task(pool.run(lambda _: free.wait()))
    await asyncio.sleep(0)

    async def work(reading: Reading) -> bool:
        return reading.of_replica

    with pytest.raises(ReplicaBusy) as busy:
        await watched.run(work)
    watched._status = status = object()  # type: ignore[assignment]  # only whether it stays
    watched.failed(busy.value)
    assert watched._status is status
    watched.failed(ConnectionError("gone"))
    assert watched._status is None
    free.set()
    await held
    pool.terminate()
    primary.terminate()
