"""The sources of a status: a slow or failing one is a row, and delays none of the others."""

import asyncio
import threading
import time

import pytest
from threadcluster_operator.cli.sources import Source, SourceFailed, collect, failure_rows, in_thread, watched
from threadcluster_operator.local.errors import NotRunning


async def test_each_source_has_its_own_time_and_its_own_row() -> None:
    """Every kind of failure, and one that answers beside them."""

    async def never() -> None:
        await asyncio.Event().wait()

    async def away() -> None:
        raise NotRunning("no supervisor")

    async def unreadable() -> None:
        raise PermissionError(13, "Permission denied", "secret")

    async def silent() -> None:
        raise SourceFailed

    async def fine() -> int:
        return 7

    ways = {"never": never, "away": away, "unreadable": unreadable, "silent": silent, "fine": fine}
    began = time.monotonic()
    answers, failures = await collect({name: Source(ask, 0.2) for name, ask in ways.items()})
    assert time.monotonic() - began < 2
    assert answers == {"fine": 7}
    assert failures == [
        {"source": "never", "cause": "no answer within 0.2 s"},
        {"source": "away", "cause": "no supervisor"},
        {"source": "unreadable", "cause": "secret: Permission denied"},
        {"source": "silent", "cause": "SourceFailed()"},
    ]
    assert failure_rows(failures)[:2] == [("NOT KNOWN", "CAUSE"), ("never", "no answer within 0.2 s")]
    assert failure_rows([]) == []


async def test_a_fault_of_the_program_is_no_row() -> None:
    """It is raised as it is: a row would hide it."""

    async def broken() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await collect({"broken": Source(broken, 1)})


async def test_a_call_that_blocks_for_good_holds_up_nothing() -> None:
    """As a look at a file system that is away: its thread is left behind."""
    free = threading.Event()
    _, failures = await collect({"disk": Source(lambda: in_thread(free.wait), 0.05)})
    assert failures == [{"source": "disk", "cause": "no answer within 0.05 s"}]
    free.set()
    answers, failures = await collect({"disk": Source(lambda: in_thread(lambda: 3), 5), "none": Source(_fails, 5)})
    assert (answers, failures) == ({"disk": 3}, [{"source": "none", "cause": "a: Stale file handle"}])


async def _fails() -> None:
    def look() -> None:
        raise OSError(116, "Stale file handle", "a")

    await in_thread(look)


async def test_watching_prints_what_has_changed(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal each state once; the first one at once."""
    texts = iter(["a", "a", "b"])

    async def render() -> str:
        return next(texts)

    with pytest.raises(RuntimeError, match="StopIteration"):
        await watched(render, watch=True, every_s=0)
    assert capsys.readouterr().out == "a\nb\n"
    texts = iter(["c", "d"])
    await watched(render, watch=False)
    assert capsys.readouterr().out == "c\n"
