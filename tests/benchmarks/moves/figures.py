"""The figures as values: distributions, the bars they are held to, and whether those hold."""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from tests.support.load.figures import percentile

PERCENTILES: Final = (("p50", 0.50), ("p90", 0.90), ("p99", 0.99), ("max", 1.0))


class Distribution(Struct, frozen=True):
    """Values of one kind, least first, in ``unit``."""

    name: str
    unit: str
    values: tuple[float, ...]

    def at(self, mark: str) -> float:
        """A percentile by its name; NaN of nothing."""
        return percentile(list(self.values), dict(PERCENTILES)[mark])


def distribution(name: str, unit: str, values: Iterable[float]) -> Distribution:
    """Put values in order; to the microsecond, where they are milliseconds."""
    return Distribution(name, unit, tuple(sorted(round(value, 3) for value in values)))


class Bar(Struct, frozen=True):
    """A bound of the acceptance: at most ``limit``.  It does not hold of what was not measured."""

    id: str
    what: str
    unit: str
    value: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the value is within it."""
        return self.value <= self.limit


class Figure(Struct, frozen=True):
    """One of the eight figures.  ``broken`` names each invariant that did not hold; they are not a matter of speed."""

    number: int
    title: str
    distributions: tuple[Distribution, ...]
    bars: tuple[Bar, ...]
    notes: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()


class Cpu(Struct, frozen=True):
    """Cores in use over a stretch of time; ``machine`` counts all processes, out of ``cores``."""

    workers: float
    postgres: float
    generator: float
    machine: float
    cores: int

    def __str__(self) -> str:
        return (
            f"workers {self.workers:.2f}, Postgres {self.postgres:.2f}, generator {self.generator:.2f},"
            f" the whole machine {self.machine:.2f} of {self.cores} cores"
        )


def missed(figures: Sequence[Figure]) -> list[str]:
    """The bars that do not hold, and the invariants that are broken."""
    return [
        *(f"{figure.number}. {bar.what}" for figure in figures for bar in figure.bars if not bar.holds),
        *broken(figures),
    ]


def broken(figures: Sequence[Figure]) -> list[str]:
    """The invariants that are broken."""
    return [f"{figure.number}. {what}" for figure in figures for what in figure.broken]
