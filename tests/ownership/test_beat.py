"""A worker's beat on a real Postgres: advisory locks whose numbers advance, serialised with the fence."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from time import perf_counter

import asyncpg
import pytest

from shard_worker.domain.ids import ShardId
from shard_worker.ownership import shard_store, store
from shard_worker.ownership.failure_detector import Fenced
from shard_worker.ownership.lease import Lease
from shard_worker.ownership.store import Address
from shard_worker.ownership.view import EMPTY, WorkerRow
from tests.support.polling import eventually

ADDRESS = Address("127.0.0.1", 1, 2)
MOST = 2**31 - 1
"""The greatest number that the second half of an advisory lock's key can hold."""


class Sessions:
    """Sessions of one test's database, all ended with the test."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.open: list[asyncpg.Connection] = []

    async def connect(self, purpose: str = "test") -> asyncpg.Connection:
        del purpose
        connection = await asyncpg.connect(self.dsn)
        self.open.append(connection)
        return connection

    async def beating(self, worker: str) -> asyncpg.Connection:
        """A registered worker's session, with one beat; the incarnation is the worker's name and a 1."""
        session = await self.connect()
        await store.register(session, worker, f"{worker}1", ADDRESS, {})
        assert await store.lock(session, worker, f"{worker}1")
        assert await store.heartbeat(session, worker, f"{worker}1", 1)
        return session


@pytest.fixture
async def sessions(dsn: str) -> AsyncIterator[Sessions]:
    """No session yet."""
    made = Sessions(dsn)
    yield made
    for session in made.open:
        session.terminate()


async def seen(peer: asyncpg.Connection, worker: str = "a") -> WorkerRow:
    """A worker's row, as a look shows it."""
    return (await store.read_view(peer, EMPTY)).workers[worker]


async def gone(peer: asyncpg.Connection, session: asyncpg.Connection, worker: str = "a") -> WorkerRow:
    """End a session; the worker's row once the server has noticed."""
    pid = session.get_server_pid()
    session.terminate()
    async with asyncio.timeout(5):
        while await peer.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid):
            await asyncio.sleep(0.005)
    return await seen(peer, worker)


async def waits(peer: asyncpg.Connection, session: asyncpg.Connection) -> None:
    """Return when a session's statement waits for a lock."""
    pid = session.get_server_pid()
    async with asyncio.timeout(5):
        while not await peer.fetchval("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1", pid):
            await asyncio.sleep(0.005)


async def test_each_beat_is_seen_as_a_greater_number(sessions: Sessions) -> None:
    """Also across sessions, the end of a session, and incarnations: what a look shows never falls."""
    peer = await sessions.connect()
    first = await sessions.beating("a")
    numbers = [(await seen(peer)).beat]
    for number in (2, 3):
        assert await store.heartbeat(first, "a", "a1", number)
        numbers.append((await seen(peer)).beat)
    ended = await gone(peer, first)
    assert not ended.locked
    numbers.append(ended.beat)
    again = await sessions.connect()
    assert await store.lock(again, "a", "a1")
    numbers.append((await seen(peer)).beat)
    assert await store.heartbeat(again, "a", "a1", 1)
    numbers.append((await seen(peer)).beat)
    await store.register(peer, "a", "a2", ADDRESS, {})
    numbers.append((await seen(peer)).beat)
    assert numbers == sorted(set(numbers)), numbers


async def test_a_beat_holds_two_locks_whatever_its_number(sessions: Sessions) -> None:
    """The lock table is large enough for the sessions of every worker, however long they live."""
    session = await sessions.beating("a")
    for number in range(2, 50):
        assert await store.heartbeat(session, "a", "a1", number)
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
    assert await session.fetchval(held) == 2


async def test_workers_at_the_same_number_are_distinguished(sessions: Sessions) -> None:
    """Numbers are shared locks; whose they are is known by the session that holds them."""
    peer, a, b = await sessions.connect(), await sessions.beating("a"), await sessions.beating("b")
    assert (await seen(peer, "a")).locked
    assert (await seen(peer, "b")).locked
    await store.heartbeat(b, "b", "b1", 2)
    assert (await seen(peer, "b")).beat - (await seen(peer, "a")).beat == 1
    assert await store.heartbeat(a, "a", "a1", 2)
    ended = await gone(peer, b, "b")
    assert not ended.locked
    assert (await seen(peer, "a")).locked


async def test_a_fence_at_the_last_beat_ends_the_incarnation_and_its_session(sessions: Sessions) -> None:
    """And the next beat says so, or finds its session ended."""
    peer, session = await sessions.connect(), await sessions.beating("a")
    other = await sessions.connect()
    assert await store.fence(peer, "a", "a1", (await seen(peer)).beat, {}, "test") == []
    assert not await store.heartbeat(session, "a", "a1", 2)
    assert not await store.lock(other, "a", "a1")


