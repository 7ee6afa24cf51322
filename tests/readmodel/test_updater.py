"""The read-model updater on a real Postgres: whatever happens between two steps, the tables are the fold of the journal."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from itertools import count

import asyncpg
import pytest

from shard_worker.database.connection import Session
from shard_worker.domain.events import Event
from shard_worker.domain.ids import ShardId, ThreadId, ulid_uuid
from shard_worker.journal import codec
from shard_worker.readmodel.tables import GenerationTables
from shard_worker.readmodel.updater import ReadModelUpdater
from tests.readmodel.histories import RandomThread, in_order, stored_rows
from tests.readmodel.sessions import appended, caught_up, connecting, heads, offsets
from tests.support.journal_writer import SHARDS, JournalWriter, created, new_thread, posted
from tests.support.polling import eventually


class Fate:
    """Threads that get events, and updaters that come, own shards in turns or both for a while, and are killed."""

    def __init__(self, dsn: str, connection: asyncpg.Connection, rng: random.Random) -> None:
        self.threads = [RandomThread(rng) for _ in range(6)]
        self.projected = 0
        self._dsn = dsn
        self._connection = connection
        self._rng = rng
        self._writer = JournalWriter(connection)
        self._updaters: list[ReadModelUpdater] = []
        self._now = count(1)

    async def start_one(self, share: float) -> None:
        """One more updater, which owns about this share of the shards."""
        updater = ReadModelUpdater(connecting(self._dsn))
        for shard, head in (await heads(self._connection)).items():
            if self._rng.random() < share:
                updater.open_shard(ShardId(shard), head)
        updater.start()
        self._updaters.append(updater)

    async def kill_one(self) -> None:
        """Kill an updater, whatever it is at."""
        killed = self._updaters.pop(self._rng.randrange(len(self._updaters)))
        self.projected += killed.metrics.events
        await killed.close()

    async def append_some(self) -> None:
        """A few events; some owners hear of each."""
        for _ in range(self._rng.randint(1, 25)):
            thread = self._rng.choice(self.threads)
            event = thread.next_event(next(self._now))
            if event is not None:
                shard = await self._writer.write(thread.thread_id, event)
                head = (await heads(self._connection))[shard]
                stored = await appended(self._connection, shard, head)
                for updater in self._updaters:
                    hand_over = self._rng.random() < 0.7
                    updater.advance(shard, head, *stored) if hand_over else updater.advance(shard, head)
            await asyncio.sleep(self._rng.choice((0, 0, 0.001, 0.004)))

    async def live(self, rounds: int) -> None:
        """Let it all happen, and end with everything projected."""
        for _ in range(rounds):
            if len(self._updaters) < 2 or self._rng.random() < 0.3:
                await self.start_one(0.8)
            await self.append_some()
            if self._rng.random() < 0.7:
                await self.kill_one()
        await self.start_one(1.0)
        await eventually(lambda: caught_up(self._connection), what="every shard is projected")
        while self._updaters:
            await self.kill_one()


@pytest.mark.parametrize("seed", range(4))
async def test_the_tables_are_the_fold_of_the_journal_whatever_happens_between_two_steps(seed: int, dsn: str) -> None:
    """Workers own the shards in turns, and several for a while; each is killed at any moment; appends go on."""
    connection = await asyncpg.connect(dsn)
    fate = Fate(dsn, connection, random.Random(seed))
    await fate.live(12)
    assert fate.projected <= sum(len(thread.history) for thread in fate.threads), "an event was applied twice"
    for thread in fate.threads:
        assert await stored_rows(connection, thread.thread_id) == in_order(thread.rows())
    await connection.close()


async def test_rows_that_were_just_appended_are_not_read_from_the_journal(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that did not come with its wake-up is read, and so are those behind it until it is projected."""
    connection = await asyncpg.connect(dsn)
    writer, thread = JournalWriter(connection), new_thread(3)
    looks: list[list[int]] = []
    for name in ("look", "read"):
        read = getattr(GenerationTables, name)

        async def watched(
            tables: GenerationTables,
            session: Session,
            positions: Mapping[int, int],
            *bounds: int,
            read: Callable[..., Awaitable[object]] = read,
        ) -> object:
            looks.append(list(positions))
            return await read(tables, session, positions, *bounds)

        monkeypatch.setattr(GenerationTables, name, watched)
    updater = ReadModelUpdater(connecting(dsn))
    updater.open_shard(ShardId(3), 0)
    updater.start()
    await eventually(lambda: updater.lag() == 0 and updater._following, what="the updater has a session")
    for number, handed_over in enumerate((True, True, False, True), start=1):
        await writer.write(thread, created() if number == 1 else posted())
        stored = await appended(connection, 3, number)
        updater.advance(ShardId(3), number, *(stored if handed_over else ()))
        await eventually(lambda: caught_up(connection), what="the event is projected")
        assert looks == [[3]] * (number >= 3), "only the third was read"
    row = await connection.fetchrow(
        "SELECT newest_xid::text AS projected, (SELECT xid::text FROM journal WHERE shard_seq = 4)"
        " AS stored FROM readmodel_1.thread"
    )
    assert row is not None
    assert row["projected"] == row["stored"]
    assert updater._recent.bytes == 0
    await updater.close()
    await connection.close()


