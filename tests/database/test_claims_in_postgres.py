"""The claim in a real database: taken once, refused to others, displaced by name, and fencing whom it displaces."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from shard_worker.database import claim_store, migration
from shard_worker.database.claim import Claimant
from shard_worker.database.claim_store import ClaimedByOther, read_claim
from shard_worker.database.migration import ShardCountMismatch, migrate, read_meta
from shard_worker.domain.ids import ShardId
from shard_worker.ownership import shard_store, store
from shard_worker.ownership.store import Address
from tests.conftest import MakeDatabase

FIRST = Claimant("test", "uid-1", "production/test", "site-1")
AGAIN = FIRST._replace(uid="uid-1b")
SECOND = Claimant("staging.test", "uid-2", "staging/test", "site-1")
ADDRESS = Address("127.0.0.1", 1, 2)


async def claim(dsn: str, claimant: Claimant, take_over: str = "", shards: int = 8) -> list[str]:
    """Migrate as a cluster's Job does; what it says."""
    output: list[str] = []
    await migrate(
        dsn,
        cluster_id=claimant.cluster_id,
        shards=shards,
        say=output.append,
        claimant=claimant,
        take_over=take_over,
    )
    return output


@pytest.fixture(autouse=True)
def _short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "_LEASES_S", 0.0)


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A session of the login that owns the schema."""
    made = await asyncpg.connect(dsn)
    yield made
    await made.close()


async def everything(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """All that a second cluster could change."""
    return [
        row
        for table in ("meta", "worker", "shard", "plan", "shard_target", "shard_epoch", "schema_migration")
        for row in await connection.fetch(f"SELECT * FROM {table} ORDER BY 1")
    ]


async def test_the_second_cluster_is_refused_and_the_first_notices_nothing(
    dsn: str, connection: asyncpg.Connection
) -> None:
    """In either order, and by name; not a row changes."""
    for first, second in ((FIRST, SECOND), (SECOND, FIRST)):
        await connection.execute("UPDATE meta SET cluster_id = $1, holder_uid = ''", first.cluster_id)
        await claim(dsn, first)
        await store.register(connection, "test-0", "incarnation", ADDRESS, {}, first)
        before = await everything(connection)
        for _ in range(2):
            with pytest.raises(ClaimedByOther, match=f"belongs to .*{first.name}.* not to .*{second.name}"):
                await claim(dsn, second)
        with pytest.raises(ClaimedByOther):
            await read_meta(connection, cluster_id=second.cluster_id, claimant=second)
        assert await everything(connection) == before


async def test_of_two_that_come_at_once_one_is_refused(make_database: MakeDatabase) -> None:
    """Both find a database without a holder."""
    for _ in range(3):
        dsn = await make_database()
        namesake = FIRST._replace(uid="uid-9", name="elsewhere/test")
        ends = await asyncio.gather(claim(dsn, FIRST), claim(dsn, namesake), return_exceptions=True)
        assert sorted(type(end).__name__ for end in ends) == ["ClaimedByOther", "list"]


async def test_a_refused_cluster_does_not_change_the_schema(dsn: str, connection: asyncpg.Connection) -> None:
    """Its release may be newer: the first cluster's workers must not find themselves on another schema."""
    await claim(dsn, FIRST)
    newest = await connection.fetchval("SELECT max(version) FROM schema_migration")
    await connection.execute("DELETE FROM schema_migration WHERE version = $1", newest)
    with pytest.raises(ClaimedByOther):
        await claim(dsn, SECOND)
    assert await connection.fetchval("SELECT max(version) FROM schema_migration") == newest - 1


async def test_a_schema_of_the_next_release_is_claimed_as_it_is(dsn: str, connection: asyncpg.Connection) -> None:
    """A release that is taken back may come with another object of the cluster; one that is refused changes nothing."""
    await connection.execute("UPDATE meta SET holder_uid = ''")
    await connection.execute(
        "INSERT INTO schema_migration (version, name, checksum) SELECT max(version) + 1, 'future', '' FROM schema_migration"
    )
    with pytest.raises(ClaimedByOther):
        await claim(dsn, SECOND)
    await claim(dsn, FIRST)
    found = await read_claim(connection)
    assert found is not None
    assert found.holder == FIRST
    assert await read_meta(connection, cluster_id=FIRST.cluster_id, claimant=FIRST) == 8


async def test_a_claim_is_read_before_the_schema_knows_holders(dsn: str, connection: asyncpg.Connection) -> None:
    """A database of the schema before belongs to its cluster id."""
    await connection.execute("""
        ALTER TABLE meta DROP COLUMN holder_uid, DROP COLUMN holder_name, DROP COLUMN holder_site,
                         DROP COLUMN holder_seen_at;
        ALTER TABLE shard_target DROP COLUMN pin;
        DELETE FROM schema_migration WHERE version = 4; DELETE FROM schema_step WHERE version = 4;
    """)
    with pytest.raises(ClaimedByOther, match="cluster 'test'"):
        await claim(dsn, SECOND)
    await claim(dsn, FIRST)
    found = await read_claim(connection)
    assert found is not None
    assert found.holder == FIRST


