"""The sources of a status: each is asked by itself, within its own time, and a failure is a row of its own."""

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import click

from threadcluster_operator.cli.groups import os_sentence
from threadcluster_operator.local.errors import NotRunning

T = TypeVar("T")
Document = dict[str, Any]  # JSON


class SourceFailed(Exception):
    """A source cannot be had; the message is the cause for the user."""


class Source(NamedTuple):
    """One thing that a status is made of."""

    ask: Callable[[], Awaitable[Any]]
    """Raises `SourceFailed`, `NotRunning` or `OSError` for a failure that is a row."""
    within_s: float


async def collect(
    sources: Mapping[str, Source],
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The answers of the sources that answer, by name, and each failure with its source and cause."""

    async def ask(name: str, source: Source) -> tuple[str, Any, str | None]:
        try:
            async with asyncio.timeout(source.within_s):
                return name, await source.ask(), None
        except TimeoutError:
            return name, None, f"no answer within {source.within_s:g} s"
        except (SourceFailed, NotRunning) as error:
            return name, None, str(error) or repr(error)
        except OSError as error:
            return name, None, os_sentence(error)

    asked = await asyncio.gather(*[ask(name, source) for name, source in sources.items()])
    answers = {name: answer for name, answer, cause in asked if cause is None}
    return answers, [{"source": name, "cause": cause} for name, _, cause in asked if cause is not None]


async def in_thread(function: Callable[[], T]) -> T:
    """The result of a function that may block for good, as on a file system that is away: its thread holds up no exit."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: OSError | None) -> None:
        if done.done():
            return  # given up
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # of the function, without an error

    def run() -> None:
        result, failure = None, None
        try:
            result = function()
        except OSError as error:
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, daemon=True).start()
    return await done


def failure_rows(failures: list[dict[str, str]]) -> list[tuple[object, ...]]:
    """The failures as rows of a table, with its heads; none without a failure."""
    return [("NOT KNOWN", "CAUSE"), *((each["source"], each["cause"]) for each in failures)] if failures else []


async def watched(render: Callable[[], Awaitable[str]], *, watch: bool, every_s: float = 1.0) -> None:
    """Print what ``render`` gives; with ``watch`` again and again, on a terminal in place, else when it has changed."""
    shown = None
    while True:
        text = await render()
        in_place = shown is not None and sys.stdout.isatty()
        if in_place:
            click.clear()
        if in_place or text != shown:
            click.echo(text)
            shown = text
        if not watch:
            return
        await asyncio.sleep(every_s)
