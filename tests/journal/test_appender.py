"""The fenced group commit, against a real Postgres."""

import asyncio

import pytest
from asyncpg.transaction import Transaction

from shard_worker.journal import append_lane
from shard_worker.journal.append_queue import AppendQueueState
from tests.journal.appender_bench import (
    Bench,
    Scribe,
    address_of,
    bench_on,
    dsn_through,
    row_of,
)
from tests.support.polling import eventually
from tests.support.tcp_proxy import TcpProxy


async def test_what_gathers_while_a_batch_is_at_the_server_is_one_batch(dsn: str) -> None:
    """A thousand rows submitted in one turn need three statements, not a thousand."""
    async with bench_on(dsn) as bench:
        scribes = [bench.scribe(n % 4) for n in range(1000)]
        for n, scribe in enumerate(scribes):
            bench.streams[n % 4].submit(row_of(scribe, 1))
        await eventually(lambda: all(scribe.stored_rows for scribe in scribes))
        assert bench.appender.metrics.batches <= 4
        assert bench.appender.metrics.events == 1000
        assert await bench.dense()


async def test_an_owner_of_an_older_epoch_stores_nothing(dsn: str) -> None:
    """Once another owner has the shard, the rows are given back as not stored and the shard is lost."""
    async with bench_on(dsn) as bench:
        await bench.admin.execute("UPDATE shard SET epoch = epoch + 1, owner = 'x', incarnation = 'other' WHERE id = 1")
        mine, theirs = bench.scribe(0), bench.scribe(1)
        bench.streams[0].submit(row_of(mine, 1))
        bench.streams[1].submit(row_of(theirs, 1))
        await eventually(lambda: "lost" in bench.hosts[1].calls and bool(mine.stored_rows))
        assert not theirs.stored_rows
        assert await bench.journal(1) == []


async def submit_beside_a_lock(bench: Bench) -> tuple[Transaction, Scribe, Scribe]:
    """A batch of shards 1 and 0 while a transaction holds the row of shard 1; the transaction, and the writer of each."""
    blocker = bench.admin.transaction()
    await blocker.start()
    await bench.admin.execute("UPDATE shard SET changed_at = now() WHERE id = 1")
    held, free = bench.scribe(1), bench.scribe(0)
    bench.streams[1].submit(row_of(held, 1))
    bench.streams[0].submit(row_of(free, 1))
    return blocker, held, free


async def test_a_row_lock_held_by_another_delays_only_its_shard(dsn: str) -> None:
    """A shard whose row is locked is skipped, the batch's others are stored, and it follows when the lock is gone."""
    async with bench_on(dsn) as bench:
        blocker, held, free = await submit_beside_a_lock(bench)
        await eventually(lambda: bool(free.stored_rows))
        assert not held.stored_rows
        await blocker.rollback()
        await eventually(lambda: bool(held.stored_rows))
        assert bench.hosts[1].calls == []


@pytest.mark.parametrize(
    "instead",
    ["SELECT pg_terminate_backend(pg_backend_pid()), $1::int[], $2::bigint[]", "SELECT 1 / 0, $1::int[], $2::bigint[]"],
    ids=["the session ends", "the server refuses"],
)
async def test_a_batch_stored_in_part_is_unknown_when_the_journal_cannot_be_asked(
    dsn: str, monkeypatch: pytest.MonkeyPatch, instead: str
) -> None:
    """The statement left a locked shard out; which one it was is then decided as for an answer that never came."""
    monkeypatch.setattr(append_lane, "FIRST_ROWS_SQL", instead)
    async with bench_on(dsn) as bench:
        blocker, held, free = await submit_beside_a_lock(bench)
        await eventually(lambda: "suspended" in bench.hosts[0].calls and "suspended" in bench.hosts[1].calls)
        assert not free.stored_rows
        await blocker.rollback()
        await eventually(lambda: bool(held.stored_rows) and bool(free.stored_rows))
        assert [len(await bench.journal(shard)) for shard in (0, 1)] == [1, 1]
        assert await bench.dense()


