"""Clients that chat while shards move."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.load.chat import PACE_S, Recorder, drive, verify
from tests.support.load.figures import Figures
from tests.support.polling import more_acknowledged
from tests.support.worker_processes import Workers

CLIENTS = 64


@asynccontextmanager
async def chatting(workers: Workers, figures: Figures | None = None) -> AsyncIterator[Recorder]:
    """Clients that chat for as long as the block runs; afterwards everything is accounted for."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    stop, recorder = asyncio.Event(), Recorder(seed=seed, clients=CLIENTS)
    driving = asyncio.create_task(
        drive(
            workers.urls,
            clients=CLIENTS,
            until=stop,
            seed=seed,
            grace_s=30.0,
            pause_s=2 * PACE_S,
            recorder=recorder,
            figures=figures,
        )
    )
    try:
        await more_acknowledged(recorder, 200)
        yield recorder
        await more_acknowledged(recorder, 200)
    finally:
        stop.set()
        record = await driving
    assert await verify(workers.urls, record) == []
    assert record.unresolved == ()
    await workers.fsck()
