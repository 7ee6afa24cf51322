"""Awaiting a condition with a deadline, so that no test sleeps for a guessed time."""

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable

import asyncpg

from tests.support.load.record import Recorder

_LOOK_EVERY_S = 0.005
_CONNECT_EVERY_S = 0.02


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]], *, within_s: float = 15.0, what: str = ""
) -> None:
    """Return once ``condition()`` holds; fail after ``within_s`` seconds, naming ``what`` was awaited.

    A condition may be asynchronous, such as a query of a database.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while True:
        held = condition()
        if await held if isawaitable(held) else held:
            return
        assert loop.time() < deadline, f"not within {within_s} s: {what or condition}"
        await asyncio.sleep(_LOOK_EVERY_S)


async def more_acknowledged(recorder: Recorder, count: int, *, within_s: float = 60.0) -> None:
    """Return once ``count`` more commands were acknowledged: load is on its way."""
    wanted = recorder.acknowledged_count + count
    await eventually(
        lambda: recorder.acknowledged_count >= wanted, within_s=within_s, what=f"{count} more acknowledged"
    )


async def connected(dsn: str, **server_settings: str) -> asyncpg.Connection:
    """A connection to a database, once its server takes one; waits for as long as that takes."""
    while True:
        try:
            return await asyncpg.connect(dsn, timeout=2, server_settings=server_settings)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            await asyncio.sleep(_CONNECT_EVERY_S)
