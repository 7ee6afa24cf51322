"""``python -m tests.benchmarks.partitioning``: the journal whole against the journal in partitions of ``shard_id``.

Two databases of one server have the same events, the first in one table, the second in min(16, shards) ranges of shards.
Whatever takes milliseconds (appends, loads) alternates between the two, so that a busy neighbour strikes both alike, and
is compared as a ratio; what takes minutes (vacuum, building an index) is done once on each and only reported.  The
append and the load are the worker's own statements.
"""

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from statistics import median
from typing import Final, NamedTuple

import asyncpg
import click
import msgspec
import uvloop
from asyncpg.prepared_stmt import PreparedStatement

from shard_worker.database.migration import migrate
from shard_worker.journal.append_sql import APPEND_SESSION_SQL, APPEND_SQL, fence_parameters
from shard_worker.journal.codec import STATE_VERSIONS_READ
from shard_worker.journal.history_page import FROM_SNAPSHOT, PAGE_BYTES, PAGE_ROWS, PAGE_SQL, THREAD_ROWS
from tests.benchmarks.cpu import process_cpu_s
from tests.benchmarks.postgres import own_postgres

_OUT: Final = Path(__file__).parent / "out"
_SHARDS: Final = 144
_PARTITIONS: Final = 16
_EVENTS_A_THREAD: Final = 50
_EVENTS_A_SHARD: Final = 2
"""Of one batch."""
_PARAMETERS: Final = 14
"""Of the append."""
_BAR: Final = 1.05
_WHOLE: Final = "one table"
_PARTS: Final = "partitions"

_PAYLOAD: Final = (
    b'{"senderId":"01HZX3V9Q4M8N7C2K5T6B1D0EF","messages":[{"messageId":"01HZX3V9Q4M8N7C2K5T6B1D0EG",'
    b'"text":"a message of a usual length, as people send them"}],"at":1767225600000,"createAt":1767225600000}'
)
_METADATA: Final = b'{"commandId":"00112233445566778899aabbccddeeff"}'
_THREAD_SQL: Final = "SELECT md5($1::int || '/' || $2::int)::uuid"

_UNINDEXED_SQL: Final = """
ALTER TABLE journal DROP CONSTRAINT journal_pkey;
DROP INDEX journal_shard_seq, journal_key
"""
_INDEXED_SQL: Final = """
ALTER TABLE journal ADD PRIMARY KEY (shard_id, thread_id, seq_nr);
CREATE UNIQUE INDEX journal_shard_seq ON journal (shard_id, shard_seq);
CREATE UNIQUE INDEX journal_key ON journal (shard_id, thread_id, key_hash) WHERE key_hash IS NOT NULL
"""
_PARTITIONED_SQL: Final = """
ALTER TABLE journal RENAME TO journal_whole;
CREATE TABLE journal (LIKE journal_whole INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY RANGE (shard_id)
"""
# In the order in which workers write: all shards grow together, a thread's events lie far apart.
_FILL_SQL: Final = """
INSERT INTO journal (shard_id, shard_seq, thread_id, seq_nr, event_type, event_version, payload, metadata, epoch)
SELECT s, i, md5(s || '/' || (i - 1) % $3)::uuid, (i - 1) / $3 + 1, 7, 1, $4, $5, 1
  FROM generate_series($1::int, $2::int) i, generate_series(0, $6::int) s
"""
_OPTIONS: Final = (
    "autovacuum_vacuum_insert_threshold = 100000, autovacuum_vacuum_insert_scale_factor = 0.05,"
    " autovacuum_freeze_min_age = 0, autovacuum_enabled = off"
)


class Ratio(NamedTuple):
    """Partitions against one table: medians in milliseconds, backend CPU in microseconds, and both as ratios."""

    what: str
    whole_ms: float
    parts_ms: float
    whole_cpu_us: float
    parts_cpu_us: float

    @property
    def time(self) -> float:
        """Of the medians."""
        return self.parts_ms / self.whole_ms

    @property
    def cpu(self) -> float:
        """Of the backends' CPU."""
        return self.parts_cpu_us / max(1e-9, self.whole_cpu_us)

    def line(self) -> str:
        """For people."""
        return (
            f"{self.what:<34} {self.whole_ms:8.3f} ms {self.parts_ms:8.3f} ms  x {self.time:.3f}"
            f"   CPU {self.whole_cpu_us:7.0f} us {self.parts_cpu_us:7.0f} us  x {self.cpu:.3f}"
        )


