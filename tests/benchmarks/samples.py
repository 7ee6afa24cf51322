"""The figures as values: one sample a run of the generator, and the ratios that are judged.

A ratio's two sides come from the same round, so what slowed that round is in both; the median over rounds is judged,
the spread is shown.
"""

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from msgspec import Struct

from tests.benchmarks.core import Core
from tests.benchmarks.fence import FenceRound
from tests.benchmarks.generator import BOUND, Measured

NOOP = "no-op aiohttp POST"
WORKER = "worker, many threads"
HOT = "worker, one hot thread"
TRANSACTION = "one transaction a command"
STATEMENT = "one statement a command"
_FENCE = "fence_"


class Sample(Struct, frozen=True):
    """One subject, once.  CPU in microseconds a served request; core shares are of one core, 1.0 is a full one."""

    subject: str
    connections: int
    round: int
    measured: Measured
    server_cpu_us: float
    postgres_cpu_us: float | None
    server_core: float
    postgres_core: float | None

    @property
    def bound(self) -> bool:
        """Whether the generator, not the subject, set the pace."""
        return self.measured.core_share >= BOUND


class Spread(Struct, frozen=True):
    """A median, and between which values it lies."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    """The median, least and greatest of values; there must be one."""
    ordered = sorted(values)
    return Spread(median(ordered), ordered[0], ordered[-1])


class Ratio(Struct, frozen=True):
    """A ratio of one run against its bar.  ``at_most`` tells which side of the bar is good."""

    id: str
    name: str
    unit: str
    value: Spread
    bar: float | None
    goal: float | None
    at_most: bool

    @property
    def holds(self) -> bool | None:
        """Whether the median keeps the bar; None without a bar."""
        if self.bar is None:
            return None
        return self.value.median <= self.bar if self.at_most else self.value.median >= self.bar


def _pairs(
    samples: Sequence[Sample], over: str, under: str, connections: int, figure: Callable[[Sample], float]
) -> list[float]:
    """``over ÷ under``, one value a round that has both."""

    def by_round(subject: str) -> dict[int, float]:
        return {s.round: figure(s) for s in samples if s.subject == subject and s.connections == connections}

    above, below = by_round(over), by_round(under)
    return [above[number] / below[number] for number in sorted(above.keys() & below.keys()) if below[number]]


def _rate(sample: Sample) -> float:
    return sample.measured.per_second


def _server_cpu(sample: Sample) -> float:
    return sample.server_cpu_us


def _postgres_cpu(sample: Sample) -> float:
    return sample.postgres_cpu_us or 0.0


def ratios(
    samples: Sequence[Sample], fence: Sequence[FenceRound], connections: int, core: Core | None = None
) -> list[Ratio]:
    """Every ratio that the samples allow, at this number of connections: those with a bar first."""
    asked: list[tuple[str, str, list[float], float | None, float | None, bool]] = [
        (
            "cpu_ratio",
            "worker CPU a durable command ÷ no-op",
            _pairs(samples, WORKER, NOOP, connections, _server_cpu),
            1.8,
            1.5,
            True,
        ),
        (
            "throughput_ratio",
            "durable commands/s ÷ one transaction a command",
            _pairs(samples, WORKER, TRANSACTION, connections, _rate),
            2.5,
            3.5,
            False,
        ),
        (
            "hot_thread_ratio",
            "one hot thread ÷ many threads",
            _pairs(samples, HOT, WORKER, connections, _rate),
            0.8,
            0.9,
            False,
        ),
    ]
    for shards in sorted({each.shards_a_batch for each in fence}):
        asked.append(
            (
                f"{_FENCE}{shards}",
                f"what the fence adds to an append of 32 events over {shards} shard{'s' if shards > 1 else ''}",
                [each.cost for each in fence if each.shards_a_batch == shards],
                0.12,
                None,
                True,
            )
        )
    asked += [
        (
            "rate_to_noop",
            "durable commands/s ÷ no-op requests/s",
            _pairs(samples, WORKER, NOOP, connections, _rate),
            None,
            0.7,
            False,
        ),
        (
            "postgres_cpu_ratio",
            "Postgres CPU ÷ one transaction a command",
            _pairs(samples, WORKER, TRANSACTION, connections, _postgres_cpu),
            None,
            0.15,
            True,
        ),
        (
            "rate_to_statement",
            "durable commands/s ÷ one statement a command",
            _pairs(samples, WORKER, STATEMENT, connections, _rate),
            None,
            None,
            False,
        ),
    ]
    if fence:
        widest = max(each.shards_a_batch for each in fence)
        bare = median(each.fenced_events_s for each in fence if each.shards_a_batch == widest)
        many = [_rate(s) / bare for s in samples if s.subject == WORKER and s.connections == connections]
        asked.append(
            (
                "rate_to_append",
                f"durable commands/s ÷ bare fenced append ({widest} shards a batch)",
                many,
                None,
                0.5,
                False,
            )
        )
    if core is not None:
        weight = core.thread_bytes / core.nested_dict_bytes
        asked += [
            ("thread_bytes_ratio", "bytes a resident thread ÷ nested dicts", [weight], None, 0.45, True),
            ("replay_ratio", "replayed events/s ÷ 200,000", [core.replay_events_s / 200_000], None, 1.0, False),
        ]
    return [
        Ratio(id_, name, "of an append" if id_.startswith(_FENCE) else "×", spread(values), bar, goal, most)
        for id_, name, values, bar, goal, most in asked
        if values
    ]
