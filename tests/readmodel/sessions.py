"""Sessions of an updater under test, and how far it is."""

import asyncpg

from shard_worker.database.connection import OpenConnection


def connecting(dsn: str) -> OpenConnection:
    """Open a session, whatever for."""

    async def connect(purpose: str) -> asyncpg.Connection:
        del purpose
        return await asyncpg.connect(dsn)

    return connect


async def offsets(connection: asyncpg.Connection) -> dict[int, int]:
    """The offsets of all shards."""
    rows = await connection.fetch("SELECT shard_id, seq FROM projection_offset WHERE generation = 1")
    return {row["shard_id"]: row["seq"] for row in rows}


async def heads(connection: asyncpg.Connection) -> dict[int, int]:
    """The last event of each shard that has one."""
    rows = await connection.fetch("SELECT shard_id, max(shard_seq) AS head FROM journal GROUP BY shard_id")
    return {row["shard_id"]: row["head"] for row in rows}


async def caught_up(connection: asyncpg.Connection, *, but: int | None = None) -> bool:
    """Whether every shard but one is projected up to its head."""
    reached = await offsets(connection)
    return all(reached[shard] == head for shard, head in (await heads(connection)).items() if shard != but)
