"""The session for planners: kept between requests, and ended with its owner."""

import asyncio

import asyncpg

from shard_worker.ownership.shared_session import SharedSession


async def test_requests_share_a_session_until_it_is_closed(dsn: str) -> None:
    """A request that is under way at the close ends its session itself."""
    opened: list[asyncpg.Connection] = []

    async def connect(purpose: str) -> asyncpg.Connection:
        opened.append(await asyncpg.connect(dsn, server_settings={"application_name": purpose}))
        return opened[-1]

    shared = SharedSession(connect, 5.0)
    for _ in range(2):
        async with shared.session() as connection:
            assert await connection.fetchval("SELECT 1") == 1
    assert len(opened) == 1
    assert not opened[0].is_closed()
    async with shared.session() as connection:
        shared.close()
        assert await connection.fetchval("SELECT 1") == 1
    await asyncio.sleep(0)
    assert opened[0].is_closed()
