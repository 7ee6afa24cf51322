"""The proof of a journal, by the `fsck` command, and of the read model that follows it."""

import asyncio
import sys

from shard_worker.database.session import open_connection
from shard_worker.readmodel.verify import verify

_LIVE = "SELECT generation FROM readmodel_generation WHERE live"
_AHEAD = """
SELECT o.shard_id FROM projection_offset o
 WHERE o.seq > (SELECT coalesce(max(j.shard_seq), 0) FROM journal j WHERE j.shard_id = o.shard_id)
"""


async def assert_journal_valid(dsn: str) -> None:
    """Fail unless the journal at ``dsn`` proves itself, and the read model is its fold as far as the read model got."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "shard_worker.main", "fsck", "--dsn", dsn),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    connection = await open_connection(dsn, "read-model-check", statement_s=None)
    try:
        generation = await connection.fetchval(_LIVE)
        differences = [str(each) async for each in verify(connection, generation, say=lambda _: None)]
        assert differences == []
        assert await connection.fetch(_AHEAD) == [], "the read model is ahead of the journal"
    finally:
        connection.terminate()
