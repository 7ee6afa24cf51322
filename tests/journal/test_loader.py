"""Reading histories back from a real Postgres."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import asyncpg
import pytest

from shard_worker.database.connection import Database, ReadPool, Session
from shard_worker.domain.evolve import evolve as evolve_soundly
from shard_worker.domain.ids import ShardId, ThreadId, shard_of, ulid_uuid
from shard_worker.journal import fold
from shard_worker.journal import loader as loader_module
from shard_worker.journal.codec import encode_state
from shard_worker.journal.history_page import ThreadPage, Wanted, read_page
from shard_worker.journal.loader import GROUP, Poisoned, Recovered, ThreadLoader
from tests.support.journal_writer import SHARDS, JournalWriter, created, folded, new_thread, posted, whole_life
from tests.support.polling import eventually


@dataclass
class LoaderHarness:
    """A journal to write with a writer and to read with a loader."""

    writer: JournalWriter
    pool: ReadPool
    loader: ThreadLoader

    async def load(self, thread_id: ThreadId) -> Recovered | Poisoned:
        return await self.loader.load(shard_of(thread_id, SHARDS), thread_id)

    async def recovered(self, thread_id: ThreadId) -> Recovered:
        found = await self.load(thread_id)
        assert isinstance(found, Recovered), found
        return found


@pytest.fixture
async def harness(dsn: str) -> AsyncIterator[LoaderHarness]:
    """An empty journal."""
    connection = await asyncpg.connect(dsn)
    pool = await Database(dsn, application_name=lambda: "test").pool(most=4)
    loader = ThreadLoader(pool)
    yield LoaderHarness(JournalWriter(connection), pool, loader)
    await loader.close()
    pool.terminate()
    await connection.close()


async def test_a_thread_that_was_never_created_is_nothing_at_zero(harness: LoaderHarness) -> None:
    """Unknown is an answer, not an error."""
    assert await harness.load(new_thread()) == Recovered(None, 0, 0)


async def test_a_thread_is_the_fold_of_its_events(harness: LoaderHarness) -> None:
    """One event of every type, and the state is what evolve makes of them."""
    thread, events = new_thread(), whole_life()
    await harness.writer.write(thread, *events)
    found = await harness.recovered(thread)
    assert found.state is not None
    assert encode_state(found.state) == encode_state(folded(events))
    assert (found.sequence_nr, found.snapshot_nr) == (8, 0)


@pytest.mark.parametrize("at", range(1, 9))
async def test_a_snapshot_and_its_tail_are_the_full_replay(harness: LoaderHarness, at: int) -> None:
    """At every event of a life."""
    thread, events = new_thread(), whole_life()
    await harness.writer.write(thread, *events)
    await harness.writer.snapshot(thread, folded(events[:at]))
    found = await harness.recovered(thread)
    assert found.state is not None
    assert encode_state(found.state) == encode_state(folded(events))
    assert found.snapshot_nr == at


@pytest.mark.parametrize(
    "spoil",
    [
        "state_version = state_version + 1",
        "state_version = state_version - 2",
        "state = 'nonsense'",
        "state = '\\x90'",
        "seq_nr = 2",
        "seq_nr = 2, event_metadata = (SELECT j.metadata FROM journal j WHERE j.seq_nr = 2)",
        "seq_nr = 9",
        "event_metadata = 'another command'",
    ],
    ids=[
        "newer-version",
        "too-old",
        "nonsense",
        "empty-array",
        "at-another-event",
        "not-at-its-own-number",
        "beyond-the-journal",
        "other-command",
    ],
)
async def test_an_unusable_snapshot_is_discarded(harness: LoaderHarness, spoil: str) -> None:
    """It is only a cache: the events give the same state."""
    thread, events = new_thread(), whole_life()
    await harness.writer.write(thread, *events)
    await harness.writer.snapshot(thread, folded(events[:5]))
    await harness.writer.connection.execute(f"UPDATE snapshot SET {spoil}")
    found = await harness.recovered(thread)
    assert (found.sequence_nr, found.snapshot_nr) == (8, 0)
    assert found.state is not None
    assert encode_state(found.state) == encode_state(folded(events))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("UPDATE journal SET payload = '{' WHERE thread_id = $1 AND seq_nr = 2", "event 2: "),
        ("UPDATE journal SET event_type = 99 WHERE thread_id = $1 AND seq_nr = 3", "event 3: event type 99"),
        ("UPDATE journal SET event_version = 9 WHERE thread_id = $1 AND seq_nr = 3", "event 3: "),
        ("DELETE FROM journal WHERE thread_id = $1 AND seq_nr = 2", "event 2 is missing"),
        ("DELETE FROM journal WHERE thread_id = $1 AND seq_nr = 1", "event 1 is missing"),
    ],
    ids=["payload", "type", "version", "hole", "no-creation"],
)
async def test_a_history_that_cannot_be_read_poisons_its_thread_alone(
    harness: LoaderHarness, damage: str, reason: str
) -> None:
    """Neighbours that are loaded by the same two queries do not notice."""
    ill, *neighbours = [new_thread() for _ in range(6)]
    for thread in (ill, *neighbours):
        await harness.writer.write(thread, created(), posted(), posted())
    assert await harness.writer.connection.execute(damage, ulid_uuid(ill)) in ("UPDATE 1", "DELETE 1")
    found, *others = await asyncio.gather(*[harness.load(thread) for thread in (ill, *neighbours)])
    assert isinstance(found, Poisoned)
    assert reason in found.reason
    assert [other.sequence_nr for other in others if isinstance(other, Recovered)] == [3] * 5


async def test_a_bug_in_evolve_poisons_its_thread_alone(
    harness: LoaderHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it raises."""
    ill, well = new_thread(), new_thread()
    await harness.writer.write(ill, created(), posted(), posted())
    await harness.writer.write(well, created(), posted())

    def evolve(state: object, event: object, seq_nr: int) -> object:
        if seq_nr == 3:
            raise ZeroDivisionError("a bug")
        return evolve_soundly(state, event, seq_nr)  # type: ignore[arg-type]  # passed through as it came

    monkeypatch.setattr(fold, "evolve", evolve)
    found, other = await asyncio.gather(harness.load(ill), harness.load(well))
    assert found == Poisoned("event 3 cannot be applied: ZeroDivisionError('a bug')")
    assert isinstance(other, Recovered)


