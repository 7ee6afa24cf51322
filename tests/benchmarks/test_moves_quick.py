"""The benchmark of moves end to end, too short to mean anything: nothing fails, and everything adds up."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.benchmarks.published import read


@pytest.mark.soak
async def test_the_quick_form_measures_every_figure(tmp_path: Path) -> None:
    """Real workers move, die, freeze and leave under load: no command that should not fails, and no sum is off."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks.moves", "--quick", "--out", str(tmp_path), "--write-docs", "--docs", str(tmp_path),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(180):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    document = json.loads((tmp_path / "moves.json").read_text())
    assert [figure["number"] for figure in document["figures"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    for figure in document["figures"]:
        assert figure["broken"] == [], figure["title"]
        assert figure["bars"], figure["title"]
        assert all(each["n"] > 0 for each in figure["distributions"]), figure["title"]
    failed = {
        bar["what"]: bar["value"] for figure in document["figures"] for bar in figure["bars"] if bar["unit"] == ""
    }
    assert set(failed.values()) == {0.0}, failed
    published = read(tmp_path, "moves")
    assert [len(published.runs), len(published.figures)] == [1, 13]
    assert published.runs_text() in (tmp_path / "moves-performance.md").read_text()
    assert (tmp_path / "moves.png").stat().st_size > 1_000
    assert (tmp_path / "moves.txt").read_text().strip() in output.decode()
