"""Histories of any length load: in pages, beside short ones, and from where a load was broken off."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from time import perf_counter
from uuid import UUID

import asyncpg
import msgspec
import pytest

from shard_worker.database.connection import Database, ReadPool, Session
from shard_worker.domain.events import Event, MessagesAdded, MessagesRemoved, PostedMessage
from shard_worker.domain.ids import ShardId, ThreadId, shard_of, ulid_uuid
from shard_worker.journal import loader
from shard_worker.journal.codec import STATE_VERSION, decode_state, encode_state, same_state
from shard_worker.journal.history_page import PAGE_BYTES, PAGE_ROWS, ThreadPage, Wanted, read_page
from shard_worker.journal.loader import Poisoned, Recovered, ThreadLoader
from shard_worker.journal.message_reader import MessagePlace, MessageReader
from shard_worker.journal.snapshots import SnapshotWriter, discard_unbacked_of_shards
from shard_worker.memory import MemoryBudget
from tests.support.journal_writer import (
    ANN,
    SHARDS,
    JournalWriter,
    created,
    folded,
    message_id,
    new_thread,
    posted,
    whole_life,
)
from tests.support.loop_turns import measured_turns
from tests.support.polling import eventually

TURN_S = 0.05
"""No turn of the loop may hold its thread for longer; the lease is half a second."""


@dataclass
class Shelf:
    """A journal, a loader, and what the loader kept."""

    pen: JournalWriter
    pool: ReadPool
    loader: ThreadLoader
    kept: list[tuple[int, bytes]] = field(default_factory=list)
    pages: list[list[tuple[int, int]]] = field(default_factory=list)
    """Events and bytes of each thread in each page."""

    def keep(self, shard_id: ShardId, thread_uuid: UUID, seq_nr: int, state: bytes, event_metadata: bytes) -> None:
        del shard_id, thread_uuid
        assert event_metadata.startswith(b'{"commandId"')
        self.kept.append((seq_nr, state))

    async def load(self, thread_id: ThreadId) -> Recovered:
        found = await self.loader.load(shard_of(thread_id, SHARDS), thread_id)
        assert isinstance(found, Recovered), found
        return found

    async def long_thread(self, events: int) -> ThreadId:
        thread = new_thread()
        await self.pen.write(thread, created())
        await self.pen.write_many(thread, events - 1)
        return thread


@pytest.fixture
async def shelf(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shelf]:
    """An empty journal, whose pages are watched."""
    connection = await asyncpg.connect(dsn)
    pool = await Database(dsn, application_name=lambda: "test").pool(most=4)
    shelf = Shelf(JournalWriter(connection), pool, ThreadLoader(pool))
    shelf.loader = ThreadLoader(pool, at_once=2, keep=shelf.keep)

    async def watched(connection: Session, wanted: Sequence[Wanted], *, rows_each: int) -> list[ThreadPage]:
        pages = await read_page(connection, wanted, rows_each=rows_each)
        shelf.pages.append([(len(page.rows), page.size) for page in pages])
        return pages

    monkeypatch.setattr(loader, "read_page", watched)
    yield shelf
    await shelf.loader.close()
    pool.terminate()
    await connection.close()


def big(kilobytes: int) -> MessagesAdded:
    """An event of about ``kilobytes`` kB: up to a hundred messages."""
    count = max(1, min(100, kilobytes // 10))
    text = "w" * (kilobytes * 1024 // count)
    return MessagesAdded(
        sender_id=ANN, messages=tuple(PostedMessage(message_id(), text) for _ in range(count)), at=2, create_at=2
    )


async def test_a_long_history_is_read_in_pages_beside_its_neighbours(shelf: Shelf) -> None:
    """Two long threads take turns; short ones that are asked meanwhile are loaded before; no turn holds the loop."""
    events = 20_000
    long_ones = [await shelf.long_thread(events) for _ in range(2)]
    short_ones = [new_thread() for _ in range(60)]
    for thread in short_ones:
        await shelf.pen.write(thread, created(), posted())
    await shelf.load(short_ones[0])  # connected
    with measured_turns() as turns:
        loads = [asyncio.create_task(shelf.load(thread)) for thread in long_ones]
        await eventually(lambda: shelf.loader.long_loads == 2, what="both are in the lane")
        for thread in short_ones:
            assert (await shelf.load(thread)).sequence_nr == 2
        assert not any(load.done() for load in loads), "a long thread was loaded before its neighbours"
        found = await asyncio.gather(*loads)
    assert [one.sequence_nr for one in found] == [events] * 2
    for one in found:
        assert one.state is not None
        assert len(one.state.messages) == 1  # the last event of the series posted it
        assert one.snapshot_nr == events, "a snapshot is kept at the end"
    assert [seq_nr for seq_nr, _ in shelf.kept] == [events] * 2
    assert turns.longest_s < TURN_S, turns
    assert max(sum(events for events, _ in pages) for pages in shelf.pages) <= PAGE_ROWS
    assert sum(len(pages) == 1 for pages in shelf.pages) >= 2 * events // PAGE_ROWS


async def test_a_page_is_bounded_in_bytes(shelf: Shelf) -> None:
    """Sixty events of half a megabyte are never held at once; those with a small history go by."""
    thread, neighbours = new_thread(), [new_thread() for _ in range(5)]
    await shelf.pen.write(thread, created(), *[big(512) for _ in range(20)])
    for neighbour in neighbours:
        await shelf.pen.write(neighbour, created(), posted())
    with measured_turns() as turns:
        found, *others = await asyncio.gather(*[shelf.load(one) for one in (thread, *neighbours)])
    assert found.sequence_nr == 21
    assert [other.sequence_nr for other in others] == [2] * 5
    assert max(sum(size for _, size in pages) for pages in shelf.pages) < PAGE_BYTES + (600 << 10)
    assert turns.longest_s < TURN_S, turns
    assert found.bytes_since < 1 << 20, "kept at the end, by bytes"


async def test_a_broken_link_does_not_begin_a_long_load_again(shelf: Shelf) -> None:
    """The load goes on at the event where it was; every event is folded once."""
    thread = await shelf.long_thread(30_000)
    load = asyncio.create_task(shelf.load(thread))
    await eventually(lambda: shelf.loader.metrics.events > 5_000, what="it is under way")
    await shelf.pen.connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test'"
    )
    assert (await load).sequence_nr == 30_000
    assert shelf.loader.metrics.events == 30_000


async def test_a_load_that_is_broken_off_goes_on_from_the_last_snapshot(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a restart: what was kept along the way is not read again."""
    monkeypatch.setattr(loader, "_KEPT_EVERY_EVENTS", 5_000)
    writer = SnapshotWriter(shelf.pool, memory=MemoryBudget(64 << 20))
    writer.start()
    first = ThreadLoader(shelf.pool, keep=writer.save)
    thread = await shelf.long_thread(30_000)
    load = asyncio.create_task(first.load(shard_of(thread, SHARDS), thread))
    await eventually(lambda: writer.saved > 0, what="a snapshot along the way")
    load.cancel()
    await first.close()
    assert (await shelf.load(thread)).sequence_nr == 30_000
    assert shelf.loader.metrics.events <= 25_000
    await writer.close()


