"""The arithmetic of the benchmark: ratios, verdicts, tables, CPU accounts, and the fence on a real Postgres."""

import asyncio
import os
import sys
import time
from pathlib import Path

import asyncpg
import pytest

from tests.benchmarks import report
from tests.benchmarks.core import Core, measure_core
from tests.benchmarks.cpu import process_cpu_s, tree_cpu_s
from tests.benchmarks.fence import FenceBench, FenceRound
from tests.benchmarks.generator import Measured
from tests.benchmarks.measure import Settings
from tests.benchmarks.published import publish
from tests.benchmarks.samples import HOT, NOOP, TRANSACTION, WORKER, Sample, ratios, spread
from tests.conftest import MakeDatabase


def _sample(subject: str, number: int, rate: float, cpu_us: float, *, generator_s: float = 0.3) -> Sample:
    latency = {"p50": 1.0, "p90": 2.0, "p99": 3.0, "p999": 4.0, "max": 5.0}
    measured = Measured("own", int(rate), int(rate), 1.0, {}, latency, generator_s)
    return Sample(subject, 64, number, measured, cpu_us, 10.0, 0.9, 0.3)


_SAMPLES = [
    each
    for number, slow in enumerate((1.0, 0.5, 0.8))  # a neighbour slows whole rounds: no ratio may notice
    for each in (
        _sample(NOOP, number, 30_000 * slow, 30 / slow),
        _sample(WORKER, number, 24_000 * slow, 45 / slow),
        _sample(HOT, number, 18_000 * slow, 50 / slow),
        _sample(TRANSACTION, number, 8_000 * slow, 100 / slow),
    )
]
_FENCE = [FenceRound(28, 50_000, 55_000, 9, 8, 0.88, 0.8), FenceRound(28, 50_000, 55_000, 9, 8, 1.0, 0.8)]


def test_a_ratio_is_formed_within_its_round() -> None:
    """Rounds of different speed give the same ratio, without any spread."""
    found = {ratio.name: ratio for ratio in ratios(_SAMPLES, [], 64)}
    cpu = found["worker CPU a durable command ÷ no-op"]
    assert (cpu.value.median, cpu.value.low, cpu.value.high) == pytest.approx((1.5, 1.5, 1.5))
    assert cpu.holds is True
    assert found["durable commands/s ÷ one transaction a command"].value.median == pytest.approx(3.0)


def test_a_missed_bar_is_called_so() -> None:
    """A hot thread at 0.75 of many misses its 0.8; the fence is judged by what it adds."""
    found = {ratio.name: ratio for ratio in ratios(_SAMPLES, _FENCE, 64)}
    assert found["one hot thread ÷ many threads"].holds is False
    fence = found["what the fence adds to an append of 32 events over 28 shards"]
    assert fence.value.median == pytest.approx(0.175)
    assert fence.holds is False


def test_a_ratio_without_its_samples_is_left_out() -> None:
    """A figure that was not measured is not judged."""
    assert [ratio.name for ratio in ratios(_SAMPLES, [], 16)] == []


@pytest.mark.parametrize(("generator_s", "bound"), [(0.94, False), (0.95, True)])
def test_a_run_that_its_generator_bounds_is_called_so(generator_s: float, bound: bool) -> None:
    """From 95 % of a core on the generator set the pace."""
    assert _sample(WORKER, 0, 1.0, 1.0, generator_s=generator_s).bound is bound


def test_the_median_comes_with_its_spread() -> None:
    """A figure says between which values it lay."""
    found = spread([3.0, 1.0, 2.0])
    assert (found.median, found.low, found.high) == (2.0, 1.0, 3.0)


def test_a_run_is_reported_in_every_form(tmp_path: Path) -> None:
    """Table, JSON, page and picture hold the subjects, the machine and the verdicts."""
    run = report.Run(
        report.now(),
        report.this_machine("PostgreSQL 16"),
        Settings(connections=(64,)),
        _SAMPLES,
        _FENCE,
        Core(3e5, 9e3, 2e4),
    )
    assert "FAILS" in report.as_text(run)
    published = publish(tmp_path, "performance", "make bench", run.machine, run.at, run.judged())
    page = report.as_page(run, published)
    assert "PostgreSQL 16" in page
    assert f"{os.cpu_count()} cores" in page
    assert [ratio["holds"] for ratio in report.as_document(run)["ratios"]][:3] == [True, True, False]
    report.draw(run, tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


async def test_the_account_of_a_tree_includes_children_that_ended() -> None:
    """CPU burnt by a child counts for its parent's tree after the child is gone."""
    child = "import time\nwhile time.process_time() < 0.3: pass"
    burn = f"import subprocess,sys; subprocess.run([sys.executable, '-c', {child!r}]); print(1, flush=True); input()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", burn, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        await process.stdout.readline()
    assert tree_cpu_s(process.pid) > 0.25
    process.kill()
    await process.wait()


def test_the_account_of_a_process_grows_with_its_work() -> None:
    """Work done here is seen in the kernel's account of this process, to its 10 ms."""
    before, began = process_cpu_s(os.getpid()), time.process_time()
    while time.process_time() - began < 0.1:
        sum(range(10_000))
    assert process_cpu_s(os.getpid()) - before == pytest.approx(0.1, abs=0.05)


async def test_the_fence_is_measured_on_dense_rows(make_database: MakeDatabase) -> None:
    """Both statements store what they are given: sequences dense in every shard, at epoch 1, over several rounds."""
    url = await make_database(144)
    fenced, unfenced = await asyncpg.connect(url), await asyncpg.connect(url)
    bench = FenceBench(fenced, unfenced)
    await bench.prepare()
    for shards in (1, 28):
        measured = await bench.round(shards, 0.1)
        assert measured.fenced_events_s > 0
        assert measured.unfenced_events_s > 0
    rows = await fenced.fetch(
        "SELECT shard_id < 72 AS fenced, bool_and(last = n) AS dense FROM"
        " (SELECT shard_id, count(*) AS n, max(shard_seq) AS last FROM journal GROUP BY 1) s GROUP BY 1"
    )
    assert {row["fenced"]: row["dense"] for row in rows} == {True: True, False: True}
    assert await fenced.fetchval("SELECT array_agg(DISTINCT epoch) FROM journal") == [1]
    with pytest.raises(RuntimeError, match="empty journal"):
        await bench.prepare()
    await fenced.close()
    await unfenced.close()


def test_the_core_is_measured_without_a_server() -> None:
    """Replay and weight come out as figures of a plausible size."""
    found = measure_core(0.05)
    assert found.replay_events_s > 1_000
    assert 1_000 < found.thread_bytes < 200_000
    assert found.nested_dict_bytes > 1_000