async def test_a_fence_refuses_when_the_worker_beat_since_it_was_seen(sessions: Sessions) -> None:
    """Alive, or ended after one more beat, or locked again by another session: each is another state."""
    peer, session = await sessions.connect(), await sessions.beating("a")
    beat = (await seen(peer)).beat
    assert await store.heartbeat(session, "a", "a1", 2)
    assert await store.fence(peer, "a", "a1", beat, {}, "one more beat") is None
    beat = (await seen(peer)).beat
    ended = await gone(peer, session)
    assert await store.fence(peer, "a", "a1", beat, {}, "ended, perhaps after one more beat") is None
    again = await sessions.connect()
    assert await store.lock(again, "a", "a1")
    assert await store.fence(peer, "a", "a1", ended.beat, {}, "locked again") is None
    assert await store.heartbeat(again, "a", "a1", 1)
    await gone(peer, again)
    assert await store.fence(peer, "a", "a1", ended.beat, {}, "locked again, beaten, and ended again") is None
    assert await store.fence(peer, "a", "a1", (await seen(peer)).beat, {}, "now") == []


async def test_a_beat_that_waits_for_a_fence_is_refused_after_it(sessions: Sessions) -> None:
    """The row lock that it waits for has the row read again."""
    peer, session, third = await sessions.connect(), await sessions.beating("a"), await sessions.connect()
    await shard_store.claim(session, "a", "a1", [ShardId(0)])
    beat = (await seen(peer)).beat
    async with third.transaction():  # the fence waits for this row, and keeps the worker's own meanwhile
        await third.execute("SELECT FROM shard WHERE id = 0 FOR UPDATE")
        fencing = asyncio.create_task(store.fence(peer, "a", "a1", beat, {}, "test"))
        await waits(third, peer)
        beating = asyncio.create_task(store.heartbeat(session, "a", "a1", 2))
        await waits(third, session)
    assert await fencing == [0]
    assert await beating is False


async def test_a_fence_waits_for_a_beat_that_is_under_way_and_sees_it(sessions: Sessions) -> None:
    """Not committed yet, so not acknowledged yet: all the same it counts."""
    peer, session, third = await sessions.connect(), await sessions.beating("a"), await sessions.connect()
    beat = (await seen(peer)).beat
    async with session.transaction():
        assert await store.heartbeat(session, "a", "a1", 2)
        fencing = asyncio.create_task(store.fence(peer, "a", "a1", beat, {}, "test"))
        await waits(third, peer)
    assert await fencing is None


async def test_a_claim_that_waits_for_a_shard_lets_beats_pass(sessions: Sessions) -> None:
    """Both lock the worker's row FOR KEY SHARE."""
    peer, session, own = await sessions.connect(), await sessions.beating("a"), await sessions.connect()
    async with peer.transaction():
        await peer.execute("SELECT FROM shard WHERE id = 0 FOR UPDATE")
        claiming = asyncio.create_task(shard_store.claim(own, "a", "a1", [ShardId(0)]))
        await waits(session, own)
        async with asyncio.timeout(1):
            assert await store.heartbeat(session, "a", "a1", 2)
    assert await claiming == {ShardId(0): 1}


async def test_a_planners_write_of_the_row_lets_beats_pass(sessions: Sessions) -> None:
    """A cordon that is not committed yet costs no lease."""
    peer, session = await sessions.connect(), await sessions.beating("a")
    async with peer.transaction():
        await peer.execute("UPDATE worker SET cordoned = true WHERE id = 'a'")
        async with asyncio.timeout(1):
            assert await store.heartbeat(session, "a", "a1", 2)
    assert await store.heartbeat(session, "a", "a1", 3)


async def test_a_strangers_lock_at_the_number_is_an_error_of_the_session(sessions: Sessions) -> None:
    """The lease then opens another, whose numbers begin again."""
    session, stranger = await sessions.beating("a"), await sessions.connect()
    await stranger.execute(f"SELECT pg_advisory_lock({store._BEAT_CLASS}, 2)")
    with pytest.raises(ConnectionError, match="held by a session that is no worker's"):
        await store.heartbeat(session, "a", "a1", 2)


