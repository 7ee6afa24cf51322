"""Fixtures of most tests of the gateway."""

from collections.abc import AsyncIterator

import pytest

from tests.fakes.memory_threads import MemoryThreads
from tests.gateway.serving import Served, serving


@pytest.fixture
def threads() -> MemoryThreads:
    """Threads in memory."""
    return MemoryThreads()


@pytest.fixture
async def api(threads: MemoryThreads) -> AsyncIterator[Served]:
    """A client of a gateway in front of them."""
    async with serving(threads) as served:
        yield served
