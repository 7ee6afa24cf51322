"""Report of a benchmark: a table, JSON, a picture, and the page in docs."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tests.benchmarks.core import Core
from tests.benchmarks.fence import FenceRound
from tests.benchmarks.measure import Settings
from tests.benchmarks.published import SETTLED_BY, Judged, Published, number
from tests.benchmarks.samples import Ratio, Sample, Spread, ratios, spread


class Machine(Struct, frozen=True):
    """Where a run took place, as far as its figures depend on it."""

    cores: int
    cpu: str
    kernel: str
    memory_gib: float
    python: str
    postgres: str
    packages: dict[str, str]
    load_before: float
    """The one-minute load average before the run: what the neighbours were doing."""


class Run(Struct, frozen=True):
    """All of one run."""

    at: str
    machine: Machine
    settings: Settings
    samples: list[Sample]
    fence: list[FenceRound]
    core: Core

    def ratios(self) -> list[Ratio]:
        """The ratios at the number of connections where they are judged."""
        return ratios(self.samples, self.fence, self.settings.judged_at, self.core)

    def judged(self) -> list[Judged]:
        """The ratios that have a bar."""
        return [
            Judged(each.id, each.name, each.unit, each.value.median, each.bar, each.at_most)
            for each in self.ratios()
            if each.bar is not None
        ]


def this_machine(postgres: str) -> Machine:
    """Describe this machine; ``postgres`` is what the server says of itself."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        cores=os.cpu_count() or 1,
        cpu=names[0] if names else platform.processor() or platform.machine(),
        kernel=f"{platform.system()} {platform.release()}",
        memory_gib=round(pages / 2**30, 1),
        python=platform.python_version(),
        postgres=postgres,
        packages={name: version(name) for name in ("aiohttp", "asyncpg", "uvloop", "msgspec", "pydantic")},
        load_before=round(os.getloadavg()[0], 2),
    )


