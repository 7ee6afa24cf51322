"""Memberships: incarnations, claims, releases, fences, on a real Postgres with played hosts."""

import asyncio
from collections.abc import Mapping

import asyncpg
import pytest

from shard_worker.database.claim import Claimant
from shard_worker.domain.ids import ShardId
from shard_worker.ownership import shard_store, store
from shard_worker.ownership.store import Address
from shard_worker.ownership.view import EMPTY
from tests.support.members import EVERY, SHARDS, member
from tests.support.polling import eventually


async def test_a_shard_is_claimed_by_the_worker_it_targets(dsn: str) -> None:
    """Each with an epoch of its own, and a row in ``shard_epoch``."""
    async with member(dsn, "a") as a:
        assert await a.target(*[(shard, "a") for shard in range(SHARDS)]) == 1
        await eventually(lambda: a.shards == EVERY)
        connection = await asyncpg.connect(dsn)
        epochs = await connection.fetch("SELECT * FROM shard_epoch ORDER BY shard_id")
        assert [(row["epoch"], row["worker"], row["from_seq"]) for row in epochs] == [(1, "a", 1)] * SHARDS
        await connection.close()


async def test_a_transfer_notified_during_its_adoption_is_adopted_once(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adopted again at the same epoch it would miss the rows that are on their way since the first time."""
    async with member(dsn, "a") as a:
        catch_up = a.host.catch_up

        async def notified_meanwhile(connection: asyncpg.Connection, heads: Mapping[ShardId, int]) -> None:
            await catch_up(connection, heads)
            for shard_id in heads:
                a.ownership.on_transferred(shard_id, 1, a.ownership.incarnation, 0)

        monkeypatch.setattr(a.host, "catch_up", notified_meanwhile)
        await a.target(*[(shard, "a") for shard in range(SHARDS)])
        await eventually(lambda: a.shards == EVERY)
        await a.ownership.refresh()
        assert sorted(a.host.steps) == [("catch up", shard) for shard in sorted(EVERY)]


async def test_an_unassigned_shard_finds_an_owner(dsn: str) -> None:
    """Without any plan, every shard is claimed by exactly one worker."""
    async with member(dsn, "a") as a, member(dsn, "b") as b:
        await eventually(lambda: a.shards | b.shards == EVERY)
        assert not a.shards & b.shards


async def test_a_new_target_moves_the_shard(dsn: str) -> None:
    """Released by the one, claimed by the other, at higher epochs; back again when the plan is taken back."""
    async with member(dsn, "a") as a, member(dsn, "b") as b:
        await a.target(*[(shard, "a") for shard in range(SHARDS)])
        await eventually(lambda: a.shards == EVERY)
        await b.target((3, "b"))
        await eventually(lambda: b.shards == {3} and 3 not in a.shards)
        assert b.host.shards[ShardId(3)][0] > 1
        await b.target((3, "a"))
        await eventually(lambda: a.shards == EVERY and not b.shards)


async def test_a_stale_plan_is_refused(dsn: str) -> None:
    """A plan is made from the one in force, or it is not taken."""
    async with member(dsn, "a") as a:
        assert await a.ownership.set_targets(0, "one", []) == 1
        assert await a.ownership.set_targets(0, "two", []) is None
        assert await a.ownership.set_targets(1, "two", []) == 2


async def test_a_second_process_of_the_same_name_ends_the_first_incarnation(dsn: str) -> None:
    """Its shards are freed before the newcomer claims them, and the first finds out."""
    async with member(dsn, "a") as first:
        await first.target(*[(shard, "a") for shard in range(SHARDS)])
        await eventually(lambda: first.shards == EVERY)
        old = first.ownership.incarnation
        connection = await asyncpg.connect(dsn)
        assert await store.register(connection, "a", "usurper", Address("127.0.0.1", 3, 4), {}) == old
        assert await store.free_predecessors(connection, "a", "usurper") == SHARDS
        await eventually(lambda: first.ownership.fencings > 0)
        await eventually(lambda: first.shards == EVERY)
        assert first.ownership.incarnation not in (old, "usurper")
        await connection.close()


async def test_a_lost_answer_to_a_registration_does_not_shorten_the_predecessors_lease(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next attempt finds an incarnation of its own process, but the one before that may still read from memory."""
    register, free = store.register, store.free_predecessors
    replaced_at: list[float] = []
    freed_at: list[float] = []

    async def register_and_lose_the_first_answer(
        connection: asyncpg.Connection,
        worker: str,
        incarnation: str,
        address: Address,
        capabilities: Mapping[str, object],
        claimant: Claimant | None,
    ) -> str | None:
        before = await register(connection, worker, incarnation, address, capabilities, claimant)
        replaced_at.append(asyncio.get_running_loop().time())
        if len(replaced_at) == 1:
            raise ConnectionResetError("the answer is lost")
        return before

    async def free_and_note(connection: asyncpg.Connection, worker: str, incarnation: str) -> int:
        freed_at.append(asyncio.get_running_loop().time())
        return await free(connection, worker, incarnation)

    connection = await asyncpg.connect(dsn)
    await register(connection, "a", "predecessor", Address("127.0.0.1", 3, 4), {})
    await connection.close()
    monkeypatch.setattr(store, "register", register_and_lose_the_first_answer)
    monkeypatch.setattr(store, "free_predecessors", free_and_note)
    async with member(dsn, "a") as a:
        assert len(replaced_at) == 2
        assert freed_at[0] - replaced_at[0] >= a.ownership.lease.lease_s


async def test_a_fenced_worker_goes_on_as_a_new_incarnation(dsn: str) -> None:
    """It drops everything at once, registers again, and claims what targets it."""
    async with member(dsn, "a") as a:
        await a.target(*[(shard, "a") for shard in range(SHARDS)])
        await eventually(lambda: a.shards == EVERY)
        old = a.ownership.incarnation
        connection = await asyncpg.connect(dsn)
        async with asyncio.timeout(5):
            fenced = None
            while fenced is None:
                beat = (await store.read_view(connection, EMPTY)).workers["a"].beat
                fenced = await store.fence(connection, "a", old, beat, {}, "by hand")
        await eventually(lambda: a.ownership.incarnation != old and a.shards == EVERY)
        assert a.host.dropped_all >= 1
        assert min(epoch for epoch, _ in a.host.shards.values()) > 2
        await connection.close()


async def test_a_lost_session_is_no_death(dsn: str) -> None:
    """All sessions are ended by the server: the same incarnation goes on, with all its shards."""
    async with member(dsn, "a") as a:
        await a.target(*[(shard, "a") for shard in range(SHARDS)])
        await eventually(lambda: a.shards == EVERY)
        before = a.ownership.incarnation
        connection = await asyncpg.connect(dsn)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", before
        )
        await eventually(lambda: a.ownership.lease.lost_sessions > 0)
        await eventually(a.ownership.lease.allows_memory_reads)
        await a.ownership.refresh()
        assert a.ownership.incarnation == before
        assert a.shards == EVERY
        assert a.host.dropped_all == 0
        await connection.close()


