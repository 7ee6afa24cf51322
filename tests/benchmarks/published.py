"""The figures that the documents state: one JSON file a benchmark in docs/figures, and from it the words of the pages.

A benchmark with ``--write-docs`` adds its run to its file, and the page that it writes, and docs/verification.md, say what
the file says.  One run settles nothing: a bar is judged by the median of the last `SETTLED_BY` runs of one commit on one
machine, and while there are fewer the documents say how many there are.  A count of failures is judged by the worst run.

    python -m tests.benchmarks.published        write the figures in docs/verification.md again (`make docs` does)
"""

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

import click
import msgspec
from msgspec import Struct

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from tests.benchmarks.report import Machine

SETTLED_BY: Final = 3
"""Number of runs whose median settles a bar: one of three may have met a busy neighbour, the median has not."""
DOCS: Final = ROOT / "docs"
BENCHMARKS: Final = {"performance": "performance.md", "moves": "moves-performance.md"}
"""The page of each benchmark, in docs; its figures are in docs/figures under the same name."""
VERIFICATION: Final = "verification.md"
HOLDS, FAILS = "holds", "FAILS"

_MARKER: Final = re.compile(r"(<!-- (figure|bars|runs): ([a-z0-9_]+) -->)(.*?)(<!-- end -->)")
_DIGITS: Final = {"ms": 1, "s": 2, "×": 2, "of an append": 2}


class Judged(Struct, frozen=True):
    """A figure of one run that has a bar."""

    id: str
    what: str
    unit: str
    value: float
    bar: float
    at_most: bool


class PublishedRun(Struct, frozen=True):
    """The figures of one run, by their ids; None is a figure that could not be measured."""

    date: str
    values: dict[str, float | None]


class PublishedFigure(Struct, frozen=True):
    """A figure over the runs: ``value`` is their median; of a count, which has no unit, the worst."""

    id: str
    what: str
    unit: str
    value: float | None
    bar: float
    at_most: bool
    holds: bool
    runs: int

    @property
    def verdict(self) -> str:
        """How every document calls it."""
        return HOLDS if self.holds else FAILS

    def text(self) -> str:
        """The figure, its bar, the verdict, and how many runs it rests on."""
        sign = "≤" if self.at_most else "≥"
        of_all = "median" if self.unit else "most"
        by = f"{of_all} of {self.runs} runs" if self.runs >= SETTLED_BY else f"{self.runs} of {SETTLED_BY} runs"
        return f"{number(self.value, self.unit)} ({sign} {number(self.bar, self.unit)}, {by}): {self.verdict}"


class Published(Struct, frozen=True):
    """One benchmark's file: runs of one commit on one machine, oldest first."""

    command: str
    commit: str
    machine: str
    runs: list[PublishedRun]
    figures: list[PublishedFigure]

    def runs_text(self) -> str:
        """When, of which commit, and where."""
        count = f"{len(self.runs)} run{'s' if len(self.runs) > 1 else ''}"
        return f"{count}, the last of {self.runs[-1].date[:10]}, of commit {self.commit[:12]}, on {self.machine}"

    def bars_text(self) -> str:
        """How many of the bars hold, and which do not."""
        missed = [each.what for each in self.figures if not each.holds]
        if not missed:
            return f"all {len(self.figures)} bars: {HOLDS}"
        return f"{len(self.figures) - len(missed)} of {len(self.figures)} bars hold; {FAILS}: {'; '.join(missed)}"


def number(value: float | None, unit: str) -> str:
    """A value with its unit, as every document writes it."""
    if value is None:
        return "–"
    return f"{value:,.{_DIGITS.get(unit, 0)}f} {unit}".rstrip()


def file_of(docs: Path, benchmark: str) -> Path:
    """Where a benchmark's figures are."""
    return docs / "figures" / f"{benchmark}.json"


def read(docs: Path, benchmark: str) -> Published:
    """A benchmark's figures."""
    return msgspec.json.decode(file_of(docs, benchmark).read_bytes(), type=Published)


def publish(
    docs: Path, benchmark: str, command: str, machine: "Machine", date: str, judged: Sequence[Judged]
) -> Published:
    """Add a run to a benchmark's file.  Runs of another commit or machine, or of other figures, are not kept."""
    path, commit, place = file_of(docs, benchmark), commit_of_tree(), describe(machine)
    run = PublishedRun(date, {each.id: each.value if isfinite(each.value) else None for each in judged})
    runs = [run]
    if path.exists():
        before = read(docs, benchmark)
        if (before.commit, before.machine) == (commit, place):
            runs = [*(each for each in before.runs if each.values.keys() == run.values.keys()), run][-SETTLED_BY:]
    found = Published(command, commit, place, runs, [_over(runs, each) for each in judged])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    return found


