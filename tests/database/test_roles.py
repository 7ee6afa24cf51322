"""The worker's role, tried with a login that has it: it suffices for a worker, and cannot change history."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import asyncpg
import pytest

from shard_worker.database.connection import Database
from shard_worker.database.migration import migrate, read_meta
from shard_worker.database.roles import excess_privileges, make_worker_login
from shard_worker.domain.ids import ShardId, ulid_uuid
from shard_worker.journal.append_sql import APPEND_SQL, fence_parameters
from shard_worker.journal.codec import encode_state
from shard_worker.journal.snapshots import SnapshotWriter
from shard_worker.memory import MemoryBudget
from shard_worker.ownership import reporting, shard_store, store
from shard_worker.ownership.view import EMPTY, Load
from tests.support.journal_writer import SHARDS, created, folded, new_thread
from tests.support.members import EVERY, member
from tests.support.polling import eventually
from tests.support.programs import worker_alone

LOGIN = "a worker's login"
PASSWORD = "it's \\ secret"  # of a throw-away database

MAY_WRITE = {
    "meta": {"UPDATE": "system_identifier timeline generation generation_at holder_seen_at"},
    "journal": {
        "INSERT": "shard_id shard_seq thread_id seq_nr event_type event_version payload metadata key_hash body_hash epoch"
    },
    "shard_epoch": {
        "INSERT": "shard_id epoch worker incarnation from_seq kind source reason",
        "UPDATE": "from_seq pause_ms",
    },
    "shard": {"UPDATE": "epoch owner incarnation changed_at format"},
    "plan": {"UPDATE": "version hash made_at"},
    "shard_target": {"INSERT": "*", "UPDATE": "*"},
    "shard_load": {"INSERT": "*", "UPDATE": "*"},
    "worker": {"INSERT": "*", "UPDATE": "*"},
    "snapshot": {"INSERT": "*", "UPDATE": "*", "DELETE": "*"},
    "projection_offset": {"UPDATE": "seq"},
    "dead_letter": {"INSERT": "*", "UPDATE": "seq_nr reason", "DELETE": "*"},
    "read_marker": {"INSERT": "*", "UPDATE": "*"},
}
"""By table and privilege the columns, or all; whatever is not here may only be read."""


@pytest.fixture
async def as_worker(dsn: str) -> str:
    """The DSN of a login with the worker's role alone."""
    admin = await asyncpg.connect(dsn)
    await make_worker_login(admin, LOGIN, PASSWORD)
    await admin.close()
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"a%20worker%27s%20login:it%27s%20%5C%20secret@127.0.0.1:{parts.port}"))


@pytest.fixture
async def session(as_worker: str) -> AsyncIterator[asyncpg.Connection]:
    """A session of such a login."""
    connection = await asyncpg.connect(as_worker)
    yield connection
    await connection.close()


async def test_the_grants_are_these_and_no_others(session: asyncpg.Connection) -> None:
    """Every table, every column, every privilege."""
    columns = await session.fetch(
        "SELECT c.relname, a.attname, p.name, has_column_privilege(c.oid, a.attnum, p.name) AS may"
        "  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
        " CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) AS p (name)"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v')"
    )
    wrong = []
    for table, column, privilege, may in columns:
        expected = MAY_WRITE.get(table, {}).get(privilege, "")
        if may != (privilege == "SELECT" or expected == "*" or column in expected.split()):
            wrong.append(f"{privilege} of {table}.{column}: {may}")
    tables = await session.fetch(
        "SELECT c.relname, p.name, has_table_privilege(c.oid, p.name) AS may FROM pg_class c"
        " CROSS JOIN unnest(ARRAY['DELETE', 'TRUNCATE', 'TRIGGER']) AS p (name)"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v')"
    )
    wrong += [f"{name} of {table}: {may}" for table, name, may in tables if may != (name in MAY_WRITE.get(table, {}))]
    assert wrong == []