def now() -> str:
    """The date of a run."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Row(Struct, frozen=True):
    """One subject at one number of connections, over all rounds."""

    subject: str
    connections: int
    per_second: Spread
    p50_ms: float
    p99_ms: float
    p999_ms: float
    server_cpu_us: Spread
    postgres_cpu_us: Spread | None
    generator_core: float
    bound_rounds: int
    failures: int


def rows(samples: Sequence[Sample]) -> list[Row]:
    """The table, in the order of subjects as they were measured first, then of connections."""
    subjects = list(dict.fromkeys(each.subject for each in samples))
    found = []
    for connections in sorted({each.connections for each in samples}):
        for subject in subjects:
            mine = [s for s in samples if s.subject == subject and s.connections == connections]
            if not mine:
                continue
            postgres = [s.postgres_cpu_us for s in mine if s.postgres_cpu_us is not None]
            latency = {
                label: spread(s.measured.latency_ms[label] for s in mine).median for label in ("p50", "p99", "p999")
            }
            found.append(
                Row(
                    subject=subject,
                    connections=connections,
                    per_second=spread(s.measured.per_second for s in mine),
                    p50_ms=latency["p50"],
                    p99_ms=latency["p99"],
                    p999_ms=latency["p999"],
                    server_cpu_us=spread(s.server_cpu_us for s in mine),
                    postgres_cpu_us=spread(postgres) if postgres else None,
                    generator_core=spread(s.measured.core_share for s in mine).median,
                    bound_rounds=sum(s.bound for s in mine),
                    failures=sum(sum(s.measured.failures.values()) for s in mine),
                )
            )
    return found


def _range(value: Spread, digits: int = 0) -> str:
    return f"{value.median:,.{digits}f} ({value.low:,.{digits}f}–{value.high:,.{digits}f})"


_HEAD = (
    "connections", "subject", "commands/s", "p50 ms", "p99 ms", "p999 ms",
    "server CPU µs", "Postgres CPU µs", "generator", "failed",
)  # fmt: skip


def _cells(row: Row) -> list[str]:
    generator = f"{row.generator_core:.0%}"
    if row.bound_rounds:
        generator += f", the bound of {row.bound_rounds} rounds"
    return [
        str(row.connections),
        row.subject,
        _range(row.per_second),
        f"{row.p50_ms:.2f}",
        f"{row.p99_ms:.2f}",
        f"{row.p999_ms:.2f}",
        _range(row.server_cpu_us, 1),
        _range(row.postgres_cpu_us, 1) if row.postgres_cpu_us is not None else "–",
        generator,
        str(row.failures),
    ]


def _fence_lines(fence: Sequence[FenceRound]) -> list[list[str]]:
    lines = []
    for shards in sorted({each.shards_a_batch for each in fence}):
        mine = [each for each in fence if each.shards_a_batch == shards]
        lines.append(
            [
                str(shards),
                _range(spread(each.fenced_events_s for each in mine)),
                _range(spread(each.unfenced_events_s for each in mine)),
                _range(spread(each.fenced_cpu_us for each in mine), 1),
                _range(spread(each.unfenced_cpu_us for each in mine), 1),
                _range(spread(each.cost * 100 for each in mine), 1) + " %",
            ]
        )
    return lines


_FENCE_HEAD = ("shards a batch", "fenced events/s", "unfenced events/s", "fenced CPU µs", "unfenced CPU µs", "cost")
_RATIO_HEAD = ("ratio", "median (spread)", "bar", "goal", "")
_PAGE_RATIO_HEAD = ("ratio", "median (spread) of the last run", "median of the runs", "bar", "goal", "")


def _ratio_cells(ratio: Ratio) -> list[str]:
    sign = "≤" if ratio.at_most else "≥"
    verdict = {None: "", True: "holds", False: "FAILS"}[ratio.holds]
    return [
        ratio.name,
        _range(ratio.value, 2),
        f"{sign} {ratio.bar}" if ratio.bar is not None else "–",
        f"{sign} {ratio.goal}" if ratio.goal is not None else "–",
        verdict,
    ]


def _page_ratio_cells(ratio: Ratio, published: Published) -> list[str]:
    name, of_run, bar, goal, _ = _ratio_cells(ratio)
    over = [(number(each.value, each.unit), each.verdict) for each in published.figures if each.id == ratio.id]
    of_runs, verdict = over[0] if over else ("", "")
    return [name, of_run, of_runs, bar, goal, verdict]


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table for a page."""
    body = [" | ".join(line) for line in (head, ["---"] * len(head), *lines)]
    return "\n".join(f"| {line} |" for line in body)


