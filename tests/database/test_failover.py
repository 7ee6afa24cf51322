"""Histories of one database system: which is the newer, what ends with the older, and what the newer must not repeat."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from ulid import ULID

from shard_worker.database.connection import Database, DatabaseSuperseded, ServerIdentity
from shard_worker.database.generation import SKIPPED, generation_after
from shard_worker.ownership import shard_store, store
from shard_worker.ownership.view import EMPTY

ADDRESS = store.Address("127.0.0.1", 1, 2)


@pytest.fixture
async def admin(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A plain connection to the same database."""
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


def database(dsn: str, failovers: list[int] | None = None) -> Database:
    """As a worker has one; counts fail-overs in ``failovers``."""
    noticed = [] if failovers is None else failovers
    return Database(dsn, application_name=lambda: "me", on_failover=lambda: noticed.append(1))


async def pretend_older(admin: asyncpg.Connection) -> None:
    """Have meta say that the server was on an earlier timeline when a worker last came, as on a promoted standby."""
    await admin.execute("UPDATE meta SET timeline = timeline - 1")


async def test_the_timeline_is_the_wals(dsn: str, admin: asyncpg.Connection) -> None:
    """Not the last checkpoint's."""
    seen = database(dsn)
    await (await seen.connect("test")).close()
    assert seen.newest is not None
    name = await admin.fetchval("SELECT pg_walfile_name(pg_current_wal_lsn())")
    assert seen.newest.timeline == int(name[:8], 16)
    assert seen.newest.generation == await admin.fetchval("SELECT generation FROM meta")


async def test_a_generation_is_stored_once_by_the_first_worker(dsn: str, admin: asyncpg.Connection) -> None:
    """Eight workers that come at once agree on it, and on the first history nothing is taken back."""
    workers = [database(dsn) for _ in range(8)]
    for connection in await asyncio.gather(*[worker.connect("test") for worker in workers]):
        connection.terminate()
    assert len({worker.newest for worker in workers}) == 1
    assert await admin.fetchval("SELECT max(epoch) FROM shard") == 0
    assert await admin.fetchval("SELECT generation_at FROM meta") is None


async def test_a_new_history_repeats_no_epoch_no_plan_version_and_no_incarnation(
    dsn: str, admin: asyncpg.Connection
) -> None:
    """Every shard is free at an epoch far beyond, with a row that says where the journal ended, and a target."""
    await (await database(dsn).connect("test")).close()
    await store.register(admin, "a", "a1", ADDRESS, {})
    won = await shard_store.claim(admin, "a", "a1", list(range(4)))  # type: ignore[arg-type]
    before = await store.read_view(admin, EMPTY)
    await pretend_older(admin)
    await asyncio.gather(*[database(dsn).connect("test") for _ in range(4)])
    after = await store.read_view(admin, EMPTY)
    assert after.workers["a"].fenced
    assert after.plan_version == before.plan_version + SKIPPED
    assert all(row.owner is None for row in after.shards.values())
    assert {shard: row.epoch - SKIPPED for shard, row in after.shards.items()} == {
        shard: won.get(shard, 0) for shard in after.shards
    }
    assert [after.shards[shard].target for shard in won] == ["a"] * 4
    epochs = await admin.fetch("SELECT from_seq, source FROM shard_epoch WHERE kind = 'failover' ORDER BY shard_id")
    assert [tuple(row) for row in epochs] == [(1, "a")] * 4 + [(1, None)] * 4
    assert 0 < await store.old_leases_s(admin, 0.7) <= 0.7


async def test_a_fact_learnt_on_one_connection_ends_all_older_sessions(dsn: str, admin: asyncpg.Connection) -> None:
    """Those of a pool too; the session that learnt it goes on."""
    noticed: list[int] = []
    seen = database(dsn, noticed)
    old = await seen.connect("lease")
    pool = await seen.pool(most=1)
    first = await pool.run(lambda connection: connection.fetchval("SELECT pg_backend_pid()"))
    await pretend_older(admin)
    fresh = await seen.connect("reconciler")
    assert noticed == [1]
    assert old.is_closed()
    assert not fresh.is_closed()
    assert await pool.run(lambda connection: connection.fetchval("SELECT pg_backend_pid()")) != first
    assert seen.open_sessions == 2
    pool.terminate()
    fresh.terminate()


async def test_an_older_history_is_refused_and_changes_nothing(dsn: str) -> None:
    """A two-host DSN must not flip back."""
    noticed: list[int] = []
    seen = database(dsn, noticed)
    await (await seen.connect("test")).close()
    known = seen.newest
    assert known is not None
    for newer in (
        known._replace(timeline=known.timeline + 1),
        known._replace(generation=generation_after(known.generation)),
    ):
        seen._newest = newer
        with pytest.raises(DatabaseSuperseded, match="shut the old primary"):
            await database_of(seen).connect_once("test")
        assert seen.newest == newer
    assert noticed == []


def database_of(seen: Database) -> Database:
    """The same, with its gate open again: a refusal makes the next attempt wait."""
    seen.gate = type(seen.gate)()
    return seen


async def test_a_peer_that_knows_a_newer_history_ends_sessions_on_the_older(dsn: str) -> None:
    """Before any session shows it, and once only."""
    noticed: list[int] = []
    seen = database(dsn, noticed)
    session = await seen.connect("lease")
    known = seen.newest
    assert known is not None
    seen.learn(0, "")
    seen.learn(known.timeline, known.generation)
    assert not session.is_closed()
    seen.learn(known.timeline + 1, str(ULID()))
    assert session.is_closed()
    assert noticed == [1]
    with pytest.raises(DatabaseSuperseded):
        await seen.connect_once("lease")


async def test_a_worker_that_heard_of_a_newer_history_first_refuses_the_older(dsn: str) -> None:
    """As one that was restarted beside a primary that was replaced."""
    seen = database(dsn)
    seen.learn(2**31, str(ULID()))
    with pytest.raises(DatabaseSuperseded):
        await seen.connect_once("start")
    assert seen.newest is None


def test_a_generation_is_newer_than_any_known_whatever_the_clock_says() -> None:
    """A clock that went back years must not make a new history look old."""
    future = str(ULID.from_timestamp(4e9))
    assert generation_after(future) > future
    assert generation_after("") < future


def test_positions_order_by_timeline_first() -> None:
    """A generation orders two histories of one timeline."""
    ordered = [ServerIdentity(1, 1, "B"), ServerIdentity(1, 2, "A"), ServerIdentity(1, 2, "B")]
    assert sorted(ordered, key=lambda each: each.position) == ordered


async def test_an_epoch_that_was_seen_is_not_used_again(dsn: str, admin: asyncpg.Connection) -> None:
    """Where a history gave out fewer than this worker has seen; what is above stays as it is."""
    del dsn
    await store.register(admin, "a", "a1", ADDRESS, {})
    await shard_store.claim(admin, "a", "a1", [0, 1, 2])  # type: ignore[list-item]
    assert await shard_store.raise_past(admin, {0: 5, 1: 1, 2: 0}) == 2  # type: ignore[dict-item]
    rows = (await store.read_view(admin, EMPTY)).shards
    assert [(rows[shard].epoch, rows[shard].owner) for shard in sorted(rows)[:3]] == [(6, None), (2, None), (1, "a")]