async def test_the_tables_of_the_read_model_may_be_filled_and_not_made(session: asyncpg.Connection) -> None:
    """A worker projects; making and dropping a generation is for the login that migrates."""
    tables = await session.fetch(
        "SELECT c.relname, bool_and(has_table_privilege(c.oid, p.name)) AS may FROM pg_class c"
        " CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p (name)"
        " WHERE c.relnamespace = 'readmodel_1'::regnamespace AND c.relkind = 'r' GROUP BY c.relname"
    )
    assert {row["relname"]: row["may"] for row in tables} == dict.fromkeys(
        ("thread", "thread_account", "thread_message", "thread_mention"), True
    )
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await session.execute("SELECT make_readmodel_v1(9)")


FORBIDDEN = (
    "UPDATE journal SET epoch = 0",
    "DELETE FROM journal",
    "TRUNCATE journal",
    "INSERT INTO journal (shard_id, shard_seq, thread_id, seq_nr, event_type, event_version, payload, metadata, epoch,"
    " written_at) VALUES (0, 1, gen_random_uuid(), 1, 1, 1, '', '', 1, '2020-01-01')",
    "UPDATE shard_epoch SET incarnation = 'another'",
    "UPDATE shard_epoch SET epoch = 9",
    "UPDATE shard_epoch SET claimed_at = '2020-01-01'",
    "INSERT INTO shard_epoch (shard_id, epoch, claimed_at) VALUES (0, 1, '2020-01-01')",
    "DELETE FROM shard_epoch",
    "DELETE FROM shard",
    "UPDATE shard SET id = 99 WHERE id = 0",
    "INSERT INTO shard (id) VALUES (99)",
    "DELETE FROM worker",
    "UPDATE meta SET cluster_id = 'another'",
    "UPDATE schema_migration SET checksum = ''",
    "DELETE FROM schema_step",
    "DROP TABLE worker",
    "CREATE TABLE public.mine (id integer)",
)


async def test_history_cannot_be_changed(session: asyncpg.Connection) -> None:
    """Nor who wrote it, nor when, nor what the database is."""
    allowed = []
    for statement in FORBIDDEN:
        try:
            await session.execute(statement)
        except asyncpg.InsufficientPrivilegeError:
            continue
        allowed.append(statement)
    assert allowed == []


async def test_a_worker_opens_its_sessions_and_reads_what_the_database_is(as_worker: str) -> None:
    """The checks of every connection ask the server about itself."""
    database = Database(as_worker, application_name=lambda: "test")
    connection = await database.connect_once("test")
    assert await read_meta(connection, cluster_id="test", shards=SHARDS) == SHARDS
    assert await excess_privileges(connection) == []
    connection.terminate()


async def test_a_worker_claims_hands_over_fences_and_leaves(as_worker: str) -> None:
    """Every statement of ownership."""
    async with member(as_worker, "a") as a, member(as_worker, "b") as b:
        await eventually(lambda: a.shards | b.shards == EVERY)
        await a.target(*[(shard, "a") for shard in range(SHARDS)])
        await eventually(lambda: a.shards == EVERY)
        await a.target((3, "b"))
        await eventually(lambda: b.shards == {3})
        peer = await asyncpg.connect(as_worker)
        assert await reporting.set_cordon(peer, "b", cordoned=True, draining=False)
        await reporting.save_loads(peer, {ShardId(0): Load(1.0, 1.0)})
        await reporting.save_loads(peer, {ShardId(0): Load(2.0, 1.0)})
        assert (await reporting.read_loads(peer))[ShardId(0)].commands_s == 2.0
        await eventually(lambda: a.ownership.handoffs.completed > 0)
        epoch = b.host.shards[ShardId(3)][0]
        await reporting.record_pauses(peer, {(ShardId(3), epoch): 1.5})
        held = dict(a.host.shards)
        raised = await shard_store.raise_epoch(
            peer, a.ownership.incarnation, {shard: held[shard][0] for shard in sorted(held)[:1]}
        )
        assert len(raised) == 1
        async with asyncio.timeout(5):
            freed = None
            while freed is None:  # the worker beats meanwhile
                beat = (await store.read_view(peer, EMPTY)).workers["b"].beat
                freed = await store.fence(peer, "b", b.ownership.incarnation, beat, {ShardId(3): "a"}, "by hand")
        assert freed == [3]
        await eventually(lambda: a.shards == EVERY)
        async with asyncio.timeout(10):
            await a.ownership.leave()
        await peer.close()


