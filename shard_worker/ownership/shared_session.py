"""The session with which a worker answers planners: shared by the requests, and closed when none has come for a while.

A planner that moves many shards asks many times a second, and to connect takes longer than what it asks for.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from shard_worker.database.connection import OpenConnection

_KEPT_S: Final = 5.0


class SharedSession:
    """One at a time is served; `close` it at the end."""

    def __init__(self, connect: OpenConnection, within_s: float) -> None:
        self._connect = connect
        self._within_s = within_s
        self._free = asyncio.Lock()
        self._kept: asyncpg.Connection | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._closed = False

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection]:
        """A session for one statement or transaction; one in which anything went wrong is thrown away.

        Raises `TimeoutError` when it is not had, and what it is for not done, within the time that a statement may take.
        """
        async with asyncio.timeout(self._within_s), self._free:
            if self._ending is not None:
                self._ending.cancel()
            connection, self._kept = self._kept, None
            if connection is None or connection.is_closed():
                connection = await self._connect("desk")
            try:
                yield connection
            except BaseException:
                connection.terminate()
                raise
            if self._closed:  # while the request used the session: no one would end it
                connection.terminate()
                return
            self._kept = connection
            self._ending = asyncio.get_running_loop().call_later(_KEPT_S, self._end_kept)

    def close(self) -> None:
        """End the session that is kept, and keep none from now on."""
        self._closed = True
        self._end_kept()

    def _end_kept(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
        connection, self._kept = self._kept, None
        if connection is not None:
            connection.terminate()
