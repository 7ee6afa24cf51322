"""Bad rows, used keys, flooded shards and ended budgets do not delay other rows, against a real Postgres."""

import asyncio
from collections.abc import Callable, Mapping

import asyncpg
import pytest
from asyncpg.prepared_stmt import PreparedStatement

from shard_worker.domain.ids import ShardId
from shard_worker.journal.append_lane import BatchBounds
from shard_worker.journal.append_queue import AppendQueueState, Row
from shard_worker.journal.append_sql import ShardBatch
from shard_worker.tasks import TaskFailure
from tests.conftest import MakeDatabase
from tests.journal.appender_bench import Bench, Scribe, address_of, bench_on, dsn_through, row_of
from tests.support.polling import eventually
from tests.support.tcp_proxy import TcpProxy


async def test_a_row_whose_deadline_passed_in_the_queue_is_never_sent(dsn: str) -> None:
    """It is withdrawn with the later rows of its writer; earlier rows and other writers are stored."""
    async with bench_on(dsn) as bench:
        now = asyncio.get_running_loop().time()
        late, other = bench.scribe(0), bench.scribe(0)
        rows = [row_of(late, 1), row_of(late, 2, deadline=now), row_of(other, 1), row_of(late, 3)]
        for row in rows:
            bench.streams[0].submit(row)
        await eventually(lambda: bool(other.stored_rows) and bool(late.stored_rows))
        assert [row.seq_nr for row in late.stored_rows] == [1]
        assert late.expired_rows == [rows[1], rows[3]]
        assert bench.appender.metrics.expired == 2
        assert [record["seq_nr"] for record in await bench.journal(0)] == [1, 1]
        assert await bench.dense()


async def test_rows_wait_for_postgres_no_longer_than_their_deadlines(dsn: str) -> None:
    """While no connection is to be had nothing is sent, what ends is withdrawn, and what is left is stored afterwards."""
    async with TcpProxy(*address_of(dsn)) as proxy, bench_on(dsn, dsn_through(dsn, proxy.port)) as bench:
        proxy.refusing = True
        loop = asyncio.get_running_loop()
        scribes = [bench.scribe(0) for _ in range(10)]
        for n, scribe in enumerate(scribes):
            bench.streams[0].submit(row_of(scribe, 1, deadline=loop.time() + (60 if n % 2 else 0.05)))
        drained = list[int]()
        bench.streams[0].when_drained(lambda: drained.append(1))

        def all_ended() -> bool:
            """The deadlines lie microseconds apart, so that one look may find only a part of them passed."""
            bench.streams[0].expire(loop.time())
            return sum(len(scribe.expired_rows) for scribe in scribes) >= 5

        await eventually(all_ended)
        assert all(len(scribe.expired_rows) == 1 for scribe in scribes[::2])
        assert not drained, "five rows are still to be stored"
        proxy.heal()
        await eventually(lambda: all(scribe.stored_rows for scribe in scribes[1::2]))
        assert drained == [1]
        assert len(await bench.journal(0)) == 5


async def test_what_came_back_from_the_server_unstored_is_not_sent_after_its_deadline(dsn: str) -> None:
    """A batch that never arrived is not sent again for a row whose deadline passed meanwhile."""
    async with TcpProxy(*address_of(dsn)) as proxy, bench_on(dsn, dsn_through(dsn, proxy.port)) as bench:
        loop = asyncio.get_running_loop()
        first, ended, alive = bench.scribe(2), bench.scribe(2), bench.scribe(2)
        bench.streams[2].submit(row_of(first, 1))
        await eventually(lambda: len(first.stored_rows) == 1)
        proxy.stall(down=False)
        moment = loop.time() + 0.3
        bench.streams[2].submit(row_of(ended, 1, deadline=moment))
        bench.streams[2].submit(row_of(alive, 1))
        await eventually(lambda: bench.streams[2].in_flight == 2)
        await eventually(lambda: loop.time() > moment)
        proxy.cut()
        proxy.heal()
        await eventually(lambda: bool(alive.stored_rows) and bool(ended.expired_rows))
        assert len(await bench.journal(2)) == 2


