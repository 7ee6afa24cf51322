"""Awaiting a condition with a deadline, so that no test sleeps for a guessed time."""

import asyncio
from collections.abc import Callable

from tests.support.load.record import Recorder

_LOOK_EVERY_S = 0.005


async def eventually(condition: Callable[[], bool], *, within_s: float = 15.0, what: str = "") -> None:
    """Return once ``condition()`` holds; fail after ``within_s`` seconds, naming ``what`` was awaited."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while not condition():
        assert loop.time() < deadline, f"not within {within_s} s: {what or condition}"
        await asyncio.sleep(_LOOK_EVERY_S)


async def more_acknowledged(recorder: Recorder, count: int, *, within_s: float = 60.0) -> None:
    """Return once ``count`` more commands were acknowledged: load is on its way."""
    wanted = recorder.acknowledged_count + count
    await eventually(
        lambda: recorder.acknowledged_count >= wanted, within_s=within_s, what=f"{count} more acknowledged"
    )