async def test_a_used_key_is_rejected_alone(dsn: str) -> None:
    """A repeated idempotency key discards its writer's rows; every other row of the batch is stored, densely."""
    async with bench_on(dsn) as bench:
        first = bench.scribe(0)
        bench.streams[0].submit(row_of(first, 1, b"k" * 16))
        await eventually(lambda: bool(first.stored_rows))
        neighbours = [bench.scribe(n % 4) for n in range(40)]
        for n, scribe in enumerate(neighbours[:20]):
            bench.streams[n % 4].submit(row_of(scribe, 1))
        bench.streams[0].submit(row_of(first, 2, b"k" * 16))
        bench.streams[0].submit(row_of(first, 3))
        for n, scribe in enumerate(neighbours[20:]):
            bench.streams[n % 4].submit(row_of(scribe, 1))
        await eventually(lambda: all(scribe.stored_rows for scribe in neighbours) and bool(first.rejected_rows))
        assert [row.seq_nr for row, _ in first.rejected_rows] == [2]
        assert [row.seq_nr for row in first.stored_rows] == [1]
        assert await bench.dense()


@pytest.mark.parametrize("arrives", [True, False], ids=["the-answer-is-lost", "the-statement-is-lost"])
async def test_a_cut_in_mid_batch_is_decided_rightly(dsn: str, arrives: bool) -> None:
    """Whether the statement or only its answer was lost, every row is stored exactly once and acknowledged."""
    parts = address_of(dsn)
    async with TcpProxy(*parts) as proxy, bench_on(dsn, dsn_through(dsn, proxy.port)) as bench:
        scribe = bench.scribe(2)
        bench.streams[2].submit(row_of(scribe, 1))
        await eventually(lambda: len(scribe.stored_rows) == 1)
        if arrives:
            proxy.stall(up=False)
        else:
            proxy.stall(down=False)
        bench.streams[2].submit(row_of(scribe, 2))
        if arrives:
            await eventually(lambda: bench.streams[2].in_flight == 1)
            async with asyncio.timeout(5):
                while len(await bench.journal(2)) < 2:  # the database has no event to wait for
                    await asyncio.sleep(0)
        else:
            await eventually(lambda: bench.streams[2].in_flight == 1)
        proxy.cut()
        proxy.heal()
        await eventually(lambda: len(scribe.stored_rows) == 2)
        assert bench.hosts[2].calls == ["suspended", "resumed"]
        assert bench.streams[2].head == 2
        assert [record["seq_nr"] for record in await bench.journal(2)] == [1, 2]


async def test_a_statement_that_commits_late_behind_a_blocker_is_waited_out(dsn: str) -> None:
    """The link dies while the statement waits inside the server: nothing is decided before the server has ended it."""
    async with TcpProxy(*address_of(dsn)) as proxy, bench_on(dsn, dsn_through(dsn, proxy.port)) as bench:
        scribe = bench.scribe(3)
        bench.streams[3].submit(row_of(scribe, 1))
        await eventually(lambda: len(scribe.stored_rows) == 1)
        # A competing insert of the same shard_seq holds the statement inside the server, its share lock taken.
        blocker = bench.admin.transaction()
        await blocker.start()
        await bench.admin.execute(
            "INSERT INTO journal (shard_id, shard_seq, thread_id, seq_nr, event_type, event_version, payload, metadata,"
            " epoch) VALUES (3, 2, gen_random_uuid(), 1, 7, 1, '', '', 1)"
        )
        bench.streams[3].submit(row_of(scribe, 2))
        await eventually(lambda: bench.streams[3].in_flight == 1)
        proxy.cut()
        await eventually(lambda: bench.streams[3].state is AppendQueueState.UNKNOWN)
        await blocker.rollback()
        await eventually(lambda: len(scribe.stored_rows) == 2)
        assert [record["seq_nr"] for record in await bench.journal(3)] == [1, 2]
        assert await bench.dense()