async def test_more_long_threads_than_take_turns_are_all_loaded(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting loads hold no memory; a cancelled load admits the next one."""
    monkeypatch.setattr(loader, "LONG_AT_ONCE", 2)
    threads = [await shelf.long_thread(1_500) for _ in range(6)]
    loads = [asyncio.create_task(shelf.load(thread)) for thread in threads]
    await eventually(lambda: shelf.loader.long_loads > 2, what="some wait")
    loads[0].cancel()
    found = await asyncio.gather(*loads[1:])
    assert [one.sequence_nr for one in found] == [1_500] * 5


async def test_rows_that_the_server_cannot_read_poison_their_thread_alone(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group whose statement fails for one thread is read thread by thread."""
    ill, *well = [new_thread() for _ in range(6)]
    for thread in (ill, *well):
        await shelf.pen.write(thread, created(), posted())

    async def corrupt(connection: Session, wanted: Sequence[Wanted], *, rows_each: int) -> list[ThreadPage]:
        if ulid_uuid(ill) in {one.uuid for one in wanted}:
            raise asyncpg.DataCorruptedError("missing chunk number 0 for toast value")
        return await read_page(connection, wanted, rows_each=rows_each)

    monkeypatch.setattr(loader, "read_page", corrupt)
    shard = shard_of(ill, SHARDS)
    found, *others = await asyncio.gather(shelf.loader.load(shard, ill), *[shelf.load(thread) for thread in well])
    assert isinstance(found, Poisoned)
    assert "missing chunk" in found.reason
    assert [other.sequence_nr for other in others] == [2] * 5  # type: ignore[union-attr]  # they are recovered


async def test_a_snapshot_of_the_version_before_is_read(shelf: Shelf) -> None:
    """The first loads after an upgrade read no more events than those before it: only what follows the snapshots."""
    threads: dict[ThreadId, list[Event]] = {}
    for number in range(12):
        events: list[Event] = [created(), *[posted(at=at) for at in range(2, 40)]]
        thread = new_thread()
        await shelf.pen.write(thread, *events)
        await shelf.pen.snapshot(
            thread, folded(events[:37]), version=STATE_VERSION - 1 if number % 2 else STATE_VERSION
        )
        threads[thread] = events
    found = await asyncio.gather(*[shelf.load(thread) for thread in threads])
    assert shelf.loader.metrics.events == 12 * 2
    for one, events in zip(found, threads.values(), strict=True):
        assert one.state is not None
        assert one.snapshot_nr == 37
        assert same_state(one.state, folded(events))


async def test_each_release_keeps_its_own_snapshots(shelf: Shelf) -> None:
    """The newer of two that can be read is taken; saving one leaves the version before and removes older ones."""
    events = whole_life()
    thread = new_thread()
    shard = await shelf.pen.write(thread, *events)
    await shelf.pen.snapshot(thread, folded(events[:3]), version=STATE_VERSION)
    await shelf.pen.snapshot(thread, folded(events[:5]), version=STATE_VERSION - 1)
    assert (await shelf.load(thread)).snapshot_nr == 5
    await shelf.pen.connection.execute(
        "INSERT INTO snapshot SELECT shard_id, thread_id, state_version - 2, seq_nr, event_metadata, state FROM snapshot"
    )
    writer = SnapshotWriter(shelf.pool, memory=MemoryBudget(64 << 20))
    writer.start()
    metadata = await shelf.pen.connection.fetchval("SELECT metadata FROM journal WHERE seq_nr = 7")
    writer.save(shard, ulid_uuid(thread), 7, encode_state(folded(events[:7])), metadata)
    await eventually(lambda: writer.saved == 1, what="it is saved")
    rows = await shelf.pen.connection.fetch("SELECT state_version, seq_nr FROM snapshot ORDER BY 1")
    assert [tuple(row) for row in rows] == [(STATE_VERSION - 1, 5), (STATE_VERSION, 7)]
    assert (await shelf.load(thread)).snapshot_nr == 7
    await writer.close()
    assert writer.waiting_bytes == 0


async def test_a_snapshot_of_an_event_that_was_lost_is_discarded_and_reported(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    """Also when the journal has grown past its number again, with other events."""
    lost, regrown, sound = [new_thread() for _ in range(3)]
    events: list[Event] = [created(), *[posted() for _ in range(5)]]
    for thread in (lost, regrown, sound):
        await shelf.pen.write(thread, *events)
        await shelf.pen.snapshot(thread, folded(events))
    delete = "DELETE FROM journal WHERE thread_id = $1 AND seq_nr > 4"
    for thread in (lost, regrown):
        await shelf.pen.connection.execute(delete, ulid_uuid(thread))
        shelf.pen._last[ulid_uuid(thread)] = 4
    others: list[Event] = [posted() for _ in range(4)]
    await shelf.pen.write(regrown, *others)
    with caplog.at_level(logging.ERROR):
        found = await asyncio.gather(*[shelf.load(thread) for thread in (lost, regrown, sound)])
    assert [(one.sequence_nr, one.snapshot_nr) for one in found] == [(4, 0), (8, 0), (6, 6)]
    assert found[1].state is not None
    assert same_state(found[1].state, folded([*events[:4], *others]))
    assert len([record for record in caplog.records if "snapshot discarded" in record.message]) == 2
    assert shelf.loader.metrics.snapshots_discarded == 2
    rows = await shelf.pen.connection.fetch("SELECT thread_id FROM snapshot")
    assert [row["thread_id"] for row in rows] == [ulid_uuid(sound)]


async def test_a_shards_unbacked_snapshots_are_discarded_at_once(shelf: Shelf) -> None:
    """After a lost tail, for the threads that are not asked."""
    lost, sound = new_thread(1), new_thread(1)
    for thread in (lost, sound):
        await shelf.pen.write(thread, created(), posted())
        await shelf.pen.snapshot(thread, folded([created(), posted()]))
    await shelf.pen.connection.execute("DELETE FROM journal WHERE thread_id = $1 AND seq_nr = 2", ulid_uuid(lost))
    assert await discard_unbacked_of_shards(shelf.pen.connection, [ShardId(0)]) == 0
    memory = MemoryBudget(64 << 20)
    writer = SnapshotWriter(shelf.pool, memory=memory)
    writer.save(ShardId(1), ulid_uuid(sound), 2, b"of the time before", b"m")
    writer.forget_all()
    assert (memory.used, writer.dropped) == (0, 1)
    writer.start()

    async def is_stored() -> bool:
        return bool(await shelf.pen.connection.fetchval("SELECT count(*) FROM snapshot") == 1)

    await eventually(is_stored)
    assert await shelf.pen.connection.fetchval("SELECT thread_id FROM snapshot") == ulid_uuid(sound)
    await writer.close()


async def test_waiting_snapshots_are_bounded_in_bytes(shelf: Shelf) -> None:
    """A snapshot beyond an eighth of the memory budget is dropped; a newer one of the same thread takes its place."""
    memory = MemoryBudget(800)
    writer = SnapshotWriter(shelf.pool, memory=memory)
    uuids = [ulid_uuid(new_thread()) for _ in range(3)]
    for uuid in uuids:
        writer.save(ShardId(0), uuid, 1, b"s" * 45, b"m")
    assert (writer.dropped, writer.waiting_bytes, memory.used) == (1, 90, 90)
    writer.save(ShardId(0), uuids[0], 2, b"s" * 40, b"m")
    assert (writer.dropped, writer.waiting_bytes) == (1, 85)
    writer.start()
    await eventually(lambda: writer.saved == 2, what="both are saved")
    assert memory.used == 0
    await writer.close()


@pytest.mark.soak
@pytest.mark.timeout(1_200)
async def test_a_million_events_load_beside_cold_neighbours(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    """Neighbours' cold loads keep their p99 within twice that alone; prints how long the long thread takes."""
    events = 1_000_000
    thread = await shelf.long_thread(events)
    await shelf.pen.connection.execute("ANALYZE journal")
    neighbours = [new_thread() for _ in range(300)]
    for neighbour in neighbours:
        await shelf.pen.write(neighbour, created(), *[posted() for _ in range(20)])

    async def cold_loads(while_running: asyncio.Task[Recovered] | None) -> list[float]:
        took: list[float] = []
        for number in range(2_000):
            if while_running is not None and while_running.done():
                break
            began = perf_counter()
            await shelf.load(neighbours[number % len(neighbours)])
            took.append(perf_counter() - began)
        return took

    began = perf_counter()
    assert (await shelf.load(thread)).sequence_nr == events
    alone_s = perf_counter() - began
    before = await cold_loads(None)
    began = perf_counter()
    load = asyncio.create_task(shelf.load(thread))
    await eventually(lambda: shelf.loader.long_loads == 1, what="it is in the lane")
    beside = await cold_loads(load)
    assert (await load).sequence_nr == events
    beside_s = perf_counter() - began
    alone_p99, beside_p99 = (quantiles(took, n=100)[98] * 1000 for took in (before, beside))
    with capsys.disabled():
        print(
            f"\n{events:,} events: {alone_s:.1f} s alone, {beside_s:.1f} s beside {len(beside)} cold loads; their p99"
            f" {beside_p99:.1f} ms, alone {alone_p99:.1f} ms"
        )
    assert decode_state(shelf.kept[-1][1]).sequence_nr == events
    assert beside_p99 <= 2 * alone_p99


def peak_rss() -> int:
    """The process's greatest resident size since `forget_peak`, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def forget_peak() -> None:
    """Reset the peak."""
    Path("/proc/self/clear_refs").write_text("5")


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_large_events_are_never_held_together(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    """Two hundred events of a megabyte: neither loading them nor reading one text of each takes their memory."""
    thread, count = new_thread(), 200
    kept = [message_id() for _ in range(count)]
    shard = await shelf.pen.write(thread, created())
    for id in kept:
        event = big(1000)
        messages = (*event.messages[:-1], PostedMessage(id, "kept"))
        await shelf.pen.write(
            thread,
            msgspec.structs.replace(event, messages=messages),
            MessagesRemoved(ANN, tuple(message.message_id for message in messages[:-1]), 2, 2),
        )
    forget_peak()
    before = peak_rss()
    with measured_turns() as turns:
        found = await shelf.load(thread)
    loading = peak_rss() - before
    assert found.state is not None
    assert list(found.state.messages) == kept
    reader = MessageReader(shelf.pool)
    places = [
        MessagePlace(id, live.sequence_nr, live.index, live.offset, live.size)
        for id, live in found.state.messages.items()
    ]
    forget_peak()
    before = peak_rss()
    began = perf_counter()
    with measured_turns() as reading_turns:
        texts = await reader.read(shard, ulid_uuid(thread), places, most_bytes=1 << 20, wanted=lambda: True)
    took_s, reading = perf_counter() - began, peak_rss() - before
    assert {message.text for message in texts} == {"kept"}
    with capsys.disabled():
        print(
            f"\n{count} events of 1 MB: loading takes {loading >> 20} MiB, longest turn {turns.longest_s * 1000:.1f} ms;"
            f" a page of a text of each {reading >> 20} MiB, {took_s * 1000:.0f} ms,"
            f" longest turn {reading_turns.longest_s * 1000:.1f} ms"
        )
    assert loading < 32 << 20
    assert reading < 8 << 20
    assert max(turns.longest_s, reading_turns.longest_s) < TURN_S


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_first_loads_after_an_upgrade_are_as_quick_as_any(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    """The p99 of cold loads from snapshots of the version before is within twice that from this release's."""
    events: list[Event] = [created(), *[posted(at=at) for at in range(2, 121)]]
    state = folded(events[:100])
    sides: dict[int, list[ThreadId]] = {}
    for version in (STATE_VERSION, STATE_VERSION - 1):
        sides[version] = [new_thread() for _ in range(150)]
        for thread in sides[version]:
            await shelf.pen.write(thread, *events)
            await shelf.pen.snapshot(thread, state, version=version)
    took: dict[int, list[float]] = {version: [] for version in sides}
    for _ in range(8):  # in turns, so that the machine's other work falls on both
        for steady, upgraded in zip(sides[STATE_VERSION], sides[STATE_VERSION - 1], strict=True):
            for version, thread in ((STATE_VERSION, steady), (STATE_VERSION - 1, upgraded)):
                began = perf_counter()
                assert (await shelf.load(thread)).snapshot_nr == 100
                took[version].append(perf_counter() - began)
    steady_p99, upgraded_p99 = (quantiles(took[version], n=100)[98] * 1000 for version in took)
    with capsys.disabled():
        print(f"\np99 of cold loads: {steady_p99:.1f} ms, of the first after an upgrade {upgraded_p99:.1f} ms")
    assert upgraded_p99 <= 2 * steady_p99
