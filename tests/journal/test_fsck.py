"""`fsck` on a real Postgres: a sound journal passes, and each kind of damage is found and named."""

import json
from typing import Any

import asyncpg
import pytest
from threadcluster_operator.local.postgres import EmbeddedPostgres

from shard_worker.database.connection import DatabaseUnreachable, DatabaseUnsuitable
from shard_worker.domain.ids import ulid_uuid
from shard_worker.journal import short_reads
from shard_worker.journal.fsck import pages
from shard_worker.journal.fsck import run as fsck_module
from shard_worker.journal.fsck.report import Check
from shard_worker.journal.fsck.run import fsck
from tests.journal.sound_journal import KEY, SHARD, Sound, the_one
from tests.support.journal_writer import JournalWriter, created, folded, new_thread, posted


async def test_a_sound_journal_is_clean(sound: Sound) -> None:
    """Several epochs, releases, keys, snapshots and every type of event: nothing is found, and all is counted."""
    report = await sound.report()
    assert report.clean, list(report.lines())
    assert (report.events, report.threads, report.snapshots_compared) == (29, 10, 1)
    assert json.loads(report.to_json())["clean"] is True


async def test_an_empty_journal_is_clean(dsn: str) -> None:
    """A cluster without messages."""
    report = await fsck(dsn, progress=lambda _: None)
    assert report.clean
    assert report.events == 0


async def test_a_claim_whose_head_is_not_yet_recorded_is_no_finding(sound: Sound) -> None:
    """Between a claim and its record of the head, and after an owner's own raise, ``from_seq`` is null."""
    await sound.damage("UPDATE shard_epoch SET from_seq = NULL")
    assert await sound.findings() == []


async def test_a_snapshot_of_another_version_is_ignored(sound: Sound) -> None:
    """Readers throw it away, so there is nothing to compare."""
    await sound.damage("UPDATE snapshot SET state_version = 99, state = 'whatever'")
    report = await sound.report()
    assert report.clean
    assert (report.snapshots_compared, report.snapshots_ignored) == (0, 1)


async def test_a_missing_event_leaves_a_hole_in_its_shard_and_in_its_thread(sound: Sound) -> None:
    """The hole is named by both numbers."""
    await sound.damage("DELETE FROM journal WHERE shard_id = 3 AND shard_seq = 2")
    in_shard, in_thread = await sound.findings()
    assert (in_shard.check, in_shard.shard_id, in_shard.shard_seq) == (Check.SHARD_SEQ, SHARD, 2)
    assert (in_thread.check, in_thread.thread_id, in_thread.seq_nr) == (Check.THREAD_SEQ, sound.uuid, 2)
    assert sound.thread in in_thread.line()


async def test_a_lost_tail_is_found_though_nothing_is_missing_in_between(sound: Sound) -> None:
    """The claim that followed saw the journal reach further."""
    await sound.damage("DELETE FROM journal WHERE shard_id = 3 AND shard_seq >= 12")
    await sound.damage("DELETE FROM snapshot")
    finding = the_one(await sound.findings(), Check.SHARD_SEQ)
    assert (finding.shard_id, finding.epoch) == (SHARD, 4)
    assert "ends at 11" in finding.detail


async def test_a_repeated_shard_sequence_number_is_found(sound: Sound) -> None:
    """Two owners at once would have used it both."""
    await sound.damage("UPDATE journal SET shard_seq = 11 WHERE shard_id = 3 AND shard_seq = 12")
    found = {(finding.check, finding.shard_seq) for finding in await sound.findings()}
    assert (Check.SHARD_SEQ, 11) in found
    assert (Check.SHARD_SEQ, 12) in found


async def test_a_repeated_thread_sequence_number_is_found(sound: Sound) -> None:
    """Its thread is named, and its shard's order is not blamed."""
    await sound.damage("UPDATE journal SET seq_nr = 4 WHERE shard_id = 3 AND shard_seq = 13")
    await sound.damage("DELETE FROM snapshot")
    finding = the_one(await sound.findings(), Check.THREAD_SEQ)
    assert (finding.seq_nr, finding.detail) == (4, "the number occurs twice")


async def test_a_thread_that_runs_against_its_shard_is_found(sound: Sound) -> None:
    """Event 5 before event 4 in the shard: two writers, or a lie."""
    await sound.damage(
        "UPDATE journal SET seq_nr = CASE seq_nr WHEN 4 THEN 3 ELSE 4 END WHERE shard_id = 3 AND shard_seq IN (11, 12)"
    )
    await sound.damage("DELETE FROM snapshot")
    finding = the_one(await sound.findings(), Check.THREAD_SEQ)
    assert finding.seq_nr == 4


