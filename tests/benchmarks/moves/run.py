"""One whole run: figure after figure, each on what it needs."""

import asyncio
from collections.abc import Set
from pathlib import Path

import asyncpg
import click
import psutil
from msgspec.structs import replace

from tests.benchmarks.moves import handoffs, joining, leaving, planner, takeovers
from tests.benchmarks.moves.figures import Figure
from tests.benchmarks.moves.harness import Harness, harness_on
from tests.benchmarks.moves.report import Run
from tests.benchmarks.moves.settings import Settings
from tests.benchmarks.report import now, this_machine

ALL = frozenset(range(1, 9))
_HANDOFFS, _KILLED, _FROZEN = {1, 2}, {2, 3, 7}, {4}
_STAGED = {1, 2, 3, 4, 6, 7}


async def benchmark(out: Path, settings: Settings, wanted: Set[int] = ALL) -> Run:
    """Measure the figures with these numbers; logs go to ``out``.  Figure 2 needs kills as well, for its cold side."""
    at, neighbours = now(), await _neighbours(settings.listen_s)
    found: list[Figure] = []
    postgres, saturated = "", 0.0
    async with asyncio.TaskGroup() as group:
        beside = group.create_task(_join(out, settings), name="join") if settings.beside and 5 in wanted else None
        if wanted & _STAGED:
            async with harness_on(out, settings) as harness:
                postgres, saturated = await _version(harness.dsn), harness.saturated_per_s
                found += await _on_harness(harness, wanted)
        if 5 in wanted:
            found.append(await (beside or _join(out, settings)))
    if 8 in wanted:
        found.append(planner.plan(settings))
    figures = sorted((each for each in found if each.number in wanted), key=lambda each: each.number)
    return Run(at, this_machine(postgres), settings, neighbours, saturated, figures)


async def _on_harness(harness: Harness, wanted: Set[int]) -> list[Figure]:
    settings, moved = harness.settings, None
    if wanted & _HANDOFFS:
        usual = await handoffs.hand_over(harness, settings.handoff_rounds, harness.think_s)
        full_s = await harness.thinking_for(settings.full_share)
        moved = usual, await handoffs.hand_over(harness, settings.full_rounds, full_s)
    killed: list[takeovers.Takeover] = []
    frozen: list[takeovers.Takeover] = []
    if wanted & _KILLED:
        await harness.make_threads()
        killed = await takeovers.kills(harness)
    if wanted & _FROZEN:
        await harness.make_threads()
        frozen = await takeovers.freezes(harness)
    found = takeovers.figures(killed, frozen)
    if moved is not None:
        found += handoffs.figures(*moved, [value for each in killed for value in each.cold_ms])
    if 6 in wanted:
        await harness.make_threads()
        found.append(await leaving.leave(harness))
    return [*found[:-1], replace(found[-1], broken=(*found[-1].broken, *await _unproven(harness)))]


async def _unproven(harness: Harness) -> list[str]:
    try:
        await harness.workers.fsck()
    except AssertionError as error:  # the measured figures are reported all the same
        return [f"fsck: {error}"]
    return []


async def _join(out: Path, settings: Settings) -> Figure:
    return joining.figure(await joining.join(out, settings), settings)


async def _neighbours(listen_s: float) -> float:
    """Cores that others keep busy."""
    psutil.cpu_percent()
    await asyncio.sleep(listen_s)
    busy = psutil.cpu_percent() / 100 * (psutil.cpu_count() or 1)
    click.echo(f"others keep {busy:.2f} cores busy", err=True)
    return busy


async def _version(dsn: str) -> str:
    connection = await asyncpg.connect(dsn)
    try:
        return " ".join(str(await connection.fetchval("SELECT version()")).split()[:2])
    finally:
        await connection.close()
