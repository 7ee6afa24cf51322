"""An alarm exactly when something that this worker knows to be durable is not in the journal."""

import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest

from shard_worker.database.connection import Database
from shard_worker.domain.ids import ShardId
from shard_worker.journal.append_queue import AppendQueue, Row
from shard_worker.journal.heads import AcknowledgedHeads

SHARD, OTHER = ShardId(0), ShardId(1)


class Host:
    """The shard behind a stream; nothing of it is asked here."""

    def suspended(self) -> None: ...

    def resumed(self) -> None: ...

    def stored(self, rows: list[Row], xid: int | None) -> None: ...

    def on_ownership_lost(self, in_flight: list[Row]) -> None: ...


class Heads:
    """The check under test, and what it dropped."""

    def __init__(self) -> None:
        self.dropped: list[ShardId] = []
        self.check = AcknowledgedHeads(on_lost=self.dropped.append)

    def stream(self, shard_id: ShardId, head: int, epoch: int = 1) -> AppendQueue:
        """A watched stream at this head."""
        stream = AppendQueue(shard_id, epoch, head, Host(), lambda _: None)
        self.check.watch(stream)
        return stream


@pytest.fixture
def heads() -> Heads:
    """A check that watches nothing yet."""
    return Heads()


@pytest.fixture
async def admin(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A plain connection."""
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


async def write(admin: asyncpg.Connection, shard_id: ShardId, first: int, last: int) -> None:
    """Events ``first`` to ``last`` of a shard, of one thread."""
    await admin.execute(
        "INSERT INTO journal (shard_id, shard_seq, thread_id, seq_nr, event_type, event_version, payload, metadata, epoch)"
        " SELECT $1, n, $4, n, 1, 1, '', '', 1 FROM generate_series($2::int, $3::int) n",
        shard_id,
        first,
        last,
        uuid.UUID(int=shard_id),
    )


async def fail_over(admin: asyncpg.Connection, shard_id: ShardId, epoch: int, ended_at: int) -> None:
    """The row that a fail-over leaves."""
    await admin.execute(
        "INSERT INTO shard_epoch (shard_id, epoch, from_seq, kind) VALUES ($1, $2, $3, 'failover')",
        shard_id,
        epoch,
        ended_at + 1,
    )


async def test_a_head_that_the_journal_has_or_passed_is_no_alarm(heads: Heads, admin: asyncpg.Connection) -> None:
    """Another owner may have appended since."""
    await write(admin, SHARD, 1, 7)
    heads.stream(SHARD, 5)
    heads.stream(OTHER, 0)
    await heads.check.compare(admin)
    assert (heads.dropped, heads.check.lost_events) == ([], 0)


async def test_a_head_above_the_journals_is_an_alarm_with_its_range_once(
    heads: Heads, admin: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Also without a fail-over, as where the storage was set back."""
    await write(admin, SHARD, 1, 5)
    heads.stream(SHARD, 9, epoch=3)
    for _ in range(2):
        await heads.check.compare(admin)
    found = [record for record in caplog.records if record.message == "acknowledged-lost"]
    assert [(line.shard, line.epoch, line.from_seq, line.to_seq, line.alarm) for line in found] == [  # type: ignore[attr-defined]
        (SHARD, 3, 6, 9, True)
    ]
    assert (heads.dropped, heads.check.lost_events) == ([SHARD], 4)


async def test_a_lost_range_that_was_written_over_since_is_an_alarm(heads: Heads, admin: asyncpg.Connection) -> None:
    """The head alone looks well again; where the journal ended at the fail-over tells."""
    await write(admin, SHARD, 1, 20)
    await fail_over(admin, SHARD, 1_000_001, ended_at=5)
    heads.stream(SHARD, 9)
    await heads.check.compare(admin)
    assert heads.check.lost_events == 4


async def test_of_several_fail_overs_the_one_that_lost_most_counts(heads: Heads, admin: asyncpg.Connection) -> None:
    """A worker may have been away for all of them."""
    await write(admin, SHARD, 1, 20)
    await fail_over(admin, SHARD, 1_000_001, ended_at=8)
    await fail_over(admin, SHARD, 2_000_001, ended_at=6)
    heads.stream(SHARD, 9)
    await heads.check.compare(admin)
    assert heads.check.lost_events == 3


async def test_a_fail_over_of_before_the_stream_was_opened_says_nothing_of_it(
    heads: Heads, admin: asyncpg.Connection
) -> None:
    """Its rows were acknowledged on the later history."""
    await write(admin, SHARD, 1, 9)
    await fail_over(admin, SHARD, 1_000_001, ended_at=5)
    heads.stream(SHARD, 9, epoch=1_000_002)
    await heads.check.compare(admin)
    assert heads.check.lost_events == 0


async def test_a_stream_is_watched_beyond_its_end(heads: Heads, admin: asyncpg.Connection) -> None:
    """A fail-over closes all streams before the comparison; what was acknowledged meanwhile counts too."""
    await write(admin, SHARD, 1, 5)
    stream = heads.stream(SHARD, 5)
    stream.close()
    stream.head = 6
    await heads.check.compare(admin)
    assert heads.check.lost_events == 1


async def test_only_sessions_that_append_or_keep_ownership_compare(
    heads: Heads, dsn: str, admin: asyncpg.Connection
) -> None:
    """And each of those does, before it is used."""
    await write(admin, SHARD, 1, 5)
    connect = heads.check.compared(Database(dsn, application_name=lambda: "me").connect)
    for purpose, compares in (
        ("append-outcome", False),
        ("desk", False),
        ("lease", True),
        ("reconciler", True),
        ("append-0", True),
    ):
        heads.stream(SHARD, 6)
        before = heads.check.lost_events
        (await connect(purpose)).terminate()
        assert (heads.check.lost_events > before) is compares, purpose
