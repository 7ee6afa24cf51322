"""The figures in the documents: all say what docs/figures says, and a bar is settled by three runs."""

import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.benchmarks import published
from tests.benchmarks.published import BENCHMARKS, DOCS, Judged, Published, findings, publish, read, write_verification
from tests.benchmarks.report import Machine

_MACHINE = Machine(2, "a processor", "Linux 6", 24.0, "3.11.7", "PostgreSQL 16", {}, 0.0)
_FAILURES = Judged("failures", "requests that failed", "", 0.0, 0.0, at_most=True)


def _ratio(value: float) -> Judged:
    return Judged("ratio", "a ÷ b", "×", value, 2.0, at_most=True)


@pytest.fixture
def commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run is of one commit."""
    monkeypatch.setattr(published, "commit_of_tree", lambda: "c0ffee")


def _publish(docs: Path, *judged: Judged, machine: Machine = _MACHINE) -> Published:
    return publish(docs, "performance", "make bench", machine, "2026-01-01T00:00:00+00:00", judged)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A copy of the documents."""
    return Path(shutil.copytree(DOCS, tmp_path / "docs"))


def test_the_documents_say_what_the_figures_say() -> None:
    """`make docs` writes the figures in docs/verification.md; a benchmark with ``--write-docs`` writes all of them."""
    assert findings(DOCS) == []


@pytest.mark.usefixtures("commit")
def test_a_bar_is_settled_by_the_median_of_three_runs(tmp_path: Path) -> None:
    """Until there are three the text says how many there are; a fourth run replaces the first."""
    texts = [_publish(tmp_path, _ratio(value)).figures[0].text() for value in (2.5, 1.0, 1.5, 1.75)]
    assert texts == [
        "2.50 × (≤ 2.00 ×, 1 of 3 runs): FAILS",
        "1.75 × (≤ 2.00 ×, 2 of 3 runs): holds",
        "1.50 × (≤ 2.00 ×, median of 3 runs): holds",
        "1.50 × (≤ 2.00 ×, median of 3 runs): holds",
    ]
    assert [run.values["ratio"] for run in read(tmp_path, "performance").runs] == [1.0, 1.5, 1.75]


@pytest.mark.usefixtures("commit")
def test_failures_are_judged_by_the_worst_run(tmp_path: Path) -> None:
    """A failed request is no noise that a median may remove."""
    for value in (0.0, 1.0, 0.0):
        found = _publish(tmp_path, replace(_FAILURES, value=value))
    assert found.figures[0].text() == "1 (≤ 0, most of 3 runs): FAILS"


@pytest.mark.usefixtures("commit")
def test_a_figure_that_was_not_measured_fails(tmp_path: Path) -> None:
    """JSON has no NaN; the text has a dash."""
    assert _publish(tmp_path, _ratio(float("nan"))).figures[0].text() == "– (≤ 2.00 ×, 1 of 3 runs): FAILS"
    assert read(tmp_path, "performance").runs[0].values == {"ratio": None}


def test_runs_of_another_commit_or_machine_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A median is of runs of one thing."""
    monkeypatch.setattr(published, "commit_of_tree", lambda: "one")
    _publish(tmp_path, _ratio(1.0))
    monkeypatch.setattr(published, "commit_of_tree", lambda: "two")
    assert len(_publish(tmp_path, _ratio(1.0)).runs) == 1
    assert len(_publish(tmp_path, _ratio(1.0), machine=replace(_MACHINE, load_before=9.0)).runs) == 2
    assert len(_publish(tmp_path, _ratio(1.0), machine=replace(_MACHINE, cores=4)).runs) == 1
    assert len(_publish(tmp_path, _ratio(1.0), _FAILURES, machine=replace(_MACHINE, cores=4)).runs) == 1


def test_the_commit_of_a_run_is_that_of_the_checkout() -> None:
    """With a word about changes that are not committed."""
    assert published.commit_of_tree().partition(" ")[0] == published._git("rev-parse", "HEAD")


@pytest.mark.parametrize(
    ("page", "old", "new", "finding"),
    [
        ("verification.md", "<!-- figure: cpu_ratio -->", "<!-- figure: cpu_ratio -->9", "run `make docs`"),
        ("verification.md", "<!-- figure: cpu_ratio -->", "<!-- figure: no_such -->", "no such name"),
        ("verification.md", "<!-- figure: plan_max -->", "<!-- figure: kill_p99 -->", "plan_max"),
        ("verification.md", "| `make bench` | ", "| `make bench` | holds; ", "a verdict outside"),
        ("performance.md", "| holds |", "| FAILS |", "FAILS; docs/figures: holds"),
        ("moves-performance.md", "- Date: 2", "- Date: 1", "its date is not"),
        ("faults.md", "# ", "# FAILS ", "of the pages of figures alone"),
    ],
)
def test_a_contradiction_is_found(docs: Path, page: str, old: str, new: str, finding: str) -> None:
    """Wherever it is; and a row whose command is a benchmark without a figure of it."""
    path = docs / page
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert any(finding in each for each in findings(docs)), findings(docs)


def test_a_row_of_a_benchmark_without_a_figure_is_found(docs: Path) -> None:
    """A figure that is typed by hand goes stale."""
    path = docs / "verification.md"
    path.write_text(path.read_text() + "| something is quick | `make bench` | 1.0 s |\n")
    assert any("no figure of docs/figures is named" in finding for finding in findings(docs))


def test_verification_is_written_from_the_figures(docs: Path) -> None:
    """A figure that was changed by hand is replaced; all else stays."""
    path = docs / "verification.md"
    before = path.read_text()
    path.write_text(before.replace("<!-- figure: cpu_ratio -->", "<!-- figure: cpu_ratio -->9"))
    write_verification(docs)
    assert path.read_text() == before
    assert all((docs / page).exists() for page in BENCHMARKS.values())
