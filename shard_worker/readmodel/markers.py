"""Read markers: how far an account has read a thread.

Markers are no events: a thousand readers of one message write a thousand rows of one table, and nothing into the journal.
Markers that arrive while one statement is at the server go into the next, as the appender collects commands.  Rows of a statement
are in the order of their keys, so that two workers that write the same rows wait for each other and never in a circle.
"""

import asyncio
from typing import Final
from uuid import UUID

from shard_worker.database.connection import ReadPool, Session
from shard_worker.domain.ids import MessageId, ulid_text, ulid_uuid

_BATCH: Final = 512
"""Maximum markers of one statement."""
_WAIT_S: Final = 5.0
"""How long a marker waits for its batch; then whether it was stored is not known."""
_SET: Final = """
INSERT INTO read_marker AS m (thread_id, account_id, sequence_nr, index, message_id)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::smallint[], $5::uuid[])
ON CONFLICT (thread_id, account_id) DO UPDATE
   SET (sequence_nr, index, message_id) = (
       SELECT held.sequence_nr, held.index, held.message_id
         FROM (VALUES (m.sequence_nr, m.index, m.message_id),
                      (excluded.sequence_nr, excluded.index, excluded.message_id))
              AS held (sequence_nr, index, message_id)
        ORDER BY held.sequence_nr DESC, held.index DESC LIMIT 1)
RETURNING thread_id, account_id, message_id
"""

_Key = tuple[UUID, UUID]
"""Thread and account."""
_Marker = tuple[tuple[int, int], MessageId]


class MarkerWriter:
    """Writes markers in batches, one statement at a time."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool
        self._next: dict[_Key, _Marker] = {}
        self._outcome: asyncio.Future[dict[_Key, MessageId]] | None = None
        """Of the batch that is being collected."""
        self._writing = asyncio.Lock()

    async def set(self, thread: UUID, account: UUID, message_id: MessageId, place: tuple[int, int]) -> MessageId:
        """Move a marker forward, and return where it is; durable.

        Raises `shard_worker.database.connection.CONNECTION_ERRORS`: whether the marker was stored is then not known.
        """
        key = thread, account
        if self._outcome is None or len(self._next) >= _BATCH:
            self._next = {}
            self._outcome = asyncio.get_running_loop().create_future()
            self._outcome.add_done_callback(_looked_at)
        mine, outcome = self._next, self._outcome
        before = mine.get(key)
        if before is None or before[0] < place:
            mine[key] = place, message_id
        # The first that gets the lock writes for all that came meanwhile.  A caller that is cancelled here has left its marker
        # in the batch, which another caller may write or not: its own answer was never given.
        async with asyncio.timeout(_WAIT_S), self._writing:
            if not outcome.done():
                await self._write(mine, outcome)
        return outcome.result()[key]

    async def _write(self, batch: dict[_Key, _Marker], outcome: "asyncio.Future[dict[_Key, MessageId]]") -> None:
        if self._next is batch:
            self._outcome = None  # what comes from now on goes into the next batch
        rows = sorted(batch.items())

        async def write(connection: Session) -> dict[_Key, MessageId]:
            stored = await connection.fetch(
                _SET,
                [thread for (thread, _), _ in rows],
                [account for (_, account), _ in rows],
                [place[0] for _, (place, _) in rows],
                [place[1] for _, (place, _) in rows],
                [ulid_uuid(message_id) for _, (_, message_id) in rows],
            )
            return {
                (row["thread_id"], row["account_id"]): MessageId(ulid_text(row["message_id"].bytes)) for row in stored
            }

        try:
            outcome.set_result(await self._pool.run(write))
        except BaseException as error:
            # Cancelled, too: the others of the batch must not wait for a caller that has gone.
            outcome.set_exception(
                error if isinstance(error, Exception) else ConnectionError("the writer was cancelled")
            )
            raise


def _looked_at(outcome: "asyncio.Future[dict[_Key, MessageId]]") -> None:
    """Read the error of a batch whose callers have all gone."""
    if not outcome.cancelled():
        outcome.exception()
