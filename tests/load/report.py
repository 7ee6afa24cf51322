"""Report of a load run: a table to read, JSON to compare, a picture.

matplotlib is imported only when a picture is drawn: it takes longer to load than a short run.
"""

from pathlib import Path
from typing import Any

import msgspec

from tests.support.load.figures import Figures, percentile

_COLOURS = {"accepted": "#2a7f62", "refused": "#c77d1e", "unknown": "#b3262e"}


def as_document(figures: Figures, about: dict[str, Any], findings: list[str]) -> dict[str, Any]:
    """The whole report as JSON values."""
    return {
        **about,
        "elapsed_s": round(figures.elapsed_s, 3),
        "sent": figures.sent,
        "accepted": figures.total("accepted"),
        "refused": figures.total("refused"),
        "outcome_unknown": figures.total("unknown"),
        "not_sent": figures.not_sent,
        "balance": figures.balance() or "sent = accepted + refused + outcome unknown",
        "checks_failed": dict(sorted(figures.check_failures.items())),
        "findings": findings,
        "operations": msgspec.to_builtins(figures.summaries()),
        "per_second": {name: _dense(counts) for name, counts in figures.seconds.items()},
    }


def _dense(counts: dict[int, int]) -> list[int]:
    return [counts.get(second, 0) for second in range(max(counts, default=-1) + 1)]


def as_table(figures: Figures) -> str:
    """The same for people: one line an operation, milliseconds."""
    head = f"{'operation':<14}{'sent':>9}{'ok':>9}{'refused':>9}{'unknown':>9}{'ok/s':>9}"
    head += "".join(f"{label:>9}" for label in ("p50", "p90", "p99", "p999", "max")) + "  (ms)"
    lines = [head]
    for row in figures.summaries():
        line = (
            f"{row.operation:<14}{row.sent:>9}{row.accepted:>9}{row.refused:>9}{row.unknown:>9}{row.per_second:>9.1f}"
        )
        line += "".join(
            f"{row.latency_ms[label]:>9.1f}" if row.latency_ms else f"{'-':>9}"
            for label in ("p50", "p90", "p99", "p999", "max")
        )
        lines.append(line)
    for row in figures.summaries():
        odd = {code: count for code, count in row.by_code.items() if code != "200"}
        lines += [f"  {row.operation}: {count} x {code}" for code, count in odd.items()]
    lines.append(
        f"sent {figures.sent} = accepted {figures.total('accepted')} + refused {figures.total('refused')}"
        f" + outcome unknown {figures.total('unknown')}: {figures.balance() or 'adds up'}"
        f" (not sent for want of a connection: {figures.not_sent})"
    )
    lines += [f"check failed {count} times: {what}" for what, count in sorted(figures.check_failures.items())]
    return "\n".join(lines)


def draw(figures: Figures, title: str, path: Path) -> None:
    """Throughput over time by outcome, and the latency distribution by operation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    figure.suptitle(title)
    over_time, latency = figure.subplots(1, 2)
    for outcome, counts in figures.seconds.items():
        series = _dense(counts)
        if any(series):
            over_time.step(range(len(series)), series, where="post", label=outcome, color=_COLOURS[outcome])
    over_time.set(xlabel="seconds since the start", ylabel="attempts a second", ylim=(0, None))
    if any(figures.seconds.values()):
        over_time.legend()
    for name, found in sorted(figures.operations.items()):
        ordered = sorted(found.latencies_s)
        if ordered:
            fractions = [index / 200 for index in range(200)] + [0.999, 1.0]
            latency.plot([percentile(ordered, f) * 1000 for f in fractions], fractions, label=name)
    latency.set(xscale="log", xlabel="latency, ms", ylabel="fraction of answers at most this long", ylim=(0, 1.01))
    latency.grid(True, which="both", alpha=0.25)
    if any(found.latencies_s for found in figures.operations.values()):
        latency.legend()
    figure.savefig(path, dpi=120)
