"""`fsck --since`: what an earlier check proved is not read again, and nothing new goes by unseen."""

import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from shard_worker.database.connection import DatabaseUnsuitable
from shard_worker.journal.fsck import run as fsck_module
from shard_worker.journal.fsck.pages import Pages
from shard_worker.journal.fsck.report import Check, Report
from shard_worker.journal.fsck.run import fsck
from tests.journal.sound_journal import KEY, SHARD, Sound, the_one
from tests.support.journal_writer import SHARDS, JournalWriter, created, new_thread, posted


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where positions are kept; not there yet."""
    return tmp_path / "position.json"


async def check(sound: Sound, file: Path) -> Report:
    """One check that goes on from the last."""
    return await fsck(sound.dsn, progress=lambda _: None, since=file)


async def test_a_second_check_reads_what_is_new(sound: Sound, file: Path) -> None:
    """And of the threads those that have something new, from the first event on."""
    first = await check(sound, file)
    assert (first.clean, first.events, first.proved_before, first.threads) == (True, 29, 0, 10)
    again = await check(sound, file)
    assert (again.clean, again.events, again.proved_before, again.threads) == (True, 0, 29, 0)
    await sound.pen.write(sound.thread, posted(), posted())
    await sound.pen.write(new_thread(5), created())
    third = await check(sound, file)
    assert (third.clean, third.events, third.proved_before, third.threads) == (True, 3, 29, 2)
    assert "29 events were proved before" in list(third.lines())[-1]
    assert json.loads(third.to_json())["provedBefore"] == 29


async def test_a_check_of_everything_needs_no_file(sound: Sound, file: Path) -> None:
    """And leaves none."""
    assert (await sound.report()).clean
    assert not file.exists()


async def test_damage_to_what_is_new_is_found_again_until_it_is_mended(sound: Sound, file: Path) -> None:
    """Its shard stays where it was proved; the others go on."""
    await check(sound, file)
    await sound.pen.write(sound.thread, posted(), posted())
    await sound.pen.write(new_thread(5), created())
    await sound.damage("UPDATE journal SET epoch = 1 WHERE shard_id = 3 AND shard_seq = 16")
    before = {shard: each["shardSeq"] for shard, each in json.loads(file.read_text())["shards"].items()}
    for _ in range(2):
        report = await check(sound, file)
        assert {finding.check for finding in report.findings} == {Check.EPOCH, Check.CLAIM}
    after = {shard: each["shardSeq"] for shard, each in json.loads(file.read_text())["shards"].items()}
    assert (after["3"], after["5"]) == (before["3"], before["5"] + 1)
    await sound.damage("UPDATE journal SET epoch = 4 WHERE shard_id = 3 AND shard_seq = 16")
    report = await check(sound, file)
    assert (report.clean, report.events) == (True, 2)


async def test_a_thread_with_a_later_event_is_read_whole(sound: Sound, file: Path) -> None:
    """So an idempotency key is known to be the same on both sides of the position, and an old event that no longer decodes is found."""
    await check(sound, file)
    await sound.admin.execute("DROP INDEX journal_key")
    await sound.pen.write(sound.thread, posted(), key=KEY)
    finding = the_one(list((await check(sound, file)).findings), Check.KEY)
    assert finding.detail == "the same idempotency key is on events 2, 6"
    await sound.damage("UPDATE journal SET payload = '{' WHERE shard_id = 3 AND shard_seq = 1")
    assert {finding.check for finding in (await check(sound, file)).findings} == {Check.KEY, Check.PAYLOAD}


async def test_a_thread_without_a_later_event_is_left_to_a_check_of_everything(sound: Sound, file: Path) -> None:
    """As the help says."""
    await check(sound, file)
    await sound.damage("UPDATE journal SET payload = '{' WHERE shard_id = 3 AND shard_seq = 11")
    assert (await check(sound, file)).clean
    assert not (await sound.report()).clean


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM journal WHERE shard_id = 3 AND shard_seq >= 14",
        "UPDATE journal SET thread_id = gen_random_uuid() WHERE shard_id = 3 AND shard_seq = 15",
        "UPDATE journal SET seq_nr = 77 WHERE shard_id = 3 AND shard_seq = 15",
        "UPDATE journal SET epoch = 5 WHERE shard_id = 3 AND shard_seq = 15",
    ],
    ids=["lost-tail", "another-thread", "another-number", "another-epoch"],
)
async def test_a_journal_that_was_set_back_or_rewritten_is_found(sound: Sound, file: Path, change: str) -> None:
    """The last event that was proved must still be there; else the shard is read from its beginning."""
    await check(sound, file)
    assert json.loads(file.read_text())["shards"]["3"]["shardSeq"] == 15
    await sound.damage(change)
    report = await check(sound, file)
    first = report.findings[0]
    assert (first.check, first.shard_id, first.shard_seq) == (Check.SHARD_SEQ, SHARD, 15)
    assert "the event that was proved here is gone, or is another" in first.detail
    assert report.events >= 13


async def test_a_claim_that_began_below_what_was_proved_is_found(sound: Sound, file: Path) -> None:
    """The new owner read a shorter journal: an event that was proved came from an owner that had lost the shard."""
    await check(sound, file)
    await sound.pen.claim(SHARD)
    await sound.damage("UPDATE shard_epoch SET from_seq = 15 WHERE shard_id = 3 AND epoch = 5")
    finding = the_one(list((await check(sound, file)).findings), Check.CLAIM)
    assert (finding.shard_seq, finding.epoch) == (15, 4)


async def test_the_rules_of_a_shards_row_hold_without_new_events(sound: Sound, file: Path) -> None:
    """They are of now, not of a position."""
    await check(sound, file)
    await sound.damage("UPDATE shard SET epoch = 1 WHERE id = 3")
    assert the_one(list((await check(sound, file)).findings), Check.SHARD_ROW).shard_id == SHARD
    await sound.damage("UPDATE shard SET epoch = 4 WHERE id = 3")
    await sound.damage("UPDATE snapshot SET seq_nr = 99")
    assert the_one(list((await check(sound, file)).findings), Check.SNAPSHOT).seq_nr == 99


async def test_a_check_that_was_ended_is_gone_on_with(
    sound: Sound, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is written after each shard."""
    shard = fsck_module._Run._check_shard

    async def ended(run: fsck_module._Run, shard_id: int, *rest: Any) -> Any:
        if shard_id == SHARDS - 1:
            raise KeyboardInterrupt
        return await shard(run, shard_id, *rest)

    run = fsck_module._Run(Pages(sound.admin), lambda _: None)
    with monkeypatch.context() as patch:
        patch.setattr(fsck_module._Run, "_check_shard", ended)
        with pytest.raises(KeyboardInterrupt):
            await run.report(file)
    report = await check(sound, file)
    assert report.clean
    assert report.events == 29 - report.proved_before < 29


