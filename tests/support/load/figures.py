"""Counts and times of a run of load.

Every attempt that was sent ends in exactly one of three: accepted (2xx), refused (an answer that says nothing was
stored), or outcome unknown (an answer that says so, or none at all).  The wire counts what is sent, the scenario counts
what came of it, and `Figures.balance` holds the two together.
"""

import time
from array import array
from collections import Counter
from typing import Final

from msgspec import Struct

PERCENTILES: Final = (("p50", 0.50), ("p90", 0.90), ("p99", 0.99), ("p999", 0.999), ("max", 1.0))


def percentile(ordered: "array[float] | list[float]", fraction: float) -> float:
    """The value below which ``fraction`` of an ordered list lies (nearest rank); NaN of an empty one."""
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, max(0, int(fraction * len(ordered) + 0.999999) - 1))]


class Operation:
    """The figures of one operation; latencies in seconds, of answered attempts alone."""

    def __init__(self) -> None:
        self.sent = 0
        self.accepted = 0
        self.refused = 0
        self.unknown = 0
        self.by_code: Counter[str] = Counter()
        self.latencies_s: array[float] = array("d")


class OperationSummary(Struct, frozen=True):
    """One row of the report; times in milliseconds."""

    operation: str
    sent: int
    accepted: int
    refused: int
    unknown: int
    per_second: float
    latency_ms: dict[str, float]
    by_code: dict[str, int]


class Figures:
    """Counts by operation and by second since the start."""

    def __init__(self, *, limit: int | None = None) -> None:
        self.started_at = time.monotonic()
        self.ended_at: float | None = None
        self.limit = limit
        """No more attempts than these are to be started; None for no bound."""
        self.operations: dict[str, Operation] = {}
        self.seconds: dict[str, Counter[int]] = {"accepted": Counter(), "refused": Counter(), "unknown": Counter()}
        self.not_sent = 0
        """Connections that could not be made: nothing was sent, so nothing is owed."""
        self.check_failures: Counter[str] = Counter()
        self.sent = 0

    def _operation(self, name: str) -> Operation:
        found = self.operations.get(name)
        if found is None:
            found = self.operations[name] = Operation()
        return found

    def is_spent(self) -> bool:
        """Whether the bound on attempts is reached."""
        return self.limit is not None and self.sent >= self.limit

    def send(self, operation: str) -> None:
        """A request is about to be written."""
        self.sent += 1
        self._operation(operation).sent += 1

    def unsend(self, operation: str) -> None:
        """That request did not leave after all."""
        self.sent -= 1
        self.not_sent += 1
        self._operation(operation).sent -= 1

    def answered(self, operation: str, label: str, latency_s: float, *, accepted: bool, unknown: bool) -> None:
        """An answer came; ``label`` is its status, and its code when it is a problem."""
        found = self._operation(operation)
        found.by_code[label] += 1
        found.latencies_s.append(latency_s)
        self._settle(found, "accepted" if accepted else "unknown" if unknown else "refused")

    def lost(self, operation: str, label: str) -> None:
        """No answer came: the outcome is unknown."""
        found = self._operation(operation)
        found.by_code[label] += 1
        self._settle(found, "unknown")

    def _settle(self, found: Operation, outcome: str) -> None:
        if outcome == "accepted":
            found.accepted += 1
        elif outcome == "refused":
            found.refused += 1
        else:
            found.unknown += 1
        self.seconds[outcome][int(time.monotonic() - self.started_at)] += 1

    def check(self, holds: bool, what: str) -> bool:
        """Count a check of an answer's content that did not hold."""
        if not holds:
            self.check_failures[what] += 1
        return holds

    def end(self) -> None:
        """The load is over."""
        self.ended_at = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds from the start to the end, or to now."""
        return (self.ended_at if self.ended_at is not None else time.monotonic()) - self.started_at

    def total(self, outcome: str) -> int:
        """The sum of one outcome over all operations."""
        return sum(self.seconds[outcome].values())

    def balance(self) -> str | None:
        """None when sent = accepted + refused + outcome unknown for every operation, else what does not add up."""
        for name, found in sorted(self.operations.items()):
            settled = found.accepted + found.refused + found.unknown
            if settled != found.sent:
                return f"{name}: sent {found.sent}, but {settled} came of it"
        settled = sum(self.total(outcome) for outcome in self.seconds)
        return None if settled == self.sent else f"sent {self.sent}, but {settled} came of it"

    def summaries(self) -> list[OperationSummary]:
        """One row an operation, in the order of their names."""
        rows = []
        for name, found in sorted(self.operations.items()):
            ordered = sorted(found.latencies_s)
            rows.append(
                OperationSummary(
                    operation=name,
                    sent=found.sent,
                    accepted=found.accepted,
                    refused=found.refused,
                    unknown=found.unknown,
                    per_second=found.accepted / self.elapsed_s if self.elapsed_s > 0 else 0.0,
                    latency_ms={label: percentile(ordered, f) * 1000 for label, f in PERCENTILES} if ordered else {},
                    by_code=dict(sorted(found.by_code.items())),
                )
            )
        return rows
