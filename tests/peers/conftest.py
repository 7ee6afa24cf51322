"""Every asynchronous test of this folder runs on both loops: asyncio's own, and uvloop, which workers use."""

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loops, by the names that the tests show."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