def _over(runs: Sequence[PublishedRun], figure: Judged) -> PublishedFigure:
    values = [value for run in runs if (value := run.values[figure.id]) is not None]
    over = median if figure.unit else max
    value = over(values) if len(values) == len(runs) else None
    holds = value is not None and (value <= figure.bar if figure.at_most else value >= figure.bar)
    return PublishedFigure(figure.id, figure.what, figure.unit, value, figure.bar, figure.at_most, holds, len(runs))


def describe(machine: "Machine") -> str:
    """A machine as the figures depend on it; the load of the moment is not part of it."""
    return (
        f"{machine.cores} cores, {machine.cpu}, {machine.memory_gib} GiB, {machine.kernel};"
        f" Python {machine.python}, {machine.postgres}"
    )


def commit_of_tree() -> str:
    """The commit that is checked out; changed files are named, except those in docs, which a run before may have written."""
    head = _git("rev-parse", "HEAD")
    if head is None:
        return "unknown"
    return head + (" with changes" if _git("status", "--porcelain", "--", ".", ":!docs") else "")


def _git(*words: str) -> str | None:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


# --- docs/verification.md


def filled(text: str, published: Mapping[str, Published]) -> str:
    """The page with every marker's text as the figures have it.  Raises `LookupError` for a name that they lack."""
    figures = {each.id: each for benchmark in published.values() for each in benchmark.figures}

    def fill(found: re.Match[str]) -> str:
        begin, kind, name, _, end = found.groups()
        known: Mapping[str, PublishedFigure | Published] = figures if kind == "figure" else published
        if name not in known:
            raise LookupError(f"{kind}: {name}: docs/figures has no such name; it has {', '.join(sorted(known))}")
        if kind == "figure":
            return begin + figures[name].text() + end
        of = published[name]
        return begin + (of.bars_text() if kind == "bars" else of.runs_text()) + end

    return _MARKER.sub(fill, text)


def write_verification(docs: Path) -> None:
    """Write the figures in docs/verification.md again, if the folder has the page."""
    page = docs / VERIFICATION
    if page.exists():
        page.write_text(filled(page.read_text(), {name: read(docs, name) for name in BENCHMARKS}))


# --- the checks


def findings(docs: Path) -> list[str]:
    """Where a document says something else than docs/figures."""
    published = {name: read(docs, name) for name in BENCHMARKS}
    found = list(_in_verification((docs / VERIFICATION).read_text(), published))
    for name, page in BENCHMARKS.items():
        found += _in_page(page, (docs / page).read_text(), published[name])
    for path in sorted(docs.rglob("*.md")):
        if path.name not in (VERIFICATION, *BENCHMARKS.values()) and FAILS in path.read_text():
            found.append(f"{path.name}: {FAILS} is a verdict of the pages of figures alone")
    return found


def _in_verification(text: str, published: Mapping[str, Published]) -> Iterator[str]:
    try:
        if filled(text, published) != text:
            yield f"{VERIFICATION}: its figures are not those of docs/figures: run `make docs`"
    except LookupError as error:
        yield f"{VERIFICATION}: {error}"
    for line in text.splitlines():
        cells = _cells(line)
        if len(cells) == 3 and re.search(r"`make bench(-moves)?\b", cells[1]):
            if not _MARKER.search(cells[2]):
                yield f"{VERIFICATION}: {cells[0]}: no figure of docs/figures is named: <!-- figure: … --><!-- end -->"
            if re.search(rf"\b({HOLDS}|hold|{FAILS})\b", _MARKER.sub("", cells[2])):
                yield f"{VERIFICATION}: {cells[0]}: a verdict outside the figures of docs/figures"
    named = {name for _, kind, name, _, _ in _MARKER.findall(text) if kind == "figure"}
    for benchmark in published.values():
        for figure in benchmark.figures:
            if figure.id not in named:
                yield f"{VERIFICATION}: figure {figure.id} ({figure.what}) is nowhere"


def _in_page(page: str, text: str, published: Published) -> Iterator[str]:
    verdicts = {
        ". ".join(cells[:2]) if cells[0].isdigit() else cells[0]: cells[-1]
        for cells in map(_cells, text.splitlines())
        if cells and cells[-1] in (HOLDS, FAILS)
    }
    judged = {each.what: each.verdict for each in published.figures}
    for what in sorted(verdicts.keys() | judged.keys()):
        if verdicts.get(what) != judged.get(what):
            yield f"{page}: {what}: {verdicts.get(what)}; docs/figures: {judged.get(what)}"
    if f"- Date: {published.runs[-1].date}\n" not in text:
        yield f"{page}: its date is not that of the last run in docs/figures, {published.runs[-1].date}"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []


@click.command()
def main() -> None:
    """Write the figures in docs/verification.md again."""
    write_verification(DOCS)


if __name__ == "__main__":
    main(prog_name="python -m tests.benchmarks.published")
