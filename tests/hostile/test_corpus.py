"""The hostile corpus against a real worker: no long turn, no failed request beside it, nothing kept."""

import sys
from pathlib import Path
from typing import Final

import pytest

from tests.hostile.everything import CORPUS
from tests.hostile.rig import Rig, rig

SETTINGS: Final = {
    "SHARD_WORKER_BODY_SECONDS": "1",
    "SHARD_WORKER_MAX_CONNECTIONS": "512",
    "SHARD_WORKER_MAX_BODY_BYTES_IN_FLIGHT": str(32 << 20),
    "SHARD_WORKER_MAX_ANSWER_BYTES_IN_FLIGHT": str(32 << 20),
}
"""Little patience and small bounds: so all of them are reached."""
_SHORT_STEP: Final = 7
"""The gate plays every seventh input, eight at a time; `make hostile` plays each alone."""


def test_the_corpus_is_large_enough() -> None:
    """Its size is part of what is promised."""
    assert len(CORPUS) >= 150


async def test_worker_withstands_hostile_inputs(dsn: str, tmp_path: Path) -> None:
    """A part of the corpus, eight inputs at a time."""
    async with rig(tmp_path / "worker", dsn, SETTINGS) as attacked:
        verdict = await attacked.attack(CORPUS[::_SHORT_STEP], at_once=8)
        assert not verdict.failures
        assert verdict.turn_ms <= 50.0, verdict.stack
        assert not verdict.epochs_changed
        assert verdict.requests > 0
        assert await attacked.settle() == []


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_worker_withstands_the_whole_hostile_corpus(dsn: str, tmp_path: Path) -> None:
    """Every input alone: its longest turn is printed, and all complaints are collected."""
    complaints: list[str] = []
    async with rig(tmp_path / "worker", dsn, SETTINGS) as attacked:
        for given in CORPUS:
            verdict = await attacked.attack([given])
            complaints += verdict.complaints
            _print(attacked, given.name, verdict.turn_ms, verdict.slowest_s)
        complaints += await attacked.settle()
        print(f"{len(CORPUS)} inputs on Python {sys.version.split()[0]}: peak RSS {attacked.peak_rss_mib:.0f} MiB")
    assert not complaints, "\n".join(complaints)


def _print(attacked: Rig, name: str, turn_ms: float, slowest_s: float) -> None:
    turn = f"{turn_ms:.0f} ms" if turn_ms else "under 15 ms"
    print(
        f"{name}: longest turn {turn}, slowest exchange {slowest_s:.2f} s, RSS {attacked.rss_mib:.0f} MiB", flush=True
    )
