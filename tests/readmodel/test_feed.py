"""A failure stops as little of the projection as possible, and nothing is lost on the way; on a real Postgres."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import asyncpg
import msgspec
import pytest
from ulid import ULID

from shard_worker.contract import ReadThread, ThreadView, Unavailable, UnavailableCode
from shard_worker.database.binary_arrays import use_binary_arrays
from shard_worker.database.connection import OpenConnection, ReadPool, Session
from shard_worker.domain.decide import NOT_FOUND
from shard_worker.domain.events import (
    Event,
    MemberIdsJoined,
    MessagesRemoved,
    ThreadCreated,
)
from shard_worker.domain.ids import AccountId, MessageId, ShardId, ThreadId, ulid_uuid
from shard_worker.journal import codec
from shard_worker.readmodel import feed, thread_queries
from shard_worker.readmodel.pace import AT_ONCE, Left, Turn
from shard_worker.readmodel.post_batch import PostBatch
from shard_worker.readmodel.recent_rows import RecentRows, recent_rows
from shard_worker.readmodel.rules import RULES
from shard_worker.readmodel.sources import QuerySources
from shard_worker.readmodel.tables import GenerationTables, ShardEvents, tables_of
from shard_worker.readmodel.thread_queries import ThreadQueries
from shard_worker.readmodel.updater import ReadModelUpdater
from shard_worker.readmodel.verify import repair, verify
from shard_worker.tasks import FirstFailure
from tests.readmodel.sessions import appended, caught_up, connecting, heads, offsets
from tests.support.journal_writer import ANN, BOB, SHARDS, JournalWriter, created, fill, message_id, new_thread, posted
from tests.support.loop_turns import measured_turns
from tests.support.polling import eventually

REFUSED = MessageId("01JXXXXXXXXXXXXXXXXXXXXXXX")
"""A message that the tables refuse, see `refusing_tables`."""


class Projected:
    """A journal, and an updater that owns the shards with events."""

    def __init__(self, dsn: str, connection: asyncpg.Connection) -> None:
        self.dsn = dsn
        self.connection = connection
        self.writer = JournalWriter(connection)
        self.failure = FirstFailure()
        self.updater = ReadModelUpdater(connecting(dsn))

    async def start(self, updater: ReadModelUpdater | None = None) -> None:
        """Own every shard that has events, and project."""
        self.updater = updater or self.updater
        for shard, head in (await heads(self.connection)).items():
            self.updater.open_shard(ShardId(shard), head)
        self.updater.start(self.failure.report)

    async def tell(self) -> None:
        """The updater hears of all that is written."""
        for shard, head in (await heads(self.connection)).items():
            self.updater.advance(ShardId(shard), head)

    async def reaches(self, what: str, *, but: int | None = None, within_s: float = 15.0) -> None:
        """Return once everything is projected; at once when the updater fails."""

        async def done() -> bool:
            assert self.failure.failure is None
            return await caught_up(self.connection, but=but)

        await eventually(done, what=what, within_s=within_s)

    async def state(self) -> object:
        """Rows of the tables: threads, messages and offsets."""
        tables = ("readmodel_1.thread", "readmodel_1.thread_message", "projection_offset")
        return [await self.connection.fetch(f"SELECT * FROM {table} AS row ORDER BY row") for table in tables]

    async def differences(self) -> list[str]:
        """The findings of a comparison with the journal."""
        return [str(each) async for each in verify(self.connection, 1, say=lambda _: None)]

    async def refusing_tables(self) -> None:
        """Have the tables refuse the message `REFUSED`."""
        await self.connection.execute(
            f"ALTER TABLE readmodel_1.thread_message ADD CHECK (body <> 'text of {REFUSED}') NOT VALID"
        )


@asynccontextmanager
async def projected(dsn: str) -> AsyncIterator[Projected]:
    """A journal without events, and an updater that is still to be started."""
    connection = await asyncpg.connect(dsn)
    found = Projected(dsn, connection)
    try:
        yield found
    finally:
        await found.updater.close()
        await connection.close()


async def dead_letters(connection: asyncpg.Connection) -> list[tuple[object, ...]]:
    """Each thread that has stopped, with the number of its event."""
    return [tuple(row) for row in await connection.fetch("SELECT thread_id, seq_nr FROM dead_letter ORDER BY 1")]


async def test_an_id_that_was_removed_may_be_given_to_another_message(dsn: str) -> None:
    """The domain forgets removed ids after a thousand: in later batches and within one."""
    async with projected(dsn) as it:
        thread, taken = new_thread(1), message_id()
        gone = MessagesRemoved(remover_id=ANN, message_ids=(taken,), at=3, create_at=3)
        await it.writer.write(thread, created(), posted(taken), gone)
        await it.start()
        await it.reaches("the first message is removed")
        await it.writer.write(thread, posted(taken), gone, posted(taken))
        await it.tell()
        await it.reaches("the id is used again")
        assert await it.differences() == []
        rows = await it.connection.fetch("SELECT removed FROM readmodel_1.thread_message ORDER BY sequence_nr")
        assert [row["removed"] for row in rows] == [True, True, False]


async def test_an_event_that_the_tables_refuse_stops_its_thread_alone(dsn: str) -> None:
    """Another thread of its shard, and every other shard, go on; what was undecodable in the same batch is on record."""
    async with projected(dsn) as it:
        refused, neighbour, sound, unreadable = new_thread(1), new_thread(1), new_thread(2), new_thread(3)
        for thread in (refused, neighbour, sound, unreadable):
            await it.writer.write(thread, created())
        await it.writer.write(unreadable, posted(), posted())
        await it.connection.execute("UPDATE journal SET event_version = 9 WHERE shard_id = 3 AND shard_seq = 2")
        await it.refusing_tables()
        await it.writer.write(refused, posted(), posted(REFUSED), posted())
        for thread in (neighbour, sound):
            await it.writer.write(thread, posted(), posted())
        await it.start()
        await it.reaches("every shard is projected")
        assert await dead_letters(it.connection) == sorted([(ulid_uuid(refused), 3), (ulid_uuid(unreadable), 2)])
        numbers = await it.connection.fetch("SELECT thread_id, sequence_nr FROM readmodel_1.thread")
        assert {row["thread_id"]: row["sequence_nr"] for row in numbers} == {
            ulid_uuid(refused): 2,
            ulid_uuid(neighbour): 3,
            ulid_uuid(sound): 3,
            ulid_uuid(unreadable): 1,
        }


async def test_contents_that_are_no_id_stop_a_thread_and_not_the_worker(dsn: str) -> None:
    """An event decodes, and names an account that is none."""
    async with projected(dsn) as it:
        bad, other = new_thread(1), new_thread(1)
        joined = MemberIdsJoined(adder_id=ANN, member_ids=(AccountId("not an id"),), at=2, create_at=2)
        await it.writer.write(bad, created(), joined)
        await it.writer.write(other, created(), posted())
        await it.start()
        await it.reaches("the shard is projected")
        assert await dead_letters(it.connection) == [(ulid_uuid(bad), 2)]


async def test_a_refusal_that_no_event_is_guilty_of_makes_the_shard_rest(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread is stopped for a missing right; once it is there, the shard goes on."""
    monkeypatch.setattr(feed, "_RETRY_SHARD_S", 0.3)
    async with projected(dsn) as it:
        await it.writer.write(new_thread(1), created(), posted())
        await it.connection.execute("ALTER TABLE readmodel_1.thread_message RENAME TO elsewhere")
        await it.start()
        await eventually(lambda: it.updater.metrics.failures > 1, what="it was tried twice")
        assert await dead_letters(it.connection) == []
        await it.connection.execute("ALTER TABLE readmodel_1.elsewhere RENAME TO thread_message")
        await it.reaches("the shard is projected")
        assert await it.differences() == []


