"""One ground for all rounds of a module."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.moves.ground import Ground, own_ground


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ground(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    """Three workers on a Postgres of their own."""
    async with own_ground(tmp_path_factory.mktemp("ground")) as made:
        yield made
