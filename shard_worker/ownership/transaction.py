"""Transactions of ownership: each on a session that is thrown away when the transaction fails, or is cancelled.

A change that other workers wait for notifies `CHANNEL` before its commit.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

CHANNEL: Final = "threadcluster_ownership"
NOTIFY_SQL: Final = f"SELECT pg_notify('{CHANNEL}', '')"


@asynccontextmanager
async def transaction(connection: asyncpg.Connection, begin: str = "BEGIN") -> AsyncIterator[None]:
    """A transaction on a session that is thrown away when it fails, or is cancelled.

    A rollback would have to be waited for, on a silent link without end.
    """
    try:
        await connection.execute(begin)
        yield
        await connection.execute("COMMIT")
    except BaseException:
        connection.terminate()
        raise


@asynccontextmanager
async def statement(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """One statement that is a transaction of its own; its shards are drained meanwhile.  A failure closes the session too."""
    try:
        yield
    except BaseException:
        connection.terminate()
        raise
