"""Inspecting single threads on a real Postgres."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest

from shard_worker.database.connection import Database
from shard_worker.domain.evolve import evolve
from shard_worker.domain.ids import ThreadId, shard_of, ulid_uuid
from shard_worker.domain.thread import Thread
from shard_worker.journal import inspector as inspector_module
from shard_worker.journal.codec import encode_state
from shard_worker.journal.inspector import EventPage, StateAt, ThreadInspector
from tests.support.journal_writer import SHARDS, JournalWriter, created, new_thread, posted, whole_life


@dataclass
class Harness:
    """A journal to write, and its inspector."""

    writer: JournalWriter
    inspector: ThreadInspector

    async def events(self, thread_id: ThreadId, before: int | None = None, limit: int = 100) -> EventPage:
        return await self.inspector.events(shard_of(thread_id, SHARDS), ulid_uuid(thread_id), before, limit)

    async def state_at(self, thread_id: ThreadId, at: int | None) -> StateAt:
        return await self.inspector.state_at(shard_of(thread_id, SHARDS), ulid_uuid(thread_id), at)


@pytest.fixture
async def harness(dsn: str) -> AsyncIterator[Harness]:
    """An empty journal."""
    connection = await asyncpg.connect(dsn)
    pool = await Database(dsn, application_name=lambda: "test").pool(most=2)
    yield Harness(JournalWriter(connection), ThreadInspector(pool))
    pool.terminate()
    await connection.close()


async def test_a_thread_that_was_never_created_has_nothing(harness: Harness) -> None:
    """Neither events nor a state."""
    thread = new_thread()
    assert await harness.events(thread) == (0, [])
    assert await harness.state_at(thread, None) == (0, None, None)


async def test_events_come_in_pages_from_the_end(harness: Harness) -> None:
    """Oldest first in each; a large event ends a page early."""
    thread = new_thread()
    await harness.writer.write(thread, created(), *(posted() for _ in range(9)))
    last, rows = await harness.events(thread, limit=4)
    assert (last, [row["seq_nr"] for row in rows]) == (10, [7, 8, 9, 10])
    assert [row["seq_nr"] for row in (await harness.events(thread, 7, 4)).rows] == [3, 4, 5, 6]
    assert (await harness.events(thread, 1)).rows == []


async def test_a_page_is_bounded_in_bytes(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for its newest event."""
    thread = new_thread()
    await harness.writer.write(thread, created(), *(posted() for _ in range(9)))
    monkeypatch.setattr(inspector_module, "_EVENTS_BYTES", 1)
    assert [row["seq_nr"] for row in (await harness.events(thread)).rows] == [10]


@pytest.mark.parametrize("snapshot", [False, True])
async def test_the_state_after_each_event_is_the_fold_up_to_it(harness: Harness, snapshot: bool) -> None:
    """With a snapshot in the middle and without; beyond the last event it is the last."""
    thread, events = new_thread(), whole_life()
    await harness.writer.write(thread, *events)
    states: list[bytes | None] = [None]
    state: Thread | None = None
    for number, event in enumerate(events, 1):
        state = evolve(state, event, number)
        states.append(encode_state(state))
        if snapshot and number == 4:
            await harness.writer.snapshot(thread, state)
    for at, expected in enumerate(states):
        found = await harness.state_at(thread, at)
        assert (found.sequence_nr, found.fault) == (at, None)
        assert (found.state and encode_state(found.state)) == expected
    assert (await harness.state_at(thread, None)).sequence_nr == len(events)
    assert (await harness.state_at(thread, 99)).sequence_nr == len(events)


async def test_a_history_that_cannot_be_read_is_folded_to_its_fault(harness: Harness) -> None:
    """And the fault is named."""
    thread = new_thread()
    await harness.writer.write(thread, created(), posted(), posted())
    await harness.writer.connection.execute(
        "UPDATE journal SET event_type = 99 WHERE thread_id = $1 AND seq_nr = 3", ulid_uuid(thread)
    )
    found = await harness.state_at(thread, None)
    assert found.sequence_nr == 2
    assert "event 3: event type 99" in (found.fault or "")


async def test_a_fold_that_takes_long_ends_with_what_it_has(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """One fold at a time: a second one waits within its own time."""
    thread = new_thread()
    await harness.writer.write(thread, *whole_life())
    monkeypatch.setattr(inspector_module, "FOLD_S", 0.2)
    async with harness.inspector._turn:
        found, other = await asyncio.gather(harness.state_at(thread, None), harness.state_at(thread, 3))
    assert found == other == (0, None, "folding took longer than 0.2 s")
