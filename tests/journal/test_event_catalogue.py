"""docs/events.md: its catalogue is that of the codec, and what it tells people to run works."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import asyncpg
import msgspec
import pytest
from threadcluster_operator.local.postgres import EmbeddedPostgres

from shard_worker.database.migration import migrate
from shard_worker.domain.ids import shard_of
from shard_worker.journal import codec
from shard_worker.journal.event_catalogue import catalogue, with_catalogue
from shard_worker.journal.export.rows import COLUMNS
from tests.support.exported import checksum_of_journal
from tests.support.journal_writer import SHARDS, JournalWriter, created, new_thread, posted, whole_life
from tests.support.paths import ROOT
from tests.support.polling import eventually

PAGE = (ROOT / "docs" / "events.md").read_text()


def blocks(section: str, language: str) -> list[str]:
    """The code of a section of the page."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_catalogue_is_the_codecs() -> None:
    """`make docs` writes it."""
    assert with_catalogue(PAGE) == PAGE
    assert catalogue().count("### ") == len(codec.EVENT_NAMES)


def test_every_field_of_a_payload_is_in_the_catalogue() -> None:
    """As the journal has it, also inside of a message."""
    for event in whole_life():
        section = catalogue().partition(f" {type(event).__name__}\n")[2].partition("###")[0]
        for name, value in json.loads(msgspec.json.encode(event)).items():
            assert f"| `{name}` |" in section
            if name == "messages":
                assert all(f"| `messages[].{each}` |" in section for each in value[0])
    assert "| `messages[].text` | text or null |" in catalogue()


def test_a_new_version_shows_since_when_and_how_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """An invented version 2 of one event, in format 2."""

    def label(value: dict[str, object]) -> dict[str, object]:
        """The name became the title."""
        return value

    monkeypatch.setitem(codec.EVENT_VERSIONS, 1, 2)
    monkeypatch.setitem(codec.FORMATS, 2, dict(codec.EVENT_VERSIONS))
    monkeypatch.setitem(codec.UPCASTERS, (1, 1), label)
    section = catalogue().partition("### 2.")[0]
    assert "Versions: 1 since format 1, 2 since format 2." in section
    assert "Version 1 is read as 2: The name became the title." in section


def test_the_columns_of_a_file_are_those_of_the_page() -> None:
    """Each once."""
    table = PAGE.partition("| column | JSON lines | Parquet |")[2].partition("\n\n")[0]
    names = re.findall(r"`(\w+)`", table)
    assert sorted(names) == sorted(COLUMNS)


async def test_the_statements_and_programs_of_the_page_run(dsn: str, tmp_path: Path) -> None:
    """With its logins, and with the addresses of this test."""
    admin = await asyncpg.connect(dsn)
    thread = new_thread()
    await JournalWriter(admin).write(thread, *whole_life())
    await JournalWriter(admin).write(new_thread((shard_of(thread, SHARDS) + 1) % SHARDS), created(), posted())
    (roles,) = blocks("Rights", "sql")
    await admin.execute("DROP ROLE IF EXISTS reporting")
    await admin.execute(roles)
    address = dsn.rpartition("@")[2]
    reader = await asyncpg.connect(f"postgresql://reporting:…@{address}")
    (questions,) = blocks("By SQL", "sql")
    answers = [
        await reader.fetch(each)
        for each in questions.replace("01JTTTTTTTTTTTTTTTTTTTTTTT", thread)
        .replace("= 5", f"= {shard_of(thread, SHARDS)}")
        .split(";")
        if each.strip()
    ]
    assert [len(rows) for rows in answers] == [8, 8, 1]
    (commands,) = blocks("As files", "sh")
    for before, after in (
        ("127.0.0.1:5432/threadcluster", address),
        ("/srv", str(tmp_path)),
        ("shard-worker ", f"{sys.executable} -m shard_worker.main "),
    ):
        assert before in commands
        commands = commands.replace(before, after)
    process = await asyncio.create_subprocess_shell(
        f"set -e\n{commands}", cwd=ROOT, env={**os.environ, "LANG": "C.UTF-8"}
    )
    assert await process.wait() == 0
    (program,) = blocks("As files", "python")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program.replace("/srv", str(tmp_path))), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    *events, last = out.decode().splitlines()
    assert len(events) == 10
    count, checksum = await checksum_of_journal(admin, texts=False)
    assert last == f"{count} events, checksum {checksum}"
    await reader.close()
    await admin.execute("DROP OWNED BY reporting; DROP ROLE reporting")
    await admin.close()


async def test_the_journal_is_replicated_as_the_page_says(tmp_path: Path) -> None:
    """Between two servers: what was there, then what comes."""
    here, there = EmbeddedPostgres(tmp_path / "here"), EmbeddedPostgres(tmp_path / "there")
    await asyncio.gather(here.start(), there.start())
    try:
        admin = await asyncpg.connect(here.dsn)
        await admin.execute("ALTER SYSTEM SET wal_level = 'logical'")
        await admin.close()
        await here.stop()
        await here.start()
        await migrate(here.dsn, cluster_id="test", shards=SHARDS, say=lambda _: None)
        admin, copy = await asyncpg.connect(here.dsn), await asyncpg.connect(there.dsn)
        pen, thread = JournalWriter(admin), new_thread()
        await pen.write(thread, *whole_life())
        publish, subscribe = blocks("By logical replication", "sql")
        await admin.execute(publish)
        table, subscription = subscribe.split(";")[:2]
        await copy.execute(table)
        await copy.execute(subscription.replace("port=5432", f"port={here.port}"))

        question = "SELECT shard_id, shard_seq, thread_id, seq_nr, event_type, payload FROM journal ORDER BY 1, 2"

        async def has(count: int) -> bool:
            return len(await copy.fetch(question)) == count

        await eventually(lambda: has(8), within_s=60)
        await pen.write(new_thread(), created(), posted())
        await eventually(lambda: has(10), within_s=60)
        assert await copy.fetch(question) == await admin.fetch(question)
        await copy.execute("DROP SUBSCRIPTION threadcluster_events")
        await admin.close()
        await copy.close()
    finally:
        await asyncio.gather(here.stop(), there.stop())
