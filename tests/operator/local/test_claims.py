"""Two local clusters on one database, in every order: the second is refused by name, and the first notices nothing."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.claims import traces
from tests.support.local_cluster import LocalCluster, local_cluster
from tests.support.polling import eventually


def identity(cluster: LocalCluster) -> str:
    """The uid by which a cluster holds a database."""
    return (cluster.data_dir / "id").read_text().strip()


async def refused(cluster: LocalCluster, holder: LocalCluster, *words: str) -> None:
    """It does not come up, and says whose the database is."""
    with pytest.raises(AssertionError) as found:
        await cluster.up(1)
    for word in (f"uid {identity(holder)}", f"--take-over {identity(holder)}", *words):
        assert word in str(found.value)
    assert "Traceback" not in str(found.value)


@contextmanager
def frozen(status: dict[str, Any]) -> Iterator[None]:
    """The supervisor and every worker of a cluster are stopped in their tracks, and go on where they were."""
    pids = [status["supervisor"]["pid"], *(worker["pid"] for worker in status["workers"])]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.soak
async def test_a_silent_holder_keeps_its_database(empty: str, tmp_path: Path) -> None:
    """It is frozen, and later killed; by name it is displaced, and then refused in its turn."""
    first, second = (LocalCluster(tmp_path / name, database_url=empty, shards=8) for name in ("first", "second"))
    await first.up(1)
    with frozen(await first.status()):
        before = await traces(empty)
        await refused(second, first, "last seen")
        assert await traces(empty) == before
    await first.ready()
    await first.kill_everything()
    before = await traces(empty)
    await refused(second, first, "last seen")
    assert await traces(empty) == before
    await second.up(1, take_over=identity(first))
    try:
        await refused(first, second, "last seen")
        assert set(await second.owners()) == {"test-0"}
    finally:
        await second.down()


@pytest.mark.soak
async def test_a_displaced_holder_serves_nothing_and_says_why(empty: str, tmp_path: Path) -> None:
    """Its processes go on running; started again, it is refused."""
    second = LocalCluster(tmp_path / "second", database_url=empty, shards=8)
    async with local_cluster(tmp_path / "first", 1, database_url=empty, shards=8) as first:
        await refused(second, first)
        await second.up(1, take_over=identity(first))
        taken = await traces(empty)

        async def reported() -> bool:
            output = await first.does("local", "status")
            wanted = ("test: not ready", "DatabaseClaimedByOther", f"uid {identity(second)}", "displaced")
            return all(word in output for word in wanted)

        await eventually(reported, within_s=30, what="the displaced cluster says whose the database is")
        assert f"uid {identity(second)}" in await first.refuses("shards")
        await refused(first, second)
        assert await traces(empty) == taken
    await refused(first, second)
    await second.down()


@pytest.mark.soak
async def test_of_two_that_begin_at_once_one_is_refused(empty: str, tmp_path: Path) -> None:
    """Whichever is the second."""
    two = [LocalCluster(tmp_path / name, database_url=empty, shards=8) for name in ("first", "second")]
    ends = await asyncio.gather(*(each.up(1) for each in two), return_exceptions=True)
    [won] = [each for each, end in zip(two, ends, strict=True) if isinstance(end, str)]
    [(lost, end)] = [(each, end) for each, end in zip(two, ends, strict=True) if not isinstance(end, str)]
    try:
        assert f"uid {identity(won)}" in str(end)
        await refused(lost, won)
        assert set(await won.owners()) == {"test-0"}
    finally:
        await won.down()
