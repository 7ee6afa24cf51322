"""A database with six shards."""

import pytest

from tests.conftest import MakeDatabase


@pytest.fixture
async def dsn_of_six(make_database: MakeDatabase) -> str:
    """A fresh migrated database with six shards."""
    return await make_database(6)
