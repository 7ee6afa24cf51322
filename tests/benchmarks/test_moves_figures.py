"""The arithmetic of the benchmark of moves: figures read off a tape, the verdicts, and every form of the report."""

from pathlib import Path

import pytest

from tests.benchmarks.moves import report
from tests.benchmarks.moves.figures import Bar, Figure, broken, distribution, missed
from tests.benchmarks.moves.recording import (
    ACCEPTED,
    UNKNOWN,
    Account,
    Recording,
    Row,
    Tape,
    first_commands_ms,
    longest_wait_ms,
    pause_ms,
    served_again_at,
)
from tests.benchmarks.moves.settings import Settings
from tests.benchmarks.published import publish
from tests.benchmarks.report import this_machine

_ACCOUNT = Account(10.0, 2.5, 3, 3, 0, {})


def _row(sent: float, answered: float, *, thread: int = 0, outcome: int = ACCEPTED, shard: int = 5) -> Row:
    return Row(sent, answered, shard, thread, 0, outcome, True)


_MOVED = [_row(1.000, 1.002), _row(1.004, 1.006), _row(1.008, 1.050, thread=1), _row(1.052, 1.054, thread=2)]
"""A probe of a shard that stood still from 1.007 to 1.049."""


def test_a_pause_is_the_gap_between_answers_around_the_transfer() -> None:
    """From the answer before to the answer after, wherever within the gap the transfer took place."""
    assert pause_ms(_MOVED, 1.02) == pytest.approx(44.0)
    assert pause_ms(_MOVED, 1.04) == pytest.approx(44.0)


def test_an_answer_read_late_does_not_hide_the_pause() -> None:
    """The transfer seems to precede an answer that was given before it."""
    assert pause_ms(_MOVED, 1.005) == pytest.approx(44.0)


def test_a_probe_that_saw_nothing_says_nothing() -> None:
    """Neither before its first answer nor after its last is there a gap."""
    assert pause_ms([], 1.0) is None
    assert pause_ms(_MOVED, 2.0) is None


def test_the_longest_wait_is_of_commands_on_their_way() -> None:
    """Commands that were answered long before, or sent long after, are none of it."""
    slow_before = _row(0.1, 0.9)
    assert longest_wait_ms([slow_before, *_MOVED], 1.02) == pytest.approx(42.0)
    assert longest_wait_ms([slow_before], 1.02) is None


def test_first_commands_are_those_that_did_not_wait_for_the_shard() -> None:
    """Thread 1 waited; thread 2 was asked first once the shard was served; thread 0 never was again."""
    assert first_commands_ms(_MOVED, 1.049, 2.0) == pytest.approx([2.0])
    assert first_commands_ms(_MOVED, 1.049, 1.051) == []


def test_a_shard_is_served_again_from_its_first_success() -> None:
    """An answer within the deaf time may be of before the fault, and a failure is no service."""
    rows = [_row(0.99, 1.1), _row(1.0, 1.6, outcome=UNKNOWN), _row(1.5, 1.9), _row(1.91, 1.92)]
    assert served_again_at(rows, 1.0, 0.2) == 1.9
    assert served_again_at(rows, 5.0, 0.2) is None


def test_a_tape_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Row for row, in the order of the answers."""
    recording = Recording()
    for row in reversed(_MOVED):
        recording.add(row)
    recording.add(_row(1.0, 1.001, outcome=UNKNOWN)._replace(probe=False, via=2, shard=4_095, thread=70_000))
    recording.write(tmp_path, _ACCOUNT)
    tape = Tape.read(tmp_path)
    assert tape.rows[0] == Row(1.0, 1.001, 4_095, 70_000, 2, UNKNOWN, False)
    assert tape.rows[1:] == _MOVED
    assert (tape.errors, tape.outcomes["accepted"], tape.outcomes["outcome unknown"]) == (1, 4, 1)
    assert tape.account == _ACCOUNT
    assert tape.account.core_share == 0.25


def _figures() -> list[Figure]:
    slow = distribution("pause", "ms", [30.0, 10.0, 20.0])
    return [
        Figure(1, "Handed over", (slow,), (Bar("pause_p50", "pause, p50", "ms", slow.at("p50"), 19.0),), ("a note",)),
        Figure(
            7,
            "Survivors",
            (distribution("nothing", "ms", []),),
            (Bar("survivors_ratio", "ratio", "×", float("nan"), 2.0),),
        ),
        Figure(
            6,
            "Leaving",
            (distribution("end", "s", [0.5]),),
            (Bar("leave_failures", "failed", "", 0.0, 0.0),),
            (),
            ("a sum is off",),
        ),
    ]


def test_what_was_not_measured_does_not_hold() -> None:
    """Neither does what is above its bar; what is broken is missed as well."""
    assert missed(_figures()) == ["1. pause, p50", "7. ratio", "6. a sum is off"]
    assert broken(_figures()) == ["6. a sum is off"]


def test_a_run_is_reported_in_every_form(tmp_path: Path) -> None:
    """Table, JSON, page and picture hold the figures, the machine and the verdicts."""
    run = report.Run("now", this_machine("PostgreSQL 16"), Settings(), 0.5, 5_000.0, _figures())
    text = report.as_text(run)
    for words in ("pause, p50", "20.0 ms", "FAILS", "BROKEN: a sum is off", "0.50 cores"):
        assert words in text
    published = publish(tmp_path, "moves", "make bench-moves", run.machine, run.at, run.judged())
    assert "PostgreSQL 16" in report.as_page(run, published)
    assert [figure.verdict for figure in published.figures] == ["FAILS", "FAILS", "holds"]
    document = report.as_document(run)
    assert [bar["holds"] for figure in document["figures"] for bar in figure["bars"]] == [False, False, True]
    assert document["figures"][0]["distributions"][0]["percentiles"]["max"] == 30.0
    report.draw(run, tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


def test_a_long_distribution_is_thinned_but_keeps_its_ends() -> None:
    """JSON and picture stay small; the percentiles are of all values."""
    run = report.Run(
        "now",
        this_machine("PostgreSQL 16"),
        Settings(),
        0.0,
        1.0,
        [Figure(1, "long", (distribution("x", "ms", range(100_000)),), ())],
    )
    kept = report.as_document(run)["figures"][0]["distributions"][0]
    assert kept["n"] == 100_000
    assert len(kept["values"]) < 5_000
    assert (kept["values"][0], kept["values"][-1]) == (0, 99_999)
    assert kept["percentiles"]["p50"] == 49_999