async def test_rows_of_before_a_lost_session_are_read_again(dsn: str) -> None:
    """After a fail-over they may not be in the journal: here they are gone, and a hole is reported instead of projected."""
    connection = await asyncpg.connect(dsn)
    writer, thread = JournalWriter(connection), new_thread(3)
    updater = ReadModelUpdater(connecting(dsn))
    updater.open_shard(ShardId(3), 0)
    await writer.write(thread, created())
    stored = await appended(connection, 3, 1)
    await connection.execute("DELETE FROM journal")
    updater.advance(ShardId(3), 1, *stored)
    updater.start()
    await eventually(lambda: updater.metrics.holes > 0, what="the hole is reported")
    assert await connection.fetchval("SELECT count(*) FROM readmodel_1.thread") == 0
    await updater.close()
    await connection.close()


async def test_a_hole_in_the_journal_stops_its_shard_and_is_never_skipped(dsn: str) -> None:
    """The other shards go on; what is behind the hole is projected once the missing event is there."""
    connection = await asyncpg.connect(dsn)
    writer = JournalWriter(connection)
    broken, sound = new_thread(3), new_thread(4)
    await writer.write(broken, created(), posted(), posted())
    await writer.write(sound, created(), posted())
    missing = await connection.fetchrow("DELETE FROM journal WHERE shard_id = 3 AND shard_seq = 2 RETURNING *")
    assert missing is not None
    updater = ReadModelUpdater(connecting(dsn))
    for shard, head in ((3, 3), (4, 2)):
        updater.open_shard(ShardId(shard), head)
    updater.start()
    await eventually(lambda: updater.metrics.holes > 0, what="the hole is reported")
    await eventually(lambda: caught_up(connection, but=3), what="the other shard is projected")
    assert (await offsets(connection))[3] == 1
    await updater.close()
    await connection.close()


def refusing(thread_id: ThreadId, version: int) -> Callable[[int, int, bytes], Event]:
    """A decoder of a release that cannot read the events of ``version``."""
    del thread_id

    def decode(event_type: int, event_version: int, payload: bytes) -> Event:
        if event_version == version:
            raise codec.UndecodableEvent("a version of the next release")
        return codec.decode(event_type, event_version, payload)

    return decode


async def test_an_undecodable_event_stops_the_projection_of_its_thread_alone(dsn: str) -> None:
    """The thread keeps the row of before; another thread of the same shard goes on; the event is on record."""
    connection = await asyncpg.connect(dsn)
    writer = JournalWriter(connection)
    stuck, other = new_thread(5), new_thread(5)
    await writer.write(stuck, created(), posted())
    await connection.execute("UPDATE journal SET event_version = 9 WHERE shard_id = 5 AND shard_seq = 2")
    await writer.write(other, created(), posted())
    await writer.write(stuck, posted())
    updater = ReadModelUpdater(connecting(dsn), decode=refusing(stuck, 9))
    updater.open_shard(ShardId(5), 5)
    updater.start()
    await eventually(lambda: caught_up(connection), what="the shard is projected")
    rows = await connection.fetch("SELECT thread_id, sequence_nr FROM readmodel_1.thread")
    numbers = {row["thread_id"]: row["sequence_nr"] for row in rows}
    assert numbers == {ulid_uuid(stuck): 1, ulid_uuid(other): 2}
    dead = await connection.fetch("SELECT thread_id, seq_nr, event_version FROM dead_letter")
    assert [tuple(row) for row in dead] == [(ulid_uuid(stuck), 2, 9)]
    assert updater.dead_threads() == {ulid_uuid(stuck)}
    await updater.close()

    # A release that can read it goes on where the thread has stopped, in order.
    def decode(event_type: int, event_version: int, payload: bytes) -> Event:
        return codec.decode(event_type, 1 if event_version == 9 else event_version, payload)

    newer = ReadModelUpdater(connecting(dsn), decode=decode)
    newer.open_shard(ShardId(5), 5)
    newer.start()
    await eventually(lambda: not newer.dead_threads() and newer.lag() == 0, what="the thread is projected")

    async def whole() -> bool:
        return len((await stored_rows(connection, stuck))["thread_message"]) == 2

    await eventually(whole, what="its messages are there")
    assert not await connection.fetch("SELECT * FROM dead_letter")
    assert (await stored_rows(connection, stuck))["thread"][0][2] == 3
    await writer.write(stuck, posted())
    newer.advance(ShardId(5), 6)
    await eventually(lambda: caught_up(connection), what="its next event is projected")
    assert (await stored_rows(connection, stuck))["thread"][0][2] == 4
    await newer.close()
    await connection.close()


async def test_the_timer_projects_what_no_wake_up_announced(dsn: str) -> None:
    """And counts it: a wake-up that is lost costs an interval."""
    connection = await asyncpg.connect(dsn)
    writer = JournalWriter(connection)
    thread_id = new_thread(2)
    await writer.write(thread_id, created())
    updater = ReadModelUpdater(connecting(dsn))
    updater.open_shard(ShardId(2), 1)
    updater.start()
    await eventually(lambda: caught_up(connection), what="the first event is projected")
    await writer.write(thread_id, posted())
    updater._heads[2] = 2  # durable, and the wake-up is lost
    await eventually(lambda: caught_up(connection), what="the second event is projected")
    assert updater.metrics.found_by_timer == 1
    assert len(await offsets(connection)) == SHARDS
    await updater.close()
    await connection.close()