async def test_a_session_whose_numbers_end_is_replaced(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    """After ten years, or here at once: the same incarnation goes on with a new session."""
    await sessions.beating("a")
    real = store.heartbeat
    used: list[int] = []

    async def late(connection: asyncpg.Connection, worker: str, incarnation: str, number: int) -> bool:
        used.append(number + MOST - 2 if len(used) < 3 else number)
        return await real(connection, worker, incarnation, used[-1])

    monkeypatch.setattr(store, "heartbeat", late)
    lease = Lease(sessions.connect, "a", beat_s=0.02, lease_s=0.5)
    keeping = asyncio.create_task(lease.keep("a1", asyncio.Event()))
    await eventually(lambda: len(used) > 4)
    assert lease.lost_sessions == 1
    assert lease.allows_memory_reads()
    peer = await sessions.connect()
    await store.retire(peer, "a", "a1")
    with pytest.raises(Fenced):
        await keeping


def _beaten_since(lease: Lease, before: float) -> bool:
    return lease.acknowledged_at > before


async def test_a_lost_session_is_replaced_at_once(sessions: Sessions) -> None:
    """Not when the next beat is due: an incarnation without a lock is soon fenced."""
    await sessions.beating("a")
    lease = Lease(sessions.connect, "a", beat_s=600.0, lease_s=0.5)
    locked = asyncio.Event()
    keeping = asyncio.create_task(lease.keep("a1", locked))
    await locked.wait()
    server = await asyncpg.connect(sessions.dsn)
    for lost in (1, 2, 3):
        before = lease.acknowledged_at
        await server.execute("SELECT pg_terminate_backend($1)", sessions.open[-1].get_server_pid())
        await eventually(partial(_beaten_since, lease, before))
        assert lease.lost_sessions == lost
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await server.close()


async def test_the_address_is_tried_beside_a_beat_that_is_late(sessions: Sessions) -> None:
    """A frozen server answers nothing while its address may lead elsewhere; not so while beats are answered."""
    session = await sessions.beating("a")
    purposes: list[str] = []

    async def connect(purpose: str) -> asyncpg.Connection:
        purposes.append(purpose)
        return await sessions.connect()

    lease = Lease(connect, "a", beat_s=0.02, lease_s=0.5)
    session.terminate()
    locked = asyncio.Event()
    keeping = asyncio.create_task(lease.keep("a1", locked))
    await locked.wait()
    assert purposes == ["lease"]
    [beating] = sessions.open[-1:]
    stranger = await sessions.connect()
    async with stranger.transaction():
        await stranger.execute("LOCK TABLE worker IN ACCESS EXCLUSIVE MODE")
        await eventually(lambda: "probe" in purposes)
    await eventually(lease.allows_memory_reads)
    assert purposes == ["lease", "probe"]
    assert not beating.is_closed()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def _cost_of_looks(peer: asyncpg.Connection, count: int) -> float:
    """Milliseconds that a look takes, the best of some rounds."""
    best = float("inf")
    for _ in range(5):
        began = perf_counter()
        for _ in range(count):
            await store.read_view(peer, EMPTY)
        best = min(best, (perf_counter() - began) * 1e3 / count)
    return best


async def _beat_under_a_held_snapshot(sessions: Sessions, beats: int) -> float:
    """Ratio of the time of a read after ``beats`` beats to the time before them; no row version is added."""
    keeper, peer, session = await sessions.connect(), await sessions.connect(), await sessions.beating("a")
    size = "SELECT pg_relation_size('worker')"
    versions = "SELECT n_tup_upd, n_dead_tup FROM pg_stat_all_tables WHERE relname = 'worker'"
    async with keeper.transaction(isolation="repeatable_read", readonly=True):
        await keeper.fetch("SELECT * FROM worker")
        before = await _cost_of_looks(peer, 50)
        bytes_before = await peer.fetchval(size)
        await session.execute("SELECT pg_stat_force_next_flush()")
        versions_before = await session.fetch(versions)
        await session.execute("SET synchronous_commit = off")  # thousands of flushes take long, and are not the subject
        for number in range(2, beats + 2):
            assert await store.heartbeat(session, "a", "a1", number)
        await session.execute("SELECT pg_stat_force_next_flush()")
        after = await _cost_of_looks(peer, 50)
        assert await session.fetch(versions) == versions_before
        assert await peer.fetchval(size) == bytes_before
        print(f"{beats} beats under a held snapshot: a look takes {before:.2f} ms before, {after:.2f} ms after")
    return after / before


async def test_beats_leave_no_dead_rows_under_a_held_snapshot(sessions: Sessions) -> None:
    """A backup that holds back vacuum for an hour slows down no look."""
    await _beat_under_a_held_snapshot(sessions, 3_000)


@pytest.mark.soak
async def test_many_beats_leave_no_dead_rows_under_a_held_snapshot(sessions: Sessions) -> None:
    """The beats of eight workers in an hour."""
    assert await _beat_under_a_held_snapshot(sessions, 160_000) < 1.5
