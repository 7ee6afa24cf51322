"""Statements that are planned while the tables are empty, as a new cluster's are: their plans look rows up by a key.

A session keeps such a plan, and would read the whole of a table that has grown since.
"""

import re

import asyncpg
import pytest

from shard_worker.journal import snapshots
from shard_worker.readmodel import tables, updater

_OF_TABLES = {
    f"{module.__name__.rpartition('.')[2]}.{name}": sql
    for module in (tables, snapshots)
    for name, sql in vars(module).items()
    if isinstance(sql, str) and "$1" in sql and re.search(r"\b(SELECT|UPDATE|DELETE)\b", sql)
}
"""The statements of the updater and of the snapshots' writer."""


def _parameters(sql: str) -> int:
    return max(int(number) for number in re.findall(r"\$(\d+)", sql))


async def _plan(connection: asyncpg.Connection, sql: str) -> list[str]:
    await connection.execute(f"PREPARE statement AS {sql}")
    nulls = ", ".join(["NULL"] * _parameters(sql))
    return [row[0].strip() for row in await connection.fetch(f"EXPLAIN EXECUTE statement ({nulls})")]


def unbounded(plan: list[str]) -> list[str]:
    """The steps of a plan that read a table from its begin to its end."""
    found = [step for step in plan if re.search(r"\b(Seq|Bitmap Heap|Sample) Scan on", step)]
    for step, below in zip(plan, [*plan[1:], ""], strict=True):
        if re.search(r"\bIndex (Only )?Scan( Backward)? using", step) and not below.startswith("Index Cond:"):
            found.append(step)
    return found


def test_the_statements_are_found() -> None:
    """By their texts, whatever their names."""
    assert len(_OF_TABLES) >= 15
    assert {"tables._STORE_POSTS", "snapshots._SAVE_SQL"} <= set(_OF_TABLES)


@pytest.mark.parametrize("name", _OF_TABLES)
async def test_a_statement_looks_its_rows_up(dsn: str, name: str) -> None:
    """With the settings of its session and one plan for all parameters."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(updater._SET_UP)
    given = 2 if name == "tables._LOOK" else 3
    behind = tables._BEHIND.format(most_events=f"${given + 1}", most_bytes=f"${given + 2}")
    sql = _OF_TABLES[name].format(place="readmodel_1", at=tables._AT, behind=behind)
    plan = await _plan(connection, sql)
    await connection.close()
    assert not unbounded(plan), "\n".join(plan)


async def test_a_plan_that_reads_a_table_is_noticed(dsn: str) -> None:
    """Without the settings a join reads it; and so does an index without a condition."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    join = "UPDATE readmodel_1.thread t SET epoch = 1 FROM unnest($1::uuid[]) AS one (id) WHERE t.thread_id = one.id"
    assert unbounded(await _plan(connection, join))
    await connection.execute("DEALLOCATE statement; SET enable_seqscan = off")
    assert unbounded(await _plan(connection, "SELECT $1::int FROM readmodel_1.thread ORDER BY thread_id"))
    await connection.close()
