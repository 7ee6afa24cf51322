"""`export`: each event once, in order, never past a gap; whatever ends it, and whatever a fail-over loses."""

import asyncio
import fcntl
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from shard_worker.database.connection import DatabaseSuperseded, DatabaseUnsuitable
from shard_worker.domain.ids import ulid_text, ulid_uuid
from shard_worker.journal.export import run as export_run
from shard_worker.journal.export.manifest import ExportRefused
from shard_worker.journal.export.report import Reason, Report
from shard_worker.journal.export.run import Options, export
from shard_worker.journal.export.source import EventSource, Origin
from tests.support.exported import Exported, checksum_of_journal, read_export
from tests.support.journal_writer import SHARDS, JournalWriter, created, fill, new_thread, posted, whole_life
from tests.support.load.chat import drive
from tests.support.load.record import Recorder
from tests.support.polling import more_acknowledged
from tests.support.programs import worker_alone

SHARD = 3
TEXTS = Options(texts=True)


@pytest.fixture
async def admin(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection."""
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
def pen(admin: asyncpg.Connection) -> JournalWriter:
    """Writes as an owner does."""
    return JournalWriter(admin)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the export goes; it is made."""
    return tmp_path / "some" / "events"


async def run(dsn: str, folder: Path, options: Options = TEXTS) -> Report:
    """One run of the export."""
    return await export(dsn, folder, options, progress=lambda _: None)


async def assert_complete(admin: asyncpg.Connection, folder: Path, *, texts: bool = True) -> Exported:
    """The export is the journal: each event once, byte for byte what its columns say, count and checksum alike."""
    found = read_export(folder)
    stored = await admin.fetch("SELECT * FROM journal ORDER BY shard_id, shard_seq", timeout=600)
    rows = sorted(found.rows, key=lambda row: (row["shard_id"], row["shard_seq"]))
    assert len(rows) == len(stored)
    for row, event in zip(rows, stored, strict=True):
        assert (row["shard_id"], row["shard_seq"], row["seq_nr"], row["version"], row["epoch"]) == (
            *(event["shard_id"], event["shard_seq"], event["seq_nr"], event["event_version"], event["epoch"]),
        )
        assert row["thread_id"] == ulid_text(event["thread_id"].bytes)
        assert row["command_id"] == json.loads(event["metadata"])["commandId"]
        assert row["at"] == row["payload"]["at"]
        if texts:
            assert row["payload"] == json.loads(event["payload"])
    assert (len(found.rows), found.checksum) == await checksum_of_journal(admin, texts=texts)
    return found


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("texts", [True, False], ids=["texts", "no-texts"])
async def test_each_event_is_exported_once_and_later_runs_add_what_is_new(
    dsn: str, admin: asyncpg.Connection, pen: JournalWriter, folder: Path, kind: str, texts: bool
) -> None:
    """Closed files never change; a run without news writes nothing."""
    options = Options(kind=kind, texts=texts, file_events=5)  # type: ignore[arg-type]  # one of the kinds
    thread = new_thread(SHARD)
    await pen.write(thread, *whole_life())
    await pen.write(new_thread(0), created())
    report = await run(dsn, folder, options)
    assert (report.new_events, report.new_files, report.stops) == (9, 3, ())
    first = {path: path.read_bytes() for path in folder.glob("shard-*/*")}
    await assert_complete(admin, folder, texts=texts)
    assert (await run(dsn, folder, Options(file_events=5))).new_files == 0
    await pen.write(new_thread(SHARD), created(), posted())
    report = await run(dsn, folder, Options(file_events=5))
    assert (report.new_events, report.new_files, report.events, report.files) == (2, 1, 11, 4)
    assert {path: path.read_bytes() for path in first} == first
    found = await assert_complete(admin, folder, texts=texts)
    assert report.checksum == str(found.checksum)
    shown = "".join(map(str, found.rows))
    assert ("text of" in shown) == texts
    assert [row["event"] for row in found.of(SHARD)][:8] == [type(event).__name__ for event in whole_life()]


async def test_large_events_make_small_pages_and_files(
    dsn: str, admin: asyncpg.Connection, pen: JournalWriter, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page ends at 4 MiB, a file at 128 Mi characters: here at less."""
    monkeypatch.setattr(export_run, "FILE_CHARACTERS", 3 << 20)
    thread = new_thread(SHARD)
    await pen.write(thread, created(), *[posted() for _ in range(12)])
    await admin.execute(
        "UPDATE journal SET payload = convert_to(replace(convert_from(payload, 'UTF8'), 'text of', repeat('é', 500000)),"
        " 'UTF8') WHERE event_type = 7"
    )
    report = await run(dsn, folder)
    found = await assert_complete(admin, folder)
    assert report.new_files >= 2
    assert all(line["bytes"] < 11 << 20 for line in found.files)


@pytest.mark.parametrize("how", ["killed", "full"])
async def test_an_export_that_ends_at_any_step_goes_on(
    dsn: str, admin: asyncpg.Connection, pen: JournalWriter, tmp_path: Path, how: str
) -> None:
    """At each time that it asks the disk for something, and again at the same step of the next run."""
    await pen.write(new_thread(SHARD), created(), posted(), posted())
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.failing_export", dsn, str(tmp_path), how), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert int(out) >= 12
    for step in range(1, int(out) + 1):
        found = await assert_complete(admin, tmp_path / f"{step}")
        on_disk = {str(path.relative_to(tmp_path / f"{step}")) for path in tmp_path.glob(f"{step}/shard-*/*")}
        assert on_disk == {line["file"] for line in found.files}


async def _killed_again_and_again(dsn: str, folder: Path, *, file_events: int, kills: int) -> None:
    """Run the command, and kill it each time that it has closed some files, until it has been killed often enough."""
    words = ("-m", "shard_worker.main", "export", "--dsn", dsn, "--texts", "--file-events", str(file_events))
    manifest = folder / "manifest.jsonl"
    for _ in range(kills):
        before = manifest.read_bytes().count(b"\n") if manifest.exists() else 0
        process = await asyncio.create_subprocess_exec(sys.executable, *words, str(folder))
        async with asyncio.timeout(120):
            while not manifest.exists() or manifest.read_bytes().count(b"\n") < before + 3:
                assert process.returncode is None, "it reached its end before it was killed"
                await asyncio.sleep(0.002)
        process.kill()
        await process.wait()
    process = await asyncio.create_subprocess_exec(sys.executable, *words, str(folder), stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    assert process.returncode == 0, errors


async def _count_and_checksum_are_the_journals(admin: asyncpg.Connection, folder: Path, events: int) -> None:
    found = read_export(folder)
    assert len(found.rows) == events
    assert (events, found.checksum) == await checksum_of_journal(admin, texts=True)
    assert len({(row["thread_id"], row["seq_nr"]) for row in found.rows}) == events


async def test_an_export_that_was_killed_is_the_journal_in_the_end(
    dsn: str, admin: asyncpg.Connection, folder: Path
) -> None:
    """By kill -9, twice."""
    events = await fill(admin, threads=400, events=20)
    await _killed_again_and_again(dsn, folder, file_events=100, kills=2)
    await _count_and_checksum_are_the_journals(admin, folder, events)


@pytest.mark.soak
async def test_a_million_events_are_exported_though_it_is_killed(
    dsn: str, admin: asyncpg.Connection, folder: Path, tmp_path: Path
) -> None:
    """Killed five times; then once more without a kill, for the time that it takes."""
    events = await fill(admin, threads=50_000, events=20)
    await _killed_again_and_again(dsn, folder, file_events=20_000, kills=5)
    await _count_and_checksum_are_the_journals(admin, folder, events)
    for kind in ("jsonl", "parquet"):
        report = await run(dsn, tmp_path / kind, Options(kind=kind, texts=True))
        size = sum(line["bytes"] for line in read_export(tmp_path / kind).files)
        print(kind, *report.lines(), f"{size / 1e6:.0f} MB, longest transaction {report.longest_transaction_seconds} s")
        assert report.longest_transaction_seconds <= 1.0


async def _exported_beside_a_worker(dsn: str, folder: Path, *, clients: int, runs: int) -> None:
    async with worker_alone(dsn, folder.parent.parent, shards=SHARDS) as worker:
        stop, recorder = asyncio.Event(), Recorder(seed=5, clients=clients)
        driving = asyncio.create_task(drive(worker.url, clients=clients, until=stop, seed=5, recorder=recorder))
        for _ in range(runs):
            await more_acknowledged(recorder, 40)
            report = await run(dsn, folder, Options(texts=True, file_events=50))
            assert (report.stops, report.behind) == ((), ())
        stop.set()
        record = await driving
    assert record.surprises == ()
    await run(dsn, folder)


async def test_an_export_beside_a_busy_worker_has_no_gap(dsn: str, admin: asyncpg.Connection, folder: Path) -> None:
    """Runs one after another while clients chat; at the end it is the journal."""
    await _exported_beside_a_worker(dsn, folder, clients=4, runs=4)
    await assert_complete(admin, folder)


async def test_two_exports_do_not_share_a_folder(dsn: str, pen: JournalWriter, folder: Path) -> None:
    """The second one is refused, as long as the first runs."""
    await pen.write(new_thread(SHARD), created())
    await run(dsn, folder)
    held = os.open(folder / ".lock", os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(ExportRefused, match="another export is writing to"):
        await run(dsn, folder)
    os.close(held)
    await run(dsn, folder)


async def test_a_gap_is_named_and_not_passed(
    dsn: str, admin: asyncpg.Connection, pen: JournalWriter, folder: Path
) -> None:
    """The events before it are exported, and the other shards."""
    await pen.write(new_thread(SHARD), created(), posted(), posted(), posted())
    await pen.write(new_thread(0), created())
    await admin.execute("DELETE FROM journal WHERE shard_id = $1 AND shard_seq = 3", SHARD)
    for _ in range(2):
        report = await run(dsn, folder)
        (stop,) = report.stops
        assert (stop.shard, stop.reason, stop.shard_seq) == (SHARD, Reason.GAP, 3)
        assert "goes on to 4" in stop.line()
        found = read_export(folder)
        assert [row["shard_seq"] for row in found.of(SHARD)] == [1, 2]
        assert len(found.of(0)) == 1


@pytest.mark.parametrize(
    "damage", ["payload = '{'", "event_type = 99", "event_version = 2"], ids=["damaged", "type", "version"]
)
@pytest.mark.parametrize("texts", [True, False], ids=["texts", "no-texts"])
async def test_an_event_that_cannot_be_read_stops_its_shard_until_it_is_passed(
    dsn: str, admin: asyncpg.Connection, pen: JournalWriter, folder: Path, damage: str, texts: bool
) -> None:
    """It is named with its thread; passed, it is a row without what only its payload says."""
    thread, options = new_thread(SHARD), Options(texts=texts)
    await pen.write(thread, created(), posted(), posted())
    await admin.execute(f"UPDATE journal SET {damage} WHERE shard_id = {SHARD} AND shard_seq = 2")
    report = await run(dsn, folder, options)
    (stop,) = report.stops
    assert (stop.reason, stop.shard_seq) == (Reason.UNDECODABLE, 2)
    assert f"event 2 of thread {thread}" in stop.line()
    assert len(read_export(folder).rows) == 1
    report = await run(dsn, folder, Options(pass_undecodable=True))
    assert (report.stops, report.undecodable, report.events) == ((), 1, 3)
    found = read_export(folder)
    assert (found.rows[1]["at"], found.rows[1]["account_id"]) == (None, None)
    assert (3, found.checksum) == await checksum_of_journal(admin, texts=texts)
    assert "1 of them not readable" in list(report.lines())[-1]


async def lose(admin: asyncpg.Connection, pen: JournalWriter, shard: int, behind: int) -> None:
    """As after a fail-over: events behind a number are gone, the history is another, the epochs are far beyond."""
    await admin.execute("DELETE FROM journal WHERE shard_id = $1 AND shard_seq > $2", shard, behind)
    await admin.execute("UPDATE meta SET timeline = coalesce(timeline, 1) + 1, generation = 'later'")
    pen._heads[shard] = behind
    pen._epochs[shard] += 1_000_000


@pytest.mark.parametrize("again", [0, 1, 3, 9], ids=["shorter", "shorter-still", "as-long", "longer"])
async def test_events_that_a_fail_over_lost_are_noticed(
    dsn: str, admin: asyncpg.Connection, pen: JournalWriter, folder: Path, again: int
) -> None:
    """The shard stops and says which files hold them; once those are taken back it goes on, and the others go on at once."""
    thread = new_thread(SHARD)
    await pen.write(thread, created(), *[posted() for _ in range(5)])
    await pen.write(new_thread(0), created())
    await run(dsn, folder, Options(texts=True, file_events=2))
    await lose(admin, pen, SHARD, 3)
    pen._last[ulid_uuid(thread)] = 3
    if again:
        await pen.write(thread, *[posted() for _ in range(again)])
    await pen.write(new_thread(0), created())
    for _ in range(2):
        report = await run(dsn, folder)
        (stop,) = report.stops
        assert (stop.shard, stop.reason, stop.shard_seq) == (SHARD, Reason.LOST, 6)
        assert "some from number 3 on" in stop.line()
        assert f"shard-{SHARD:04}/000000000003-000000000004.jsonl" in stop.line()
    before = {path: path.read_bytes() for path in folder.glob("shard-*/*")}
    report = await run(dsn, folder, Options(take_back=True))
    assert report.stops == ()
    found = await assert_complete(admin, folder)
    (back,) = [line for line in found.lines if line["kind"] == "taken-back"]
    assert (back["shard"], back["first"], len(back["files"]), back["generation"]) == (SHARD, 3, 2, "later")
    assert {path: path.read_bytes() for path in before} == before
    assert [line["file"] for line in found.files if line["shard"] == SHARD][1].endswith(".r1.jsonl")
    assert (await run(dsn, folder)).new_files == 0


async def test_all_of_a_shard_may_be_lost(
    dsn: str, admin: asyncpg.Connection, pen: JournalWriter, folder: Path
) -> None:
    """And lost again: files of each time have names of their own."""
    await pen.write(new_thread(SHARD), created(), posted())
    await run(dsn, folder)
    for times in (1, 2):
        await lose(admin, pen, SHARD, 0)
        if times == 2:
            await run(dsn, folder, Options(take_back=True))
            assert read_export(folder).rows == []
        await pen.write(new_thread(SHARD), created(), posted())
        assert len((await run(dsn, folder)).stops) == (times == 1)
        assert (await run(dsn, folder, Options(take_back=True))).stops == ()
        found = await assert_complete(admin, folder)
        assert [line["file"].endswith(f".r{times}.jsonl") for line in found.files] == [True]


async def test_a_fail_over_that_lost_nothing_is_no_reason_to_stop(
    dsn: str, admin: asyncpg.Connection, pen: JournalWriter, folder: Path
) -> None:
    """The next lines name the new history."""
    thread = new_thread(SHARD)
    await pen.write(thread, created(), posted())
    await run(dsn, folder)
    await lose(admin, pen, SHARD, 2)
    await pen.write(thread, posted())
    assert (await run(dsn, folder)).stops == ()
    found = await assert_complete(admin, folder)
    assert [line["generation"] for line in found.files][-1] == "later"


async def test_storage_that_was_set_back_is_noticed_without_a_new_history(
    dsn: str, admin: asyncpg.Connection, pen: JournalWriter, folder: Path
) -> None:
    """A restored copy of the disk has the same timeline, and its epochs may come again: the command's id tells."""
    thread = new_thread(SHARD)
    await pen.write(thread, created(), posted())
    await run(dsn, folder)
    await admin.execute("DELETE FROM journal WHERE shard_seq = 2")
    pen._heads[SHARD], pen._last[ulid_uuid(thread)] = 1, 1
    await pen.write(thread, posted())
    assert [stop.reason for stop in (await run(dsn, folder)).stops] == [Reason.LOST]


async def test_an_old_primary_is_refused(dsn: str, admin: asyncpg.Connection, pen: JournalWriter, folder: Path) -> None:
    """One that goes on after a fail-over has events that the new one lacks."""
    await pen.write(new_thread(SHARD), created())
    await admin.execute("UPDATE meta SET timeline = 3, generation = 'b'")
    await run(dsn, folder)
    await admin.execute("UPDATE meta SET timeline = 3, generation = 'a'")
    with pytest.raises(DatabaseSuperseded, match=r"timeline 3 \(a\), and the export was read from timeline 3 \(b\)"):
        await run(dsn, folder)


async def test_a_standby_that_is_behind_is_no_loss(
    dsn: str, admin: asyncpg.Connection, pen: JournalWriter, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report names the shard, which waits."""
    await pen.write(new_thread(SHARD), created(), posted())
    await run(dsn, folder)
    await admin.execute("DELETE FROM journal WHERE shard_seq = 2")
    origin = EventSource.origin

    async def of_a_standby(source: EventSource) -> Origin:
        return (await origin(source))._replace(standby=True)

    monkeypatch.setattr(EventSource, "origin", of_a_standby)
    report = await run(dsn, folder)
    assert (report.stops, report.behind) == ((), (SHARD,))
    assert next(report.lines()).startswith("behind: this standby lacks events of shards 3 ")


async def test_a_line_that_was_cut_off_was_never_there(
    dsn: str, admin: asyncpg.Connection, pen: JournalWriter, folder: Path
) -> None:
    """Its file is exported again."""
    await pen.write(new_thread(SHARD), created(), posted(), posted())
    await run(dsn, folder, Options(texts=True, file_events=2))
    manifest = folder / "manifest.jsonl"
    for cut in (1, 40):
        raw = manifest.read_bytes()
        manifest.write_bytes(raw[:-cut])
        assert (await run(dsn, folder)).new_events == 1
        await assert_complete(admin, folder)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        ("echo junk >> manifest.jsonl", "line 4 is none of an export"),
        ("tail -n 1 manifest.jsonl > m; mv m manifest.jsonl", "line 1 is not where an export writes it"),
        ("head -n 1 manifest.jsonl >> manifest.jsonl", "line 4 is not where an export writes it"),
        ("rm manifest.jsonl", "holds 'shard-0003' and no manifest.jsonl: name an empty folder"),
        ("sed -i 's/\"test\"/\"other\"/' manifest.jsonl", "is an export of cluster other, not test: name another folder"),
        ("sed -i 's/\"format\":1/\"format\":2/' manifest.jsonl", "is an export of format 2, this release writes 1"),
    ],
)  # fmt: skip
async def test_a_folder_that_is_another_is_refused(
    dsn: str, pen: JournalWriter, folder: Path, spoil: str, sentence: str
) -> None:
    """Nothing in it is touched."""
    await pen.write(new_thread(SHARD), created(), posted())
    await run(dsn, folder, Options(texts=True, file_events=1))
    process = await asyncio.create_subprocess_shell(spoil, cwd=folder)
    await process.wait()
    with pytest.raises(ExportRefused, match=sentence):
        await run(dsn, folder)
    assert len(list(folder.glob("shard-*/*"))) == 2


async def test_what_an_export_is_does_not_change(dsn: str, pen: JournalWriter, folder: Path) -> None:
    """Its kind of files, and whether they hold texts."""
    await pen.write(new_thread(SHARD), created())
    await run(dsn, folder)
    with pytest.raises(ExportRefused, match="with --texts True, not False"):
        await run(dsn, folder, Options(texts=False))
    with pytest.raises(ExportRefused, match="of files of kind jsonl, not parquet"):
        await run(dsn, folder, Options(kind="parquet"))


async def test_parquet_without_its_package_says_what_to_install(
    dsn: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And begins nothing."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ExportRefused, match=r"pip install 'threadcluster\[parquet\]'"):
        await run(dsn, folder, Options(kind="parquet"))
    assert not folder.exists()


async def test_a_database_of_an_older_schema_is_refused(dsn: str, admin: asyncpg.Connection, folder: Path) -> None:
    """With the command that brings it to this one."""
    await admin.execute("DELETE FROM schema_migration WHERE version = (SELECT max(version) FROM schema_migration)")
    with pytest.raises(DatabaseUnsuitable, match="run `shard-worker migrate`"):
        await run(dsn, folder)
    await admin.execute("DROP VIEW journal_event, journal_event_text; DROP TABLE schema_migration")
    with pytest.raises(DatabaseUnsuitable, match="run `shard-worker migrate`"):
        await run(dsn, folder)


async def test_what_the_login_lacks_is_named(dsn: str, admin: asyncpg.Connection, folder: Path, tmp_path: Path) -> None:
    """The role for all, the right for the texts."""
    await admin.execute(
        "DO $$ BEGIN CREATE ROLE an_exporter LOGIN PASSWORD 'it'; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    theirs = f"postgresql://an_exporter:it@{dsn.rpartition('@')[2]}"
    await admin.execute("REVOKE threadcluster_reader FROM an_exporter")
    with pytest.raises(DatabaseUnsuitable, match="GRANT threadcluster_reader TO this login"):
        await run(theirs, folder, Options())
    await admin.execute("GRANT threadcluster_reader TO an_exporter")
    await run(theirs, folder, Options())
    with pytest.raises(DatabaseUnsuitable, match="GRANT SELECT ON journal_event_text TO this login, or leave --texts"):
        await run(theirs, tmp_path / "texts", TEXTS)
    await admin.execute("GRANT SELECT ON journal_event_text TO an_exporter")
    await run(theirs, tmp_path / "texts", TEXTS)


async def test_progress_is_reported_every_two_seconds(
    dsn: str, admin: asyncpg.Connection, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here all the time."""
    monkeypatch.setattr(export_run, "_SAY_EVERY_S", 0.0)
    await fill(admin, threads=20, events=10)
    sentences: list[str] = []
    await export(dsn, folder, Options(), progress=sentences.append)
    assert sentences[-1].startswith("200 of about 200 events exported, ")


async def command(*words: str) -> tuple[int, str, str]:
    """The exit code, standard output and standard error of the command."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shard_worker.main", "export", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_the_command_says_what_it_did_by_its_exit_code_too(
    dsn: str, admin: asyncpg.Connection, pen: JournalWriter, folder: Path
) -> None:
    """0 all, 1 a shard stopped, 2 wrong options, 3 not done."""
    await pen.write(new_thread(SHARD), created(), posted(), posted())
    code, out, err = await command("--dsn", dsn, str(folder))
    assert (code, err) == (0, "")
    assert out.startswith("cluster test: 3 events exported in 1 files in ")
    code, out, _ = await command("--dsn", dsn, str(folder), "-o", "json")
    assert (code, json.loads(out)["events"], json.loads(out)["stops"]) == (0, 3, [])
    await admin.execute("DELETE FROM journal WHERE shard_seq = 3")
    code, out, _ = await command("--dsn", dsn, str(folder))
    assert (code, out.split(":")[0]) == (1, "lost")
    assert (await command("--dsn", dsn, str(folder), "--files", "csv"))[0] == 2
    code, out, err = await command("--dsn", "postgresql://user:hush@127.0.0.1:1/nothing", str(folder))
    assert (code, out) == (3, "")
    assert "no Postgres at 127.0.0.1:1" in err
    assert "hush" not in err
    assert (await command("--dsn", dsn, "/dev/null/events"))[0] == 3
