"""How the tables are stored: what is written all the time stays small, what is written once is frozen once."""

import asyncpg
import pytest

from shard_worker.domain.ids import ShardId
from shard_worker.ownership import reporting, shard_store, store
from shard_worker.ownership.shard_store import Target
from shard_worker.ownership.store import Address
from shard_worker.ownership.view import Load


async def test_the_settings_of_each_table_are_these(dsn: str) -> None:
    """Updated tables have free space for updates in place; the journal is vacuumed for its inserts, and frozen at
    once.
    """
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch(
        "SELECT relname, reloptions FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
    )
    options = {name: dict(option.split("=") for option in found or ()) for name, found in rows}
    updated = {"worker", "shard", "shard_target", "shard_load", "plan", "projection_offset"}
    assert {name for name, found in options.items() if found.get("fillfactor") == "50"} == updated
    assert options["journal"] == {
        "autovacuum_vacuum_insert_threshold": "100000",
        "autovacuum_vacuum_insert_scale_factor": "0.05",
        "autovacuum_freeze_min_age": "0",
    }
    assert options["snapshot"] == {"fillfactor": "80"}
    await connection.close()


async def test_the_journal_is_one_table(dsn: str) -> None:
    """By measurement: ADR 7."""
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("SELECT relkind FROM pg_class WHERE relname = 'journal'") == b"r"
    await connection.close()


@pytest.mark.parametrize("table", ["shard", "shard_target", "shard_load", "worker", "plan"])
async def test_what_ownership_updates_is_updated_in_place(dsn: str, table: str) -> None:
    """No index is touched, and the next reader of the page prunes the dead versions."""
    connection = await asyncpg.connect(dsn)
    await store.register(connection, "a", "i", Address("127.0.0.1", 1, 2), {})
    epochs = await shard_store.claim(connection, "a", "i", [ShardId(number) for number in range(8)])
    for version in range(20):
        epochs = await shard_store.raise_epoch(connection, "i", epochs)
        await shard_store.set_targets(
            connection, version, "hash", [Target(ShardId(n), "a", f"{version}") for n in range(8)]
        )
        await reporting.save_loads(connection, {ShardId(n): Load(version, 1.0) for n in range(8)})
        await reporting.set_cordon(connection, "a", cordoned=version % 2 == 0, draining=False)
    await connection.execute("SELECT pg_stat_force_next_flush()")
    row = await connection.fetchrow(
        "SELECT n_tup_upd, n_tup_hot_upd, pg_relation_size(relid) FROM pg_stat_user_tables WHERE relname = $1", table
    )
    assert row is not None
    updated, in_place, size = row
    assert updated >= 20
    assert in_place == updated
    assert size <= 2 * 8192
    await connection.close()