async def test_a_batch_of_a_shard_that_was_dropped_meanwhile_is_waited_out_all_the_same(dsn: str) -> None:
    """While the shard's row is as the batch was sent with, it may still commit: the epoch is raised before any writer
    is answered.
    """
    async with TcpProxy(*address_of(dsn)) as proxy, bench_on(dsn, dsn_through(dsn, proxy.port)) as bench:
        scribe = bench.scribe(3)
        bench.streams[3].submit(row_of(scribe, 1))
        await eventually(lambda: len(scribe.stored_rows) == 1)
        before = await bench.admin.fetchval("SELECT epoch FROM shard WHERE id = 3")
        proxy.stall(down=False)  # what is sent does not arrive, as far as this worker can tell
        bench.streams[3].submit(row_of(scribe, 2))
        await eventually(lambda: bench.streams[3].in_flight == 1)
        bench.streams[3].close()
        proxy.cut()
        proxy.heal()
        await eventually(lambda: bench.streams[3].in_flight == 0)
        assert await bench.admin.fetchval("SELECT epoch FROM shard WHERE id = 3") == before + 1
        assert len(await bench.journal(3)) == len(scribe.stored_rows)


async def test_stored_rows_come_with_the_transaction_that_the_journal_has(dsn: str) -> None:
    """The read model takes it for that of the row."""
    async with bench_on(dsn) as bench:
        for shard in (1, 2):
            scribe = bench.scribe(shard)
            for number in (1, 2, 3):
                bench.streams[shard].submit(row_of(scribe, number))
            await eventually(lambda scribe=scribe: len(scribe.stored_rows) == 3, what="all are stored")  # type: ignore[misc]
        for shard in (1, 2):
            stored = await bench.admin.fetch(
                "SELECT xid::text::bigint AS xid FROM journal WHERE shard_id = $1 ORDER BY shard_seq", shard
            )
            assert bench.hosts[shard].transactions == [record["xid"] for record in stored]


async def test_a_silent_link_is_given_up_by_the_watchdog(dsn: str) -> None:
    """A black hole is noticed by the watchdog alone, and what it held is stored once."""
    async with (
        TcpProxy(*address_of(dsn)) as proxy,
        bench_on(dsn, dsn_through(dsn, proxy.port), watchdog_s=0.3) as bench,
    ):
        scribe = bench.scribe(0)
        bench.streams[0].submit(row_of(scribe, 1))
        await eventually(lambda: len(scribe.stored_rows) == 1)
        proxy.stall()
        bench.streams[0].submit(row_of(scribe, 2))
        await eventually(lambda: "suspended" in bench.hosts[0].calls)
        proxy.cut()
        proxy.heal()
        await eventually(lambda: len(scribe.stored_rows) == 2)
        assert await bench.dense()


async def test_an_unknown_outcome_under_another_owner_is_final_too(dsn: str) -> None:
    """When the shard was taken meanwhile, the row is looked for all the same, and then the shard is lost."""
    async with TcpProxy(*address_of(dsn)) as proxy, bench_on(dsn, dsn_through(dsn, proxy.port)) as bench:
        scribe = bench.scribe(1)
        bench.streams[1].submit(row_of(scribe, 1))
        await eventually(lambda: len(scribe.stored_rows) == 1)
        proxy.stall(up=False)
        bench.streams[1].submit(row_of(scribe, 2))
        async with asyncio.timeout(5):
            while len(await bench.journal(1)) < 2:  # the database has no event to wait for
                await asyncio.sleep(0)
        await bench.admin.execute("UPDATE shard SET epoch = epoch + 1, owner = 'x', incarnation = 'other' WHERE id = 1")
        proxy.cut()
        proxy.heal()
        await eventually(lambda: "lost" in bench.hosts[1].calls)
        assert [row.seq_nr for row in scribe.stored_rows] == [1, 2]


async def test_a_drained_stream_says_so_once(dsn: str) -> None:
    """`when_drained` calls after the last row is durable, and at once when nothing is on its way."""
    async with bench_on(dsn) as bench:
        scribe, calls = bench.scribe(0), list[int]()
        bench.streams[0].submit(row_of(scribe, 1))
        bench.streams[0].when_drained(lambda: calls.append(len(scribe.stored_rows)))
        await eventually(lambda: calls == [1])
        bench.streams[0].when_drained(lambda: calls.append(2))
        assert calls == [1, 2]
