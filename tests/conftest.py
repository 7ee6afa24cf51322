"""One embedded Postgres for each test process, and a fresh migrated database for each test."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from threadcluster_operator.local.postgres import EmbeddedPostgres

from shard_worker.database.migration import migrate

# aiohttp reads the system's certificate authorities when it is imported, a quarter of a worker's start.  No test needs them.
os.environ.setdefault("SSL_CERT_FILE", os.devnull)

# The gate tries the same examples every time: what it finds is what a change did.  `make soak` looks further.
# Neither judges a test by the wall clock: on a busy machine a slow example says nothing about the code.
settings.register_profile("gate", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "explore", derandomize=False, print_blob=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
# `make mutation` asks whether a test fails, not which example is the simplest.
settings.register_profile("mutation", parent=settings.get_profile("gate"), phases=(Phase.explicit, Phase.generate))
# Each branch is to be taken, and counting makes each step twice as slow: the many examples are tried without it.
settings.register_profile("coverage", parent=settings.get_profile("gate"), max_examples=20)
settings.load_profile("gate")

SOAK_S = 3_600.0
"""Time-out of a soak test that names none: the one of all other tests is far too short for it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give soak tests their time."""
    for item in items:
        if item.get_closest_marker("soak") is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SOAK_S))


MakeDatabase = Callable[..., Awaitable[str]]

_numbers = count()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A real server, for as long as the tests run."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    # Its own loop: the server outlives the loop of every test.
    loop = asyncio.new_event_loop()
    loop.run_until_complete(server.start())
    yield server
    loop.run_until_complete(server.stop())
    loop.close()


@pytest.fixture(scope="session")
def templates(postgres: EmbeddedPostgres) -> dict[int, str]:
    """Migrated databases to copy, by shard count."""
    del postgres
    return {}


@pytest.fixture
async def make_database(postgres: EmbeddedPostgres, templates: dict[int, str]) -> AsyncIterator[MakeDatabase]:
    """Make a migrated database of cluster ``test`` with as many shards as asked; gives its DSN."""
    made: list[str] = []

    async def make(shards: int = 8) -> str:
        admin = await asyncpg.connect(postgres.dsn_of("postgres"))
        try:
            if shards not in templates:
                template = f"template_{shards}"
                await admin.execute(f"CREATE DATABASE {template}")
                await migrate(postgres.dsn_of(template), cluster_id="test", shards=shards, say=lambda _: None)
                templates[shards] = template
            name = f"test_{os.getpid()}_{next(_numbers)}"
            # Files are copied: writing each page to the WAL, as is the default, takes three times as long.
            await admin.execute(f"CREATE DATABASE {name} TEMPLATE {templates[shards]} STRATEGY FILE_COPY")
        finally:
            await admin.close()
        made.append(name)
        return postgres.dsn_of(name)

    yield make
    admin = await asyncpg.connect(postgres.dsn_of("postgres"))
    for name in made:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def dsn(make_database: MakeDatabase) -> str:
    """A fresh migrated database with eight shards."""
    return await make_database()


@pytest.fixture
async def empty(postgres: EmbeddedPostgres) -> str:
    """A database that no cluster has claimed."""
    admin = await asyncpg.connect(postgres.dsn_of("postgres"))
    await admin.execute("DROP DATABASE IF EXISTS claimed WITH (FORCE)")
    await admin.execute("CREATE DATABASE claimed")
    await admin.close()
    return postgres.dsn_of("claimed")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A folder for one test's cluster."""
    return tmp_path / "data"
