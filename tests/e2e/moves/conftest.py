"""One ground for all rounds."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.e2e.moves.cluster import Ground, own_ground


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def ground(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    """Three workers on a Postgres of their own."""
    async with own_ground(tmp_path_factory.mktemp("ground")) as made:
        yield made