async def _keys_in_journal(bench: Bench, count: int) -> list[Scribe]:
    """Writers on four shards, each with one stored row under a key of its own."""
    scribes = [bench.scribe(n % 4) for n in range(count)]
    for n, scribe in enumerate(scribes):
        bench.streams[n % 4].submit(row_of(scribe, 1, b"%016d" % n))
    await eventually(lambda: all(scribe.stored_rows for scribe in scribes))
    return scribes


async def test_one_used_key_costs_a_full_batch_one_more_statement(dsn: str) -> None:
    """Five hundred and eleven rows beside a repeated key: the batch is refused once, and the rest is one batch."""
    async with bench_on(dsn) as bench:
        (repeats, *_) = await _keys_in_journal(bench, 4)
        before, batches = bench.appender.metrics.refused, bench.appender.metrics.batches
        others = [bench.scribe(n % 8) for n in range(511)]
        bench.streams[0].submit(row_of(repeats, 2, b"%016d" % 0))
        for n, scribe in enumerate(others):
            bench.streams[n % 8].submit(row_of(scribe, 1))
        await eventually(lambda: all(scribe.stored_rows for scribe in others) and bool(repeats.rejected_rows))
        assert bench.appender.metrics.refused == before + 1
        assert bench.appender.metrics.batches == batches + 1
        assert await bench.dense()


async def test_many_used_keys_in_one_batch_cost_three_statements(dsn: str) -> None:
    """Two refusals, then one look-up of all keys: the others do not wait for each of the guilty rows."""
    async with bench_on(dsn) as bench:
        scribes = await _keys_in_journal(bench, 200)
        batches = bench.appender.metrics.batches
        others = [bench.scribe(n % 8) for n in range(200)]
        for n, scribe in enumerate(scribes):
            bench.streams[n % 4].submit(row_of(scribe, 2, b"%016d" % n))
        for n, scribe in enumerate(others):
            bench.streams[n % 8].submit(row_of(scribe, 1, b"new key %08d" % n))
        await eventually(lambda: all(scribe.stored_rows for scribe in others))
        await eventually(lambda: all(scribe.rejected_rows for scribe in scribes))
        assert bench.appender.metrics.refused == 2
        assert bench.appender.metrics.batches <= batches + 2
        assert await bench.dense()


async def test_earlier_rows_of_a_refused_writer_are_stored(dsn: str) -> None:
    """Only the guilty row and what came after it are taken back."""
    async with bench_on(dsn) as bench:
        (writer, *_) = await _keys_in_journal(bench, 4)
        rows = [row_of(writer, 2), row_of(writer, 3, b"%016d" % 0), row_of(writer, 4)]
        for row in rows:
            bench.streams[0].submit(row)
        await eventually(lambda: bool(writer.rejected_rows) and len(writer.stored_rows) == 2)
        assert [row for row, _ in writer.rejected_rows] == [rows[1]]
        assert writer.withdrawn_rows == [rows[2]]
        assert await bench.dense()


def _negative(row: Row) -> Row:
    row.seq_nr = -1  # a check constraint's failing row names it
    return row


def _not_bytes(row: Row) -> Row:
    row.payload = "text"  # type: ignore[assignment]  # asyncpg refuses it before anything is sent
    return row


def _short_key(row: Row) -> Row:
    row.key_hash = b"short"  # a check constraint
    row.body_hash = b"b" * 16
    return row


def _too_large(row: Row) -> Row:
    row.seq_nr = 2**70  # does not fit its column: asyncpg refuses it
    return row