async def test_a_file_of_another_cluster_or_no_such_file_is_refused(sound: Sound, file: Path) -> None:
    """It would leave out what was never proved."""
    await check(sound, file)
    document = json.loads(file.read_text())
    file.write_text(json.dumps(document | {"cluster": "other"}))
    with pytest.raises(DatabaseUnsuitable, match="is about cluster 'other', the database belongs to 'test'"):
        await check(sound, file)
    for nonsense in ("", "{", "[]", '{"format": 1}', "\x00\xff"):
        file.write_text(nonsense)
        with pytest.raises(DatabaseUnsuitable, match="is no file that a check has written"):
            await check(sound, file)
    file.write_text(json.dumps(document | {"format": 0}))
    assert (await check(sound, file)).events == 29


async def test_the_position_survives_a_write_that_fails(sound: Sound, file: Path) -> None:
    """It is replaced whole."""
    await check(sound, file)
    before = file.read_text()
    blocker = file.with_name(file.name + ".new")
    blocker.mkdir()
    with pytest.raises(DatabaseUnsuitable, match=r"position\.json cannot be written"):
        await check(sound, file)
    assert file.read_text() == before
    blocker.rmdir()
    assert (await check(sound, file)).clean


async def test_an_empty_journal_has_a_position_too(dsn: str, file: Path) -> None:
    """And what is written later is read from the first event on."""
    admin = await asyncpg.connect(dsn)
    assert (await fsck(dsn, progress=lambda _: None, since=file)).events == 0
    fresh = Sound(dsn, admin, JournalWriter(admin), new_thread(SHARD))
    await fresh.pen.write(fresh.thread, created(), posted())
    assert (await check(fresh, file)).events == 2
    await admin.close()
