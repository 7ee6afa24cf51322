"""The events that an export reads, in short transactions, by the views that `READER_ROLE` may see.

Within a shard the order of numbers is the order of commits, and no number is left out: a statement that sees an event sees every
event below it.  So events up to a head can be taken as soon as they are seen, and a number that is not there is damage.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import asyncpg

from shard_worker.database.connection import DatabaseUnreachable, DatabaseUnsuitable
from shard_worker.database.migration import SchemaTooNew
from shard_worker.database.migration_files import SCHEMA_VERSION
from shard_worker.database.roles import READER_ROLE
from shard_worker.journal.export.rows import StoredRow
from shard_worker.journal.short_reads import FIRST_ROWS, PAGE_BYTES, QUICK_S, ShortReads, next_size

_VIEWS: Final = {False: "journal_event", True: "journal_event_text"}
_ORIGIN_SQL: Final = """
SELECT cluster_id, shards, coalesce(timeline, 0) AS timeline, coalesce(generation, '') AS generation,
       pg_is_in_recovery() AS standby, (SELECT max(version) FROM schema_migration) AS version,
       (SELECT reltuples::bigint FROM pg_class WHERE oid = 'journal'::regclass) AS about
  FROM meta
"""
_HEAD_SQL: Final = "SELECT coalesce(max(shard_seq), 0) FROM {view} WHERE shard_id = $1"
_END_SQL: Final = "SELECT epoch, thread_id, seq_nr, command_id FROM {view} WHERE shard_id = $1 AND shard_seq = $2"
# The inner statement counts bytes without reading a payload: only the payloads of the page are made.
_PAGE_SQL: Final = """
SELECT shard_id, shard_seq, thread_id, seq_nr, event, version, payload::text, epoch, command_id,
       floor(extract(epoch FROM written_at) * 1000)::bigint
  FROM {view}
 WHERE shard_id = $1 AND shard_seq > $2 AND shard_seq <= (
       SELECT max(shard_seq)
         FROM (SELECT shard_seq, payload_bytes, sum(payload_bytes) OVER (ORDER BY shard_seq) AS upto
                 FROM (SELECT shard_seq, payload_bytes FROM {view}
                        WHERE shard_id = $1 AND shard_seq > $2 AND shard_seq <= $3
                        ORDER BY shard_seq LIMIT $4) following) counted
        WHERE upto - payload_bytes < $5)
 ORDER BY shard_seq
"""


class Origin(NamedTuple):
    """The database that an export reads."""

    cluster: str
    shards: int
    history: tuple[int, str]
    """Timeline and generation; of two of one database the higher is the newer (`shard_worker.database.generation`)."""
    standby: bool
    about: int
    """Events of the journal, as the server last counted them; negative where it never did."""


class End(NamedTuple):
    """All that identifies an event but its place; the command's id is random, so no other event has the same."""

    epoch: int
    thread_id: str
    seq_nr: int
    command_id: str | None


class EventSource(ShortReads):
    """Reads events with or without their texts.  Raises `shard_worker.database.connection.DatabaseError`."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        super().__init__(connection)
        self._texts = False
        self._size = FIRST_ROWS

    def read_texts(self, *, texts: bool) -> None:
        """Read the view with the texts, or the one without."""
        self._texts = texts

    async def begin(self) -> None:
        with self._translated():
            await super().begin()

    async def fetch(self, sql: str, *parameters: object) -> list[asyncpg.Record]:
        with self._translated():
            return await super().fetch(sql.format(view=_VIEWS[self._texts]), *parameters)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise what the database refuses as the errors of this project, so that an `OSError` is the folder's."""
        try:
            yield
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
            raise DatabaseUnsuitable(
                f"the database has no schema of a ThreadCluster of this release ({error}): run `shard-worker migrate`"
            ) from error
        except asyncpg.InsufficientPrivilegeError as error:
            right = (
                f"GRANT SELECT ON {_VIEWS[True]} TO this login, or leave --texts out"
                if self._texts
                else f"GRANT {READER_ROLE} TO this login"
            )
            raise DatabaseUnsuitable(f"this login may not read the events: {error}; {right}") from error
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise DatabaseUnreachable(
                f"Postgres went away during the export ({error!r}); run the command again, it goes on"
            ) from error

    async def origin(self) -> Origin:
        """Which database this is.  Raises `DatabaseUnsuitable` for one that this release cannot export."""
        rows = await self.fetch(_ORIGIN_SQL)
        if not rows:
            raise DatabaseUnsuitable("no cluster has claimed the database: nothing to export")
        row = rows[0]
        if row["version"] < SCHEMA_VERSION:
            raise DatabaseUnsuitable(
                f"the schema is version {row['version']}, this release needs {SCHEMA_VERSION}: run `shard-worker migrate`"
            )
        if row["version"] > SCHEMA_VERSION + 1:
            raise SchemaTooNew(f"the schema is version {row['version']}, this release reads {SCHEMA_VERSION + 1}")
        history = (row["timeline"], row["generation"])
        return Origin(row["cluster_id"], row["shards"], history, row["standby"], row["about"])

    async def head(self, shard_id: int) -> int:
        """The last number of a shard; 0 where it has no event."""
        ((head,),) = await self.fetch(_HEAD_SQL, shard_id)
        return int(head)

    async def end_at(self, shard_id: int, shard_seq: int) -> End | None:
        """The event at a place, or None."""
        rows = await self.fetch(_END_SQL, shard_id, shard_seq)
        return End(*rows[0]) if rows else None

    async def page(self, shard_id: int, after: int, head: int, most: int) -> list[StoredRow]:
        """The events behind ``after``, up to ``head``: at most ``most``, and as many as a short transaction reads."""
        size, began = min(self._size, most), time.monotonic()
        rows = await self.fetch(_PAGE_SQL, shard_id, after, head, size, PAGE_BYTES)
        took_s = time.monotonic() - began
        if len(rows) == self._size or took_s > QUICK_S:
            self._size = next_size(self._size, len(rows), took_s)
        return [StoredRow(*row) for row in rows]
