"""Report of the benchmark of moves: a table, JSON, a picture of the distributions, and the page in docs."""

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from tests.benchmarks.moves.figures import PERCENTILES, Bar, Distribution, Figure
from tests.benchmarks.moves.settings import Settings
from tests.benchmarks.published import SETTLED_BY, Judged, Published, number
from tests.benchmarks.report import Machine, markdown, text

_HEAD: Final = ("", "distribution", "n", *(name for name, _ in PERCENTILES), "")
_BAR_HEAD: Final = ("", "bar", "measured", "at most", "")
_PAGE_BAR_HEAD: Final = ("", "bar", "last run", "median of the runs", "at most", "")
_PLOTTED_MOST: Final = 4_000


class Run(Struct, frozen=True):
    """All of one run.  ``neighbours`` are the cores that others kept busy while nothing of ours ran."""

    at: str
    machine: Machine
    settings: Settings
    neighbours: float
    saturated_per_s: float
    figures: list[Figure]

    def judged(self) -> list[Judged]:
        """The bars, each named with its figure's number."""
        return [
            Judged(bar.id, f"{figure.number}. {bar.what}", bar.unit, bar.value, bar.limit, at_most=True)
            for figure in self.figures
            for bar in figure.bars
        ]


def _number(value: float, unit: str) -> str:
    return number(None if isnan(value) else value, unit)


def _lines(figures: Sequence[Figure]) -> list[list[str]]:
    return [
        [
            str(figure.number) if place == 0 else "",
            each.name,
            f"{len(each.values):,}",
            *(_number(each.at(mark), "" if each.unit == "" else each.unit) for mark, _ in PERCENTILES),
            "",
        ]
        for figure in figures
        for place, each in enumerate(figure.distributions)
    ]


def _verdict(bar: Bar) -> str:
    return "holds" if bar.holds else "FAILS"


def _bars(figures: Sequence[Figure]) -> list[list[str]]:
    return [
        [str(figure.number), bar.what, _number(bar.value, bar.unit), _number(bar.limit, bar.unit), _verdict(bar)]
        for figure in figures
        for bar in figure.bars
    ]


def _page_bars(run: Run, published: Published) -> list[list[str]]:
    over = {each.id: each for each in published.figures}
    return [
        [
            *(str(figure.number), bar.what, _number(bar.value, bar.unit)),
            *(number(over[bar.id].value, bar.unit), _number(bar.limit, bar.unit), over[bar.id].verdict),
        ]
        for figure in run.figures
        for bar in figure.bars
    ]


def as_text(run: Run) -> str:
    """Everything for a terminal."""
    notes = [f"{figure.number}. {note}" for figure in run.figures for note in figure.notes]
    wrong = [f"{figure.number}. BROKEN: {what}" for figure in run.figures for what in figure.broken]
    return "\n\n".join(
        part
        for part in (
            text(_HEAD, _lines(run.figures)),
            "\n".join([*notes, f"neighbours kept {run.neighbours:.2f} cores busy before the run", *wrong]),
            text(_BAR_HEAD, _bars(run.figures)),
        )
        if part
    )


def as_document(run: Run) -> dict[str, Any]:
    """Everything as JSON values, the verdicts included."""
    document: dict[str, Any] = msgspec.to_builtins(run)
    for figure, written in zip(run.figures, document["figures"], strict=True):
        for bar, entry in zip(figure.bars, written["bars"], strict=True):
            entry["holds"] = bar.holds
        for each, entry in zip(figure.distributions, written["distributions"], strict=True):
            entry["percentiles"] = {mark: each.at(mark) for mark, _ in PERCENTILES} if each.values else {}
            entry["n"] = len(each.values)
            entry["values"] = _thinned(each)
    return document