async def test_one_thread_asked_for_many_times_at_once_is_as_often_recovered(harness: LoaderHarness) -> None:
    """An actor that is dropped and made again while its load waits asks twice; each gets a state of its own."""
    thread = new_thread()
    await harness.writer.write(thread, created(), posted(), posted())
    found = await asyncio.gather(*[harness.recovered(thread) for _ in range(5)])
    assert [one.sequence_nr for one in found] == [3] * 5
    assert len({id(one.state) for one in found}) == 5


async def test_threads_that_wait_together_are_loaded_together(
    harness: LoaderHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hundred threads need about four queries, at most as many at a time as allowed."""
    threads = [new_thread() for _ in range(200)]
    await asyncio.gather(*[harness.load(new_thread())])  # connected
    sizes: list[int] = []
    at_once = most = 0
    read = read_page

    async def counted(connection: Session, wanted: Sequence[Wanted], *, rows_each: int) -> list[ThreadPage]:
        nonlocal at_once, most
        sizes.append(len(wanted))
        at_once += 1
        most = max(most, at_once)
        try:
            return await read(connection, wanted, rows_each=rows_each)
        finally:
            at_once -= 1

    monkeypatch.setattr(loader_module, "read_page", counted)
    loader = ThreadLoader(harness.pool, at_once=2)
    await asyncio.gather(*[loader.load(shard_of(thread, SHARDS), thread) for thread in threads])
    await loader.close()
    assert max(sizes) <= GROUP
    assert sum(sizes) == 200
    assert len(sizes) <= 7
    assert most <= 2


async def test_threads_of_busy_shards_come_first(harness: LoaderHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """When more wait than are read at once, the shard with the most commands a second goes before."""
    heat: dict[ShardId, float] = {}
    loader = ThreadLoader(harness.pool, at_once=1, heat=lambda shard_id: heat.get(shard_id, 0.0))
    asked: list[ThreadId] = [new_thread() for _ in range(GROUP + 10)]
    first, *cold = asked[:-1]
    hot = asked[-1]
    heat[shard_of(hot, SHARDS)] = 200.0
    cold = [thread for thread in cold if shard_of(thread, SHARDS) != shard_of(hot, SHARDS)]
    groups: list[set[object]] = []
    read = read_page

    async def watched(connection: Session, wanted: Sequence[Wanted], *, rows_each: int) -> list[ThreadPage]:
        groups.append({thread.uuid for thread in wanted})
        return await read(connection, wanted, rows_each=rows_each)

    monkeypatch.setattr(loader_module, "read_page", watched)
    monkeypatch.setattr(loader_module, "GROUP", 5)
    await asyncio.gather(*[loader.load(shard_of(thread, SHARDS), thread) for thread in [first, *cold, hot]])
    assert ulid_uuid(hot) in groups[1], "the first group was on its way before it asked"
    await loader.close()


async def test_a_failure_reaches_all_who_wait_and_the_next_load_works(harness: LoaderHarness) -> None:
    """The database goes away in the middle: an error for these, none for later ones."""
    threads = [new_thread() for _ in range(3)]
    for thread in threads:
        await harness.writer.write(thread, created())
    await harness.recovered(threads[0])
    blocker = harness.writer.connection
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE snapshot IN ACCESS EXCLUSIVE MODE")
        loads = [asyncio.create_task(harness.load(thread)) for thread in threads]
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        async with asyncio.timeout(10):
            while not await blocker.fetchval(waiting):
                pass
        await blocker.fetch("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted")
        failed = await asyncio.gather(*loads, return_exceptions=True)
    assert all(isinstance(one, (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)) for one in failed), failed
    assert (await harness.recovered(threads[0])).sequence_nr == 1


async def test_closing_ends_what_waits_and_starts_nothing_new(harness: LoaderHarness) -> None:
    """Every waiter ends, and no task outlives the loader."""
    loader = ThreadLoader(harness.pool, at_once=1)
    loads = [asyncio.create_task(loader.load(ShardId(0), new_thread(0))) for _ in range(3 * GROUP)]
    await asyncio.sleep(0)
    await loader.close()
    async with asyncio.timeout(5):
        ended = await asyncio.gather(*loads, return_exceptions=True)
    assert all(isinstance(one, BaseException) for one in ended)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "load-threads"]


async def test_a_cancelled_waiter_disturbs_no_other(harness: LoaderHarness) -> None:
    """A cancelled load ends alone."""
    threads = [new_thread() for _ in range(3)]
    loads = [asyncio.create_task(harness.load(thread)) for thread in threads]
    await asyncio.sleep(0)
    loads[0].cancel()
    assert await asyncio.gather(*loads[1:]) == [Recovered(None, 0, 0)] * 2
    await eventually(loads[0].cancelled, what="the one who left")
