"""The model of each ownership statement agrees with its SQL, on a real Postgres and from random states.

One at a time: the result and all rows afterwards are the model's.  Two at a time, one of them held by a row lock: result
and rows are those of one of the two orders of the model.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

import asyncpg
import pytest

from tests.conftest import MakeDatabase
from tests.simulation.mutants import STATEMENTS, Mutant, patched
from tests.simulation.statement_cases import (
    SHARDS,
    WORKERS,
    Call,
    State,
    call_of,
    fill,
    plain,
    read_rows,
    rows_of,
    state_of,
)

_HELD_S = 10.0


@dataclass
class Sessions:
    """The sessions of a case."""

    first: asyncpg.Connection
    second: asyncpg.Connection
    holder: asyncpg.Connection
    observer: asyncpg.Connection
    leases: dict[str, asyncpg.Connection]

    def of(self, call: Call, other: asyncpg.Connection) -> asyncpg.Connection:
        """The session on which a statement runs."""
        return other if call.lease is None else self.leases[call.lease]


@asynccontextmanager
async def sessions_on(dsn: str) -> AsyncIterator[Sessions]:
    """Sessions that end with the test."""
    opened = [
        await asyncpg.connect(dsn, server_settings={"synchronous_commit": "off"}) for _ in range(4 + len(WORKERS))
    ]
    try:
        first, second, holder, observer, *leases = opened
        yield Sessions(first, second, holder, observer, dict(zip(WORKERS, leases, strict=True)))
    finally:
        for connection in opened:
            await connection.close()


async def run_alone(sessions: Sessions, seed: str) -> str:
    """One statement; returns its name, and whether it changed a row."""
    state, rng = state_of(seed), Random(f"{seed} call")
    call = call_of(rng, state)
    await fill(state, sessions.observer, sessions.leases)
    before = rows_of(state)
    expected = plain(call.model(state).run(state.db))
    found = plain(await call.sql(sessions.of(call, sessions.first)))
    assert found == expected, f"{seed}: {call.name}"
    after = await read_rows(sessions.observer)
    assert after == rows_of(state), f"{seed}: {call.name}"
    return f"{call.name.partition(' ')[0]} {'changed' if after != before else 'unchanged'}"


async def run_overlapped(sessions: Sessions, seed: str) -> str | None:
    """Two statements, the first one held by a row lock; None when none of its rows can be locked."""
    state, rng = state_of(seed), Random(f"{seed} call")
    first, second = call_of(rng, state), call_of(rng, state)
    lock = _lock_that_holds(first, state, rng)
    if lock is None or (first.lease is not None and first.lease == second.lease):
        return None
    of_second, of_first, rows = _in_order(seed, second, first)
    allowed = [_in_order(seed, first, second), (of_first, of_second, rows)]
    await fill(state, sessions.observer, sessions.leases)
    transaction = sessions.holder.transaction()
    await transaction.start()
    await sessions.holder.execute(lock)
    tasks = []
    for call, session in ((first, sessions.first), (second, sessions.second)):
        connection = sessions.of(call, session)
        task = asyncio.ensure_future(call.sql(connection))
        tasks.append(task)
        await _done_or_waiting(sessions.observer, task, connection.get_server_pid())
    held = not tasks[0].done()
    await transaction.commit()
    results = [plain(await task) for task in tasks]
    found = (*results, await read_rows(sessions.observer))
    assert found in allowed, f"{seed}: {first.name} | {second.name}"
    return f"{first.name.partition(' ')[0]} {'held' if held else 'not held'}"


def _in_order(seed: str, *calls: Call) -> tuple[object, object, object]:
    """The results of two statements of the model one after the other, and the rows afterwards."""
    state = state_of(seed)
    results = [plain(call.model(state).run(state.db)) for call in calls]
    return results[0], results[1], rows_of(state)


def _lock_that_holds(call: Call, state: State, rng: Random) -> str | None:
    """A statement that locks a row for which a call waits: a shard's as an append does, or the worker's."""
    locks = call.model(state).locks
    if locks is None:
        return None
    worker, _, shard_ids = locks(state.db)
    owned = [each for each in shard_ids if call.name.split(" ")[0] != "claim" or state.db.shards[each].owner is None]
    if owned:
        return f"SELECT FROM shard WHERE id = {rng.choice(owned)} FOR SHARE"
    return f"SELECT FROM worker WHERE id = '{worker}' FOR UPDATE" if worker in state.db.workers else None


async def _done_or_waiting(observer: asyncpg.Connection, task: "asyncio.Future[object]", pid: int) -> None:
    """Return once a statement is done, or waits for a lock."""
    async with asyncio.timeout(_HELD_S):
        while not task.done() and not await observer.fetchval("SELECT pg_blocking_pids($1) <> '{}'", pid):
            await asyncio.sleep(0)  # the statement's answer is read meanwhile


async def check_alone(make_database: MakeDatabase, seeds: range) -> Counter[str]:
    """Each of these cases; the number of each kind."""
    seen: Counter[str] = Counter()
    async with sessions_on(await make_database(SHARDS)) as sessions:
        for seed in seeds:
            seen[await run_alone(sessions, f"alone {seed}")] += 1
    return seen


async def check_overlapped(make_database: MakeDatabase, first: int, cases: int) -> Counter[str]:
    """As many cases, from a seed on; the number of each kind."""
    seen: Counter[str] = Counter()
    async with sessions_on(await make_database(SHARDS)) as sessions:
        seed = first
        while seen.total() < cases:
            kind = await run_overlapped(sessions, f"overlapped {seed}")
            seed += 1
            if kind is not None:
                seen[kind] += 1
    return seen


async def test_each_statement_does_what_its_model_does(make_database: MakeDatabase) -> None:
    """From 240 random states; every statement that changes rows changes some."""
    seen = await check_alone(make_database, range(240))
    changing = ("register", "fence", "lock", "claim", "transfer", "release", "raise_epoch", "set_targets")
    for name in changing:
        assert seen[f"{name} changed"] > 0, seen


async def test_overlapped_statements_do_what_one_order_of_their_models_does(make_database: MakeDatabase) -> None:
    """60 pairs, the first of which waits for a row lock."""
    seen = await check_overlapped(make_database, 0, 60)
    assert sum(count for kind, count in seen.items() if kind.endswith(" held")) > 40, seen


@pytest.mark.soak
async def test_each_statement_does_what_its_model_does_from_many_states(make_database: MakeDatabase) -> None:
    """The seeds after those of every day."""
    await check_alone(make_database, range(240, 4240))


@pytest.mark.soak
async def test_many_overlapped_statements_do_what_one_order_of_their_models_does(make_database: MakeDatabase) -> None:
    """The seeds after those of every day."""
    await check_overlapped(make_database, 10_000, 1000)


@pytest.mark.soak
@pytest.mark.parametrize("bug", STATEMENTS, ids=lambda bug: bug.name.replace(" ", "-"))
async def test_a_bug_in_the_model_of_a_statement_is_found(make_database: MakeDatabase, bug: Mutant) -> None:
    """The comparison is not blind: each planted bug makes the model and its SQL differ."""
    with patched(bug), pytest.raises(AssertionError, match="alone"):
        await check_alone(make_database, range(2000))
