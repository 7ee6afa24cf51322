"""A cluster that starts on a long journal: nothing is replayed before it is asked for."""

import time
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from ulid import ULID

from shard_worker.domain.ids import ulid_text
from tests.support.local_cluster import LocalCluster

SHARDS = 16
ME = str(ULID())

_EPOCHS_SQL = """
INSERT INTO shard_epoch (shard_id, epoch, worker, incarnation, from_seq)
SELECT id, epoch + 1, 'seed', 'seed', 1 FROM shard
"""
_RELEASED = "INSERT INTO shard_epoch (shard_id, epoch) SELECT id, epoch + 2 FROM shard"
_EPOCHS = "UPDATE shard SET epoch = epoch + 2"
_THREADS = """
CREATE TEMPORARY TABLE seeded AS
SELECT id, shard_of(id, $1) AS shard_id FROM (SELECT gen_random_uuid() AS id FROM generate_series(1, $2::int)) t
"""
# Ids of 128 random bits are ULIDs only when their first character is at most 7, as every 128-bit number's is.
_EVENTS = """
INSERT INTO journal (shard_id, shard_seq, thread_id, seq_nr, event_type, event_version, payload, metadata, epoch)
SELECT shard_id, row_number() OVER (PARTITION BY shard_id ORDER BY n, id), id, n, CASE WHEN n = 1 THEN 1 ELSE 7 END, 1,
       convert_to(CASE WHEN n = 1
           THEN format('{"creatorId":"%1$s","title":"t","remarks":null,"parentThreadId":null,"administratorIds":["%1$s"],'
                       '"memberIds":[],"at":%2$s,"createAt":%2$s}', $1::text, n)
           ELSE format('{"senderId":"%1$s","messages":[{"messageId":"%3$s","text":"message %2$s"}],"at":%2$s,"createAt":%2$s}',
                       $1::text, n, '0' || translate(upper(substr(md5(id::text || n), 1, 25)), 'ILOU', '1100'))
       END, 'UTF8'), '{}', (SELECT epoch - 1 FROM shard WHERE shard.id = seeded.shard_id)
  FROM seeded, generate_series(1, $2::int) AS n
"""


async def seed_journal(dsn: str, threads: int, events: int) -> str:
    """Write a journal of ``threads`` × ``events`` as workers would have; one of the threads' ids."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(_THREADS.replace("$1", str(SHARDS)).replace("$2::int", str(threads)))
    await connection.execute(_EPOCHS_SQL)
    await connection.execute(_RELEASED)
    await connection.execute(_EPOCHS)
    await connection.execute(_EVENTS, ME, events)
    await connection.execute("ANALYZE journal")
    found = await connection.fetchval("SELECT id FROM seeded LIMIT 1")
    await connection.close()
    return ulid_text(found.bytes)


async def restart_on(data_dir: Path, threads: int, events: int) -> float:
    """Seed, start, read and post to one thread, check the journal; how long the start took, in seconds."""
    cluster = LocalCluster(data_dir, shards=SHARDS)
    await cluster.up(2)
    thread = await seed_journal((data_dir / "dsn").read_text().strip(), threads, events)
    await cluster.down()
    began = time.monotonic()
    await cluster.up(2)
    took_s = time.monotonic() - began
    url = (await cluster.status())["url"]
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        async with session.get(f"{url}/v1/threads/{thread}?account_id={ME}") as response:
            assert (await response.json())["result"]["sequenceNr"] == events
        body = {"accountId": ME, "messages": [{"text": "after the restart"}]}
        async with session.post(f"{url}/v1/threads/{thread}/messages/add", json=body) as response:
            assert (await response.json())["sequenceNr"] == events + 1
    await cluster.fsck()
    await cluster.down()
    return took_s


async def test_a_start_on_a_journal_serves_what_is_in_it(data_dir: Path) -> None:
    """A hundred threads of a hundred events: all there, none replayed before it is asked for."""
    await restart_on(data_dir, threads=100, events=100)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_a_million_events_are_no_reason_to_wait(data_dir: Path) -> None:
    """10,000 threads, 1,000,000 events: ready within ten seconds."""
    took_s = await restart_on(data_dir, threads=10_000, events=100)
    print(f"ready in {took_s:.1f} s")
    assert took_s <= 10.0
