"""Fixtures of most tests of the gateway."""

from collections.abc import AsyncIterator

import pytest

from shard_worker.gateway.http.options import GatewayOptions
from tests.fakes.memory_threads import MemoryThreads
from tests.gateway.serving import Served, serving


@pytest.fixture
def threads() -> MemoryThreads:
    """Threads in memory."""
    return MemoryThreads()


@pytest.fixture
def lane() -> bool:
    """Whether plain commands take the lane; modules about commands try both."""
    return True


@pytest.fixture
async def api(threads: MemoryThreads, lane: bool) -> AsyncIterator[Served]:
    """A client of a gateway in front of them."""
    async with serving(threads, GatewayOptions(lane=lane)) as served:
        yield served
