"""One worker process lives through every outage of its Postgres: what it answered is what the journal holds.

For each outage: a command answered 200 is stored once, one answered that nothing was stored is not stored, nothing is
stored after its budget but what was at the server then (and that is answered `outcome-unknown`), the worker's memory is
bounded, and it serves again without a restart.
"""

import time
from pathlib import Path

import pytest

from tests.e2e.outages.faults import OUTAGES
from tests.e2e.outages.harness import PENDING_BYTES, Figure, Harness, accepted_again, harness_in
from tests.support.polling import eventually

_AT_THE_SERVER: frozenset[str] = frozenset({"frozen", "synchronous standby lost"})
"""Outages in which a statement that has reached the server is carried out when the outage ends."""
_RSS_MORE_MB = 80.0
"""Sixty posts of 100 kB and the bytes that may be pending, with a margin for the allocator."""


async def play(harness: Harness, outage: str, *, for_s: float, heals_s: float) -> Figure:
    """One outage under load; everything that is not as it must be is in the figure's findings."""
    figure = Figure(outage, for_s, rss_before_mb=harness.rss_mb())
    pid = harness.worker.pid
    async with harness.load(outage) as sent:
        await eventually(lambda: len(sent) >= 20, what="load before the outage")
        async with OUTAGES[outage](harness):
            began = time.time()
            waves = []
            while time.time() < began + for_s:
                waves += await harness.wave(outage)
                figure.rss_most_mb = max(figure.rss_most_mb, harness.rss_mb())
        figure.healed_s = await accepted_again(sent, time.time(), within_s=heals_s)
    await harness.judge(figure, sent + waves)
    if figure.late and outage not in _AT_THE_SERVER:
        figure.findings.append(f"{figure.late} rows were stored after their budgets")
    if figure.rss_most_mb > figure.rss_before_mb + _RSS_MORE_MB:
        figure.findings.append(f"{figure.rss_most_mb:.0f} MB of memory, {PENDING_BYTES} bytes may be pending")
    if not harness.worker.alive or harness.worker.pid != pid:
        figure.findings.append("the worker was restarted")
    print(figure.row())
    return figure


@pytest.mark.parametrize(
    "outages",
    [list(OUTAGES)[::2], list(OUTAGES)[1::2]],
    ids=["stopped, read only, connections, login, promoted, 3 ms", "frozen, disk, password, certificate, standby"],
)
async def test_answers_are_what_the_journal_holds_through_every_outage(tmp_path: Path, outages: list[str]) -> None:
    """A short round of each."""
    findings: dict[str, list[str]] = {}
    async with harness_in(tmp_path) as harness:
        for outage in outages:
            figure = await play(harness, outage, for_s=1.5, heals_s=20.0)
            if figure.findings:
                findings[outage] = figure.findings
    assert findings == {}


@pytest.mark.soak
async def test_long_outages_are_survived_alike(tmp_path: Path) -> None:
    """Two minutes of each, one after another, in one worker process."""
    findings: dict[str, list[str]] = {}
    async with harness_in(tmp_path) as harness:
        for outage in OUTAGES:
            figure = await play(harness, outage, for_s=120.0, heals_s=30.0)
            if figure.findings:
                findings[outage] = figure.findings
    assert findings == {}
