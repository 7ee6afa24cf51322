"""One round: a kind of fault, drawn by a seed, while 64 clients chat, and others read and follow; afterwards everything is
accounted for.

A round is a function of its kind and its seed as far as the test goes: who fails, when, for how long, and what the
clients choose.  How the machine interleaves it is its own affair, so a failing round may need some tries to fail again;
`Round` prints the line that plays it.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from shard_worker.domain.ids import ThreadId, shard_of
from tests.e2e.moves.cluster import SHARDS, Cluster
from tests.e2e.moves.observing import observing
from tests.e2e.moves.ownership_log import Change, Mark
from tests.support.load.chat import drive, verify
from tests.support.load.figures import Figures
from tests.support.load.record import Recorder
from tests.support.polling import more_acknowledged

CLIENTS = 64
PACE_S = 0.05
"""How long a client thinks between two commands: the machine shall be busy, not drowned."""
ANSWER_S = 4.0
"""A client that waits longer asks again: its connection may lead to a frozen worker."""
ROUND_VARIABLE = "THREADCLUSTER_ROUND"
_TRIES = 3
"""How often a round is begun until its fault finds its moment."""


class PhaseNotReachedError(AssertionError):
    """The moment for which the fault is meant did not come."""


class FaultMissedError(AssertionError):
    """It did not come because the machine was too busy for a worker's beats: the round has tried nothing."""


class Round:
    """Context of a fault: the cluster, a random generator, the ownership log since the round began."""

    def __init__(
        self, cluster: Cluster, kind: str, seed: int, mark: Mark, recorder: Recorder, figures: Figures
    ) -> None:
        self.cluster = cluster
        self.kind = kind
        self.dice = random.Random(f"{kind}/{seed}")
        self.mark = mark
        self.recorder = recorder
        self.figures = figures

    async def changes(self) -> list[Change]:
        """Every change of owner since the round began."""
        return await self.cluster.ownership_log.since(self.mark)

    async def more_acknowledged(self, count: int = 50) -> None:
        """Return when clients had their answers ``count`` more times."""
        await more_acknowledged(self.recorder, count, within_s=30.0)

    async def expect_incarnations(self) -> None:
        """Raise `FaultMissedError` if a worker was taken for dead since the round began."""
        now = (await self.cluster.ownership_log.mark()).incarnations
        if now != self.mark.incarnations:
            raise FaultMissedError(f"a worker was taken for dead: {self.mark.incarnations}, now {now}")

    def busy(self) -> dict[int, int]:
        """Number of the clients' threads, by shard."""
        threads = Counter(done.thread_id for done in self.recorder.record().acknowledged)
        return Counter(shard_of(ThreadId(thread), SHARDS) for thread in threads)

    async def lasts(self, seconds: float) -> None:
        """Let a fault last: what is tried is a fault of a length."""
        loop = asyncio.get_running_loop()
        over_at = loop.time() + seconds
        while loop.time() < over_at:
            await asyncio.sleep(min(0.02, over_at - loop.time()))


Fault = Callable[[Round], Awaitable[None]]
"""Causes the fault, sees what follows from it, and asserts what must have."""


@asynccontextmanager
async def chatting(cluster: Cluster, seed: int) -> AsyncIterator[tuple[Recorder, Figures]]:
    """64 clients that chat for as long as the block runs: lost 0, duplicates 0, reordered 0, and all sums are right."""
    stop, recorder, figures = asyncio.Event(), Recorder(seed=seed, clients=CLIENTS), Figures()
    driving = asyncio.create_task(
        drive(
            cluster.workers.url,
            clients=CLIENTS,
            until=stop,
            seed=seed,
            grace_s=30.0,
            timeout_s=ANSWER_S,
            pause_s=PACE_S,
            recorder=recorder,
            figures=figures,
        )
    )
    try:
        await more_acknowledged(recorder, 100)
        yield recorder, figures
        await more_acknowledged(recorder, 100)
    finally:
        stop.set()
        record = await driving
    assert await verify(cluster.workers.url, record) == []
    assert figures.balance() is None
    assert record.unresolved == ()


async def play(cluster: Cluster, kind: str, fault: Fault, seed: int) -> None:
    """One round, on a cluster that `Cluster.mend` restored; a round whose fault missed its moment is played again."""
    try:
        for remaining in reversed(range(_TRIES)):
            try:
                await _play(cluster, kind, fault, seed)
                break
            except FaultMissedError as missed:
                if not remaining:
                    raise
                print(f"  once more, {missed}", flush=True)
    except BaseException:
        print(f"again: {ROUND_VARIABLE}={kind}:{seed} make soak ARGS=tests/e2e/moves/test_soak.py", flush=True)
        raise


async def _play(cluster: Cluster, kind: str, fault: Fault, seed: int) -> None:
    began = time.monotonic()
    print(f"round {kind}:{seed}", flush=True)
    await cluster.mend()
    mark = await cluster.ownership_log.mark()
    mended_s = time.monotonic() - began
    async with chatting(cluster, seed) as (recorder, figures), observing(cluster.workers):
        this = Round(cluster, kind, seed, mark, recorder, figures)
        try:
            await fault(this)
        except PhaseNotReachedError:
            await this.expect_incarnations()
            raise
        faulted_s = time.monotonic() - began
    took_s = time.monotonic() - began
    print(f"  mended in {mended_s:.1f} s, fault over after {faulted_s:.1f} s, took {took_s:.1f} s", flush=True)