def _thinned(each: Distribution) -> list[float]:
    """Evenly many of the values, the least and the greatest among them."""
    values, count = each.values, len(each.values)
    if count <= _PLOTTED_MOST:
        return list(values)
    return [values[place * (count - 1) // (_PLOTTED_MOST - 1)] for place in range(_PLOTTED_MOST)]


def as_page(run: Run, published: Published) -> str:
    """The page of docs: how to read it, where it was measured, the tables; the verdicts are those over the runs."""
    machine, settings = run.machine, run.settings
    packages = ", ".join(f"{name} {number}" for name, number in machine.packages.items())
    figures = "\n\n".join(_section(figure) for figure in run.figures)
    return f"""# The cost of moves

Written by `python -m tests.benchmarks.moves --write-docs` (`make bench-moves`); the newest run replaces the page.
A bar is judged by the median of {SETTLED_BY} runs of one commit on one machine, or of as many as there are yet.
Three worker processes, one Postgres and the clients share the machine; a figure is true of one machine.

- Date: {run.at}
- Runs: {published.runs_text()}
- Machine: {machine.cores} cores, {machine.cpu}, {machine.memory_gib} GiB, {machine.kernel}; before the run others kept {run.neighbours:.2f} cores busy
- Python {machine.python}, {packages}; {machine.postgres}; fsync on, `synchronous_commit` on
- {settings.shards} shards, {settings.threads_per_shard} threads each at most; one client a shard, closed loop with thinking time; seed {settings.seed}
- {run.saturated_per_s:,.0f} commands a second saturate the machine; the load is what keeps {settings.cpu_share:.0%} of the cores busy

## Bars

{markdown(_PAGE_BAR_HEAD, _page_bars(run, published))}

## Distributions

![The distributions](moves-performance.png)

{figures}

## How it is measured

A command adds a message to a thread, carries an idempotency key, and is sent again with the same key until it is accepted; every attempt that was not accepted at once counts as failed. After each run the accepted commands are counted against the events stored, and at the end `fsck` proves the journal.
The load is a process of its own; the load and the process that orders the moves record times by the same clock, and
everything is read off its record afterwards.

- *Pause, as a probe saw it*: a client that writes to the shard again {settings.probe_think_s * 1000:g} ms after each
answer; the gap between two answers that contains the instant of the transfer, less the probe's median latency.
- *Nothing to spare*: the same at a load that keeps {settings.full_share:.0%} of the cores busy; reported, not judged.
- *Longest wait*: the greatest latency of any command of the shard that was on its way at that instant.
- *First command*: for each thread of a moved shard, the first command that was sent once the shard was served again. Those that waited for the shard are left out, since their latency is the pause.
- *Steady*: the same load in the seconds before each round, without moves.
- *The last of its shards*: every shard of the dead worker has a client at a survivor that asks until it is answered; the last of these first answers counts.
"""


def _section(figure: Figure) -> str:
    lines = [line[1:-1] for line in _lines([figure])]
    notes = "\n".join(f"- {note}" for note in (*figure.notes, *(f"**broken:** {what}" for what in figure.broken)))
    return f"### {figure.number}. {figure.title}\n\n{markdown(_HEAD[1:-1], lines)}" + (f"\n\n{notes}" if notes else "")


def draw(run: Run, path: Path) -> None:
    """How much of each distribution lies below what, one panel a figure, with its bar."""
    from matplotlib.figure import Figure as Sheet

    shown = [figure for figure in run.figures if any(each.values for each in figure.distributions)]
    columns = 2 if len(shown) > 1 else 1
    sheet = Sheet(figsize=(7.5 * columns, 3.4 * -(-len(shown) // columns)), layout="constrained")
    panels = sheet.subplots(-(-len(shown) // columns), columns, squeeze=False)
    for axes, figure in zip(panels.flat, shown, strict=False):
        units = {each.unit for each in figure.distributions if each.values}
        unit = "ms" if "ms" in units and len(units) == 1 else sorted(units)[0] if len(units) == 1 else "ms"
        for each in figure.distributions:
            if not each.values:
                continue
            scale = 1000.0 if unit == "ms" and each.unit == "s" else 1.0
            values = [value * scale for value in _thinned(each)]
            steps = [(place + 1) / len(values) for place in range(len(values))]
            axes.plot(values, steps, drawstyle="steps-post", label=f"{each.name.strip()} (n={len(each.values):,})")
        for bar in figure.bars:
            if bar.unit in ("ms", "s"):
                scale = 1000.0 if unit == "ms" and bar.unit == "s" else 1.0
                axes.axvline(bar.limit * scale, color="black", linestyle=":", linewidth=1)
        axes.set(xlabel=unit, ylabel="share at most", ylim=(0, 1.02), xscale="log")
        axes.set_title(f"{figure.number}. {figure.title}", fontsize=10)
        axes.grid(True, alpha=0.25)
        axes.legend(fontsize=7)
    for axes in panels.flat[len(shown) :]:
        axes.remove()
    sheet.suptitle(f"{run.machine.cores} cores ({run.machine.cpu}); bars dotted", fontsize=10)
    sheet.savefig(path, dpi=110)