async def test_a_thread_on_the_wrong_shard_is_found(sound: Sound) -> None:
    """Its slice says where it belongs."""
    stranger = new_thread(5)
    await sound.damage("UPDATE journal SET thread_id = $1 WHERE thread_id = $2", ulid_uuid(stranger), sound.uuid)
    await sound.damage("DELETE FROM snapshot")
    finding = the_one(await sound.findings(), Check.PLACE)
    assert (finding.shard_id, finding.detail) == (SHARD, "the thread belongs to shard 5")


async def test_an_epoch_that_falls_is_found(sound: Sound) -> None:
    """An event of epoch 1 behind one of epoch 2: a zombie wrote."""
    await sound.damage("UPDATE journal SET epoch = 1 WHERE shard_id = 3 AND shard_seq = 12")
    found = {(finding.check, finding.shard_seq, finding.epoch) for finding in await sound.findings()}
    assert found == {(Check.EPOCH, 12, 1), (Check.CLAIM, 12, 1)}


async def test_events_of_an_unclaimed_epoch_are_found(sound: Sound) -> None:
    """Once an epoch, at its first event."""
    await sound.damage("DELETE FROM shard_epoch WHERE shard_id = 3 AND epoch = 2")
    finding = the_one(await sound.findings(), Check.CLAIM)
    assert (finding.shard_id, finding.shard_seq, finding.epoch) == (SHARD, 11, 2)


async def test_events_of_an_epoch_without_an_owner_are_found(sound: Sound) -> None:
    """A release raises the epoch too; no worker may write in it."""
    await sound.damage("UPDATE shard_epoch SET incarnation = NULL, worker = NULL WHERE shard_id = 3 AND epoch = 2")
    assert the_one(await sound.findings(), Check.CLAIM).epoch == 2


async def test_an_epoch_claimed_twice_is_found(sound: Sound) -> None:
    """Two owners an epoch is what the fence is for."""
    await sound.damage(
        "INSERT INTO shard_epoch (shard_id, epoch, worker, incarnation) VALUES (3, 2, 'other', 'another incarnation')"
    )
    finding = the_one(await sound.findings(), Check.CLAIM)
    assert (finding.shard_id, finding.epoch, finding.detail) == (SHARD, 2, "the epoch was claimed twice")


async def test_an_event_below_its_own_claim_is_found(sound: Sound) -> None:
    """The owner read head 11, so its first event cannot be 11."""
    await sound.damage("UPDATE shard_epoch SET from_seq = 12 WHERE shard_id = 3 AND epoch = 2")
    assert the_one(await sound.findings(), Check.CLAIM).shard_seq == 11


async def test_an_event_of_an_old_epoch_above_the_next_claim_is_found(sound: Sound) -> None:
    """The new owner read head 11, so the old one wrote 12 after it had lost the shard."""
    await sound.damage("UPDATE shard_epoch SET from_seq = 12 WHERE shard_id = 3 AND epoch = 4")
    finding = the_one(await sound.findings(), Check.CLAIM)
    assert (finding.shard_seq, finding.epoch) == (12, 2)


async def test_a_shard_row_behind_its_own_events_is_found(sound: Sound) -> None:
    """The fence would let an old owner in."""
    await sound.damage("UPDATE shard SET epoch = 1 WHERE id = 3")
    assert the_one(await sound.findings(), Check.SHARD_ROW).shard_id == SHARD


async def test_a_shard_without_a_row_is_found_also_when_it_holds_nothing(dsn: str) -> None:
    """No fence, no append: no worker could ever write to the shard."""
    admin = await asyncpg.connect(dsn)
    await Sound(dsn, admin, JournalWriter(admin), new_thread()).damage("DELETE FROM shard WHERE id = 7")
    await admin.close()
    finding = the_one(list((await fsck(dsn, progress=lambda _: None)).findings), Check.SHARD_ROW)
    assert finding.shard_id == 7


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("payload = '{'", "MessagesAdded version 1"),
        ("payload = '{}'", "MessagesAdded version 1"),
        ("payload = '\\xff'", "MessagesAdded version 1"),
        ("event_type = 99", "event type 99 is unknown"),
        ("event_version = 77", "version 77 is unknown"),
        ("metadata = '[1]'", "the metadata is no JSON object"),
        ("metadata = '\\xff'", "the metadata is no JSON object"),
    ],
    ids=["cut-off", "fields-missing", "not-utf8", "unknown-type", "unknown-version", "metadata-list", "metadata-bytes"],
)
async def test_an_event_that_does_not_decode_is_found(sound: Sound, change: str, says: str) -> None:
    """Only that one is named: what follows it is not called illegal for its sake."""
    await sound.damage(f"UPDATE journal SET {change} WHERE shard_id = 3 AND shard_seq = 11")
    finding = the_one(await sound.findings(), Check.PAYLOAD)
    assert (finding.thread_id, finding.seq_nr) == (sound.uuid, 3)
    assert says in finding.detail


