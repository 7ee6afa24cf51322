"""The check that everything a worker acknowledged is still in the journal.

A fail-over to an asynchronous standby, or a storage that was set back, loses the end of the journal.  Whenever a session
that matters is opened (the lease's, the reconciler's, an append connection's), and before anything is appended on it,
the heads that this worker knows to be durable are compared with the journal:

* its head now; and
* where it ended at each fail-over since, from ``shard_epoch``: another worker may have appended already, so
  that the head alone looks well again.

Events beyond either were acknowledged and are lost: one alarm a shard, with the range, and the shard is read again.
A stream is watched beyond its end, for a fail-over closes all streams before the comparison can be made.
"""

import logging
from collections.abc import Callable
from typing import Final

import asyncpg

from shard_worker.database.connection import CONNECTION_ERRORS, OpenConnection
from shard_worker.domain.ids import ShardId
from shard_worker.journal.append_queue import AppendQueue

log = logging.getLogger(__name__)

_COMPARED: Final = ("lease", "reconciler", "append-")
_RESOLVES: Final = "append-outcome"
"""Looks at single batches by itself, and appends nothing."""
_SURVIVED_SQL: Final = """
SELECT w.shard_id,
       least((SELECT coalesce(max(j.shard_seq), 0) FROM journal j WHERE j.shard_id = w.shard_id),
             (SELECT min(e.from_seq) - 1 FROM shard_epoch e
               WHERE e.shard_id = w.shard_id AND e.epoch > w.epoch AND e.kind = 'failover')) AS survived
  FROM unnest($1::int[], $2::bigint[]) AS w (shard_id, epoch)
"""


class AcknowledgedHeads:
    """The heads of the streams that this worker has, or had.  ``on_lost`` must drop a shard, at once."""

    def __init__(self, on_lost: Callable[[ShardId], None]) -> None:
        self._on_lost = on_lost
        self._streams: dict[ShardId, AppendQueue] = {}
        self.lost_events = 0
        """Acknowledged events that were missing from the journal, since the worker started."""

    def watch(self, stream: AppendQueue) -> None:
        """Compare this stream from now on, in place of an earlier one of its shard."""
        self._streams[stream.shard_id] = stream

    def compared(self, connect: OpenConnection) -> OpenConnection:
        """``connect``, with the comparison made on each session that appends or that keeps ownership."""

        async def open_compared(purpose: str) -> asyncpg.Connection:
            while True:
                connection = await connect(purpose)
                if not purpose.startswith(_COMPARED) or purpose == _RESOLVES:
                    return connection
                try:
                    await self.compare(connection)
                except CONNECTION_ERRORS as error:
                    log.warning("session failed during the comparison of heads", extra={"cause": repr(error)})
                    connection.terminate()
                except BaseException:
                    connection.terminate()
                    raise
                else:
                    return connection

        return open_compared

    async def compare(self, connection: asyncpg.Connection) -> None:
        """Compare every stream with the journal.  Raises what asyncpg raises when the link fails."""
        # Taken before the query: what becomes durable meanwhile is above these heads, never below.
        known = {shard_id: (stream, stream.head) for shard_id, stream in self._streams.items() if stream.head > 0}
        if not known:
            return
        rows = await connection.fetch(_SURVIVED_SQL, list(known), [stream.epoch for stream, _ in known.values()])
        for row in rows:
            shard_id, survived = ShardId(row["shard_id"]), row["survived"]
            stream, head = known[shard_id]
            # Another session's comparison may have found the same meanwhile, or the shard was opened again.
            if survived >= head or self._streams.get(shard_id) is not stream:
                continue
            del self._streams[shard_id]
            self.lost_events += head - survived
            log.critical(
                "acknowledged-lost",
                extra={
                    "shard": shard_id,
                    "epoch": stream.epoch,
                    "from_seq": survived + 1,
                    "to_seq": head,
                    "alarm": True,
                },
            )
            self._on_lost(shard_id)
