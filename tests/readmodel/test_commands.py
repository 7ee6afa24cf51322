"""`shard-worker readmodel` as a person runs it."""

import asyncio
import sys

import asyncpg

from shard_worker.domain.ids import ShardId, ulid_uuid
from shard_worker.readmodel.updater import ReadModelUpdater
from tests.readmodel.sessions import caught_up, connecting
from tests.support.journal_writer import JournalWriter, created, new_thread, posted
from tests.support.polling import eventually


async def command(*words: str) -> tuple[int, str]:
    """Exit code and output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "shard_worker.main", "readmodel", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    assert b"Traceback" not in output, output.decode()
    return process.returncode, output.decode()


async def test_a_damaged_thread_is_named_and_repaired(dsn: str) -> None:
    """With exit codes that a script can use; an unknown thread and a word that is none are refused by name."""
    connection = await asyncpg.connect(dsn)
    writer, thread = JournalWriter(connection), new_thread(3)
    await writer.write(thread, created(), posted())
    updater = ReadModelUpdater(connecting(dsn))
    updater.open_shard(ShardId(3), 2)
    updater.start()
    await eventually(lambda: caught_up(connection), what="the journal is projected")
    await updater.close()
    await connection.execute("DELETE FROM readmodel_1.thread_message WHERE thread_id = $1", ulid_uuid(thread))
    (found, named), (shown, status), (unknown, sentence), (wrong, usage) = await asyncio.gather(
        command("verify", "--dsn", dsn),
        command("status", "--dsn", dsn),
        command("verify", "--dsn", dsn, "--repair", new_thread()),
        command("verify", "--dsn", dsn, "--repair", "x"),
    )
    assert (found, f"shard 3, thread {thread}: its messages differ" in named) == (1, True), named
    assert (shown, status) == (0, "generation 1 (version 1, live): 2 of 2 events projected\n")
    assert (unknown, "the journal has no thread" in sentence) == (3, True)
    assert (wrong, "--repair: 'x' is no thread id" in usage) == (2, True)
    assert await command("verify", "--dsn", dsn, "--repair", thread) == (0, f"thread {thread} was projected afresh\n")
    assert (await command("verify", "--dsn", dsn))[0] == 0
    await connection.close()