async def test_a_finding_shows_no_message_text(sound: Sound) -> None:
    """A report can be passed on."""
    payload = b'{"senderId": "x", "messages": "the secret text", "at": 1, "createAt": 1}'
    await sound.damage("UPDATE journal SET payload = $1 WHERE shard_id = 3 AND shard_seq = 11", payload)
    assert "secret" not in (await sound.report()).to_json()


async def test_half_a_key_is_found(sound: Sound) -> None:
    """A key without its body's hash could never tell a retry from a reuse."""
    await sound.damage("UPDATE journal SET body_hash = NULL WHERE key_hash IS NOT NULL")
    finding = the_one(await sound.findings(), Check.KEY)
    assert (finding.seq_nr, finding.thread_id) == (2, sound.uuid)


async def test_a_key_of_the_wrong_length_is_found(sound: Sound) -> None:
    """Keys and body hashes are sixteen bytes."""
    await sound.damage("UPDATE journal SET key_hash = 'short' WHERE key_hash IS NOT NULL")
    assert "5 bytes" in the_one(await sound.findings(), Check.KEY).detail


async def test_a_repeated_key_in_a_thread_is_found(sound: Sound) -> None:
    """One command with a key was stored twice."""
    await sound.damage(
        "UPDATE journal SET key_hash = $1, body_hash = $1 WHERE shard_id = 3 AND shard_seq IN (11, 13)", KEY
    )
    finding = the_one(await sound.findings(), Check.KEY)
    assert (finding.thread_id, finding.detail) == (sound.uuid, "the same idempotency key is on events 2, 3, 5")


async def test_a_command_that_was_stored_twice_is_found(sound: Sound) -> None:
    """Also without a key: the gateway's id of the command says so."""
    metadata = b'{"commandId":"0123456789abcdef0123456789abcdef"}'
    await sound.damage("UPDATE journal SET metadata = $1 WHERE shard_id = 3 AND shard_seq IN (11, 12)", metadata)
    assert the_one(await sound.findings(), Check.COMMAND).detail == "the same command stored events 3, 4"


async def test_a_snapshot_that_is_not_the_fold_is_found_with_the_fields_that_differ(sound: Sound) -> None:
    """The snapshot that a reader would serve differs from the events."""
    other = folded([created(), posted(), posted(), posted()])
    other.title = "another title"
    await sound.damage("DELETE FROM snapshot")
    await sound.pen.snapshot(sound.thread, other)
    finding = the_one(await sound.findings(), Check.SNAPSHOT)
    assert finding.seq_nr == 4
    assert "title" in finding.detail
    assert "another title" not in finding.detail


async def test_a_snapshot_that_does_not_decode_is_found(sound: Sound) -> None:
    """A reader would discard it, but a worker wrote it."""
    await sound.damage("UPDATE snapshot SET state = 'nonsense'")
    assert "does not decode" in the_one(await sound.findings(), Check.SNAPSHOT).detail


async def test_a_snapshot_ahead_of_the_journal_is_found(sound: Sound) -> None:
    """It shows events that are not there."""
    await sound.damage("UPDATE snapshot SET seq_nr = 99")
    finding = the_one(await sound.findings(), Check.SNAPSHOT)
    assert (finding.seq_nr, finding.thread_id) == (99, sound.uuid)
    assert "the last is 5" in finding.detail


async def test_a_snapshot_of_a_thread_without_events_is_found(sound: Sound) -> None:
    """The thread has no creation."""
    await sound.pen.snapshot(new_thread(), folded([created()]))
    assert the_one(await sound.findings(), Check.SNAPSHOT).detail == "of a thread without events"


