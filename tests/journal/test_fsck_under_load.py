"""`fsck` beside a worker that serves: short transactions, no false finding."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from shard_worker.journal.fsck.run import fsck
from tests.support.journal_writer import SHARDS, fill
from tests.support.load.chat import drive
from tests.support.load.record import Recorder
from tests.support.polling import more_acknowledged
from tests.support.programs import worker_alone


async def _fsck(dsn: str, since: Path) -> dict[str, Any]:
    """The command, in a process of its own: the clients keep this one busy."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shard_worker.main", "fsck", "--dsn", dsn, "--since", str(since), "-o", "json"),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    report: dict[str, Any] = json.loads(out)
    return report


async def _checked_under_load(dsn: str, folder: Path, *, threads: int, events: int, clients: int, checks: int) -> None:
    admin = await asyncpg.connect(dsn)
    filled = await fill(admin, threads=threads, events=events)
    async with worker_alone(dsn, folder, shards=SHARDS) as worker:
        stop, recorder = asyncio.Event(), Recorder(seed=4, clients=clients)
        driving = asyncio.create_task(drive(worker.url, clients=clients, until=stop, seed=4, recorder=recorder))
        await more_acknowledged(recorder, 50)
        longest_s = 0.0
        for check in range(checks):
            # Everything at first, then what is new: some of it is being written at this moment.
            before = recorder.acknowledged_count
            report = await _fsck(dsn, folder / "position.json")
            longest_s = max(longest_s, report["longestTransactionSeconds"])
            commands = recorder.acknowledged_count - before
            print({name: report[name] for name in report if name != "findings"}, f"{commands} commands meanwhile")
            assert report["findings"] == []
            assert report["provedBefore"] + report["events"] >= filled
            assert (report["provedBefore"] > 0) == (check > 0)
            await more_acknowledged(recorder, 20)
        stop.set()
        record = await driving
    assert record.surprises == ()
    assert longest_s <= 1.0
    await admin.close()


async def test_a_check_beside_a_busy_worker_is_clean_and_its_transactions_short(dsn: str, tmp_path: Path) -> None:
    """Events, claims and snapshots come meanwhile; each check reads what is new since the last."""
    await _checked_under_load(dsn, tmp_path, threads=300, events=20, clients=2, checks=2)


@pytest.mark.soak
async def test_a_check_of_a_million_events_beside_a_busy_worker(dsn: str, tmp_path: Path) -> None:
    """The longest of its transactions takes a second at most."""
    await _checked_under_load(dsn, tmp_path, threads=50_000, events=20, clients=32, checks=2)


@pytest.mark.soak
async def test_a_check_of_one_thread_of_a_million_events(dsn: str) -> None:
    """It is read in pages too."""
    admin = await asyncpg.connect(dsn)
    await fill(admin, threads=1, events=1_000_000)
    report = await fsck(dsn, progress=print)
    print(list(report.lines())[-1])
    assert report.clean, list(report.lines())[:20]
    assert report.longest_transaction_s <= 1.0
    await admin.close()
