"""Rolling restarts of workers while clients chat, each worker as another release."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from tests.support.load.chat import drive, verify
from tests.support.load.figures import Figures
from tests.support.load.record import Recorder
from tests.support.polling import more_acknowledged
from tests.support.worker_processes import WorkerProcess, Workers

SETTLED = 50
"""Commands that are acknowledged before the first restart and after the last: the load is on its way."""


async def restart_each(workers: Workers, names: Sequence[str], change: Callable[[WorkerProcess], None]) -> None:
    """Restart these workers, which own all shards, one after another."""
    for name in names:
        await restart(workers, name, change, among=names)


async def restart(
    workers: Workers, name: str, change: Callable[[WorkerProcess], None], *, among: Sequence[str]
) -> None:
    """Restart a worker: it hands its shards over and ends; ``change`` says what its next process is; it gets its share."""
    worker = workers.by_name[name]
    worker.signal(signal.SIGTERM)
    assert await worker.ended(within_s=90) == 0
    change(worker)
    await workers.start(name)
    await workers.spread(*among)


@asynccontextmanager
async def chatting(workers: Workers, seed: int, *, clients: int = 8) -> AsyncIterator[Recorder]:
    """Clients that chat for as long as the block runs: no request fails, nothing is lost, doubled or reordered."""
    stop, recorder, figures = asyncio.Event(), Recorder(seed=seed, clients=clients), Figures()
    driving = asyncio.create_task(
        drive(
            workers.url,
            clients=clients,
            until=stop,
            seed=seed,
            grace_s=30.0,
            timeout_s=10.0,
            pause_s=0.1,
            recorder=recorder,
            figures=figures,
        ),
        name="chat",
    )
    try:
        await more_acknowledged(recorder, SETTLED)
        yield recorder
        await more_acknowledged(recorder, SETTLED)
    finally:
        stop.set()
        record = await driving
    failed = {name: operation.by_code for name, operation in figures.operations.items()}
    assert (figures.total("refused"), figures.total("unknown"), figures.not_sent) == (0, 0, 0), failed
    print(f"{figures.sent:,} requests of {clients} clients, 0 failed, {recorder.acknowledged_count:,} commands stored")
    assert await verify(workers.url, record) == []
