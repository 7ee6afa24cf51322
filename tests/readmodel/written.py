"""Random threads in a journal, and an updater that owns every shard."""

import random
from itertools import count

import asyncpg

from shard_worker.readmodel.updater import ReadModelUpdater
from shard_worker.readmodel.verify import verify
from tests.readmodel.histories import RandomThread
from tests.readmodel.sessions import connecting, heads
from tests.support.journal_writer import JournalWriter


class Written:
    """Random threads in a journal, and an updater that owns every shard."""

    def __init__(self, dsn: str, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.updater = ReadModelUpdater(connecting(dsn))
        self.threads = [RandomThread(random.Random(7)) for _ in range(5)]
        self._writer = JournalWriter(connection)
        self._now = count(1)
        self._rng = random.Random(8)

    async def append(self, events: int) -> None:
        """Write events, and tell the updater."""
        for _ in range(events):
            thread = self._rng.choice(self.threads)
            event = thread.next_event(next(self._now))
            if event is not None:
                shard = await self._writer.write(thread.thread_id, event)
                self.updater.open_shard(shard, 0)
                self.updater.advance(shard, (await heads(self.connection))[shard])

    async def differences(self, generation: int = 1) -> list[str]:
        """The findings of `verify`."""
        return [each.what async for each in verify(self.connection, generation, say=lambda _: None)]
