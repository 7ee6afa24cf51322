"""A sound journal, for the tests of `fsck`."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from shard_worker.domain.events import Event
from tests.journal.sound_journal import KEY, SHARD, Sound
from tests.support.journal_writer import SHARDS, JournalWriter, created, folded, new_thread, posted, whole_life


@pytest.fixture
async def sound(dsn: str) -> AsyncIterator[Sound]:
    """A sound journal and a superuser's connection to spoil it."""
    admin = await asyncpg.connect(dsn)
    pen = JournalWriter(admin)
    thread, life = new_thread(SHARD), new_thread(SHARD)
    events: list[Event] = [created(), posted(), posted(), posted(), posted()]
    await pen.write(thread, *events[:2], key=KEY)
    await pen.write(life, *whole_life())
    await pen.claim(SHARD)
    await pen.write(thread, *events[2:4])
    await pen.claim(SHARD, incarnation=None)
    await pen.claim(SHARD)
    await pen.write(thread, events[4])
    await pen.snapshot(thread, folded(events[:4]))
    for shard in range(SHARDS):
        await pen.write(new_thread(shard), created(), posted())
    yield Sound(dsn, admin, pen, thread)
    await admin.close()