def text(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table for a terminal."""
    widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in (head, *lines)
    )


def as_text(run: Run) -> str:
    """Everything for a terminal."""
    parts = [text(_HEAD, [_cells(row) for row in rows(run.samples)])] if run.samples else []
    if run.fence:
        parts.append(text(_FENCE_HEAD, _fence_lines(run.fence)))
    judged = [_ratio_cells(ratio) for ratio in run.ratios()]
    if judged:
        parts.append(text(_RATIO_HEAD, judged))
    return "\n\n".join(parts)


def as_document(run: Run) -> dict[str, Any]:
    """Everything as JSON values, the derived figures included."""
    return {
        **msgspec.to_builtins(run),
        "table": msgspec.to_builtins(rows(run.samples)),
        "ratios": [{**msgspec.to_builtins(ratio), "holds": ratio.holds} for ratio in run.ratios()],
    }


def as_page(run: Run, published: Published) -> str:
    """The page of docs: how to read it, where it was measured, the tables; the verdicts are those over the runs."""
    machine, settings = run.machine, run.settings
    packages = ", ".join(f"{name} {number}" for name, number in machine.packages.items())
    pinned = (
        "the server tied to one core, Postgres and the generator to the other"
        if settings.pins.server is not None
        else "nothing tied to a core"
    )
    return f"""# Performance

Written by `python -m tests.benchmarks --write-docs` (`make bench`); the newest run replaces the page.
A bar is judged by the median of {SETTLED_BY} runs of one commit on one machine, or of as many as there are yet.
A figure is true of one machine; the ratios are what carries over, and what the project holds itself to.

- Date: {run.at}
- Runs: {published.runs_text()}
- Machine: {machine.cores} cores, {machine.cpu}, {machine.memory_gib} GiB, {machine.kernel}; load average before the run {machine.load_before}
- Python {machine.python}, {packages}; {machine.postgres}; fsync on, `synchronous_commit` on
- {settings.rounds} interleaved rounds of {settings.seconds:g} s each; generator: {settings.tool}; {pinned}

## Ratios at {settings.judged_at} connections

Each is formed within a round; the median over the rounds is the run's figure, the spread is in brackets. The bar must hold; the goal is where this is going.

{markdown(_PAGE_RATIO_HEAD, [_page_ratio_cells(ratio, published) for ratio in run.ratios()])}

## Figures

Medians over the rounds, least and greatest in brackets. A command adds one message of 48 characters to a thread of five people, without an idempotency key, and is answered when it is durable. CPU is per request, from the kernel's accounts of the server process and of the whole Postgres tree.
"Generator" is its share of one core: from 95 % on it, and not the subject, sets the pace.

{markdown(_HEAD, [_cells(row) for row in rows(run.samples)])}

The subjects: *no-op* is an aiohttp `web.Application` POST that reads the body and answers; *worker* is `shard-worker run` as it ships, the commands going round {settings.threads:,} threads; *one hot thread* sends every command to the same thread (its message limit raised);
*one transaction a command* is the same gateway and the same domain over `BEGIN`, fenced insert, `COMMIT` on a pool of 8; *one statement a command* is the same with the insert alone, committing by itself.

## The fence

The append statement of the worker at 32 events a batch, against the same insert without ownership check and lock; two connections take turns batch by batch. Cost is by how much the median append gets longer.

{markdown(_FENCE_HEAD, _fence_lines(run.fence))}

## Without a server

Replay (decode and evolve): {run.core.replay_events_s:,.0f} events a second. A resident thread of 10 members and 50 live messages: {run.core.thread_bytes:,.0f} bytes; the same facts in nested dicts: {run.core.nested_dict_bytes:,.0f} bytes.
"""


def draw(run: Run, path: Path) -> None:
    """Throughput, CPU and tail latency by connections."""
    from matplotlib.figure import Figure

    table = rows(run.samples)
    subjects = list(dict.fromkeys(row.subject for row in table))
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    rate, cpu, latency = figure.subplots(1, 3)
    for subject in subjects:
        mine = [row for row in table if row.subject == subject]
        at = [row.connections for row in mine]
        middle = [row.per_second.median for row in mine]
        below = [row.per_second.median - row.per_second.low for row in mine]
        above = [row.per_second.high - row.per_second.median for row in mine]
        rate.errorbar(at, middle, yerr=[below, above], marker="o", capsize=3, label=subject)
        cpu.plot(at, [row.server_cpu_us.median for row in mine], marker="o", label=subject)
        latency.plot(at, [row.p99_ms for row in mine], marker="o", label=subject)
    rate.set(ylabel="commands a second", ylim=(0, None))
    cpu.set(ylabel="server CPU a command, µs", ylim=(0, None))
    latency.set(ylabel="p99, ms", yscale="log")
    for axes in (rate, cpu, latency):
        axes.set(xlabel="connections", xscale="log", xticks=list(run.settings.connections))
        axes.set_xticklabels([str(count) for count in run.settings.connections])
        axes.minorticks_off()
        axes.grid(True, alpha=0.25)
    rate.legend(fontsize=8)
    figure.suptitle(f"{run.settings.rounds} interleaved rounds, {run.machine.cores} cores ({run.machine.cpu})")
    figure.savefig(path, dpi=120)
