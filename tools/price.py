"""Compute what durable writes cost a month on rented machines: `make price`.

The CPU of a command is measured (``make bench`` writes it to a file, ``make bench-read`` prints it), the prices and the sizes of
machines are inputs, and everything else is arithmetic: nothing here was run on the machines that are named.  Prices are those
of the file ``prices.toml`` beside this one, or of another one of the same form.

    python tools/price.py                          from the last ``make bench`` and the prices beside this program
    python tools/price.py --worker-us 48 --postgres-us 25 --writes 100000 --prices mine.toml
"""

import argparse
import json
import math
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
BENCHMARK = HERE.parent / "tests" / "benchmarks" / "out" / "benchmark.json"
PRICES = HERE / "prices.toml"
SUBJECT = "worker, many threads"
LEAST_NODES = 2
"""Nodes of workers, however few writes there are: one of them may be lost."""


class Unusable(Exception):
    """An input that nothing can be computed from; its text names it."""


@dataclass(frozen=True)
class Prices:
    """List prices in US dollars, and what is bought for them; the names are those of the file."""

    month_hours: float
    node_vcpus: float
    node_hour: float
    control_plane_hour: float
    database_vcpus: float
    database_month: float
    volume_month: float
    volume_iops: float
    published_for_akka: float
    """Dollars a month for each 1,000 writes a second that Akka publishes for its own benchmark."""


@dataclass(frozen=True)
class Load:
    """The load of the cluster, and what each write of it takes; CPU in microseconds of one core."""

    writes: float
    worker_us: float
    postgres_us: float
    hop_us: float
    busy: float
    """Part of its processors that a machine is planned to use."""
    vcpu: float
    """Work of a rented vCPU in a second, in seconds of a core of the machine on which was measured."""
    events_per_commit: float
    pages_per_event: float


@dataclass(frozen=True)
class Bill:
    """Machines that are needed, and their dollars a month."""

    nodes: int
    workers: int
    worker_vcpus: float
    database_vcpus: float
    iops: float
    parts: Mapping[str, float]
    writes: float

    @property
    def month(self) -> float:
        """Dollars a month in all."""
        return sum(self.parts.values())

    @property
    def per_thousand(self) -> float:
        """Dollars a month for each 1,000 durable writes a second."""
        return self.month / (self.writes / 1_000)