@pytest.mark.parametrize("spoil", [_negative, _not_bytes, _short_key, _too_large])
async def test_a_row_that_the_database_refuses_for_any_reason_is_found_and_costs_little(
    dsn: str, spoil: Callable[[Row], Row]
) -> None:
    """Whether the error names the row or not: the others of its batch and of its shard are stored, in order."""
    async with bench_on(dsn) as bench:
        bad, others = bench.scribe(3), [bench.scribe(n % 8) for n in range(250)]
        for n, scribe in enumerate(others[:125]):
            bench.streams[n % 8].submit(row_of(scribe, 1))
        bench.streams[3].submit(spoil(row_of(bad, 1)))
        for n, scribe in enumerate(others[125:]):
            bench.streams[(n + 125) % 8].submit(row_of(scribe, 1))
        await eventually(lambda: all(scribe.stored_rows for scribe in others) and bool(bad.rejected_rows))
        assert bench.appender.metrics.refused <= 10, "a bisection of 251 rows, at most"
        assert bench.hosts[3].calls == []
        assert await bench.dense()


async def test_other_shards_go_on_while_a_batch_of_bad_rows_is_bisected(dsn: str) -> None:
    """Sixty-four bad rows keep neither a shard of their batch nor a later batch waiting until all are found."""
    async with bench_on(dsn) as bench:
        bad = [bench.scribe(0) for _ in range(64)]
        beside, later = bench.scribe(1), bench.scribe(2)
        for scribe in bad:
            bench.streams[0].submit(_not_bytes(row_of(scribe, 1)))
        bench.streams[1].submit(row_of(beside, 1))
        commit = bench.appender._lanes[0]._commit
        found_before: list[int] = []

        async def watched(statement: PreparedStatement, batch: list[ShardBatch]) -> None:
            await commit(statement, batch)
            if bench.appender.metrics.refused == 2:
                bench.streams[2].submit(row_of(later, 1))
            found_before.append(
                bench.appender.metrics.rejected if not beside.stored_rows or not later.stored_rows else 0
            )

        bench.appender._lanes[0]._commit = watched  # type: ignore[method-assign]  # looked at, not replaced
        await eventually(lambda: all(scribe.rejected_rows for scribe in bad))
        assert len(beside.stored_rows) == len(later.stored_rows) == 1
        assert max(found_before) < 8
        assert await bench.journal(0) == []


