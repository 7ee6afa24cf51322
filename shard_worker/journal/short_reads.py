"""Reading a journal in short transactions: each statement is one, reads a page, and holds no snapshot afterwards.

Reading a large journal takes an hour.  A snapshot of an hour would keep every dead row version of the busy tables, and each read
of each worker would scan them all.  A page ends by bytes as well as by rows, for an event may hold a megabyte, and is made smaller
when it takes long.

Several statements about one shard are consistent all the same: events up to a head that was read never change, and no later
event gets a number below it.
"""

import time
from typing import Final

import asyncpg

PAGE_BYTES: Final = 4 << 20
FIRST_ROWS: Final = 200
_PAGE_ROWS: Final = 2_000
_LEAST_ROWS: Final = 50
"""No page is made smaller for its time: on a busy machine even an empty one takes long, and nothing would be gained."""
_SLOW_S: Final = 0.4
"""A page that took longer is followed by one of half its rows: no transaction should come near a second."""
QUICK_S: Final = 0.2
_CONFLICTS: Final = 20
"""How often a page is read again that a standby cancelled, because what it read was being removed there."""
_SETTINGS_SQL: Final = "SET work_mem = '64MB'; SET jit = off; SET statement_timeout = '60s'; SET lock_timeout = '10s'"


class ShortReads:
    """Reads on one session; `longest_s` is the longest that any of its transactions took, in seconds."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self.longest_s = 0.0

    async def begin(self) -> None:
        """Set the session up."""
        await self._connection.execute(_SETTINGS_SQL)

    async def fetch(self, sql: str, *parameters: object) -> list[asyncpg.Record]:
        """One statement, which is one transaction."""
        for left in reversed(range(_CONFLICTS)):
            began = time.monotonic()
            try:
                rows = await self._connection.fetch(sql, *parameters)
            except asyncpg.SerializationError:
                if not left:
                    raise
                continue
            finally:
                self.longest_s = max(self.longest_s, time.monotonic() - began)
            return rows
        raise AssertionError("the last conflict is raised")


def next_size(size: int, rows: int, took_s: float) -> int:
    """Rows of the next page, after one of ``size`` that gave ``rows`` in ``took_s``."""
    if took_s > _SLOW_S:
        return max(min(size, _LEAST_ROWS), min(size, rows) // 2)
    return min(_PAGE_ROWS, size * 2) if took_s < QUICK_S else size