async def test_a_shard_that_leaves_while_its_batch_is_isolated_ends_nothing(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handoff may come at any await."""
    async with projected(dsn) as it:
        await it.refusing_tables()
        await it.writer.write(new_thread(1), created(), posted(REFUSED))
        await it.writer.write(new_thread(2), created(), posted())
        store = GenerationTables.set_offsets

        async def leaving(self: GenerationTables, *arguments: object) -> None:
            it.updater.close_shard(ShardId(2))
            await store(self, *arguments)  # type: ignore[arg-type]  # as they came

        monkeypatch.setattr(GenerationTables, "set_offsets", leaving)
        await it.start()
        await it.reaches("the other shard is projected", but=2)
        assert it.failure.failure is None


async def test_shards_that_always_have_events_keep_no_other_waiting(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More shards than a batch holds: each has its turn."""
    monkeypatch.setattr(feed, "_BATCH_SHARDS", 2)
    async with projected(dsn) as it:
        threads = [new_thread(shard) for shard in range(4)]
        for thread in threads:
            await it.writer.write(thread, created())
        store, busy = GenerationTables.set_offsets, JournalWriter(await asyncpg.connect(dsn))
        busy._heads, busy._last, busy._epochs = it.writer._heads, it.writer._last, it.writer._epochs

        async def and_more(self: GenerationTables, *arguments: object) -> None:
            await store(self, *arguments)  # type: ignore[arg-type]  # as they came
            for thread in threads[:2]:
                shard = await busy.write(thread, posted())
                it.updater.advance(shard, busy._heads[shard])

        monkeypatch.setattr(GenerationTables, "set_offsets", and_more)
        await it.start()

        async def reached() -> bool:
            found = await offsets(it.connection)
            return found[2] == found[3] == 1

        await eventually(reached, what="the quiet shards are projected")
        await it.updater.close()
        await busy.connection.close()


async def _mended(it: Projected, thread: ThreadId) -> None:
    """The thread's unreadable event, the second of its shard, becomes readable."""
    await it.connection.execute(
        "UPDATE journal SET event_version = 1 WHERE thread_id = $1 AND shard_seq = 2", ulid_uuid(thread)
    )


async def test_a_thread_that_another_owner_brought_up_is_projected_from_there(dsn: str) -> None:
    """An updater that remembers a thread as stopped asks again, under the offset's lock, before it passes an event."""
    async with projected(dsn) as it:
        thread = new_thread(5)
        await it.writer.write(thread, created(), posted())
        await it.connection.execute("UPDATE journal SET event_version = 9 WHERE shard_seq = 2")
        await it.start()
        await eventually(lambda: bool(it.updater.dead_threads()), what="the thread has stopped")

        def decode(event_type: int, event_version: int, payload: bytes) -> Event:
            return codec.decode(event_type, min(event_version, 1), payload)

        other = ReadModelUpdater(connecting(dsn), decode=decode)
        other.open_shard(ShardId(5), 2)
        other.start()

        async def revived() -> bool:
            return await dead_letters(it.connection) == []

        await eventually(revived, what="the other owner has projected it")
        await other.close()
        await _mended(it, thread)
        await it.writer.write(thread, posted())
        await it.tell()
        await it.reaches("the next event is projected")
        assert await it.differences() == []


async def test_a_repair_beside_the_updater_loses_nothing(dsn: str) -> None:
    """The next event of the repaired thread is projected, not passed over."""
    async with projected(dsn) as it:
        thread = new_thread(5)
        await it.writer.write(thread, created(), posted())
        await it.connection.execute("UPDATE journal SET event_version = 9 WHERE shard_seq = 2")
        await it.start()
        await eventually(lambda: bool(it.updater.dead_threads()), what="the thread has stopped")
        await _mended(it, thread)
        while not await repair(it.connection, 1, ulid_uuid(thread)):
            await asyncio.sleep(0.01)
        await it.writer.write(thread, posted())
        await it.tell()
        await it.reaches("the next event is projected")
        assert await it.differences() == []


async def test_events_with_thousands_of_rows_are_projected_in_bounded_batches(dsn: str) -> None:
    """Under the time-outs of a worker's session, and without holding the loop."""
    async with projected(dsn) as it:
        members = tuple(AccountId(str(ULID())) for _ in range(1_000))
        big = ThreadCreated(
            creator_id=ANN,
            title="t",
            remarks=None,
            parent_thread_id=None,
            administrator_ids=(ANN,),
            member_ids=members,
            at=1,
            create_at=1,
        )
        for number in range(60):
            await it.writer.write(new_thread(1 + number % 2), big)

        async def connect(purpose: str) -> asyncpg.Connection:
            del purpose
            return await asyncpg.connect(
                dsn, command_timeout=4.0, server_settings={"idle_in_transaction_session_timeout": "2000"}
            )

        opened: OpenConnection = connect
        await it.start(ReadModelUpdater(opened))
        with measured_turns() as turns:
            await it.reaches("every thread is projected", within_s=60.0)
        assert turns.longest_s < 0.05, turns.longest
        assert it.updater.metrics.failures == 0
        assert await it.connection.fetchval("SELECT count(*) FROM readmodel_1.thread_account") == 60 * 1_001


async def test_a_query_waits_for_a_thread_that_is_not_projected_yet(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``min_sequence_nr``: the caller was let in a moment ago; a caller that is not is refused in the end."""
    monkeypatch.setattr(thread_queries, "_BEHIND_S", 1.0)
    async with projected(dsn) as it:
        thread = new_thread(1)
        await it.writer.write(thread, created())
        pool = ReadPool(await asyncpg.create_pool(dsn, min_size=0, max_size=2))
        queries = ThreadQueries(QuerySources(pool))
        asked = asyncio.create_task(queries.answer(ReadThread(thread, ANN, 1)))
        await asyncio.sleep(0.2)
        await it.start()
        assert isinstance(await asked, ThreadView)
        began = time.monotonic()
        assert await queries.answer(ReadThread(thread, BOB, 2)) == NOT_FOUND
        assert time.monotonic() - began > 0.9
        began = time.monotonic()
        assert await queries.answer(ReadThread(thread, BOB, 1)) == NOT_FOUND  # as of a state that is new enough
        assert await queries.answer(ReadThread(thread, BOB)) == NOT_FOUND
        assert time.monotonic() - began < 0.9
        pool.terminate()


async def test_a_thread_that_is_not_projected_in_time_is_not_denied(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``min_sequence_nr``: the read model is behind, of a thread that it has in part too; one that never was is not found."""
    monkeypatch.setattr(thread_queries, "_BEHIND_S", 0.1)
    async with projected(dsn) as it:
        thread, other = new_thread(1), new_thread(2)
        await it.writer.write(thread, created())
        pool = ReadPool(await asyncpg.create_pool(dsn, min_size=0, max_size=2))
        queries = ThreadQueries(QuerySources(pool))
        behind = await queries.answer(ReadThread(thread, ANN, 1))
        assert isinstance(behind, Unavailable)
        assert behind.code is UnavailableCode.READ_MODEL_BEHIND
        assert await queries.answer(ReadThread(other, ANN, 1)) == NOT_FOUND
        await it.start()
        await it.reaches("the thread is projected")
        await it.updater.close()
        await it.writer.write(thread, MemberIdsJoined(adder_id=ANN, member_ids=(BOB,), at=2, create_at=2))
        behind = await queries.answer(ReadThread(thread, BOB, 2))
        assert isinstance(behind, Unavailable)
        assert behind.code is UnavailableCode.READ_MODEL_BEHIND
        pool.terminate()


async def test_little_is_read_that_a_batch_does_not_take(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many shards are behind, as after a takeover; and each of them moves."""
    monkeypatch.setattr(feed, "_BATCH_ROWS", 40)
    connection = await asyncpg.connect(dsn)
    await fill(connection, threads=10 * SHARDS, events=12)
    tops = await heads(connection)
    read_rows: list[int] = []
    read = GenerationTables.read

    async def counted(self: GenerationTables, *bounds: object) -> dict[int, ShardEvents]:
        found = await read(self, *bounds)  # type: ignore[arg-type]  # passed on
        read_rows.append(sum(len(each.rows) for each in found.values()))
        return found

    monkeypatch.setattr(GenerationTables, "read", counted)
    metrics = feed.UpdaterMetrics()
    fed = feed.GenerationFeed(await tables_of(connection, 1), decode=codec.decode, metrics=metrics)
    for shard_id in tops:
        fed.add(shard_id)
    await fed.catch_up(connection, tops, 6)
    assert max(read_rows) <= 2 * 40
    assert all(each.position for each in fed.projections.values())
    await connection.close()


@pytest.mark.parametrize("turn", [AT_ONCE, Turn(0.02, 0.015, 1.0, 100.0)], ids=["alone", "beside commands"])
async def test_a_backlog_is_read_no_faster_than_its_rate(dsn: str, turn: Turn) -> None:
    """Whatever the pace is; and a pause brings no more than a fifth of a second's events."""
    connection, now = await asyncpg.connect(dsn), 100.0
    await fill(connection, threads=50 * SHARDS, events=20)
    tops = await heads(connection)
    metrics = feed.UpdaterMetrics()
    fed = feed.GenerationFeed(await tables_of(connection, 1), decode=codec.decode, clock=lambda: now, metrics=metrics)
    fed.rate = 2_000.0
    for shard_id in tops:
        fed.add(shard_id)
    await fed.catch_up(connection, tops, 4, turn)
    for looks in range(1, 16):
        now += 0.1
        await fed.catch_up(connection, tops, 4, turn)
        assert metrics.events <= 400 + looks * 200 + 256
    assert metrics.events >= 1_500
    now += 60.0
    before = metrics.events
    await fed.catch_up(connection, tops, 4, turn)
    assert metrics.events - before <= 400 + 256
    fed.rate = math.inf
    for _ in range(60):
        await fed.catch_up(connection, tops, 4)
    assert fed.lag(tops) == 0
    await connection.close()


@pytest.mark.parametrize("taken", ["held", "moved"])
async def test_a_batch_of_posts_is_stored_as_a_whole_or_not_at_all(dsn: str, taken: str) -> None:
    """One statement; an offset that another updater holds, or has moved since this one looked, leaves everything as it is."""
    async with projected(dsn) as it:
        threads = [new_thread(shard) for shard in (1, 2)]
        for thread in threads:
            await it.writer.write(thread, created())
        await it.start()
        await it.reaches("the threads are there")
        await it.updater.close()
        assert await use_binary_arrays(it.connection)
        tables, posts = await tables_of(it.connection, 1), PostBatch()
        for shard, thread in enumerate(threads, start=1):
            await it.writer.write(thread, posted())
            rows, epoch, xid = await appended(it.connection, shard, 2)
            posts.add(shard, 1, recent_rows(rows), [(epoch, xid)])
        assert posts.read()
        batch = posts.arrays(), posts.reached
        other = await asyncpg.connect(dsn)
        transaction = other.transaction()
        await transaction.start()
        move = "UPDATE projection_offset SET seq = 2 WHERE shard_id = 2"
        await other.execute(move if taken == "moved" else "SELECT FROM projection_offset WHERE shard_id = 2 FOR UPDATE")
        if taken == "moved":
            await transaction.commit()
        before, positions = await it.state(), {1: 1, 2: 1}
        assert not await tables.store_posts(it.connection, *batch, positions)
        assert await it.state() == before
        if taken == "held":
            await transaction.rollback()
            assert await tables.store_posts(it.connection, *batch, positions)
            assert await it.differences() == []
            stored = await it.state()
            assert stored != before
            assert not await tables.store_posts(it.connection, *batch, positions), "it is stored once"
            assert await it.state() == stored
        await other.close()


@pytest.mark.parametrize("kept", [True, False], ids=["rows in memory", "rows from the journal"])
async def test_a_batch_does_not_wait_for_the_disk(dsn: str, kept: bool) -> None:
    """Its own commit alone: the session goes on as it was."""
    async with projected(dsn) as it:
        thread = new_thread(1)
        await it.writer.write(thread, created(), posted())
        assert await use_binary_arrays(it.connection)
        recent, waits = RecentRows(), list[str]()
        if kept:
            recent.add(1, 2, *await appended(it.connection, 1, 2))

        class Tables(GenerationTables):
            """Notes, as the last of the transaction, whether its commit will wait."""

            async def store_posts(self, connection: asyncpg.Connection, *batch: object) -> bool:  # type: ignore[override]  # narrower
                async with connection.transaction():
                    stored = await super().store_posts(connection, *batch)  # type: ignore[arg-type]  # passed on
                    waits.append("posts " + await connection.fetchval("SHOW synchronous_commit"))
                return stored

            async def set_offsets(self, connection: asyncpg.Connection, reached: Mapping[int, int]) -> None:  # type: ignore[override]  # narrower
                await super().set_offsets(connection, reached)
                waits.append("rows " + await connection.fetchval("SHOW synchronous_commit"))

        fed = feed.GenerationFeed(
            Tables(1, RULES[1]), decode=codec.decode, metrics=feed.UpdaterMetrics(), recent=recent
        )
        fed.add(1)
        assert not await fed.catch_up(it.connection, {1: 2}, 4)
        await it.writer.write(thread, posted())
        fed.notify(1)
        if kept:
            recent.add(1, 3, *await appended(it.connection, 1, 3))
        assert not await fed.catch_up(it.connection, {1: 3}, 4)
        assert waits == ["rows off", "posts off" if kept else "rows off"]
        assert await it.connection.fetchval("SHOW synchronous_commit") == "on"
        assert await it.differences() == []


async def test_a_look_makes_no_batch_of_what_comes_during_it(dsn: str) -> None:
    """A busy worker always has something new by then: such batches would be small ones, without end."""
    async with projected(dsn) as it:
        thread, durable = new_thread(1), {1: 2}
        await it.writer.write(thread, created(), posted())
        assert await use_binary_arrays(it.connection)
        recent, metrics = RecentRows(), feed.UpdaterMetrics()

        async def more() -> None:
            await it.writer.write(thread, posted())
            durable[1] += 1
            fed.notify(1)
            recent.add(1, durable[1], *await appended(it.connection, 1, durable[1]))

        class Tables(GenerationTables):
            async def store_posts(self, *batch: object) -> bool:
                stored = await super().store_posts(*batch)  # type: ignore[arg-type]  # passed on
                await more()
                return stored

        known = await tables_of(it.connection, 1)
        tables = Tables(known.generation, RULES[1])
        fed = feed.GenerationFeed(tables, decode=codec.decode, metrics=metrics, recent=recent)
        fed.add(1)
        assert not await fed.catch_up(it.connection, durable, 4)
        await more()
        for looks in range(1, 4):
            assert not await fed.catch_up(it.connection, durable, 4)
            assert metrics.batches == 1 + looks
            assert fed.lag(durable) == 1, "what came meanwhile is left to the next look"


async def test_a_busy_worker_projects_a_part_of_its_events_in_each_look(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the line, and no shard again before its time; one that is far behind is not held back, and few are not split."""
    async with projected(dsn) as it:
        shards = range(8)
        threads = {shard: new_thread(shard) for shard in shards}
        now, turn, durable = 100.0, Turn(0.015, 0.06, 0.25), dict.fromkeys(shards, 0)
        fed = feed.GenerationFeed(
            await tables_of(it.connection, 1), decode=codec.decode, clock=lambda: now, metrics=feed.UpdaterMetrics()
        )

        async def write(shard: int, *events: Event) -> None:
            await it.writer.write(threads[shard], *events)
            durable[shard] += len(events)
            fed.notify(shard)

        async def look() -> tuple[list[int], Left]:
            before = {shard: each.position for shard, each in fed.projections.items()}
            left = await fed.catch_up(it.connection, durable, 4, turn)
            return [shard for shard, each in fed.projections.items() if each.position != before[shard]], left

        for shard in shards:
            fed.add(shard)
            await write(shard, created(), posted())
        assert await look() == (list(shards), Left.NOTHING)
        monkeypatch.setattr(feed, "_TURN_EVENTS", 4)
        now += 1.0
        for shard in shards:
            await write(shard, posted(), posted())
        assert await look() == ([0, 1], Left.EVENTS)
        now += 0.015
        for shard in shards:
            await write(shard, *[posted() for _ in range(feed._BATCH_EVENTS - 2 if shard > 5 else 1)])
        assert await look() == ([*range(2, 8)], Left.EVENTS), "all of these are taken at once with those far behind"
        now += 0.03
        assert await look() == ([], Left.EVENTS)
        now += 0.02
        assert await look() == ([0, 1], Left.NOTHING)
        assert await it.differences() == []


async def test_plain_messages_of_the_journal_are_stored_by_one_statement(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of memory are; a look that finds other events is not repeated for each batch of such a history."""
    async with projected(dsn) as it:
        plain, mixed = new_thread(1), new_thread(2)
        await it.writer.write(plain, created())
        await it.writer.write(mixed, created())
        assert await use_binary_arrays(it.connection)
        looks: list[list[int]] = []
        look = GenerationTables.look

        async def counted(
            self: GenerationTables, connection: Session, positions: dict[int, int], *bounds: int
        ) -> object:
            looks.append(list(positions))
            return await look(self, connection, positions, *bounds)

        monkeypatch.setattr(GenerationTables, "look", counted)
        metrics = feed.UpdaterMetrics()
        fed = feed.GenerationFeed(await tables_of(it.connection, 1), decode=codec.decode, metrics=metrics)
        fed.takes_arrays = True
        for shard in (1, 2):
            fed.add(shard)
        await fed.catch_up(it.connection, {1: 1, 2: 1}, 1)
        assert looks == [[1, 2]], "a thread's creation is no plain message"
        await it.writer.write(plain, posted())
        fed.notify(1)
        await fed.catch_up(it.connection, {1: 2}, 1)
        assert looks == [[1, 2]], "the next one is left out"
        await it.writer.write(plain, *[posted() for _ in range(10)])
        fed.notify(1)
        with monkeypatch.context() as patched:
            patched.setattr(GenerationTables, "read", None)
            await fed.catch_up(it.connection, {1: 12}, 1)
        assert looks == [[1, 2], [1]]
        looks.clear()
        for head in range(2, 62):
            await it.writer.write(
                mixed, MemberIdsJoined(adder_id=ANN, member_ids=(AccountId(str(ULID())),), at=2, create_at=2)
            )
            fed.notify(2)
            await fed.catch_up(it.connection, {2: head}, 1)
        assert 4 <= len(looks) <= 6
        assert await it.differences() == []


async def test_a_number_that_no_table_holds_stops_its_thread_and_not_the_worker(dsn: str) -> None:
    """Though the row is in memory: its batch is made before anything is sent."""
    async with projected(dsn) as it:
        thread, sound = new_thread(1), new_thread(2)
        for each in (thread, sound):
            await it.writer.write(each, created())
        await it.start()
        await it.reaches("the threads are there")
        await it.writer.write(thread, msgspec.structs.replace(posted(), at=1 << 63))
        await it.writer.write(sound, posted())
        for shard in (1, 2):
            it.updater.advance(ShardId(shard), 2, *await appended(it.connection, shard, 2))
        await it.reaches("both shards are projected")
        assert await dead_letters(it.connection) == [(ulid_uuid(thread), 2)]
