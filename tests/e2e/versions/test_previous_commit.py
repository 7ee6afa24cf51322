"""Workers of another commit and of this one in one cluster, through a rolling update and back, while 64 clients chat.

``PREVIOUS`` names a checkout of the other commit that has a ``.venv``; `make versions COMMIT=…` makes one.  Every step
is one of docs/upgrades.md: the other commit's schema, then this one's, then one worker after another.
"""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from threadcluster_operator.local.postgres import EmbeddedPostgres

from tests.e2e.versions.rolling import chatting, restart
from tests.support.paths import ROOT
from tests.support.polling import more_acknowledged
from tests.support.worker_processes import WorkerProcess, workers_on

NAMES = ("a", "b", "c")
SHARDS = 24
CLIENTS = 64
BETWEEN = 500
"""Commands that are acknowledged while the workers are of one commit, and of both."""


@pytest.fixture
def previous() -> Path:
    """The other checkout."""
    given = os.environ.get("PREVIOUS")
    if not given:
        pytest.fail("PREVIOUS is not set: name a checkout of another commit that has a .venv, or run `make versions`")
    folder = Path(given).resolve()
    if not (folder / ".venv" / "bin" / "python").exists():
        pytest.fail(f"PREVIOUS={given}: there is no .venv; run `make setup` there, or `make versions` here")
    found = _python(folder, "-c", "import shard_worker; print(shard_worker.__file__)").strip()
    if folder == ROOT or not Path(found).is_relative_to(folder):
        pytest.fail(f"PREVIOUS={given}: its Python runs the code at {found}, which is not of another checkout")
    return folder


@pytest.fixture
async def dsn_of_previous(postgres: EmbeddedPostgres, previous: Path) -> AsyncIterator[str]:
    """A database with the schema of the other commit."""
    admin = await asyncpg.connect(postgres.dsn_of("postgres"))
    await admin.execute("CREATE DATABASE rolling")
    await _migrate(previous, postgres.dsn_of("rolling"))
    yield postgres.dsn_of("rolling")
    await admin.execute("DROP DATABASE rolling WITH (FORCE)")
    await admin.close()


def _python(checkout: Path, *words: str) -> str:
    """The output of a checkout's Python."""
    done = subprocess.run(
        [str(checkout / ".venv" / "bin" / "python"), *words],
        cwd=checkout,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


async def _program(checkout: Path, *words: str) -> None:
    """Run a checkout's `shard-worker`."""
    await asyncio.to_thread(_python, checkout, "-m", "shard_worker.main", *words)


async def _migrate(checkout: Path, dsn: str) -> None:
    """Give the database the schema of a checkout."""
    await _program(checkout, "migrate", "--dsn", dsn, "--cluster", "test", "--shards", str(SHARDS))


@pytest.mark.soak
@pytest.mark.timeout(900)  # nine processes are started, one after another
async def test_workers_of_another_commit_and_of_this_one_share_a_cluster(
    dsn_of_previous: str, previous: Path, tmp_path: Path
) -> None:
    """No request fails through three restarts forward and three back; both commits prove the journal."""
    dsn = dsn_of_previous

    def of_previous(worker: WorkerProcess) -> None:
        worker.checkout = previous

    def of_this(worker: WorkerProcess) -> None:
        worker.checkout = None

    async with workers_on(dsn, tmp_path / "workers", shards=SHARDS) as workers:
        for name in NAMES:
            of_previous(workers.add(name))
        await workers.start(*NAMES)
        await workers.spread(*NAMES)
        async with chatting(workers, seed=1, clients=CLIENTS) as recorder:
            await _migrate(ROOT, dsn)
            await more_acknowledged(recorder, BETWEEN)
            for change in (of_this, of_previous):
                for number, name in enumerate(NAMES, 1):
                    await restart(workers, name, change, among=NAMES)
                    await more_acknowledged(recorder, BETWEEN)
                    print(
                        f"{number} of {len(NAMES)} workers are of {'this' if change is of_this else 'the other'} commit"
                    )
        assert workers.logged("poison") == []
    await _program(ROOT, "fsck", "--dsn", dsn)
    await _program(previous, "fsck", "--dsn", dsn)
