"""The benchmark end to end, too short to mean anything: it must work, and its output must be sane."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.benchmarks.published import read
from tests.benchmarks.samples import HOT, NOOP, STATEMENT, TRANSACTION, WORKER


@pytest.mark.soak
async def test_the_quick_form_measures_every_subject(tmp_path: Path) -> None:
    """Own Postgres, real worker, baselines, fence: every subject is measured without one failed command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks", "--quick", "--out", str(tmp_path), "--write-docs", "--docs", str(tmp_path),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(120):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    document = json.loads((tmp_path / "benchmark.json").read_text())
    table = {row["subject"]: row for row in document["table"]}
    assert set(table) == {NOOP, WORKER, HOT, TRANSACTION, STATEMENT}
    for subject, row in table.items():
        assert row["failures"] == 0, subject
        assert row["per_second"]["median"] > 0, subject
        assert row["server_cpu_us"]["median"] > 0, subject
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["p999_ms"], subject
        assert (row["postgres_cpu_us"] is None) == (subject == NOOP), subject
    assert {each["shards_a_batch"] for each in document["fence"]} == {1, 8, 28}
    assert len(document["ratios"]) == 12
    assert document["machine"]["cores"] >= 1
    assert (tmp_path / "benchmark.png").stat().st_size > 1_000
    assert (tmp_path / "benchmark.txt").read_text().strip() in output.decode()
    published = read(tmp_path, "performance")
    assert [len(published.runs), len(published.figures)] == [1, 6]
    assert all(figure.value is not None for figure in published.figures)
    assert published.runs_text() in (tmp_path / "performance.md").read_text()
    assert not list(tmp_path.glob("postgres-*")), "the throw-away data directory is removed"