async def test_two_damages_are_two_lines(sound: Sound) -> None:
    """Each finding is a line of its own, and the summary counts them."""
    await sound.damage("UPDATE journal SET payload = '{' WHERE shard_id = 3 AND shard_seq = 11")
    await sound.damage("UPDATE shard SET epoch = 1 WHERE id = 3")
    lines = list((await sound.report()).lines())
    assert len(lines) == 3
    assert lines[-1].endswith("2 findings")


async def test_the_journal_may_grow_while_it_is_checked(sound: Sound, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard is checked up to the head that it had when its turn came; what commits later is not looked at."""
    histories = fsck_module._Run._check_histories
    grown = 0

    async def append_first(run: fsck_module._Run, shard_id: int, *rest: Any) -> None:
        nonlocal grown
        if shard_id == SHARD:
            await sound.pen.write(sound.thread, posted(), key=b"n" * 16)
            await sound.pen.claim(SHARD)
            await sound.pen.write(new_thread(SHARD), created(), posted())
            await sound.pen.snapshot(sound.thread, folded([created(), *[posted()] * 5]))
            grown += 1
        await histories(run, shard_id, *rest)

    await sound.admin.execute("DELETE FROM snapshot")
    monkeypatch.setattr(fsck_module._Run, "_check_histories", append_first)
    report = await sound.report()
    assert report.clean, list(report.lines())
    assert (report.events, report.threads, grown) == (29, 10, 1)


async def test_no_transaction_is_held_between_pages(sound: Sound, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else vacuum could remove nothing for as long as the check takes."""
    held: list[int] = []
    fetch = pages.Pages.fetch

    async def watched(asked: pages.Pages, sql: str, *parameters: object) -> list[asyncpg.Record]:
        rows = await fetch(asked, sql, *parameters)
        held.append(
            await sound.admin.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'threadcluster-fsck'"
                " AND (state <> 'idle' OR backend_xmin IS NOT NULL)"
            )
        )
        return rows

    monkeypatch.setattr(pages.Pages, "fetch", watched)
    assert (await sound.report()).clean
    assert len(held) > 30
    assert set(held) == {0}


async def test_a_long_check_says_how_far_it_is(sound: Sound, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time the interval has passed; here the interval is nothing."""
    monkeypatch.setattr(fsck_module, "_SAY_EVERY_S", 0.0)
    progress_lines: list[str] = []
    await fsck(sound.dsn, progress=progress_lines.append)
    assert any(sentence.startswith("order: 29 events read") for sentence in progress_lines), progress_lines
    assert any(sentence.startswith("histories: 29 events read") for sentence in progress_lines), progress_lines


async def test_a_quick_check_says_nothing(sound: Sound) -> None:
    """Progress is for those who wait."""
    progress_lines: list[str] = []
    await fsck(sound.dsn, progress=progress_lines.append)
    assert progress_lines == []


async def test_rows_of_any_size_come_in_pages(sound: Sound, monkeypatch: pytest.MonkeyPatch) -> None:
    """With pages of one row everything is found that is found with two thousand."""
    monkeypatch.setattr(pages, "FIRST_ROWS", 1)
    monkeypatch.setattr(pages, "PAGE_BYTES", 1)
    monkeypatch.setattr(short_reads, "_PAGE_ROWS", 1)
    assert (await sound.report()).clean
    await sound.damage("DELETE FROM journal WHERE shard_id = 3 AND shard_seq = 2")
    assert [finding.check for finding in await sound.findings()] == [Check.SHARD_SEQ, Check.THREAD_SEQ]


async def test_an_event_that_cannot_follow_is_found(sound: Sound) -> None:
    """Each is named, and the thread's later events are not called illegal for its sake."""
    await sound.pen.write(sound.thread, created(), posted())
    creation, *rest = await sound.findings()
    assert (creation.check, creation.seq_nr) == (Check.HISTORY, 6)
    assert {finding.seq_nr for finding in rest} == {6}


async def test_a_database_without_a_schema_is_refused_by_name(postgres: EmbeddedPostgres) -> None:
    """Nothing to check is not the same as clean."""
    with pytest.raises(DatabaseUnsuitable, match="no schema"):
        await fsck(postgres.dsn_of("postgres"), progress=lambda _: None)


async def test_no_database_is_an_error_not_a_clean_report() -> None:
    """No server listens at port 1."""
    with pytest.raises(DatabaseUnreachable):
        await fsck("postgresql://user:x@127.0.0.1:1/nothing", progress=lambda _: None)