def read_prices(path: Path) -> Prices:
    """The prices of a file.  Raises `Unusable`, which names the field."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Unusable(f"{path}: {error}") from error
    names = [each.name for each in fields(Prices)]
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise Unusable(f"{path}: {unknown[0]} is not one of {', '.join(names)}")
    for name in names:
        value = found.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise Unusable(f"{path}: {name} must be a number greater than 0")
    return Prices(**{name: float(found[name]) for name in names})


def measured(path: Path, connections: int) -> tuple[float, float]:
    """CPU of the worker and of Postgres a command, medians of the rounds of a ``make bench``.  Raises `Unusable`."""
    try:
        samples: Sequence[Mapping[str, Any]] = json.loads(path.read_bytes())["samples"]
        mine = [each for each in samples if each["subject"] == SUBJECT and each["connections"] == connections]
        return median(each["server_cpu_us"] for each in mine), median(each["postgres_cpu_us"] for each in mine)
    except OSError as error:
        raise Unusable("no benchmark was run here: run make bench, or give --worker-us and --postgres-us") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Unusable(f"{path} has no round of {SUBJECT!r} at {connections} connections ({error})") from error


def bill(load: Load, prices: Prices) -> Bill:
    """The bill of a load.  Raises `Unusable` when one database, which a ThreadCluster has, is not enough."""
    # A worker uses one processor; of two commands that come to the wrong worker of n, (n - 1) / n are passed on.
    workers, vcpus = 1, 0.0
    while True:
        vcpus = load.writes * (load.worker_us + load.hop_us * (1 - 1 / workers)) / 1e6 / load.vcpu
        needed = max(LEAST_NODES, math.ceil(vcpus / load.busy))
        if needed <= workers:
            break
        workers = needed
    nodes = max(LEAST_NODES, math.ceil(workers / prices.node_vcpus))
    of_database = load.writes * load.postgres_us / 1e6 / load.vcpu
    if of_database > prices.database_vcpus * load.busy:
        most = prices.database_vcpus * load.busy * load.vcpu * 1e6 / load.postgres_us
        raise Unusable(f"--writes: one database of {prices.database_vcpus:g} vCPUs is enough for {most:,.0f} a second")
    iops = load.writes * (1 / load.events_per_commit + load.pages_per_event)
    if iops > prices.volume_iops:
        most = prices.volume_iops / (1 / load.events_per_commit + load.pages_per_event)
        raise Unusable(f"--writes: a volume of {prices.volume_iops:,.0f} IOPS is enough for {most:,.0f} a second")
    return Bill(
        nodes=nodes,
        workers=workers,
        worker_vcpus=vcpus,
        database_vcpus=of_database,
        iops=iops,
        parts={
            "nodes of workers": nodes * prices.node_hour * prices.month_hours,
            "control plane of Kubernetes": prices.control_plane_hour * prices.month_hours,
            "database": prices.database_month,
            "its volume": prices.volume_month,
        },
        writes=load.writes,
    )


def report(load: Load, prices: Prices, found: Bill) -> str:
    """The bill as a text."""
    lines = [
        "Computed from measured CPU and list prices; not run on these machines.",
        f"{load.writes:,.0f} durable writes a second, {load.worker_us:.1f} µs of a worker and {load.postgres_us:.1f} µs of"
        f" Postgres each, {load.hop_us:.1f} µs for one that is passed on; processors {load.busy:.0%} busy",
        f"  workers   {found.worker_vcpus:6.2f} vCPUs of work: {found.workers} workers on {found.nodes} nodes",
        f"  database  {found.database_vcpus:6.2f} of {prices.database_vcpus:g} vCPUs,"
        f" {found.iops:,.0f} of {prices.volume_iops:,.0f} IOPS",
        *(f"  {name:28} ${dollars:>10,.2f} a month" for name, dollars in found.parts.items()),
        f"  {'in all':28} ${found.month:>10,.2f} a month",
        f"${found.per_thousand:.2f} a month for each 1,000 durable writes a second"
        f" (Akka publishes ${prices.published_for_akka:.2f} for its own)",
    ]
    return "\n".join(lines)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number greater than 0")
    return value


def _share(text: str) -> float:
    value = _positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is greater than 1")
    return value


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="make price",
        description="Compute the dollars a month for each 1,000 durable writes a second, from measured CPU and list prices.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    options.add_argument("--writes", type=_positive, default=50_000, metavar="N", help="durable writes a second")
    options.add_argument("--prices", type=Path, default=PRICES, metavar="FILE", help="list prices, a TOML file")
    options.add_argument("--benchmark", type=Path, default=BENCHMARK, metavar="FILE", help="JSON of make bench")
    options.add_argument("--connections", type=int, default=64, help="rounds of the benchmark that are taken")
    options.add_argument(
        "--worker-us", type=_positive, metavar="US", help="CPU of a worker a write, in place of the file's"
    )
    options.add_argument("--postgres-us", type=_positive, metavar="US", help="CPU of Postgres a write, the same")
    options.add_argument(
        "--hop-us", type=_positive, default=70, metavar="US", help="more for a write that is passed on"
    )
    options.add_argument(
        "--busy", type=_share, default=0.7, metavar="PART", help="part of its processors a machine uses"
    )
    options.add_argument("--vcpu", type=_positive, default=1, metavar="PART", help="work of a vCPU, in measured cores")
    options.add_argument("--events-per-commit", type=_positive, default=30, metavar="N", help="size of a batch")
    options.add_argument(
        "--pages-per-event", type=_positive, default=0.05, metavar="N", help="writes of data pages for each event"
    )
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the bill."""
    given = _options().parse_args(arguments)
    try:
        worker_us, postgres_us = given.worker_us, given.postgres_us
        if worker_us is None or postgres_us is None:
            of_file = measured(given.benchmark, given.connections)
            worker_us, postgres_us = worker_us or of_file[0], postgres_us or of_file[1]
        prices = read_prices(given.prices)
        load = Load(
            writes=given.writes,
            worker_us=worker_us,
            postgres_us=postgres_us,
            hop_us=given.hop_us,
            busy=given.busy,
            vcpu=given.vcpu,
            events_per_commit=given.events_per_commit,
            pages_per_event=given.pages_per_event,
        )
        print(report(load, prices, bill(load, prices)))
    except Unusable as error:
        sys.exit(f"make price: {error}")


if __name__ == "__main__":
    main()
