"""One cluster for all rounds."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.e2e.moves.cluster import Cluster, own_cluster


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Three workers on a Postgres of their own."""
    async with own_cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made
