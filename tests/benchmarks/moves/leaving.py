"""Figure 6: workers leave (SIGTERM) one after another, under clients that know one address for all of them."""

import asyncio
import signal
import time

import click

from tests.benchmarks.moves.figures import Bar, Figure, distribution
from tests.benchmarks.moves.harness import NAMES, Harness, unaccounted


async def leave(harness: Harness) -> Figure:
    """Run the load through the shared address; each worker leaves in its turn, and comes back."""
    settings, workers = harness.settings, harness.workers
    await harness.spread()
    before = await harness.events()
    steady: list[tuple[float, float]] = []
    leaving: list[tuple[float, float]] = []
    codes: list[int] = []
    async with harness.load([workers.url], seed=2_000) as load:
        for number in range(settings.leave_rounds):
            if number:
                await harness.spread()
            began = time.monotonic()
            await asyncio.sleep(settings.steady_s)
            steady.append((began, time.monotonic()))
            worker = workers.by_name[NAMES[number % len(NAMES)]]
            signalled = time.monotonic()
            worker.signal(signal.SIGTERM)
            codes.append(await worker.ended(60.0))
            leaving.append((signalled, time.monotonic()))
            click.echo(f"SIGTERM {worker.name}: gone after {leaving[-1][1] - signalled:.2f} s", err=True)
        tape = await load.stop()
    failed = len(tape.rows) - tape.outcomes["accepted"]
    broken = await unaccounted(harness, tape, before)
    if any(codes):
        broken.append(f"exit codes {codes}")
    if failed:
        broken.append(f"{failed} requests failed: {tape.account.codes}")
    return Figure(
        6,
        "One worker of three leaves",
        (
            distribution("SIGTERM to its end", "s", [ended - signalled for signalled, ended in leaving]),
            distribution("commands while it leaves", "ms", [v for span in leaving for v in tape.latencies_ms(*span)]),
            distribution("steady", "ms", [v for span in steady for v in tape.latencies_ms(*span)]),
        ),
        (Bar("leave_failures", "requests that failed", "", float(failed), 0.0),),
        (f"{settings.leave_rounds} workers left; {len(tape.rows):,} requests, {failed} failed",),
        tuple(broken),
    )
