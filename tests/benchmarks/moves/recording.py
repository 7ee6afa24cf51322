"""The tape: one row for every attempt that a lane made, with when it was sent, when it was answered, and what came back.

Times are of CLOCK_MONOTONIC, which all processes of a machine share, so that the tape of the load and the notes of the
process that moved the shards lie on one axis.  Every figure of a move is read from the tape afterwards; nothing is
computed while load runs.
"""

from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

ACCEPTED: Final = 0
REFUSED: Final = 1
NOT_NOW: Final = 2
UNKNOWN: Final = 3
NOT_SENT: Final = 4
OUTCOMES: Final = ("accepted", "refused", "not now", "outcome unknown", "not sent")

COLUMNS: Final = (("sent", "d"), ("answered", "d"), ("shard", "H"), ("thread", "I"), ("via", "B"), ("flags", "B"))
_PROBE: Final = 16
"""The bit of ``flags`` that says probe; the lower four are the outcome."""


class Row(NamedTuple):
    """One attempt.  Times in seconds; ``via`` is the place of the address it went to."""

    sent: float
    answered: float
    shard: int
    thread: int
    via: int
    outcome: int
    probe: bool

    @property
    def latency_s(self) -> float:
        """From the first byte written to the whole answer read."""
        return self.answered - self.sent


class Account(Struct, frozen=True):
    """The generator's account of itself.  ``kept`` are commands accepted in the end; each has a key of its own."""

    seconds: float
    cpu_s: float
    commands: int
    kept: int
    given_up: int
    codes: dict[str, int]

    @property
    def core_share(self) -> float:
        """How much of one core it took."""
        return self.cpu_s / self.seconds if self.seconds > 0 else 0.0


class Recording:
    """A tape that is being written: columns, which cost little to append to."""

    def __init__(self) -> None:
        self._columns = [array(code) for _, code in COLUMNS]

    def add(self, row: Row) -> None:
        """Keep one attempt."""
        values = (*row[:5], row.outcome | (_PROBE if row.probe else 0))
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)  # type: ignore[arg-type]  # each column has its own kind of number

    def write(self, folder: Path, account: Account) -> None:
        """Keep it in ``folder``, one file a column."""
        for (name, _), column in zip(COLUMNS, self._columns, strict=True):
            (folder / f"{name}.tape").write_bytes(column.tobytes())
        (folder / "account.json").write_bytes(msgspec.json.encode(account))


class Tape:
    """All attempts of one run of the load, in the order of their answers."""

    def __init__(self, rows: Iterable[Row], account: Account) -> None:
        self.rows = sorted(rows, key=lambda row: row.answered)
        self.account = account

    @classmethod
    def read(cls, folder: Path) -> "Tape":
        """Read the files that `write` left in ``folder``."""
        columns = []
        for name, code in COLUMNS:
            column = array(code)
            column.frombytes((folder / f"{name}.tape").read_bytes())
            columns.append(column)
        sent, answered, shard, thread, via, flags = columns
        rows = (
            Row(s, a, int(h), int(t), int(v), int(f) & 15, bool(int(f) & _PROBE))
            for s, a, h, t, v, f in zip(sent, answered, shard, thread, via, flags, strict=True)
        )
        return cls(rows, msgspec.json.decode((folder / "account.json").read_bytes(), type=Account))

    @cached_property
    def by_shard(self) -> dict[int, list[Row]]:
        """Each shard's attempts."""
        found: dict[int, list[Row]] = defaultdict(list)
        for row in self.rows:
            found[row.shard].append(row)
        return found

    def sent_between(self, began: float, ended: float) -> Iterator[Row]:
        """The attempts that were sent in that time."""
        return (row for row in self.rows if began <= row.sent < ended)

    def latencies_ms(self, began: float, ended: float, which: Callable[[Row], bool] = lambda _: True) -> list[float]:
        """How long the accepted commands took that were sent in that time."""
        return [
            row.latency_s * 1000 for row in self.sent_between(began, ended) if row.outcome == ACCEPTED and which(row)
        ]

    @property
    def outcomes(self) -> dict[str, int]:
        """How many attempts came to what."""
        counted = Counter(row.outcome for row in self.rows)
        return {name: counted[outcome] for outcome, name in enumerate(OUTCOMES)}

    @property
    def errors(self) -> int:
        """Attempts that were not accepted."""
        return len(self.rows) - self.outcomes["accepted"]

    @property
    def per_second(self) -> float:
        """Accepted commands a second."""
        return self.account.kept / self.account.seconds if self.account.seconds > 0 else 0.0


# --- what a move looked like


def pause_ms(probe: list[Row], at: float, slack_s: float = 0.01) -> float | None:
    """The longest time between two answers to a probe about the instant ``at``; None when it saw nothing of it.

    ``probe`` are its accepted attempts in the order of their answers.  At ``at`` the shard stood still, so the gap that
    contains it is the pause as it was seen; an answer read late may seem to lie beyond it, hence the slack.
    """
    answered = [row.answered for row in probe]
    first = max(1, bisect_left(answered, at - slack_s))
    gaps = []
    for place in range(first, len(answered)):
        if answered[place - 1] > at + slack_s:
            break
        gaps.append((answered[place] - answered[place - 1]) * 1000)
    return max(gaps, default=None)


def longest_wait_ms(rows: list[Row], at: float, slack_s: float = 0.01) -> float | None:
    """The greatest latency of the accepted commands of a shard that were on their way about ``at``."""
    waits = [
        row.latency_s * 1000
        for row in rows
        if row.outcome == ACCEPTED and row.sent <= at + slack_s and row.answered >= at - slack_s
    ]
    return max(waits, default=None)


def served_again_at(rows: list[Row], since: float, deaf_s: float) -> float | None:
    """When a shard accepted a command again: the first such answer later than ``deaf_s`` after ``since``.

    An answer of before the fault may still be read a moment after it; no peer can take a shard over within
    ``deaf_s``.
    """
    return next((row.answered for row in rows if row.outcome == ACCEPTED and row.answered > since + deaf_s), None)


def first_commands_ms(rows: list[Row], served_at: float, until: float) -> list[float]:
    """The latencies of the first commands that a shard's threads were sent once it was served again.

    A thread whose first command waited for the shard is left out: its latency is the pause.
    """
    first: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: row.sent):
        if row.outcome == ACCEPTED and row.answered >= served_at and row.sent < until:
            first.setdefault(row.thread, row)
    return [row.latency_s * 1000 for row in first.values() if row.sent >= served_at]
