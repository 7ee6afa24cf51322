"""The proof of a journal, by the `fsck` command."""

import asyncio
import sys


async def assert_journal_valid(dsn: str) -> None:
    """Fail unless the journal at ``dsn`` proves itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "shard_worker.main", "fsck", "--dsn", dsn),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