async def test_a_worker_appends_and_keeps_snapshots(as_worker: str) -> None:
    """The journal's rows with its own columns only; a snapshot is replaced, and may be thrown away."""
    database = Database(as_worker, application_name=lambda: "test")
    pool = await database.pool(most=2)
    session = await database.connect_once("test")
    await session.execute("UPDATE shard SET epoch = 1, owner = 'w', incarnation = 'i' WHERE id = 3")
    thread = ulid_uuid(new_thread(3))
    rows = ([3], [1], [thread], [1], [1], [1], [b"{}"], [b"{}"], [b"k" * 16], [b"b" * 16])
    assert len(await session.fetch(APPEND_SQL, *fence_parameters([(3, 1)], "i"), *rows)) == 1
    snapshots = SnapshotWriter(pool, memory=MemoryBudget(64 << 20))
    snapshots.start()
    for seq_nr in (1, 2):
        snapshots.save(ShardId(3), thread, seq_nr, encode_state(folded([created()])), b"{}")
        await eventually(lambda wanted=seq_nr: snapshots.saved == wanted)  # type: ignore[misc]  # bound at once
    assert snapshots.dropped == 0
    assert await session.fetchval("SELECT seq_nr FROM snapshot") == 2
    await session.execute("DELETE FROM snapshot")
    await snapshots.close()
    session.terminate()
    pool.terminate()


@pytest.mark.parametrize(
    ("grant", "excess"),
    [
        ("DELETE ON journal", ["DELETE"]),
        ("TRUNCATE ON journal", ["TRUNCATE"]),
        ("UPDATE ON journal", ["UPDATE"]),
        ("UPDATE (payload) ON journal", ["UPDATE"]),
        ("ALL ON journal", ["DELETE", "TRUNCATE", "UPDATE"]),
    ],
)
async def test_a_login_that_may_change_history_is_found(
    dsn: str, session: asyncpg.Connection, grant: str, excess: list[str]
) -> None:
    """However it came by the right."""
    admin = await asyncpg.connect(dsn)
    await admin.execute(f'GRANT {grant} TO "{LOGIN}"')
    assert await excess_privileges(session) == excess
    assert await excess_privileges(admin) == ["DELETE", "TRUNCATE", "UPDATE"]
    await admin.close()


async def test_what_the_role_was_given_besides_is_taken_by_the_next_migration(
    dsn: str, session: asyncpg.Connection
) -> None:
    """Also what an earlier version granted."""
    admin = await asyncpg.connect(dsn)
    await admin.execute("GRANT ALL ON journal TO threadcluster_worker")
    assert await excess_privileges(session) != []
    await migrate(dsn, cluster_id="test", shards=SHARDS, say=lambda _: None)
    assert await excess_privileges(session) == []
    await admin.close()


async def test_a_login_that_is_there_gets_the_new_password(dsn: str, as_worker: str) -> None:
    """As a local platform does at each start."""
    admin = await asyncpg.connect(dsn)
    await make_worker_login(admin, LOGIN, "another")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(as_worker)
    await make_worker_login(admin, LOGIN, PASSWORD)
    await (await asyncpg.connect(as_worker)).close()
    await admin.close()


@pytest.mark.parametrize("excess", [0, 3], ids=["role-alone", "owner"])
async def test_a_worker_says_whether_its_login_may_change_history(
    dsn: str, as_worker: str, tmp_path: Path, excess: int
) -> None:
    """In its metrics always, in its log where it may."""
    async with worker_alone(dsn if excess else as_worker, tmp_path, shards=SHARDS):
        admin = await asyncpg.connect(dsn)
        port = await admin.fetchval("SELECT management_port FROM worker")
        await admin.close()
        async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{port}/metrics") as answer:
            assert f"threadcluster_journal_excess_privileges {excess}.0" in await answer.text()
    warned = "may change the journal's history" in (tmp_path / "worker.log").read_text()
    assert warned == (excess > 0)
