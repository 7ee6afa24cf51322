"""A worker is killed while thousands of requests wait for its shards at another: all are served within their budgets."""

import asyncio
import os
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from shard_worker.domain.ids import ulid_text
from tests.conftest import MakeDatabase
from tests.support.load.client import Outcome, classify
from tests.support.load.target import parse_target
from tests.support.load.wire import Connection, request_bytes
from tests.support.worker_processes import workers_on

_SHARDS = 16
_THREADS = 200


async def wait_for_takeover(dsn: str, folder: Path, waiting: int) -> Counter[str]:
    """Answers to ``waiting`` posts through w1, sent just after a kill of w0, which owned every shard."""
    async with workers_on(dsn, folder, shards=_SHARDS) as workers:
        for name in ("w0", "w1"):
            workers.add(name).settings["SHARD_WORKER_MAX_CONNECTIONS"] = str(2 * waiting)
        await workers.start("w0", "w1")
        await workers.spread("w0")
        target = parse_target(workers.by_name["w1"].url)
        accounts = [ulid_text(os.urandom(16)) for _ in range(_THREADS)]

        async def post(connection: Connection, path: str, body: object) -> tuple[Outcome, str, str]:
            raw = request_bytes("POST", path, target.authority, msgspec.json.encode(body), os.urandom(8).hex())
            attempt = classify(await connection.ask(raw, 20.0))
            return attempt.outcome, attempt.code, str(attempt.document.get("threadId", ""))

        connections = [await Connection.open(target, 20.0) for _ in range(waiting)]
        threads = []
        for account in accounts:
            body = {"accountId": account, "title": "t", "administratorIds": [account], "memberIds": []}
            outcome, code, thread = await post(connections[0], "/v1/threads/create", body)
            assert outcome is Outcome.ACCEPTED, code
            threads.append(thread)
        began = time.monotonic()
        await workers.by_name["w0"].kill()
        answers = await asyncio.gather(
            *[
                post(
                    connection,
                    f"/v1/threads/{threads[number % _THREADS]}/messages/add",
                    {"accountId": accounts[number % _THREADS], "messages": [{"text": f"{number}"}]},
                )
                for number, connection in enumerate(connections)
            ]
        )
        print(f"{waiting} waiting requests answered within {time.monotonic() - began:.2f} s of the kill")
        metrics = await workers.metrics(of="w1")
        assert metrics.get("threadcluster_fencings_total", 0) == 0
        for connection in connections:
            connection.close()
        await workers.fsck()
    return Counter(f"{outcome.value} {code}".strip() for outcome, code, _ in answers)


async def test_requests_that_wait_for_a_dead_workers_shards_are_all_served(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    """Three hundred of them: none is refused."""
    answers = await wait_for_takeover(await make_database(_SHARDS), tmp_path, 300)
    print(dict(answers))
    assert answers == {"accepted": 300}


@pytest.mark.soak
async def test_six_thousand_requests_that_wait_are_all_served(make_database: MakeDatabase, tmp_path: Path) -> None:
    """Six thousand: before, every look woke all of them, and a quarter was answered 503."""
    answers = await wait_for_takeover(await make_database(_SHARDS), tmp_path, 6_000)
    print(dict(answers))
    assert answers == {"accepted": 6_000}
