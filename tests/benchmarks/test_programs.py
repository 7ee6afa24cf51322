"""Starting, loading and ending programs: with the no-op server as the simplest of them."""

from pathlib import Path

import pytest

from tests.benchmarks.generator import wrk_installed
from tests.benchmarks.measure import MeasureFailed, Pins, Settings, generate, sample, write_requests
from tests.benchmarks.samples import NOOP
from tests.benchmarks.threads import SetUpFailed, make_threads
from tests.support.programs import ProgramFailed, running

_REQUESTS = [(f"/v1/threads/{n}/messages/add", '{"accountId":"A","messages":[{"text":"hello"}]}') for n in range(3)]
_TOOLS = ["own", "wrk"] if wrk_installed() else ["own"]


@pytest.mark.parametrize("tool", _TOOLS)
async def test_the_generator_counts_what_a_server_serves(tool: str, tmp_path: Path) -> None:
    """A short run against the no-op: successes, ordered percentiles, CPU of both sides, no failure."""
    log = tmp_path / "noop.log"
    async with running("no-op", ["-m", "tests.benchmarks.noop"], environment={}, log=log) as noop:
        taken = await sample(
            NOOP,
            noop,
            write_requests(tmp_path, _REQUESTS),
            connections=4,
            round_number=0,
            postgres_pid=None,
            settings=Settings(seconds=0.5, tool=tool),
        )
    measured = taken.measured
    assert measured.served >= measured.requests > 100
    assert measured.failures == {}
    marks = [measured.latency_ms[label] for label in ("p50", "p90", "p99", "p999", "max")]
    assert marks == sorted(marks)
    assert 1 < taken.server_cpu_us < 10_000
    assert measured.cpu_s > 0
    assert taken.postgres_cpu_us is None


async def test_a_run_of_failures_alone_is_no_figure(tmp_path: Path) -> None:
    """A server that refuses everything is not measured, and the answers are named."""
    requests = tmp_path / "requests.json"
    requests.write_text('[["/v1/nowhere", "{}"]]')
    log = tmp_path / "noop.log"
    async with running("no-op", ["-m", "tests.benchmarks.noop"], environment={}, log=log) as noop:
        with pytest.raises(MeasureFailed, match="404"):
            await generate(noop, requests, 2, 0.3, "own", Pins())
        with pytest.raises(SetUpFailed, match="404"):
            await make_threads(noop.url, 1)


async def test_a_program_that_does_not_start_is_named_with_its_log(tmp_path: Path) -> None:
    """The error has the program's last error output."""
    arguments = ["-c", "import sys; sys.exit('no database here')"]
    with pytest.raises(ProgramFailed, match="no database here"):
        async with running("worker", arguments, environment={}, log=tmp_path / "log"):
            pass


async def test_a_program_that_ends_by_itself_fails_the_run(tmp_path: Path) -> None:
    """A server that died meanwhile is not taken for a slow one."""
    arguments = ["-c", "print('ready 1', flush=True); import sys; sys.exit('out of memory')"]
    with pytest.raises(ProgramFailed, match="out of memory"):
        async with running("worker", arguments, environment={}, log=tmp_path / "log") as program:
            await program.ended()
