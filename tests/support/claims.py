"""Whether a second cluster has interfered with the holder of a database."""

import asyncpg


async def traces(dsn: str) -> object:
    """All in a database that shows an interference: claim, schema, incarnations, plan and epochs."""
    connection = await asyncpg.connect(dsn)
    try:
        return [
            [tuple(row) for row in await connection.fetch(sql)]
            for sql in (
                "SELECT cluster_id, holder_uid, holder_name, holder_site FROM meta",
                "SELECT version, checksum FROM schema_migration ORDER BY version",
                "SELECT id, incarnation, attempt, fenced FROM worker ORDER BY id",
                "SELECT version, hash FROM plan",
                "SELECT id, owner, epoch FROM shard ORDER BY id",
            )
        ]
    finally:
        await connection.close()
