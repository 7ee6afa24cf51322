"""``python -m tests.benchmarks.moves``: measure, judge, and keep the figures."""

import shutil
import sys
from pathlib import Path

import click
import msgspec
import uvloop

from tests.benchmarks.moves import report
from tests.benchmarks.moves.figures import broken, missed
from tests.benchmarks.moves.report import Run
from tests.benchmarks.moves.run import ALL, benchmark
from tests.benchmarks.moves.settings import QUICK, Settings
from tests.benchmarks.published import BENCHMARKS, DOCS, file_of, publish, write_verification

_OUT = Path(__file__).parent / "out"
_NAME = "moves"
_EPILOG = """\b
Examples
  python -m tests.benchmarks.moves
      all eight figures: about ten minutes
  python -m tests.benchmarks.moves --figures 1,2 --strict
      handoffs alone, and exit status 1 when a bar is missed: about three minutes
  python -m tests.benchmarks.moves --figures 3,7 --kills 50
      more kills than usual
  python -m tests.benchmarks.moves --quick
      does everything once, too shortly to mean anything: a check of the benchmark itself
  python -m tests.benchmarks.moves --write-docs
      and make this run the page docs/moves-performance.md, and one of the three runs that docs/figures/moves.json judges

\b
The figures
  1  pause of a shard that is handed over under load        p50 ≤ 20 ms, p99 ≤ 100 ms, no error
  2  first command after a handoff                          p99 ≤ 2 steady p99
  3  kill -9 until the last of its shards is served again   p99 ≤ 1.5 s
  4  SIGSTOP until the last of its shards is served again   ≤ 5 s
  5  two workers become three, 1,000 shards, balanced       ≤ 20 s, no error
  6  one of three workers leaves (SIGTERM)                  no failed request
  7  survivors' shards during a takeover                    p99 ≤ 2 steady p99
  8  a plan for 100,000 shards and 1,000 workers            ≤ 1 s

\b
How to read it
  Workers, Postgres and clients share the machine, so neighbours lengthen everything: the report says how many cores
  others kept busy.  Ratios have both sides from the same rounds.  Something BROKEN (an error where none may be, sums
  that do not add up) is not a matter of speed, and fails with --strict, and with --quick as well.
"""


def _keep(run: Run, out: Path, docs: Path | None) -> None:
    document = msgspec.json.encode(report.as_document(run))
    (out / "moves.json").write_bytes(msgspec.json.format(document, indent=2) + b"\n")
    (out / "moves.txt").write_text(report.as_text(run) + "\n")
    report.draw(run, out / "moves.png")
    if docs is not None:
        published = publish(docs, _NAME, "make bench-moves", run.machine, run.at, run.judged())
        page = docs / BENCHMARKS[_NAME]
        page.write_text(report.as_page(run, published))
        shutil.copyfile(out / "moves.png", page.with_suffix(".png"))
        write_verification(docs)


def _numbers(_context: click.Context, _parameter: click.Parameter, value: str) -> frozenset[int]:
    try:
        found = frozenset(int(number) for number in value.split(","))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if not found <= ALL:
        raise click.BadParameter("the figures are 1 to 8")
    return found


@click.command(epilog=_EPILOG, context_settings={"max_content_width": 120})
@click.option("--figures", default="1,2,3,4,5,6,7,8", show_default=True, callback=_numbers, help="Which, by commas.")
@click.option("--rounds", type=click.IntRange(1, 100), default=10, show_default=True, help="Of 44 handoffs each.")
@click.option("--kills", type=click.IntRange(1, 500), default=24, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Of whom, when and where to.")
@click.option("--quick", is_flag=True, help="Once and briefly: does the benchmark itself work?")
@click.option("--strict", is_flag=True, help="Exit with 1 when a bar is missed.")
@click.option("--write-docs", is_flag=True, help="Write the page, docs/figures and verification.md too.")
@click.option("--docs", type=click.Path(path_type=Path, file_okay=False, exists=True), default=DOCS, help="Where to.")
@click.option("--out", type=click.Path(path_type=Path), default=_OUT, help="Folder of the report.")
def main(
    figures: frozenset[int],
    rounds: int,
    kills: int,
    seed: int,
    quick: bool,
    strict: bool,
    write_docs: bool,
    docs: Path,
    out: Path,
) -> None:
    """Measure what moves of shards cost those who write to them.

    Everything is started by the benchmark itself: a Postgres, three workers, and the load; figure 5 brings up whole
    clusters with `threadcluster local up`.
    """
    if write_docs and docs.resolve() == DOCS and (quick or figures != ALL):
        raise click.UsageError("--write-docs publishes whole runs alone: without --quick, with all eight figures")
    settings = QUICK if quick else Settings(seed=seed, handoff_rounds=rounds, kill_rounds=kills)
    out.mkdir(parents=True, exist_ok=True)
    run = uvloop.run(benchmark(out, settings, figures))
    wrong = broken(run.figures)
    publishes = write_docs and not wrong
    _keep(run, out, docs if publishes else None)
    click.echo(report.as_text(run))
    click.echo(f"\nreport: {out}/moves.json, .txt and .png" + (f"; {file_of(docs, _NAME)}" if publishes else ""))
    failed = wrong if quick else missed(run.figures)
    if failed:
        click.echo("missed: " + "; ".join(failed))
        if wrong and write_docs:
            click.echo("nothing was published: this run is broken")
        if strict or quick or (wrong and write_docs):
            sys.exit(1)


if __name__ == "__main__":
    main(prog_name="python -m tests.benchmarks.moves")
