"""The load client against a real worker on a real Postgres: its picture of the API is the API."""

from pathlib import Path

from tests.conftest import MakeDatabase
from tests.load.reference import simulate
from tests.support.load.chat import drive, verify
from tests.support.load.figures import Figures
from tests.support.load.target import parse_target
from tests.support.programs import worker_alone


async def test_both_scenarios_pass_against_a_worker(make_database: MakeDatabase, tmp_path: Path) -> None:
    """Chat and the reference run clean: everything sent is accepted, and all that was acknowledged is read back."""
    dsn = await make_database(16)
    async with worker_alone(dsn, tmp_path, shards=16) as worker:
        chatting = Figures(limit=1_000)
        record = await drive(worker.url, clients=16, duration_s=20, seed=5, figures=chatting)
        assert await verify(worker.url, record) == []
        assert {done.sent.operation for done in record.acknowledged} == {"create", "add", "remove", "join", "leave"}
        creating = Figures(limit=100)
        await simulate([parse_target(worker.url)], creating, users=4, ramp_s=0, pause_s=0, hold_s=20)
    for figures in (chatting, creating):
        assert figures.balance() is None
        assert figures.total("accepted") == figures.sent
        assert not figures.check_failures