class Side:
    """One of the two databases, with what is prepared there and where its sequences are."""

    def __init__(self, name: str, dsn: str, connection: asyncpg.Connection, per_shard: int) -> None:
        self.name = name
        self.dsn = dsn
        self.connection = connection
        self.pid: int = connection.get_server_pid()
        self._heads = [per_shard] * _SHARDS
        self._append: PreparedStatement | None = None
        self._load: PreparedStatement | None = None

    async def prepare(self) -> None:
        """Plans as the worker has them."""
        await self.connection.execute(APPEND_SESSION_SQL)
        self._append = await self.connection.prepare(APPEND_SQL)
        self._load = await self.connection.prepare(PAGE_SQL)

    async def append(self, shards: list[int], new: Callable[[int], uuid.UUID]) -> None:
        """One batch, `_EVENTS_A_SHARD` events of a new thread in each of these shards."""
        assert self._append is not None, "prepare() first"
        columns: tuple[list[object], ...] = tuple([] for _ in range(10))
        for shard in shards:
            thread = new(shard)
            for seq_nr in range(1, _EVENTS_A_SHARD + 1):
                self._heads[shard] += 1
                row = (shard, self._heads[shard], thread, seq_nr, 7, 1, _PAYLOAD, _METADATA, None, None)
                for column, value in zip(columns, row, strict=True):
                    column.append(value)
        fence = fence_parameters([(shard, 1) for shard in shards], "bench")
        assert await self._append.fetch(*fence, *columns[:8], None, None), "every shard is stored"

    async def load(self, shards: list[int], threads: list[uuid.UUID]) -> None:
        """One group of cold threads."""
        assert self._load is not None, "prepare() first"
        assert await self._load.fetch(
            *(shards, threads, [FROM_SNAPSHOT] * len(threads), STATE_VERSIONS_READ, PAGE_BYTES, THREAD_ROWS, PAGE_ROWS)
        )


async def _in_turns(
    what: str, sides: tuple[Side, Side], rounds: int, act: Callable[[Side, int], Awaitable[None]]
) -> Ratio:
    """Do something on both, ``rounds`` times, the first of each pair changing."""
    took: dict[str, list[float]] = {side.name: [] for side in sides}
    cpu = {side.name: -process_cpu_s(side.pid) for side in sides}
    for turn in range(rounds):
        for side in sides if turn % 2 else sides[::-1]:
            began = time.perf_counter()
            await act(side, turn)
            took[side.name].append(time.perf_counter() - began)
    for side in sides:
        cpu[side.name] += process_cpu_s(side.pid)
    return Ratio(
        what,
        *(median(took[side.name]) * 1e3 for side in sides),
        *(cpu[side.name] / rounds * 1e6 for side in sides),
    )


