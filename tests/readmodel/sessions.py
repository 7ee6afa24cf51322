"""Sessions of an updater under test, and how far it is."""

from typing import cast
from uuid import UUID

import asyncpg

from shard_worker.database.connection import OpenConnection
from shard_worker.journal.append_queue import Row, Writer


def connecting(dsn: str) -> OpenConnection:
    """Open a session, whatever for."""

    async def connect(purpose: str) -> asyncpg.Connection:
        del purpose
        return await asyncpg.connect(dsn)

    return connect


async def offsets(connection: asyncpg.Connection) -> dict[int, int]:
    """The offsets of all shards in the live generation."""
    rows = await connection.fetch(
        "SELECT shard_id, seq FROM projection_offset JOIN readmodel_generation USING (generation) WHERE live"
    )
    return {row["shard_id"]: row["seq"] for row in rows}


async def heads(connection: asyncpg.Connection) -> dict[int, int]:
    """The last event of each shard that has one."""
    rows = await connection.fetch("SELECT shard_id, max(shard_seq) AS head FROM journal GROUP BY shard_id")
    return {row["shard_id"]: row["head"] for row in rows}


async def caught_up(connection: asyncpg.Connection, *, but: int | None = None) -> bool:
    """Whether every shard but one is projected up to its head."""
    reached = await offsets(connection)
    return all(reached[shard] == head for shard, head in (await heads(connection)).items() if shard != but)


class _Writer:
    """The actor of a row, of which the projection asks its thread alone."""

    def __init__(self, uuid: UUID) -> None:
        self.uuid = uuid


async def appended(connection: asyncpg.Connection, shard: int, number: int) -> tuple[list[Row], int, int]:
    """One row of the journal as its appender knows it, with its epoch and its transaction."""
    record = await connection.fetchrow(
        "SELECT *, xid::text AS by FROM journal WHERE shard_id = $1 AND shard_seq = $2", shard, number
    )
    assert record is not None
    row = Row()
    row.writer = cast("Writer", _Writer(record["thread_id"]))
    row.seq_nr, row.payload = record["seq_nr"], record["payload"]
    row.size = len(row.payload)
    row.event_type, row.event_version = record["event_type"], record["event_version"]
    return [row], record["epoch"], int(record["by"])