async def test_a_displaced_cluster_is_fenced_in_the_same_step(dsn: str, connection: asyncpg.Connection) -> None:
    """Its workers own nothing, and cannot register again; plans that were made for them are refused."""
    await claim(dsn, FIRST)
    await store.register(connection, "test-0", "i", ADDRESS, {}, FIRST)
    epochs = await shard_store.claim(connection, "test-0", "i", [ShardId(number) for number in range(8)])
    assert len(epochs) == 8
    version = await connection.fetchval("SELECT version FROM plan")
    with pytest.raises(ClaimedByOther):
        await claim(dsn, SECOND, take_over="uid-7")
    output = await claim(dsn, SECOND, take_over="uid-1")
    assert any("taken over from uid-1" in line for line in output)
    assert await connection.fetchval("SELECT fenced FROM worker")
    assert await connection.fetchval("SELECT count(owner) FROM shard") == 0
    assert await shard_store.raise_epoch(connection, "i", epochs) == {}
    assert await shard_store.set_targets(connection, version, "h", []) is None
    kinds = await connection.fetch("SELECT kind, source, reason FROM shard_epoch WHERE kind = 'takeover'")
    assert {(row["kind"], row["source"]) for row in kinds} == {("takeover", "test-0")}
    assert "production/test" in kinds[0]["reason"]
    other = await asyncpg.connect(dsn)
    with pytest.raises(ClaimedByOther, match="staging/test"):
        await store.register(other, "test-0", "i2", ADDRESS, {}, FIRST)
    await claim(dsn, SECOND)  # what is left in takeOver, or taken out of it, changes nothing any more
    await claim(dsn, SECOND, take_over="uid-1")


async def test_a_wrong_shard_count_displaces_no_cluster(dsn: str, connection: asyncpg.Connection) -> None:
    """The whole claim is one transaction."""
    await claim(dsn, FIRST)
    before = await everything(connection)
    with pytest.raises(ShardCountMismatch):
        await claim(dsn, SECOND, take_over="uid-1", shards=16)
    assert await everything(connection) == before


async def test_the_same_object_made_again_takes_over_after_a_minute(dsn: str, connection: asyncpg.Connection) -> None:
    """Or at once, when the workers of the first ended in order."""
    await claim(dsn, FIRST)
    with pytest.raises(ClaimedByOther, match="displaced after 60 s of silence"):
        await claim(dsn, AGAIN)
    await connection.execute("UPDATE meta SET holder_seen_at = now() - interval '61 s'")
    await claim(dsn, AGAIN)
    await store.register(connection, "test-0", "i", ADDRESS, {}, AGAIN)
    await store.register(connection, "test-1", "j", ADDRESS, {}, AGAIN)
    await store.retire(connection, "test-0", "i")
    with pytest.raises(ClaimedByOther):
        await claim(dsn, FIRST)
    await store.retire(connection, "test-1", "j")
    await claim(dsn, FIRST)


async def test_of_two_last_workers_that_end_at_once_one_ends_the_claim(
    dsn: str, connection: asyncpg.Connection
) -> None:
    """Each sees whether the other one has ended."""
    await claim(dsn, FIRST)
    sessions = [await asyncpg.connect(dsn) for _ in range(4)]
    for number, session in enumerate(sessions):
        await store.register(session, f"test-{number}", f"i{number}", ADDRESS, {}, FIRST)
    await asyncio.gather(*[store.retire(session, f"test-{n}", f"i{n}") for n, session in enumerate(sessions)])
    found = await read_claim(connection)
    assert found is not None
    assert found.silent_s == float("inf")
    for session in sessions:
        await session.close()


async def test_workers_refresh_the_claim_once_a_period(dsn: str, connection: asyncpg.Connection) -> None:
    """However many there are; and only their own."""
    await claim(dsn, FIRST)
    await connection.execute("UPDATE meta SET holder_seen_at = now() - interval '30 s'")
    await claim_store.refresh(connection, SECOND, 5.0)
    found = await read_claim(connection)
    assert found is not None
    assert found.silent_s > 25
    await claim_store.refresh(connection, FIRST, 5.0)
    first = await connection.fetchval("SELECT holder_seen_at FROM meta")
    found = await read_claim(connection)
    assert found is not None
    assert found.silent_s < 25
    await claim_store.refresh(connection, FIRST, 5.0)
    assert await connection.fetchval("SELECT holder_seen_at FROM meta") == first