async def _database(base: str, name: str, events: int, partitions: int, say: Callable[[str], None]) -> Side:
    """A filled, indexed, frozen and analysed database."""
    admin = await asyncpg.connect(base)
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    dsn = base.rsplit("/", 1)[0] + f"/{name}"
    await migrate(dsn, cluster_id="bench", shards=_SHARDS, say=lambda _: None)
    connection = await asyncpg.connect(dsn)
    await connection.execute("SET synchronous_commit = off; SET maintenance_work_mem = '512MB'; SET jit = off")
    await connection.execute("UPDATE shard SET epoch = 1, owner = 'bench', incarnation = 'bench'")
    await connection.execute(_UNINDEXED_SQL)
    if partitions:
        await connection.execute(_PARTITIONED_SQL)
        for number in range(partitions):
            first, end = (_SHARDS * edge // partitions for edge in (number, number + 1))
            await connection.execute(
                f"CREATE TABLE journal_{number} PARTITION OF journal FOR VALUES FROM ({first}) TO ({end})"
                f" WITH ({_OPTIONS})"
            )
    else:
        await connection.execute(f"ALTER TABLE journal SET ({_OPTIONS})")
    per_shard, step = events // _SHARDS, 2_000
    threads = max(1, per_shard // _EVENTS_A_THREAD)
    for first in range(1, per_shard + 1, step):
        last = min(per_shard, first + step - 1)
        await connection.execute(_FILL_SQL, first, last, threads, _PAYLOAD, _METADATA, _SHARDS - 1)
        say(f"{name}: {last * _SHARDS:,} of {events:,} events")
    await connection.execute(_INDEXED_SQL)
    await connection.execute("VACUUM (FREEZE, ANALYZE) journal")
    await connection.execute("SET synchronous_commit = on")
    side = Side(name, dsn, connection, per_shard)
    await side.prepare()
    return side


async def _locks_of_a_batch(side: Side, shards: list[int]) -> tuple[int, int]:
    """Relation locks that one append holds, and how many of them by the slow path."""
    sql = "SELECT count(*), count(*) FILTER (WHERE NOT fastpath) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation'"
    async with side.connection.transaction():
        before = await side.connection.fetchrow(sql)
        await side.append(shards, lambda _: uuid.uuid4())
        after = await side.connection.fetchrow(sql)
    assert before is not None
    assert after is not None
    return after[0] - before[0], after[1] - before[1]


async def _vacuum_s(side: Side, partitions: int) -> float:
    """How long a vacuum takes after the appends: one after another, or two partitions at a time."""
    tables = [f"journal_{number}" for number in range(partitions)] or ["journal"]

    async def lane() -> None:
        connection = await asyncpg.connect(side.dsn)
        while tables:
            await connection.execute(f"VACUUM (FREEZE, INDEX_CLEANUP ON) {tables.pop()}")
        await connection.close()

    began = time.perf_counter()
    await asyncio.gather(lane(), lane())
    return time.perf_counter() - began


async def _index_s(side: Side, partitions: int) -> tuple[float, float]:
    """Building one more index beside appends: in all, and the longest statement."""
    longest, began = 0.0, time.perf_counter()
    for table in [f"journal_{number}" for number in range(partitions)] or ["journal"]:
        at = time.perf_counter()
        await side.connection.execute(f"CREATE INDEX CONCURRENTLY {table}_more ON {table} (shard_id, written_at)")
        longest = max(longest, time.perf_counter() - at)
    return time.perf_counter() - began, longest


async def measure(
    base: str, events: int, rounds: int, say: Callable[[str], None], *, partitions: int = _PARTITIONS
) -> dict[str, object]:
    """Fill both, and compare; the figures by name."""
    whole = await _database(base, "whole", events, 0, say)
    parts = await _database(base, "parts", events, partitions, say)
    sides, dice = (whole, parts), Random(1)  # any order will do
    whole.name, parts.name = _WHOLE, _PARTS
    spread, hot = [dice.sample(range(_SHARDS), 28) for _ in range(rounds)], dice.sample(range(_SHARDS // partitions), 4)
    fresh = [{shard: uuid.UUID(bytes=os.urandom(16)) for shard in range(_SHARDS)} for _ in range(rounds)]
    threads = max(1, events // _SHARDS // _EVENTS_A_THREAD)

    async def group(shards: list[int]) -> tuple[list[int], list[uuid.UUID]]:
        wanted = [(shard, dice.randrange(threads)) for shard in shards]
        return shards, [await whole.connection.fetchval(_THREAD_SQL, *each) for each in dict.fromkeys(wanted)]

    any_shards = [await group(dice.sample(range(_SHARDS), 50)) for _ in range(rounds)]
    one = [await group([each % _SHARDS]) for each in range(rounds)]
    ratios = [
        await _in_turns(
            "append, 28 shards a batch", sides, rounds, lambda s, n: s.append(spread[n], fresh[n].__getitem__)
        ),
        await _in_turns(
            "append, 1 shard a batch", sides, rounds, lambda s, n: s.append(spread[n][:1], lambda _: fresh[n][143])
        ),
        await _in_turns(
            "append, 4 shards of a partition", sides, rounds, lambda s, n: s.append(hot, lambda _: fresh[n][142])
        ),
        await _in_turns("load, 50 threads of 50 shards", sides, rounds, lambda s, n: s.load(*any_shards[n])),
        await _in_turns("load, 1 thread", sides, rounds, lambda s, n: s.load(*one[n])),
    ]
    for ratio in ratios:
        say(ratio.line())
    figures: dict[str, object] = {"events": events, "rounds": rounds, "partition_count": partitions}
    figures["ratios"] = {r.what: {**r._asdict(), "time": r.time, "cpu": r.cpu} for r in ratios}
    for side, count in ((whole, 0), (parts, partitions)):
        locks, slow = await _locks_of_a_batch(side, spread[0])
        vacuum_s, (index_s, longest_s) = await _vacuum_s(side, count), await _index_s(side, count)
        await side.connection.execute(f"PREPARE planned AS {APPEND_SQL}")
        nothing = ", ".join(["NULL"] * _PARAMETERS)
        plan = [row[0] for row in await side.connection.fetch(f"EXPLAIN (SUMMARY) EXECUTE planned({nothing})")]
        planning = next(line.strip() for line in plan if "Planning Time" in line)
        say(
            f"{side.name}: {locks} relation locks a batch, {slow} by the slow path; {planning}; vacuum {vacuum_s:.1f} s;"
            f" one more index {index_s:.1f} s, its longest statement {longest_s:.1f} s"
        )
        figures[side.name] = {
            "locks": locks,
            "slow_path": slow,
            "planning": planning,
            "vacuum_s": vacuum_s,
            "index_s": index_s,
            "index_longest_s": longest_s,
        }
    judged = (ratios[0].time, ratios[3].time)
    figures["verdict"] = _PARTS if max(judged) <= _BAR else _WHOLE
    say(f"append x {judged[0]:.3f}, cold loads x {judged[1]:.3f}, the bar is {_BAR}: {figures['verdict']}")
    await whole.connection.close()
    await parts.connection.close()
    return figures


@click.command()
@click.option("--events", type=click.IntRange(_SHARDS, 1_000_000_000), default=10_000_000, show_default=True)
@click.option("--rounds", type=click.IntRange(2, 100_000), default=1_500, show_default=True)
def main(events: int, rounds: int) -> None:
    """Whether the journal should be partitioned: append and cold loads within 1.05 of one table, else not.

    Needs a GB of disk for each million events, and two minutes.
    """

    async def run() -> dict[str, object]:
        async with own_postgres(_OUT) as base:
            admin = await asyncpg.connect(base)
            await admin.execute("ALTER SYSTEM SET max_wal_size = '8GB'")
            await admin.execute("ALTER SYSTEM SET autovacuum = off")
            await admin.execute("SELECT pg_reload_conf()")
            await admin.close()
            return await measure(base, events, rounds, click.echo)

    figures = uvloop.run(run())
    (_OUT / "partitioning.json").write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")


if __name__ == "__main__":
    main()
