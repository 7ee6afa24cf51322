"""``python -m tests.benchmarks``: measure, judge, and keep the figures."""

import sys
from contextlib import AsyncExitStack
from pathlib import Path

import click
import msgspec
import uvloop

from tests.benchmarks import report
from tests.benchmarks.cpu import can_pin, cores
from tests.benchmarks.generator import wrk_installed
from tests.benchmarks.measure import Pins, Settings
from tests.benchmarks.postgres import own_postgres
from tests.benchmarks.published import BENCHMARKS, DOCS, file_of, publish, write_verification
from tests.benchmarks.report import Run
from tests.benchmarks.run import benchmark

_OUT = Path(__file__).parent / "out"
_NAME = "performance"
_EPILOG = """\b
Examples
  python -m tests.benchmarks
      five rounds at 16, 64 and 256 connections: about five minutes
  python -m tests.benchmarks --connections 64 --rounds 5 --strict
      the judged ratios alone, and exit status 1 when a bar is missed: about two minutes
  python -m tests.benchmarks --quick
      does everything once, too shortly to mean anything: a check of the benchmark itself
  python -m tests.benchmarks --write-docs
      and make this run the page docs/performance.md, and one of the three runs that docs/figures/performance.json judges

\b
How to read it
  Ratios are formed within a round and judged by their median; rounds are interleaved, so neighbours disturb both sides
  alike.  A run whose generator filled its core (95 %) is called bound: it says nothing about the subject's limit.
  On two cores or more the servers are tied to one core, Postgres and the generator to another; --no-pin leaves it to
  the scheduler.
"""


async def _measure(settings: Settings, out: Path, url: str | None) -> Run:
    async with AsyncExitStack() as stack:
        base = url if url is not None else await stack.enter_async_context(own_postgres(out))
        return await benchmark(base, settings, out)


def _keep(run: Run, out: Path, docs: Path | None) -> None:
    document = msgspec.json.encode(report.as_document(run))
    (out / "benchmark.json").write_bytes(msgspec.json.format(document, indent=2) + b"\n")
    (out / "benchmark.txt").write_text(report.as_text(run) + "\n")
    report.draw(run, out / "benchmark.png")
    if docs is not None:
        published = publish(docs, _NAME, "make bench", run.machine, run.at, run.judged())
        (docs / BENCHMARKS[_NAME]).write_text(report.as_page(run, published))
        write_verification(docs)


@click.command(epilog=_EPILOG, context_settings={"max_content_width": 120})
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.2, 60), default=3.0, show_default=True, help="Of each sample.")
@click.option("--connections", default="16,64,256", show_default=True, help="Numbers, by commas; 64 is judged.")
@click.option("--generator", type=click.Choice(["auto", "wrk", "own"]), default="auto", show_default=True)
@click.option("--pin/--no-pin", default=True, show_default=True, help="Tie processes to cores.")
@click.option("--database-url", default=None, help="A superuser's URL of a local Postgres, instead of one of our own.")
@click.option("--quick", is_flag=True, help="One short round: does the benchmark itself work?")
@click.option("--strict", is_flag=True, help="Exit with 1 when a ratio misses its bar.")
@click.option("--write-docs", is_flag=True, help="Write the page, docs/figures and verification.md too.")
@click.option("--docs", type=click.Path(path_type=Path, file_okay=False, exists=True), default=DOCS, help="Where to.")
@click.option("--out", type=click.Path(path_type=Path), default=_OUT, help="Folder of the report.")
def main(
    rounds: int,
    seconds: float,
    connections: str,
    generator: str,
    pin: bool,
    database_url: str | None,
    quick: bool,
    strict: bool,
    write_docs: bool,
    docs: Path,
    out: Path,
) -> None:
    """Measure durable commands against a no-op, against one transaction a command, and the fence against none.

    Everything is started by the benchmark itself: a Postgres, one worker, the programs it is compared with, and the
    load generator (wrk where it is installed, else its own).
    """
    try:
        counts = tuple(sorted({int(count) for count in connections.split(",")}))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--connections") from error
    if counts[0] < 1:
        raise click.BadParameter("a number of connections is at least 1", param_hint="--connections")
    if generator == "wrk" and not wrk_installed():
        raise click.BadParameter("wrk is not installed (Debian: apt-get install wrk)", param_hint="--generator")
    tool = "wrk" if generator == "wrk" or (generator == "auto" and wrk_installed()) else "own"
    pins = Pins(server=cores()[0], rest=cores()[1]) if pin and can_pin() else Pins()
    settings = Settings(
        rounds=rounds,
        seconds=seconds,
        connections=counts,
        judged_at=64 if 64 in counts else counts[-1],
        tool=tool,
        pins=pins,
    )
    if quick:
        settings = Settings(
            rounds=1,
            seconds=0.5,
            connections=(16,),
            judged_at=16,
            threads=50,
            fence_seconds=0.3,
            tool=tool,
            pins=pins,
        )
    if write_docs and docs.resolve() == DOCS and (quick or settings.judged_at != 64):
        raise click.UsageError("--write-docs publishes whole runs alone: without --quick, with 64 among --connections")
    out.mkdir(parents=True, exist_ok=True)
    run = uvloop.run(_measure(settings, out, database_url))
    _keep(run, out, docs if write_docs else None)
    click.echo(report.as_text(run))
    click.echo(f"\nreport: {out}/benchmark.json, .txt and .png" + (f"; {file_of(docs, _NAME)}" if write_docs else ""))
    missed = [ratio.name for ratio in run.ratios() if ratio.holds is False]
    if missed and not quick:
        click.echo("missed: " + "; ".join(missed))
        if strict:
            sys.exit(1)


if __name__ == "__main__":
    main(prog_name="python -m tests.benchmarks")
