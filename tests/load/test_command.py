"""The command line: the two scenarios end to end as processes, their reports and their exit statuses."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.fakes.http_server import Faults, pretending
from tests.support.load.figures import Figures, percentile

_PNG = b"\x89PNG"


async def _load(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.load", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@pytest.mark.parametrize("scenario", ["reference", "chat"])
async def test_a_scenario_leaves_a_report(scenario: str, tmp_path: Path) -> None:
    """A short run succeeds and leaves a table, JSON whose counts add up, and a picture."""
    async with pretending() as server:
        status, output = await _load(
            scenario, "--url", server.address, "--users", "4", "--ramp", "0", "--pause", "0.01", "--hold", "1",
            "--limit", "400", "--out", str(tmp_path),
        )  # fmt: skip
    assert status == 0, output
    assert "adds up" in output
    document = json.loads((tmp_path / f"{scenario}.json").read_text())
    assert document["sent"] == document["accepted"] > 0
    assert document["findings"] == []
    assert {"p50", "p90", "p99", "p999", "max"} == set(document["operations"][0]["latency_ms"])
    assert (tmp_path / f"{scenario}.png").read_bytes().startswith(_PNG)


async def test_a_lying_server_fails_the_run(tmp_path: Path) -> None:
    """A finding is printed, written and turned into the exit status."""
    async with pretending(Faults(lose=20)) as server:
        status, output = await _load(
            "chat", "--url", server.address, "--users", "4", "--hold", "5", "--limit", "300", "--out", str(tmp_path)
        )
    assert status == 1
    assert "finding: " in output
    assert json.loads((tmp_path / "chat.json").read_text())["findings"]


async def test_a_remote_host_is_refused_before_anything_is_sent() -> None:
    """A host that is not this machine is refused with the option that allows it."""
    status, output = await _load("chat", "--url", "http://192.0.2.7")
    assert status == 2
    assert "--allow-remote" in output


async def test_a_refused_connection_is_no_success(tmp_path: Path) -> None:
    """A run that got nothing through says so and fails."""
    async with pretending() as server:
        address = server.address
    status, output = await _load("reference", "--url", address, "--ramp", "0", "--hold", "0.3", "--out", str(tmp_path))
    assert status == 1
    assert "is anything listening there?" in output


def test_attempts_that_do_not_add_up_are_named() -> None:
    """An attempt without an outcome is not swept under the sum."""
    figures = Figures()
    figures.send("add")
    assert figures.balance() == "add: sent 1, but 0 came of it"
    figures.lost("add", "lost")
    assert figures.balance() is None


@pytest.mark.parametrize(("fraction", "value"), [(0.5, 50.0), (0.99, 99.0), (0.999, 100.0), (1.0, 100.0)])
def test_percentiles_are_by_nearest_rank(fraction: float, value: float) -> None:
    """Of 1 … 100 the p-th percentile is p."""
    assert percentile([float(number) for number in range(1, 101)], fraction) == value