async def test_a_shard_that_outgrows_a_batch_goes_to_the_end_of_the_line(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood on one shard delays the others by one batch, not by all of the flood."""
    async with bench_on(dsn, batch=BatchBounds(events=10)) as bench:
        flood = bench.scribe(0)
        for n in range(500):
            bench.streams[0].submit(row_of(flood, n + 1))
        others = [bench.scribe(n) for n in range(1, 8)]
        flooded: list[int] = []  # how many of the flood were stored when another's row was
        for n, scribe in enumerate(others):
            monkeypatch.setattr(scribe, "stored", lambda _: flooded.append(len(flood.stored_rows)))
            bench.streams[n + 1].submit(row_of(scribe, 1))
        await eventually(lambda: len(flooded) == len(others))
        assert max(flooded) <= 20
        await eventually(lambda: len(flood.stored_rows) == 500)


async def test_a_batch_is_bounded_in_bytes_over_all_its_shards(dsn: str) -> None:
    """Rows of 40 kB on eight shards: no statement carries more than the cap, and a larger row goes alone."""
    async with bench_on(dsn, batch=BatchBounds(size=100_000)) as bench:
        scribes = [bench.scribe(n % 8) for n in range(16)]
        for n, scribe in enumerate(scribes):
            row = row_of(scribe, 1)
            row.payload = b"x" * (40_000 if n else 300_000)
            row.size = len(row.payload) + len(row.metadata)
            bench.streams[n % 8].submit(row)
        await eventually(lambda: all(scribe.stored_rows for scribe in scribes))
        assert bench.appender.metrics.batches >= 9
        assert await bench.dense()


@pytest.mark.parametrize("arrives", [True, False], ids=["stored", "not-stored"])
async def test_an_unknown_batch_of_many_shards_is_decided_by_a_few_statements(
    make_database: MakeDatabase, arrives: bool
) -> None:
    """Five hundred and twelve shards: the number of round trips does not grow with theirs."""
    dsn = await make_database(512)
    async with (
        TcpProxy(*address_of(dsn)) as proxy,
        bench_on(dsn, dsn_through(dsn, proxy.port), watchdog_s=10.0) as bench,
    ):
        scribes = [bench.scribe(n) for n in range(512)]
        warm = bench.scribe(0)
        bench.streams[0].submit(row_of(warm, 1))
        await eventually(lambda: bool(warm.stored_rows))
        proxy.stall(up=not arrives, down=arrives)
        for n, scribe in enumerate(scribes):
            bench.streams[n].submit(row_of(scribe, 1))
        await eventually(lambda: all(stream.in_flight for stream in bench.streams.values()))
        if arrives:
            async with asyncio.timeout(20):
                while await bench.admin.fetchval("SELECT count(*) FROM journal") < 513:  # no event to wait for
                    await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        proxy.cut()
        proxy.heal()
        await eventually(lambda: any(stream.state is AppendQueueState.UNKNOWN for stream in bench.streams.values()))
        sent: list[bytes] = []
        proxy.watch = sent.append
        began = loop.time()
        await eventually(lambda: all(stream.state is AppendQueueState.OPEN for stream in bench.streams.values()))
        print(f"512 unknown shards decided in {loop.time() - began:.3f} s, {len(sent)} chunks sent")
        await eventually(lambda: all(len(scribe.stored_rows) == 1 for scribe in scribes))
        assert len(sent) < 100
        assert await bench.dense()


async def test_a_resolver_that_dies_is_a_fault(dsn: str) -> None:
    """Its shards would stay suspended for good: the appender reports the failure at once."""
    failures: list[TaskFailure] = []

    async def broken(
        connection: asyncpg.Connection, incarnation: str, held: Mapping[ShardId, int]
    ) -> dict[ShardId, int]:
        raise RuntimeError("a bug")

    async with TcpProxy(*address_of(dsn)) as proxy, bench_on(dsn, dsn_through(dsn, proxy.port)) as bench:
        bench.appender._lanes[0]._resolver._bump_epochs = broken
        bench.appender._tasks.on_failure = failures.append
        scribe = bench.scribe(1)
        bench.streams[1].submit(row_of(scribe, 1))
        await eventually(lambda: bool(scribe.stored_rows))
        assert not failures
        proxy.stall(up=False)
        bench.streams[1].submit(row_of(scribe, 2))
        await eventually(lambda: bench.streams[1].in_flight == 1)
        proxy.cut()
        proxy.heal()
        await eventually(lambda: bool(failures))
        assert failures[0].name.startswith("append-outcome-")
        assert isinstance(failures[0].cause, RuntimeError)


async def test_a_server_that_refuses_everything_is_tried_ever_more_seldom(dsn: str) -> None:
    """A read-only server costs a handful of sessions, not fifteen a second, and a second after it heals rows are stored."""
    async with bench_on(dsn) as bench:
        connects = 0
        lane = bench.appender._lanes[0]
        connect = lane._connect

        async def counted(purpose: str) -> asyncpg.Connection:
            nonlocal connects
            connects += 1
            connection = await connect(purpose)
            await connection.execute(f"SET default_transaction_read_only = {'on' if connects < 6 else 'off'}")
            return connection

        lane._connect = counted
        scribe = bench.scribe(0)
        began = asyncio.get_running_loop().time()
        bench.streams[0].submit(row_of(scribe, 1))
        await eventually(lambda: bool(scribe.stored_rows))
        assert connects == 6
        assert asyncio.get_running_loop().time() - began > 0.7, "half of 0.05, 0.1, 0.2, 0.4 and 0.8 s, at the least"
