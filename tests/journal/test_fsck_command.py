"""`shard-worker fsck`, as a user or a program runs it."""

import asyncio
import json
import sys

import asyncpg

from tests.support.journal_writer import JournalWriter, created, new_thread, posted


async def run(*words: str) -> tuple[int, str, str]:
    """The exit code, standard output and standard error of the command."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shard_worker.main", "fsck", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_clean_journal_exits_with_zero_and_one_line(dsn: str) -> None:
    """The line says how much was looked at."""
    admin = await asyncpg.connect(dsn)
    await JournalWriter(admin).write(new_thread(), created(), posted())
    await admin.close()
    code, out, _ = await run("--dsn", dsn)
    assert code == 0, out
    assert out.startswith("cluster test: 2 events of 1 threads in 8 shards")
    assert out.count("\n") == 1


async def test_damage_exits_with_one_and_names_each_finding_a_line(dsn: str) -> None:
    """For people as lines, for programs as one document with the same findings."""
    admin = await asyncpg.connect(dsn)
    await JournalWriter(admin).write(new_thread(3), created(), posted(), posted())
    await admin.execute("DELETE FROM journal WHERE seq_nr = 2; UPDATE shard SET epoch = 0")
    await admin.close()
    code, out, _ = await run("--dsn", dsn)
    assert code == 1
    assert [line.split(":")[0] for line in out.splitlines()] == ["shard-seq", "shard-row", "thread-seq", "cluster test"]
    code, out, _ = await run("--dsn", dsn, "-o", "json")
    assert code == 1
    assert [finding["check"] for finding in json.loads(out)["findings"]] == ["shard-seq", "shard-row", "thread-seq"]


async def test_what_could_not_be_checked_is_neither_clean_nor_found() -> None:
    """An unreachable database has an exit code of its own, and the password is not shown."""
    code, out, err = await run("--dsn", "postgresql://user:hush@127.0.0.1:1/nothing")
    assert (code, out) == (3, "")
    assert "no Postgres at 127.0.0.1:1" in err
    assert "hush" not in err
