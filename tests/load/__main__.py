"""``python -m tests.load``: send load, watch it, report it."""

import asyncio
import platform
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
import uvloop

from tests.load import report
from tests.load.reference import simulate
from tests.support.load.chat import Recorder, drive, verify
from tests.support.load.figures import Figures
from tests.support.load.target import Target, TargetRefused, parse_target

_OUT = Path(__file__).parent / "out"
_EPILOG = """\b
Examples
  python -m tests.load reference
      the reference's own local run: 10 users, 10 s ramp, 10 s pause, 30 s hold, against 127.0.0.1:8080
  python -m tests.load reference --users 100 --pause 3 --ramp 20 --hold 60
      the size of the reference's cloud run, on one machine
  python -m tests.load chat --users 64 --hold 30
      64 clients chatting as fast as they are answered; afterwards everything is read back and checked
  python -m tests.load chat --url http://127.0.0.1:8080 --url http://127.0.0.1:9001 --seed 7
      the same through several workers; a client moves to the next address after a failure

\b
How to read the report
  Every attempt that was sent ends as accepted (2xx), refused (an answer that says that nothing was stored) or
  outcome unknown (503 outcome-unknown, no answer in time, a broken connection).  The three add up to what was sent.
  Latencies are those of answered attempts, in milliseconds, seen by the client.
  Exit status: 0 all well; 1 a check failed, or a finding; 2 the command line is wrong.
"""


class _Bounds(msgspec.Struct, frozen=True):
    users: int
    ramp_s: float
    pause_s: float
    hold_s: float
    limit: int
    timeout_s: float
    seed: int
    verify: bool


async def _progress(figures: Figures, every_s: float) -> None:
    last = 0
    while True:
        await asyncio.sleep(every_s)
        accepted = figures.total("accepted")
        click.echo(
            f"{figures.elapsed_s:6.0f} s  {(accepted - last) / every_s:9.1f} ok/s   sent {figures.sent}"
            f"   refused {figures.total('refused')}   unknown {figures.total('unknown')}"
            f"   no connection {figures.not_sent}",
            err=True,
        )
        last = accepted


async def _watched(load: Coroutine[Any, Any, Any], figures: Figures) -> Any:
    watcher = asyncio.create_task(_progress(figures, 2.0), name="load progress")
    try:
        return await load
    finally:
        watcher.cancel()


async def _run(scenario: str, targets: tuple[Target, ...], bounds: _Bounds, figures: Figures) -> list[str]:
    if scenario == "reference":
        load = simulate(
            targets,
            figures,
            users=bounds.users,
            ramp_s=bounds.ramp_s,
            pause_s=bounds.pause_s,
            hold_s=bounds.hold_s,
            timeout_s=bounds.timeout_s,
        )
        await _watched(load, figures)
        return []
    urls = [target.url for target in targets]
    recorder = Recorder(seed=bounds.seed, clients=bounds.users)
    chat = drive(
        urls,
        clients=bounds.users,
        duration_s=bounds.ramp_s + bounds.hold_s,
        seed=bounds.seed,
        pause_s=bounds.pause_s,
        ramp_s=bounds.ramp_s,
        timeout_s=bounds.timeout_s,
        recorder=recorder,
        figures=figures,
        allow_remote=True,  # refused before, when it was not asked for
    )
    record = await _watched(chat, figures)
    if not bounds.verify:
        return []
    click.echo(f"reading back {len(record.acknowledged)} acknowledged commands", err=True)
    return await verify(urls, record, allow_remote=True)


def _report(
    scenario: str, targets: tuple[Target, ...], bounds: _Bounds, figures: Figures, findings: list[str], out: Path
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    about = {
        "scenario": scenario,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "urls": [target.url for target in targets],
        "bounds": msgspec.to_builtins(bounds),
        "python": platform.python_version(),
    }
    document = report.as_document(figures, about, findings)
    (out / f"{scenario}.json").write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    report.draw(figures, f"{scenario}: {bounds.users} users", out / f"{scenario}.png")
    click.echo(report.as_table(figures))
    for finding in findings:
        click.echo(f"finding: {finding}")
    click.echo(f"report: {out / scenario}.json and .png")


@click.command(epilog=_EPILOG, context_settings={"max_content_width": 120})
@click.argument("scenario", type=click.Choice(["reference", "chat"]), default="reference")
@click.option("--url", "urls", multiple=True, default=["http://127.0.0.1:8080"], help="Base URL; may be repeated.")
@click.option("--users", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Virtual users.")
@click.option("--ramp", type=click.FloatRange(0, 3600), default=None, help="Seconds to start them over.  [10; chat: 0]")
@click.option("--pause", type=click.FloatRange(0, 600), default=None, help="Seconds between steps.  [10; chat: 0]")
@click.option("--hold", type=click.FloatRange(0.1, 3600), default=30, show_default=True, help="Seconds after the ramp.")
@click.option("--limit", type=click.IntRange(1), default=1_000_000, show_default=True, help="Attempts at most.")
@click.option(
    "--timeout", type=click.FloatRange(0.1, 120), default=10, show_default=True, help="Seconds for an answer."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choices of chat.")
@click.option("--verify/--no-verify", default=True, show_default=True, help="Read back what chat was acknowledged.")
@click.option("--allow-remote", is_flag=True, help="Send load to a host that is not this machine.")
@click.option("--out", type=click.Path(path_type=Path), default=_OUT, help="Folder of the report.  [tests/load/out]")
def main(
    scenario: str,
    urls: tuple[str, ...],
    users: int,
    ramp: float | None,
    pause: float | None,
    hold: float,
    limit: int,
    timeout: float,
    seed: int,
    verify: bool,
    allow_remote: bool,
    out: Path,
) -> None:
    """Send load to a ThreadCluster and report what came of every attempt.

    SCENARIO is `reference` (create, pause, get: the load test of the system whose API this is) or `chat` (create, join
    and leave members, add and remove messages, reads; keyed and retried; read back and checked at the end).
    """
    try:
        targets = tuple(parse_target(url, allow_remote=allow_remote) for url in urls)
    except TargetRefused as refused:
        raise click.BadParameter(str(refused), param_hint="--url") from refused
    usual = 10.0 if scenario == "reference" else 0.0
    bounds = _Bounds(
        users=users,
        ramp_s=usual if ramp is None else ramp,
        pause_s=usual if pause is None else pause,
        hold_s=hold,
        limit=limit,
        timeout_s=timeout,
        seed=seed,
        verify=verify,
    )
    figures = Figures(limit=limit)
    findings: list[str] = []
    try:
        findings = uvloop.run(_run(scenario, targets, bounds, figures))
    except KeyboardInterrupt:
        click.echo("stopped by hand; what follows is the part that ran", err=True)
        figures.end()
    _report(scenario, targets, bounds, figures, findings, out)
    nothing = figures.total("accepted") == 0
    if nothing:
        click.echo("nothing was accepted: is anything listening there?", err=True)
    if findings or figures.check_failures or figures.balance() is not None or nothing:
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="python -m tests.load")
