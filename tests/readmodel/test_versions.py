"""Two versions of the read model on one journal: both are fed, one answers, and only workers that feed it may own shards."""

import asyncio
import functools
from collections.abc import Iterator

import asyncpg
import pytest

from shard_worker.ownership import store
from shard_worker.ownership.store import Address, ReadModelNotFed
from shard_worker.readmodel.rebuild import RebuildFailed, drop, rebuild, switch
from shard_worker.readmodel.rules import RULES, Rules
from tests.readmodel.sessions import heads
from tests.readmodel.written import Written
from tests.support.next_read_model import MIGRATION, NextChanges
from tests.support.polling import eventually

ADDRESS = Address("127.0.0.1", 1, 2)


def _quiet(sentence: str) -> None:
    """Say nothing."""
    del sentence


@pytest.fixture(name="two_versions")
def _two_versions() -> Iterator[None]:
    """This process is of a release that feeds versions 1 and 2."""
    RULES[2] = Rules(NextChanges, "make_readmodel_v2")
    yield
    del RULES[2]


async def _register(connection: asyncpg.Connection, worker: str, *versions: int) -> None:
    await store.register(connection, worker, f"incarnation of {worker}", ADDRESS, {"readmodel": versions})


@pytest.mark.usefixtures("two_versions")
async def test_a_new_version_is_filled_beside_the_old_one_and_left_again(dsn: str) -> None:
    """Both are the fold by their own rules, before and after each switch."""
    connection, other = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    await connection.execute(MIGRATION)
    await _register(connection, "a", 1, 2)
    written = Written(dsn, connection)
    written.updater.start()
    await written.append(60)

    async def fed(generation: int) -> bool:
        rows = await connection.fetch("SELECT shard_id, seq FROM projection_offset WHERE generation = $1", generation)
        reached = {row["shard_id"]: row["seq"] for row in rows}
        return all(reached[shard] == head for shard, head in (await heads(connection)).items())

    rebuilding = asyncio.create_task(rebuild(other, keep_old=False, say=_quiet))
    while not rebuilding.done():
        await written.append(5)
        await asyncio.sleep(0.01)
    assert await rebuilding == 2
    for live, spare in ((2, 1), (1, 2)):
        found = await connection.fetch("SELECT generation, live FROM readmodel_generation ORDER BY 1")
        assert [row["generation"] for row in found if row["live"]] == [live]
        await written.append(40)
        for generation in (live, spare):
            await eventually(functools.partial(fed, generation), what="both are fed")
            assert await written.differences(generation) == []
        await (switch(other, spare, _quiet) if live == 2 else drop(other, spare))
    assert await connection.fetchval("SELECT count(*) FROM readmodel_generation") == 1
    await written.updater.close()
    for each in (connection, other):
        await each.close()


@pytest.mark.usefixtures("two_versions")
async def test_only_who_feeds_the_version_in_use_may_register(dsn: str) -> None:
    """And a version comes into use only when every worker feeds it, also one that registers at the same moment."""
    connection, other = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    await connection.execute(MIGRATION)
    await _register(connection, "old", 1)
    with pytest.raises(RebuildFailed, match="do not feed version 2: old"):
        await rebuild(other, keep_old=False, say=_quiet, wait_s=0.2)

    await connection.execute("UPDATE worker SET fenced = true")
    async with connection.transaction():  # a registration that is not committed yet
        await connection.execute(store._SHARE_READ_MODEL_SQL)
        switching = asyncio.create_task(switch(other, 2, _quiet))

        async def waits() -> bool:
            sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            return bool(await connection.fetchval(sql))

        await eventually(waits, what="the switch waits for the registration")
    await switching
    with pytest.raises(ReadModelNotFed, match="version 2, and this release feeds 1 only"):
        await _register(await asyncpg.connect(dsn), "old", 1)
    assert await connection.fetchval("SELECT fenced FROM worker WHERE id = 'old'")
    await _register(connection, "new", 1, 2)
    for each in (connection, other):
        await each.close()


async def test_the_generation_in_use_is_neither_dropped_nor_chosen_again(dsn: str) -> None:
    """Nor is one that is not there; each time the sentence says which."""
    connection = await asyncpg.connect(dsn)
    with pytest.raises(RebuildFailed, match="generation 1 is in use"):
        await drop(connection, 1)
    with pytest.raises(RebuildFailed, match="generation 1 is in use already"):
        await switch(connection, 1, _quiet)
    with pytest.raises(RebuildFailed, match="there is no generation 7"):
        await switch(connection, 7, _quiet)
    await connection.close()


async def test_a_rebuild_does_not_bring_back_tables_that_were_left(dsn: str) -> None:
    """Generation 2 was in use and was left again: a rebuild makes all rows again."""
    connection, other = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    await _register(connection, "a", 1)
    written = Written(dsn, connection)
    written.updater.start()
    await written.append(30)
    assert await rebuild(other, keep_old=True, say=_quiet) == 2
    await switch(other, 1, _quiet)
    await connection.execute("UPDATE readmodel_2.thread SET title = 'spoilt'")
    assert await rebuild(other, keep_old=True, say=_quiet) == 3
    assert await written.differences(3) == []
    assert await connection.fetchval("SELECT to_regnamespace('readmodel_2')") is None
    await written.updater.close()
    for each in (connection, other):
        await each.close()


async def test_a_switch_waits_for_a_registration_and_a_drop_for_a_batch(dsn: str) -> None:
    """However short the session's own limit of a lock is."""
    connection, other, holder = [await asyncpg.connect(dsn) for _ in range(3)]
    await other.execute("SET lock_timeout = 100")
    reports: list[str] = []
    async with holder.transaction():
        await holder.execute(store._SHARE_READ_MODEL_SQL)
        rebuilding = asyncio.create_task(rebuild(other, keep_old=False, say=reports.append))

        async def waits() -> bool:
            return any("under way" in report for report in reports)

        await eventually(waits, what="the switch waits")
    async with holder.transaction():
        await holder.execute("SELECT FROM projection_offset WHERE generation = 1 AND shard_id = 1 FOR UPDATE")

        async def switched() -> bool:
            return any("answered from generation 2" in report for report in reports)

        # The switch needs the offsets as well.
        await eventually(waits, what="the switch waits")
    await eventually(switched, what="the switch")
    assert await rebuilding == 2
    assert reports[-1] == "dropped generation 1"
    for each in (connection, other, holder):
        await each.close()