async def test_a_session_holds_its_lock_before_anybody_can_read_its_number(dsn: str) -> None:
    """Otherwise a read in between would take a worker that connects again for one whose session has ended."""
    session, peer = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        await store.register(session, "a", "first", Address("127.0.0.1", 1, 2), {})
        assert await store.lock(session, "a", "first")
        before = (await store.read_view(peer, EMPTY)).workers["a"]
        async with session.transaction():
            await store.lock(session, "a", "first")
            numbers = await peer.fetch("SELECT attempt FROM worker")
            locks = await peer.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted")
        assert before.locked
        assert [row["attempt"] for row in numbers] == [2]
        assert locks == 3  # two attempts, and the number that both begin with
        assert (await store.read_view(peer, EMPTY)).workers["a"].locked
    finally:
        session.terminate()
        peer.terminate()


async def test_a_number_whose_lock_is_taken_is_passed_over(dsn: str) -> None:
    """An earlier half-dead session does not prevent a new lock."""
    session, half_dead = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        await store.register(session, "a", "first", Address("127.0.0.1", 1, 2), {})
        await half_dead.execute("SELECT pg_advisory_lock(hashtextextended('first:2', 0))")
        assert await store.lock(session, "a", "first")
        assert await session.fetchval("SELECT attempt FROM worker") == 3
        assert not await store.lock(session, "a", "another")
    finally:
        session.terminate()
        half_dead.terminate()


async def test_the_lease_ends_when_beats_do(dsn: str) -> None:
    """While the worker row cannot be written, nothing may be read from memory; afterwards it may."""
    async with member(dsn, "a") as a:
        await eventually(a.ownership.lease.allows_memory_reads)
        connection = await asyncpg.connect(dsn)
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT 1 FROM worker WHERE id = 'a' FOR UPDATE")
        await eventually(lambda: not a.ownership.lease.allows_memory_reads())
        await transaction.rollback()
        await eventually(a.ownership.lease.allows_memory_reads)
        await connection.close()


async def test_leaving_gives_every_shard_up(dsn: str) -> None:
    """Nothing is owned afterwards, and a leaving worker claims nothing more."""
    async with member(dsn, "a") as a:
        await a.target(*[(shard, "a") for shard in range(SHARDS)])
        await eventually(lambda: a.shards == EVERY)
        async with asyncio.timeout(5):
            await a.ownership.leave()
        connection = await asyncpg.connect(dsn)
        assert await connection.fetchval("SELECT count(*) FROM shard WHERE owner IS NOT NULL") == 0
        assert await connection.fetchval("SELECT leaving FROM worker WHERE id = 'a'")
        await a.ownership.refresh()
        assert not a.shards
        await connection.close()


async def test_an_owned_but_unserved_shard_is_adopted_again(dsn: str) -> None:
    """As after a lost answer to a claim: the epoch is raised, and the shard served."""
    async with member(dsn, "a") as a:
        await a.target(*[(shard, "a") for shard in range(SHARDS)])
        await eventually(lambda: a.shards == EVERY)
        epoch, _ = a.host.shards[ShardId(5)]
        a.host.drop(ShardId(5))
        await eventually(lambda: a.shards == EVERY)
        assert a.host.shards[ShardId(5)][0] == epoch + 1


@pytest.mark.parametrize("attempt", range(3))
async def test_two_workers_never_win_the_same_shard(dsn: str, attempt: int) -> None:
    """Eight claims of every shard at once: each shard has one winner."""
    del attempt
    connections = [await asyncpg.connect(dsn) for _ in range(8)]
    for number, connection in enumerate(connections):
        await store.register(connection, f"w{number}", f"i{number}", Address("h", 1, 2), {})
    won = await asyncio.gather(
        *[
            shard_store.claim(connection, f"w{number}", f"i{number}", sorted(EVERY))
            for number, connection in enumerate(connections)
        ]
    )
    assert sorted(shard for claimed in won for shard in claimed) == sorted(EVERY)
    for connection in connections:
        await connection.close()
