"""The position of a list: where an account's stream goes on, so that between the two nothing is missed.

Every event that a transaction below the position wrote is in the tables.  A position is taken in two statements before the list:
a mark of the journal, then the first event of each shard that the tables do not have.  All events below the mark are visible
to the second statement, so that each is in the tables, or its transaction is not below the least of those first events.
"""

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from shard_worker.database.connection import Session
from shard_worker.journal.settled import first_unprojected, read_mark

_KEPT_S: Final = 1.0
"""How long a position is used for other lists: an older one is right too, and a stream repeats a little more."""


class ListPosition(NamedTuple):
    """A mark of the journal; see `shard_worker.journal.settled`."""

    generation: str
    """The history of the database."""
    xid: int
    taken_at: int
    """Epoch seconds, by the worker's clock."""


NO_POSITION: Final = ListPosition("", 0, 0)


class ListPositions:
    """Takes positions, at most one a second."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._position = NO_POSITION
        self._of = 0
        self._known_until = 0.0

    async def read(self, connection: Session, generation: object) -> ListPosition:
        """The position of a list of this generation of the tables that is read after this call."""
        began = self._clock()
        if began >= self._known_until or self._of != generation:
            taken_at = int(time.time())
            mark = await read_mark(connection)
            assert isinstance(generation, int)
            missing = await first_unprojected(connection, generation)
            xid = mark.xid if missing is None else min(mark.xid, missing)
            self._position, self._of = ListPosition(mark.generation, xid, taken_at), generation
            self._known_until = began + _KEPT_S
        return self._position
